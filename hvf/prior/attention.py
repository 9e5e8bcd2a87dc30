"""Attention backends of a UNet: PyTorch's own (SDPA), xformers, or compiled; chosen before an adapter is attached.

Known trap (IP-Adapter, diffusers): `enable_xformers_memory_efficient_attention` replaces every attention processor and
drops an adapter's parameters without a word. Here the backend comes first and the adapter after; `check_attached`
holds that each of the prior's layers is the one that the UNet runs.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0

from hvf.config import HvfError, did_you_mean

if TYPE_CHECKING:
    from hvf.prior.model import FusionPrior

BACKENDS = ("sdpa", "xformers", "compiled")
COMPILER = "inductor"
# Largest difference from SDPA, relative to the output's largest value: three roundings of the UNet's number type.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def choose_attention(unet: UNet2DConditionModel, backend: str) -> str | None:
    """Switch a UNet without an adapter to a backend; returns None, or why it stays with SDPA.

    The backend is tried once on the UNet's own device and must predict what SDPA predicts. Raises HvfError for an
    unknown backend and for a UNet that already carries an adapter, which it would lose.
    """
    if backend not in BACKENDS:
        raise HvfError(f"attention {backend!r} does not exist{did_you_mean(backend, BACKENDS)}")
    if any(isinstance(processor, IPAdapterAttnProcessor2_0) for processor in unet.attn_processors.values()):
        raise HvfError("This UNet carries an adapter: choose the attention backend before one is attached.")
    unet.set_attn_processor(AttnProcessor2_0())
    if backend == "sdpa":
        return None
    expected = _prediction(unet)
    try:
        _SWITCH[backend](unet)
        predicted = _prediction(unet)
    except Exception as error:  # a missing package, operator or compiler: each library has its own way of saying so
        reason = " ".join(str(error).split())[:160]
    else:
        worst = (predicted - expected).abs().max() / expected.abs().max()
        if worst <= TOLERANCE[unet.dtype]:
            return None
        reason = f"its prediction differs from SDPA's by {worst:.1e}"
    _plain(unet)
    return f"attention {backend} is not used, sdpa is: {reason}"


def check_attached(unet: UNet2DConditionModel, prior: FusionPrior) -> None:
    """Raise HvfError unless every layer of the prior's adapter is the processor that the UNet runs there."""
    running: dict[str, Any] = unet.attn_processors
    lost = [
        name
        for name, layer in zip(prior.config["adapter_names"], prior.adapter, strict=True)
        if running.get(name) is not layer
    ]
    if lost:
        raise HvfError(f"{len(lost)} adapter layers are not in the UNet, {lost[0]} first: attach the prior last.")


def _xformers(unet: UNet2DConditionModel) -> None:
    if find_spec("xformers") is None:
        raise HvfError("xformers is not installed (pip install 'hvf[xformers]')")
    unet.enable_xformers_memory_efficient_attention()


def _compiled(unet: UNet2DConditionModel) -> None:
    unet.compile_repeated_blocks(backend=COMPILER)  # one transformer block, compiled once for its 70 places


def _plain(unet: UNet2DConditionModel) -> None:
    for module in unet.modules():
        module._compiled_call_impl = None
    unet.set_attn_processor(AttnProcessor2_0())


_SWITCH: dict[str, Callable[[UNet2DConditionModel], None]] = {"xformers": _xformers, "compiled": _compiled}


@torch.no_grad()
def _prediction(unet: UNet2DConditionModel) -> torch.Tensor:
    """The UNet's output (1, C, H, W) for fixed noise and a fixed prompt, float32."""
    config: Any = unet.config
    generator = torch.Generator().manual_seed(0)
    side = min(config.sample_size, 64)
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(unet.device, unet.dtype)

    conditions = {"text_embeds": draw(1, pooled), "time_ids": torch.zeros(1, 6, device=unet.device)}
    x_t, prompt = draw(1, config.in_channels, side, side), draw(1, 77, config.cross_attention_dim)
    return unet(x_t, torch.tensor([500], device=unet.device), prompt, added_cond_kwargs=conditions).sample.float()
