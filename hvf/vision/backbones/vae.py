"""Latents of Stable Diffusion's variational autoencoders (AutoencoderKL) and their tiny distillations (TAESD)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvf.registry import BACKBONES, HvfError, did_you_mean
from hvf.vision.backbones.base import Backbone
from hvf.vision.weights import cached_from_hub, packaged, reading

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hvf.vision.encoder import Tower
    from hvf.vision.specs import FeatureSpec

VAE_SIZE = 128  # the official code of HVF encodes at 128 px, which makes 1024 latents of SDXL's VAE
VAE_HUB = {"sdxl": ("stabilityai/stable-diffusion-xl-base-1.0", "vae"), "taesdxl": ("madebyollin/taesdxl", "")}
VAE_FILES = ("config.json", "diffusion_pytorch_model.safetensors")


@BACKBONES.register("vae")
class VAE(Backbone):
    """Scaled latents, flattened as (channel, row, column); the mean of the posterior, not a sample.

    ``vae:mini``, ``vae:sdxl``, ``vae:taesdxl``  at 64, 128 and 128 px
    ``vae:FOLDER@112:grid4``, ``vae:ORG/REPO``   a local or a Hub VAE; after ``@`` the pixel size to encode at
    """

    has_layers, has_sizes = False, True

    @classmethod
    def name_and_weights(cls, text: str) -> tuple[str, str | None]:
        # A VAE has one identity, be it shorthand, path or Hub id (which has a slash of its own).
        return text.rstrip("/"), None

    @classmethod
    def check(cls, spec: FeatureSpec) -> FeatureSpec:
        if spec.layer is not None:
            raise HvfError(f"after '@' a vae takes its input size in pixels, not {spec.layer!r}")
        if spec.pool in ("cls", "attn"):
            raise HvfError("latents have no class token; use mean, flat or gridK")
        # Flat is what latents are by default: one text for one feature.
        return replace(spec, pool=None) if spec.pool == "flat" else spec

    @classmethod
    def network(cls, spec: FeatureSpec) -> FeatureSpec:
        return spec  # its output depends on the pool

    @classmethod
    def load(cls, spec: FeatureSpec) -> Tower:
        from hvf.vision.encoder import Tower, resized

        files = _files(spec)
        vae: Any = _read(files)
        pixels = spec.size or (64 if spec.name == "mini" else VAE_SIZE)

        def run(x: torch.Tensor) -> torch.Tensor:
            out = encoded(vae, x)
            return out if spec.pool else out.flatten(1)

        state = {name: t for name, t in vae.state_dict().items() if name.startswith(("encoder.", "quant_conv."))}
        scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0
        preprocessing = f"{type(vae).__name__} {pixels}px scale {scale} shift {shift}"
        if means := statistics(vae):
            preprocessing += f" means {means[0]} sds {means[1]}"
        return Tower(
            vae, lambda images: resized(images, (pixels, pixels)) * 2 - 1, run, state, preprocessing, files=files
        )


def encoded(vae: Any, x_N3HW: torch.Tensor) -> torch.Tensor:
    """Scaled latents (N, C, h, w) of pixels from -1 to 1: the mean of the posterior, which is the same every time."""
    of_vae = vae.encode(x_N3HW)
    latents_NChw = of_vae.latent_dist.mode() if hasattr(of_vae, "latent_dist") else of_vae.latents
    mean_C11, sd_C11 = _affine(vae, latents_NChw)
    return (latents_NChw - mean_C11) * vae.config.scaling_factor / sd_C11


def unscaled(vae: Any, latents_NChw: torch.Tensor) -> torch.Tensor:
    """Latents as the VAE's decoder takes them, of scaled ones."""
    mean_C11, sd_C11 = _affine(vae, latents_NChw)
    return latents_NChw * sd_C11 / vae.config.scaling_factor + mean_C11


