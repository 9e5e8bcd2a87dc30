"""Feature specs: one line of text that names a frozen encoder, its weights, a layer and a pooling.

Grammar: ``KIND:NAME[/WEIGHTS][@LAYER][@SIZEpx][:POOL][~VIEW]``

A KIND is a family of backbones, a file of its name in `hvf.vision.backbones`, which tells the specs it takes. Examples:

==========================================  ========================================================================
``openclip:mini-vit``, ``…:mini-resnet``    the two CLIPs that ship with hvf; image projection, not normalised
``openclip:ViT-H-14/laion2b_s32b_b79k``     an open_clip name and one of its pretrained tags
``openclip:ViT-B-32/FILE@11:mean``          a local weights file; output of transformer block 11 (from 0), its mean
``vae:mini``, ``vae:sdxl@512``              scaled latents, flattened as (channel, row, column), at 64 and 512 px
``timm:vit_base_patch14_dinov2.lvd142m``    a timm name and tag (DINOv2, EVA-02, SynCLR, …)
``timm:…@5@168px:grid4``                    images of 168 by 168 pixels instead of the network's own size
``transformers:ORG/REPO@27:mean``           a vision model that transformers knows
``torchvision:…``, ``glocal:…``             classification networks; human-aligned CLIP
``dreamsim:synclr_vitb16``                  DreamSim's human-aligned encoders
``features:clip.npz#image``                 features that another program computed, matched by the images' names
``…~fovea51``, ``…~blur9``                  any of these, of images blurred: at the edge (UBP), or everywhere
``…~blur15+noise25+coarse22+mosaic44``      the mean of an image's features under several views (NeuroBridge)
==========================================  ========================================================================

SIZE: the side of the square that the network sees, where its family can choose (positions are interpolated, bicubic):
a multiple of its patch. A ``vae`` has no layers, and so no need of ``px``: ``@112``.
A NAME that starts with ``/``, ``./``, ``../`` or ``~`` is a path. ``@`` and ``:`` separate only after the last ``/``:
folders may carry them, file names may not. POOL: ``cls`` the class token; ``mean`` over positions, class token left
out; ``flat`` every position, as (channel, row, column); ``gridK`` adaptive average pooling to K by K, then ``flat``;
``attn`` the model's own attention pooling of its last layer, where it has one, and so the default there.
Behind ``features:`` the whole text is a path and, behind its ``#``, a key: there is no layer, pool or view.
VIEW: ``foveaK``, ``blurK``: Gaussian kernels of K pixels (odd) in an image of 224, as UBP has them (51 unless it is
sure or unsure); ``noiseK``: Gaussian noise of K of 255 levels; ``coarseK``, ``mosaicK``: K pixels a side, smooth or in
squares.

Parsing imports neither torch nor a model library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from hvf.registry import BACKBONES, HvfError, did_you_mean

if TYPE_CHECKING:
    import torch

    from hvf.config import TargetConfig

POOLS = ("cls", "mean", "flat", "attn", "gridK")
VIEW = r"((fovea|blur)\d*[13579]|(noise|coarse|mosaic)[1-9]\d*)"


@dataclass(frozen=True)
class FeatureSpec:
    """A parsed feature spec; ``str(spec)`` is its canonical text, which parses to the same spec."""

    kind: str  # a family in `hvf.registry.BACKBONES`
    name: str  # of the model: a library's name, a path or a Hub id
    weights: str | None = None  # pretrained tag or file
    layer: str | None = None  # block number, stage or submodule
    pool: str | None = None  # how a map or tokens become a vector
    view: str | None = None  # how images are blurred or coarsened first
    size: int | None = None  # side of the network's input in pixels; None: its own

    def __str__(self) -> str:
        weights = f"/{self.weights}" if self.weights else ""
        layer = f"@{self.layer}" if self.layer else ""
        if self.size:
            layer += f"@{self.size}" + ("px" if BACKBONES[self.kind].has_layers else "")
        pool = f":{self.pool}" if self.pool else ""
        view = f"~{self.view}" if self.view else ""
        return f"{self.kind}:{self.name}{weights}{layer}{pool}{view}"

    @property
    def grid(self) -> int | None:
        """K of a ``gridK`` pool, otherwise None."""
        return int(self.pool[4:]) if self.pool and self.pool.startswith("grid") else None


class Encoder(Protocol):
    """A frozen model as a function of images, deterministic, with its own resizing and scaling inside.

    ``dim`` is D; ``weights_hash`` changes whenever the features would: with weights, preprocessing or pooling.
    """

    dim: int
    device: torch.device
    weights_hash: str

    def __call__(self, images_N3HW: torch.Tensor) -> torch.Tensor:
        """Features (N, D) float32 of RGB images (N, 3, H, W), floats in 0..1."""
        ...

    def encode_layers(self, images_N3HW: torch.Tensor, specs: Sequence[FeatureSpec]) -> list[torch.Tensor]:
        """Features (N, D) of several specs that differ in layer and pool alone, in one pass."""
        ...

    def encode_mixed(self, images: Sequence[torch.Tensor], precision: str = "float32") -> torch.Tensor:
        """Features (N, D) of N images, uint8 (3, H, W), of any sizes; ``precision`` may be "bfloat16"."""
        ...


def parse_spec(text: str | FeatureSpec) -> FeatureSpec:
    """Read a feature spec (grammar: module docstring); a FeatureSpec is returned as it is.

    Raises HvfError for an unknown kind or pool, a missing name, or a layer or pool that the kind cannot have.
    """
    if isinstance(text, FeatureSpec):
        return text
    kind, colon, rest = text.strip().partition(":")
    if kind not in BACKBONES:
        raise HvfError(f"feature spec {text!r}: unknown kind {kind!r}{did_you_mean(kind, BACKBONES)}")
    family = BACKBONES[kind]
    if rest and not family.has_network:
        return _checked(FeatureSpec(kind, rest), text)
    head, slash, tail = rest.rpartition("/")
    tail, has_view, view = tail.partition("~") if slash or not tail.startswith("~") else (tail, "", "")
    tail, has_pool, pool = tail.partition(":")
    tail, *marks = tail.split("@")
    name, weights = family.name_and_weights(head + slash + tail)
    if not colon or not name:
        raise HvfError(f"feature spec {text!r}: no model is named; write {kind}:NAME[/WEIGHTS][@LAYER][:POOL]")
    parts = [*(("@", "@", mark) for mark in marks), (":", has_pool, pool), ("~", has_view, view)]
    for mark, has, value in parts:
        if has and not value:
            raise HvfError(f"feature spec {text!r}: nothing follows {mark!r}")
    sizes = [one for one in marks if re.fullmatch(r"\d+px" if family.has_layers else r"\d+(px)?", one)]
    layers = [one for one in marks if one not in sizes]
    if len(sizes) > 1 or len(layers) > 1:
        raise HvfError(f"feature spec {text!r}: after '@' stand one layer and one size, as @LAYER@168px")
    size = int(sizes[0].removesuffix("px")) if sizes else None
    spec = FeatureSpec(kind, name, weights, layers[0] if layers else None, pool or None, view or None, size)
    return _checked(spec, text)


def _checked(spec: FeatureSpec, text: str) -> FeatureSpec:
    try:
        _check_pool_and_view(spec)
        if spec.size is not None and not (BACKBONES[spec.kind].has_sizes and spec.size):
            reason = "is not a size" if BACKBONES[spec.kind].has_sizes else f"{spec.kind} has no size to choose"
            raise HvfError(f"{spec.size} px: {reason}; leave it out")
        return BACKBONES[spec.kind].check(spec)
    except HvfError as error:
        raise HvfError(f"feature spec {text!r}: {error}") from None


def short_name(text: str) -> str:
    """A feature spec for a table: without the folders of its files, and of local weights without the file.

    >>> short_name("torchvision:squeezenet1_0//data/weights.npz@8:grid4"), short_name("openclip:RN50/openai")
    ('squeezenet1_0@8:grid4', 'openclip:RN50/openai')
    """
    head, slash, tail = text.rpartition("/")
    if "/" not in head and not head.endswith(":"):
        return text
    file = re.split(r"[@:~#]", tail)[0]
    how = tail[len(file) :]
    kind, _, rest = text.partition(":")
    name = "" if rest.startswith((".", "/", "~")) else rest.partition("/")[0]
    return (name or file.rpartition(".")[0] or file) + how


def short_names(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """({row of a table: what it is called there}, a footnote for each spec that lost its folders).

    A row may be several specs, joined by " + ". A short name is one spec's: a second one that had it stays as it is.

    >>> short_names(["ridge", "timm:vit_s//data/dino.safetensors@5 + vae:mini"])
    ({'ridge': 'ridge', 'timm:vit_s//data/dino.safetensors@5 + vae:mini': 'vit_s@5 + vae:mini'}, \
['vit_s@5 is timm:vit_s//data/dino.safetensors@5'])
    """
    whole: dict[str, str] = {}
    called = {}
    for name in names:
        parts = name.split(" + ")
        briefs = [brief if whole.setdefault(brief, spec) == spec else spec
                  for spec in parts for brief in [short_name(spec)]]  # fmt: skip
        called[name] = " + ".join(briefs)
    return called, [f"{brief} is {spec}" for brief, spec in whole.items() if brief != spec]


def versions(specs: Sequence[str], views: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """{spec: the same under each view}; a spec's own view gives way. Raises HvfError for an unknown view."""
    seen = {spec: [replace(parse_spec(spec), view=view) for view in views] for spec in specs}
    return {spec: tuple(str(_checked(one, str(one))) for one in under) for spec, under in seen.items()}


