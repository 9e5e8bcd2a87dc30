"""What is learnt: image fusion (HVF), brain encoders (MBP and others) and the Fusion Prior with its IP-Adapter."""

from hvf.models.brain import BRAIN_ENCODERS, BrainEncoder, build_brain
from hvf.models.fusion import HVF
from hvf.models.ip_adapter import adapter_layers, adapter_state, detach, export_ip_adapter
from hvf.models.prior import FusionPrior

__all__ = [
    "BRAIN_ENCODERS",
    "HVF",
    "BrainEncoder",
    "FusionPrior",
    "adapter_layers",
    "adapter_state",
    "build_brain",
    "detach",
    "export_ip_adapter",
]
