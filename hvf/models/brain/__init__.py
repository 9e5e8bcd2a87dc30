"""Brain encoders: evoked responses become embeddings in the space of the images.

All take trials (N, C, T) of any C and T and give (N, D). Ridge is no network: it is fitted in hvf/alignment, and then
is the linear encoder.
"""

from hvf.models.brain.atm import ATM
from hvf.models.brain.base import BRAIN_ENCODERS, BrainEncoder, build_brain
from hvf.models.brain.convolutional import TSConv
from hvf.models.brain.networks import Deep4, EEGConformer, EEGNet, ShallowNet
from hvf.models.brain.projections import MBP, EEGProject, LinearBrain

__all__ = [
    "ATM",
    "BRAIN_ENCODERS",
    "MBP",
    "BrainEncoder",
    "Deep4",
    "EEGConformer",
    "EEGNet",
    "EEGProject",
    "LinearBrain",
    "ShallowNet",
    "TSConv",
    "build_brain",
]
