"""Feature specs: one line of text that names a frozen encoder, its weights, a layer and a pooling.

Grammar: ``KIND:NAME[/WEIGHTS][@LAYER][:POOL][~VIEW]``

=============================================  =====================================================================
``openclip:mini-resnet``, ``…:mini-vit``       the two CLIPs that ship with hvf; image projection, not normalised
``openclip:ViT-H-14/laion2b_s32b_b79k``        an open_clip name and one of its pretrained tags
``openclip:ViT-B-32/FILE``                     an open_clip name and a local weights file (relative, or ``//absolute``)
``openclip:FOLDER``                            a folder with open_clip_config.json and open_clip_model.safetensors
``openclip:…@11:mean``                         output of transformer block 11 (from 0); ``cls`` (default), ``mean``, …
``openclip:…@layer3:grid2``                    output of ResNet stage layer1 … layer4; ``mean`` (default), …
``vae:mini``, ``vae:sdxl``, ``vae:taesdxl``    scaled latents, flattened as (channel, row, column), at 64, 128, 128 px
``vae:FOLDER@112:grid4``, ``vae:ORG/REPO``     a local or a Hub VAE, here encoding at 112 px (128 unless told)
``torchvision:squeezenet1_0/FILE.npz``         a torchvision name and a local weights file; last feature map, ``mean``
``torchvision:…/FILE@features.9:grid2``        any submodule by its name; a bare number N stands for features.N
``timm:vit_base_patch14_dinov2.lvd142m``       a timm name and tag, weights from the Hub (DINOv2, EVA-02, SynCLR, …)
``timm:vit_base_patch16_224/FILE@5:mean``      a timm name and a local file; output of block 5, or of a submodule
``transformers:ORG/REPO@27:mean``              a vision model that transformers knows, from the Hub or a folder
``dreamsim:synclr_vitb16``                     DreamSim's human-aligned encoders (package dreamsim): one vector
``glocal:ViT-L-14/FILE.npz``                   OpenAI's CLIP of that name, under gLocal's human-alignment transform
``…~fovea51``, ``…~blur9``                     any of these, of images blurred: at the edge (UBP), or everywhere
``…~blur15+noise25+coarse22+mosaic44``         the mean of an image's features under several views (NeuroBridge)
=============================================  =====================================================================

A NAME that starts with ``/``, ``./``, ``../`` or ``~`` is a path. ``@`` and ``:`` separate only after the last ``/``:
folders may carry them, file names may not. POOL: ``cls`` the class token; ``mean`` over positions, class token left
out; ``flat`` every position, as (channel, row, column); ``gridK`` adaptive average pooling to K by K, then ``flat``;
``attn`` the model's own attention pooling of its last layer, where it has one, and so the default there.
VIEW: ``foveaK``, ``blurK``: Gaussian kernels of K pixels (odd) in an image of 224, as UBP has them (51 unless it is
sure or unsure); ``noiseK``: Gaussian noise of K of 255 levels; ``coarseK``, ``mosaicK``: K pixels a side, smooth or in
squares.

Parsing imports neither torch nor a model library.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from hvf.config import HvfError, did_you_mean

if TYPE_CHECKING:
    import torch

KINDS = ("openclip", "vae", "torchvision", "timm", "transformers", "dreamsim", "glocal")
POOLS = ("cls", "mean", "flat", "attn", "gridK")
VIEW = r"((fovea|blur)\d*[13579]|(noise|coarse|mosaic)[1-9]\d*)"
_PATH = re.compile(r"(/|\./|\.\./|~)")


@dataclass(frozen=True)
class FeatureSpec:
    """A parsed feature spec; ``str(spec)`` is its canonical text, which parses to the same spec.

    Attributes: ``kind`` (one of KINDS); ``name`` of the model, a path or a Hub id; ``weights``: pretrained tag or file;
    ``layer``: block number, stage, submodule name or, for ``vae``, the pixel size to encode at; ``pool``; ``view``.
    """

    kind: str
    name: str
    weights: str | None = None
    layer: str | None = None
    pool: str | None = None
    view: str | None = None

    def __str__(self) -> str:
        weights = f"/{self.weights}" if self.weights else ""
        layer = f"@{self.layer}" if self.layer else ""
        pool = f":{self.pool}" if self.pool else ""
        view = f"~{self.view}" if self.view else ""
        return f"{self.kind}:{self.name}{weights}{layer}{pool}{view}"

    @property
    def grid(self) -> int | None:
        """K of a ``gridK`` pool, otherwise None."""
        return int(self.pool[4:]) if self.pool and self.pool.startswith("grid") else None


class Encoder(Protocol):
    """A frozen model as a function of images: deterministic, without gradients, its own resizing and scaling inside.

    ``dim`` is D; ``weights_hash`` changes whenever the features would: weights, preprocessing or readout.
    """

    dim: int
    weights_hash: str

    def __call__(self, images_N3HW: torch.Tensor) -> torch.Tensor:
        """Features (N, D) float32 of RGB images (N, 3, H, W), floats in 0..1."""
        ...

    def together(self, images_N3HW: torch.Tensor, specs: Sequence[FeatureSpec]) -> list[torch.Tensor]:
        """The same for several specs that differ in layer and pool alone, in one pass."""
        ...


def parse_spec(text: str | FeatureSpec) -> FeatureSpec:
    """Read a feature spec (grammar: module docstring); a FeatureSpec is returned as it is.

    Raises HvfError for an unknown kind or pool, a missing name, or a layer or pool that the kind cannot have.
    """
    if isinstance(text, FeatureSpec):
        return text
    kind, colon, rest = text.strip().partition(":")
    if kind not in KINDS:
        raise HvfError(f"feature spec {text!r}: unknown kind {kind!r}{did_you_mean(kind, KINDS)}")
    head, slash, tail = rest.rpartition("/")
    tail, has_view, view = tail.partition("~") if slash or not tail.startswith("~") else (tail, "", "")
    tail, has_pool, pool = tail.partition(":")
    tail, has_layer, layer = tail.partition("@")
    name, weights = _name_and_weights(kind, head + slash + tail)
    if not colon or not name:
        raise HvfError(f"feature spec {text!r}: no model is named; write {kind}:NAME[/WEIGHTS][@LAYER][:POOL]")
    for mark, has, said in (("@", has_layer, layer), (":", has_pool, pool), ("~", has_view, view)):
        if has and not said:
            raise HvfError(f"feature spec {text!r}: nothing follows {mark!r}")
    spec = FeatureSpec(kind, name, weights, layer or None, pool or None, view or None)
    return _checked(spec, text)


def versions(specs: Sequence[str], views: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """{spec: the same under each view}; a spec's own view gives way. Raises HvfError for an unknown view."""
    return {spec: tuple(str(parse_spec(str(replace(parse_spec(spec), view=view)))) for view in views) for spec in specs}


