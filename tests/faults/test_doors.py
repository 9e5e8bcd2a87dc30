"""Damaged and hostile files at every door: read rightly or refused in a line; never a traceback, a hang or a crash."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from random import Random

import pytest

from hvf.config import HvfError
from tests.faults.child import outcomes
from tests.faults.damage import BY_ENDING, BYTES, damaged
from tests.faults.door import DOORS, Door, base_of, faults

for _module in sorted((Path(__file__).parent / "doors").glob("*.py")):
    importlib.import_module(f"tests.faults.doors.{_module.stem}")

FEW, MANY = 6, 400  # mutants of each door


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the doors read, each made when it is first asked for."""
    return tmp_path_factory.mktemp("bases")


@pytest.mark.parametrize("name", sorted(DOORS))
def test_a_few_damaged_files(name, bases, tmp_path):
    assert faults(DOORS[name], base_of(DOORS[name], bases), tmp_path, range(FEW)) == []


@pytest.mark.slow(part=8)
@pytest.mark.parametrize("name", sorted(DOORS))
def test_many_damaged_files(name, bases, tmp_path):
    assert faults(DOORS[name], base_of(DOORS[name], bases), tmp_path, range(FEW, MANY)) == []


@pytest.mark.slow(part=7)
def test_what_goes_wrong_in_a_job_is_told():
    """The control: what raises, hangs, dies or takes memory is told by how it did, and the jobs after it are done."""

    def hangs():
        while True:
            pass

    jobs = [lambda: {}["x"], hangs, os.abort, lambda: len(bytearray(1100 * 2**20)), lambda: _refused("a\nb"), lambda: 7]
    kinds = ["traceback", "hang", "crash", "memory", "traceback", "read"]
    came = outcomes(jobs, seconds=3)
    assert [one.kind for one in came] == kinds, came
    assert (came[0].value[:13], came[2].value, came[-1].value) == ("KeyError: 'x'", "SIGABRT", "7")


def _refused(words: str) -> None:
    raise HvfError(words)


def test_other_content_is_told(tmp_path):
    """The control: a reader that reads whatever is there, where a checksum stands."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "x").write_bytes(b"what was written")
    door = Door("careless", lambda _: None, ["x"], lambda folder, name: (folder / name).read_bytes(), checked=True)
    del DOORS["careless"]
    found = faults(door, base, tmp_path / "scratch", range(10))
    assert len(found) == 10
    assert all("silent" in line for line in found)


def test_the_same_seed_damages_alike():
    for ending in (*BY_ENDING, ".arrow"):
        data = b'{"a": [1, 2, {"b": "c"}]}' * (ending != ".npy")
        data = data if ending == ".json" else b"\x93NUMPY\x01\0" + bytes(200)
        once, again = ([damaged(data, ".arrow", Random(seed)) for seed in range(50)] for _ in range(2))
        assert once == again
        assert all(changed != data for _, changed in once)
        assert len({stroke for stroke, _ in once}) > len(set(BYTES)) / 2
