"""Frozen vision models: from a line of text that names one, to features of images."""

from hvf.vision.specs import Encoder, FeatureSpec, parse_spec

__all__ = ["Encoder", "FeatureSpec", "parse_spec"]
