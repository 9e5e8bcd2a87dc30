"""Frozen encoders by their feature spec: a backbone, seeing its images under the spec's view."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch

from hvf.registry import BACKBONES
from hvf.vision.encoder import FrozenEncoder, Tower
from hvf.vision.specs import Encoder, FeatureSpec, parse_spec
from hvf.vision.views import apply_view


def load_encoder(spec: str | FeatureSpec, device: str | torch.device = "cpu") -> Encoder:
    """The frozen encoder that a spec names, in eval mode and float32, on a device.

    Weights come from local files or the Hugging Face cache; nothing is downloaded. Raises HvfError when they are
    missing (naming file, Hub id and the command that fetches them), unreadable, or another model's.

    Examples
    --------
    >>> import torch
    >>> encoder = load_encoder("openclip:mini-vit")
    >>> encoder(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 128])
    """
    spec = parse_spec(spec)
    tower = BACKBONES[spec.kind].load(spec)
    if not spec.view:
        return FrozenEncoder(spec, tower, device)
    encoders = [FrozenEncoder(spec, _under_view(tower, view), device) for view in spec.view.split("+")]
    return encoders[0] if len(encoders) == 1 else ViewEnsemble(encoders)


class ViewEnsemble:
    """An `Encoder`: the mean of an image's features under several views."""

    def __init__(self, encoders: Sequence[FrozenEncoder]) -> None:
        self._encoders, self.dim, self.device = encoders, encoders[0].dim, encoders[0].device
        hashes = " ".join(encoder.weights_hash for encoder in encoders)
        self.weights_hash = hashlib.sha256(hashes.encode()).hexdigest()[:16]

    def __call__(self, images_N3HW: torch.Tensor) -> torch.Tensor:
        """Features (N, D) float32 of RGB images (N, 3, H, W), floats in 0..1."""
        return torch.stack([encoder(images_N3HW) for encoder in self._encoders]).mean(0)

    def encode_mixed(self, images: Sequence[torch.Tensor], precision: str = "float32") -> torch.Tensor:
        """Features (N, D) float32 of N images, uint8 (3, H, W), of any sizes."""
        return torch.stack([encoder.encode_mixed(images, precision) for encoder in self._encoders]).mean(0)

    def encode_layers(self, images_N3HW: torch.Tensor, specs: Sequence[FeatureSpec]) -> list[torch.Tensor]:
        """Features (N, D) of several specs that differ in layer and pool alone."""
        views = [encoder.encode_layers(images_N3HW, specs) for encoder in self._encoders]
        return [torch.stack(list(of_spec)).mean(0) for of_spec in zip(*views, strict=True)]


def _under_view(tower: Tower, view: str) -> Tower:
    prepare, words = tower.prepare, f"{tower.preprocessing} view {view}"
    return replace(tower, prepare=lambda x: prepare(apply_view(x, view)), preprocessing=words)
