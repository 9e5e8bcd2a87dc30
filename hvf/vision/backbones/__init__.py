"""Backbones: the families of frozen vision models that a feature spec can name."""
