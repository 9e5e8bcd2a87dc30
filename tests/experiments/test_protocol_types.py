"""What `hvf.experiments.protocols` promises of types, asked of the type checker itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = """
from hvf.config import Config
from hvf.experiments.protocols import Choice, HeldOut, Split, choose


def right(split: Split, held_out: HeldOut, config: Config) -> None:
    held_out.row(choose(split, config))


def choosing_on_the_test(held_out: HeldOut, config: Config) -> None:
    choose(held_out, config)


def testing_what_was_not_chosen(split: Split, held_out: HeldOut) -> None:
    held_out.row(split)


def looking(held_out: HeldOut) -> None:
    held_out.trials


def making_a_choice_alone(held_out: HeldOut) -> None:
    Choice(held_out, {}, None)
"""


@pytest.mark.slow(part=6)
def test_a_choice_that_sees_test_data_is_a_type_error(tmp_path):
    pytest.importorskip("pyright")
    (tmp_path / "wrong.py").write_text(CODE)
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "wrong.py"]
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}))
    told = json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout)
    lines = CODE.splitlines()
    wrong = {lines[m["range"]["start"]["line"]].strip() for m in told["generalDiagnostics"] if m["severity"] == "error"}
    expected = ["choose(held_out, config)", "held_out.row(split)", "held_out.trials", "Choice(held_out, {}, None)"]
    assert wrong == set(expected)
