"""What the tests of golden_models share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionXLPipeline,
)


def rule_weights(shapes: dict[str, dict], seed: int) -> dict[str, torch.Tensor]:
    """The golden sets' rule that stands for stored full-size weights."""
    state = {}
    for i, (key, entry) in enumerate(shapes.items()):
        a = np.random.RandomState(seed + i).standard_normal(entry["shape"]) if entry["shape"] else 0.0
        a = np.asarray(a, dtype=np.float32)
        if a.ndim >= 2:
            a = a / np.float32(np.sqrt(np.prod(a.shape[1:])))
        elif key.endswith("running_var"):
            a = np.exp(np.float32(0.25) * a)
        else:
            a = np.float32(1) + np.float32(0.1) * a if key.endswith("weight") else np.float32(0.1) * a
        state[key] = torch.from_numpy(np.ascontiguousarray(a))
    return state


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def pipeline(folder: Path, unet, scheduler) -> StableDiffusionXLPipeline:
    """The tiny SDXL of a golden set; it has no text encoder, prompts are given as embeddings."""
    pipe = StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae"), text_encoder=None, text_encoder_2=None, tokenizer=None,
        tokenizer_2=None, unet=unet, scheduler=scheduler, add_watermarker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe
