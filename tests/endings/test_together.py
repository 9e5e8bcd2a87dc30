"""Two of every command in one folder, with one cold cache, at once: neither breaks the other, nothing is left over."""

from __future__ import annotations

import random
import time

import pytest

from tests.endings.commands import COMMANDS, Job, World, hidden, through, told, tree


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.mark.slow(part=9)
@pytest.mark.parametrize("name", COMMANDS)
def test_two_at_once(world, tmp_path, name):
    whole, rng = tmp_path / "whole" / "run", random.Random(name)
    alone = through(COMMANDS[name](world, whole), tmp_path / "cold")
    assert alone.code == 0, told(alone)
    expected = tree(whole)
    for number, after in enumerate((0.0, rng.uniform(0, alone.seconds))):
        out, cache = tmp_path / f"out-{number}" / "run", tmp_path / f"cache-{number}"
        work = COMMANDS[name](world, out)
        first = Job(work, cache)
        time.sleep(after)
        ends = [one.wait() for one in (Job(work, cache), first)]
        assert all(end is not None for end in ends)
        assert 0 in [end.code for end in ends if end], [told(end) for end in ends if end]
        for end in ends:
            assert end is not None
            assert end.code == 0 or (end.code == 2 and "hvf: " in end.said), told(end)  # the other had finished
            assert "Traceback" not in end.said, told(end)
        assert tree(out) == expected
        assert hidden(out, cache) == []
