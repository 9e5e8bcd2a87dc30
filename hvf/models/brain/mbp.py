"""MBP, the brain encoder of HVF's paper: one linear projection of the whole trial, then a residual block."""

from __future__ import annotations

from torch import Tensor, nn

from hvf.models.brain.base import BrainEncoder
from hvf.models.residual import ResidualMLP
from hvf.registry import BRAIN_ENCODERS


@BRAIN_ENCODERS.register("mbp")
class MBP(BrainEncoder):
    """z̄_b = flat(x) W_b + b_b, W_b ∈ R^{CT × D};  z_b = LayerNorm(z̄_b + φ_b(z̄_b)).

    φ_b is HVF's residual block (without bias, ``intermediate`` wide). Source: arXiv 2602.07495, section 3.
    """

    reads = ("width", "intermediate", "dropout")

    def __init__(
        self, n_chans: int, n_times: int, width: int = 1024, intermediate: int = 1024, dropout: float = 0.1
    ) -> None:
        super().__init__(n_chans, n_times, width, intermediate=intermediate, dropout=dropout)
        self.project = nn.Linear(n_chans * n_times, width)
        self.block = ResidualMLP(width, intermediate, dropout)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x_NCT: Tensor) -> Tensor:
        return self.norm(self.block(self.project(self.flat(x_NCT))))
