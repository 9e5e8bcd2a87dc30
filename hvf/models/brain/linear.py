"""A linear map of the flattened trial: the control for what an encoder's non-linearity is worth."""

from __future__ import annotations

from torch import Tensor, nn

from hvf.models.brain.base import BrainEncoder
from hvf.registry import BRAIN_ENCODERS


@BRAIN_ENCODERS.register("linear")
class LinearBrain(BrainEncoder):
    """z_b = flat(x) W + b; also the form in which ridge and encoding models are kept once they are solved."""

    reads = ("width",)

    def __init__(self, n_chans: int, n_times: int, width: int = 1024) -> None:
        super().__init__(n_chans, n_times, width)
        self.project = nn.Linear(n_chans * n_times, width)

    def forward(self, x_NCT: Tensor) -> Tensor:
        return self.project(self.flat(x_NCT))
