"""Alignment: a brain encoder is trained contrastively towards the fused embedding of the image that was seen.

`fit` takes a `TrainingSet`: it has no argument for test data, and splits its validation concepts off the training set.
Source: arXiv 2602.07495 (HVF).
"""

from hvf.alignment.adapting import adapt, on_person
from hvf.alignment.checkpoint import FILE, Alignment, RecordingInfo
from hvf.alignment.closed_form import PENALTIES
from hvf.alignment.epochs import MAX_LOG_SCALE, info_nce
from hvf.alignment.fitting import RESIDENT_BYTES
from hvf.alignment.members import fit
from hvf.alignment.pretrained import check_recording
from hvf.alignment.training_set import TrainingSet, training_features

__all__ = [
    "FILE",
    "MAX_LOG_SCALE",
    "PENALTIES",
    "RESIDENT_BYTES",
    "Alignment",
    "RecordingInfo",
    "TrainingSet",
    "adapt",
    "check_recording",
    "fit",
    "info_nce",
    "on_person",
    "training_features",
]
