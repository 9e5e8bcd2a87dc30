"""Banded ridge regression: the features of each family of encoders have a weight of their own.

y = Σ_b f_b β_b + error, where |β_b|² is penalised by 1 / w_b: a band that tells little of the responses gets a small
weight, instead of one penalty for all (Nunez-Elizalde, Huth and Gallant, NeuroImage 2019). The weights are those under
which responses that are left out, a concept at a time, are predicted best; leaving out is closed form.

Letters: M images, P components of the responses, F features, B bands, G groups, g images of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.linalg import lapack

LOWEST, HIGHEST = -4.0, 4.0  # log10 of a band's weight: the variance it explains, that of the noise being 1
STEPS = (1.0, 0.5, 0.25)  # of a walk; of log10 for weights
Criterion = Callable[[np.ndarray], float]  # of left-out errors (M, P); less is better


def ridge(f_MF: np.ndarray, y_MP: np.ndarray, group_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (F, P) of ridge with penalty 1, and the errors (M, P) of predicting each group from the others.

    Features and responses are centred: the intercept, which is not penalised, is left out and fitted with them.
    """
    if len(f_MF) <= f_MF.shape[1]:
        inverse_MM = _inverse(f_MF @ f_MF.T)
        return f_MF.T @ (inverse_MM @ y_MP), _without_group(inverse_MM @ y_MP, _blocks_of(inverse_MM), group_M)
    inverse_FF = _inverse(f_MF.T @ f_MF)
    coefficients_FP = inverse_FF @ (f_MF.T @ y_MP)

    def blocks(rows_Gg: np.ndarray) -> np.ndarray:
        f_GgF = f_MF[rows_Gg]
        return np.eye(rows_Gg.shape[1]) - 1 / len(f_MF) - f_GgF @ inverse_FF @ f_GgF.transpose(0, 2, 1)

    return coefficients_FP, _without_group(y_MP - f_MF @ coefficients_FP, blocks, group_M)


def left_out(kernel_MM: np.ndarray, y_MP: np.ndarray, group_M: np.ndarray) -> np.ndarray:
    """The errors (M, P) of `ridge`, from products (M, M) of the features and the responses, both centred."""
    inverse_MM = _inverse(kernel_MM)
    return _without_group(inverse_MM @ y_MP, _blocks_of(inverse_MM), group_M)


def _blocks_of(inverse_MM: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """For groups of rows (G, g), the blocks (G, g, g) of what makes residuals of responses, mean and all."""
    return lambda rows_Gg: inverse_MM[rows_Gg[:, :, None], rows_Gg[:, None, :]] - 1 / len(inverse_MM)


def _without_group(
    residual_MP: np.ndarray, blocks: Callable[[np.ndarray], np.ndarray], group_M: np.ndarray
) -> np.ndarray:
    """Each group's residuals as they are when the group is left out: block⁻¹ residual."""
    errors_MP = np.empty_like(residual_MP)
    order_M = np.argsort(group_M, kind="stable")
    sizes_G = np.unique(group_M, return_counts=True)[1]
    starts_G = np.cumsum(sizes_G) - sizes_G
    for size in np.unique(sizes_G):
        rows_Gg = order_M[starts_G[sizes_G == size][:, None] + np.arange(size)]
        for part_Gg in np.array_split(rows_Gg, max(1, len(rows_Gg) * size * size // 2**22)):
            errors_MP[part_Gg] = np.linalg.solve(blocks(part_Gg), residual_MP[part_Gg])
    return errors_MP


def search(kernels_BMM: np.ndarray, y_MP: np.ndarray, group_M: np.ndarray, criterion: Criterion) -> np.ndarray:
    """Weights (B,) of the bands under which the criterion of left-out errors is least, walked to from equal ones."""

    def value(log_B: np.ndarray) -> float:
        if not in_range(log_B):
            return np.inf
        return criterion(left_out(np.tensordot(10.0**log_B, kernels_BMM, 1), y_MP, group_M))

    return 10.0 ** walk(np.zeros(len(kernels_BMM)), together_and_alone(len(kernels_BMM)), value)[0]


def in_range(log_B: np.ndarray) -> bool:
    """Whether the log10 of every band's weight is one that is searched."""
    return bool(log_B.min() >= LOWEST and log_B.max() <= HIGHEST)


def together_and_alone(bands: int) -> list[np.ndarray]:
    """The directions of a walk over weights: all bands together, or one alone."""
    return [np.ones(bands), *(np.eye(bands) if bands > 1 else ())]


def walk(
    start_D: np.ndarray, directions: Sequence[np.ndarray], value: Callable[[np.ndarray], float]
) -> tuple[np.ndarray, float]:
    """Where a value is least, and that value: along each direction as long as it falls, in ever finer steps.

    A place that is not allowed has the value infinity.
    """
    known = dict[tuple[float, ...], float]()

    def at(place_D: np.ndarray) -> float:
        key = tuple(np.round(place_D, 3).tolist())
        if key not in known:
            known[key] = value(place_D)
        return known[key]

    place_D = start_D
    for step in STEPS:
        moved = True
        while moved:
            moved = False
            for direction in (sign * step * d for d in directions for sign in (1, -1)):
                while at(place_D + direction) < at(place_D):
                    place_D, moved = place_D + direction, True
    return place_D, at(place_D)


def centred_kernel(f_MF: np.ndarray) -> np.ndarray:
    """Products (M, M) of features less their means over the images."""
    k_MM = (f_MF @ f_MF.T).astype(np.float64)
    mean_M = k_MM.mean(0)
    return k_MM - mean_M - mean_M[:, None] + mean_M.mean()


def _inverse(a_NN: np.ndarray) -> np.ndarray:
    """(A + 1)⁻¹ of a symmetric matrix that has no negative eigenvalue."""
    a_NN = np.array(a_NN, dtype=np.float64, order="F")
    a_NN[np.diag_indices(len(a_NN))] += 1
    routines: Any = lapack
    lower_NN, _ = routines.dpotrf(a_NN, lower=1, overwrite_a=1)
    inverse_NN, _ = routines.dpotri(lower_NN, lower=1, overwrite_c=1)
    lower_NN = np.tril(inverse_NN)
    return lower_NN + np.tril(lower_NN, -1).T
