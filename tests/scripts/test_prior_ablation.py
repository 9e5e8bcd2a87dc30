"""prior_training/ablation.py: every row and both controls in the table, and a second call that does nothing again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hvf import presets
from hvf.config import HvfError, with_settings
from hvf.decoder import Decoder
from hvf.prior.loading import load_prior
from hvf.vision.weights import MINI_WEIGHTS
from tests.script_module import load_script

SCRIPT = Path(__file__).resolve().parents[2] / "prior_training" / "ablation.py"


@pytest.fixture(scope="module")
def script():
    return load_script(SCRIPT)


def test_a_wrong_encoder_is_refused(script, tmp_path, capsys):
    flags = ["--adapter-of", "openclip:else", "--out", str(tmp_path / "it")]
    assert script.main(flags) == 2
    assert "--adapter-of must be one of openclip:mini-resnet" in capsys.readouterr().err
    assert not (tmp_path / "it").exists()


@pytest.mark.slow(part=5)
def test_rows_controls_and_resume(script, tmp_path, monkeypatch):
    small = {"data.train_concepts": 20, "data.images_per_concept": 2, "data.test_concepts": 6, "align.epochs": 2}
    preset = with_settings(presets.mini(), {**small, "data.test_repeats": 4, "sampling.steps": 2})
    monkeypatch.setattr(presets, "mini", lambda: preset)
    asked = []
    folder = tmp_path / "prior"
    shutil.copytree(MINI_WEIGHTS / "prior", folder)
    monkeypatch.setattr(script, "trained_prior", lambda options, specs: asked.append(specs) or folder)
    options = script.Ablation(images=5, shown=3, out=tmp_path / "it", docs=tmp_path / "docs")
    text = script.run(options)
    encoders = preset.targets.specs
    assert asked == [*((spec,) for spec in encoders), encoders, ("openclip:mini-vit",)]
    for row in (*(f"{spec}, with the prior" for spec in encoders), script.FUSED, script.WITHOUT, "chance"):
        assert text.count(f"| {row} |") == 2
    assert "25 epochs at 0.003, without the prior 2 at 0.0005; pictures from noise in 2 steps." in text
    assert (tmp_path / "docs" / "ablation.md").read_text() == text
    assert Image.open(tmp_path / "docs" / "ablation.png").size == (3 * 64, (1 + 2 * 5) * (64 + 14))
    scores = json.loads((tmp_path / "it" / "scores.json").read_text())
    assert scores[script.WITHOUT]["brain"]["pixcorr"]["n"] == 5
    assert not np.isclose(  # the projector is left out, and the embedding is another one
        scores[script.WITHOUT]["ceiling"]["pixcorr"]["value"], scores[script.FUSED]["ceiling"]["pixcorr"]["value"]
    )

    def trained_again(self, *_):
        raise AssertionError("trained again")

    monkeypatch.setattr(Decoder, "fit", trained_again)
    draw = script.Reconstructor.draw
    monkeypatch.setattr(script.Reconstructor, "draw", trained_again)
    assert script.run(options) == text

    drawn = []
    monkeypatch.setattr(script.Reconstructor, "draw", lambda self, *given: drawn.append(1) or draw(self, *given))
    prior = load_prior(str(folder))
    with torch.no_grad():  # retrained in part: what the brain is aligned to stays as it was
        next(prior.image_projection.parameters()).mul_(1.5)
    prior.save_pretrained(folder)
    kept = {path: path.read_bytes() for path in sorted((tmp_path / "it").rglob("pictures.safetensors"))}
    script.run(options)
    assert len(drawn) == 2 * len(kept)  # from the ceiling and from the brain, of every row
    assert all(path.read_bytes() != content for path, content in kept.items())
    script.run(options)
    assert len(drawn) == 2 * len(kept)

    with torch.no_grad():
        next(prior.hvf.parameters()).mul_(1.5)  # and what it is aligned to
    prior.save_pretrained(folder)
    with pytest.raises(HvfError, match="was made against another prior .*: choose another --out"):
        script.run(options)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--max-steps", "0 -1"), ("--batch-size", "0 -1"), ("--images", "1 0 -1"), ("--shown", "0 -1"),
        ("--seed", "-1 4294967296"), ("--subject", "0 11"),
    ],
)  # fmt: skip
def test_a_number_out_of_range_is_refused_before_anything_is_trained_or_written(
    script, tmp_path, monkeypatch, capsys, option, values
):
    monkeypatch.setattr(script, "open_study", lambda *_: pytest.fail("opened the study"))
    for value in values.split():
        assert script.main(["--out", str(tmp_path / "it"), f"{option}={value}"]) == 2
        assert option.removeprefix("--") in capsys.readouterr().err.strip().splitlines()[-1]
    assert not any(tmp_path.iterdir())
