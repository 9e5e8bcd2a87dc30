"""What a killed process was writing goes with the next one; what a living one writes stays."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from hvf import runs
from hvf.runs import check_writable, clear_leftovers, temporary_beside, write_atomic
from tests.leftovers import LIBRARY, left_by_a_dead_process, writer


def test_the_next_writer_clears_what_a_killed_one_left(tmp_path):
    left = left_by_a_dead_process(tmp_path / "weights.safetensors")
    write_atomic(tmp_path / "other.json", lambda path: path.write_text("{}"))
    assert not left.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["other.json"]


def test_asking_whether_a_folder_can_be_written_to_clears_it(tmp_path):
    left = left_by_a_dead_process(tmp_path / "x.npy")
    check_writable(tmp_path / "y.npy")
    assert not left.exists()


def test_what_a_living_process_writes_stays(tmp_path):
    process, theirs = writer(tmp_path / "x.npy")
    try:
        clear_leftovers(tmp_path)
        assert theirs.read_bytes() == b"half"
    finally:
        process.kill()
        process.communicate()
    clear_leftovers(tmp_path)
    assert not theirs.exists()


def test_a_number_that_another_process_has_now(tmp_path):
    mine = temporary_beside(tmp_path / "x.npy")
    machine, pid, start = re.fullmatch(runs.NAME, mine.name).groups()[:3]
    (mine, before) = mine, mine.with_name(mine.name.replace(f"-{start}-", f"-{int(start) - 100}-"))
    for path in (mine, before):
        path.write_bytes(b"")
    clear_leftovers(tmp_path)
    assert mine.exists()
    assert not before.exists()
    assert (machine, pid) == (runs._machine(), str(os.getpid()))


def test_another_machine_is_given_a_week(tmp_path):
    other = tmp_path / ".x.hvf-00000000-1-1-0123abcd.npy"
    other.write_bytes(b"")
    clear_leftovers(tmp_path)
    assert other.exists()
    os.utime(other, (time.time() - 8 * 86400,) * 2)
    clear_leftovers(tmp_path)
    assert not other.exists()


@pytest.mark.parametrize("name", [".hidden", ".x.0123abcd.npy", ".x.hvf-notes.txt", "x.hvf-00000000-1-1-0123abcd.npy"])
def test_other_files_are_nobodys_to_remove(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    os.utime(tmp_path / name, (0, 0))
    clear_leftovers(tmp_path)
    assert (tmp_path / name).exists()


def test_folders_and_long_names(tmp_path):
    left = temporary_beside(tmp_path / "study")
    gone = left.with_name(left.name.replace(f"-{os.getpid()}-", "-999999999-"))
    (gone / "inside").mkdir(parents=True)
    clear_leftovers(tmp_path)
    assert not gone.exists()
    long = temporary_beside(Path(tmp_path / ("x" * 240 + ".npy")))
    long.write_bytes(b"")
    assert long.suffix == ".npy"
    clear_leftovers(tmp_path / "nowhere")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_permissions_that_the_user_gives_files(tmp_path, mask, mode):
    import numpy as np
    from safetensors.numpy import save_file

    path, former = tmp_path / "x.safetensors", os.umask(mask)
    try:
        write_atomic(path, lambda temporary: save_file({"x": np.zeros(3)}, temporary))
    finally:
        os.umask(former)
    assert path.stat().st_mode & 0o777 == mode


def test_what_a_library_writes_beside_its_file_is_cleared_too(tmp_path):
    """safetensors 0.8 writes a `.tmpXXXXXX` of its own beside the file that it is given, which nobody would know."""
    left_by_a_dead_process(tmp_path / "x.safetensors", LIBRARY)
    write_atomic(tmp_path / "other.json", lambda path: path.write_text("{}"))
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]
