"""prior_training/train.py under `accelerate launch`: several processes, signals, kills, and a disk that refuses."""

from __future__ import annotations

import importlib.util
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.launched import launcher
from tests.scripts.test_prior_training import ROOT, SCRIPT, arguments, history, make_world, weights

pytestmark = pytest.mark.slow(part=7)
# Dropout draws differ from one number of processes to another: without it, all must agree.
SETTINGS = {"shipped": "float32", "dropout": 0, "pictures": 0, "max_steps": 4}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def start(world: Path, out: Path, *more: str, config: str | None = None, limit=None, **settings) -> subprocess.Popen:
    """`accelerate launch` in a process group of its own, two processes where there is a config."""
    given = arguments(world, out, **(SETTINGS | settings))
    chosen = launcher(2, config) if config else launcher(1)
    scripts = [str(ROOT / "tests" / "fsdp_on_cpu.py")] if config == "fsdp.yaml" else []
    return subprocess.Popen(
        [sys.executable, "-m", "accelerate.commands.launch", *chosen, *scripts, str(SCRIPT), *given, *more],
        env=os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        cwd=world, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=limit,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory) -> Path:
    """What one process makes of four steps."""
    out = tmp_path_factory.mktemp("alone") / "run"
    finish(start(world, out))
    return out


def assert_alike(out: Path, expected: Path) -> None:
    ours, theirs = weights(out), weights(expected)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=2e-5, rtol=1e-4, msg=name)
    for mine, yours in zip(history(out), history(expected), strict=True):
        for name in ("loss", "validation_loss", "validation_loss_without_image", "gradient_norm"):
            assert mine[name] == pytest.approx(yours[name], rel=1e-4), name


@pytest.mark.parametrize("config", ["ddp.yaml", "fsdp.yaml"])
def test_two_processes_equal_one_on_the_same_batch_and_go_on_where_they_stopped(world, alone, tmp_path, config):
    out = tmp_path / "run"
    first = start(world, out, config=config, pictures=2, gradient_accumulation=2)
    after_a_checkpoint(first, out)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    finish(start(world, out, "--resume", config=config, pictures=2, gradient_accumulation=2))
    assert_alike(out, alone)
    assert list((out / "validation").glob("*.png"))


def test_deepspeed(world, alone, tmp_path):
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("the package deepspeed is not installed")
    finish(start(world, tmp_path / "run", config="deepspeed.yaml"))
    assert_alike(tmp_path / "run", alone)


def after_a_checkpoint(process: subprocess.Popen, out: Path) -> None:
    until = time.monotonic() + 600
    while not list(out.glob("checkpoint-*")):
        if process.poll() is not None or time.monotonic() > until:
            pytest.fail(f"no checkpoint: {process.communicate()[0]}")
        time.sleep(0.05)


def test_sigterm_leaves_a_checkpoint_and_a_resumed_training_ends_alike(world, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "run"
    settings = {"max_steps": 400, "validate_every": 400, "checkpoint_every": 3, "dropout": 0.1}
    other = start(world, whole, **settings)
    stopped = start(world, out, **settings)
    after_a_checkpoint(stopped, out)
    os.killpg(stopped.pid, signal.SIGTERM)
    said = stopped.communicate(timeout=600)[0]
    assert stopped.returncode != 0  # the launcher's; the script's own is 143
    assert "hvf: stopped by SIGTERM after step" in said
    step = int(said.split("after step ")[1].split(";")[0])
    assert (out / f"checkpoint-{step:07d}").is_dir()
    assert not (out / "prior").exists()
    finish(start(world, out, "--resume", **settings))
    finish(other)
    expected, found = weights(whole), weights(out)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_disk_that_refuses_is_told_in_one_line_and_costs_no_checkpoint(world, alone, tmp_path):
    out = tmp_path / "run"
    small = 100_000  # bytes that a file may have: the weights have fewer, the optimizer's state has more

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (small, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    failed = start(world, out, limit=limit)
    said = failed.communicate(timeout=600)[0]
    assert failed.returncode != 0
    lines = [line for line in said.splitlines() if line.startswith("hvf: ")]
    assert len(lines) == 1
    assert "Cannot write" in lines[0]
    assert "go on with --resume" in lines[0]
    assert not list(out.glob("*checkpoint*"))
    finish(start(world, out, "--resume"))
    assert_alike(out, alone)
