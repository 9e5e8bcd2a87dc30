"""Several brain encoders and fusions side by side, as one encoder and one fusion.

Each member's embedding gets length 1, times the root of its weight. The cosine of two such vectors side by side is the
weighted mean of the members' cosines, so that whatever compares embeddings takes several members as it takes one.

Letters: N items, C channels, T samples, D embedding of all members, K members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvf.models.brain.base import BrainEncoder
from hvf.models.fusions.base import Fusion


class BrainsTogether(BrainEncoder):
    """z_b of all members side by side; or, where they share one space of images, their weighted mean."""

    reads = ()  # it is made around encoders, not by `build_brain`
    weight_K: Tensor

    def __init__(self, members: Sequence[BrainEncoder], weight_K: Tensor, *, one_space: bool) -> None:
        width = members[0].width if one_space else sum(member.width for member in members)
        super().__init__(members[0].n_chans, members[0].n_times, width)
        self.members, self.one_space = nn.ModuleList(members), one_space
        self.register_buffer("weight_K", weight_K / weight_K.sum())

    def forward(self, x_NCT: Tensor) -> Tensor:
        """(N, C, T) -> z_b (N, D)."""
        parts = [member(x_NCT) for member in self.members]
        if self.one_space:
            return torch.stack([w * z_ND for w, z_ND in zip(self.weight_K, parts, strict=True)]).sum(0)
        return side_by_side(parts, self.weight_K)


class FusionsTogether(nn.Module):
    """z_f of all members side by side."""

    weight_K: Tensor

    def __init__(self, members: Sequence[Fusion], weight_K: Tensor) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.specs = tuple(dict.fromkeys(spec for member in members for spec in member.specs))
        self.width = sum(member.width for member in members)
        self.register_buffer("weight_K", weight_K / weight_K.sum())

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """{spec: (N, d_k)} -> z_f (N, D)."""
        return side_by_side([member(features) for member in self.members], self.weight_K)


def side_by_side(parts: Sequence[Tensor], weight_K: Tensor) -> Tensor:
    """Vectors of length 1, times the roots of their weights, in a row."""
    pairs = zip(weight_K, parts, strict=True)
    return torch.cat([weight.sqrt() * functional.normalize(z_ND, dim=1) for weight, z_ND in pairs], 1)
