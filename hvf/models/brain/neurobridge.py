"""NeuroBridge's brain side: EEGProject, and a linear projector behind it into the space shared with the images."""

from __future__ import annotations

from torch import Tensor, nn

from hvf.models.brain.base import BrainEncoder, ProjectionHead
from hvf.registry import BRAIN_ENCODERS


@BRAIN_ENCODERS.register("neurobridge")
class NeuroBridge(BrainEncoder):
    """flat(x) (N, C·T) -> projection head (N, ``intermediate``) -> linear projector -> z_b (N, D).

    Source: feroooooo/NeuroBridge, EEGProject and ProjectorLinear (1024 and 512 wide, dropout 0.3).
    """

    reads = ("width", "intermediate", "dropout")

    def __init__(
        self, n_chans: int, n_times: int, width: int = 512, intermediate: int = 1024, dropout: float = 0.3
    ) -> None:
        super().__init__(n_chans, n_times, width, intermediate=intermediate, dropout=dropout)
        self.head = ProjectionHead(n_chans * n_times, intermediate, dropout)
        self.project = nn.Linear(intermediate, width)

    def forward(self, x_NCT: Tensor) -> Tensor:
        return self.project(self.head(self.flat(x_NCT)))
