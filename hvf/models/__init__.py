"""What is learnt on the brain's side: fusions of image features (HVF and others), brain encoders, mini
architectures."""

from hvf.models.brain import BRAIN_ENCODERS, BrainEncoder, build_brain
from hvf.models.fusion import HVF

__all__ = ["BRAIN_ENCODERS", "HVF", "BrainEncoder", "build_brain"]
