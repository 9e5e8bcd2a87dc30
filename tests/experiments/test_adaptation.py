"""The curve of accuracy against the share of a new person's images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hvf import presets
from hvf.alignment import TrainingSet
from hvf.config import Config, HvfError, with_settings
from hvf.data.trials.trials import Trials
from hvf.experiments.adaptation import FILE, AdaptationCurve, curves
from hvf.experiments.results import Row
from hvf.runs import Run
from tests.a_result import a_result


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"subjects": (3, 11)}, "--subjects takes people 1 to 10, each once, not 3 11"),
        ({"others": (2, 2)}, "--others takes people 1 to 10"),
        ({"others": (3, 4)}, "person 3 is both new and trained on"),
        ({"others": (2,)}, "at least two --others"),
        ({"shares": (0.0, 120.0)}, "between 0 and 100"),
        ({"seeds": 0}, "at least 1"),
    ],
)
def test_impossible_options_are_refused(options, reason, tmp_path):
    with pytest.raises(HvfError, match=reason):
        replace(AdaptationCurve(), **options).run(presets.mini(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_are_refused(tmp_path):
    config = with_settings(presets.mini(), {"data.study": "files", "data.trials": "x.npy", "data.images": "y"})
    with pytest.raises(HvfError, match="hvf adapt"):
        AdaptationCurve().run(config, tmp_path / "out")


def test_points_are_means_over_people():
    ranks = {"a": [1, 1, 2, 2], "b": [1, 2, 2, 2]}
    results = []
    for name, ranks_N in ranks.items():
        row = Row.of_ranks(np.array(ranks_N), settings={"model": "adapted", "share": 10, "images": 30})
        result = a_result(["i0", "i1", "i2", "i3"], {}, kind="adaptation", run=name)
        results.append(result.with_row("adapted, 10 %", row))
    (point,) = curves(results)["adapted"]
    assert point["top1"]["value"] == pytest.approx(3 / 8)
    assert point["each"] == [0.5, 0.25]
    assert (point["share"], point["images"]) == (10, 30)
    low, high = point["top1"]["ci95"]
    assert low < 3 / 8 < high
    assert curves(results)["chance"][0]["top1"]["value"] == pytest.approx(1 / 4)


def test_the_summary_says_of_what_study_it_is(tmp_path):
    row = Row.of_ranks(np.array([1, 2]), settings={"model": "adapted", "share": 10, "images": 30})
    result = a_result(["i0", "i1"], {}, kind="adaptation").with_row("adapted, 10 %", row)
    run = Run.create(tmp_path, Config())
    result.write(tmp_path)
    run.write_json(FILE, curves([result]))
    note, adapted, *_ = AdaptationCurve().summary(tmp_path)
    assert note == f"new people sub-08; {result.study.note}"  # which says so if the study is simulated
    assert adapted.startswith("adapted")


def test_a_larger_share_holds_the_smaller():
    from hvf.experiments.adaptation import _share_of
    from hvf.experiments.protocols import Split

    trials = Trials(np.ones((40, 2, 3)), [f"i{i}" for i in range(40)], "sub-01", 100.0, 0.0, "ab", "eeg")
    split = Split(trials, {"vae:mini": np.zeros((40, 2))}, [f"c{i // 2}" for i in range(40)])
    parts = [set(_share_of(split, share, 0).trials.image_ids) for share in (0.01, 0.25, 0.5, 1.0)]
    assert [len(part) for part in parts] == [6, 10, 20, 40]  # at least three concepts
    assert all(a < b for a, b in zip(parts, parts[1:], strict=False))
    assert isinstance(split, TrainingSet)
