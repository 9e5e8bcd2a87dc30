"""Layers of people: linear maps of the channels in front of a brain encoder that many people share.

Source: the subject layer of Défossez et al. 2023 (brainmagick, arXiv 2208.12266), here C x C and starting where the
person's trials already are like everybody's: at the identity, or at Euclidean alignment.

Letters: N trials, C channels, T samples, D embedding, S people.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hvf.models.brain.base import BrainEncoder

SHARED = 0.3  # share of the training trials that pass nobody's layer, as a new person's will


class PersonLayer(BrainEncoder):
    """z_b = encoder((A + Δ) x), A (C, C) fixed, Δ learnt from zero, so that weight decay pulls towards A."""

    reads = ()  # it is made around an encoder, not by `build_brain`
    start_CC: Tensor

    def __init__(self, encoder: BrainEncoder, start_CC: Tensor | None = None) -> None:
        super().__init__(encoder.n_chans, encoder.n_times, encoder.width)
        self.encoder, self.replayable = encoder, encoder.replayable
        start_CC = torch.eye(encoder.n_chans) if start_CC is None else start_CC
        self.register_buffer("start_CC", start_CC)
        self.change_CC = nn.Parameter(torch.zeros_like(start_CC))

    def forward(self, x_NCT: Tensor) -> Tensor:
        """(N, C, T) -> z_b (N, D)."""
        return self.encoder((self.start_CC + self.change_CC) @ self.checked(x_NCT))


class PeopleLayers(BrainEncoder):
    """z_b = encoder((I + Δ_s) x), Δ_s (C, C) of person s learnt from zero; over people the Δ_s are 0 on average.

    So the mean of all layers is the identity, which a person who was not trained on passes; a share of the training
    trials does, too (`SHARED`).
    """

    reads = ()

    def __init__(self, encoder: BrainEncoder, people: int) -> None:
        super().__init__(encoder.n_chans, encoder.n_times, encoder.width)
        self.encoder, self.replayable = encoder, encoder.replayable
        self.change_SCC = nn.Parameter(torch.zeros(people, encoder.n_chans, encoder.n_chans))

    @property
    def maps_SCC(self) -> Tensor:
        """The map of each person, of which the mean is the identity."""
        identity_CC = torch.eye(self.n_chans, device=self.change_SCC.device)
        return identity_CC + self.change_SCC - self.change_SCC.mean(0)

    def forward(self, x_NCT: Tensor, person_N: Tensor | None = None) -> Tensor:
        """(N, C, T) -> z_b (N, D); `person_N` numbers whose each trial is (None: nobody's who was trained on)."""
        x_NCT = self.checked(x_NCT)
        if person_N is None:
            return self.encoder(x_NCT)
        own_NCT = self.maps_SCC[person_N] @ x_NCT
        if self.training:
            shared_N = torch.rand(len(x_NCT), device=x_NCT.device) < SHARED
            own_NCT = torch.where(shared_N[:, None, None], x_NCT, own_NCT)
        return self.encoder(own_NCT)
