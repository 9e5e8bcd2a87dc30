"""prior_training/train.py as users run it: launched, killed and resumed, and refusing what cannot work."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hvf.config import HvfError
from hvf.data.images.image_set import open_images
from hvf.prior.loading import load_pipeline
from hvf.prior.model import FusionPrior
from hvf.prior.objective import Objective
from hvf.vision import shards
from hvf.vision.cache import embed
from tests.script_module import load_script
from tests.tiny_sdxl import tiny_pipeline

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "prior_training" / "train.py"


@pytest.fixture(scope="module")
def script():
    return load_script(SCRIPT)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def make_world(folder: Path) -> Path:
    """A folder with a tiny random SDXL pipeline and 24 images of 6 concepts."""
    tiny_pipeline().save_pretrained(folder / "sdxl")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        concept = folder / "images" / f"concept-{i // 4}"
        concept.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(concept / f"{i:02d}.png")
    return folder


def arguments(world: Path, out: Path, **settings) -> list[str]:
    defaults = {
        "pipeline": world / "sdxl", "latents": f"vae:{world / 'sdxl'}@16", "images": world / "images", "width": 10,
        "intermediate": 12, "projector_intermediate": 14, "batch_size": 4, "max_steps": 6, "warmup_steps": 2,
        "ema_decay": 0.8, "validation_fraction": 0.3, "validate_every": 2, "checkpoint_every": 2, "pictures": 2,
        "picture_steps": 2, "out": out,
    }  # fmt: skip
    given = {f"--{name.replace('_', '-')}": str(value) for name, value in (defaults | settings).items()}
    targets = [f"vae:{world / 'sdxl'}@16", f"vae:{world / 'sdxl'}@8:grid2"]
    return [*chain.from_iterable(given.items()), "--targets", *targets]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "prior" / "diffusion_pytorch_model.safetensors")


def history(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(script, world, tmp_path_factory) -> Path:
    """The output of an uninterrupted training of six steps."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert script.main(arguments(world, out, shipped="float32")) == 0
    return out


def test_leaves_a_prior_that_works_its_card_and_its_figures(finished, world):
    prior = FusionPrior.from_pretrained(finished / "prior")
    assert list(prior.dims.values()) == [256, 16]
    unet = load_pipeline(str(world / "sdxl")).unet
    prior.attach(unet)
    fresh = FusionPrior.for_unet(load_pipeline(str(world / "sdxl")).unet, prior.dims, 10, 12, 14)
    assert not torch.equal(prior.adapter[0].to_k_ip[0].weight, fresh.adapter[0].to_k_ip[0].weight)
    assert len({path.stat().st_mode for path in finished.rglob("*") if path.is_file()}) == 1  # not 0600 for weights
    entries = history(finished)
    assert [entry["step"] for entry in entries] == [2, 4, 6]
    assert all(np.isfinite(value) for entry in entries for value in entry.values())
    figures = json.loads((finished / "metrics.json").read_text())
    assert figures["prior/validation_loss"]["value"] == entries[-1]["validation_loss"]
    assert figures["prior/validation_loss"]["n"] == 8
    card = (finished / "prior" / "README.md").read_text()
    assert "16 images, 8 of other concepts held out" in card
    assert "accelerate launch prior_training/train.py --preset mini --pipeline" in card
    assert sorted(path.name for path in finished.glob("*checkpoint*")) == ["checkpoint-0000004", "checkpoint-0000006"]


SLOW = pytest.mark.slow(part=7)


@pytest.mark.parametrize("stop_at", [pytest.param(1, marks=SLOW), 3, pytest.param(5, marks=SLOW)])
def test_a_resumed_training_equals_an_uninterrupted_one(script, world, finished, tmp_path, monkeypatch, stop_at):
    whole = Objective.training_loss

    def dies(self, prior, step, *rest):
        if step == stop_at:
            raise KeyboardInterrupt
        return whole(self, prior, step, *rest)

    monkeypatch.setattr(Objective, "training_loss", dies)
    out = tmp_path / "run"
    assert script.main(arguments(world, out, shipped="float32")) == 130
    monkeypatch.setattr(Objective, "training_loss", whole)
    (out / ".checkpoint-0000006").mkdir()  # what a kill in the middle of saving leaves
    torch.manual_seed(99)
    assert script.main([*arguments(world, out, shipped="float32"), "--resume"]) == 0
    expected, found = weights(finished), weights(out)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    speed = {"images_per_second": 0}
    assert [entry | speed for entry in history(out)] == [entry | speed for entry in history(finished)]
    assert not list(out.glob(".checkpoint-*"))


