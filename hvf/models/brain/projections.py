"""Encoders that see a trial as one flat vector: MBP, EEGProject, and linear as their control."""

from __future__ import annotations

from torch import Tensor, nn

from hvf.models.brain.base import BrainEncoder, ProjectionHead
from hvf.models.fusion import ResidualMLP


class MBP(BrainEncoder):
    """z̄_b = flat(x) W_b + b_b, W_b ∈ R^{CT × D};  z_b = LayerNorm(z̄_b + φ_b(z̄_b)): the paper's brain encoder.

    φ_b is HVF's block (biasless, ``intermediate`` wide). Source: arXiv 2602.07495, section 3.
    """

    name = "mbp"
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


class EEGProject(BrainEncoder):
    """The projection head on the flat trial: the default encoder of UBP, NeuroBridge and Shallow Alignment.

    Source: HaitaoWuTJU/Uncertainty-aware-Blur-Prior, EEGProjectLayer (dropout 0.3); feroooooo/NeuroBridge, EEGProject.
    """

    name = "eegproject"

    def __init__(self, n_chans: int, n_times: int, width: int = 1024, dropout: float = 0.3) -> None:
        super().__init__(n_chans, n_times, width, dropout=dropout)
        self.head = ProjectionHead(n_chans * n_times, width, dropout)

    def forward(self, x_NCT: Tensor) -> Tensor:
        return self.head(self.flat(x_NCT))


class LinearBrain(BrainEncoder):
    """z_b = flat(x) W + b: the control that shows what an encoder's non-linearity is worth."""

    name = "linear"
    reads = ("width",)

    def __init__(self, n_chans: int, n_times: int, width: int = 1024) -> None:
        super().__init__(n_chans, n_times, width)
        self.project = nn.Linear(n_chans * n_times, width)

    def forward(self, x_NCT: Tensor) -> Tensor:
        return self.project(self.flat(x_NCT))
