"""The kinds of frozen encoder: open_clip towers, gLocal, VAE latents, torchvision networks; others in hub_backbones.py.

Each finds its weights locally (a path, the package data, or the Hugging Face cache; nothing is downloaded) and makes a
Tower of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from hvf.config import HvfError, did_you_mean
from hvf.vision.encoder import Tower, cached_from_hub, nearest, read_state, reading, resized
from hvf.vision.specs import FeatureSpec, parse_spec

MINI_WEIGHTS = Path(__file__).parents[2] / "weights" / "mini"
CLIP_CONFIG, CLIP_FILES = "open_clip_config.json", ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
VAE_SIZE = 128  # the official code of HVF encodes at 128 px, which makes 1024 latents of SDXL's VAE
VAE_HUB = {"sdxl": ("stabilityai/stable-diffusion-xl-base-1.0", "vae"), "taesdxl": ("madebyollin/taesdxl", "")}
VAE_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
CAFFE_SIZE, CAFFE_MEAN_BGR = 227, (104.0, 117.0, 123.0)


def glocal(spec: FeatureSpec) -> Tower:
    """CLIP's image projection x, as (x - mean) / std · W (+ b). Source: LukasMut/gLocal, GlocalTransform."""
    weights = "" if spec.name.startswith("mini-") else "/openai"
    clip = openclip(parse_spec(f"openclip:{spec.name}{weights}"))
    path = Path(spec.weights or "").expanduser()
    if not path.is_file():
        raise HvfError(f"{spec}: there is no file {path}; gLocal's transforms are in the repository LukasMut/gLocal")
    with reading(path, "a gLocal transform (weights, mean, std)"):
        state = {name: tensor.float() for name, tensor in read_state(path).items()}
        matrix_DD, mean, sd = state["weights"], state["mean"], state["std"]
        bias = state.get("bias", torch.zeros(()))
    run = clip.run

    def aligned(x: torch.Tensor) -> torch.Tensor:
        out_ND = run(x)
        if out_ND.shape[1] != len(matrix_DD):
            raise HvfError(f"{path} transforms {len(matrix_DD)} features; {spec.name} gives {out_ND.shape[1]}")
        return (out_ND - mean.to(x.device)) / sd.to(x.device) @ matrix_DD.to(x.device) + bias.to(x.device)

    transform = {f"glocal.{name}": tensor for name, tensor in state.items()}
    return replace(clip, run=aligned, state={**clip.state, **transform}, recipe=f"{clip.recipe} glocal")


def load_vae(spec: FeatureSpec) -> nn.Module:
    """The diffusers ``AutoencoderKL`` or ``AutoencoderTiny`` that a ``vae`` spec names, float32, in eval mode.

    The NAME is ``mini``, ``sdxl``, ``taesdxl``, a diffusers folder (or a pipeline's, with ``vae/`` in it), a TAESD file
    ``*_encoder.safetensors`` or the folder of one (its ``*_decoder`` beside it is loaded too; without it ``decoder`` is
    None), or a Hub id. Raises HvfError.
    """
    if spec.name == "mini":
        return _diffusers_vae(_packaged(spec, "sdxl/vae", VAE_FILES))
    if spec.name in VAE_HUB:
        repository, subfolder = VAE_HUB[spec.name]
        return _diffusers_vae(cached_from_hub(spec, repository, VAE_FILES, subfolder)[0].parent)
    path = Path(spec.name).expanduser()
    if path.is_file():
        return _taesd(path)
    if not path.exists():
        if spec.name.count("/") != 1 or spec.name.startswith((".", "~", "/")):
            known = ("mini", *VAE_HUB)
            hint = did_you_mean(spec.name, known) if "/" not in spec.name else ""
            raise HvfError(f"{spec}: there is no file or folder {spec.name}{hint}")
        return _diffusers_vae(cached_from_hub(spec, spec.name, VAE_FILES)[0].parent)
    folder = path / "vae" if (path / "vae" / VAE_FILES[0]).is_file() else path
    if (folder / VAE_FILES[0]).is_file():
        return _diffusers_vae(folder)
    encoders = sorted(path.glob("*_encoder.safetensors"))
    if len(encoders) != 1:
        raise HvfError(f"{spec}: {path} holds neither a {VAE_FILES[0]} nor one *_encoder.safetensors")
    return _taesd(encoders[0])


def vae(spec: FeatureSpec) -> Tower:
    vae: Any = load_vae(spec)
    pixels = int(spec.layer) if spec.layer else 64 if spec.name == "mini" else VAE_SIZE
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0

    def run(x: torch.Tensor) -> torch.Tensor:
        encoded = vae.encode(x)
        # The mean, not a sample: a cached feature has to be the same every time.
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        out = (latents - shift) * scale
        return out if spec.pool else out.flatten(1)

    state = {name: t for name, t in vae.state_dict().items() if name.startswith(("encoder.", "quant_conv."))}
    recipe = f"{type(vae).__name__} {pixels}px scale {scale} shift {shift}"
    return Tower(vae, lambda images: resized(images, (pixels, pixels)) * 2 - 1, run, state, recipe)


