"""Encoding model: ridge regression from image features to responses; the image of the nearest prediction is retrieved.

Ridge regression from the features of all encoders to the principal components of the responses; then trial and
predictions are compared where what the regression leaves unexplained is white. Closed form, and for few channels and
trials stronger than decoding (Kay et al., Nature 2008, "Identifying natural images from human brain activity"; the
noise covariance as in Naselaris et al., NeuroImage 2011).

Letters: M images, P components of the responses, F features of all encoders, X flat samples of a trial (C·T).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from hvf.models.fusions.linear import Linear

COMPONENTS = 512  # of the responses, at most; of fewer channels x samples all are kept
PENALTIES = tuple(10.0**e for e in np.arange(-3, 2.01, 0.5))  # for features of mean squared length 1


@dataclass(frozen=True)
class Encoding:
    """Ridge from features (M, F) to responses (M, X), for any penalty, from one decomposition."""

    mean_X: np.ndarray
    axes_XP: np.ndarray  # principal components of the responses
    y_MP: np.ndarray
    mean_F: np.ndarray
    f_MF: np.ndarray
    vectors: np.ndarray  # of the smaller of f fᵀ (M, R) and fᵀ f (F, R)
    power_R: np.ndarray

    @classmethod
    def of(cls, x_MX: np.ndarray, f_MF: np.ndarray, kept: int) -> Encoding:
        """Decompose, keeping so many components of the responses; features come scaled, each encoder alike."""
        from sklearn.decomposition import PCA

        mean_X, mean_F = x_MX.mean(0), f_MF.mean(0)
        x_MX, f_MF = x_MX - mean_X, f_MF - mean_F
        if kept < x_MX.shape[1]:
            axes_XP = np.asarray(PCA(kept, svd_solver="randomized", random_state=0).fit(x_MX).components_).T
        else:
            axes_XP = np.eye(x_MX.shape[1])
        few = len(f_MF) <= f_MF.shape[1]
        power_R, vectors = np.linalg.eigh(f_MF @ f_MF.T if few else f_MF.T @ f_MF)
        return cls(mean_X, axes_XP, x_MX @ axes_XP, mean_F, f_MF, vectors, np.maximum(power_R, 0))

    def weights(self, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        """Weights (F, P), and the error (M, P) of predicting each image's response from the others'."""
        inverse_R = 1 / (self.power_R + penalty)
        if len(self.vectors) == len(self.f_MF):
            weights_FP = self.f_MF.T @ (self.vectors @ (inverse_R[:, None] * (self.vectors.T @ self.y_MP)))
            leverage_M = np.square(self.vectors) @ (self.power_R * inverse_R)
        else:
            weights_FP = self.vectors @ (inverse_R[:, None] * (self.vectors.T @ (self.f_MF.T @ self.y_MP)))
            leverage_M = np.square(self.f_MF @ self.vectors) @ inverse_R
        left_MP = self.y_MP - self.f_MF @ weights_FP
        return weights_FP, left_MP / np.maximum(1 - leverage_M, 1e-6)[:, None]

    def maps(self, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        """To where the error is white: of responses (X, P) and of features (F, P)."""
        from sklearn.covariance import LedoitWolf

        weights_FP, left_MP = self.weights(penalty)
        white_PP = np.linalg.cholesky(np.asarray(LedoitWolf(assume_centered=True).fit(left_MP).precision_))
        return self.axes_XP @ white_PP, weights_FP @ white_PP


def mean_by_image(x_NX: np.ndarray, image_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images (M,) that trials answer, and the mean response to each (M, X)."""
    image_M, place_N = np.unique(image_N, return_inverse=True)
    total_MX = np.zeros((len(image_M), x_NX.shape[1]))
    np.add.at(total_MX, place_N, x_NX)
    return image_M, total_MX / np.bincount(place_N)[:, None]


def features_together(parts: Mapping[str, Tensor]) -> np.ndarray:
    """All encoders' standardised features side by side (M, F), each encoder of mean squared length 1 / K."""
    return np.concatenate(
        [x_Md.flatten(1).cpu().double().numpy() / np.sqrt(len(parts) * x_Md[0].numel()) for x_Md in parts.values()], 1
    )


@torch.no_grad()
def put(encoding: Encoding, penalty: float, project: torch.nn.Linear, fusion: Linear) -> float:
    """Write this penalty's maps into a linear brain encoder and a linear fusion; returns the mean squared error."""
    responses_XP, features_FP = encoding.maps(penalty)
    project.weight.copy_(torch.from_numpy(responses_XP.T))
    project.bias.copy_(torch.from_numpy(-encoding.mean_X @ responses_XP))
    dims, projections = list(fusion.dims.values()), cast("list[torch.nn.Linear]", list(fusion.projections))
    parts = np.split(features_FP, np.cumsum(dims)[:-1])
    for projection, part_dP, dim in zip(projections, parts, dims, strict=True):
        projection.weight.copy_(torch.from_numpy(part_dP.T / np.sqrt(len(dims) * dim)))
        projection.bias.zero_()
    projections[0].bias.copy_(torch.from_numpy(-encoding.mean_F @ features_FP))
    return float(np.square(encoding.weights(penalty)[1]).mean())
