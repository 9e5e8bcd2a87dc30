"""Concatenation: the encoders' normalised features side by side; nothing is learnt."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from hvf.models.fusions.base import Fusion
from hvf.registry import FUSIONS


@FUSIONS.register("concatenated")
class Concatenated(Fusion):
    """z_f = [z_v^(1)/‖z_v^(1)‖, ..., z_v^(K)/‖z_v^(K)‖]: each encoder has one vote; D = Σ_k d_k.

    For one encoder this is the plain target of NICE, ATM and UBP; of ridge, too. ``width`` is not read.
    """

    @classmethod
    def width_of(cls, dims: Mapping[str, int], width: int) -> int:
        """Σ_k d_k."""
        return sum(dims.values())

    def build(self) -> None:
        self.register_to_config(width=self.width_of(self.dims, 0))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """{spec: (N, d_k)} -> z_f (N, Σ_k d_k), of length √K."""
        return torch.cat([functional.normalize(x_Nd, dim=1) for x_Nd in self.parts(features)], dim=1)
