"""DreamSim: encoders tuned to human similarity judgements (Fu et al., 2023), by the package `dreamsim`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvf.registry import BACKBONES, HvfError, did_you_mean
from hvf.vision.backbones.base import Backbone
from hvf.vision.weights import reading

if TYPE_CHECKING:
    import torch

    from hvf.vision.encoder import Tower
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


@BACKBONES.register("dreamsim")
class DreamSim(Backbone):
    """The embedding, one vector; weights in the package's cache folder `models`, or in the folder named.

    ``dreamsim:synclr_vitb16``, ``dreamsim:ensemble/FOLDER``
    """

    @classmethod
    def check(cls, spec: FeatureSpec) -> FeatureSpec:
        if spec.layer or spec.pool:
            raise HvfError("dreamsim gives one vector; it has no layer and no pool to name")
        return spec

    @classmethod
    def load(cls, spec: FeatureSpec) -> Tower:
        from hvf.vision.encoder import Tower, resized

        if spec.name not in DREAMSIM:
            raise HvfError(f"{spec}: DreamSim has no {spec.name!r}{did_you_mean(spec.name, DREAMSIM)}")
        if find_spec("dreamsim") is None:
            raise HvfError(f"{spec}: the package dreamsim is not installed: pip install dreamsim")
        from dreamsim import dreamsim  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]  (optional)

        folder = Path(spec.weights or "models").expanduser()
        missing = [name for name in DREAMSIM[spec.name] if not (folder / name).exists()]
        if missing:
            call = f"dreamsim(dreamsim_type='{spec.name}', cache_dir='{folder}')"
            raise HvfError(
                f"{spec}: {folder / missing[0]} is missing; name the folder of DreamSim's weights after a slash, made "
                f'by: python -c "from dreamsim import dreamsim; {call}"'
            )
        with reading(folder, f"DreamSim {spec.name}"):
            model: Any = dreamsim(pretrained=True, device="cpu", cache_dir=str(folder), dreamsim_type=spec.name)[0]

        def embed(x: torch.Tensor) -> torch.Tensor:
            return model.embed(x).reshape(len(x), -1)  # the package squeezes a batch of one

        def prepare(images_N3HW: torch.Tensor) -> torch.Tensor:
            return resized(images_N3HW, (224, 224), "squash")

        return Tower(model, prepare, embed, model.state_dict(), "dreamsim 224 bicubic")
