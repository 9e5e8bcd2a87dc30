"""The script that trains the mini models, on a few pictures."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet
from hvf.evaluation.networks import load_network
from hvf.prior.loading import load_pipeline, load_prior
from hvf.simulation import rendering
from hvf.simulation.stimuli import draw
from hvf.vision.loading import load_encoder
from hvf.vision.weights import MINI_WEIGHTS
from tests.script_module import load_script

N = 32
SCRIPT = Path(__file__).parents[2] / "prior_training" / "train_mini.py"


@pytest.fixture(scope="module")
def train_mini():
    return load_script(SCRIPT)


def few_pictures() -> ImageSet:
    shown = [(concept, 5000) for concept in rendering.concepts()[300 : 300 + N]]
    x_NHWC, captions = draw(shown)
    names = [concept.name for concept, _ in shown]
    return ImageSet.from_arrays(x_NHWC, names, names, captions)


def test_shortened_captions_always_name_the_kind(train_mini):
    said = train_mini.shortened("a dotted blue drum in the snow", "dotted_blue-yellow_drum")
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
    work = tmp_path / "work"
    train_mini.train(train_mini.Options(("clip-vit",), out, work, go_on=True, steps=2, learning_rate=1e-4))
    before, after = ((folder / "clip-vit" / train_mini.WEIGHTS).read_bytes() for folder in (MINI_WEIGHTS, out))
    assert before != after
    x_NCHW = torch.from_numpy(images.array()).permute(0, 3, 1, 2).float() / 255
    shipped = np.asarray(load_encoder("openclip:mini-vit")(x_NCHW))
    monkeypatch.setattr("hvf.vision.weights.MINI_WEIGHTS", out)
    moved = np.asarray(load_encoder("openclip:mini-vit")(x_NCHW))
    cosine = (shipped * moved).sum(1) / np.linalg.norm(shipped, axis=1) / np.linalg.norm(moved, axis=1)
    assert cosine.min() > 0.9  # from chance it would be near 0
    assert moved.std() == pytest.approx(1, rel=0.01)


def test_the_reader_of_kinds_is_left_where_it_is_read(train_mini, tmp_path, monkeypatch):
    monkeypatch.setattr(train_mini, "pretraining_images", lambda exemplars, size: few_pictures())
    out = tmp_path / "mini"
    steps = {"steps": 2, "batch_size": 16, "learning_rate": 1e-4, "device": "cpu", "bf16": False}
    train_mini.train(train_mini.Options(("kind-reader",), out, tmp_path / "work", **steps))
    shutil.rmtree(tmp_path / "work")
    train_mini.train(train_mini.Options(("kind-reader",), out, tmp_path / "work", go_on=True, **steps))
    monkeypatch.setattr("hvf.evaluation.metrics.kind.MINI_WEIGHTS", out)
    network = load_network("kind-reader")
    assert network.source["file"] == "kind-reader.safetensors"
    assert network(torch.rand(2, 3, 64, 64))[""].shape == (2, 60)


def test_half_of_the_pictures_are_softened(train_mini):
    torch.manual_seed(0)
    x = torch.randn(400, 3, 8, 8)
    change = (train_mini.softened(x) - x).square().mean((1, 2, 3))
    assert 0.4 < (change > 0.3).float().mean() < 0.6  # the others have noise of at most a tenth


@pytest.mark.slow(part=5)
@pytest.mark.parametrize("stage", ["vae", "unet"])
def test_a_stage_leaves_what_the_pipeline_reads(train_mini, tmp_path, monkeypatch, stage):
    """A step of each, on a copy of what ships, which goes on and is not spoilt by it."""
    images, out = few_pictures(), tmp_path / "mini"
    shutil.copytree(MINI_WEIGHTS, out)
    monkeypatch.setattr(train_mini, "pretraining_images", lambda exemplars, size: images)
    monkeypatch.setattr("hvf.training.small_runs.SAVE_EVERY", 1)
    settings = {"go_on": True, "steps": 2, "batch_size": 20, "learning_rate": 1e-4, "device": "cpu", "bf16": False}
    train_mini.train(train_mini.Options((stage,), out, tmp_path / "work", **settings))
    part, name = ("vae", "encoder.conv_in.weight") if stage == "vae" else ("unet", "conv_in.weight")
    before, after = (
        getattr(load_pipeline(str(folder / "sdxl")), part).state_dict()[name] for folder in (MINI_WEIGHTS, out)
    )
    assert not torch.equal(before, after)
    torch.testing.assert_close(before, after, rtol=0, atol=1e-3)
    if stage == "unet":
        prior = load_prior(str(tmp_path / "work" / "prior"))
        assert prior.specs == load_prior("mini").specs
        assert load_pipeline(str(out / "sdxl")).unet.encoder_hid_proj is None  # the prior is not left in it


def test_hidden_patches_are_another_draw_each_time_and_none_are_hidden_in_use(train_mini):
    hidden = train_mini.Hidden(0.5)
    x = torch.arange(9.0)[None, :, None].expand(3, 9, 2)
    torch.manual_seed(0)
    left = hidden(x)
    assert left.shape == (3, 5, 2)
    assert (left[:, 0] == 0).all()  # the class token
    assert len({tuple(row.tolist()) for row in left[:, 1:, 0].sort(1).values}) > 1
    assert hidden.eval()(x) is x


def test_refused_in_one_line(train_mini, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_mini, "pretraining_images", lambda exemplars, size: few_pictures())
    arguments = ["--stages", "clip-vit", "--batch-size", "64", "--out", str(tmp_path / "out"), "--work", str(tmp_path)]
    assert train_mini.main(arguments) == 2
    assert "there are 32 pictures, fewer than a batch of 64" in capsys.readouterr().err
    assert train_mini.main(["--stages", "unett"]) == 2
    assert not (tmp_path / "out").exists()
    assert not any(tmp_path.iterdir())


REFUSED = {
    "--steps": "0 -1", "--batch-size": "0 -1", "--learning-rate": "0 -1 nan inf", "--exemplars": "0 -1",
    "--device": "cpux meta",
}  # fmt: skip


@pytest.mark.parametrize("option", REFUSED)
def test_what_cannot_be_trained_is_refused_before_anything_is_drawn_or_written(
    train_mini, tmp_path, monkeypatch, capsys, option
):
    monkeypatch.setattr(train_mini, "pretraining_images", lambda *_: pytest.fail("drew pictures"))
    for value in REFUSED[option].split():
        folders = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
        assert train_mini.main(["--stages", "clip-vit", *folders, f"{option}={value}"]) == 2
        assert option in capsys.readouterr().err.strip().splitlines()[-1]
        assert not any(tmp_path.iterdir())
    with pytest.raises(HvfError, match="--steps must be at least 1, not 0"):
        train_mini.train(train_mini.Options(steps=0, out=tmp_path / "out", work=tmp_path / "work"))


def test_stages_are_named_each_once(train_mini, tmp_path, capsys):
    for given in ([], ["vae", "vae"]):
        assert train_mini.main(["--out", str(tmp_path / "out"), "--stages", *given]) == 2
        assert "--stages must name at least one, each once" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
