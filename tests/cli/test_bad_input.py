"""Bad input, through the real command: one clear line, exit code 2, nothing written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvf import presets
from hvf.alignment import Alignment
from hvf.cli import main
from hvf.config import HvfError, with_settings
from hvf.experiments import stages
from hvf.runs import Run

N, C = 30, 6
ROOT = Path(__file__).parents[2]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with good responses and images; each test spoils one thing."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.standard_normal((N, C)).astype(np.float32))
    (tmp_path / "images").mkdir()
    for i in range(N):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(tmp_path / "images" / f"{i:02d}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture, *command: str) -> str:
    """Run a command that must be refused; return its one line."""
    before = sorted(path for path in Path().rglob("*"))
    assert main(list(command)) == 2
    assert sorted(path for path in Path().rglob("*")) == before, "something was written"
    said = capsys.readouterr().err.strip().splitlines()
    assert [line.startswith("hvf: ") for line in said].count(True) == 1
    assert "Traceback" not in "".join(said)
    return said[-1]


TRAIN = ("train", "--trials", "x.npy", "--images", "images", "--test-images", "6", "--targets", "vae:mini")


@pytest.mark.slow(part=8)
def test_a_shell_without_utf_8_is_told_all_the_same(mine: Path) -> None:
    (mine / "images").rename(mine / "café ☕")
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONPATH": str(ROOT), "HVF_QUIET": "1"}
    for path, code in (("café ☕", 0), ("thé ☕", 2)):
        command = [sys.executable, "-m", "hvf", "data", "doctor", path]
        done = subprocess.run(command, cwd=mine, env=environment, capture_output=True, check=False)
        said = (done.stdout + done.stderr).decode("ascii")
        assert done.returncode == code, said
        assert "Traceback" not in said
        assert r"\xe9 \u2615" in said


@pytest.mark.parametrize("command", ["reconstruct", "retrieve", "train"])
def test_a_subject_that_does_not_exist(mine: Path, capsys, command: str) -> None:
    assert "subjects 1 to 10" in refused(capsys, command, "--subject", "11")


def test_trials_and_images_of_different_counts(mine: Path, capsys) -> None:
    (mine / "images" / "00.png").unlink()
    said = refused(capsys, *TRAIN)
    assert str(N) in said
    assert str(N - 1) in said


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (3.0, "same value")])
def test_channels_that_say_nothing(mine: Path, capsys, value: float, word: str) -> None:
    x = np.load("x.npy")
    x[:, 4] = value
    np.save("x.npy", x)
    said = refused(capsys, *TRAIN)
    assert word in said
    assert "004" in said


def test_a_truncated_image(mine: Path, capsys) -> None:
    image = mine / "images" / "07.png"
    image.write_bytes(image.read_bytes()[:60])
    assert "07.png" in refused(capsys, *TRAIN)


def test_a_pickle_in_disguise(mine: Path, capsys) -> None:
    np.save("x.npy", np.array([{"eeg": 1}], dtype=object), allow_pickle=True)
    assert "pickle" in refused(capsys, *TRAIN)


def test_weights_that_are_not_there(mine: Path, capsys) -> None:
    said = refused(capsys, *TRAIN[:-1], "openclip:ViT-B-32/laion2b_s34b_b79k")
    assert "hf download" in said


@pytest.mark.parametrize("out", ["/proc/run", "x.npy/run"])
def test_a_folder_that_cannot_be_written(mine: Path, capsys, out: str) -> None:
    assert "cannot write" in refused(capsys, *TRAIN, "--out", out)


def test_a_checkpoint_made_for_other_channels(mine: Path, capsys) -> None:
    """The one error met late: the run exists, its checkpoint is of another recording. Nothing in it changes."""
    small = {"data.train_concepts": 20, "data.images_per_concept": 1, "data.test_concepts": 5, "align.epochs": 1}
    run = Run.create(mine / "run", with_settings(presets.mini(), small))
    trained, _ = stages.train_run(run)
    alignment = trained.alignment
    assert alignment is not None
    names = ("Fp1x", *alignment.recording.ch_names[1:])
    other = Alignment(
        alignment.brain,
        alignment.hvf,
        alignment.log_scale,
        alignment.history,
        alignment.normalisation,
        replace(alignment.recording, ch_names=names),
        alignment.config,
    )
    shutil.rmtree(run.path / "checkpoint")
    other.save(run.path / "checkpoint")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(HvfError, match=r"ch_names.*Fp1x"):
        stages.train_run(run)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
