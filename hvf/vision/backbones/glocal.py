"""gLocal: OpenAI's CLIP under a linear transform that aligns it with human similarity judgements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hvf.registry import BACKBONES, HvfError
from hvf.vision.backbones.base import Backbone
from hvf.vision.backbones.openclip import image_tower
from hvf.vision.specs import FeatureSpec, parse_spec
from hvf.vision.weights import read_state, reading

if TYPE_CHECKING:
    import torch

    from hvf.vision.encoder import Tower


@BACKBONES.register("glocal")
class Glocal(Backbone):
    """CLIP's image projection x, as (x - mean) / std · W (+ b). Source: LukasMut/gLocal, GlocalTransform.

    ``glocal:ViT-L-14/FILE.npz``  OpenAI's CLIP of that name, and the file of the transform
    """

    @classmethod
    def check(cls, spec: FeatureSpec) -> FeatureSpec:
        if spec.layer or spec.pool:
            raise HvfError("glocal gives one vector; it has no layer and no pool to name")
        if not spec.weights:
            raise HvfError(f"name the transform's file, as glocal:{spec.name}/FILE.npz")
        return spec

    @classmethod
    def load(cls, spec: FeatureSpec) -> Tower:
        import torch

        weights = "" if spec.name.startswith("mini-") else "/openai"
        clip = image_tower(parse_spec(f"openclip:{spec.name}{weights}"))
        path = Path(spec.weights or "").expanduser()
        if not path.is_file():
            raise HvfError(
                f"{spec}: there is no file {path}; gLocal's transforms are in the repository LukasMut/gLocal"
            )
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
        state = {**clip.state, **transform}
        return replace(
            clip, run=aligned, state=state, preprocessing=f"{clip.preprocessing} glocal", files=(*clip.files, path)
        )
