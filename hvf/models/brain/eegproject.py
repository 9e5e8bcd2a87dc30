"""EEGProject: the projection head on the flat trial, default encoder of UBP, NeuroBridge and Shallow Alignment."""

from __future__ import annotations

from torch import Tensor

from hvf.models.brain.base import BrainEncoder, ProjectionHead
from hvf.registry import BRAIN_ENCODERS


@BRAIN_ENCODERS.register("eegproject")
class EEGProject(BrainEncoder):
    """flat(x) (N, C·T) -> projection head -> z_b (N, D).

    Source: HaitaoWuTJU/Uncertainty-aware-Blur-Prior, EEGProjectLayer (dropout 0.3); feroooooo/NeuroBridge, EEGProject.
    """

    def __init__(self, n_chans: int, n_times: int, width: int = 1024, dropout: float = 0.3) -> None:
        super().__init__(n_chans, n_times, width, dropout=dropout)
        self.head = ProjectionHead(n_chans * n_times, width, dropout)

    def forward(self, x_NCT: Tensor) -> Tensor:
        return self.head(self.flat(x_NCT))
