"""The run folder enters only its own settings again, and no fault leaves anything half-written."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hvf import __version__, presets
from hvf.config import HvfError, to_dict, with_settings
from hvf.progress import Track
from hvf.report.folder import Folder
from hvf.runs import (
    Run,
    cache_dir,
    check_writable,
    code_version,
    padded,
    track,
    write_atomic,
    write_csv,
    write_json,
)

MINI = presets.mini()


def files_below(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


@pytest.fixture
def mounted(tmp_path):
    """Mounts a tmpfs of the given options, or skips; unmounted afterwards."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    done = []

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("may not mount a file system here")
        done.append(folder)
        return folder

    yield mount
    for _ in done:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


# Run folders


def test_create_open_and_enter_again(tmp_path):
    path = tmp_path / "runs" / "sub-08-eeg"
    run = Run.create(path, MINI)
    run.write_json("retrieval.json", {"ranks": np.arange(3), "best": np.float32(0.5), "where": path})
    assert json.loads((path / "config.json").read_text()) == to_dict(MINI)
    assert Run.open(path).config == MINI
    assert Run.create(path, MINI).read_json("retrieval.json")["ranks"] == [0, 1, 2]
    assert run.has("retrieval.json")
    assert not run.has("images")
    assert files_below(path) == ["config.json", "retrieval.json"]


def test_create_enters_a_run_that_differs_in_execution_only(tmp_path):
    Run.create(tmp_path / "run", MINI)
    assert Run.create(tmp_path / "run", with_settings(MINI, {"sampling.batch_size": 3})).config.sampling.batch_size == 3


def test_create_refuses_other_settings_naming_the_first(tmp_path):
    path = tmp_path / "run"
    Run.create(path, MINI)
    other = with_settings(MINI, {"align.epochs": 3, "sampling.steps": 4})
    with pytest.raises(HvfError, match=r"holds a run with align.epochs 25, not 3: choose another --out"):
        Run.create(path, other)
    assert Run.open(path).config == MINI


def test_create_refuses_a_folder_that_is_no_run(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    for path in (tmp_path, tmp_path / "photo.jpg"):
        with pytest.raises(HvfError, match="not a run folder"):
            Run.create(path, MINI)
    assert files_below(tmp_path) == ["photo.jpg"]


def test_create_refuses_impossible_settings_before_writing(tmp_path):
    with pytest.raises(HvfError, match="subject 11 does not exist"):
        Run.create(tmp_path / "run", with_settings(MINI, {"data.subject": 11}))
    assert files_below(tmp_path) == []


def test_a_folder_of_runs_and_a_misspelt_run_are_answered_with_the_runs_there_are(tmp_path):
    for name in ("sub-08-eeg", "sub-02-meg"):
        Run.create(tmp_path / name, MINI)
    runs = f"{tmp_path / 'sub-02-meg'}, {tmp_path / 'sub-08-eeg'}"
    with pytest.raises(HvfError, match=re.escape(f"it holds runs, so name them: {runs}")):
        Run.open(tmp_path)
    with pytest.raises(HvfError, match=f"{re.escape(runs)}$"):
        Folder(tmp_path)
    meant = re.escape(f"there is no such folder; did you mean '{tmp_path / 'sub-08-eeg'}'?")
    with pytest.raises(HvfError, match=meant):
        Run.open(tmp_path / "sub-8-eeg")
    with pytest.raises(HvfError, match=meant):
        Folder(tmp_path / "sub-8-eeg")


def test_open_refuses(tmp_path):
    with pytest.raises(HvfError, match=r"nothing is not a run folder: there is no such folder$"):
        Run.open(tmp_path / "nothing")
    with pytest.raises(HvfError, match="not a run folder: it has no config.json"):
        Run.open(tmp_path)
    (tmp_path / "config.json").write_text('{"data": {"subj')
    with pytest.raises(HvfError, match="config.json cannot be read as JSON"):
        Run.open(tmp_path)
    (tmp_path / "config.json").write_text('{"dat": {}}')
    with pytest.raises(HvfError, match="did you mean 'data'"):
        Run.open(tmp_path)


def test_metrics_merge_and_are_checked(tmp_path):
    run = Run.create(tmp_path / "run", MINI)
    assert run.metrics() == {}
    first = {"retrieval/brain/top1": {"value": np.float64(0.5), "ci95": (0.4, 0.6), "n": np.int64(200)}}
    run.write_metrics(first)
    run.write_metrics({"chance/retrieval/top1": {"value": 0.005, "ci95": None, "n": 200}})
    assert run.metrics()["retrieval/brain/top1"] == {"value": 0.5, "ci95": [0.4, 0.6], "n": 200}
    assert len(run.metrics()) == 2
    run.write_metrics(first, merge=False)
    assert list(run.metrics()) == ["retrieval/brain/top1"]
    with pytest.raises(HvfError, match="must have value, ci95 and n"):
        run.write_metrics({"a": {"value": 1.0}})
    with pytest.raises(HvfError, match="'a' is nan, not a finite number"):
        run.write_metrics({"a": {"value": float("nan"), "ci95": None, "n": 1}})
    assert list(run.metrics()) == ["retrieval/brain/top1"]


def test_discard_takes_back_only_what_is_unused(tmp_path):
    Run.create(tmp_path / "runs" / "a", MINI).discard_if_unused()
    assert files_below(tmp_path) == []
    used = Run.create(tmp_path / "runs" / "b", MINI)
    used.write_json("retrieval.json", {})
    used.discard_if_unused()
    assert used.has("retrieval.json")
    entered = Run.create(used.path, MINI)
    (used.path / "retrieval.json").unlink()
    entered.discard_if_unused()
    assert entered.has("config.json")


# Writing


def test_write_atomic_replaces_whole(tmp_path):
    path = tmp_path / "new" / "x.npy"
    write_atomic(path, lambda tmp: np.save(tmp, np.arange(4)))
    write_atomic(path, lambda tmp: np.save(tmp, np.arange(9)))
    assert np.load(path).size == 9
    assert files_below(tmp_path) == ["new", "new/x.npy"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), HvfError("no")])
