"""Multivariate noise normalisation (MVNN; Guggenmos et al. 2018): shrunk covariances and their inverse root.

Letters: B sets of samples, N samples, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hvf.config import HvfError


def shrunk_covariances(x_BCN: np.ndarray) -> np.ndarray:
    """Ledoit-Wolf covariances of B sets of N samples of C features, (B, C, C).

    Equal to `sklearn.discriminant_analysis._cov(X, shrinkage="auto")` of each: the features are standardised, shrunk
    towards the identity and scaled back, in closed form.
    """
    _, c, n = x_BCN.shape
    x_BCN = x_BCN - x_BCN.mean(axis=2, keepdims=True)
    cov_BCC = x_BCN @ x_BCN.swapaxes(1, 2) / n
    variance_BC = np.diagonal(cov_BCC, axis1=1, axis2=2).copy()
    variance_BC[variance_BC == 0] = 1.0  # as StandardScaler does with a constant feature
    scale_BC = np.sqrt(variance_BC)
    corr_BCC = cov_BCC / scale_BC[:, :, None] / scale_BC[:, None, :]
    trace_B = np.trace(corr_BCC, axis1=1, axis2=2)
    square_B = np.einsum("bij,bij->b", corr_BCC, corr_BCC)
    norm_BN = np.matmul((1 / variance_BC)[:, None, :], x_BCN * x_BCN)[:, 0]
    beta_B = ((norm_BN**2).sum(axis=1) / n - square_B) / (c * n)
    delta_B = (square_B - trace_B**2 / c) / c
    with np.errstate(invalid="ignore", divide="ignore"):
        shrinkage_B = np.where(delta_B > 0, np.minimum(beta_B, delta_B) / delta_B, 0.0)
    out_BCC = (1 - shrinkage_B)[:, None, None] * cov_BCC
    diagonal = np.arange(c)
    out_BCC[:, diagonal, diagonal] += (shrinkage_B * trace_B / c)[:, None] * variance_BC
    return out_BCC


def inverse_root(cov_CC: np.ndarray, ch_names: Sequence[str]) -> np.ndarray:
    """The symmetric inverse square root of a covariance. Raises HvfError, naming channels, if it is singular."""
    value_C, vector_CC = np.linalg.eigh(cov_CC)
    if value_C[0] <= value_C[-1] * len(value_C) * np.finfo(float).eps:
        worst = np.argsort(-np.abs(vector_CC[:, 0]))[:3]
        names = ", ".join([ch_names[int(i)] for i in np.sort(worst)])
        raise HvfError(
            f"the channels are not independent, so that their noise cannot be whitened: look at {names} (copies of "
            "one another, bridged, or all referenced to their own mean?)"
        )
    return vector_CC / np.sqrt(value_C) @ vector_CC.T
