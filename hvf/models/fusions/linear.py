"""Linear fusion: one linear map of all encoders' features together; for one encoder, Shallow Alignment's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hvf.models.fusions.base import Fusion
from hvf.registry import FUSIONS


@FUSIONS.register("linear")
class Linear(Fusion):
    """z_f = Σ_k z_v^(k) W^(k) + b^(k).

    Source: arXiv 2601.21948, equation 2.
    """

    def build(self) -> None:
        self.projections = nn.ModuleList(nn.Linear(dim, self.width) for dim in self.config["dims"])

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """{spec: (N, d_k)} -> z_f (N, D), not L2-normalised."""
        pairs = zip(self.projections, self.parts(features), strict=True)
        return sum((projection(x_Nd) for projection, x_Nd in pairs), start=torch.zeros(()))
