"""The table over people: means, intervals with and without rounds; drawn by one process or two, the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hvf.cli import main
from hvf.evaluation.statistics import over_runs
from hvf.experiments.over_people import over_people, table
from hvf.runs import Run
from tests.launched import launcher
from tests.small_run import small_config

NAME = "reconstruction/brain/pixcorr"
# Of each person, two rounds of three images, one of them undefined.
ROUNDS = {"sub-01": [[0.1, 0.3, None], [0.2, 0.4, None]], "sub-02": [[0.5, 0.5, 0.5], [0.5, 0.6, 0.7]]}


def a_run(folder: Path, rounds: list[list[float | None]]) -> Run:
    run = Run.create(folder, small_config())
    of_images = [np.mean([x for x in pair if x is not None] or np.nan) for pair in zip(*rounds, strict=True)]
    entry = {"value": float(np.nanmean(of_images)), "ci95": [0.0, 1.0], "n": 3}
    run.write_metrics({NAME: entry, "chance/reconstruction/pixcorr": {"value": rounds[0][0], "ci95": None, "n": 3}})
    run.write_json("per_image.json", {"rounds": {NAME: rounds}, "scores": {}})
    return run


def test_means_over_people_with_and_without_rounds(tmp_path):
    found = over_people([a_run(tmp_path / name, rounds) for name, rounds in ROUNDS.items()])
    one = found["figures"][NAME]
    assert one["people"] == pytest.approx([0.25, 0.55])
    assert one["value"] == pytest.approx(0.4)
    assert one["ci95"] == pytest.approx(over_runs([0.25, 0.55])["ci95"])
    singly = [over_runs([0.2, 0.5])["ci95"], over_runs([0.3, 0.6])["ci95"]]  # of the first round, of the second
    assert one["one_round"] == pytest.approx(np.mean(singly, axis=0))
    assert one["rounds_sd"] == pytest.approx(np.std([0.35, 0.45], ddof=1))
    assert found["chance"]["chance/reconstruction/pixcorr"]["value"] == pytest.approx(0.3)
    text = table(found, "study")
    assert "| brain: PixCorr ↑ | 0.400 [" in text
    assert "| 0.0707 | 0.300 |" in text
    assert "2 people: sub-01, sub-02" in text


def test_one_person_and_one_round_have_no_interval(tmp_path):
    found = over_people([a_run(tmp_path / "sub-01", [[0.5, 0.6, 0.7]])])["figures"][NAME]
    assert (found["ci95"], found["one_round"], found["rounds_sd"]) == (None, None, None)
    assert found["value"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--subjects", "1", "2", "--subject", "3"], "give one of them"),
        (["--subjects", "1", "1"], "names one twice"),
        (["--subjects", "1", "99"], "subject 99 does not exist"),
    ],
)
def test_people_that_cannot_be_are_refused(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(["reconstruct", *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_processes_without_people_are_refused_by_the_first_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, said in (("0", "--subjects"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert main(["reconstruct", "--subject", "8"]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert bool(err) == bool(said)


SMALL = ["--data.train-concepts", "40", "--data.images-per-concept", "2", "--data.test-concepts", "8", "--epochs", "1"]


@pytest.mark.slow(part=8)
def test_two_processes_draw_the_pictures_of_one(tmp_path):
    def drawn(out: str, *launch: str) -> dict[str, bytes]:
        words = ["reconstruct", "--subjects", "1", "2", *SMALL, "--steps", "1", "--rounds", "2", "--out", out]
        command = [sys.executable, "-m", *launch, *(["-m"] if launch else []), "hvf", *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=500, capture_output=True)
        pictures = sorted((tmp_path / out).glob("sub-*/images/*/**/*.png"))
        return {str(path.relative_to(tmp_path / out)): path.read_bytes() for path in pictures}

    two = drawn("two", "accelerate.commands.launch", *launcher(2))
    assert len(two) == 2 * (8 + 3 * 2 * 8)
    (tmp_path / "two" / "sub-02" / "images" / "brain" / "round_1").rename(tmp_path / "gone")  # as if killed before
    kept = tmp_path / "two" / "sub-01" / "images" / "floor" / "round_0"
    before = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert drawn("two") == two == drawn("one")
    assert {path: path.stat().st_mtime_ns for path in kept.iterdir()} == before
    assert (tmp_path / "two" / "table.md").read_text().replace("**two**", "**one**") == (
        tmp_path / "one" / "table.md"
    ).read_text()
