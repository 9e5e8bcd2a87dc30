"""Signals and stimuli: image sets, trials, and the studies that pair them."""
