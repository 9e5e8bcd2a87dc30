"""prior_training/benchmark.py: SDXL's real shape on the meta device, and the tiny size as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

from hvf.experiments import prior_timing
from tests.script_module import load_script

SCRIPT = Path(__file__).resolve().parents[2] / "prior_training" / "benchmark.py"


def launch(script, arguments: list[str]) -> int:
    return script.main(arguments)


@pytest.fixture(scope="module")
def script():
    return load_script(SCRIPT)


@pytest.mark.slow(part=5)
def test_sdxl_forward_and_backward_on_the_meta_device(script):
    found = script.on_meta(script.SDXL, batch=2)
    assert found["output"] == (2, 4, 64, 64)
    assert (found["processors"], found["adapters"]) == (140, 70)
    assert found["parameters_unet"] == 2_567_463_684  # that of stabilityai/stable-diffusion-xl-base-1.0
    widths = 10 * [640] + 60 * [1280]  # cross-attentions at two resolutions
    assert found["parameters_adapter"] == sum(2 * 2048 * width for width in widths)
    hvf = sum(dim * 1024 + 1024 for dim in (1024, 512, 1024)) + 2 * 1024 * 4096 + 2 * 1024
    projection = 1024 * 4 * 2048 + 4 * 2048 + 2 * 2048
    assert found["parameters_trained"] == found["parameters_adapter"] + hvf + 2 * 1024 * 4096 + projection
    # The backward pass has no gradients of frozen weights: less than twice the forward, more than once.
    assert 1.9 < found["flops_step_per_image"] / found["flops_forward_per_image"] < 2.6


def test_the_public_recipe_learns_the_same_adapter_from_photographs_and_captions(script):
    device = torch.device("cpu")
    torch.manual_seed(0)
    ours, plain = script.Trainer(prior_timing.TINY, 2, device), script.Straightforward(prior_timing.TINY, 2, device)
    plain.unet.load_state_dict(ours.unet.state_dict())
    plain.prior.load_state_dict(ours.prior.state_dict())
    for trainer in (ours, plain):  # both by SDPA, as the recipe is where torch is 2 or later
        adapters = [p for p in trainer.unet.attn_processors.values() if hasattr(p, "to_k_ip")]
        assert len(adapters) == len(trainer.prior.adapter)
        assert {type(p) for p in adapters} == {IPAdapterAttnProcessor2_0}
    inputs = ours.latents, torch.tensor([3, 700]), ours.text, ours.features
    ours.prior.eval()
    plain.prior.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            ours.prior(ours.unet, *inputs), plain.prior(plain.unet, *inputs), atol=1e-5, rtol=1e-4
        )
    before = plain.latents, plain.features["ViT-H-14"], plain.text.prompt_embeds
    plain.loss().backward()
    assert all(p.grad is not None for p in plain.parameters())
    after = plain.latents, plain.features["ViT-H-14"], plain.text.prompt_embeds
    assert after[0].shape == before[0].shape == (2, 4, 8, 8)
    assert after[1].shape == before[1].shape
    assert after[2].shape == (2, *before[2].shape[1:])  # of each picture its own caption
    assert not any(torch.equal(x, y) for x, y in zip(before[:2], after[:2], strict=True))  # read, and encoded
    frozen = [*plain.vae.parameters(), *plain.encoder.parameters(), *plain.texts[0].parameters()]
    assert not any(p.requires_grad for p in frozen)


def test_photographs_are_decoded_as_the_recipe_does(script):
    pixels, small, words = photographs(script)[3]
    assert pixels.shape == (3, 64, 64)
    assert small.shape == (3, 28, 28)
    assert -1 <= pixels.min() < pixels.max() <= 1
    assert words.shape == (7,)
    assert 1 <= words.min() <= words.max() < 63
    again = photographs(script)[3]
    assert all(torch.equal(x, y) for x, y in zip((pixels, small, words), again, strict=True))


def photographs(script):
    return prior_timing.Photographs(prior_timing.TINY, 4)


@pytest.mark.slow(part=5)
def test_the_tiny_size_runs_and_says_what_it_does_not_measure(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(script, "DRAWN", 4)
    flags = ["--size", "tiny", "--batch-size", "2", "--steps", "1", "--warmup", "0", "--draw-batch", "2"]
    monkeypatch.setattr(
        script, "brain_table", lambda size, left: {"subjects": 1, "seeds": 1, "epochs": 1, "seconds": 2}
    )
    assert launch(script, [*flags, "--report", "--out", str(tmp_path / "it")]) == 0
    said = capsys.readouterr().out
    assert "140 attention processors, 70 adapters" in said
    assert "peak memory at batch 16: not measured (goal: at most 40 GB)" in said
    assert "public recipe | 2 |" in said
    assert "What prepare.py does: float32 " in said
    assert "intra-subject table: not measured (goal: at most 35 s)" in said  # of the real size
    assert "Not measured:" not in said.replace("not measured (", "")
    assert "the paper, 2 GPUs" in said
    found = json.loads((tmp_path / "it" / "benchmark.json").read_text())
    assert [row["way"] for row in found["training"]] == ["public recipe", "ours"]
    assert all(row["images_per_second"] > 0 and row["peak_gb"] is None for row in found["training"])
    assert (tmp_path / "it" / "benchmark.md").read_text() == said
    assert launch(script, ["--size", "sdxl"]) == 2
    assert "takes hours without a GPU" in capsys.readouterr().err


@pytest.mark.slow(part=7)
def test_a_report_that_runs_out_of_time_or_memory_says_what_is_missing(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(script, "on_meta", lambda *size: dict.fromkeys(META, 1))

    def fails(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(script, "training_row", fails)
    monkeypatch.setattr(script, "drawing_seconds", fails)
    monkeypatch.setattr(script, "encoding_rate", fails)
    monkeypatch.setattr(script, "brain_table", fails)
    assert launch(script, ["--size", "tiny", "--report"]) == 0
    said = capsys.readouterr().out
    for what in ("training, public recipe", "training, ours", "drawing", "what prepare.py does", "brain table"):
        assert f"Not measured: {what}: out of memory." in said
    assert "ours against the public recipe: not measured" in said
    assert launch(script, ["--size", "tiny", "--report", "--budget", "0"]) == 0
    assert "Not measured: drawing: no time left." in capsys.readouterr().out


META = ("processors", "adapters", "parameters_unet", "parameters_adapter", "parameters_trained",
        "flops_forward_per_image", "flops_step_per_image")  # fmt: skip
