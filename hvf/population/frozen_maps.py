"""Frozen features of images as maps of one size: pooled to the shared grid, centred, and reduced by PCA.

Letters: as in hvf/population/towers.py; M images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hvf.config import HvfError
from hvf.schema.bounds import Count
from hvf.vision.specs import parse_spec

PCA_IMAGES = 250


@dataclass(frozen=True)
class Maps:
    """Size of the shared map, and how frozen maps are reduced."""

    side: Count = 6  # S: the shared map has S x S places
    channels: Count = 32  # D at each place
    components: Count = 32  # principal components of a frozen map's channels, at most
    categories: Count = 20  # clusters of the semantic features, which stand for labels where images have none
    semantic: str | None = None  # the FeatureSpec that is clustered; needed by the category loss alone


def map_shape(spec: str, width: int) -> tuple[int, int, int]:
    """(channels, rows, columns) of the features (M, width) of a spec: one with a grid, or whole latents.

    Raises HvfError for a spec without places.
    """
    parsed = parse_spec(spec)
    if parsed.grid and width % parsed.grid**2 == 0:
        return width // parsed.grid**2, parsed.grid, parsed.grid
    side = math.isqrt(width // 4)
    if parsed.kind == "vae" and parsed.pool is None and 4 * side * side == width:
        return 4, side, side
    raise HvfError(f"{spec}: no places can be told apart in these features; name a grid, as {parsed.kind}:...@9:grid6")


class FrozenMaps:
    """Frozen features as maps of the shared side: centred at each place, few components, of unit mean variance.

    Means, components and scale come from the training images `rows`. {spec: (M, d)} -> {spec: (M, P_k, S, S)}.
    """

    def __init__(
        self,
        features: Mapping[str, np.ndarray],
        specs: Sequence[str],
        rows: np.ndarray,
        maps: Maps,
        device: str | torch.device,
    ) -> None:
        self.specs, self.side, self.device = tuple(specs), maps.side, torch.device(device)
        self.fixed: dict[str, tuple[Tensor, Tensor]] = {}
        for spec in specs:
            f_MPSS = self._pooled(spec, features[spec][rows])
            mean = f_MPSS.mean(0, keepdim=True)
            some = f_MPSS[:: -(-len(rows) // PCA_IMAGES)]  # a channel's components need no more: all places count
            flat = (some - mean).transpose(0, 1).flatten(1)  # (channels, M S S)
            values, vectors = torch.linalg.eigh((flat @ flat.T / flat.shape[1]).double())
            kept = slice(max(0, len(values) - maps.components), None)
            scale = values[kept].clamp_min(0).mean().sqrt().clamp_min(1e-12)
            self.fixed[spec] = mean, (vectors[:, kept].flip(1).T / scale).float()

    @property
    def components(self) -> dict[str, int]:
        """{spec: P_k}."""
        return {spec: len(basis) for spec, (_, basis) in self.fixed.items()}

    def __call__(self, features: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        out = {}
        for spec, (mean, basis) in self.fixed.items():
            if spec not in features:
                raise HvfError(f"no features of {spec} were given: compute them with hvf embed --targets {spec}")
            out[spec] = torch.einsum("pc,mcij->mpij", basis, self._pooled(spec, features[spec]) - mean)
        return out

    def _pooled(self, spec: str, x_Md: np.ndarray) -> Tensor:
        x_Md = np.asarray(x_Md, dtype=np.float32).reshape(len(x_Md), -1)
        shape = map_shape(spec, x_Md.shape[1])
        if self.side > shape[1]:
            raise HvfError(f"{spec} has {shape[1]} x {shape[2]} places, the shared map {self.side} x {self.side}")
        f_MPHW = torch.from_numpy(np.ascontiguousarray(x_Md)).to(self.device).unflatten(1, shape)
        return functional.adaptive_avg_pool2d(f_MPHW, self.side)
