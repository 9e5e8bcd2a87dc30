"""Receptive field: features of places count for more where the picture drives the responses.

Channels of an array see a part of the picture, and all channels much the same part. So the features of each place of a
grid are weighed by a Gaussian over the picture, one for all encoders and responses: three numbers, chosen with the
bands' weights (the feature-weighted receptive field of St-Yves and Naselaris, NeuroImage 2018, has one per response).

Letters: F features, L parts, each the features of one band at one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hvf.registry import FEATURES
from hvf.vision.specs import parse_spec


@dataclass(frozen=True)
class Field:
    """A Gaussian over the picture: centre (0, 0 is the upper left corner, 1, 1 the lower right) and sd."""

    x: float
    y: float
    sd: float

    def of_grid(self, side: int) -> np.ndarray:
        """The weights (side²,) of a grid's places, row by row, 1 on average."""
        centre = (np.arange(side) + 0.5) / side
        squared = np.square(centre[:, None] - self.y) + np.square(centre[None] - self.x)
        log_weight = -squared.ravel() / (2 * self.sd**2)
        weight = np.exp(log_weight - log_weight.max())
        return weight / weight.mean()

    def entry(self) -> dict[str, float]:
        """As it stands in a history."""
        return {name: float(f"{getattr(self, name):.3g}") for name in ("x", "y", "sd")}


@dataclass(frozen=True)
class Parts:
    """Features apart by band and place.

    Parameters
    ----------
    bands : list of str
        Names, in the encoders' order.
    band_L, side_L, place_L : ndarray
        Of each part its band, the side of its grid, 0 for features of no place, and its place in the grid, row by row.
    part_F : ndarray
        The part of each feature.
    """

    bands: list[str]
    band_L: np.ndarray
    side_L: np.ndarray
    place_L: np.ndarray
    part_F: np.ndarray

    @classmethod
    def of(cls, dims: Mapping[str, int], band_of: Mapping[str, str]) -> Parts:
        """From the dimensions and the band of each spec; features of ``gridK`` are (channel, row, column)."""
        bands = list(dict.fromkeys(band_of[spec] for spec in dims))
        sides = {spec: _side(spec, dim) for spec, dim in dims.items()}
        band_F = np.concatenate([np.full(dim, bands.index(band_of[spec])) for spec, dim in dims.items()])
        side_F = np.concatenate([np.full(dim, sides[spec]) for spec, dim in dims.items()])
        place_F = np.concatenate([np.arange(dim) % max(1, sides[spec] ** 2) for spec, dim in dims.items()])
        of_part_3L, part_F = np.unique(np.stack([band_F, side_F, place_F]), axis=1, return_inverse=True)
        band_L, side_L, place_L = of_part_3L
        return cls(bands, band_L, side_L, place_L, part_F.reshape(-1))

    @cached_property
    def placed(self) -> bool:
        """Whether some features have places, so that a field can weigh them."""
        return bool(self.side_L.any())

    def weights(self, weight_B: np.ndarray, field: Field | None) -> np.ndarray:
        """The weight (L,) of each part: its band's, times the field's at its place."""
        weight_L = np.asarray(weight_B, dtype=float)[self.band_L]
        if field is not None:
            for side in np.unique(self.side_L[self.side_L > 0]).tolist():
                at_L = self.side_L == side
                weight_L[at_L] *= field.of_grid(side)[self.place_L[at_L]]
        return weight_L


def _side(spec: str, dim: int) -> int:
    """The side of a spec's grid; 0 where its features have no place."""
    side = 0 if spec.startswith(FEATURES) else parse_spec(spec).grid or 0
    return side if side > 1 and dim % side**2 == 0 else 0
