"""The doctor: checks of recordings, images and trials, each with its advice."""
