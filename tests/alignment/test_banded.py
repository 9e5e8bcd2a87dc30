"""Banded ridge: closed forms against the obvious slow way, and the weights that are found."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from hvf.alignment.banded import centred_kernel, left_out, ridge, search

GROUPS = {"each alone": np.arange(30), "by concept": np.repeat(np.arange(12), [1, 2, 3, 4] * 3)}


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("width", [10, 90])
def test_coefficients_and_errors_are_those_of_ridge_group_by_group(width, groups):
    rng, group_M = np.random.default_rng(1), GROUPS[groups]
    f_MF, y_MP = rng.normal(size=(30, width)), rng.normal(size=(30, 5)) + 4
    centred_MF, centred_MP = f_MF - f_MF.mean(0), y_MP - y_MP.mean(0)
    coefficients, errors = ridge(centred_MF, centred_MP, group_M)
    np.testing.assert_allclose(coefficients, Ridge(1.0).fit(f_MF, y_MP).coef_.T, atol=1e-8)
    slow = np.empty_like(errors)
    for group in np.unique(group_M):
        out = group_M == group
        slow[out] = y_MP[out] - Ridge(1.0).fit(f_MF[~out], y_MP[~out]).predict(f_MF[out])  # with its own intercept
    np.testing.assert_allclose(errors, slow, atol=1e-8)
    np.testing.assert_allclose(left_out(centred_kernel(f_MF), centred_MP, group_M), slow, atol=1e-8)


def test_the_band_that_responses_come_from_gets_the_weight():
    rng = np.random.default_rng(2)
    told, noise = rng.normal(size=(80, 6)), rng.normal(size=(80, 200))
    y_MP = told @ rng.normal(size=(6, 4)) + 0.5 * rng.normal(size=(80, 4))
    kernels = np.array([centred_kernel(told / np.sqrt(6)), centred_kernel(noise / np.sqrt(200))])

    def squared(errors_MP: np.ndarray) -> float:
        return float(np.square(errors_MP).sum())

    weights = search(kernels, y_MP - y_MP.mean(0), np.arange(80), squared)
    assert weights[0] > 100 * weights[1]
    swapped = search(kernels[::-1], y_MP - y_MP.mean(0), np.arange(80), squared)
    assert swapped[1] > 100 * swapped[0]
    best, equal = (
        squared(left_out(np.tensordot(w, kernels, 1), y_MP - y_MP.mean(0), np.arange(80)))
        for w in (weights, np.full(2, weights.sum() / 2))
    )
    assert best < equal
