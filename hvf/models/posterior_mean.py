"""The mean of an image's embedding given the brain's: what squared error learns beside the contrast.

Letters: N trials, M images, D embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDER = 2  # hidden units for each dimension of the embedding
DROPOUT = 0.3


class PosteriorMean(nn.Module):
    """E[z_f | z_b] = μ + σ ⊙ (A z_b + φ(z_b)), (N, D) -> (N, D); μ and σ are z_f's of the images trained on.

    InfoNCE fixes the direction of z_b alone, and a linear map of it cannot say which of several kinds of image was
    seen; φ is Linear → GELU → Dropout → Linear.
    """

    mean_D: Tensor
    sd_D: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, WIDER * width), nn.Linear(WIDER * width, width)
        for layer in (self.linear, self.down):  # before anything is learnt it says μ
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.dropout = nn.Dropout(DROPOUT)
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("sd_D", torch.ones(width))

    def fit_scale(self, z_f_MD: Tensor) -> None:
        """Take μ and σ from embeddings (M, D); a dimension that never changes keeps σ = 1."""
        sd_D, self.mean_D[:] = torch.std_mean(z_f_MD, dim=0, correction=0)
        self.sd_D[:] = torch.where(sd_D > 1e-6, sd_D, 1.0)

    def forward(self, z_b_ND: Tensor) -> Tensor:
        hidden_NH = self.dropout(functional.gelu(self.up(z_b_ND)))
        return self.mean_D + self.sd_D * (self.linear(z_b_ND) + self.down(hidden_NH))

    def loss(self, z_b_ND: Tensor, z_f_ND: Tensor) -> Tensor:
        """The `squared_error` of what it says of z_b; 1 for whoever always says μ."""
        return squared_error(self(z_b_ND), z_f_ND, self.sd_D)


def squared_error(mean_ND: Tensor, z_f_ND: Tensor, sd_D: Tensor) -> Tensor:
    """Squared error in units of σ², mean over trials and dimensions."""
    return ((mean_ND - z_f_ND) / sd_D).square().mean()
