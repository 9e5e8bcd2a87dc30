"""open_clip models: image towers, and the text side for captions."""

from __future__ import annotations

import copy
import logging
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hvf.files.archives import check_arrays, open_zip
from hvf.registry import BACKBONES, HvfError, did_you_mean
from hvf.schema.reading import parse_json
from hvf.vision.backbones.base import Backbone
from hvf.vision.backbones.hub import check_size
from hvf.vision.weights import (
    INDEX,
    cached_from_hub,
    nearest,
    packaged,
    read_json,
    read_state,
    reading,
    weight_files,
    weights_in,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hvf.vision.encoder import Tower
    from hvf.vision.specs import FeatureSpec

CLIP_CONFIG = "open_clip_config.json"
CLIP_FILES = (  # what the weights in a folder may be called, whole or in shards
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin"),
    "model.safetensors",
)
MINI = ("mini-resnet", "mini-vit")  # that ship with hvf


_log = logging.getLogger(__name__)


@BACKBONES.register("openclip")
class OpenCLIP(Backbone):
    """The image projection, not normalised, or a layer of the image tower.

    ``openclip:mini-resnet``, ``openclip:mini-vit``  the two CLIPs that ship with hvf
    ``openclip:ViT-H-14/laion2b_s32b_b79k``          an open_clip name and one of its pretrained tags
    ``openclip:ViT-B-32/FILE``                       an open_clip name and a weights file (relative, or ``//absolute``)
                                                     OpenAI's files (ViT-B-32.pt) get their QuickGELU
    ``openclip:FOLDER``                              open_clip_config.json and open_clip_model.safetensors, whole or as
                                                     open_clip_model.safetensors.index.json and its shards
    ``openclip:...@11:mean``                         output of transformer block 11 (from 0); ``cls`` (default), ...
    ``openclip:...@layer3:grid2``                    output of ResNet stage layer1 ... layer4; ``mean`` (default), ...
    ``openclip:...@11@336px:mean``                   at 336 px instead of the model's own size
    """

    has_sizes = True

    @classmethod
    def check(cls, spec: FeatureSpec) -> FeatureSpec:
        if spec.layer is None and spec.pool is not None:
            raise HvfError(f"the image projection cannot be pooled; name a layer, as @LAYER:{spec.pool}")
        if _is_mini(spec) and spec.name not in MINI:
            raise HvfError(f"there is no {spec.name!r}{did_you_mean(spec.name, MINI)}")
        return spec

    @classmethod
    def load(cls, spec: FeatureSpec) -> Tower:
        return image_tower(spec)


def image_tower(spec: FeatureSpec) -> Tower:
    """The model's image side; without a layer it gives the image projection."""
    import torch
    from open_clip.model import get_model_preprocess_cfg

    from hvf.vision.encoder import Tower, resized

    source = _source(spec)
    loaded, changed = _loaded(spec, source)
    model: Any = loaded
    visual: Any = model.visual
    config = get_model_preprocess_cfg(model)
    size = config["size"] if isinstance(config["size"], (tuple, list)) else (config["size"], config["size"])
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    interpolation = "bilinear" if config.get("interpolation") == "bilinear" else "bicubic"
    how, fill = config.get("resize_mode", "shortest"), config.get("fill_color", 0) / 255

    def prepare(images_N3HW: torch.Tensor) -> torch.Tensor:
        frame = resized(images_N3HW, tuple(size), how, interpolation, fill)
        return (frame - mean.to(frame.device)) / std.to(frame.device)

    def project(x: torch.Tensor) -> torch.Tensor:
        out = visual(x)
        return out[0] if isinstance(out, tuple) else out

    scaling = f"mean {mean.flatten().tolist()} std {std.flatten().tolist()}"
    preprocessing = f"{tuple(size)} {interpolation} {how} {fill} {scaling}"
    if _own_file(spec) and any("QuickGELU" in type(module).__name__ for module in visual.modules()):
        preprocessing += " QuickGELU"  # else the features of the same file without it would be taken from the cache
    layers = _clip_layers(visual)
    if spec.layer is not None and spec.layer not in layers:
        raise HvfError(f"{spec}: no layer {spec.layer!r}; there is {', '.join(layers)}")
    prefix = getattr(getattr(visual, "trunk", None), "num_prefix_tokens", 1)
    inside = {name.removeprefix("visual."): x for name, x in changed.items() if name.startswith("visual.")}
    return Tower(
        visual, prepare, project, visual.state_dict() | inside, preprocessing, prefix, layers, files=source.files
    )


class Source(NamedTuple):
    """Where an open_clip model comes from."""

    files: tuple[Path, ...]  # whose contents it depends on
    weights: Path  # one of them, or an index of shards
    config: dict[str, Any]  # open_clip's model_cfg
    preprocess: dict[str, Any]  # what its preprocess_cfg has beyond the library's
    where: str  # in messages
    what: str


def clip_model(spec: FeatureSpec) -> nn.Module:
    """The whole open_clip model that an ``openclip`` spec names, in eval mode, its weights as the file has them."""
    return _loaded(spec, _source(spec))[0]


def _source(spec: FeatureSpec) -> Source:
    import open_clip

    folder = _clip_folder(spec)
    if folder:
        path = weights_in(spec, folder, CLIP_FILES)
        content = read_json(folder / CLIP_CONFIG, "an open_clip model's settings")
        if "model_cfg" not in content:
            raise HvfError(f"{folder / CLIP_CONFIG} does not hold an open_clip model's settings: no model_cfg")
        files = (folder / CLIP_CONFIG, *weight_files(path))
        return Source(
            files, path, content["model_cfg"], content.get("preprocess_cfg", {}), str(folder), "an open_clip model"
        )
    path, tag = _clip_weights(spec)
    config: dict[str, Any] = open_clip.get_model_config(spec.name) or {}
    config |= {"quick_gelu": True} if tag.get("quick_gelu") else {}
    preprocess = {key: tag[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in tag}
    return Source(tuple(weight_files(path)), path, config, preprocess, str(path), f"open_clip {spec.name} weights")


def _loaded(spec: FeatureSpec, source: Source) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The model, and the tensors of its weights that were brought to the spec's size, as they were."""
    import torch
    from open_clip.convert import convert_state_dict, load_big_vision_weights
    from open_clip.factory import load_state_dict
    from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed

    from hvf.vision.filling import fill, fit_positions, without_values

    with reading(source.where, source.what):
        if source.weights.suffix in (".npz", ".npy"):  # SigLIP as big_vision publishes it
            model = _without_weights(spec, source)
            load_big_vision_weights(model, str(source.weights))
            return model.eval(), {}
        with without_values():
            model = _without_weights(spec, source)
        shards = source.weights.name.endswith(INDEX)
        loaded: Any = read_state(source.weights) if shards else load_state_dict(str(source.weights))
        state: dict[str, Any] = dict(loaded)
        state = convert_state_dict(model, state)  # of other libraries
        if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
            state = convert_to_custom_text_state_dict(state)
        if "logit_bias" not in state and getattr(model, "logit_bias", None) is not None:
            state["logit_bias"] = torch.zeros_like(state["logit_scale"])
        positions = "text.transformer.embeddings.position_ids"  # of older versions of transformers
        if positions in state and positions not in model.state_dict():
            del state[positions]
        fitted = fit_positions(model, state) if spec.size else dict(state)
        resize_pos_embed(fitted, model)
        resize_text_pos_embed(fitted, model)
        fill(model, fitted, f"{source.where} does not hold {source.what}")
    changed = {name: x for name, x in state.items() if spec.size and fitted[name] is not x}
    return model.eval(), changed


def _without_weights(spec: FeatureSpec, source: Source) -> Any:
    """The model of open_clip's settings, as `open_clip.create_model` makes it, without its weights."""
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP, set_model_preprocess_cfg
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    config = copy.deepcopy(source.config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    if spec.size:
        vision["image_size"] = spec.size
    custom = config.pop("custom_text", False) or "hf_model_name" in text
    kind: Any = (CoCa if "multimodal_cfg" in config else CustomTextCLIP) if custom else CLIP
    model = kind(**config)
    visual = model.visual
    if spec.size:
        trunk = getattr(visual, "trunk", visual)
        patch = getattr(getattr(trunk, "patch_embed", None), "patch_size", getattr(visual, "patch_size", None))
        check_size(spec, 32 if hasattr(visual, "attnpool") else patch)
        if "timm_model_name" in vision:
            visual.set_input_size(spec.size)
    preprocess = merge_preprocess_dict(PreprocessCfg(), source.preprocess)
    set_model_preprocess_cfg(model, {**preprocess, "size": getattr(visual, "image_size", preprocess["size"])})
    return model


def clip_tokenizer(spec: FeatureSpec) -> Callable[[list[str]], torch.Tensor]:
    """Lines of text -> token ids (N, length), as the model of that name reads them."""
    import open_clip
    from transformers import AutoTokenizer

    folder = _clip_folder(spec)
    if not folder:
        return open_clip.get_tokenizer(spec.name)
    with reading(folder / CLIP_CONFIG, "an open_clip model with a text side"):
        text = parse_json((folder / CLIP_CONFIG).read_bytes())["model_cfg"]["text_cfg"]
        length = text["context_length"]
        if "hf_tokenizer_name" not in text:
            return open_clip.SimpleTokenizer(context_length=length)
        tokenizer = AutoTokenizer.from_pretrained((folder / text["hf_tokenizer_name"]).resolve(), local_files_only=True)
    options: dict[str, Any] = {"padding": "max_length", "truncation": True, "max_length": length}
    return lambda lines: tokenizer(lines, return_tensors="pt", **options).input_ids


def _clip_layers(visual: Any) -> dict[str, nn.Module]:
    """Layers by their names in a spec: block numbers from 0 for transformers, layer1 … layer4 for ResNets."""
    trunk = getattr(visual, "trunk", visual)
    blocks = trunk.transformer.resblocks if hasattr(trunk, "transformer") else getattr(trunk, "blocks", None)
    if blocks is not None:
        return {str(number): block for number, block in enumerate(blocks)}
    stages = {name: module for name, module in trunk.named_children() if name.startswith("layer")}
    return stages or {str(number): stage for number, stage in enumerate(getattr(trunk, "stages", ()))}


def _is_mini(spec: FeatureSpec) -> bool:
    return spec.name.startswith("mini-") and spec.weights is None


def _clip_folder(spec: FeatureSpec) -> Path | None:
    if _is_mini(spec):
        return packaged(spec, f"clip-{spec.name[5:]}", (CLIP_CONFIG, CLIP_FILES[0]))
    if not spec.name.startswith(("/", ".", "~")):
        return None
    folder = Path(spec.name).expanduser()
    if not (folder / CLIP_CONFIG).is_file():
        raise HvfError(f"{spec}: {folder / CLIP_CONFIG} is missing; an open_clip folder has it and {CLIP_FILES[0]}")
    return folder


def _clip_weights(spec: FeatureSpec) -> tuple[Path, Mapping[str, Any]]:
    """The weights of an open_clip name, and the settings of their pretrained tag, if they have one."""
    import open_clip

    known, tags = open_clip.list_models(), open_clip.list_pretrained_tags_by_model(spec.name)
    if spec.name not in known:
        raise HvfError(f"{spec}: open_clip knows no {spec.name!r}{nearest(spec.name, known)}")
    if spec.weights is None:
        example = f", as in openclip:{spec.name}/{tags[-1]}" if tags else ""
        raise HvfError(f"{spec}: name the weights, a pretrained tag or a file, after a slash{example}")
    tag = open_clip.get_pretrained_cfg(spec.name, spec.weights)
    if not tag:
        path = Path(spec.weights).expanduser()
        if not path.is_file():
            hint = nearest(spec.weights, tags)
            raise HvfError(f"{spec}: {spec.weights!r} is neither a file nor a pretrained tag{hint}")
        return path, _tag_of_file(spec, path) or {}
    repository, file = os.path.split(tag.get("hf_hub") or "")
    if not repository:
        hint = f"curl -LO {tag.get('url')}, then write openclip:{spec.name}/FILE"
        raise HvfError(f"{spec}: these weights are not on the Hub; fetch them with: {hint}")
    return cached_from_hub(spec, repository, (), weights=(file or CLIP_FILES[0],))[-1], tag


def _own_file(spec: FeatureSpec) -> bool:
    """Whether the weights are a file under the name of a model that has no QuickGELU by itself."""
    return spec.weights is not None and Path(spec.weights).expanduser().is_file() and "quickgelu" not in spec.name


def _tag_of_file(spec: FeatureSpec, path: Path) -> Mapping[str, Any] | None:
    """The pretrained tag whose file this is, by its name or, for OpenAI's, by what it holds; None if it is not known.

    A file of unknown origin in half precision, as OpenAI's are, is named in a warning.
    """
    import open_clip

    tags = {
        tag: open_clip.get_pretrained_cfg(spec.name, tag) for tag in open_clip.list_pretrained_tags_by_model(spec.name)
    }
    known = [tag for tag in tags.values() if path.name == (tag.get("url") or "").rsplit("/", 1)[-1]]
    if known:
        return known[0]
    openai = tags.get("openai")
    if openai is None or "quickgelu" in spec.name:
        return None
    content = _index_of_weights(path)
    if b"input_resolution" in content:  # a number that OpenAI's files keep beside the weights
        return openai
    if b"HalfStorage" in content or b'"F16"' in content:
        _log.warning(
            "%s: %s is in half precision, as OpenAI's weights are, but runs with GELU: OpenAI's need QuickGELU, "
            "openclip:%s-quickgelu/FILE",
            *(spec, path.name, spec.name),
        )
    return None


def _index_of_weights(path: Path) -> bytes:
    """What a file says of its tensors: the head of a safetensors file, the pickle of one of torch."""
    if zipfile.is_zipfile(path):
        check_arrays(path)
        with open_zip(path) as archive:
            return b"".join(archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))
    with open(path, "rb") as file:
        return file.read(1 << 20)
