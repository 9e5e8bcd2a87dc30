"""Flags that messages and hints name are flags of the command line, spelt as the shell takes them."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvf.cli import main
from hvf.config import flatten
from hvf.presets import mini
from hvf.registry import DATASETS

ROOT = Path(__file__).parents[2]
COMMANDS = (
    *(["train"], ["retrieve"], ["reconstruct"], ["decode"], ["embed"], ["evaluate"], ["report"], ["explore"]),
    *(["data", "prepare"], ["data", "doctor"], ["data", "download"], ["data", "simulate"]),
)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*(?:\.[a-z][a-z0-9-]*)*")
OF_OTHER_PROGRAMS = re.compile(  # git's, too
    r"hf download|accelerate launch --cpu|--local-dir|curl |preprocess_\w+\.py|^--(always|dirty|exclude|include)\b"
)
SCRIPTS = ("prior_training", "brain_training", "eval", "hvf/experiments")  # whose settings are dataclasses' fields


def texts(path: Path, only: str | None = None) -> Iterator[tuple[int, str]]:
    """(line, text) of every literal of a file but docstrings; with `only`, of those in calls of that name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == only]
    for root in [tree] if only is None else calls:
        for node in ast.walk(root):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                yield node.lineno, node.value


def shown(*words: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
        main(list(words))
    return out.getvalue()


@pytest.fixture(scope="module")
def flags() -> set[str]:
    pages = [shown(*command, "--help") for command in COMMANDS]
    pages += [shown("--help"), *(shown(command, "--help-settings") for command in ("train", "retrieve", "reconstruct"))]
    named = set(FLAG.findall(" ".join(pages)))
    for path in (path for folder in SCRIPTS for path in (ROOT / folder).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        named |= {*FLAG.findall(source)} if not path.is_relative_to(ROOT / "hvf") else set()
        named |= {f"--{name.replace('_', '-')}" for name in re.findall(r"(?m)^    (\w+): ", source)}
    return named


def test_flags_in_messages_exist(flags):
    unknown = [
        f"{path.relative_to(ROOT)}:{line}: {flag}"
        for path in sorted((ROOT / "hvf").rglob("*.py"))
        for line, text in texts(path)
        if not OF_OTHER_PROGRAMS.search(text)
        for flag in FLAG.findall(text)
        if flag not in flags
    ]
    assert not unknown, "\n" + "\n".join(unknown)


def test_refusals_of_recordings_and_trials_name_flags_not_settings(flags):
    """What `hvf data` and the opening of a study refuse names --data.sfreq and --onset-unit, not data.sfreq."""
    options = {option.name for name in DATASETS for option in DATASETS[name].options if "_" in option.name}
    bare = options | {name for name, _ in flatten(mini()) if name.startswith("data.")}
    pattern = re.compile(rf"(?<![\w.-])({'|'.join(map(re.escape, sorted(bare)))})\b")
    hits = [
        f"{path.relative_to(ROOT)}:{line}: {match[0]}"
        for path in sorted([*(ROOT / "hvf" / "data").rglob("*.py"), ROOT / "hvf" / "study.py"])
        for call in ("HvfError", "Finding")
        for line, text in texts(path, call)
        for match in pattern.finditer(text)
    ]
    assert not hits, "\n" + "\n".join(hits)
    assert {"--data.sfreq", "--data.trials", "--onset-unit", "--events"} <= flags
