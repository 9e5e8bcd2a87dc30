"""Images of different sizes encoded in one batch: each is resized alone, the network runs them together."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import torch

from hvf.vision.encoder import FrozenEncoder


def encode_mixed(encoder: FrozenEncoder, images: Sequence[torch.Tensor], precision: str = "float32") -> torch.Tensor:
    """Features (N, D) float32 of N images, uint8 (3, H, W) each, of any sizes; what ``encoder`` gives for each alone.

    ``precision`` "bfloat16" runs the network, not the resizing, under autocast: several times faster on a GPU, and
    the features are a little off.
    """
    prepare, device = encoder._tower.prepare, encoder.device
    ready_N3HW = torch.cat([prepare(image[None].to(device).float() / 255) for image in images])
    prepared = copy.copy(encoder)
    prepared._tower = dataclasses.replace(encoder._tower, prepare=lambda x: x)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        return prepared(ready_N3HW).float()
