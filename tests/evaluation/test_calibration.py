"""Probabilities and sets on data whose right values are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from hvf.config import HvfError
from hvf.evaluation import calibration
from hvf.evaluation.calibration import Sharpness


def drawn(scale: float, n: int = 2000, m: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and targets drawn from softmax(scale * scores)."""
    rng = np.random.default_rng(seed)
    scores_NM = rng.uniform(-1, 1, (n, m))
    p_NM = softmax(scale * scores_NM, axis=1)
    target_N = (p_NM.cumsum(axis=1) < rng.uniform(size=(n, 1))).sum(axis=1)
    return scores_NM, target_N


@pytest.mark.parametrize("scale", [2.0, 8.0, 40.0])
def test_the_temperature_that_made_the_answers_is_found(scale):
    fitted = calibration.fit_sharpness(*drawn(scale))
    assert fitted.scale == pytest.approx(scale, rel=0.15)
    assert fitted.penalty == 0.0


def test_popularity_is_used_where_it_helps_and_only_there():
    scores_NM, target_N = drawn(8.0)
    popularity_M = np.random.default_rng(1).standard_normal(30)
    hubs_NM = scores_NM + popularity_M / 8.0  # near to every trial, whatever was seen
    helped = calibration.fit_sharpness(hubs_NM, target_N, popularity_M)
    assert helped.penalty == pytest.approx(1.0, abs=0.15)
    assert calibration.fit_sharpness(scores_NM, target_N, popularity_M).penalty == 0.0


def test_the_threshold_is_the_conformal_quantile():
    mass_N = np.arange(1, 10) / 10  # nine trials: the ninth of ten at 90 %
    assert calibration.conformal_threshold(mass_N, 0.9) == 0.9
    assert calibration.conformal_threshold(mass_N, 0.5) == 0.5
    assert calibration.conformal_threshold(mass_N, 1e-12) == 0.1
    assert calibration.conformal_threshold(mass_N[:8], 0.9) == 1.0  # too few: the whole gallery
    with pytest.raises(HvfError, match="between 0 and 1"):
        calibration.conformal_threshold(mass_N, 1.0)


def test_sets_hold_what_lies_above_the_threshold_and_all_of_a_tie():
    p_NM = np.array([[0.5, 0.3, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]])
    assert calibration.set_sizes(p_NM, 0.0).tolist() == [1, 4]
    assert calibration.set_sizes(p_NM, 0.5).tolist() == [2, 4]
    assert calibration.set_sizes(p_NM, 0.8).tolist() == [4, 4]  # the two that tie
    assert calibration.mass_above(p_NM, np.array([2, 3])) == pytest.approx([0.8, 0.0])


@pytest.mark.parametrize("scale", [1.0, 8.0])  # temperatures that are wrong: the level holds all the same
def test_sets_hold_the_right_item_as_often_as_promised(scale):
    held = []
    for seed in range(40):
        scores_NM, target_N = drawn(4.0, 400, seed=seed)
        p_NM = Sharpness(scale).probabilities(scores_NM)
        mass_N = calibration.mass_above(p_NM, target_N)
        threshold = calibration.conformal_threshold(mass_N[:200], 0.9)
        held.append((mass_N[200:] <= threshold).mean())
    assert np.mean(held) == pytest.approx(0.9, abs=0.01)


def test_calibration_error_of_right_and_of_boastful_probabilities():
    rng = np.random.default_rng(0)
    p_N = rng.uniform(0.1, 0.9, 20000)
    right_N = rng.uniform(size=20000) < p_N
    assert calibration.expected_calibration_error(p_N, right_N) < 0.015
    boast_N = np.sqrt(p_N)
    distance = float(np.abs(boast_N - p_N).mean())
    assert calibration.expected_calibration_error(boast_N, right_N) == pytest.approx(distance, abs=0.01)
    bins = calibration.reliability(p_N, right_N)
    assert sum(part["n"] for part in bins) == 20000
    assert all(part["ci95"][0] <= part["right"] <= part["ci95"][1] for part in bins)
