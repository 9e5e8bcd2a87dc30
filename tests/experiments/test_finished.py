"""A finished run is known again as long as nothing has changed, and then nothing is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hvf.cli.decode import Reconstruct
from hvf.cli.parser import parse
from hvf.experiments import finished
from hvf.experiments.finished import is_finished, keep_finished
from hvf.runs import Run


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    """A folder as a reconstruction of files leaves it, so far as is looked at here."""
    monkeypatch.setenv("HVF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    np.save("responses.npy", np.zeros((4, 3), np.float32))
    Path("photos").mkdir()
    Path("photos", "a.png").write_bytes(b"a")
    words = ["--trials", "responses.npy", "--images", "photos", "--out", "run"]
    run = Run.create("run", parse(Reconstruct, words).config)
    entry = {"value": 0.5, "ci95": [0.4, 0.6], "n": 4}
    run.write_json("metrics.json", {"reconstruction/brain/pixcorr": entry})
    (run.path / "images" / "brain").mkdir(parents=True)
    (run.path / "images" / "brain" / "0000_a.png").write_bytes(b"b")
    return run


def test_only_what_was_kept_is_finished(run):
    assert not is_finished(run)
    keep_finished(run)
    assert is_finished(run)
    Path("photo.png").write_bytes(b"beside the run, and no part of it")
    assert is_finished(Run.open("run"))


@pytest.mark.parametrize(
    "change",
    [
        lambda: Path("run/images/brain/0000_a.png").unlink(),
        lambda: Path("run/images/brain/0000_a.png").write_bytes(b"c"),
        lambda: Path("run/images/brain/0001_b.png").write_bytes(b"c"),
        lambda: Path("run/metrics.json").write_text("{}"),
        lambda: Path("photos/a.png").write_bytes(b"c"),
        lambda: Path("photos/b.png").write_bytes(b"c"),
        lambda: np.save("responses.npy", np.ones((4, 3), np.float32)),
        lambda: Path("responses.json").write_text("{}"),  # the trials' sidecar
        lambda: Path("run").rename("moved"),
    ],
)
def test_whatever_changes_it_is_looked_at_again(run, change):
    keep_finished(run)
    assert is_finished(run)
    change()
    assert not is_finished(run)


@pytest.mark.parametrize("option", ["--prior", "--pipeline"])
def test_weights_from_the_hub_are_looked_at_whatever_the_preset(run, tmp_path, monkeypatch, option):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    place = tmp_path / "hub" / "models--owner--name"
    weights = place / "snapshots" / "abc" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"w")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    words = ["--trials", "responses.npy", "--images", "photos", option, "owner/name", "--out", "drawn"]
    run = Run.create("drawn", parse(Reconstruct, words).config)
    assert run.config.name == "mini"
    keep_finished(run)
    assert is_finished(run)
    weights.write_bytes(b"v")
    assert not is_finished(run)


def test_another_version_looks_again(run, monkeypatch):
    keep_finished(run)
    monkeypatch.setattr(finished, "code_version", lambda: "9.9.9")
    assert not is_finished(run)


AGAIN = """
import sys
from hvf.cli import main
code = main(sys.argv[1:])
print(code, sorted({"torch", "diffusers", "transformers", "open_clip"} & set(sys.modules)))
"""


def test_the_command_given_again_loads_nothing_heavy(run):
    keep_finished(run)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    words = ["reconstruct", "--trials", "responses.npy", "--images", "photos", "--out", "run"]
    done = subprocess.run([sys.executable, "-c", AGAIN, *words], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    assert "PixCorr" in done.stdout
    assert "learnt from rendered pictures alone" in done.stdout  # photographs, drawn by the mini prior
    assert json.loads(before[run.path / "metrics.json"])
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
