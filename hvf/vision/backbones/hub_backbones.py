"""Encoders of timm, transformers and dreamsim, as towers: found locally, never downloaded, no code of theirs run.

DINOv2, EVA-02 and SynCLR are timm's; InternViT is transformers' `InternVLVisionModel` (a repository that brings
its own modelling code is not run: convert it to the library's format first).
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hvf.config import HvfError, did_you_mean
from hvf.vision.encoder import Tower, cached_from_hub, nearest, read_state, reading, resized
from hvf.vision.specs import FeatureSpec

# What the package `dreamsim` looks for, by type; it would fetch what is missing.
DREAMSIM = {
    "ensemble": (
        *("dino_vitb16_pretrain.pth", "clip_vitb16_pretrain.pth.tar", "open_clip_vitb16_pretrain.pth.tar"),
        "ensemble_lora",
    ),
    "dino_vitb16": ("dino_vitb16_pretrain.pth", "dino_vitb16_single_lora"),
    "dinov2_vitb14": ("dinov2_vitb14_pretrain.pth", "dinov2_vitb14_single_lora"),
    "open_clip_vitb32": ("open_clip_vitb32_pretrain.pth.tar", "open_clip_vitb32_single_lora"),
    "clip_vitb32": ("clip_vitb32_pretrain.pth.tar", "clip_vitb32_single_lora"),
    "synclr_vitb16": ("synclr_vit_b_16.pth", "synclr_vitb16_single_lora"),
}


def timm_tower(spec: FeatureSpec) -> Tower:
    """A timm model by its name; weights from its Hub repository's cache or a local file."""
    import timm
    from timm.data import resolve_model_data_config

    known = timm.list_models(pretrained=True) + timm.list_models()
    if spec.name not in known:
        raise HvfError(f"{spec}: timm knows no {spec.name!r}{nearest(spec.name, known)}")
    network: Any = timm.create_model(spec.name, pretrained=False, num_classes=0)
    path = Path(spec.weights).expanduser() if spec.weights else None
    if path is None:
        repository = network.pretrained_cfg.get("hf_hub_id")
        if not repository:
            raise HvfError(f"{spec}: name the weights file after a slash, as timm:{spec.name}/FILE")
        path = cached_from_hub(spec, repository, ("model.safetensors",))[0]
    elif not path.is_file():
        raise HvfError(f"{spec}: there is no file {path}")
    with reading(path, f"timm {spec.name} weights"):
        missing, _ = network.load_state_dict(
            read_state(path), strict=False
        )  # a classifier that is not used may be there
        if missing:
            raise HvfError(f"{path} does not hold timm {spec.name} weights: no {missing[0]} ({len(missing)} missing)")
    config = resolve_model_data_config(network)
    prepare, recipe = _prepared(
        config["input_size"][1:], config["mean"], config["std"], config["interpolation"], config.get("crop_pct", 1.0)
    )
    prefix = getattr(network, "num_prefix_tokens", 0)
    return Tower(network, prepare, network, network.state_dict(), recipe, prefix, _layers(spec, network))


def transformers_tower(spec: FeatureSpec) -> Tower:
    """A vision model of transformers from a folder or the Hub's cache, with its image processor's sizes."""
    from transformers import AutoConfig, AutoModel

    folder = Path(spec.name).expanduser()
    if not folder.is_dir():
        files = ("config.json", "preprocessor_config.json", "model.safetensors")
        folder = cached_from_hub(spec, spec.name, files)[0].parent
    with reading(folder, "a vision model that transformers knows"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config = getattr(config, "vision_config", config)
        loaded: Any = AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32
        )
        told = json.loads((folder / "preprocessor_config.json").read_text())
    network = getattr(loaded, "vision_model", loaded)
    size = told.get("crop_size") or told.get("size") or config.image_size
    if isinstance(size, dict):
        size = (size["height"], size["width"]) if "height" in size else (size["shortest_edge"],) * 2
    size = (size, size) if isinstance(size, int) else tuple(size)
    prepare, recipe = _prepared(size, told["image_mean"], told["image_std"], "bicubic", 1.0)

    def final(x: torch.Tensor) -> torch.Tensor:
        out = network(x)
        if spec.pool in (None, "attn") and getattr(out, "pooler_output", None) is not None:
            return out.pooler_output.flatten(1)
        return out.last_hidden_state

    return Tower(network, prepare, final, network.state_dict(), recipe, 1, _layers(spec, network))


def dreamsim_tower(spec: FeatureSpec) -> Tower:
    """DreamSim's tuned encoders by the package `dreamsim`, weights in its cache folder `models`, or in spec.weights."""
    if spec.name not in DREAMSIM:
        raise HvfError(f"{spec}: DreamSim has no {spec.name!r}{did_you_mean(spec.name, DREAMSIM)}")
    if find_spec("dreamsim") is None:
        raise HvfError(f"{spec}: the package dreamsim is not installed: pip install dreamsim")
    from dreamsim import dreamsim  # pyright: ignore[reportMissingImports]  (optional)

    folder = Path(spec.weights or "models").expanduser()
    missing = [name for name in DREAMSIM[spec.name] if not (folder / name).exists()]
    if missing:
        raise HvfError(
            f"{spec}: {folder / missing[0]} is missing; name the folder of DreamSim's weights after a slash, made by: "
            f"python -c \"from dreamsim import dreamsim; dreamsim(dreamsim_type='{spec.name}', cache_dir='{folder}')\""
        )
    with reading(folder, f"DreamSim {spec.name}"):
        model: Any = dreamsim(pretrained=True, device="cpu", cache_dir=str(folder), dreamsim_type=spec.name)[0]

    def embed(x: torch.Tensor) -> torch.Tensor:
        return model.embed(x).reshape(len(x), -1)  # the package squeezes a batch of one

    recipe = "dreamsim 224 bicubic"
    return Tower(model, lambda images: resized(images, (224, 224), "squash"), embed, model.state_dict(), recipe)


def _prepared(size: Any, mean: Any, std: Any, interpolation: str, crop: float) -> tuple[Any, str]:
    """How images become the network's input, and that in words; ``crop`` is the share of the frame that is kept."""
    size = (int(size[0]), int(size[1]))
    whole = (round(size[0] / crop), round(size[1] / crop))
    how = "bilinear" if interpolation == "bilinear" else "bicubic"
    mean_3, std_3 = torch.tensor(tuple(mean)).view(1, 3, 1, 1), torch.tensor(tuple(std)).view(1, 3, 1, 1)

    def prepare(images_N3HW: torch.Tensor) -> torch.Tensor:
        frame = resized(images_N3HW, whole, "shortest", how)
        top, left = (whole[0] - size[0]) // 2, (whole[1] - size[1]) // 2
        frame = frame[..., top : top + size[0], left : left + size[1]]
        return (frame - mean_3.to(frame.device)) / std_3.to(frame.device)

    return prepare, f"{size} of {whole} {how} mean {tuple(mean)} std {tuple(std)}"


def _layers(spec: FeatureSpec, network: nn.Module) -> dict[str, nn.Module]:
    """What a spec may name: blocks by their number from 0, in the network's longest list, and any submodule."""
    lists = [module for module in network.modules() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    blocks = {str(number): block for number, block in enumerate(max(lists, key=len, default=nn.ModuleList()))}
    layers = blocks | {name: module for name, module in network.named_modules() if name}
    if spec.layer is not None and spec.layer not in layers:
        hint = nearest(spec.layer, list(layers))
        raise HvfError(f"{spec}: no layer {spec.layer!r}; blocks go from 0 to {len(blocks) - 1}{hint}")
    return layers
