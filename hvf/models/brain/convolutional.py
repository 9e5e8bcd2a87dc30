"""TSConv, NICE's network: a temporal convolution, pooling, and a spatial convolution over all channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hvf.models.brain.base import BrainEncoder, ProjectionHead

FILTERS = 40
SIZES = (25, 51, 5)  # samples: temporal kernel, pooling window, its stride, for the papers' 250 samples


class TSConv(BrainEncoder):
    """Convolve in time, pool, convolve over channels, flatten as (time, filter), project.

    ``sizes`` are kernel, pooling window and stride in samples: by default the published ones where T is 250, and for
    shorter trials the same shares of the trial, so that any T has a map. Source: eeyhsong/NICE-EEG, nice_stand.py
    (dropout 0.5). NeuroBridge's and UBP's TSConv flatten as (filter, time), a permutation of the head's columns; UBP's
    lacks the last, pointwise convolution.
    """

    name = "tsconv"

    def __init__(
        self, n_chans: int, n_times: int, width: int = 1024, dropout: float = 0.5, sizes: Sequence[int] | None = None
    ) -> None:
        super().__init__(n_chans, n_times, width, dropout=dropout, sizes=sizes)
        share = min(1.0, n_times / 250)
        sizes = tuple(sizes or (max(1, round(share * size)) for size in SIZES))
        self.maps = temporal_spatial(n_chans, sizes, dropout)
        with torch.no_grad():
            features = self.maps.eval()(torch.zeros(1, 1, n_chans, n_times)).numel()
        self.maps.train()
        self.head = ProjectionHead(features, width, dropout)

    def forward(self, x_NCT: Tensor) -> Tensor:
        maps_NFt = self.maps(self.checked(x_NCT)[:, None])[:, :, 0]
        return self.head(maps_NFt.transpose(1, 2).flatten(1))


def temporal_spatial(n_chans: int, sizes: Sequence[int], dropout: float) -> nn.Sequential:
    """(N, 1, C, T) -> (N, F, 1, t): the convolutions of NICE and of ATM."""
    kernel, window, stride = sizes
    return nn.Sequential(
        nn.Conv2d(1, FILTERS, (1, kernel)),
        nn.AvgPool2d((1, window), (1, stride)),
        nn.BatchNorm2d(FILTERS),
        nn.ELU(),
        nn.Conv2d(FILTERS, FILTERS, (n_chans, 1)),
        nn.BatchNorm2d(FILTERS),
        nn.ELU(),
        nn.Dropout(dropout),
        nn.Conv2d(FILTERS, FILTERS, 1),
    )
