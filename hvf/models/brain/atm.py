"""ATM-S: attention among channels, then NICE's convolutions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvf.models.brain.base import BrainEncoder, ProjectionHead
from hvf.models.brain.tsconv import FILTERS, SIZES, temporal_spatial
from hvf.registry import BRAIN_ENCODERS


@BRAIN_ENCODERS.register("atm")
class ATM(BrainEncoder):
    """Each channel's time course becomes a token; one transformer layer mixes them; convolutions over both follow.

    One learnt token precedes the channels (in the paper, the subject's); the first C of the C + 1 tokens are passed
    on, so that the last channel contributes through attention alone. The published code does this, and the reference
    outputs hold it. Dropout is half as strong in the transformer.
    Source: dongyangli-del/EEG_Image_decode, ATMS (0.5 and 0.25).

    Parameters
    ----------
    n_chans, n_times, width : int
        C, T and D.
    dropout : float
        In the convolutions and the head; half of it in the transformer.
    positions : bool
        Add sinusoids to the channel tokens: the authors' code does since 61fc9c3, the copies of it (Brain-HIVE,
        NeuroBridge) do not.
    depth, hidden : int
        Width of a token, and of the transformer's MLP.
    heads : int
        Attention heads, each depth // heads wide.
    """

    def __init__(
        self,
        n_chans: int,
        n_times: int,
        width: int = 1024,
        dropout: float = 0.5,
        positions: bool = True,
        depth: int = 250,
        hidden: int = 256,
        heads: int = 4,
    ) -> None:
        super().__init__(
            n_chans, n_times, width, dropout=dropout, positions=positions, depth=depth, hidden=hidden, heads=heads
        )
        self.embed = nn.Linear(n_times, depth)
        self.token = nn.Parameter(torch.randn(depth) * 0.02)
        self.register_buffer("sinusoids", _sinusoids(n_chans, depth) if positions else None, persistent=False)
        self.attention = _Attention(depth, heads, dropout / 2)
        self.mlp = nn.Sequential(nn.Linear(depth, hidden), nn.GELU(), nn.Dropout(dropout / 2), nn.Linear(hidden, depth))
        self.norms = nn.ModuleList(nn.LayerNorm(depth) for _ in range(3))
        self.dropout = nn.Dropout(dropout / 2)
        self.maps = temporal_spatial(n_chans, SIZES, dropout)
        steps = (depth - SIZES[0] + 1 - SIZES[1]) // SIZES[2] + 1
        self.head = ProjectionHead(steps * FILTERS, width, dropout)

    def forward(self, x_NCT: Tensor) -> Tensor:
        maps_NFt = self.maps(self.tokens(x_NCT)[:, None])[:, :, 0]
        return self.head(maps_NFt.transpose(1, 2).flatten(1))

    def tokens(self, x_NCT: Tensor) -> Tensor:
        """(N, C, T) -> the first C tokens after the transformer, (N, C, depth)."""
        h_NCd = self.embed(self.checked(x_NCT))
        if self.sinusoids is not None:
            h_NCd = h_NCd + self.sinusoids
        h_NCd = self.dropout(torch.cat([self.token.expand(len(h_NCd), 1, -1), h_NCd], dim=1))
        h_NCd = self.norms[0](h_NCd + self.dropout(self.attention(h_NCd)))
        h_NCd = self.norms[1](h_NCd + self.dropout(self.mlp(h_NCd)))
        return self.norms[2](h_NCd)[:, : self.n_chans]


class _Attention(nn.Module):
    """Multi-head self-attention whose heads are depth // heads wide: 4 x 62 in a depth of 250, as published."""

    def __init__(self, depth: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        inner = depth // heads * heads
        self.query, self.key, self.value = (nn.Linear(depth, inner) for _ in range(3))
        self.out = nn.Linear(inner, depth)

    def forward(self, h_NLd: Tensor) -> Tensor:
        q, k, v = (part(h_NLd).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.parts)
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=self.rate if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).flatten(2))

    @property
    def parts(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.query, self.key, self.value


def _sinusoids(n: int, depth: int) -> Tensor:
    """(n, depth): sines at even and cosines at odd places (Vaswani et al., 2017)."""
    rates = torch.exp(torch.arange(0, depth, 2) * (-math.log(10000.0) / depth))
    angles = torch.arange(n)[:, None] * rates
    out = torch.zeros(n, depth)
    out[:, 0::2], out[:, 1::2] = angles.sin(), angles.cos()[:, : depth // 2]
    return out
