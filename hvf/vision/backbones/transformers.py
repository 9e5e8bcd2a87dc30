"""Vision models of transformers, and InternViT as it is published, with their image processor's settings.

A repository's own modelling code is never run.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvf.registry import BACKBONES, HvfError
from hvf.vision.backbones import internvit
from hvf.vision.backbones.base import Backbone
from hvf.vision.backbones.hub import check_size, named_layers, preprocessing
from hvf.vision.weights import cached_from_hub, read_json, reading, weight_files, weights_in

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hvf.vision.encoder import Tower
    from hvf.vision.specs import FeatureSpec

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
BILINEAR = 2  # PIL's number for it, and so a processor's
CROPPED_BELOW = 384  # pixels, of ConvNeXt's processor
WEIGHTS, PICKLED = ("model.safetensors",), ("pytorch_model.bin",)


@BACKBONES.register("transformers")
class Transformers(Backbone):
    """The model's own pooled output (``attn``, the default) if it has one, or a layer.

    ``transformers:ORG/REPO@27:mean``  a vision model that transformers knows, from the Hub's cache or a folder; blocks
                                       are counted from 0: what the literature calls InternViT's layer 28 is @27
    ``transformers:FOLDER@27@224px:mean``  at 224 px instead of its image processor's size
    """

    has_sizes = True

    @classmethod
    def name_and_weights(cls, text: str) -> tuple[str, str | None]:
        return text.rstrip("/"), None  # a Hub id has a slash of its own

    @classmethod
    def network(cls, spec: FeatureSpec) -> FeatureSpec:
        return replace(super().network(spec), pool="attn" if _is_pooled(spec) else None)  # its pooling may lack weights

    @classmethod
    def load(cls, spec: FeatureSpec) -> Tower:
        from hvf.vision.encoder import Tower

        folder = Path(spec.name).expanduser()
        if not folder.is_dir():
            folder = cached_from_hub(spec, spec.name, (CONFIG, PROCESSOR), weights=WEIGHTS)[0].parent
        settings = read_json(folder / CONFIG, "a vision model's settings")
        processor = read_json(folder / PROCESSOR, "an image processor's settings")
        if settings.get("model_type") == internvit.MODEL_TYPE:
            network: Any
            network, hashed = internvit.load(spec, folder, settings, weights_in(spec, folder, WEIGHTS))
        else:
            network = _known_to_transformers(spec, folder)
            hashed = network.state_dict()
            _allow_size(spec, network)
        with reading(folder / PROCESSOR, "an image processor's settings"):
            prepare, words = _preprocessing(processor, network.config.image_size, spec.size)
        prefix = _prefix(network)
        words += "" if prefix == 1 else f" prefix {prefix}"

        def final(x: torch.Tensor) -> torch.Tensor:
            out = network(x)
            if _is_pooled(spec) and getattr(out, "pooler_output", None) is not None:
                return out.pooler_output.flatten(1)
            return out.last_hidden_state

        layers, files = named_layers(spec, network), (folder / CONFIG, *_weights(spec, folder))
        return Tower(network, prepare, final, hashed, words, prefix, layers, files=files)


def _preprocessing(
    processor: Mapping[str, Any], image_size: Any, asked: int | None
) -> tuple[Callable[[torch.Tensor], torch.Tensor], str]:
    """What an image processor's settings say: resized, the centre cropped, normalised; brought to the size asked for.

    A size of one number, or of the shortest edge, keeps the aspect ratio, and the centre is cropped to a square; height
    and width do not, unless a crop follows.
    """
    cropped = processor.get("crop_size") if processor.get("do_center_crop", True) else None
    whole = processor.get("size") or cropped or image_size
    how = "squash" if isinstance(whole, dict) and "height" in whole else "shortest"
    whole = _sides(whole)
    size = whole if cropped is None else _sides(cropped)
    if share := processor.get("crop_pct"):  # ConvNeXt's: large images are not cropped
        how = "shortest" if max(size) < CROPPED_BELOW else "squash"
        whole = tuple(int(side / share) for side in size) if how == "shortest" else size
    if asked:
        whole, size = tuple(round(a * asked / b) for a, b in zip(whole, size, strict=True)), (asked, asked)
    normal = processor.get("do_normalize", True)
    mean, std = (processor["image_mean"], processor["image_std"]) if normal else ((0.0,) * 3, (1.0,) * 3)
    kernel = "bilinear" if processor.get("resample") == BILINEAR else "bicubic"
    return preprocessing(size, mean, std, kernel, whole, how, half=int)


def _sides(size: Any) -> tuple[int, ...]:
    """Height and width of a processor's size."""
    if isinstance(size, dict):
        return (size["height"], size["width"]) if "height" in size else (size["shortest_edge"],) * 2
    return (size, size) if isinstance(size, int) else tuple(size)


def _prefix(network: nn.Module) -> int:
    """How many tokens stand before the patches: the class token, those of distillation and registers, if any."""
    names = [name.rpartition(".")[2] for name, _ in network.named_parameters()]
    first = any(re.fullmatch(r"(cls|class)_(token|embedding)", name) for name in names)
    registers = int(getattr(network.config, "num_register_tokens", 0) or 0) if first else 0
    return int(first) + ("distillation_token" in names) + registers


def _allow_size(spec: FeatureSpec, network: Any) -> None:
    """Let the network take images of the spec's size: its own interpolation of positions is switched on."""
    if not spec.size:
        return
    check_size(spec, getattr(network.config, "patch_size", None))
    if "interpolate_pos_encoding" in inspect.signature(network.forward).parameters:
        network.register_forward_pre_hook(
            lambda _network, inputs, named: (inputs, {**named, "interpolate_pos_encoding": True}), with_kwargs=True
        )


def _is_pooled(spec: FeatureSpec) -> bool:
    """Whether the model's own pooled output is asked for."""
    return spec.layer is None and spec.pool in (None, "attn")


def _known_to_transformers(spec: FeatureSpec, folder: Path) -> nn.Module:
    """The vision model in a folder, in half precision if all its tensors are, otherwise in float32."""
    import torch
    from transformers import AutoModel

    files = _weights(spec, folder)
    with reading(folder, "a vision model that transformers knows"):
        half = {"F16": torch.float16, "BF16": torch.bfloat16}.get(_stored_type(files), torch.float32)
        loaded: Any = AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, dtype=half, output_loading_info=True
        )
        model, info = loaded
    network = getattr(model, "vision_model", model)
    inside = "" if network is model else "vision_model."
    optional = ("mask_token",) if _is_pooled(spec) else ("mask_token", "pooler.")
    missing = [
        name for name in info["missing_keys"] if name.startswith(inside) and not any(o in name for o in optional)
    ]
    if missing:
        raise HvfError(f"{folder} lacks weights that {spec} needs: no {missing[0]} ({len(missing)} missing)")
    return network


def _weights(spec: FeatureSpec, folder: Path) -> list[Path]:
    """The files of the weights in a folder. Raises HvfError if there are none, naming what is missing."""
    names = WEIGHTS if any(folder.glob("*.safetensors*")) or not any(folder.glob("*.bin*")) else PICKLED
    return weight_files(weights_in(spec, folder, names))


def _stored_type(files: list[Path]) -> str:
    """What all floating-point tensors of safetensors are stored in, as "BF16"; "" if that differs, or of pickles."""
    from safetensors import safe_open

    types: set[str] = set()
    for file in files if files[0].suffix == ".safetensors" else ():
        with safe_open(file, "pt") as tensors:
            types |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    floating = {one for one in types if "F" in one}
    return floating.pop() if len(floating) == 1 else ""
