"""The simulated study: rendered images, and EEG and MEG from dipoles in a head model."""