def test_a_failed_save_leaves_the_last_whole_checkpoint(script, world, tmp_path, monkeypatch, capsys):
    save = script.Accelerator.save_state

    def full_disk(self, folder, **settings):
        save(self, folder, **settings)
        if "0000004" in folder:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(script.Accelerator, "save_state", full_disk)
    out = tmp_path / "run"
    assert script.main(arguments(world, out)) == 2
    assert "No space left on device. Make room and go on with --resume" in capsys.readouterr().err
    assert [path.name for path in out.glob("*checkpoint*")] == ["checkpoint-0000002"]


@pytest.mark.slow(part=5)
def test_shipped_weights_are_half_precision_unless_told(script, world, finished, tmp_path):
    assert script.main(arguments(world, tmp_path / "run")) == 0
    half, single = weights(tmp_path / "run"), weights(finished)
    assert {value.dtype for value in half.values()} == {torch.float16}
    assert all(torch.equal(half[key], single[key].half()) for key in single)


def test_refuses_in_one_line_and_writes_nothing(script, world, finished, tmp_path, capsys):
    out = tmp_path / "run"
    cases = {
        "holds a training already: add --resume": arguments(world, finished),
        "trained with batch_size = 4, not 8": [*arguments(world, finished, batch_size=8), "--resume"],
        "16 training images, fewer than --batch-size 64": arguments(world, out, batch_size=64),
        "--max-steps must be at least 1, not 0": arguments(world, out, max_steps=0),
        "--batch-size must be at least 1, not 0": arguments(world, out, batch_size=0),
        "unknown kind 'vea'; did you mean 'vae'?": arguments(world, out, latents="vea:mini"),
        "--vagueness needs the directions": arguments(world, out, vagueness=4),
        "cannot be shared by 1 processes x 3 parts evenly": arguments(world, out, gradient_accumulation=3),
        "--tracker wandb: its package is not installed": arguments(world, out, tracker="wandb"),
        "--shards holds latents and features already": arguments(world, out, shards=tmp_path / "absent"),
        "did you mean '--max-steps'?": [*arguments(world, out), "--max-stps", "3"],
        "no such folder": arguments(world, out, pipeline=tmp_path / "absent"),
        "no folder or zip of images": arguments(world, out, images=tmp_path / "absent"),
    }
    for message, given in cases.items():
        assert script.main(given) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("hvf: ")
        assert message in lines[-1]
    assert not out.exists()


@pytest.mark.parametrize("differs", ["weights", "scale", "shift"])
def test_latents_of_another_vae_than_the_pipelines_are_refused(script, world, tmp_path, capsys, differs):
    """They have as many numbers: a prior was trained on what its UNet does not know and its pipeline cannot decode."""
    vae = tiny_pipeline(seed=1 if differs == "weights" else 0).vae
    vae.register_to_config(scaling_factor=vae.config.scaling_factor * (1.4 if differs == "scale" else 1))
    vae.register_to_config(latents_mean=[0.0, 9.0, -9.0, 9.0] if differs == "shift" else None, latents_std=[1.0] * 4)
    vae.save_pretrained(tmp_path / "vae")
    assert script.main(arguments(world, tmp_path / "run", latents=f"vae:{tmp_path / 'vae'}@16")) == 2
    assert "makes other latents than the pipeline's own VAE" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_training_that_diverges_leaves_neither_checkpoint_nor_prior(script, world, tmp_path, capsys):
    """A prior of NaN was written, with validation losses of NaN as its figures, and exit code 0."""
    given = arguments(world, tmp_path / "run", learning_rate=1e9, warmup_steps=0, max_steps=20, pictures=0)
    given[given.index("--validate-every") + 1] = given[given.index("--checkpoint-every") + 1] = "20"
    assert script.main(given) == 2
    assert "the loss is not finite by step 20: lower --learning-rate, 1e+09" in capsys.readouterr().err.splitlines()[-1]
    assert not any((tmp_path / "run").rglob("*.safetensors"))


def test_weights_too_large_for_half_precision_are_not_shipped_in_it(script, world, tmp_path, monkeypatch, capsys):
    state = script.whole_state
    monkeypatch.setattr(script, "whole_state", lambda *given: {name: 1e7 * x for name, x in state(*given).items()})
    given = arguments(world, tmp_path / "run", max_steps=1, pictures=0)
    assert script.main(given) == 2
    assert (
        "weights are too large for float16: --resume with --shipped float32" in capsys.readouterr().err.splitlines()[-1]
    )
    assert not (tmp_path / "run" / "prior").exists()


