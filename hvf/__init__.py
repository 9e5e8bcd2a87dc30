"""Decode what a person saw from EEG or MEG: retrieve the image, and draw it.

Public names are loaded on first use, so that `import hvf` (and `hvf --help`) does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvf import methods, presets
    from hvf.config import Config, HvfError, with_settings
    from hvf.data.images.image_set import ImageSet, open_images
    from hvf.data.trials.reading import read_trials
    from hvf.data.trials.trials import Trials
    from hvf.decoder import Decoder
    from hvf.prior.model import FusionPrior
    from hvf.study import open_study

__version__ = "0.1.0"

__all__ = [
    "Config",
    "Decoder",
    "FusionPrior",
    "HvfError",
    "ImageSet",
    "Trials",
    "methods",
    "open_images",
    "open_study",
    "presets",
    "read_trials",
    "with_settings",
]

_ROOM = {
    "Config": "hvf.config",
    "Decoder": "hvf.decoder",
    "FusionPrior": "hvf.prior.model",
    "HvfError": "hvf.config",
    "ImageSet": "hvf.data.images.image_set",
    "Trials": "hvf.data.trials.trials",
    "open_images": "hvf.data.images.image_set",
    "methods": "hvf.methods",
    "open_study": "hvf.study",
    "presets": "hvf.presets",
    "with_settings": "hvf.config",
    "read_trials": "hvf.data.trials.reading",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOM:
        raise AttributeError(f"module 'hvf' has no attribute {name!r}")
    module = import_module(_ROOM[name])
    return module if name in ("methods", "presets") else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