def _diffusers_vae(folder: Path) -> nn.Module:
    from diffusers import AutoencoderKL, AutoencoderTiny

    weights = folder / VAE_FILES[1]
    if not weights.is_file():
        raise HvfError(f"{weights} is missing: {folder} holds a VAE's configuration and no weights")
    with reading(weights, "a VAE (AutoencoderKL or AutoencoderTiny)"):
        config: Any = AutoencoderKL.load_config(str(folder))
        kinds = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderTiny)}
        named = config.get("_class_name")
        if named not in kinds:
            raise HvfError(f"{folder / VAE_FILES[0]} describes {named}, not AutoencoderKL or AutoencoderTiny")
        # Low-memory loading patches torch's modules globally: a model built in another thread would come out empty.
        options: dict[str, Any] = {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}
        loaded: Any = kinds[named].from_pretrained(str(folder), output_loading_info=True, **options)
        vae, info = loaded
        wrong = info["missing_keys"] + info["unexpected_keys"] + info["mismatched_keys"]
        if wrong:
            raise HvfError(f"{weights} does not fit its config.json: {wrong[0]} ({len(wrong)} such tensors)")
    return vae.eval()


def _taesd(encoder_file: Path) -> nn.Module:
    from diffusers import AutoencoderTiny

    vae: Any = AutoencoderTiny()
    with reading(encoder_file, "a TAESD encoder"):
        vae.encoder.layers.load_state_dict(load_file(encoder_file))
    decoder_file = encoder_file.with_name(encoder_file.name.replace("_encoder", "_decoder"))
    if decoder_file == encoder_file or not decoder_file.is_file():
        vae.decoder = None
        return vae.eval()
    with reading(decoder_file, "a TAESD decoder"):
        # TAESD's own numbering counts the clamp in front of the decoder as layer 0; diffusers' does not.
        state = {}
        for name, tensor in load_file(decoder_file).items():
            number, _, rest = name.partition(".")
            state[f"{int(number) - 1}.{rest}"] = tensor
        vae.decoder.layers.load_state_dict(state)
    return vae.eval()


def clip_model(spec: FeatureSpec) -> nn.Module:
    """The whole open_clip model, in eval mode."""
    import open_clip

    folder = _clip_folder(spec)
    if folder:
        with reading(folder, "an open_clip model"):
            return open_clip.create_model(f"local-dir:{folder}", require_pretrained=True).eval()
    path, settings = _clip_weights(spec)
    with reading(path, f"open_clip {spec.name} weights"):
        return open_clip.create_model(spec.name, pretrained=str(path), require_pretrained=True, **settings).eval()


def clip_tokenizer(spec: FeatureSpec) -> Callable[[list[str]], torch.Tensor]:
    """Lines of text -> token ids (N, length), as the model of that name reads them."""
    import open_clip
    from transformers import AutoTokenizer

    folder = _clip_folder(spec)
    if not folder:
        return open_clip.get_tokenizer(spec.name)
    with reading(folder / CLIP_CONFIG, "an open_clip model with a text side"):
        text = json.loads((folder / CLIP_CONFIG).read_text())["model_cfg"]["text_cfg"]
        length = text["context_length"]
        if "hf_tokenizer_name" not in text:
            return open_clip.SimpleTokenizer(context_length=length)
        words = AutoTokenizer.from_pretrained((folder / text["hf_tokenizer_name"]).resolve(), local_files_only=True)
    told: dict[str, Any] = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
    return lambda lines: words(lines, **told).input_ids


def openclip(spec: FeatureSpec) -> Tower:
    from open_clip.model import get_model_preprocess_cfg

    model: Any = clip_model(spec)
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

    recipe = f"{tuple(size)} {interpolation} {how} {fill} mean {mean.flatten().tolist()} std {std.flatten().tolist()}"
    layers = _clip_layers(visual)
    if spec.layer is not None and spec.layer not in layers:
        raise HvfError(f"{spec}: no layer {spec.layer!r}; there is {', '.join(layers)}")
    prefix = getattr(getattr(visual, "trunk", None), "num_prefix_tokens", 1)
    return Tower(visual, prepare, project, visual.state_dict(), recipe, prefix, layers)


