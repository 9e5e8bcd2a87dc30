"""Encoding model: banded ridge from image features to responses; the image of the nearest prediction is retrieved.

Ridge regression (`hvf.alignment.banded`) from the features of all encoders to the principal components of the
responses; then trial and predictions are compared where what the regression leaves unexplained is white. Closed form,
and for few channels and trials stronger than decoding (Kay et al., Nature 2008, "Identifying natural images from human
brain activity"; the noise covariance as in Naselaris et al., NeuroImage 2011).

Both embeddings get one more coordinate, a constant. By cosine, a constant of 0 compares directions; a large one
compares distances, which is the likelihood of the trial under each prediction: cos ≈ 1 - |z_b - z_f|² / 2 constant².

Features of places (``gridK``) are also weighed by where they are (`hvf.alignment.receptive_field`).

Letters: M images, P components of the responses, F features of all encoders, X flat samples of a trial (C·T), B bands,
L parts of the features, by band and place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import isqrt
from pathlib import Path
from typing import cast

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from torch import Tensor

from hvf.alignment.banded import centred_kernel, in_range, left_out, ridge, search, together_and_alone, walk
from hvf.alignment.receptive_field import Field, Parts
from hvf.evaluation import retrieval
from hvf.models.fusions.linear import Linear
from hvf.registry import FEATURE_ENDINGS, FEATURES, feature_file
from hvf.vision.specs import parse_spec

COMPONENTS = 512  # of the responses, at most; of fewer channels x samples all are kept
SEARCHED = 1000  # images, at most, on which bands are weighed and the score is chosen
LARGEST = 2**30  # bytes of their features' products, by part; of many parts fewer images are searched
WIDEST, NARROWEST = 1.0, -4.0  # log2 of the field's sd, in widths of the picture
CENTRES = (0.125, 0.375, 0.625, 0.875)
STARTS = tuple(product((-1.0, 0.0), CENTRES, CENTRES, (-3.0, -2.0, -1.0)))  # log10 of all weights, x, y, log2 of the sd
SHRINKAGES = (0.02, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
FOLDS = 5  # of images, whose errors are whitened by those of others
CONSTANTS = (0.0, 0.5, 1.0, 2.0, 8.0)  # of the embeddings, for trials of length 1 on average: cosine to likelihood


@dataclass(frozen=True)
class Choice:
    """What was chosen by leaving out training images."""

    weights: dict[str, float]  # of each band; the noise has 1
    field: Field | None  # of the features that have places; none: all places count alike
    shrinkage: float  # of what errors of different components have in common
    constant: float  # of the embeddings
    scale: float  # 1/τ
    loss: float  # cross-entropy of telling the left-out trials' images apart

    def entry(self) -> dict[str, object]:
        """As it stands in a history."""
        weights = {band: float(f"{weight:.3g}") for band, weight in self.weights.items()}
        field = {} if self.field is None else {"field": self.field.entry()}
        return {"loss": self.loss, "bands": weights, "shrinkage": self.shrinkage, "constant": self.constant, **field}


@dataclass(frozen=True)
class Encoding:
    """Responses to images and the images' features, for any weights of the bands.

    Parameters
    ----------
    mean_X, axes_XP : ndarray
        Mean and principal components of the responses.
    y_MP : ndarray
        The responses' components.
    mean_F, f_MF : ndarray
        Mean of the features of all encoders side by side, and what is left of them.
    parts : Parts
        The band and the place of each feature; those of a band have a mean squared length of 1 together.
    group_M : ndarray
        What each image shows: left out together.
    """

    mean_X: np.ndarray
    axes_XP: np.ndarray
    y_MP: np.ndarray
    mean_F: np.ndarray
    f_MF: np.ndarray
    parts: Parts
    group_M: np.ndarray

    @classmethod
    def of(cls, x_MX: np.ndarray, features: Mapping[str, Tensor], group_M: np.ndarray, kept: int) -> Encoding:
        """From mean responses and standardised features {spec: (M, d)}, keeping so many components of the responses."""
        from sklearn.decomposition import PCA

        mean_X = x_MX.mean(0)
        x_MX = x_MX - mean_X
        if kept < x_MX.shape[1]:
            axes_XP = np.asarray(PCA(kept, svd_solver="randomized", random_state=0).fit(x_MX).components_).T
        else:
            axes_XP = np.eye(x_MX.shape[1])
        dims = {spec: x_Md.shape[1] for spec, x_Md in features.items()}
        factors = factors_of(dims)
        f_MF = np.concatenate([x_Md.cpu().numpy() * factors[spec] for spec, x_Md in features.items()], 1)
        mean_F = f_MF.mean(0)
        f_MF -= mean_F
        if len(np.unique(group_M)) == 1:  # nothing would be left
            group_M = np.arange(len(group_M))
        parts = Parts.of(dims, {spec: band_of(spec) for spec in dims})
        return cls(mean_X, axes_XP, x_MX @ axes_XP, mean_F, f_MF, parts, group_M)

    def _kernels(self, rows_M: np.ndarray) -> np.ndarray:
        """Products of the images' features within each part, (L, M, M)."""
        count = len(self.parts.band_L)
        kernels_LMM = np.empty((count, len(rows_M), len(rows_M)), np.float32 if self.parts.placed else np.float64)
        for part in range(count):
            kernels_LMM[part] = centred_kernel(self.f_MF[np.ix_(rows_M, self.parts.part_F == part)])
        return kernels_LMM

    def choose(self) -> Choice:
        """Weigh bands and places and choose the score, leaving out images of these alone."""
        rows_M = _some(self.group_M, min(SEARCHED, isqrt(LARGEST // (4 * len(self.parts.band_L)))))
        kernels_LMM = self._kernels(rows_M)
        y_MP, group_M = self.y_MP[rows_M] - self.y_MP[rows_M].mean(0), self.group_M[rows_M]
        weight_B, field = self._searched(kernels_LMM, y_MP, group_M)
        errors_MP = left_out(_weighted(self.parts.weights(weight_B, field), kernels_LMM), y_MP, group_M)
        loss, scale, shrinkage, constant = choose_score(y_MP, errors_MP, group_M)
        weights = dict(zip(self.parts.bands, weight_B.tolist(), strict=True))
        return Choice(weights, field, shrinkage, constant, scale, loss)

    def _searched(
        self, kernels_LMM: np.ndarray, y_MP: np.ndarray, group_M: np.ndarray
    ) -> tuple[np.ndarray, Field | None]:
        """The bands' weights (B,), and the field if left-out responses are predicted better with one."""
        bands = len(self.parts.bands)
        of_band_BMM = [_weighted((self.parts.band_L == band).astype(float), kernels_LMM) for band in range(bands)]
        weight_B = search(np.array(of_band_BMM), y_MP, group_M, misfit)
        if not self.parts.placed:
            return weight_B, None

        def value(place_D: np.ndarray) -> float:
            log_B, (x, y, log_sd) = place_D[:bands], place_D[bands:]
            inside = 0 <= min(x, y) <= max(x, y) <= 1 and NARROWEST <= log_sd <= WIDEST
            if not (inside and in_range(log_B)):
                return np.inf
            weight_L = self.parts.weights(10.0**log_B, Field(x, y, 2.0**log_sd))
            return misfit(left_out(_weighted(weight_L, kernels_LMM), y_MP, group_M))

        alike = misfit(left_out(_weighted(self.parts.weights(weight_B, None), kernels_LMM), y_MP, group_M))
        of_bands = [np.append(d, np.zeros(3)) for d in together_and_alone(bands)]
        of_field = np.eye(bands + 3)[bands:] * np.array([[0.25], [0.25], [1.0]])
        start_D = min((np.append(np.log10(weight_B) + more, field) for more, *field in STARTS), key=value)
        place_D, least = walk(start_D, [*of_bands, *of_field], value)
        if least >= alike:
            return weight_B, None
        x, y, log_sd = place_D[bands:].tolist()
        return 10.0 ** place_D[:bands], Field(x, y, 2.0**log_sd)

    def solved(self, weights: Mapping[str, float], field: Field | None) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (F, P) of the features, and errors (M, P) of the responses that are left out."""
        weight_L = self.parts.weights(np.array([weights[band] for band in self.parts.bands]), field)
        root_F = np.sqrt(weight_L)[self.parts.part_F].astype(self.f_MF.dtype)
        coefficients_FP, errors_MP = ridge(self.f_MF * root_F, self.y_MP, self.group_M)
        return root_F[:, None] * coefficients_FP, errors_MP

    def maps(self, chosen: Choice) -> tuple[np.ndarray, np.ndarray]:
        """To where the error is white: of responses (X, P) and of features (F, P)."""
        coefficients_FP, errors_MP = self.solved(chosen.weights, chosen.field)
        white_PP = whitening(errors_MP, chosen.shrinkage)
        return self.axes_XP @ white_PP, coefficients_FP @ white_PP


def _weighted(weight_L: np.ndarray, kernels_LMM: np.ndarray) -> np.ndarray:
    """The sum (M, M) of the parts' products, each with its weight."""
    return np.tensordot(weight_L.astype(kernels_LMM.dtype), kernels_LMM, 1).astype(np.float64)


def band_of(spec: str) -> str:
    """The family of an encoder: layers, poolings and sizes of one network are a band, and arrays of one file."""
    file = feature_file(spec) if spec.startswith(FEATURES) else None
    if file is not None:
        return f"{FEATURES}{file.path}" if Path(file.path).suffix.lower() in FEATURE_ENDINGS else spec
    parsed = parse_spec(spec)
    return f"{parsed.kind}:{parsed.name}" + (f"/{parsed.weights}" if parsed.weights else "")


def factors_of(dims: Mapping[str, int]) -> dict[str, float]:
    """{spec: factor} by which each band's standardised features get a mean squared length of 1."""
    bands = {spec: band_of(spec) for spec in dims}
    return {spec: 1 / np.sqrt(dim * list(bands.values()).count(bands[spec])) for spec, dim in dims.items()}


def whitening(errors_MP: np.ndarray, shrinkage: float) -> np.ndarray:
    """The map (P, P) under which errors have unit covariance, its part off the diagonal shrunk."""
    covariance_PP = errors_MP.T @ errors_MP / len(errors_MP)
    own_P = np.diag(covariance_PP) + np.finfo(float).tiny
    covariance_PP = (1 - shrinkage) * covariance_PP + shrinkage * np.diag(own_P)
    return np.linalg.cholesky(np.linalg.inv(covariance_PP))


def choose_score(y_MP: np.ndarray, errors_MP: np.ndarray, group_M: np.ndarray) -> tuple[float, float, float, float]:
    """(cross-entropy, 1/τ, shrinkage, constant) by which left-out responses are told apart most surely.

    Errors are whitened by those of other folds: by their own, no shrinkage would seem best.
    """
    names, place_M = np.unique(group_M, return_inverse=True)
    fold_M = np.random.default_rng(0).permutation(np.arange(len(names)) % FOLDS)[place_M]
    folds = [fold_M == k for k in range(FOLDS) if 0 < (fold_M == k).sum() < len(fold_M)]
    scored: list[tuple[float, float, float, float]] = []
    for shrinkage in SHRINKAGES:
        white = [whitening(errors_MP[~fold], shrinkage) for fold in folds]
        z = [(y_MP[fold] @ w, (y_MP - errors_MP)[fold] @ w) for fold, w in zip(folds, white, strict=True)]
        length = float(np.sqrt(np.square(np.concatenate([z_b_MP for z_b_MP, _ in z])).sum(1).mean()))
        for constant in (length * c for c in CONSTANTS):
            cosines = [retrieval.similarity(_with(z_b_MP, constant), _with(z_f_MP, constant)) for z_b_MP, z_f_MP in z]
            scored.append((*_sharpest(cosines), shrinkage, constant))
    return min(scored)


def misfit(errors_MP: np.ndarray) -> float:
    """Mean over components of the log of the left-out error: no component counts for more because it is larger."""
    return float(np.log(np.square(errors_MP).mean(0) + np.finfo(float).tiny).mean())


def _sharpest(cosines: Sequence[np.ndarray]) -> tuple[float, float]:
    """Least cross-entropy of telling by cosine which column each row belongs to, and 1/τ that gives it."""

    def loss(log_scale: float) -> float:
        logits = [np.exp(log_scale) * cosine_NN.astype(np.float64) for cosine_NN in cosines]
        return float(np.concatenate([logsumexp(each, axis=1) - np.diag(each) for each in logits]).mean())

    found = minimize_scalar(loss, bounds=(0, 12), method="bounded", options={"xatol": 0.05})
    return float(found.fun), float(np.exp(found.x))


def _with(z_MP: np.ndarray, constant: float) -> np.ndarray:
    return np.pad(z_MP, ((0, 0), (0, 1)), constant_values=constant)


def _some(group_M: np.ndarray, most: int) -> np.ndarray:
    """Rows of at most so many images, all or none of a group, or else any."""
    if len(group_M) <= most:
        return np.arange(len(group_M))
    names, size_G = np.unique(group_M, return_counts=True)
    order_G = np.random.default_rng(0).permutation(len(names))
    fits = np.cumsum(size_G[order_G]) <= most
    taken_M = np.isin(group_M, names[order_G[fits]])
    rows_M = np.flatnonzero(taken_M)
    return rows_M if fits.sum() > 1 else np.sort(np.random.default_rng(0).permutation(len(group_M))[:most])


def mean_by_image(x_NX: np.ndarray, image_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images (M,) that trials answer, and the mean response to each (M, X)."""
    image_M, place_N = np.unique(image_N, return_inverse=True)
    total_MX = np.zeros((len(image_M), x_NX.shape[1]))
    np.add.at(total_MX, place_N, x_NX)
    return image_M, total_MX / np.bincount(place_N)[:, None]


@torch.no_grad()
def put(encoding: Encoding, chosen: Choice, project: torch.nn.Linear, fusion: Linear) -> None:
    """Write the maps of what was chosen into a linear brain encoder and a linear fusion."""
    responses_XP, features_FP = encoding.maps(chosen)
    constant = np.append(np.zeros(responses_XP.shape[1]), chosen.constant)
    project.weight.copy_(torch.from_numpy(_with(responses_XP, 0).T))
    project.bias.copy_(torch.from_numpy(_with(-encoding.mean_X @ responses_XP[None], 0)[0] + constant))
    dims, projections = fusion.dims, cast("Sequence[torch.nn.Linear]", list(fusion.projections))
    factors = factors_of(dims)
    parts = np.split(_with(features_FP, 0), np.cumsum(list(dims.values()))[:-1])
    for projection, part_dD, spec in zip(projections, parts, dims, strict=True):
        projection.weight.copy_(torch.from_numpy(factors[spec] * part_dD.T))
        projection.bias.zero_()
    projections[0].bias.copy_(torch.from_numpy(_with((-encoding.mean_F @ features_FP)[None], 0)[0] + constant))