def _name_and_weights(kind: str, path: str) -> tuple[str, str | None]:
    # A VAE has one identity, be it shorthand, path or Hub id (which has a slash of its own).
    if kind in ("vae", "transformers") or _PATH.match(path):
        return path.rstrip("/"), None
    name, _, weights = path.partition("/")
    return name, weights or None


def _checked(spec: FeatureSpec, text: str) -> FeatureSpec:
    pool, layer = spec.pool, spec.layer
    if pool is not None and pool not in POOLS[:4] and not re.fullmatch(r"grid[1-9]\d*", pool):
        raise HvfError(f"feature spec {text!r}: unknown pool {pool!r}{did_you_mean(pool, POOLS)}")
    if spec.view is not None and not re.fullmatch(rf"{VIEW}(\+{VIEW})*", spec.view):
        raise HvfError(
            f"feature spec {text!r}: unknown view {spec.view!r}; there is foveaK and blurK, K an odd number, noiseK, "
            "coarseK and mosaicK, and the mean of several, as in blur15+noise25"
        )
    if spec.kind in ("dreamsim", "glocal") and (layer or pool):
        raise HvfError(f"feature spec {text!r}: {spec.kind} gives one vector; it has no layer and no pool to name")
    if spec.kind == "glocal" and not spec.weights:
        raise HvfError(f"feature spec {text!r}: name the transform's file, as glocal:{spec.name}/FILE.npz")
    if spec.kind == "vae":
        if layer is not None and not re.fullmatch(r"[1-9]\d*", layer):
            raise HvfError(f"feature spec {text!r}: after '@' a vae takes its input size in pixels, not {layer!r}")
        if pool in ("cls", "attn"):
            raise HvfError(f"feature spec {text!r}: latents have no class token; use mean, flat or gridK")
        pool = None if pool == "flat" else pool  # flat is what latents are by default: one text for one feature
    if spec.kind == "openclip" and layer is None and pool is not None:
        raise HvfError(f"feature spec {text!r}: the image projection cannot be pooled; name a layer, as @LAYER:{pool}")
    if spec.kind == "torchvision" and layer is not None and layer.isdigit():
        layer = f"features.{layer}"
    return FeatureSpec(spec.kind, spec.name, spec.weights, layer, pool, spec.view)
