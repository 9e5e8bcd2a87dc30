"""The architecture holds itself: imports go one way, and what the command line needs first is light.

scripts, cli -> decoder -> report, reconstruction, alignment -> retrieval, metrics -> models | vision | data
-> presets, runs -> progress, config. The three rooms with a bar between them do not know each other.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import hvf

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("prior_training", "brain_training", "eval")
HEAVY = {"torch", "torchvision", "mne", "diffusers", "transformers", "open_clip", "accelerate", "datasets", "sklearn",
         "skimage", "scipy", "matplotlib", "numpy", "PIL"}  # fmt: skip
LIGHT = ("__init__", "__main__", "cli", "cli_data", "config", "presets", "progress", "runs", "figures")

# A room may import lower floors, and itself; neighbours only where the floor says so.
FLOORS = [
    {"config", "progress"},
    {"figures", "graphs", "presets", "published", "runs", "scripts"},
    {"data", "models", "optimisation", "training", "vision"},
    {"metrics", "retrieval"},
    {"alignment", "evaluation", "pretraining", "reconstruction", "report"},
    {"decoder", "explore", "selection"},
    {"interpretation"},
    {"__init__", "__main__", "cli", "cli_data", *SCRIPTS},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
NEIGHBOURS = {("retrieval", "metrics"), ("__main__", "cli"), ("cli", "cli_data")}


def room_of(path: Path, root: Path) -> str:
    """hvf/data/trials.py -> data; hvf/runs.py -> runs; eval/benchmark.py -> eval."""
    parts = path.relative_to(root).parts
    return parts[0] if parts[0] in SCRIPTS else parts[1].removesuffix(".py")


def imported_rooms(tree: ast.AST, path: Path, root: Path) -> Iterator[str]:
    """The rooms of hvf that a module imports, anywhere in it, relative imports resolved."""
    package = path.relative_to(root).with_suffix("").parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: -node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            modules = [f"{module}.{alias.name}" for alias in node.names] if module == "hvf" else [module]
        else:
            continue
        for module in modules:
            parts = hvf._ROOM.get(module.removeprefix("hvf."), module).split(".")
            if parts[0] == "hvf" and len(parts) > 1 and parts[1] != "__version__":
                yield parts[1]
            elif parts[0] in SCRIPTS:
                yield parts[0]


def violations(root: Path) -> list[str]:
    """Every import under `root` that goes up or sideways, and every room without a floor."""
    found = []
    paths = sorted(p for folder in ("hvf", *SCRIPTS) for p in (root / folder).rglob("*.py"))
    for path in paths:
        room = room_of(path, root)
        where = path.relative_to(root)
        if room not in FLOOR:
            found.append(f"{where}: room {room!r} has no floor")
            continue
        for other in imported_rooms(ast.parse(path.read_text(encoding="utf-8")), path, root):
            if other not in FLOOR:
                found.append(f"{where}: imports {other!r}, which has no floor")
            elif other in SCRIPTS:
                found.append(f"{where}: imports the script folder {other}")
            elif room == "__init__":  # the front door shows every room
                continue
            elif not (other == room or FLOOR[other] < FLOOR[room] or (room, other) in NEIGHBOURS):
                found.append(f"{where}: {room} imports {other}")
    return found


def at_module_level(body: list[ast.stmt]) -> Iterator[str]:
    """Top-level packages imported when the module is: not inside functions, not for type checkers only."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for inner in ("body", "orelse", "finalbody"):
                yield from at_module_level(getattr(node, inner, []))
            for handler in getattr(node, "handlers", []):
                yield from at_module_level(handler.body)


def heavy_imports(path: Path) -> set[str]:
    return set(at_module_level(ast.parse(path.read_text(encoding="utf-8")).body)) & HEAVY


def test_imports_go_one_way():
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("path", "line", "said"),
    [
        ("hvf/data/bad.py", "from hvf.vision import cache", "data imports vision"),
        ("hvf/models/bad.py", "import hvf.data.trials", "models imports data"),
        ("hvf/vision/bad.py", "from ..data import trials", "vision imports data"),
        ("hvf/vision/bad.py", "from hvf import Trials", "vision imports data"),
        ("hvf/config.py", "def f():\n    from hvf.runs import Run", "config imports runs"),
        ("hvf/metrics.py", "from hvf import retrieval", "metrics imports retrieval"),
        ("hvf/alignment.py", "from hvf import report", "alignment imports report"),
        ("hvf/report/page.py", "from hvf.decoder import Decoder", "report imports decoder"),
        ("hvf/decoder.py", "from hvf.cli import main", "decoder imports cli"),
        ("hvf/decoder.py", "import prior_training.train", "imports the script folder prior_training"),
        ("hvf/utils.py", "", "room 'utils' has no floor"),
        ("eval/benchmark.py", "from hvf import decoder", None),
        ("hvf/cli.py", "from hvf import __version__, decoder, report", None),
        ("hvf/data/good.py", "from hvf.data.trials import Trials\nfrom hvf.runs import track", None),
    ],
)
def test_the_test_catches_what_it_should(tmp_path, path, line, said):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(line)
    found = violations(tmp_path)
    assert len(found) == (said is not None)
    if said:
        assert said in found[0]


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_import_nothing_heavy(name):
    assert heavy_imports(ROOT / "hvf" / f"{name}.py") == set()


@pytest.mark.parametrize(
    ("source", "heavy"),
    [
        ("import torch.nn as nn", {"torch"}),
        ("try:\n    from mne import Epochs\nexcept ImportError:\n    import diffusers", {"mne", "diffusers"}),
        ("class A:\n    import numpy", {"numpy"}),
        ("def f():\n    import torch", set()),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", set()),
    ],
)
def test_the_light_test_catches_what_it_should(tmp_path, source, heavy):
    (tmp_path / "m.py").write_text(source)
    assert heavy_imports(tmp_path / "m.py") == heavy


def test_nothing_heavy_is_loaded_for_the_command_line():
    code = f"import sys, hvf, hvf.cli, hvf.presets; print(sorted(set(sys.modules) & {HEAVY!r}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["reconstruct", "--help"]])
def test_help_answers_at_once(arguments):
    wall, cpu = [], []
    for _ in range(3):
        start, before = time.perf_counter(), os.times()
        done = subprocess.run([sys.executable, "-m", "hvf", *arguments], cwd=ROOT, check=True, capture_output=True)
        after = os.times()
        wall.append(time.perf_counter() - start)
        cpu.append(after.children_user + after.children_system - before.children_user - before.children_system)
        assert b"usage: hvf" in done.stdout
    # Where other work keeps every core busy the clock measures that work: count what this process used.
    busy = os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1)
    assert min(cpu if busy else wall) < 0.5, (wall, cpu)


def test_public_names_exist():
    assert set(hvf._ROOM) == set(hvf.__all__)
    for name in hvf.__all__:
        assert getattr(hvf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Decodr'"):
        hvf.Decodr  # noqa: B018
