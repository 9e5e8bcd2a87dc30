"""`hvf embed`: on the device that is named, and in several processes the same file as in one."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hvf.cli import main
from hvf.vision.processes import ALONE, Processes
from tests.launched import launcher


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(75):  # two batches and a bit
        pixels = rng.integers(0, 256, (64, 64 + i % 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


def test_a_device_that_is_not_there_is_refused_before_anything(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HVF_CACHE", str(tmp_path / "cache"))
    for device in ("gpu", "cuda:99", "mps:7"):
        assert main(["embed", "--images", str(pictures), "--targets", "vae:mini", "--device", device]) == 2
        assert f"device '{device}' cannot be used here" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
    assert main(["embed", "--images", str(pictures), "--targets", "vae:mini", "--device", "cpu"]) == 0
    assert "vae:mini: 75 images, 256 features each" in capsys.readouterr().out


def test_every_item_belongs_to_one_process_in_the_batches_of_one_alone():
    for n, batch, count in ((75, 32, 2), (75, 32, 5), (0, 4, 3), (9, 4, 1)):
        shares = [Processes(rank, count).share(n, batch) for rank in range(count)]
        batches = sorted((part for share in shares for part in share), key=lambda part: part.start)
        assert batches == ALONE.share(n, batch)
        assert [i for part in batches for i in part] == list(range(n))


@pytest.mark.slow(part=2)
def test_two_processes_leave_the_file_of_one(pictures, tmp_path):
    arguments = [
        "embed",
        "--images",
        str(pictures),
        "--targets",
        "openclip:mini-vit@1:mean",
        "vae:mini",
        "--device",
        "cpu",
    ]
    launch = ["-m", "accelerate.commands.launch"]
    outputs = {}
    for name, command in {
        "alone": ["-m", "hvf", *arguments],
        "two": [*launch, *launcher(2), "-m", "hvf", *arguments],
        "three": [*launch, *launcher(3), "-m", "hvf", *arguments],
    }.items():
        environment = {**os.environ, "HVF_CACHE": str(tmp_path / name), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == 0, done.stderr
        said = done.stdout.replace(str(tmp_path / name), "CACHE").splitlines()
        # Torch's own words on its peers, which two processes may write into each other's lines.
        outputs[name] = [line for line in said if "[Gloo]" not in line and "peer ranks" not in line]
        assert "vae:mini: 75 images, 256 features each" in outputs[name]
        assert outputs[name].count("wrote CACHE") == 1
    assert outputs["alone"] == outputs["two"] == outputs["three"]
    files = {path.name: path.read_bytes() for path in (tmp_path / "alone" / "features").iterdir()}
    assert len(files) == 2
    for name in ("two", "three"):
        assert {path.name: path.read_bytes() for path in (tmp_path / name / "features").iterdir()} == files

    whole = (pictures / "040.png").read_bytes()
    (pictures / "040.png").write_bytes(
        whole[: len(whole) // 2]
    )  # in the share of one process: both are refused, and end
    environment = {**os.environ, "HVF_CACHE": str(tmp_path / "refused"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, *launcher(2), "-m", "hvf", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode != 0
    assert done.stderr.count("hvf: ") == 1
    assert not list((tmp_path / "refused").rglob("*.safetensors"))
