"""The line of accuracy over the logarithm of the amount of data."""

from __future__ import annotations

import numpy as np
import pytest

from hvf import presets
from hvf.config import Config, HvfError, with_settings
from hvf.experiments.scaling import FILE, Scaling, _points, fit_line
from hvf.runs import Run
from tests.a_result import a_result


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


SMALL = {
    "data.train_concepts": 24,
    "data.images_per_concept": 1,
    "data.test_concepts": 4,
    "align.epochs": 1,
    "targets.specs": ("vae:mini",),
}


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_repeats_that_make_no_line_are_refused_before_anything_is_trained(repeats, tmp_path):
    config = with_settings(presets.mini(), {**SMALL, "data.train_repeats": repeats})
    with pytest.raises(HvfError, match=f"halving --data.train-repeats {repeats} gives fewer: have 4 or more"):
        Scaling(axes=("repeats",)).run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_concepts_that_are_halved_to_too_few_are_refused():
    config = with_settings(presets.mini(), SMALL)
    with pytest.raises(HvfError, match=r"--points 5 halves 24 concepts to 1, and 3 are the fewest .*: --points 4"):
        _points(config, "trials", 5)
    assert [amount for _, amount, _, _ in _points(config, "trials", 4)] == [3, 6, 12, 24]
    with pytest.raises(HvfError, match="8 concepts to train on are too few for a line of three points: have 12"):
        _points(with_settings(config, {"data.train_concepts": 8}), "trials", 3)


def test_the_summary_says_of_what_study_it_is_and_where_chance_stands(tmp_path):
    result = a_result(["i0", "i1"], {"network, all concepts": [1, 2]}, kind="scaling")
    run = Run.create(tmp_path, Config())
    result.write(tmp_path)
    fit = fit_line([1, 2, 4], np.array([[0, 0], [0, 1], [0, 1]]), ["i0", "i1"])
    run.write_json(FILE, {"trials": {"network": fit}})
    note, line = Scaling().summary(tmp_path)
    assert note == f"{result.study.note}; chance top-1 50.0 [0.0, 100.0] %"
    assert line.startswith("trials")