def _clip_layers(visual: Any) -> dict[str, nn.Module]:
    """Layers by the names they go by in a spec: block numbers from 0 for transformers, layer1 … layer4 for ResNets."""
    trunk = getattr(visual, "trunk", visual)
    blocks = trunk.transformer.resblocks if hasattr(trunk, "transformer") else getattr(trunk, "blocks", None)
    if blocks is not None:
        return {str(number): block for number, block in enumerate(blocks)}
    stages = {name: module for name, module in trunk.named_children() if name.startswith("layer")}
    return stages or {str(number): stage for number, stage in enumerate(getattr(trunk, "stages", ()))}


def _clip_folder(spec: FeatureSpec) -> Path | None:
    if spec.name.startswith("mini-") and spec.weights is None:
        known = ("mini-resnet", "mini-vit")
        if spec.name not in known:
            raise HvfError(f"{spec}: no such model{did_you_mean(spec.name, known)}")
        return _packaged(spec, f"clip-{spec.name[5:]}", (CLIP_CONFIG, CLIP_FILES[0]))
    if not spec.name.startswith(("/", ".", "~")):
        return None
    folder = Path(spec.name).expanduser()
    if not (folder / CLIP_CONFIG).is_file():
        raise HvfError(f"{spec}: {folder / CLIP_CONFIG} is missing; an open_clip folder has it and {CLIP_FILES[0]}")
    if not any((folder / file).is_file() for file in CLIP_FILES):
        raise HvfError(f"{spec}: {folder / CLIP_FILES[0]} is missing")
    return folder


def _clip_weights(spec: FeatureSpec) -> tuple[Path, dict[str, Any]]:
    """The weights file of an open_clip name, and what its pretrained tag says of activation and preprocessing."""
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
        return path, {}
    preprocess = {key: tag[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in tag}
    settings = {"force_quick_gelu": bool(tag.get("quick_gelu")), "force_preprocess_cfg": preprocess}
    repository, file = os.path.split(tag.get("hf_hub") or "")
    if not repository:
        hint = f"curl -LO {tag.get('url')}, then write openclip:{spec.name}/FILE"
        raise HvfError(f"{spec}: these weights are not on the Hub; fetch them with: {hint}")
    return cached_from_hub(spec, repository, (file or CLIP_FILES[0],))[0], settings


def torchvision(spec: FeatureSpec) -> Tower:
    import torchvision

    known = torchvision.models.list_models(torchvision.models)
    if spec.name not in known:
        raise HvfError(f"{spec}: torchvision knows no {spec.name!r}{nearest(spec.name, known)}")
    weights: Any = torchvision.models.get_model_weights(spec.name)
    published = weights.DEFAULT
    path = Path(spec.weights).expanduser() if spec.weights else None
    if path is None or not path.is_file():
        problem = f"{path} is missing" if path else "name the weights file after a slash"
        raise HvfError(f"{spec}: {problem}; fetch one with: curl -LO {published.url}")
    caffe = path.suffix == ".npz"
    if caffe and spec.name != "squeezenet1_0":
        raise HvfError(f"{path}: .npz is for the Caffe conversion of squeezenet1_0 alone, not for {spec.name}")
    network = torchvision.models.get_model(spec.name, weights=None)
    with reading(path, f"torchvision {spec.name} weights"):
        network.load_state_dict(read_state(path))
    final = next((name for name, _ in network.named_children() if name in _LAST_MAPS), None)
    layers = {name: module for name, module in network.named_modules() if name}
    if (spec.layer or final) not in layers:
        raise HvfError(f"{spec}: no layer {spec.layer!r}{nearest(spec.layer or '', list(layers))}")
    prepare = _caffe if caffe else published.transforms()
    recipe = f"caffe {CAFFE_SIZE} {CAFFE_MEAN_BGR}" if caffe else repr(prepare)
    swin = spec.name.startswith("swin")
    return Tower(network, prepare, network, network.state_dict(), recipe, 1, layers, final, channels_last=swin)


_LAST_MAPS = ("features", "layer4", "encoder")  # the last map or tokens before the head, in torchvision's families


def _caffe(images_N3HW: torch.Tensor) -> torch.Tensor:
    """BGR on 0..255 minus the training set's mean, not scaled: how networks converted from Caffe see an image."""
    frame = resized(images_N3HW, (CAFFE_SIZE, CAFFE_SIZE)) * 255
    return frame.flip(1) - torch.tensor(CAFFE_MEAN_BGR, device=frame.device).view(1, 3, 1, 1)


def _packaged(spec: FeatureSpec, folder: str, files: tuple[str, ...]) -> Path:
    for file in files:
        path = MINI_WEIGHTS / folder / file
        if not path.is_file():
            remedy = "install hvf again, or make the weights with: python prior_training/train_mini.py"
            raise HvfError(f"{spec}: {path} is missing from the package; {remedy}")
    return MINI_WEIGHTS / folder