def test_write_atomic_leaves_nothing_when_the_writer_fails(tmp_path, error):
    (tmp_path / "old.txt").write_text("old")

    def half(tmp: Path) -> None:
        tmp.write_text("half")
        raise error

    for name in ("old.txt", "folder/new.txt"):
        with pytest.raises(type(error)):
            write_atomic(tmp_path / name, half)
    assert files_below(tmp_path) == ["old.txt"]
    assert (tmp_path / "old.txt").read_text() == "old"


def test_write_atomic_survives_a_killed_process(tmp_path):
    """Killed in the middle, the old file is whole, and a run folder with the leftover is entered again."""
    path = tmp_path / "run" / "retrieval.json"
    Run.create(path.parent, MINI).write_json(path.name, {"old": 1})
    code = (
        "import pathlib, os, signal, sys; from hvf.runs import write_atomic\n"
        "def half(tmp): tmp.write_text('{'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomic(pathlib.Path(sys.argv[1]), half)"
    )
    root = Path(__file__).resolve().parent.parent
    killed = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert Run.create(path.parent, MINI).read_json(path.name) == {"old": 1}


def write_numpy(tmp: Path) -> None:
    np.save(tmp, np.zeros(100_000))


def write_bytes(tmp: Path) -> None:
    tmp.write_bytes(bytes(800_000))


def write_safetensors(tmp: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(100_000)}, tmp)


@pytest.mark.parametrize("write", [write_numpy, write_bytes, write_safetensors])
def test_write_atomic_on_a_full_disk(mounted, write):
    folder = mounted("size=128k")
    old = folder / "x.npy"
    old.write_bytes(b"old")
    with pytest.raises(HvfError, match=r"cannot write .*x.npy: the disk is full"):
        write_atomic(old, write)
    with pytest.raises(HvfError, match="the disk is full"):
        write_atomic(folder / "deep" / "er" / "x.npy", write)
    assert files_below(folder) == ["x.npy"]
    assert old.read_bytes() == b"old"


def test_check_writable_sees_a_full_disk(mounted):
    folder = mounted("size=32k")
    with pytest.raises(HvfError, match="the disk is full"):
        Run.create(folder / "run", MINI)
    assert files_below(folder) == []


