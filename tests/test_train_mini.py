"""The script that trains the mini models, on a few pictures."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hvf.data import rendering
from hvf.data.simulated import draw
from hvf.data.stimuli import ImageSet
from hvf.vision.encoders import MINI_WEIGHTS
from hvf.vision.features import load_encoder
from tests.script_module import load_script

N = 32
SCRIPT = Path(__file__).parents[1] / "prior_training" / "train_mini.py"


@pytest.fixture(scope="module")
def train_mini():
    return load_script(SCRIPT)


def few_pictures() -> ImageSet:
    shown = [(concept, 5000) for concept in rendering.concepts()[300 : 300 + N]]
    x_NHWC, captions = draw(shown)
    names = [concept.name for concept, _ in shown]
    return ImageSet.from_arrays(x_NHWC, names, names, captions)


def test_shortened_captions_always_name_the_kind(train_mini):
    said = train_mini.shortened("a dotted blue drum in the snow", "dotted_blue_drum")
    assert said[0] == "a dotted blue drum in the snow"
    assert said[-1] == "a drum"
    assert len(set(said)) == 8
    assert all("drum" in text.split() for text in said)
    plain = train_mini.shortened("a blue drum in the snow", "plain_blue_drum")
    assert len(plain) == 8
    assert set(plain) == {"a blue drum in the snow", "a blue drum", "a drum in the snow", "a drum"}


def test_a_clip_goes_on_from_shipped_weights(train_mini, tmp_path, monkeypatch):
    images = few_pictures()
    out = tmp_path / "mini"
    shutil.copytree(MINI_WEIGHTS / "clip-vit", out / "clip-vit")
    shutil.copytree(MINI_WEIGHTS / "sdxl" / "tokenizer", out / "sdxl" / "tokenizer")
    monkeypatch.setattr(train_mini, "pretraining_images", lambda exemplars, size: images)
    recipe = replace(train_mini.RECIPES["clip-vit"], batch_size=16)
    monkeypatch.setitem(train_mini.RECIPES, "clip-vit", recipe)
    train_mini.main(("clip-vit",), out, tmp_path / "work", go_on=True, steps=2, learning_rate=1e-4)
    before, after = ((folder / "clip-vit" / train_mini.WEIGHTS).read_bytes() for folder in (MINI_WEIGHTS, out))
    assert before != after
    x_NCHW = torch.from_numpy(images.array()).permute(0, 3, 1, 2).float() / 255
    shipped = np.asarray(load_encoder("openclip:mini-vit")(x_NCHW))
    monkeypatch.setattr("hvf.vision.encoders.MINI_WEIGHTS", out)
    moved = np.asarray(load_encoder("openclip:mini-vit")(x_NCHW))
    cosine = (shipped * moved).sum(1) / np.linalg.norm(shipped, axis=1) / np.linalg.norm(moved, axis=1)
    assert cosine.min() > 0.9  # from chance it would be near 0
    assert moved.std() == pytest.approx(1, rel=0.01)
