"""Trials: responses with the images that they answer, in memory and on disk."""
