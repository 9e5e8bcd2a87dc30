"""Bootstrap intervals over images."""

from __future__ import annotations

import numpy as np
import pytest

from hvf.evaluation.statistics import bootstrap_ci, mean_over_images

RNG = np.random.default_rng(0)


def test_bootstrap_is_seeded_and_covers_the_mean():
    covered = []
    for seed in range(200):
        sample = np.random.default_rng(seed).normal(size=40)
        low, high = bootstrap_ci(sample, resamples=500)
        covered.append(low <= 0 <= high)
    assert 0.88 < np.mean(covered) <= 0.99
    assert bootstrap_ci(sample) == bootstrap_ci(sample)
    assert bootstrap_ci(sample) != bootstrap_ci(sample, seed=1)
    narrow, wide = bootstrap_ci(sample, level=0.5), bootstrap_ci(sample, level=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_bootstrap_does_not_depend_on_how_draws_are_chunked():
    sample = RNG.normal(size=3000)
    low, high = bootstrap_ci(sample, resamples=3000)  # several chunks
    half = 1.96 * sample.std() / np.sqrt(3000)
    assert (low, high) == pytest.approx((sample.mean() - half, sample.mean() + half), abs=0.1 * half)


def test_summary_leaves_out_what_is_undefined_and_says_so():
    some = mean_over_images([0.5, np.nan, 0.7])
    assert (some["value"], some["n"]) == (pytest.approx(0.6), 2)
    none = mean_over_images([np.nan])
    assert np.isnan([none["value"], *none["ci95"]]).all()
    assert none["n"] == 0
    assert mean_over_images([0.25, 0.25]) == {"value": 0.25, "ci95": [0.25, 0.25], "n": 2}


def test_summary_averages_the_rounds_of_an_image_first():
    rounds_RN = [[0.0, 1.0], [1.0, 0.0]]
    assert mean_over_images(rounds_RN) == {"value": 0.5, "ci95": [0.5, 0.5], "n": 2}
