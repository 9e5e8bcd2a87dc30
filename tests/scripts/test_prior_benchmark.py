"""prior_training/benchmark.py: SDXL's real shape on the meta device, and the tiny size as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor, IPAdapterAttnProcessor2_0

from hvf.cli.options import run_script
from tests.script_module import load_script

SCRIPT = Path(__file__).resolve().parents[2] / "prior_training" / "benchmark.py"


def launch(script, arguments: list[str]) -> int:
    return run_script(script.main, arguments)


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


def test_the_straightforward_loop_learns_the_same_adapter_by_eager_attention(script):
    device = torch.device("cpu")
    torch.manual_seed(0)
    ours, plain = script.Trainer(script.TINY, 2, device), script.Straightforward(script.TINY, 2, device)
    plain.unet.load_state_dict(ours.unet.state_dict())
    plain.prior.load_state_dict(ours.prior.state_dict())
    for trainer, kind in ((ours, IPAdapterAttnProcessor2_0), (plain, IPAdapterAttnProcessor)):
        adapters = [p for p in trainer.unet.attn_processors.values() if hasattr(p, "to_k_ip")]
        assert len(adapters) == len(trainer.prior.adapter)
        assert {type(p) for p in adapters} == {kind}
    plain.features = ours.features
    inputs = ours.latents, torch.tensor([3, 700]), ours.text, ours.features
    ours.prior.eval()
    plain.prior.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            ours.prior(ours.unet, *inputs), plain.prior(plain.unet, *inputs), atol=1e-5, rtol=1e-4
        )
    plain.loss().backward()
    assert all(p.grad is not None for p in plain.parameters())


@pytest.mark.slow(part=5)
def test_the_tiny_size_runs_and_says_what_it_does_not_measure(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(script, "DRAWN", 4)
    flags = ["--size", "tiny", "--batch-size", "2", "--steps", "1", "--warmup", "0", "--draw-batch", "2"]
    assert launch(script, [*flags, "--out", str(tmp_path / "it")]) == 0
    said = capsys.readouterr().out
    assert "140 attention processors, 70 adapters" in said
    assert "peak memory at batch 16: not measured (goal: at most 40 GB)" in said
    assert "straightforward loop | 2 |" in said
    assert "the paper, 2 GPUs" in said
    found = json.loads((tmp_path / "it" / "benchmark.json").read_text())
    assert [row["way"] for row in found["training"]] == ["straightforward loop", "ours"]
    assert all(row["images_per_second"] > 0 and row["peak_gb"] is None for row in found["training"])
    assert (tmp_path / "it" / "benchmark.md").read_text() == said
    assert launch(script, ["--size", "sdxl"]) == 2
    assert "takes hours without a GPU" in capsys.readouterr().err
