"""Embedding noise: z_f corrupted as a brain's estimate of it is, for training the prior.

A noisy embedding is Wiener-filtered, as noise augmentation in unCLIP with the denoiser known.
Shape suffixes: N items, D embedding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CLEAN_SHARE = 0.4  # of the embeddings, which stay as they are
WEAKEST = 0.4  # noise on the others, in standard deviations of an embedding's mean component


class EmbeddingNoise:
    """E[z | z + ε] for Gaussian z and Gaussian noise ε: the Wiener filter of a noisy embedding.

    A brain's estimate of z_f resembles it: the share of the variance that it explains falls from principal component to
    component, between as λ / (λ + σ²) does, for white noise, and not at all, for noise shaped as z itself (docs/LOG.md,
    2026-11-27). A prior trained on all of these draws what is likely given the estimate.

    ``strongest`` is the largest standard deviation of the noise, in units of an embedding's mean component. Mean of z,
    variance along each principal component, and the components are those of white noise until `fit`.
    """

    def __init__(self, width: int, strongest: float, device: torch.device | str = "cpu") -> None:
        self.strongest = strongest
        self.mean_D, self.power_D = torch.zeros(width, device=device), torch.ones(width, device=device)
        self.axes_DD = torch.eye(width, device=device)

    @torch.no_grad()
    def fit(self, z_ND: Tensor) -> None:
        """Estimate mean and principal components from embeddings (N, D), in place, where a captured step reads them."""
        z_ND = z_ND.double()
        power_D, axes_DD = torch.linalg.eigh(torch.cov(z_ND.T, correction=0))
        self.mean_D.copy_(z_ND.mean(0))
        self.power_D.copy_(power_D.clamp(min=1e-6 * power_D.mean()))
        self.axes_DD.copy_(axes_DD)

    def levels(self, uniform_N2: Tensor) -> Tensor:
        """Strength and shape (N, 2) of each embedding's noise, from uniform numbers (N, 2).

        Strength is 0 for CLEAN_SHARE of them, log-uniform for the others; shape goes from 0, white, to 1, as z itself.
        """
        place_N, shape_N = (uniform_N2[:, 0] - CLEAN_SHARE) / (1 - CLEAN_SHARE), uniform_N2[:, 1]
        strength_N = torch.where(place_N < 0, 0.0, WEAKEST * (place_N * math.log(self.strongest / WEAKEST)).exp())
        return torch.stack([strength_N, shape_N], dim=1)

    def __call__(self, z_ND: Tensor, noise_ND: Tensor, level_N2: Tensor) -> Tensor:
        """The filtered noisy embeddings (N, D), from white noise and `levels`; z itself where the strength is 0."""
        strength_N1, shape_N1 = level_N2[:, :1], level_N2[:, 1:]
        with torch.autocast(z_ND.device.type, enabled=False):
            z_ND, mean = z_ND.float(), self.power_D.mean()
            variance_ND = strength_N1**2 * mean * (self.power_D / mean) ** shape_N1
            noisy_ND = (z_ND - self.mean_D) @ self.axes_DD + variance_ND.sqrt() * noise_ND
            filtered_ND = self.mean_D + (self.power_D / (self.power_D + variance_ND) * noisy_ND) @ self.axes_DD.T
            return torch.where(strength_N1 > 0, filtered_ND, z_ND)
