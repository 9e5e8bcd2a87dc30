"""`hvf export`: plain diffusers draws from the folder what hvf drew; what cannot be exported is refused."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl, pipeline_stable_diffusion_xl_img2img
from PIL import Image
from safetensors.numpy import load_file, save_file

from hvf import prior
from hvf.cli import main
from hvf.config import HvfError, with_settings
from hvf.evaluation.pictures import ROWS
from hvf.experiments import stages
from hvf.experiments.exporting import export_run
from hvf.prior.reconstruction import Reconstructor
from hvf.runs import Run
from tests.prior.drawing import WIDTH, make_prior
from tests.small_run import small_config
from tests.tiny_sdxl import tiny_pipeline

SCRIPT = Path(prior.__file__).with_name("draw.txt").read_text()
WITHOUT_HVF = "import sys, runpy; sys.modules['hvf'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"


def test_the_page_shows_the_script_that_is_left():
    page = (Path(__file__).parents[2] / "docs" / "prior.md").read_text()
    assert re.findall(r"```python elsewhere/draw.py\n(.*?)```", page, flags=re.S) == [SCRIPT]
    assert "import hvf" not in SCRIPT
    assert "from hvf" not in SCRIPT


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"align.mode": "retrieval"}, "no embeddings that a Fusion Prior draws from"),
        ({}, "holds no embeddings of test images: run hvf reconstruct first"),
    ],
)
def test_what_cannot_be_drawn_elsewhere_is_refused(tmp_path, settings, said, capsys):
    run = Run.create(tmp_path / "run", with_settings(small_config(), settings))
    assert main(["export", str(run.path), "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


MEANS = {"latents_mean": [-1.6, 1.1, 0.3, 2.0], "latents_std": [8.4, 6.0, 5.3, 4.3]}


def test_the_script_draws_without_a_watermark_and_scales_latents_as_the_pipeline_does(tmp_path, monkeypatch, capsys):
    pipeline = tiny_pipeline()
    pipeline.vae.register_to_config(**MEANS)
    pipeline.save_pretrained(tmp_path / "pipeline")
    reconstructor = Reconstructor(pipeline, make_prior(pipeline.unet))
    reconstructor.prior.export_ip_adapter(tmp_path)
    latents = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    save_file({"brain": np.zeros((2, WIDTH), np.float32)}, tmp_path / "z_c.safetensors")
    save_file({"brain": latents}, tmp_path / "initial_latents.safetensors")
    scheduler = {**reconstructor.make_scheduler("ddim").config, "_class_name": "DDIMScheduler"}
    settings = {"scheduler": scheduler, "steps": 2, "guidance": 1.0, "names": ["a.png", "b.png"], "seeds": [[1, 2]]}
    settings |= {"steps_done": {"brain": [0, 1]}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    (tmp_path / "draw.py").write_text(SCRIPT)
    for module in (pipeline_stable_diffusion_xl, pipeline_stable_diffusion_xl_img2img):  # as with the package installed
        monkeypatch.setattr(module, "is_invisible_watermark_available", lambda: True)
        stamp = SimpleNamespace(apply_watermark=lambda image: pytest.fail("stamped"))
        monkeypatch.setattr(module, "StableDiffusionXLWatermarker", lambda stamp=stamp: stamp, raising=False)
    monkeypatch.setattr(sys, "argv", ["draw.py"])
    runpy.run_path(str(tmp_path / "draw.py"))
    theirs, _ = (np.asarray(Image.open(tmp_path / "drawn" / "brain" / "round_0" / f"{n}.png"), int) for n in "ab")
    ours = reconstructor.decode(torch.from_numpy(latents[:1]))[0]
    assert np.abs(theirs - ours).max() <= 1


def test_a_folder_in_use_is_left_alone(tmp_path):
    run = Run.create(tmp_path / "run", small_config())
    run.write_json("embeddings.safetensors", {})
    with pytest.raises(HvfError, match="holds something already"):
        export_run(run, tmp_path)


@pytest.mark.slow(part=8)
@pytest.mark.parametrize(
    "settings",
    [
        {"sampling.start": "noise", "sampling.guidance": 2.0},
        {"sampling.start": "noise", "sampling.guidance": 0.0},
        {"sampling.steps": 5, "sampling.posterior_mean": 1.0, "align.mean_weight": 0.0},  # means of other lengths
        {"sampling.steps": 2, "sampling.posterior_mean": 1.0, "align.mean_weight": 0.0},  # some in no step
        {"sampling.steps": 5, "sampling.strength": 0.6, "sampling.scheduler": "dpm"},
    ],
    ids=["guided", "unguided", "latents", "undenoised", "strength"],
)
def test_plain_diffusers_draws_the_same(tmp_path, settings):
    sampling = {"sampling.rounds": 2, "sampling.posterior_mean": 0.5, **settings}
    run = Run.create(tmp_path / "run", with_settings(small_config(), sampling))
    stages.reconstruct_run(run)
    shutil.rmtree(run.path / "images" / "floor")  # an export needs the embeddings alone
    assert main(["export", str(run.path), "--out", str(tmp_path / "out")]) == 0
    z_c = load_file(tmp_path / "out" / "z_c.safetensors")
    assert {row: x.shape for row, x in z_c.items()} == dict.fromkeys(ROWS, (12, 256))
    said = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert len(said["seeds"]) == 2
    if "sampling.start" not in settings:
        starts = load_file(tmp_path / "out" / "initial_latents.safetensors")
        assert {row: x.shape for row, x in starts.items()} == dict.fromkeys(ROWS, (12, 4, 8, 8))
        assert {row: len(done) for row, done in said["steps_done"].items()} == dict.fromkeys(ROWS, 12)
        done = set(said["steps_done"]["brain"])
        assert done == {3} if "sampling.strength" in settings else len(done) > 1
        assert (0 in done) == (settings["sampling.steps"] == 2)
    else:
        assert "steps_done" not in said
        assert not (tmp_path / "out" / "initial_latents.safetensors").exists()
    shutil.move(tmp_path / "out", tmp_path / "moved")
    command = [sys.executable, "-c", WITHOUT_HVF, str(tmp_path / "moved" / "draw.py"), "brain"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=500)
    for r in range(2):
        ours = sorted((run.path / "images" / "brain" / f"round_{r}").glob("*.png"))
        assert len(ours) == 12
        for path in ours:
            theirs = tmp_path / "moved" / "drawn" / "brain" / f"round_{r}" / path.name
            a, b = (np.asarray(Image.open(one)).astype(int) for one in (path, theirs))
            assert np.abs(a - b).max() <= 1
    other = tmp_path / "moved" / "drawn" / "brain" / "round_1" / path.name  # a control: other noise, another picture
    assert np.abs(np.asarray(Image.open(other)).astype(int) - np.asarray(Image.open(ours[0])).astype(int)).max() > 10
