"""An embedding as a brain tells it: with noise, of which a Wiener filter has taken what it can.

Shape suffixes: N items, D embedding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CLEAR = 0.4  # share of the embeddings that stay as they are
LEAST = 0.4  # weakest noise on the others, in standard deviations of an embedding's mean component


class Vague:
    """E[z | z + ε] for Gaussian z and Gaussian noise ε: the Wiener filter of a noisy embedding.

    A brain's estimate of z_f is something like it: the share of the variance that it explains falls from principal
    component to component, between as λ / (λ + σ²) does, for white noise, and not at all, for noise shaped as z itself
    (docs/LOG.md, 2026-11-27). A prior that has learnt from all of these draws what is likely given what it hears.
    """

    def __init__(self, width: int, most: float, device: torch.device | str = "cpu") -> None:
        """Components and their variances are those of white noise until `measure`; ``most``: the strongest noise."""
        self.most = most
        self.mean_D, self.power_D = torch.zeros(width, device=device), torch.ones(width, device=device)
        self.axes_DD = torch.eye(width, device=device)

    @torch.no_grad()
    def measure(self, z_ND: Tensor) -> None:
        """Take mean and principal components from embeddings (N, D); in place, where a recorded step looks."""
        z_ND = z_ND.double()
        power_D, axes_DD = torch.linalg.eigh(torch.cov(z_ND.T, correction=0))
        self.mean_D.copy_(z_ND.mean(0))
        self.power_D.copy_(power_D.clamp(min=1e-6 * power_D.mean()))
        self.axes_DD.copy_(axes_DD)

    def levels(self, drawn_N2: Tensor) -> Tensor:
        """Strength and shape (N, 2) of each embedding's noise, from uniform numbers.

        No noise for a share of them, log-uniform strength for the others; shape from 0, white, to 1, as z itself.
        """
        place_N, shape_N = (drawn_N2[:, 0] - CLEAR) / (1 - CLEAR), drawn_N2[:, 1]
        strength_N = torch.where(place_N < 0, 0.0, LEAST * (place_N * math.log(self.most / LEAST)).exp())
        return torch.stack([strength_N, shape_N], dim=1)

    def __call__(self, z_ND: Tensor, noise_ND: Tensor, level_N2: Tensor) -> Tensor:
        """What is left of z (N, D) under noise made of white noise (N, D), filtered; z itself at strength 0."""
        strength_N1, shape_N1 = level_N2[:, :1], level_N2[:, 1:]
        with torch.autocast(z_ND.device.type, enabled=False):
            z_ND, mean = z_ND.float(), self.power_D.mean()
            variance_ND = strength_N1**2 * mean * (self.power_D / mean) ** shape_N1
            heard_ND = (z_ND - self.mean_D) @ self.axes_DD + variance_ND.sqrt() * noise_ND
            filtered_ND = self.mean_D + (self.power_D / (self.power_D + variance_ND) * heard_ND) @ self.axes_DD.T
            return torch.where(strength_N1 > 0, filtered_ND, z_ND)
