"""CONTRIBUTING.md is true: each recipe, carried out as written in a copy of hvf, adds what it says in one file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvf import registry
from tests.conftest import SLOW_PARTS
from tests.documented import FENCE, ROOT, SCRIPTS
from tests.test_readme import PARTS

GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
MARK = re.compile(r"pytest\.mark\.slow\(part=(\d)\)")
N = 60

# All commands in one process, which pays for its imports once.
RUN = """
import json, runpy, shlex, sys
from hvf.cli import main
for line in json.load(sys.stdin):
    print("$", line, flush=True)
    program, *words = shlex.split(line)
    if program == "hvf":
        code = main(words)
    else:
        sys.argv = words
        try:
            code = runpy.run_path(words[0], run_name="__main__") and 0
        except SystemExit as end:
            code = end.code
    if code:
        sys.exit(f"{line}: exit code {code}")
"""


@dataclass(frozen=True)
class Recipe:
    """A section of "Recipes": the file that it adds (or adds to), its code, and its commands."""

    title: str
    path: str
    appended: bool
    code: str
    commands: tuple[str, ...]


def recipes() -> list[Recipe]:
    sections = re.split(r"^### ", GUIDE.split("\n## Recipes\n")[1], flags=re.MULTILINE)[1:]
    read = []
    for section in sections:
        title = section.splitlines()[0]
        blocks = FENCE.findall(section)
        ((_, appended, path, code),) = [block for block in blocks if block[0] == "python"]
        commands = [line for kind, _, _, text in blocks if kind == "bash" for line in text.splitlines() if line]
        read.append(Recipe(title, path, bool(appended), code, tuple(commands)))
    return read


RECIPES = recipes()


def test_there_is_a_recipe_for_each_registry():
    variables = {value.variable for value in vars(registry).values() if isinstance(value, registry.Registry)}
    registered = [re.findall(r"^@?([A-Z_]+)\.register\(\"", recipe.code, flags=re.MULTILINE) for recipe in RECIPES]
    assert all(len(names) == 1 for names in registered)
    beside = {"NETWORKS", "FOUNDATION"}  # of a metric, and of a brain encoder
    assert sorted(name for (name,) in registered) == sorted(variables - beside)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title)
def test_a_recipe_adds_one_file_and_uses_it(recipe: Recipe):
    assert recipe.path.startswith("hvf/")
    assert (ROOT / recipe.path).exists() == recipe.appended
    (name,) = re.findall(r"\.register\(\"([^\"]+)\"", recipe.code)
    assert any(re.search(rf"\b{name}\b", command) for command in recipe.commands)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of hvf with all that the recipes add, beside the data that their commands read."""
    folder = tmp_path_factory.mktemp("workshop")
    shutil.copytree(ROOT / "hvf", folder / "hvf", ignore=shutil.ignore_patterns("__pycache__", "weights"))
    (folder / "hvf" / "weights").symlink_to(ROOT / "hvf" / "weights")
    for scripts in SCRIPTS:
        (folder / scripts).symlink_to(ROOT / scripts)
    rng = np.random.default_rng(0)
    x_NCT = rng.standard_normal((N, 9, 20)).astype(np.float32)
    np.save(folder / "responses.npy", x_NCT)
    (folder / "recordings").mkdir()
    np.save(folder / "recordings" / "sub-03.npy", x_NCT)
    names = [f"{i:03d}" for i in range(N)]
    (folder / "recordings" / "images.txt").write_text("\n".join(names))
    for place in ("images", "drawn"):
        (folder / place).mkdir()
        for name in names:
            colour = tuple(int(level) for level in rng.integers(0, 256, 3))
            Image.new("RGB", (64, 64), colour).save(folder / place / f"{name}.png")
    shutil.make_archive(str(folder / "images"), "zip", folder, "images")
    for recipe in RECIPES:
        file = folder / recipe.path
        file.write_text((file.read_text() if recipe.appended else "") + recipe.code)
    return folder


@pytest.mark.slow(part=8)
def test_every_recipe_can_be_carried_out(workshop: Path):
    environment = os.environ | {"PYTHONPATH": str(workshop)}
    commands = json.dumps([command for recipe in RECIPES for command in recipe.commands])
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=workshop, env=environment, input=commands, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    trained = json.loads((workshop / "run-evoked-mean" / "config.json").read_text())
    assert trained["brain"]["encoder"] == "evoked-mean"
    metrics = json.loads((workshop / "run-evoked-mean" / "metrics.json").read_text())
    assert metrics["retrieval/brain/top1"]["n"] == 20
    (figure,) = json.loads((workshop / "figures-rmse" / "metrics.json").read_text()).values()
    seen, drawn = (
        np.stack([np.asarray(Image.open(path), float) for path in sorted((workshop / name).glob("*.png"))]) / 255
        for name in ("images", "drawn")
    )
    exact = np.sqrt(np.square(seen - drawn).mean(axis=(1, 2, 3))).mean()
    assert figure["n"] == N
    assert figure["value"] == pytest.approx(exact, rel=1e-3)
    np.testing.assert_allclose(
        np.load(workshop / "my-lab" / "sub-03_trials.npy"), 1e-6 * np.load(workshop / "responses.npy"), rtol=1e-6
    )
    assert json.loads((workshop / "my-lab" / "sub-03_trials.json").read_text())["sfreq"] == 50


def test_every_link_and_target_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", GUIDE):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    assert set(re.findall(r"`make ([a-z0-9-]+)`", GUIDE)) <= set(targets())


def targets() -> list[str]:
    """The targets of the Makefile."""
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE)
    (parts,) = re.findall(r"^SLOW_PARTS = (.*)$", MAKEFILE, flags=re.MULTILINE)
    return phony.replace("$(SLOW_PARTS)", parts).split()


def test_the_parts_run_every_slow_test():
    """conftest.py refuses a slow test without a part; here each part has a target, and each target has tests."""
    parts = [name.removeprefix("test-slow-") for name in targets() if re.fullmatch(r"test-slow-\d+", name)]
    assert [int(part) for part in parts] == list(SLOW_PARTS)
    assert "test-slow: $(SLOW_PARTS)\n" in MAKEFILE
    marked = {int(k) for file in (ROOT / "tests").rglob("test_*.py") for k in MARK.findall(file.read_text())}
    assert marked | set(PARTS.values()) == set(SLOW_PARTS)
