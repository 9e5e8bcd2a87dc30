"""Alignment: a brain encoder learns to meet the fused embedding of the image that was seen.

Only training material comes in: `fit` has no argument for test data, and takes its validation concepts from what it
gets. Source: arXiv 2602.07495 (HVF).
"""

from hvf.alignment.checkpoint import FILE, Alignment, Recording
from hvf.alignment.closed_form import PENALTIES
from hvf.alignment.fitting import MAX_LOG_SCALE, RESIDENT_BYTES, fit, info_nce
from hvf.alignment.inputs import training_features

__all__ = [
    "FILE",
    "MAX_LOG_SCALE",
    "PENALTIES",
    "RESIDENT_BYTES",
    "Alignment",
    "Recording",
    "fit",
    "info_nce",
    "training_features",
]
