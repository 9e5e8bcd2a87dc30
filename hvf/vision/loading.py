"""Loading frozen encoders: the backbone that a feature spec names, seen through the spec's view."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch

from hvf.vision.backbones import families, hub_backbones
from hvf.vision.encoder import FrozenEncoder, Tower
from hvf.vision.specs import Encoder, FeatureSpec, parse_spec
from hvf.vision.views import viewed


def load_encoder(spec: str | FeatureSpec, device: str | torch.device = "cpu") -> Encoder:
    """Load the frozen encoder that a spec names, in eval mode and float32, on a device.

    Weights come from local files or the Hugging Face cache; nothing is downloaded. Raises HvfError when they are
    missing (naming file, Hub id and the command that fetches them), unreadable, or another model's.
    """
    spec = parse_spec(spec)
    towers = {"openclip": families.openclip, "vae": families.vae, "torchvision": families.torchvision}
    towers |= {"glocal": families.glocal}
    towers |= {"timm": hub_backbones.timm_tower, "transformers": hub_backbones.transformers_tower}
    tower = (towers | {"dreamsim": hub_backbones.dreamsim_tower})[spec.kind](spec)
    if not spec.view:
        return FrozenEncoder(spec, tower, device)
    encoders = [FrozenEncoder(spec, _seen_as(tower, view), device) for view in spec.view.split("+")]
    return encoders[0] if len(encoders) == 1 else Averaged(encoders)


class Averaged:
    """An Encoder: the mean of what several views of one image give."""

    def __init__(self, encoders: Sequence[FrozenEncoder]) -> None:
        self._encoders, self.dim = encoders, encoders[0].dim
        hashes = " ".join(encoder.weights_hash for encoder in encoders)
        self.weights_hash = hashlib.sha256(hashes.encode()).hexdigest()[:16]

    def __call__(self, images_N3HW: torch.Tensor) -> torch.Tensor:
        """Features (N, D) float32 of RGB images (N, 3, H, W), floats in 0..1."""
        return torch.stack([encoder(images_N3HW) for encoder in self._encoders]).mean(0)

    def together(self, images_N3HW: torch.Tensor, specs: Sequence[FeatureSpec]) -> list[torch.Tensor]:
        """The same for several specs that differ in layer and pool alone."""
        views = [encoder.together(images_N3HW, specs) for encoder in self._encoders]
        return [torch.stack(list(of_spec)).mean(0) for of_spec in zip(*views, strict=True)]


def _seen_as(tower: Tower, view: str) -> Tower:
    prepare = tower.prepare
    return replace(tower, prepare=lambda x: prepare(viewed(x, view)), recipe=f"{tower.recipe} view {view}")