OUT_OF_RANGE = {
    "pictures": "-1", "picture_steps": "0 -1", "picture_guidance": "nan inf", "seed": "-1 4294967296",
    "clip_norm": "0 -1 nan inf", "width": "0 -1", "intermediate": "0 -1", "projector_intermediate": "0 -1",
    "learning_rate": "0 -1 nan inf", "weight_decay": "-1 nan inf", "dropout": "-1 1 2 nan",
    "embedding_dropout": "-1 1 nan", "ema_decay": "-1 1 2 nan", "vagueness": "-1 nan inf",
    "validation_fraction": "0 1 -1 nan", "warmup_steps": "-1", "workers": "-1", "max_steps": "0 -1", "batch_size": "-1",
    "gradient_accumulation": "0 -1", "validate_every": "0 -1", "checkpoint_every": "0 -1",
}  # fmt: skip


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_number_out_of_range_is_refused_before_anything_is_read_or_written(script, world, tmp_path, capsys, name):
    out = tmp_path / "run"
    for value in OUT_OF_RANGE[name].split():
        given = [*arguments(world, out, init=tmp_path / "never-read"), f"--{name.replace('_', '-')}={value}"]
        assert script.main(given) == 2
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith(f"hvf: --{name.replace('_', '-')} must ")
        assert not out.exists()


def test_every_number_has_a_range_and_a_setting_built_in_python_is_held_to_it(script, tmp_path):
    numbers = {f.name for f in dataclasses.fields(script.Training) if type(f.default) in (int, float)}
    assert numbers == set(OUT_OF_RANGE)
    with pytest.raises(HvfError, match="--clip-norm must be greater than 0, not 0"):
        script.check(tmp_path / "run", dataclasses.replace(script.mini(), clip_norm=0.0), 1)


def test_encoders_are_named_each_once(script, world, tmp_path, capsys):
    given = arguments(world, tmp_path / "run")
    targets = given.index("--targets") + 1
    twice = f"vae:{world / 'sdxl'}@16"
    for specs, said in (([twice, twice], f"names {twice} twice"), ([], "targets.specs is empty")):
        assert script.main(given[:targets] + specs) == 2
        assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_the_real_size_without_its_weights_names_hub_id_and_command(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert script.main(["--preset", "sdxl", "--images", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "hf download stabilityai/stable-diffusion-xl-base-1.0" in message
    assert not (tmp_path / "run").exists()


def test_presets_fill_what_is_not_given(script):
    tiny, real = (
        script.parse_preset(script.PRESETS, given) for given in ([], ["--preset", "sdxl", "--max-steps", "7"])
    )
    assert (tiny.preset, tiny.pipeline, tiny.width) == ("mini", "mini", 256)
    assert (real.preset, real.latents, real.width, real.max_steps) == ("sdxl", "vae:sdxl@512", 1024, 7)
    assert all(parsed.targets for parsed in (tiny, real))


@pytest.mark.slow(part=5)
def test_one_source_gives_what_the_others_give(script, world, finished, tmp_path):
    specs = [f"vae:{world / 'sdxl'}@16", f"vae:{world / 'sdxl'}@8:grid2"]
    images = open_images(world / "images")
    features = {spec: embed(images, spec) for spec in specs}
    encoders = {spec: {"dim": x.shape[1], "weights_hash": "-"} for spec, x in features.items()}
    settings = shards.Settings("tiny", "-", len(images), specs[0], encoders, shard_size=7)
    shards.start(tmp_path / "shards", settings)
    for number in range(settings.shards):
        rows = slice(settings.rows(number).start, settings.rows(number).stop)
        part = {spec: x[rows] for spec, x in features.items()}
        shards.write_shard(tmp_path / "shards", settings, number, images.ids[rows], images.concepts[rows], part)
    shards.finish(tmp_path / "shards", settings)
    given = arguments(world, tmp_path / "sharded", shipped="float32", workers=1, shards=tmp_path / "shards")
    place = given.index("--images")
    assert script.main(given[:place] + given[place + 2 :]) == 0
    made_from = json.loads((tmp_path / "sharded" / "training.json").read_text())["fingerprint"]
    assert made_from["shards"] == shards.open_shards(tmp_path / "shards").digest
    given = arguments(world, tmp_path / "pixels", shipped="float32", workers=1)
    assert script.main([*given, "--from-pixels"]) == 0
    expected = weights(finished)
    for out, rounded in ((tmp_path / "sharded", 2e-3), (tmp_path / "pixels", 1e-5)):
        found = weights(out)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=rounded, rtol=1e-3, msg=f"{out.name} {key}")


@pytest.mark.slow(part=7)
def test_parts_of_a_batch_and_recomputed_activations_change_nothing(script, world, tmp_path):
    outs = {"whole": {}, "parts": {"gradient_accumulation": 2}}
    for name, settings in outs.items():
        given = arguments(world, tmp_path / name, shipped="float32", dropout=0, max_steps=3, pictures=0, **settings)
        assert script.main([*given, *(["--gradient-checkpointing"] if settings else [])]) == 0
    whole, parts = (weights(tmp_path / name) for name in outs)
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, atol=1e-5, rtol=1e-4, msg=key)


@pytest.mark.slow(part=5)
def test_vague_embeddings_are_the_same_however_the_batch_is_parted_and_resumed(script, world, finished, tmp_path):
    """And they are another training than one on clear ones."""
    told = {"init": finished / "prior", "vagueness": 4, "shipped": "float32", "dropout": 0, "pictures": 0}
    outs = {"whole": {}, "parts": {"gradient_accumulation": 2}, "clear": {"vagueness": 0}, "resumed": {}}
    for name, settings in outs.items():
        given = arguments(world, tmp_path / name, **(told | settings))
        if name == "resumed":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(script, "save_checkpoint", dies_after(script.save_checkpoint, 4))
                assert script.main(given) == 130
            given.append("--resume")
        assert script.main(given) == 0
    whole, parts, clear, resumed = (weights(tmp_path / name) for name in outs)
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, atol=1e-5, rtol=1e-4, msg=key)
        assert torch.equal(resumed[key], value)
    assert any(not torch.allclose(clear[key], value, atol=1e-4) for key, value in whole.items())


