"""InternViT as it is published (model_type ``intern_vit_6b``), as transformers' `InternVLVisionModel`.

The repository's own modelling code is never run: its keys are given the names that transformers has for the same
tensors, query, key and value are taken apart, and every tensor must find its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvf.registry import HvfError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hvf.vision.specs import FeatureSpec

MODEL_TYPE = "intern_vit_6b"  # of all sizes, 300M too
# The published names of tensors, and transformers'; a block's names stand behind "encoder.layers.N.".
_EMBEDDINGS = {
    "embeddings.class_embedding": "embeddings.cls_token",
    "embeddings.position_embedding": "embeddings.position_embeddings",
    "embeddings.patch_embedding": "embeddings.patch_embeddings.projection",
}
_BLOCK = {
    "attn.q_norm": "attention.q_norm",
    "attn.k_norm": "attention.k_norm",
    "attn.proj": "attention.projection_layer",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "ls1": "lambda_1",
    "ls2": "lambda_2",
}
# The published settings, and transformers'. Each decides what is computed: none has a default here.
_SETTINGS = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "hidden_act": "hidden_act",
    "norm_type": "norm_type",
    "layer_norm_eps": "layer_norm_eps",
    "qk_normalization": "use_qk_norm",
    "qkv_bias": "attention_bias",
}


def build(config: Mapping[str, Any], where: object) -> nn.Module:
    """The network of a published configuration; its last hidden state is not normalised, as in the published code.

    `where` names the configuration's file in messages. Raises HvfError for settings that are missing or impossible.
    """
    from transformers import InternVLVisionConfig, InternVLVisionModel

    absent = [name for name in _SETTINGS if name not in config]
    if absent:
        raise HvfError(f"{where} is no configuration of InternViT: it has no {absent[0]}")
    settings = {theirs: config[ours] for ours, theirs in _SETTINGS.items()}
    if settings["norm_type"] not in ("rms_norm", "layer_norm"):
        raise HvfError(f"{where}: norm_type is {settings['norm_type']!r}, not 'rms_norm' or 'layer_norm'")
    channels = config.get("num_channels", 3)
    try:
        network = InternVLVisionModel(InternVLVisionConfig(num_channels=channels, use_mean_pooling=True, **settings))
    except Exception as error:  # the library checks its settings in its own ways
        raise HvfError(f"{where} is no configuration of InternViT: {' '.join(str(error).split())[:240]}") from error
    for name, module in network.named_modules():
        if name.endswith(("q_norm", "k_norm")) and hasattr(module, "variance_epsilon"):
            module.variance_epsilon = settings["layer_norm_eps"]  # transformers has 1e-6 here, whatever is set
    return network


def renamed(state: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The published tensors under transformers' names, uncopied. Raises HvfError for one that InternViT does not have.

    >>> import torch
    >>> list(renamed({"encoder.layers.3.attn.qkv.weight": torch.zeros(6, 2)}, Path("file")))[0]
    'encoder.layer.3.attention.q_proj.weight'
    """
    out: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        stem, _, kind = name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, "", "")
        kind = f".{kind}" if kind else ""
        block = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", stem)
        if block and block[2] == "attn.qkv" and len(tensor) % 3 == 0:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                out[f"encoder.layer.{block[1]}.attention.{letter}_proj{kind}"] = part
        elif block and block[2] in _BLOCK:
            out[f"encoder.layer.{block[1]}.{_BLOCK[block[2]]}{kind}"] = tensor
        elif stem in _EMBEDDINGS:
            out[_EMBEDDINGS[stem] + kind] = tensor
        else:
            raise HvfError(f"{path} does not hold InternViT as published: it has {name}, which InternViT has not")
    return out


def load(
    spec: FeatureSpec, folder: Path, config: Mapping[str, Any], weights: Path
) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The network in a folder at the spec's size, its weights as they are; and the tensors that it depends on.

    Raises HvfError naming what is missing or does not fit.
    """
    from hvf.vision.backbones.hub import check_size
    from hvf.vision.filling import fill, fit_positions, hashed_state, without_values
    from hvf.vision.weights import read_state, reading

    check_size(spec, config.get("patch_size"))
    with without_values():
        network = build({**config, "image_size": spec.size} if spec.size else config, folder / "config.json")
    with reading(weights, "InternViT as published"):
        state = renamed(read_state(weights), weights)
        fitted = fit_positions(network, state) if spec.size else state
        fill(network, fitted, f"{weights} does not hold this InternViT")
    return network, hashed_state(network, state, fitted)
