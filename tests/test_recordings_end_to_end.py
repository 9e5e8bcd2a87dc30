"""From raw files in the published layouts to retrieved images, through the commands that a user types. Simulated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hvf.cli import main
from hvf.data.layouts import write_things_eeg, write_things_meg
from hvf.data.trials import Trials
from hvf.runs import Run

SMALL = {"train_concepts": 40, "images_per_concept": 3, "test_concepts": 20}


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("layouts")
    return {
        "things-eeg": write_things_eeg(folder / "eeg", (8,), **SMALL, train_repeats=4, test_repeats=8),
        "things-meg": write_things_meg(folder / "meg", (1,), **SMALL),
    }


@pytest.mark.parametrize(
    ("dataset", "subject", "images"), [("things-eeg", "08", "image_set"), ("things-meg", "01", "Images")]
)
def test_prepare_then_retrieve(roots, dataset, subject, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = roots[dataset]
    assert main(["data", "prepare", dataset, "--root", str(root), "--out", "trials"]) == 0
    path = Path("trials") / f"sub-{subject}_trials.npy"
    trials = Trials.load(path)
    assert trials.simulated
    assert set(trials.split("train").concepts).isdisjoint(trials.split("test").concepts)

    made = path.stat().st_mtime_ns
    assert main(["data", "prepare", dataset, "--root", str(root), "--out", "trials"]) == 0
    assert path.stat().st_mtime_ns == made  # what is whole is kept

    words = ["retrieve", "--trials", str(path), "--images", str(root / images), "--epochs", "2", "--out", "run"]
    assert main(words) == 0
    run = Run.open("run")
    assert run.simulated
    assert "simulated" in capsys.readouterr().out
    ranks = run.read_json("retrieval.json")
    assert len(ranks["gallery"]) == len(np.unique(trials.split("test").image_ids))
    assert json.loads(Path("run/metrics.json").read_text())["retrieval/brain/top5"]["n"] == len(ranks["gallery"])


def test_recordings_that_are_not_there_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for dataset in ("things-eeg", "things-meg", "bids"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert main(["data", "prepare", dataset, "--root", "empty", "--out", "trials"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not Path("trials").exists()
    assert main(["data", "prepare", "things-eeg", "--root", "empty", "--recipe", "hfv"]) == 2
    assert "did you mean 'hvf'" in capsys.readouterr().err