@pytest.mark.parametrize("where", ["new", "."])
def test_read_only_folder(mounted, where):
    path = mounted("ro") / where
    for refuse in (check_writable, lambda p: Run.create(p, MINI), lambda p: write_atomic(p / "x", write_bytes)):
        with pytest.raises(HvfError, match=r"cannot write .*: the file system is read-only"):
            refuse(path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_write_atomic_when_the_disk_gives_up_at_the_end(tmp_path, monkeypatch, code):
    """Some file systems only notice when they flush."""

    def fail(fd: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    for name in ("x", "folder/x"):
        with pytest.raises(HvfError, match="cannot write"):
            write_atomic(tmp_path / name, write_bytes)
    with pytest.raises(HvfError, match="cannot write"):
        check_writable(tmp_path)
    assert files_below(tmp_path) == []


def test_a_path_through_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    for refuse in (check_writable, lambda p: Run.create(p, MINI), lambda p: write_atomic(p, write_bytes)):
        with pytest.raises(HvfError, match=r"cannot write .*: a part of this path is a file"):
            refuse(tmp_path / "file" / "run")
    assert files_below(tmp_path) == ["file"]


def test_check_writable_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b" / "c.html")
    check_writable(tmp_path)
    assert files_below(tmp_path) == []


# The rest


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("HVF_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("HVF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "hvf"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "hvf"


def test_code_version():
    assert code_version().startswith(__version__)


@pytest.fixture
def loud(monkeypatch):
    monkeypatch.setenv("HVF_QUIET", "0")
    monkeypatch.setattr(Track, "_DELAY", 0.02)


def wait(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_track_counts_items_and_steps():
    assert list(track([3, 4], "x")) == [3, 4]
    assert list(track(3, "x")) == [0, 1, 2]
    assert list(track((i for i in "ab"), "x")) == ["a", "b"]


@pytest.mark.usefixtures("loud")
def test_track_shows_long_work_and_leaves_nothing(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    with track(10, "outer") as outer:
        wait(lambda: outer._task is not None)
        outer.advance(4)
        for step in track(2, "inner"):  # nested bars share one display
            if step == 1:
                wait(lambda: Track._bars == 2)
        assert Track._shown.tasks[0].completed == 4
    assert Track._shown is None
    assert Track._bars == 0
    shown = capsys.readouterr()
    assert "outer" in shown.err
    assert "4/10" in shown.err
    assert shown.out == ""


@pytest.mark.usefixtures("loud")
def test_track_says_one_line_where_there_is_no_terminal(capsys):
    said = []
    for _ in track(2, "drawing"):
        wait(lambda: said.append(capsys.readouterr().err) or any(said))
        break
    assert "".join(said) == "drawing ...\n"


@pytest.mark.usefixtures("loud")
def test_track_is_silent_for_short_work_and_when_told(monkeypatch, capsys):
    list(track(3, "short"))
    monkeypatch.setenv("HVF_QUIET", "1")
    with track(1, "told"):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("loud")
def test_track_ends_with_an_error():
    with pytest.raises(ValueError, match="no"), track(1, "failing"):
        raise ValueError("no")
    assert Track._bars == 0


def test_a_name_that_is_no_utf_8_can_be_written(tmp_path):
    write_json(tmp_path / "x.json", {"file": "caf\udce9.vhdr", "other": "café"})
    assert json.loads((tmp_path / "x.json").read_bytes()) == {"file": "caf\udce9.vhdr", "other": "café"}


def test_a_table_holds_any_name(tmp_path):
    """As pandas and csv read it: line ends of any kind, commas, quotes, letters of any alphabet, numbers."""
    names = ["a\rb", "a\nb", "a\r\nb", 'say "cheese", please', "Käse", "çéß 喵", " led by a space", ""]
    write_csv(tmp_path / "t.csv", ["name", "score", "hit"], [(name, i / 3, i > 1) for i, name in enumerate(names)])
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["name", "score", "hit"], *([name, str(i / 3), str(i > 1)] for i, name in enumerate(names))]
    table = pd.read_csv(tmp_path / "t.csv", keep_default_na=False)
    assert table["name"].tolist() == names
    assert table["score"].tolist() == [i / 3 for i in range(len(names))]
    write_csv(tmp_path / "plain.csv", ["name"], [["cat"], ["dog, too"]])
    assert (tmp_path / "plain.csv").read_bytes() == b'name\ncat\n"dog, too"\n'


@pytest.mark.parametrize("n", [1, 200, 9999, 10_000, 10_001, 100_002])
def test_numbered_names_sort_by_their_numbers(n):
    some = sorted({0, 1, n // 3, n - 1, min(9_999, n - 1), min(10_000, n - 1)})
    names = [padded(i, n) for i in some]
    assert sorted(names) == names
    assert [int(name) for name in names] == some
    assert n > 10_000 or {len(name) for name in names} == {4}
