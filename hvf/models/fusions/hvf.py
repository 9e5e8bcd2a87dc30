"""HVF: hierarchical visual fusion, the paper's fusion."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from hvf.models.fusions.linear import Linear
from hvf.models.residual import ResidualMLP
from hvf.registry import FUSIONS


@FUSIONS.register("hvf")
class HVF(Linear):
    """z̄_v = Σ_k z_v^(k) W^(k) + b^(k);  z_f = LayerNorm(z̄_v + φ_v(z̄_v)).

    ``intermediate`` is the hidden width of φ_v (paper: 1024 for retrieval, 4096 in the published prior).
    Source: arXiv 2602.07495, section 3; official code for biases and the normalisation's epsilon.
    """

    def build(self) -> None:
        super().build()
        self.block = ResidualMLP(self.width, self.config["intermediate"], self.config["dropout"])
        self.norm = nn.LayerNorm(self.width, eps=1e-6)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """{spec: (N, d_k)} -> z_f (N, D), not L2-normalised."""
        return self.norm(self.block(super().forward(features)))
