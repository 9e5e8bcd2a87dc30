"""The tutorials are true: every command and every piece of code on a page runs, in order, in one folder."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from hvf import cli
from tests.documented import NEEDS_THE_HUB, ROOT, SCRIPTS, Block, blocks, run_code, run_command

FOLDER = ROOT / "docs" / "tutorials"
PAGES = {page.stem: blocks(page.read_text(encoding="utf-8")) for page in FOLDER.glob("*.md") if page.stem != "index"}
# Which part of the slow tests runs a page.
PARTS = {"see_it_work": 6, "my_own_eeg": 5, "clean_first": 7, "things_eeg2": 2, "train_a_prior": 9, "add_your_own": 8}
LITTLE = "--data.train-concepts 150 --data.test-concepts 40 --align.epochs 3"
# What a test can afford: {how a line begins: what is added to it}; "" leaves it as it is.
LESS = {
    # In the folders that the commands alone would choose.
    "hvf reconstruct --subject 8": f"{LITTLE} --out runs/sub-08-eeg-reconstruction",
    "hvf retrieve --subject 8": f"{LITTLE} --out runs/sub-08-eeg",
    "hvf data simulate brainvision": "--train-concepts 60",
    "hvf data simulate things-eeg": "--train-concepts 30",
    "hvf reconstruct --trials": "--align.epochs 5",
    "hvf retrieve --trials": "--align.epochs 2",
    "python eval/benchmark.py --methods": "--epochs 1",
    "accelerate launch prior_training/train.py": "--max-steps 2 --batch-size 8 --images few --pictures 1",
}
NEEDS_DATA = (*NEEDS_THE_HUB, "--suite things-eeg2", "--out trials-hvf")  # what has no stand-in, or is there for it


def commands(page: str) -> list[str]:
    return [line for block in PAGES[page] if block.language == "bash" for line in block.commands]


def test_every_page_is_run_by_a_part():
    assert PAGES.keys() == PARTS.keys()
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert all(f"\n{page}\n" in index for page in PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_understood(page: str):
    for line in commands(page):
        program, *words = shlex.split(line)
        if program == "hvf" and "my-lab" not in words and "peak" not in words:  # which the page itself adds
            assert callable(cli._command(words)), line
        elif program in ("python", "accelerate"):
            assert all((ROOT / word).is_file() for word in words if word.endswith(".py")), line
        else:
            assert program in ("hvf", "make", "source"), line


def test_the_newcomers_path_skips_nothing():
    lines = commands("my_own_eeg")
    assert not any(words in line for line in lines for words in NEEDS_DATA)
    assert [line.split()[1] for line in lines if line.startswith("hvf") and "data" not in line.split()[1]] == [
        "reconstruct",
        "decode",
    ]


def package_of(page: list[Block], folder: Path) -> Path:
    """Where hvf is imported from: the checkout, or a copy in `folder` if the page adds files to it."""
    if not any(block.path for block in page):
        return ROOT
    shutil.copytree(ROOT / "hvf", folder / "hvf", ignore=shutil.ignore_patterns("__pycache__", "weights"))
    (folder / "hvf" / "weights").symlink_to(ROOT / "hvf" / "weights")
    return folder


def carry_out(line: str, folder: Path, package: Path) -> None:
    """One line of a page; setting up is looked at, not done again."""
    if line.startswith("make "):
        subprocess.run([*line.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)
    elif line.startswith("source "):
        assert line == "source .venv/bin/activate"
    elif not any(words in line for words in NEEDS_DATA):
        extra = next((more for start, more in LESS.items() if line.startswith(start)), "")
        given = set(line.split())
        words = shlex.split(extra)
        pairs = zip(words[::2], words[1::2], strict=True)
        run_command(line, folder, package, [word for pair in pairs if pair[0] not in given for word in pair])


@pytest.mark.parametrize("page", [pytest.param(page, marks=pytest.mark.slow(part=PARTS[page])) for page in PAGES])
def test_a_page_runs_from_top_to_bottom(page: str, tmp_path: Path):
    for name in SCRIPTS:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "few").mkdir()
    for i in range(24):
        Image.new("RGB", (64, 64), (10 * i, 100, 240 - 10 * i)).save(tmp_path / "few" / f"{i:02d}.png")
    package = package_of(PAGES[page], tmp_path)
    said = []
    for block in PAGES[page]:
        if block.language == "bash":
            for line in block.commands:
                carry_out(line, tmp_path, package)
        elif block.path:
            file = tmp_path / block.path
            assert file.exists() == block.appended, block.path
            with file.open("a", encoding="utf-8") as out:
                out.write(block.text)
        elif block.language == "python":
            said.append(run_code(block.text, tmp_path, package))
    LEFT[page](tmp_path, said)


def left_by_see_it_work(folder: Path, said: list[str]) -> None:
    assert (folder / "runs/sub-08-eeg-reconstruction/report.html").is_file()
    assert (folder / "answers/answers.html").is_file()
    assert float(re.findall(r"top-5 ([\d.]+) %", said[-1])[0]) > 2 * 2.5  # chance is 2.5 %


def left_by_my_own_eeg(folder: Path, said: list[str]) -> None:
    assert "480 trials x 63 eeg channels x 60 samples" in said[0]
    assert (folder / "evoked.png").is_file()
    assert len(list((folder / "answers/images/drawn").iterdir())) == 20
    assert re.fullmatch(r"\d+% first, \d+% among the first five; chance 2 % and 8 %\n", said[-1])


def left_by_clean_first(folder: Path, said: list[str]) -> None:
    assert [float(line) < 1e-3 for line in said[0].splitlines() if re.fullmatch(r"[\d.e-]+", line)] == [True]  # V
    assert "components of blinks: " in said[2]
    assert "of 480 epochs are kept" in said[3]
    made = {path.name for path in (folder / "pictures").iterdir()}
    assert made >= {"sub-08_spectrum.png", "sub-08_channels.png", "clean-epo_reliability.png"}


def left_by_things_eeg2(folder: Path, said: list[str]) -> None:
    table = (folder / "runs/table/table.md").read_text(encoding="utf-8")
    assert all(name in table for name in ("hvf", "nice", "ridge", "chance", "simulated"))
    assert "75.7" in (folder / "things.md").read_text(encoding="utf-8")


def left_by_train_a_prior(folder: Path, said: list[str]) -> None:
    assert [Image.open(folder / f"drawn-{i}.png").size for i in (0, 1)] == [(64, 64)] * 2


def left_by_add_your_own(folder: Path, said: list[str]) -> None:
    assert "4 trials" in said[1]
    assert (folder / "my-lab/sub-01_trials.npy").is_file()
    assert '"peak"' in (folder / "runs/peak/config.json").read_text(encoding="utf-8")


LEFT = {name.removeprefix("left_by_"): check for name, check in list(globals().items()) if name.startswith("left_by_")}


def test_the_notebook_shows_what_it_makes(tmp_path: Path) -> None:
    """Each object that a cell ends with has a view of its own."""
    source = (ROOT / "docs" / "examples" / "plot_decoder.py").read_text(encoding="utf-8")
    cells = [cell.strip().splitlines()[-1] for cell in re.split(r"^# %%$", source, flags=re.MULTILINE)[1:]]
    assert {"study.train", "study.test_images", "decoder", "found", "decoder.prior"} <= set(cells)


@pytest.mark.slow(part=6)
def test_the_notebook_runs(tmp_path: Path) -> None:
    gallery = pytest.importorskip("sphinx_gallery.notebook", reason="needs the extra docs")
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    from sphinx_gallery.gen_gallery import DEFAULT_GALLERY_CONF
    from sphinx_gallery.py_source_parser import split_code_and_text_blocks

    source = (ROOT / "docs" / "examples" / "plot_decoder.py").read_text(encoding="utf-8")
    small = tmp_path / "plot_decoder.py"
    small.write_text(source.replace('"data.train_concepts": 240', '"data.train_concepts": 60, "align.epochs": 2'))
    _, parts = split_code_and_text_blocks(str(small))
    first = "%matplotlib inline"
    assert f'"first_notebook_cell": "{first}"' in (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
    made = gallery.jupyter_notebook(parts, DEFAULT_GALLERY_CONF | {"first_notebook_cell": first}, str(tmp_path))
    notebook = nbformat.reads(json.dumps(made), as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    views = [output["data"]["text/html"] for output in shown if "text/html" in output.get("data", {})]
    for words in ("63 eeg channels", "<img", "fitted to 63 eeg", "trials among 200 images", "FusionPrior"):
        assert any(words in view for view in views), words
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
