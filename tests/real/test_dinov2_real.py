"""A real DINOv2 ViT-S/14 backbone in float16 at 168 px: timm's own features, and its layers before real neurons."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

from hvf.experiments.results import Result
from hvf.vision.loading import load_encoder

ROOT = Path(__file__).resolve().parents[2]
# Top-1 of ridge encoding by block, two splits (shared/data/README.md).
KNOWN = (0.48, 0.64, 0.71, 0.82, 0.87, 0.88, 0.88, 0.84, 0.78, 0.69, 0.59, 0.53)


def spec(shared_data, block):
    return f"timm:vit_small_patch14_dinov2/{shared_data}/weights/dinov2_vits14/model.safetensors@{block}@168px:grid4"


@pytest.mark.slow(part=7)
def test_blocks_of_v4_photographs_are_those_of_timm(shared_data):
    import timm
    from timm.layers import resample_abs_pos_embed

    with zipfile.ZipFile(shared_data / "v4" / "images_201025.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[:3]
        pixels = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
    state = {
        name: x.float()
        for name, x in load_file(shared_data / "weights" / "dinov2_vits14" / "model.safetensors").items()
    }
    network = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0, img_size=168).eval()
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], new_size=[12, 12], antialias=False)
    network.load_state_dict(state)
    x = functional.interpolate(images, (168, 168), mode="bicubic", antialias=True).clamp(0, 1)
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        maps = network.forward_intermediates(x, norm=False, intermediates_only=True)
    for block in (0, 5, 11):
        expected = functional.avg_pool2d(maps[block], 3).flatten(1)  # 12 by 12 places to 4 by 4
        got = load_encoder(spec(shared_data, block))(images)
        assert got.shape == (3, 6144)
        assert torch.isfinite(got).all()
        torch.testing.assert_close(got, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.slow(part=7)
def test_the_curve_over_layers_is_an_inverted_u(shared_data, tmp_path):
    responses = tmp_path / "v4.npy"
    np.save(responses, np.load(shared_data / "v4" / "responses_avg_201025.npy").T)  # (neurons, images) there
    top1 = {}
    blocks = (0, 5, 10)
    command = [sys.executable, "-m", "hvf", "embed", "--images", shared_data / "v4" / "images_201025.zip"]
    command += ["--device", "cpu", "--targets", *(spec(shared_data, block) for block in blocks)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(c) for c in command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for block in blocks:
        command = [sys.executable, ROOT / "eval" / "benchmark.py", "--methods", "encoding", "--trials", responses]
        command += ["--images", shared_data / "v4" / "images_201025.zip", "--encoders", "given", "--seeds", "0", "1"]
        command += ["--specs", spec(shared_data, block), "--out", tmp_path / str(block)]
        done = subprocess.run([str(c) for c in command], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        splits = [Result.read(folder) for folder in (tmp_path / str(block)).glob("*-encoding-*")]
        assert len(splits) == 2
        top1[block] = np.mean([one.rows["encoding"].figures["top1"]["value"] for one in splits])
    print(top1)
    assert top1[5] > max(top1[0], top1[10]) + 0.1
    for block, value in top1.items():
        assert value > KNOWN[block] - 0.07  # other splits; 400 trials have an interval of 5 points
