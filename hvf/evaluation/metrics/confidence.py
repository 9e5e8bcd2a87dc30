"""Confidence: what is said of a decoder's probabilities and sets (`hvf.evaluation.calibration`)."""

from __future__ import annotations

from hvf.evaluation.metrics.base import Metric
from hvf.registry import METRICS

METRICS.register("coverage")(Metric(label="sets that hold the image", share=True))
METRICS.register("set_size")(Metric(label="images in a set", lower_is_better=True))
METRICS.register("ece")(Metric(label="calibration error (ECE)", lower_is_better=True))
METRICS.register("says_nothing")(Metric(label="trials that say nothing", share=True, lower_is_better=True))
