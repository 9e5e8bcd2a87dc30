"""Captions as features: the package's own CLIP tells what belongs together, and what has no words is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from hvf.config import DataConfig, HvfError
from hvf.simulation.study import simulated_stimuli
from hvf.vision.cache import embed
from hvf.vision.texts import captions_of, embed_captions


def images(captions=None, concepts=("red_fox", "owl", "owl"), ids=("red_fox/1", "owl/1", "owl/2")):
    return SimpleNamespace(ids=ids, concepts=concepts, captions=captions)


def test_what_an_image_is_called():
    assert captions_of(images(("a", "b", "a"))) == ["a", "b", "a"]
    assert captions_of(images())[0] == "This picture is red fox"
    with pytest.raises(HvfError, match="neither these nor concepts") as refusal:
        captions_of(images(concepts=("x1", "x2", "x3"), ids=("x1", "x2", "x3")))
    assert "\n" not in str(refusal.value)


def test_equal_captions_have_equal_features_and_come_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HVF_CACHE", str(tmp_path))
    features = embed_captions(images(("a red circle", "a dog", "a red circle")), "text:mini-vit")
    assert features.shape == (3, 128)
    np.testing.assert_array_equal(features[0], features[2])
    assert np.abs(features[0] - features[1]).max() > 0.1
    (kept,) = (tmp_path / "features").glob("text-*.safetensors")
    before = kept.stat().st_mtime_ns
    again = embed_captions(images(("a red circle", "a dog", "a red circle")), "text:mini-vit")
    np.testing.assert_array_equal(again, features)
    assert kept.stat().st_mtime_ns == before
    kept.write_bytes(kept.read_bytes()[:90])  # damaged: made anew
    np.testing.assert_array_equal(
        embed_captions(images(("a red circle", "a dog", "a red circle")), "text:mini-vit"), features
    )


def test_the_packages_text_side_finds_the_packages_pictures():
    train, _ = simulated_stimuli(DataConfig(train_concepts=20, images_per_concept=1, test_concepts=2))
    seen, said = embed(train, "openclip:mini-vit"), embed_captions(train, "text:mini-vit")
    cosine_NN = (seen / np.linalg.norm(seen, axis=1, keepdims=True)) @ (
        said / np.linalg.norm(said, axis=1, keepdims=True)
    ).T
    assert (cosine_NN.argmax(1) == np.arange(20)).mean() > 0.6
    assert (np.roll(cosine_NN, 1, axis=0).argmax(1) == np.arange(20)).mean() < 0.3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("openclip:mini-vit", "a text encoder is written text:NAME/WEIGHTS"),
        ("text:", "a text encoder is written"),
        ("text:mini-vitt", "did you mean 'mini-vit'"),
        ("text:ViT-H-14/laion2b_s32b_b79k", "hf download"),
    ],
)
def test_refusals(text, said):
    with pytest.raises(HvfError, match=said):
        embed_captions(images(), text)
