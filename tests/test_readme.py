"""What README.md and docs/tasks.md say to type works: each command is understood, and (slow) each is run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet
from PIL import Image

from hvf import cli
from tests.documented import NEEDS_THE_HUB, ROOT, TAKES_HOURS, blocks, run_code, run_command
from tests.documented import SCRIPTS as FOLDERS

README = (ROOT / "README.md").read_text(encoding="utf-8")
TASKS = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")


def commands() -> dict[str, list[list[str]]]:
    """{the bold words that open a section of docs/tasks.md: its commands}; others of the README belong to its last."""
    sections: dict[str, list[list[str]]] = {}
    title, pattern = "", re.compile(r"^\*\*([^*\n]+?)\.?\*\*|^```bash\n(.*?)^```", flags=re.M | re.S)
    for bold, block in [*pattern.findall(TASKS), *(("", block) for _, block in pattern.findall(README))]:
        title = bold or title
        # shlex takes the # inside of a word for a comment, too; a shell does not.
        plain = [re.sub(r"(^|\s)#.*", "", line) for line in block.splitlines()]
        lines = [shlex.split(line) for line in plain if line.strip()]
        known = [line for section in sections.values() for line in section]
        sections.setdefault(title, []).extend(line for line in lines if line not in known)
    return {title: lines for title, lines in sections.items() if lines}


SECTIONS = commands()
COMMANDS = [command for section in SECTIONS.values() for command in section]
HVF = [command[1:] for command in COMMANDS if command[0] == "hvf"]
SCRIPTS = [command for command in COMMANDS if command[0] in ("python", "accelerate")]
# What a command reads that another command of the page writes.
MADE_BY = {
    "runs/sub-08-eeg-reconstruction": "hvf reconstruct --subject 8",
    "runs/sub-08-eeg": "hvf retrieve --subject 8",
    "new/sub-08_new-epo.fif": "hvf data simulate new-recording --out new",
    "runs/others/seed-0": "accelerate launch brain_training/train.py --subject 8 --protocol loso "
    "--brain.people euclidean --out runs/others",
    "new/photos": "hvf data simulate new-recording --out new",
    "eeg": "hvf data simulate things-eeg --train-concepts 200 --out eeg",
    "eeg/image_set": "hvf data simulate things-eeg --train-concepts 200 --out eeg",
    "trials/sub-08_trials.npy": "hvf data prepare things-eeg --root eeg --out trials",
    "meg": "hvf data simulate things-meg --train-concepts 200 --out meg",
    "meg/Images": "hvf data simulate things-meg --train-concepts 200 --out meg",
    "meg-trials/sub-02_trials.npy": "hvf data prepare things-meg --root meg --out meg-trials",
    "figures": "hvf evaluate --recons drawn --images seen --out figures",
}
# Which part of the slow tests runs a section, or a script of one.
PARTS = {
    "See it work": 1, "Decode your own recording": 1, "Use what others computed": 1, "Measure and read": 1,
    "Use the real thing": 1, "Keep a decoder, and ask it what was seen": 1,
    "Take recordings in": 2,
    "Compare methods, encoders, layers, amounts of data": 3,
    "brain_training/layers.py": 7, "brain_training/scaling.py": 7, "brain_training/interpret.py": 4,
    "brain_training/timecourse.py": 4, "brain_training/adaptation.py": 4,
    "brain_training/benchmark.py": 4, "eval/prepare_benchmark.py": 4, "Train": 4,
}  # fmt: skip


def test_the_readme_starts_with_the_two_commands() -> None:
    first = next(block for block in blocks(README) if block.language == "bash")
    assert first.commands == ["make demo", "make test"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    assert {"demo", "test"} <= set(targets)


@pytest.mark.parametrize("command", HVF, ids=" ".join)
def test_a_command_is_understood(command: list[str]) -> None:
    assert callable(cli._command(command))


@pytest.mark.parametrize("command", SCRIPTS, ids=" ".join)
def test_a_script_exists(command: list[str]) -> None:
    (script,) = [word for word in command if word.endswith(".py")]
    assert (ROOT / script).is_file()


def test_every_path_and_link_in_the_readme_exists() -> None:
    for page, folder in ((README, ROOT), (TASKS, ROOT / "docs")):
        for target in re.findall(r"\]\(([^)#]+)\)", page):
            assert target.startswith("https://") or (folder / target).exists(), target


def to_run() -> list[ParameterSet]:
    """Every command but those that make, fetch or take hours, with the part of the slow tests that runs it."""
    cases = []
    for section, lines in SECTIONS.items():
        for command in lines:
            line = " ".join(command)
            if command[0] == "make" or any(words in line for words in (*NEEDS_THE_HUB, *TAKES_HOURS)):
                continue
            part = next((PARTS[word] for word in command if word in PARTS), PARTS.get(section, 0))
            marks = [pytest.mark.slow(part=part)]
            if command[0] == "hvf":  # one worker for those that read what the one before has written
                marks.append(pytest.mark.xdist_group(section))
            cases.append(pytest.param(line, marks=marks, id=line))
    return cases


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scripts, and with files of the names that the page uses."""
    folder = tmp_path_factory.mktemp("desk")
    rng = np.random.default_rng(0)
    np.save(folder / "responses.npy", rng.standard_normal((260, 9)).astype(np.float32))
    for name, n, size in (("images", 260, 32), ("drawn", 20, 64), ("seen", 20, 64)):
        (folder / name).mkdir()
        for i in range(n):
            Image.fromarray(rng.integers(0, 255, (size, size, 3), np.uint8)).save(folder / name / f"{i:03d}.png")
    names = [f"images/{i:03d}.png" for i in range(260)]
    np.savez(folder / "clip.npz", image=rng.standard_normal((260, 8)), names=names)
    torch.save(torch.randn(20, 8), folder / "brain.pt")
    torch.save({"img_features": torch.randn(20, 8), "text_features": torch.randn(20, 8)}, folder / "images.pt")
    np.save(folder / "scores.npy", rng.standard_normal((20, 10)))
    np.save(folder / "columns.npy", np.arange(20) // 2)
    subprocess.run([sys.executable, "-m", "zipfile", "-c", "images.zip", "images"], cwd=folder, check=True)
    for name in FOLDERS:
        (folder / name).symlink_to(ROOT / name)
    return folder


def run(line: str, folder: Path) -> None:
    """Run a command of the page, after those that make what it reads."""
    for word in shlex.split(line):
        if word in MADE_BY and MADE_BY[word] != line and not (folder / word).exists():
            run(MADE_BY[word], folder)
    run_command(line, folder)


@pytest.mark.parametrize("line", to_run())
def test_a_command_runs(line: str, desk: Path) -> None:
    run(line, desk)


def test_what_commands_need_is_made_by_commands_of_the_page() -> None:
    lines = {" ".join(command) for command in COMMANDS}
    assert set(MADE_BY.values()) <= lines
    assert {name for name in PARTS if not name.endswith(".py")} <= SECTIONS.keys()
    assert all(mark.kwargs["part"] for case in to_run() for mark in case.marks if mark.name == "slow")


@pytest.mark.slow(part=1)
def test_python_example_runs(tmp_path: Path) -> None:
    (example,) = [block.text for block in blocks(README) if block.language == "python"]
    share = float(re.search(r"([\d.]+)% of the images found among 200", run_code(example, tmp_path))[1])
    assert share > 5  # chance is 0.5 %
