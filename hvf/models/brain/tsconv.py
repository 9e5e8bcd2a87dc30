"""TSConv, NICE's network: a temporal convolution, pooling, and a spatial convolution over all channels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvf.models.brain.base import BrainEncoder, ProjectionHead
from hvf.registry import BRAIN_ENCODERS

FILTERS = 40
SIZES = (25, 51, 5)  # samples: temporal kernel, pooling window, its stride, for the papers' 250 samples


@BRAIN_ENCODERS.register("tsconv")
class TSConv(BrainEncoder):
    """Convolve in time, pool, convolve over channels, flatten as (time, filter), project.

    ``sizes`` are kernel, pooling window and stride in samples: by default the published ones where T is 250, and for
    shorter trials the same shares of the trial, so that any T has a map. Source: eeyhsong/NICE-EEG, nice_stand.py
    (dropout 0.5). NeuroBridge's and UBP's TSConv flatten as (filter, time), a permutation of the head's columns; UBP's
    lacks the last, pointwise convolution.
    """

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


class PooledConv(nn.Conv2d):
    """A convolution in time and the mean over windows of its output, (N, 1, C, T) -> (N, F, C, t), in one.

    Both are linear: one convolution by the kernel averaged over the window's shifts, at the pooling's stride. It
    never makes the maps of every sample, of which the pooling leaves a fifth.
    """

    def __init__(self, filters: int, kernel: int, window: int, stride: int) -> None:
        super().__init__(1, filters, (1, kernel))
        self.window, self.step = window, stride

    def forward(self, x_N1CT: Tensor) -> Tensor:
        box_11w = self.weight.new_full((1, 1, self.window), 1 / self.window)
        kernel_F1l = functional.conv1d(self.weight[:, :, 0], box_11w, padding=self.window - 1)
        return functional.conv2d(x_N1CT, kernel_F1l[:, :, None], self.bias, stride=(1, self.step))


def temporal_spatial(n_chans: int, sizes: Sequence[int], dropout: float) -> nn.Sequential:
    """(N, 1, C, T) -> (N, F, 1, t): the convolutions of NICE and of ATM. Layers are numbered as there: 1 is in 0."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        {
            "0": PooledConv(FILTERS, *sizes),
            "2": nn.BatchNorm2d(FILTERS),
            "3": nn.ELU(),
            "4": nn.Conv2d(FILTERS, FILTERS, (n_chans, 1)),
            "5": nn.BatchNorm2d(FILTERS),
            "6": nn.ELU(),
            "7": nn.Dropout(dropout),
            "8": nn.Conv2d(FILTERS, FILTERS, 1),
        }
    )
    return nn.Sequential(layers)
