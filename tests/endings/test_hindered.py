"""Disks that fill up at each file that a command writes, and file systems that lack something: one line, exit code 2,
nothing half-written, and the next run goes through."""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.endings.commands import COMMANDS, World, hidden, through, told, tree
from tests.endings.hindered import HARMLESS, REFUSALS, counted, full_disk, full_from, without

MOST = int(os.environ.get("HVF_FILES", "2"))  # files of a command at which the disk fills up, drawn by chance


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Iterator[Path]:
    with full_disk(tmp_path_factory.mktemp("disk") / "full") as folder:
        yield folder


def assert_refused(ended, *folders: Path) -> None:
    assert ended.code == 2, told(ended)
    lines = [line for line in ended.said.splitlines() if line.startswith("hvf: ")]
    assert len(lines) == 1, told(ended)
    assert "Traceback" not in ended.said, told(ended)
    assert hidden(*folders) == [], told(ended)


@pytest.mark.slow(part=9)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_fills_up(world, full, tmp_path, name, capsys):
    whole, seen = tmp_path / "whole" / "run", tmp_path / "seen"  # pages name a run by its folder
    unhindered = through(COMMANDS[name](world, whole), tmp_path / "cold", counted(seen))
    assert unhindered.code == 0, told(unhindered)
    expected, n = tree(whole), seen.stat().st_size
    numbers = sorted(random.Random(name).sample(range(1, n + 1), min(MOST, n)))
    for number in numbers:
        out, cache = tmp_path / f"out-{number}" / "run", tmp_path / f"cache-{number}"
        ended = through(COMMANDS[name](world, out), cache, full_from(number, full))
        assert_refused(ended, out, cache)
        assert [path.name for path in full.iterdir()] == ["filler"]
        assert "the disk is full" in ended.said or "No space left on device" in ended.said, told(ended)
        left = {file: digest for file, digest in tree(out).items() if expected.get(file) != digest}
        assert not [file for file in left if not (out / file).stat().st_size], left
        again = through(COMMANDS[name](world, out), cache)
        assert again.code == 0, told(again)
        assert tree(out) == expected
    with capsys.disabled():
        print(f"\n{name}: the disk filled up at {len(numbers)} of {n} files, refused and made whole again")


@pytest.mark.slow(part=9)
@pytest.mark.parametrize("lacks", REFUSALS)
def test_a_file_system_that_lacks_what_is_needed(world, tmp_path, lacks):
    work = COMMANDS["data prepare"](world, tmp_path / "out")
    ended = through(work, tmp_path / "cache", without(*REFUSALS[lacks]))
    assert_refused(ended, tmp_path)
    assert "file system" in ended.said, told(ended)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow(part=9)
@pytest.mark.parametrize("lacks", [*HARMLESS, "locks"])
def test_a_file_system_that_lacks_what_nobody_needs(world, tmp_path, lacks, monkeypatch):
    def first() -> None:
        if lacks == "locks":
            fcntl.flock = fcntl.lockf = lambda *args: (_ for _ in ()).throw(OSError(37, "No locks available"))
        else:
            without(*HARMLESS[lacks])()

    for name in ("train", "data prepare"):
        ended = through(COMMANDS[name](world, tmp_path / name), tmp_path / "cache", first)
        assert ended.code == 0, told(ended)
        assert hidden(tmp_path) == []
