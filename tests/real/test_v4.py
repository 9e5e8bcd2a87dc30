"""Real neurons, real photographs: macaque V4 finds 1 of 200 held-out images, through the table a user would run.

The input noise, the epoch and ridge's penalty are chosen on validation images of each split; each is tested once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hvf.experiments.results import Result

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = 0.383  # shared/data/README.md: ridge to the same features, sum of scores weighted 1 : 0.5, five splits
FUSED, PERMUTED, RIDGE = "fused (HVF)", "fused, trials permuted", "ridge, all encoders"


@pytest.mark.slow(part=6)
def test_fusion_finds_more_than_each_encoder(shared_data, tmp_path):
    responses = tmp_path / "v4.npy"
    np.save(responses, np.load(shared_data / "v4" / "responses_avg_201025.npy").T)  # (neurons, images) there
    weights = shared_data / "weights"
    squeezenet = f"torchvision:squeezenet1_0/{weights}/squeezenet1_0/squeezenet1_0_torchvision_keys.npz@12:grid2"
    latents = f"vae:{weights}/taesdxl@112:grid4"
    command = [sys.executable, ROOT / "brain_training" / "targets.py", "--trials", responses]
    command += ["--images", shared_data / "v4" / "images_201025.zip", "--targets.specs", squeezenet, latents]
    command += ["--seeds", "5", "--align.epochs", "30", "--align.batch-size", "256"]
    command += ["--grid", "brain.input_noise=0.25,0.5", "--out", tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(c) for c in command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = Result.read(tmp_path / "out")
    top1 = {name: row.figures["top1"]["value"] for name, row in result.rows.items()}
    assert top1[FUSED] >= 0.50
    assert top1[FUSED] > top1[squeezenet] > top1[latents]
    high = result.rows[RIDGE].figures["top1"]["ci95"][1]
    assert high >= REFERENCE  # not below the reference, within the interval over images
    for row in (latents, RIDGE, PERMUTED):
        assert result.lead(FUSED, row)["ci95"][0] > 0
    low, high = result.chance["top1"]["ci95"]
    assert low <= top1[PERMUTED] <= high
