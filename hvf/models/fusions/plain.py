"""The encoders' features as they are: what a linear map can predict and undo, where a picture is to be made of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hvf.models.fusions.concatenated import Concatenated
from hvf.registry import FUSIONS


@FUSIONS.register("plain")
class Plain(Concatenated):
    """z_f = [z_v^(1), ..., z_v^(K)], as long as they are; D = Σ_k d_k. Nothing is learnt, ``width`` is not read.

    Of one VAE: its standardised latents, which can be decoded again.
    """

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """{spec: (N, d_k)} -> z_f (N, Σ_k d_k)."""
        return torch.cat(self.parts(features), dim=1)
