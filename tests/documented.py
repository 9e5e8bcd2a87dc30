"""Commands and code that pages show, run as their readers would run them."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
FENCE = re.compile(r"^```(\w+)(?: (>> )?(\S+))?\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
SCRIPTS = ("prior_training", "brain_training", "eval")
SERVES = ("explore",)  # until it is interrupted
NEEDS_THE_HUB = ("--preset things-eeg", "data download")
TAKES_HOURS = ("prior_training/train_mini.py",)
# What a test can afford of a command that takes minutes: the same code, less of it.
SMALL = ("--align.epochs", "1", "--adapt.epochs", "1", "--data.train-concepts", "60")
SHORTER = {
    "prior_training/train.py": ["--max-steps", "2"],
    "brain_training/train.py": ["--seeds", "1", "--align.epochs", "1"],
    "brain_training/targets.py": ["--seeds", "1", "--align.epochs", "1"],
    "brain_training/layers.py": ["--seeds", "1", "--align.epochs", "1"],
    "brain_training/scaling.py": ["--seeds", "1", "--align.epochs", "1", "--points", "3"],
    "brain_training/timecourse.py": ["--data.train-concepts", "60", "--folds", "2", "--step", "80"],
    "brain_training/adaptation.py": ["--subjects", "3", "--others", "2", "4", "--shares", "0", "10", *SMALL],
    "eval/benchmark.py --methods": ["--epochs", "1"],
}


class Block(NamedTuple):
    """A fenced block: its language, the file that it is written to (or appended), and its text."""

    language: str
    path: str
    appended: bool
    text: str

    @property
    def commands(self) -> list[str]:
        """The lines of a shell's block, without comments; a line that ends in a backslash goes on."""
        # shlex takes the # inside of a word for a comment, too; a shell does not.
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(language, path, bool(more), text) for language, more, path, text in FENCE.findall(page)]


def environment(package: Path = ROOT) -> dict[str, str]:
    """The environment of a command that takes hvf from a folder."""
    return os.environ | {"PYTHONPATH": str(package)}


def run_command(line: str, folder: Path, package: Path = ROOT, extra: list[str] | None = None) -> str:
    """Run one line in a folder, with less to do where `SHORTER` (or `extra`) says so; what it printed."""
    program, *words = shlex.split(line)
    more = next((more for script, more in SHORTER.items() if script in line), []) if extra is None else extra
    command = [str(BIN / program), *words]
    if words[0] in SERVES:
        assert_serves(command, folder)
        return ""
    done = subprocess.run([*command, *more], cwd=folder, env=environment(package), capture_output=True, text=True)
    assert done.returncode == 0, f"{line}: {done.stdout[-500:]} {done.stderr[-2000:]}"
    return done.stdout


def run_code(text: str, folder: Path, package: Path = ROOT) -> str:
    """Run a block of Python in a folder; what it printed."""
    command = [sys.executable, "-c", text]
    done = subprocess.run(command, cwd=folder, env=environment(package), capture_output=True, text=True)
    assert done.returncode == 0, f"{text}\n{done.stderr[-2000:]}"
    return done.stdout


def assert_serves(command: list[str], folder: Path) -> None:
    """The command says where, the page is there, and an interrupt ends it well."""
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, bufsize=1) as server:
        assert server.stdout is not None
        try:
            found = (re.search(r"http://127\.0\.0\.1:\d+\S*", line) for line in server.stdout)
            address = next(one[0] for one in found if one)
            with urllib.request.urlopen(address, timeout=30) as page:
                assert b"<title>" in page.read()
            server.send_signal(signal.SIGINT)
            assert server.wait(30) in (0, 130)
        finally:  # leaving the block waits for it
            server.kill()
