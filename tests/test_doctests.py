"""The examples in hvf's docstrings give what they say."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [path.relative_to(ROOT) for path in sorted((ROOT / "hvf").rglob("*.py")) if ">>> " in path.read_text()]


def test_there_are_examples():
    assert len(FILES) >= 3


@pytest.mark.parametrize("path", FILES, ids=str)
def test_examples_give_what_they_say(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    module = import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
    failed, tried = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried
    assert failed == 0
