"""IP-Adapter on a stock diffusers UNet: decoupled image attention, attached, detached and exported.

Every cross-attention of the UNet gets bias-free ``to_k_ip`` and ``to_v_ip``; its output is text attention + image
attention (Ye et al. 2023, IP-Adapter). Only diffusers' own processors and hooks are used, so a pipeline with our
adapter attached and one that called ``load_ip_adapter`` on our export run the same code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import MultiIPAdapterImageProjection
from safetensors.torch import save_file
from torch import Tensor

from hvf.config import HvfError
from hvf.runs import write_atomic

TOKENS = 4  # image tokens per embedding; stock load_ip_adapter assumes four for this layout
WEIGHT_NAME = "ip-adapter.safetensors"


class Adapted(Protocol):
    """The adapter's part of a Fusion Prior: image projection, a processor per layer, and the layers' names."""

    image_projection: Any
    adapter: Any

    @property
    def config(self) -> Any: ...


@dataclass(frozen=True)
class AdapterLayer:
    """One cross-attention of a UNet: its processor's name, its keys' width and the width of the text it attends to."""

    name: str
    width: int
    cross_attention_dim: int


def adapter_layers(unet: UNet2DConditionModel) -> tuple[AdapterLayer, ...]:
    """The UNet's cross-attentions in the order of ``unet.attn_processors``, which numbers the exported weights."""
    layers = []
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):
            to_k: Any = unet.get_submodule(name.removesuffix(".processor")).to_k
            layers.append(AdapterLayer(name, to_k.out_features, to_k.in_features))
    return tuple(layers)


def attach(unet: UNet2DConditionModel, prior: Adapted) -> None:
    """Put the prior's image projection and adapter into ``unet``. Parameters are shared, not copied.

    From then on the UNet, or a stock pipeline around it, takes z_c (N, 1, D) as IP-Adapter image embedding, and what
    moves or casts the UNet moves the shared part of the prior too. Raises HvfError, changing nothing, when the prior
    was made for other layers.
    """
    layers = adapter_layers(unet)
    expected = tuple(zip(prior.config["adapter_names"], prior.config["adapter_widths"], strict=True))
    actual = tuple((layer.name, layer.width) for layer in layers)
    if len(expected) != len(actual):
        raise HvfError(f"The prior has {len(expected)} adapter layers; this UNet has {len(actual)} cross-attentions.")
    for ours, theirs in zip(expected, actual, strict=True):
        if ours != theirs:
            raise HvfError(f"The prior's adapter layer {ours[0]} ({ours[1]} wide) meets {theirs[0]} ({theirs[1]}).")
    dim = prior.config["cross_attention_dim"]
    config: Any = unet.config
    if config.cross_attention_dim != dim:
        raise HvfError(f"The prior's cross_attention_dim is {dim}; this UNet's is {config.cross_attention_dim}.")
    processors: dict[str, Any] = dict(unet.attn_processors)
    processors.update({layer.name: processor for layer, processor in zip(layers, prior.adapter, strict=True)})
    unet.set_attn_processor(processors)
    # The two hooks by which stock load_ip_adapter, too, hands image embeddings to the UNet.
    hooks: Any = unet
    hooks.encoder_hid_proj = MultiIPAdapterImageProjection([prior.image_projection])
    config.encoder_hid_dim_type = "ip_image_proj"


def detach(unet: UNet2DConditionModel) -> None:
    """Take any IP-Adapter out of ``unet``: plain attention, no image projection. The prior keeps its weights."""
    unet.encoder_hid_proj = None
    config: Any = unet.config
    config.encoder_hid_dim_type = None
    plain: dict[str, Any] = {
        name: AttnProcessor2_0() if isinstance(processor, IPAdapterAttnProcessor2_0) else processor
        for name, processor in unet.attn_processors.items()
    }
    unet.set_attn_processor(plain)


def flat_state(image_projection: Any, processors: Iterable[Any]) -> dict[str, Tensor]:
    """An adapter in the released IP-Adapter layout, flat; ``processors`` are in the order of ``unet.attn_processors``.

    ``image_proj.{proj,norm}.{weight,bias}`` and ``ip_adapter.I.{to_k_ip,to_v_ip}.weight``, I = 1, 3, 5 …
    """
    state = {
        "image_proj.proj.weight": image_projection.image_embeds.weight,
        "image_proj.proj.bias": image_projection.image_embeds.bias,
        "image_proj.norm.weight": image_projection.norm.weight,
        "image_proj.norm.bias": image_projection.norm.bias,
    }
    for index, processor in enumerate(processors):
        state[f"ip_adapter.{2 * index + 1}.to_k_ip.weight"] = processor.to_k_ip[0].weight
        state[f"ip_adapter.{2 * index + 1}.to_v_ip.weight"] = processor.to_v_ip[0].weight
    return {key: value.detach().contiguous() for key, value in state.items()}


def export_ip_adapter(prior: Adapted, path: str | Path) -> Path:
    """Write the prior's adapter as one safetensors file that stock ``pipe.load_ip_adapter`` reads.

    ``path`` is the file, or a folder that gets ``ip-adapter.safetensors``. Load it with ``subfolder=""``,
    ``weight_name=...`` and ``image_encoder_folder=None``, and pass z_c, not z_f: HVF and the projector do not fit the
    format. Returns the file's path.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        path.mkdir(parents=True, exist_ok=True)
        path = path / WEIGHT_NAME
    state = flat_state(prior.image_projection, prior.adapter)
    metadata = {"format": "pt", "input": "z_c of the Fusion Prior, shape (N, 1, D), as ip_adapter_image_embeds"}
    write_atomic(path, lambda temporary: save_file(state, str(temporary), metadata=metadata))
    return path
