"""What the how-to pages show exists: each hvf command is understood, each script is there, each imported name, too."""

from __future__ import annotations

import ast
import re
import shlex

import pytest

import hvf
from hvf import cli
from tests.documented import ROOT, blocks

PAGES = sorted(page.name for page in (ROOT / "docs").glob("*.md"))
SCRIPT = re.compile(r"(prior_training|brain_training|eval)/\S+\.py")
IMPORTED = re.compile(r"^\s*from (hvf[\w.]*) import (.+)$", flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_exists(page: str):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for block in blocks(re.sub(r"^ {3}(?=\S)", "", text, flags=re.MULTILINE)):  # in lists, too
        if block.language == "bash":
            for line in block.commands:
                program, *words = shlex.split(line)
                if program == "hvf":
                    assert callable(cli._command(words)), line
                assert all((ROOT / word).is_file() for word in words if SCRIPT.fullmatch(word)), line
        elif block.language == "python":
            for module, names in IMPORTED.findall(block.text):
                assert {name.strip() for name in names.split(",")} <= names_of(module), f"from {module} import {names}"


def names_of(module: str) -> set[str]:
    """The names that a module of hvf defines or imports, and its submodules, read from its source."""
    if module == "hvf":
        return set(hvf.__all__)
    place = ROOT.joinpath(*module.split("."))
    source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    names = {path.stem for path in place.iterdir()} if place.is_dir() else set()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_a_name_that_is_elsewhere_is_noticed():
    assert "FusionPrior" in names_of("hvf") & names_of("hvf.prior.model")
    assert "FusionPrior" not in names_of("hvf.models")
    assert {"open_study", "Study", "STUDIES"} <= names_of("hvf.study")
