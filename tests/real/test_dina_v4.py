"""Real neurons: the population script a user runs, on macaque V4, one split. Nothing is chosen on the test images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hvf.experiments.results import Result

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow(part=6)
def test_maps_of_v4(shared_data, tmp_path):
    responses = tmp_path / "v4.npy"
    np.save(responses, np.load(shared_data / "v4" / "responses_avg_201025.npy").T)  # (neurons, images) there
    weights = shared_data / "weights"
    squeezenet = f"torchvision:squeezenet1_0/{weights}/squeezenet1_0/squeezenet1_0_torchvision_keys.npz"
    command = [sys.executable, ROOT / "brain_training" / "population.py", "--trials", responses]
    command += [
        "--images",
        shared_data / "v4" / "images_201025.zip",
        "--backbone",
        squeezenet,
        "--layers",
        "5",
        "9",
        "12",
    ]
    command += ["--latents", f"vae:{weights}/taesdxl@112", "--grid", "6", "--semantic", f"{squeezenet}@classifier:mean"]
    command += ["--align.epochs", "30", "--align.learning-rate", "1e-3", "--splits", "1", "--out", tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(c) for c in command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table, result = json.loads((tmp_path / "out" / "population.json").read_text()), Result.read(tmp_path / "out")
    top1 = {name: row.figures["top1"]["value"] for name, row in result.rows.items()}
    low, high = result.chance["top1"]["ci95"]
    assert low <= top1["DINA, permuted"] <= high
    assert top1["DINA"] > top1["ridge"] > high
    assert result.lead("DINA", "categories alone")["ci95"][0] > 0
    explained, control = (table["explained"][row] for row in ("DINA", "DINA, permuted"))
    assert explained["ci95"][0] > max(control["ci95"][1], 0)  # over images: more than of permuted trials, and than none
    assert control["value"] < 0.01
    assert explained["value"] == pytest.approx(np.mean(table["places"]["DINA"]["explained_KSS"]), rel=1e-3)
    explained_KB = np.array(table["scales"]["DINA"]["explained_KB"])
    assert (explained_KB[:, 0] > explained_KB[:, -1]).all()  # coarse before fine, for every encoder
