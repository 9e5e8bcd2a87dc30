"""Commands killed at random moments and started again: they end as those that nobody killed, and nothing is left over.

HVF_KILLS says how many times each is killed (SIGKILL and SIGTERM in turn); docs/reliability.md has the figures for 20.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.endings.commands import COMMANDS, ROOT, Job, World, hidden, through, told, tree
from tests.launched import launcher
from tests.scripts.test_prior_training import SCRIPT, arguments, make_world, weights

KILLS = int(os.environ.get("HVF_KILLS", "2"))
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
KILLED = ("train", "reconstruct", "decode", "adapt", "data prepare", "prepare.py", "benchmark.py")
ONCE = ("decode", "adapt", "data prepare")  # they refuse a folder that holds what they have finished

pytestmark = [pytest.mark.slow(part=9)]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@dataclass
class Count:
    """What became of the kills."""

    kills: int = 0
    too_late: int = 0  # it had ended already
    starts: int = 0


@pytest.mark.parametrize("name", KILLED)
def test_a_killed_command_ends_as_one_that_nobody_killed(world, tmp_path, name, capsys):
    rng, count = random.Random(f"{name} {os.environ.get('HVF_SEED', '0')}"), Count()
    whole, out, cache = tmp_path / "whole" / "run", tmp_path / "out" / "run", tmp_path / "cache"
    unkilled = through(COMMANDS[name](world, whole), tmp_path / "cold")
    assert unkilled.code == 0, told(unkilled)
    expected, work, again = tree(whole), COMMANDS[name](world, out), False
    while True:
        count.starts += 1
        job = Job(work, cache)
        ended = job.wait(rng.uniform(0, unkilled.seconds) if count.kills < KILLS else 600)
        if ended is None:
            number = SIGNALS[count.kills % 2]
            ended, again = job.end(number), True
            count.kills += 1
            if number == signal.SIGTERM and ended.code != 0:
                assert ended.code in (143, -signal.SIGTERM), told(ended)  # the latter: before it had begun
                assert "Traceback" not in ended.said, told(ended)
                assert not [path for path in hidden(out, cache) if f"-{job.pid}-" in path], told(ended)
            if ended.code != 0:
                continue
            count.too_late += 1
        finished = name in ONCE and ended.code == 2 and "already" in ended.said  # killed after its last file
        assert ended.code == 0 or finished, told(ended)
        assert tree(out) == expected
        assert hidden(out, cache) == [] or not again
        if count.kills >= KILLS:
            break
        again = False
        for folder in (out, cache):
            shutil.rmtree(folder, ignore_errors=True)
    with capsys.disabled():
        print(f"\n{name}: killed {count.kills} times in {count.starts} starts of {unkilled.seconds:.1f} s, ended alike")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_training_of_a_prior_ends_as_one_that_nobody_killed(tmp_path, processes, capsys):
    rng, kills, starts = random.Random(processes), 0, 0
    world, whole, out = make_world(tmp_path), tmp_path / "whole", tmp_path / "out"
    settings = {"shipped": "float32", "dropout": 0.1, "pictures": 0, "max_steps": 30, "checkpoint_every": 3}

    def started(folder: Path) -> subprocess.Popen[str]:
        resume = ["--resume"] if (folder / "training.json").exists() else []
        command = [sys.executable, "-m", "accelerate.commands.launch", *launcher(processes), str(SCRIPT)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HVF_CACHE": str(tmp_path / "c")}
        return subprocess.Popen(
            [*command, *arguments(world, folder, **settings), *resume], env=environment, cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    began, first = time.monotonic(), started(whole)
    said = first.communicate(timeout=900)[0]
    assert first.returncode == 0, said
    duration = time.monotonic() - began
    if processes == 2:
        assert "2 processes" in said or (whole / "prior").is_dir()
    expected = weights(whole)
    while True:
        starts += 1
        job = started(out)
        try:
            said = job.communicate(timeout=rng.uniform(duration / 3, duration) if kills < KILLS else 900)[0]
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, SIGNALS[kills % 2])
            said = job.communicate(timeout=300)[0]
            kills += 1
            continue
        assert job.returncode == 0, said
        found = weights(out)
        assert all((expected[key] == found[key]).all() for key in expected)
        assert hidden(out) == []
        if kills >= KILLS:
            break
        shutil.rmtree(out)
    with capsys.disabled():
        print(f"\nprior training, {processes} processes: killed {kills} times in {starts} starts, ended alike")
