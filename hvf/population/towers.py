"""DINA: the responses of a population and an image meet at an intermediate feature map, not at a vector.

Two towers, one map: the response tower draws it from the neurons, the image tower from frozen feature maps. What the
map holds at each place and scale can then be looked at. Source: arXiv 2605.04309; its abstract and its referee's report
say what meets and at what level, the layers here are ours.

Shape suffixes: N items, C neurons, P components of a frozen map, D channels of the shared map, S its side, K encoders.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hvf.config import HvfError
from hvf.models.residual import ResidualMLP


class ResponseTower(nn.Module):
    """h = LayerNorm(x W + b + φ(x W + b)), map = reshape(h V + c): responses (N, C) -> (N, D, S, S).

    One linear map unfolds the hidden layer, so that each neuron may speak of any place; φ is HVF's residual block.
    """

    def __init__(
        self, neurons: int, channels: int, side: int, width: int = 256, intermediate: int = 256, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.neurons = neurons
        self.project = nn.Linear(neurons, width)
        self.block = ResidualMLP(width, intermediate, dropout)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.unfold = nn.Linear(width, channels * side * side)
        self.fold = nn.Unflatten(1, (channels, side, side))

    def forward(self, x_NC: Tensor) -> Tensor:
        """Responses (N, C) -> map (N, D, S, S). Raises HvfError for another number of neurons."""
        if x_NC.ndim != 2 or x_NC.shape[1] != self.neurons:
            raise HvfError(f"the response tower was made for {self.neurons} neurons, not {tuple(x_NC.shape[1:])}")
        return self.fold(self.unfold(self.norm(self.block(self.project(x_NC)))))


class ImageTower(nn.Module):
    """map = m + φ(m), m = Σ_k conv1(f^(k)): frozen maps {spec: (N, P_k, S, S)} -> (N, D, S, S).

    φ is HVF's residual block, at every place by itself: what stands at a place was at that place in the frozen maps,
    and its receptive field is the frozen encoder's.
    """

    def __init__(self, components: Mapping[str, int], channels: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.specs = tuple(components)
        self.enter = nn.ModuleList(nn.Conv2d(p, channels, 1) for p in components.values())
        self.block = ResidualMLP(channels, 2 * channels, dropout)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """{spec: (N, P_k, S, S)} -> map (N, D, S, S). Raises HvfError naming an encoder whose map is missing."""
        missing = [spec for spec in self.specs if spec not in maps]
        if missing:
            raise HvfError(f"no frozen map of {missing[0]} was given to the image tower")
        entered = [enter(maps[spec]) for enter, spec in zip(self.enter, self.specs, strict=True)]
        m_NDSS = torch.stack(entered).sum(0)
        return self.block(m_NDSS.movedim(1, -1)).movedim(-1, 1)


class Dina(nn.Module):
    """Both towers, and what the losses read from a map: the frozen maps again, and a category.

    ``reconstruct`` (N, D, S, S) -> (N, Σ_k P_k, S, S) and ``categorise`` (N, D, S, S) -> (N, categories) are shared by
    the towers, so that a loss on them draws the two maps together. Each contrast has a temperature of its own.
    """

    def __init__(
        self,
        neurons: int,
        components: Mapping[str, int],
        channels: int,
        side: int,
        categories: int,
        width: int = 256,
        intermediate: int = 256,
        dropout: float = 0.1,
        log_scale: float = 0.0,
    ) -> None:
        super().__init__()
        self.side = side
        self.response = ResponseTower(neurons, channels, side, width, intermediate, dropout)
        self.image = ImageTower(components, channels, dropout)
        self.reconstruct = nn.Conv2d(channels, sum(components.values()), 1)
        self.categorise = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, categories))
        self.log_scale = nn.Parameter(torch.tensor(log_scale))
        self.local_log_scale = nn.Parameter(torch.tensor(log_scale))