def dies_after(save, last: int):
    """A save that interrupts the training once step ``last`` is kept."""

    def saved(accelerator, averaged, out, done):
        save(accelerator, averaged, out, done)
        if done == last:
            raise KeyboardInterrupt

    return saved


def test_half_precision_is_the_frozen_unets_alone(script, world, tmp_path, monkeypatch):
    seen = []
    whole = Objective.training_loss

    def look(self, prior, step, *rest):
        seen.append((self.unet.conv_in.weight.dtype, {parameter.dtype for parameter in prior.parameters()}))
        return whole(self, prior, step, *rest)

    monkeypatch.setattr(Objective, "training_loss", look)
    out = tmp_path / "run"
    assert script.main(arguments(world, out, mixed_precision="bf16", max_steps=2, shipped="float32")) == 0
    assert seen == [(torch.bfloat16, {torch.float32})] * 2
    assert all(np.isfinite(value) for entry in history(out) for value in entry.values())
    assert (out / "validation" / "step-0000002.png").is_file()


def test_sigterm_ends_with_143_after_a_checkpoint(script, world, finished, tmp_path, monkeypatch, capsys):
    whole = Objective.training_loss

    def signalled(self, prior, step, *rest):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(self, prior, step, *rest)

    monkeypatch.setattr(Objective, "training_loss", signalled)
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stopped:
        script.main(arguments(world, out, shipped="float32"))
    assert stopped.value.code == 143
    assert "stopped by SIGTERM after step 3; go on with --resume" in capsys.readouterr().err
    monkeypatch.setattr(Objective, "training_loss", whole)
    assert script.main([*arguments(world, out, shipped="float32"), "--resume"]) == 0
    expected, found = weights(finished), weights(out)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.slow(part=5)
def test_clipping_clips(script, world, tmp_path):
    loose, tight = tmp_path / "loose", tmp_path / "tight"
    for out, norm in ((loose, 1e9), (tight, 1e-12)):
        # AdamW's steps hardly depend on the gradient's size, except where it falls below its epsilon of 1e-8
        assert script.main(arguments(world, out, clip_norm=norm, weight_decay=0, shipped="float32")) == 0
    unet = load_pipeline(str(world / "sdxl")).unet
    key = "adapter.0.to_k_ip.0.weight"
    start = unet.get_submodule("down_blocks.1.attentions.0.transformer_blocks.0.attn2").to_k.weight
    assert (weights(tight)[key] - start).abs().max() < 1e-6 < (weights(loose)[key] - start).abs().max()


@pytest.mark.slow(part=5)
def test_accelerate_launch(world, finished, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", str(SCRIPT)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HVF_QUIET": "1"}
    done = subprocess.run(
        [*command, *arguments(world, out, shipped="float32")],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"prior written to {out / 'prior'}" in done.stdout
    expected, found = weights(finished), weights(out)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], atol=1e-5, rtol=1e-4)
