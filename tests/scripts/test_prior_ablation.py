"""prior_training/ablation.py: every row and both controls in the table, and a second call that does nothing again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvf import presets
from hvf.config import with_settings
from hvf.decoder import Decoder
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
    monkeypatch.setattr(script, "trained_prior", lambda options, specs: asked.append(specs) or MINI_WEIGHTS / "prior")
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
    monkeypatch.setattr(script, "Reconstructor", trained_again)
    assert script.run(options) == text
