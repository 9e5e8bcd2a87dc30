"""Fixtures that several files here use."""

from __future__ import annotations

import pytest
from diffusers import (
    UNet2DConditionModel,
)
from safetensors.torch import load_file

from hvf.prior.hub_weights import BRAIN_HIVE_ENCODERS
from hvf.prior.loading import load_prior


@pytest.fixture(scope="module")
def golden_prior(shared_data):
    folder = shared_data / "golden" / "brain_hive_prior"
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").requires_grad_(False)
    prior = load_prior(str(folder / "checkpoint"))
    inputs, outputs = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "outputs"))
    inputs = {
        f"emb.{BRAIN_HIVE_ENCODERS.get(k[4:], k[4:])}" if k.startswith("emb.") else k: x for k, x in inputs.items()
    }
    return folder, prior, unet, inputs, outputs
