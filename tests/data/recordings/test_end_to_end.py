"""From raw files in the published layouts to retrieved images, through the commands that a user types. Simulated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hvf.cli import main
from hvf.data.images.image_set import open_images
from hvf.data.things_meg import prepare as things_meg
from hvf.data.trials.trials import Trials
from hvf.experiments.results import Result
from hvf.runs import Run
from hvf.simulation import raw_files
from hvf.simulation import things_meg as written_meg
from hvf.simulation.brain import simulated_brain
from hvf.simulation.things_eeg import write_things_eeg
from hvf.simulation.things_meg import write_things_meg

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
@pytest.mark.slow(part=8)
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
    result = Result.read(run.path)
    assert result.study.simulated
    assert "simulated" in capsys.readouterr().out
    assert len(result.gallery) == len(np.unique(trials.split("test").image_ids))
    assert json.loads(Path("run/metrics.json").read_text())["retrieval/brain/top5"]["n"] == len(result.gallery)


def apart_and_flat(x_NCT: np.ndarray) -> np.ndarray:
    """What differs between images, every channel of sd 1, (N, C · T)."""
    x_NCT = x_NCT - x_NCT.mean(axis=0)
    return (x_NCT / x_NCT.std(axis=(0, 2), keepdims=True)).reshape(len(x_NCT), -1)


def pairs_told_apart(scores_NN: np.ndarray) -> float:
    """Share of pairs (i, j) in which trial i is more alike to what image i evokes than to what image j does."""
    own_N1 = np.diag(scores_NN)[:, None]
    return float((scores_NN < own_N1).sum() / (len(own_N1) * (len(own_N1) - 1)))


@pytest.mark.parametrize("split", ["test", "train"])
@pytest.mark.slow(part=8)
def test_prepared_meg_carries_the_images(roots, split, tmp_path):
    """Without any training: trials against the noise-free response to the picture that they name, as it lies on disk.

    Wrongly paired images, permuted channels or a shifted window would leave nothing, as permuted trials do.
    """
    root = roots["things-meg"]
    images = open_images(root / "Images")
    trials = Trials.load(things_meg.prepare(root, tmp_path / "trials")[0]).paired_with(images).split(split).average()
    row = {name: i for i, name in enumerate(images.ids)}
    images = images.select([row[name] for name in trials.image_ids.tolist()])
    subject = int(trials.subject.removeprefix("sub-"))
    brain = simulated_brain("simulated-meg", subject, trials.sfreq, trials.tmin, trials.shape[2])
    response_NCT = (raw_files.image_drive(images) @ raw_files.response_kernel(brain)).reshape(
        len(images), *brain.evoked_CT.shape
    )
    truth_PN = apart_and_flat(response_NCT[:, written_meg._ctf_info()[1]]).T
    truth_PN /= np.linalg.norm(truth_PN, axis=0)
    x_NCT, rng = trials.load_array(), np.random.default_rng(0)
    scores_NN = apart_and_flat(x_NCT) @ truth_PN
    found = pairs_told_apart(scores_NN)

    permuted = [pairs_told_apart(scores_NN[rng.permutation(len(trials))]) for _ in range(99)]
    assert abs(np.mean(permuted) - 0.5) < 0.02
    assert found > max(permuted)  # p = 0.01
    for spoilt_NCT in (np.roll(x_NCT, 40, axis=2), x_NCT[:, rng.permutation(x_NCT.shape[1])]):  # 200 ms late
        assert pairs_told_apart(apart_and_flat(spoilt_NCT) @ truth_PN) - 0.5 < (found - 0.5) / 2


def test_recordings_that_are_not_there_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for dataset in ("things-eeg", "things-meg", "bids"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert main(["data", "prepare", dataset, "--root", "empty", "--out", "trials"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not Path("trials").exists()
    assert main(["data", "prepare", "things-eeg", "--root", "empty", "--recipe", "hfv"]) == 2
    assert "did you mean 'hvf'" in capsys.readouterr().err
