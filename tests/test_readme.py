"""What the README says to type works: every command is understood, and (slow) every command is run."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvf import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


COMMANDS = [shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines() if line.strip()]
HVF = [command[1:] for command in COMMANDS if command[0] == "hvf"]
SCRIPTS = [command for command in COMMANDS if command[0] in ("python", "accelerate")]
# What a test can afford of a command that takes minutes: the same code, less of it.
SHORTER = {
    "prior_training/train.py": ["--max-steps", "2"],
    "brain_training/train.py": ["--seeds", "1", "--config.align.epochs", "1"],
    "brain_training/targets.py": ["--seeds", "1", "--align.epochs", "1"],
    "brain_training/layers.py": ["--seeds", "1", "--align.epochs", "1"],
    "brain_training/scaling.py": ["--seeds", "1", "--align.epochs", "1", "--points", "3"],
    "eval/benchmark.py --methods": ["--epochs", "1"],
}
NEEDS_THE_HUB = ("--preset things-eeg", "data download")
SERVES = ("explore",)  # until it is interrupted
TAKES_HOURS = ("prior_training/train_mini.py",)


def test_the_readme_starts_with_the_two_commands() -> None:
    first = blocks("bash")[0]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make demo", "make test"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    assert {"demo", "test"} <= set(targets)


@pytest.mark.parametrize("command", HVF, ids=" ".join)
def test_a_command_is_understood(command: list[str]) -> None:
    assert callable(cli._parse(command))


@pytest.mark.parametrize("command", SCRIPTS, ids=" ".join)
def test_a_script_exists(command: list[str]) -> None:
    (script,) = [word for word in command if word.endswith(".py")]
    assert (ROOT / script).is_file()


def test_every_path_and_link_in_the_readme_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


@pytest.mark.slow
def test_every_command_runs(tmp_path: Path) -> None:
    """In the order of the page, in an empty folder, with files of the names that the page uses."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "responses.npy", rng.standard_normal((260, 9)).astype(np.float32))
    pictures = tmp_path / "images"
    pictures.mkdir()
    for i in range(260):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(pictures / f"{i:03d}.png")
    subprocess.run([sys.executable, "-m", "zipfile", "-c", "images.zip", "images"], cwd=tmp_path, check=True)
    for folder in ("drawn", "seen"):
        (tmp_path / folder).mkdir()
        for i in range(20):
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / folder / f"{i:03d}.png")
    for name in ("prior_training", "brain_training", "eval"):
        (tmp_path / name).symlink_to(ROOT / name)
    for command in COMMANDS:
        line = " ".join(command)
        if command[0] == "make" or any(words in line for words in (*NEEDS_THE_HUB, *TAKES_HOURS)):
            continue
        extra = next((more for script, more in SHORTER.items() if script in line), [])
        program = Path(sys.executable).parent / command[0]
        if command[1] in SERVES:
            assert_serves([str(program), *command[1:]], tmp_path)
            continue
        done = subprocess.run([str(program), *command[1:], *extra], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stderr[-2000:]}"


def assert_serves(command: list[str], folder: Path) -> None:
    """The command says where, the page is there, and an interrupt ends it well."""
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, bufsize=1) as server:
        assert server.stdout is not None
        address = next(found for line in server.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+\S*", line)))[0]
        with urllib.request.urlopen(address, timeout=30) as page:
            assert b"<title>" in page.read()
        server.send_signal(signal.SIGINT)
        assert server.wait(30) in (0, 130)


@pytest.mark.slow
def test_python_example_runs(tmp_path: Path) -> None:
    (example,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    share = float(re.search(r"([\d.]+)% of the images found among 200", done.stdout)[1])
    assert share > 5  # chance is 0.5 %
