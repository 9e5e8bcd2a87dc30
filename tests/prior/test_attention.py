"""Attention backends: the adapter stays in place, the prediction stays the same, and what cannot be had is told."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from hvf.config import HvfError
from hvf.prior import attention
from hvf.prior.attention import check_attached, choose_attention
from tests.prior.test_model import batch, features, new_prior, shake
from tests.tiny_sdxl import tiny_unet


def prediction(backend: str) -> tuple[torch.Tensor, str | None]:
    unet = tiny_unet()
    refused = choose_attention(unet, backend)
    prior = shake(new_prior(unet))
    prior.attach(unet)
    check_attached(unet, prior)
    with torch.no_grad():
        return prior(unet, **batch(), features=features()), refused


@pytest.mark.slow(part=5)
def test_compiled_attention_keeps_the_adapter_and_predicts_alike(monkeypatch):
    monkeypatch.setattr(attention, "COMPILER", "eager")  # the blocks are traced; their machine code is torch's affair
    expected, _ = prediction("sdpa")
    found, refused = prediction("compiled")
    assert refused is None
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_what_is_missing_or_wrong_is_told_and_sdpa_is_used(monkeypatch):
    expected, _ = prediction("sdpa")
    if importlib.util.find_spec("xformers") is None:
        found, refused = prediction("xformers")
        assert refused.startswith("attention xformers is not used, sdpa is: xformers is not installed")
        assert torch.equal(found, expected)

    def wrong(unet):
        unet.conv_out.bias.data += 1  # stands for a backend that computes something else

    monkeypatch.setitem(attention._SWITCH, "compiled", wrong)
    unet = tiny_unet()
    assert "its prediction differs from SDPA's" in choose_attention(unet, "compiled")


def test_a_backend_chosen_too_late_would_lose_the_adapter_and_is_refused():
    unet = tiny_unet()
    prior = new_prior(unet)
    prior.attach(unet)
    with pytest.raises(HvfError, match="before one is attached"):
        choose_attention(unet, "sdpa")
    unet.set_attn_processor(type(next(iter(unet.attn_processors.values())))())  # as enable_xformers... does
    with pytest.raises(HvfError, match="8 adapter layers are not in the UNet"):
        check_attached(unet, prior)
    with pytest.raises(HvfError, match="did you mean 'xformers'"):
        choose_attention(tiny_unet(), "xformer")
