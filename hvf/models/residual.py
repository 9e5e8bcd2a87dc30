"""The residual block that HVF, MBP, the prior's projector and DINA's towers share.

Source: arXiv 2602.07495 (HVF), section 3.
"""

from __future__ import annotations

from torch import Tensor, nn


class ResidualMLP(nn.Module):
    """x + φ(x), (N, D) -> (N, D); φ = Linear → GELU (exact) → Dropout → Linear, both without bias."""

    def __init__(self, width: int, intermediate: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.up = nn.Linear(width, intermediate, bias=False)
        self.down = nn.Linear(intermediate, width, bias=False)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_ND: Tensor) -> Tensor:
        return x_ND + self.down(self.dropout(self.activation(self.up(x_ND))))
