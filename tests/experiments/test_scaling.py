"""The line of accuracy over the logarithm of the amount of data."""

from __future__ import annotations

import numpy as np
import pytest

from hvf.experiments.scaling import fit_line


def test_slope_is_the_gain_of_a_doubling():
    ranks = [[1, 2, 2, 2], [1, 1, 2, 2], [1, 1, 1, 2]]  # a quarter more of the images at each doubling
    hit_PN = np.array([row * 5 for row in ranks]) <= 1
    ids = [str(i) for i in range(20)]
    fit = fit_line([1, 2, 4], hit_PN, ids)
    assert fit["slope"]["value"] == pytest.approx(0.25)
    assert fit["slope"]["n"] == 20
    assert fit["r2"] == pytest.approx(1.0)
    low, high = fit["slope"]["ci95"]
    assert 0 < low < 0.25 < high
    flat = fit_line([1, 2, 4], hit_PN[[0, 0, 0]], ids)
    assert flat["slope"]["value"] == pytest.approx(0.0, abs=1e-9)
    assert flat["intercept"] == pytest.approx(0.25)
