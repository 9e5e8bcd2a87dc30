"""prior_training/train.py --resume: what the training was made from is held by its content, not by its path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from hvf.prior.loading import load_pipeline
from hvf.prior.model import FusionPrior
from tests.script_module import load_script
from tests.scripts.test_prior_training import SCRIPT, arguments, make_world


@pytest.fixture(scope="module")
def script():
    return load_script(SCRIPT)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def changed_weights(file: Path) -> None:
    """The same tensors, but for one number."""
    state = load_file(file)
    state[max(state)].view(-1)[0] += 1
    save_file(state, file, {"format": "pt"})


def other_picture(world: Path) -> None:
    """Another picture under the same name; as many bytes, as noise that does not compress has."""
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(world / "images" / "concept-2" / "09.png")


def first_prior(world: Path) -> None:
    """A prior to begin with, of random weights."""
    dims = {f"vae:{world / 'sdxl'}@16": 256, f"vae:{world / 'sdxl'}@8:grid2": 16}
    FusionPrior.for_unet(load_pipeline(str(world / "sdxl")).unet, dims, 10, 12, 14).save_pretrained(world / "prior")


CHANGES = {
    "images than those of --images": other_picture,
    "weights of the pipeline than those of --pipeline": lambda world: changed_weights(
        world / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors"
    ),
    "encoders than those of --latents and --targets": lambda world: changed_weights(
        world / "sdxl" / "vae" / "diffusion_pytorch_model.safetensors"
    ),
    "first weights than those of --init": lambda world: first_prior(world),
}


@pytest.mark.parametrize("more", [pytest.param(["--from-pixels"], marks=pytest.mark.slow(part=7)), []])
def test_a_resume_is_refused_when_what_lies_under_a_path_was_replaced(script, world, tmp_path, capsys, more):
    ours = tmp_path / "ours"
    shutil.copytree(world, ours)
    first_prior(ours)
    given = [*arguments(ours, tmp_path / "run", init=ours / "prior", max_steps=1, pictures=0), *more, "--resume"]
    assert script.main(given) == 0
    assert script.main(given) == 0
    written = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.json")}
    capsys.readouterr()
    for said, change in CHANGES.items():
        kept = tmp_path / "kept"
        shutil.copytree(ours, kept)
        change(ours)
        assert script.main(given) == 2
        expected = f"hvf: {tmp_path / 'run'} was trained on other {said} now: put those back, or choose another --out."
        assert capsys.readouterr().err.strip().splitlines()[-1] == expected
        shutil.rmtree(ours)
        kept.rename(ours)
    assert all(path.read_bytes() == content for path, content in written.items())


def test_a_training_of_an_earlier_version_goes_on_with_a_note(script, world, tmp_path, capsys):
    given = [*arguments(world, tmp_path / "run", max_steps=1, pictures=0), "--resume"]
    assert script.main(given) == 0
    file = tmp_path / "run" / "training.json"
    held = json.loads(file.read_text())
    made_from = held.pop("fingerprint")
    assert set(made_from) == {"images", "encoders", "pipeline"}
    file.write_text(json.dumps(held))
    capsys.readouterr()
    assert script.main(given) == 0
    assert "begun by an earlier version, which kept no hash of its images and weights" in capsys.readouterr().err
    assert json.loads(file.read_text())["fingerprint"] == made_from
    file.write_text(json.dumps(held | {"fingerprint": 3}))
    assert script.main(given) == 2
    assert f"hvf: {file}" in capsys.readouterr().err.strip().splitlines()[-1]
