"""A person's own layer: a linear map of the channels in front of a brain encoder that many people share.

Source: the subject layer of Défossez et al. 2023 (brainmagick, arXiv 2208.12266), here C x C and starting where the
person's trials already are like everybody's: at the identity, or at Euclidean alignment.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hvf.models.brain.base import BrainEncoder


class PersonLayer(BrainEncoder):
    """z_b = encoder((A + Δ) x), A (C, C) fixed, Δ learnt from zero, so that weight decay pulls towards A."""

    reads = ()  # it is made around an encoder, not by `build_brain`
    start_CC: Tensor

    def __init__(self, encoder: BrainEncoder, start_CC: Tensor | None = None) -> None:
        super().__init__(encoder.n_chans, encoder.n_times, encoder.width)
        self.encoder = encoder
        start_CC = torch.eye(encoder.n_chans) if start_CC is None else start_CC
        self.register_buffer("start_CC", start_CC)
        self.change_CC = nn.Parameter(torch.zeros_like(start_CC))

    def forward(self, x_NCT: Tensor) -> Tensor:
        """(N, C, T) -> z_b (N, D)."""
        return self.encoder((self.start_CC + self.change_CC) @ self.checked(x_NCT))
