"""Image sets: the stimuli, in a fixed order, and large streams of images."""
