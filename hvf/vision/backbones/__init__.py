"""Backbones: the families of frozen vision models that a feature spec can name, one file each.

A new family is a file here with a subclass of `Backbone` under `@BACKBONES.register("kind")`. Specs are parsed without
torch, so a family imports heavy libraries inside its functions.
"""
