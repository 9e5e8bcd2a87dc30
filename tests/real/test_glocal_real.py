"""gLocal's published transform for CLIP ViT-L/14: read, applied as its repository applies it, and missing CLIP told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hvf.config import HvfError
from hvf.vision.backbones import glocal
from hvf.vision.encoder import Tower
from hvf.vision.loading import load_encoder


@pytest.fixture
def transform(shared_data):
    return shared_data / "weights" / "glocal" / "clip_ViT-L-14_visual_transform.npz"


class Still(torch.nn.Module):
    """As wide as ViT-L/14's image projection: the first 768 values of a picture."""

    def forward(self, x):
        return x.flatten(1)[:, :768]


def test_the_published_transform(transform, monkeypatch):
    still = Still()
    monkeypatch.setattr(glocal, "image_tower", lambda spec: Tower(still, lambda x: x, still, {}, f"still {spec}"))
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    got = load_encoder(f"glocal:ViT-L-14/{transform}")(images).numpy()
    with np.load(transform) as told:
        assert set(told.files) == {"weights", "mean", "std"}
        x_ND = (still(images).numpy().astype(np.float64) - told["mean"]) / told["std"]
        expected = x_ND @ told["weights"].astype(np.float64)
    np.testing.assert_allclose(got, expected, atol=1e-6, rtol=1e-4)
    # It is about 0.12 times the identity: a transform read transposed or from another file would turn vectors about.
    cosine_N = (got * x_ND).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(x_ND, axis=1)
    assert cosine_N.min() > 0.9


def test_clip_itself_is_asked_for_by_name(transform, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HvfError, match="hf download timm/vit_large_patch14_clip_224.openai"):
        load_encoder(f"glocal:ViT-L-14/{transform}")