def statistics(vae: Any) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of each channel of latents, where a VAE's config gives them (Playground's does)."""
    mean, sd = (vae.config.get(name) for name in ("latents_mean", "latents_std"))
    return None if mean is None or sd is None else (list(mean), list(sd))


def _affine(vae: Any, like_NChw: torch.Tensor) -> tuple[Any, Any]:
    """What is subtracted from latents, and what they are divided by, besides their scale."""
    if (means := statistics(vae)) is None:
        return vae.config.shift_factor or 0.0, 1.0
    mean_C11, sd_C11 = (like_NChw.new_tensor(values).view(-1, 1, 1) for values in means)
    return mean_C11, sd_C11


def load_vae(spec: FeatureSpec) -> nn.Module:
    """The diffusers ``AutoencoderKL`` or ``AutoencoderTiny`` that a ``vae`` spec names, float32, in eval mode.

    The NAME is ``mini``, ``sdxl``, ``taesdxl``, a diffusers folder (or a pipeline's, with ``vae/`` in it), a TAESD file
    ``*_encoder.safetensors`` or the folder of one (its ``*_decoder`` beside it is loaded too; without it ``decoder`` is
    None), or a Hub id. Raises HvfError.
    """
    return _read(_files(spec))


def _files(spec: FeatureSpec) -> tuple[Path, ...]:
    """What the VAE of a spec is read from: `VAE_FILES` of a diffusers folder, or TAESD's encoder and its decoder."""
    if spec.name == "mini":
        return _of_diffusers(packaged(spec, "sdxl/vae", VAE_FILES))
    if spec.name in VAE_HUB:
        repository, subfolder = VAE_HUB[spec.name]
        return _of_diffusers(cached_from_hub(spec, repository, VAE_FILES, subfolder)[0].parent)
    path = Path(spec.name).expanduser()
    if path.is_file():
        return _of_taesd(path)
    if not path.exists():
        if spec.name.count("/") != 1 or spec.name.startswith((".", "~", "/")):
            known = ("mini", *VAE_HUB)
            hint = did_you_mean(spec.name, known) if "/" not in spec.name else ""
            raise HvfError(f"{spec}: there is no file or folder {spec.name}{hint}")
        return _of_diffusers(cached_from_hub(spec, spec.name, VAE_FILES)[0].parent)
    folder = path / "vae" if (path / "vae" / VAE_FILES[0]).is_file() else path
    if (folder / VAE_FILES[0]).is_file():
        return _of_diffusers(folder)
    encoders = sorted(path.glob("*_encoder.safetensors"))
    if len(encoders) != 1:
        raise HvfError(f"{spec}: {path} holds neither a {VAE_FILES[0]} nor one *_encoder.safetensors")
    return _of_taesd(encoders[0])


def _of_diffusers(folder: Path) -> tuple[Path, ...]:
    weights = folder / VAE_FILES[1]
    if not weights.is_file():
        raise HvfError(f"{weights} is missing: {folder} holds a VAE's configuration and no weights")
    return folder / VAE_FILES[0], weights


def _of_taesd(encoder: Path) -> tuple[Path, ...]:
    decoder = encoder.with_name(encoder.name.replace("_encoder", "_decoder"))
    return (encoder, decoder) if decoder != encoder and decoder.is_file() else (encoder,)


def _read(files: Sequence[Path]) -> nn.Module:
    return _diffusers_vae(files[0].parent) if files[0].name == VAE_FILES[0] else _taesd(*files)


def _diffusers_vae(folder: Path) -> nn.Module:
    import torch
    from diffusers import AutoencoderKL, AutoencoderTiny

    weights = folder / VAE_FILES[1]
    with reading(weights, "a VAE (AutoencoderKL or AutoencoderTiny)"):
        config: Any = AutoencoderKL.load_config(str(folder))
        kinds = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderTiny)}
        name = config.get("_class_name")
        if name not in kinds:
            raise HvfError(f"{folder / VAE_FILES[0]} describes {name}, not AutoencoderKL or AutoencoderTiny")
        # Low-memory loading patches torch's modules globally: a model built in another thread would come out empty.
        options: dict[str, Any] = {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}
        loaded: Any = kinds[name].from_pretrained(str(folder), output_loading_info=True, **options)
        vae, info = loaded
        wrong = info["missing_keys"] + info["unexpected_keys"] + info["mismatched_keys"]
        if wrong:
            raise HvfError(f"{weights} does not fit its config.json: {wrong[0]} ({len(wrong)} such tensors)")
    return vae.eval()


def _taesd(encoder_file: Path, decoder_file: Path | None = None) -> nn.Module:
    from diffusers import AutoencoderTiny
    from safetensors.torch import load_file

    vae: Any = AutoencoderTiny()
    with reading(encoder_file, "a TAESD encoder"):
        vae.encoder.layers.load_state_dict(load_file(encoder_file))
    if decoder_file is None:
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
