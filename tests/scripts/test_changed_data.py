"""The scripts, given the same command again after the file of trials was replaced under its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hvf.experiments.results import FILE
from tests.colour_fields import write_colour_fields
from tests.script_module import load_script

ROOT = Path(__file__).resolve().parents[2]
SPEC = "openclip:mini-vit@0:mean"
COMMANDS = {
    "eval/benchmark.py": ["--methods", "ridge", "--encoders", "given", "--specs", SPEC, "--no-control"],
    "brain_training/train.py": ["--seeds", "1", "--targets.specs", SPEC],
    "brain_training/scaling.py": ["--seeds", "1", "--points", "3", "--targets.specs", SPEC],
}
SMALL = ["--align.epochs", "3", "--brain.width", "16", "--fusion.width", "16", "--data.test-images", "12"]


@pytest.fixture
def trials(tmp_path: Path) -> Path:
    """Responses to 60 colour fields, which report their colours."""
    write_colour_fields(tmp_path, 60)
    return tmp_path / "trials.npy"


@pytest.mark.slow(part=5)
@pytest.mark.parametrize("script", COMMANDS)
def test_finished_cells_of_other_trials_are_refused(script: str, trials: Path, tmp_path: Path, capsys) -> None:
    main, out = load_script(ROOT / script).main, tmp_path / "out"
    words = [
        "--trials",
        str(trials),
        "--images",
        str(tmp_path / "images"),
        *COMMANDS[script],
        *SMALL,
        "--out",
        str(out),
    ]
    assert main(words) == 0
    before = {path: path.read_bytes() for path in out.rglob(FILE)}
    cells = {path: path.stat().st_mtime_ns for path in before if path.parent != out}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in cells} == cells  # as long as nothing has changed
    np.save(trials, np.random.default_rng(1).normal(size=(60, 30)).astype(np.float32))
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "was made from other training trials and test trials than there are now: choose another --out" in said
    assert {path: path.read_bytes() for path in out.rglob(FILE)} == before