def parse_text(text: str) -> FeatureSpec:
    """The open_clip model of a text encoder, written text:NAME/WEIGHTS. Raises HvfError for anything else."""
    kind, _, name = text.partition(":")
    if kind != "text" or not name:
        raise HvfError(f"targets.text is {text!r}; a text encoder is written text:NAME/WEIGHTS, as in text:mini-vit")
    return parse_spec(f"openclip:{name}")


def check_targets(targets: TargetConfig) -> None:
    """Raise HvfError for an encoder, a view or a text encoder that is misspelt, or an encoder that is named twice.

    Weights are not looked for.
    """
    specs = [str(parse_spec(spec)) for spec in targets.specs]
    for spec in specs:
        if specs.count(spec) > 1:
            raise HvfError(f"targets.specs names {spec} twice")
    versions(targets.specs, targets.views)
    if targets.text is not None:
        parse_text(targets.text)


def _check_pool_and_view(spec: FeatureSpec) -> None:
    pool, view = spec.pool, spec.view
    if pool is not None and pool not in POOLS[:4] and not re.fullmatch(r"grid[1-9]\d*", pool):
        raise HvfError(f"unknown pool {pool!r}{did_you_mean(pool, POOLS)}")
    if view is not None and not re.fullmatch(rf"{VIEW}(\+{VIEW})*", view):
        raise HvfError(
            f"unknown view {view!r}; there is foveaK and blurK, K an odd number, noiseK, coarseK and mosaicK, and the "
            "mean of several, as in blur15+noise25"
        )
