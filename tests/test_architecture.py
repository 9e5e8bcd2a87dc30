"""docs/architecture.md is held to the code: its rooms, files, letters, registries and settings exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvf import registry
from hvf.config import Config, flatten

ROOT = Path(__file__).resolve().parent.parent
PICTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SCRIPTS = ("prior_training", "brain_training", "eval")
SUFFIX = re.compile(r"[a-z][a-z0-9_]*_([A-Z][A-Za-z0-9]*)")


def section(title: str) -> str:
    return re.split(r"^## ", PICTURE.split(f"## {title}\n")[1], flags=re.MULTILINE)[0]


def cells(text: str) -> list[list[str]]:
    """The rows of a section's table, without its heading."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return rows[2:]


def names(tree: ast.AST) -> Iterator[str]:
    """Every identifier of a file: variables, arguments, attributes, keywords, functions."""
    for node in ast.walk(tree):
        name = getattr(node, "id", None) or getattr(node, "arg", None) or getattr(node, "attr", None)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            name = node.name
        if isinstance(name, str):
            yield name


def axes(source: str) -> set[str]:
    """The letters of the axis suffixes in a file: x_N3HW gives N, H and W; a lower-case letter follows a capital."""
    suffixes = (SUFFIX.fullmatch(name) for name in names(ast.parse(source)))
    return {letter for found in suffixes if found and found[0] != "do_GET" for letter in found[1] if letter.isalpha()}


def python_files() -> list[Path]:
    return [path for folder in ("hvf", *SCRIPTS) for path in sorted((ROOT / folder).rglob("*.py"))]


def test_every_path_exists():
    paths = re.findall(r"`((?:hvf|tests|prior_training|brain_training|eval|docs)/[\w./-]*)`", PICTURE)
    assert len(paths) > 40
    assert [path for path in paths if not (ROOT / path).exists()] == []
    links = [target for target in re.findall(r"\]\(([^)#]+)\)", PICTURE) if not target.startswith("https://")]
    assert [target for target in links if not (ROOT / "docs" / target).exists()] == []


def test_every_room_is_in_the_picture():
    told = [row[0].strip("`") for row in cells(section("Rooms"))]
    assert len(told) == len(set(told))
    folders = {path.parent for path in python_files() if path.is_relative_to(ROOT / "hvf")} - {ROOT / "hvf"}
    rooms = {f"{folder.relative_to(ROOT)}/" for folder in folders}
    files = {f"hvf/{path.name}" for path in (ROOT / "hvf").glob("*.py")}
    assert (rooms | files) - set(told) == set()
    assert set(told) - rooms - files == {"hvf/weights/", "tests/", *(f"{folder}/" for folder in SCRIPTS)}


def test_every_letter_is_in_the_glossary():
    letters = {letter for row in cells(section("Letters")) for letter in row[0].split(", ")}
    lower = set(re.findall(r"`([a-z])`", section("Letters")))
    used = {letter: str(path) for path in python_files() for letter in axes(path.read_text(encoding="utf-8"))}
    assert {letter: used[letter] for letter in used.keys() - letters - lower} == {}
    assert letters | lower <= used.keys()  # and no letter that nobody uses


def test_letters_of_docstrings_are_in_the_glossary():
    letters = {letter for row in cells(section("Letters")) for letter in row[0].split(", ")}
    for path in python_files():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        legend = docstring.partition("Letters: ")[2].split("\n\n")[0]
        assert set(re.findall(r"(?<![\w=·-])([A-Z])(?= [a-z])", legend)) <= letters, path


@pytest.mark.parametrize(
    ("source", "letters"),
    [
        ("def f(x_NCT): return x_NCT.y_N3HW", "NCTHW"),
        ("do_GET = MAX_SIZE = Some_N = 1", ""),
        ("f(kernel_F1l=1)", "Fl"),
        ('"x_QQ in a string"  # x_QQ', ""),
    ],
)
def test_the_letters_of_a_file_are_read(source: str, letters: str):
    assert axes(source) == set(letters)


def test_every_registry_is_in_the_picture():
    told = {row[0].strip("`"): row for row in cells(section("Registries"))}
    registries = {value.variable: value for value in vars(registry).values() if isinstance(value, registry.Registry)}
    assert told.keys() == registries.keys()
    for name, (_, _, room) in told.items():
        assert room.strip("`").removesuffix("/").removesuffix(".py") == f"hvf/{registries[name].room}", name
        assert list(registries[name]), f"nothing is registered in {name}"


def test_every_setting_exists():
    settings = set(dict(flatten(Config())))
    told = re.findall(r"`--([a-z_]+\.[a-z_.-]+)", PICTURE)
    assert told
    assert [name for name in told if name.replace("-", "_") not in settings] == []


def test_terms_are_in_order():
    terms = [row[0] for row in cells(section("Terms"))]
    assert terms == sorted(terms, key=str.lower)
    assert all(meaning for _, meaning in cells(section("Terms")))
