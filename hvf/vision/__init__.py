"""Frozen vision models: from a line of text that names one, to features of images."""

from hvf.vision.features import Encoder, FeatureSpec, load_encoder, parse_spec

__all__ = ["Encoder", "FeatureSpec", "load_encoder", "parse_spec"]
