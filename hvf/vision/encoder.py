"""Frozen encoders: images are resized, run through a network without gradients, and one layer is pooled to vectors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from hvf.files.remembered import Remembered
from hvf.registry import BACKBONES, HvfError
from hvf.vision.filling import HALF
from hvf.vision.precision import compute_in_float32, input_type, place
from hvf.vision.specs import FeatureSpec
from hvf.vision.weights import nearest

PART = 2**22  # numbers of a tensor that are hashed at once


@dataclass(frozen=True)
class Tower:
    """A loaded network with its preprocessing and its named layers."""

    network: nn.Module
    prepare: Callable[[torch.Tensor], torch.Tensor]  # images (N, 3, H, W) in 0..1 -> the network's input
    run: Callable[[torch.Tensor], torch.Tensor]  # that -> vectors (N, D), a map (N, D, H, W) or tokens (N, T, D)
    state: Mapping[str, torch.Tensor]  # the tensors that the features depend on; they are hashed
    preprocessing: str  # in words; hashed too
    prefix: int = 0  # how many of the first tokens are no patches
    layers: Mapping[str, nn.Module] = field(default_factory=dict)  # by the name that a spec gives them
    final: str | None = None  # the layer that stands for the last output where `run` would give classes
    channels_last: bool = False  # whether maps of layers are (N, H, W, D)
    files: tuple[Path, ...] = ()  # that the network was read from


class FrozenEncoder:
    """An `Encoder`: one layer of a network, pooled as its spec says, on one device."""

    def __init__(self, spec: FeatureSpec, tower: Tower, device: str | torch.device = "cpu") -> None:
        self.spec, self.device = spec, torch.device(device)
        tower.network.requires_grad_(False).eval()
        self._tower, self._placed = replace(tower, state={}), False
        network = BACKBONES[spec.kind].network(spec)
        known = Remembered(tower.files, f"{network} {tower.preprocessing}")
        self.weights_hash = known.get("hash") or weights_hash(tower.state, tower.preprocessing)
        self.dim = known.get(str(spec)) or self._width()
        known.put({"hash": self.weights_hash, str(spec): self.dim})

    def __call__(self, images_N3HW: torch.Tensor) -> torch.Tensor:
        """Features (N, D) float32 of RGB images (N, 3, H, W), floats in 0..1. Raises HvfError for other shapes."""
        return self.encode_layers(images_N3HW, (self.spec,))[0]

    def encode_layers(self, images_N3HW: torch.Tensor, specs: Sequence[FeatureSpec]) -> list[torch.Tensor]:
        """Features (N, D) for each of several specs that differ in layer and pool alone, in one pass of the network."""
        if images_N3HW.ndim != 4 or images_N3HW.shape[1] != 3 or not images_N3HW.is_floating_point():
            shape = tuple(images_N3HW.shape)
            raise HvfError(f"{self.spec}: images must be floats (N, 3, H, W) in 0..1, not {images_N3HW.dtype} {shape}")
        self._place()
        with torch.no_grad(), exact_convolutions():
            return self._features(self._tower.prepare(images_N3HW.to(self.device, torch.float32)), specs)

    def encode_mixed(self, images: Sequence[torch.Tensor], precision: str = "float32") -> torch.Tensor:
        """Features (N, D) float32 of N images, uint8 (3, H, W), of any sizes: each is resized alone, all run together.

        ``precision`` "bfloat16" runs the network, not the resizing, under autocast: several times faster on a GPU, and
        the features are a little off.
        """
        self._place()
        with torch.no_grad(), exact_convolutions():
            x = torch.cat([self._tower.prepare(image[None].to(self.device).float() / 255) for image in images])
            with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                return self._features(x, (self.spec,))[0]

    def _width(self) -> int:
        """How many features it gives, from a black image."""
        try:
            return self(torch.zeros(1, 3, 64, 64)).shape[1]
        except (RuntimeError, ValueError, AssertionError) as error:
            if self.spec.size is None:
                raise
            reason = " ".join(str(error).split())[:240]
            raise HvfError(f"{self.spec}: this network cannot run at {self.spec.size} px: {reason}") from error

    def _place(self) -> None:
        """Move the network to the device when it is first used: whoever has its features already never reads it."""
        if not self._placed:
            place(self._tower.network, self.device)
            self._placed = True

    def _features(self, x: torch.Tensor, specs: Sequence[FeatureSpec]) -> list[torch.Tensor]:
        """Features (N, D) float32 of the network's input, for each spec."""
        tower, kind = self._tower, input_type(self._tower.network)
        features = self._outputs(x.to(kind), specs)
        if kind is torch.float16 and not all(bool(one.isfinite().all()) for one in features):
            compute_in_float32(tower.network)  # what overflows in float16 does not there
            features = self._outputs(x, specs)
        return features

    def _outputs(self, x: torch.Tensor, specs: Sequence[FeatureSpec]) -> list[torch.Tensor]:
        tower = self._tower
        named = {spec: (spec.layer or tower.final) if tower.layers else None for spec in specs}
        for spec, layer in named.items():
            if layer is not None and layer not in tower.layers:
                raise HvfError(f"{spec}: no layer {layer!r}{nearest(layer, [name for name in tower.layers if name])}")
        layers = {name: tower.layers[name] for name in named.values() if name}
        outputs = capture_layers(tower.network, layers, x)
        outs = [tower.run(x) if name is None else outputs[name] for name in named.values()]
        if input_type(tower.network) in HALF:
            outs = [out.float() for out in outs]  # means over positions are not rounded again
        maps = [x.permute(0, 3, 1, 2) if tower.channels_last and x.ndim == 4 else x for x in outs]
        return [pooled(x, spec, tower.prefix).float() for x, spec in zip(maps, specs, strict=True)]


def exact_convolutions() -> AbstractContextManager[None]:
    """Convolutions on a GPU in whole float32, the same each time."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def pooled(out: torch.Tensor, spec: FeatureSpec, prefix: int = 0) -> torch.Tensor:
    """A network's output pooled to vectors (N, D) as the spec says; the first ``prefix`` tokens are no patches.

    ``out`` holds vectors (N, D), left as they are; a map (N, D, H, W), pooled by ``mean`` by default; or tokens
    (N, T, D), pooled by ``cls`` by default if there is a class token. Raises HvfError for a pool that does not fit.
    """
    pool = spec.pool
    if pool == "attn" and out.ndim > 2:
        raise HvfError(f"{spec}: this layer has no attention pooling of its own; use cls, mean, flat or gridK")
    if out.ndim == 2:
        if pool not in (None, "flat", "attn"):
            raise HvfError(f"{spec}: this layer gives vectors, which {pool!r} cannot pool; leave the pool out")
        return out
    if out.ndim == 3:
        if prefix and pool in (None, "cls"):
            return out[:, 0]
        patches_NDT = out[:, prefix:].transpose(1, 2)
        side = math.isqrt(patches_NDT.shape[2])
        if side * side == patches_NDT.shape[2]:
            out = patches_NDT.unflatten(2, (side, side))
        elif spec.grid:
            raise HvfError(f"{spec}: {patches_NDT.shape[2]} patch tokens make no square for {pool!r}")
        else:
            out = patches_NDT[..., None]
    if pool == "cls":
        raise HvfError(f"{spec}: this layer has no class token; use mean, flat or gridK")
    if pool in (None, "mean"):
        return out.mean(dim=(2, 3))
    if spec.grid:
        if spec.grid > min(out.shape[2:]):
            raise HvfError(f"{spec}: the map is {out.shape[2]} x {out.shape[3]}, too small for {pool!r}")
        out = functional.adaptive_avg_pool2d(out, spec.grid)
    return out.flatten(1)


def resized(
    images_N3HW: torch.Tensor,
    size: tuple[int, int],
    how: str = "shortest",
    interpolation: str = "bicubic",
    fill: float = 0.0,
) -> torch.Tensor:
    """Images resized to a frame, antialiased, values kept in 0..1.

    Parameters
    ----------
    images_N3HW : torch.Tensor
        (N, 3, H, W) in 0..1.
    size : (int, int)
        Height and width of the frame, pixels.
    how : {"shortest", "longest", "squash"}
        Cover the frame and crop the centre; fit inside it and pad; or ignore the aspect ratio (open_clip's modes).
    interpolation : {"bicubic", "bilinear"}
        Of the resizing.
    fill : float
        Value of the padding.
    """
    height, width = images_N3HW.shape[2:]
    if how == "squash":
        new = size
    else:
        scale = (max if how == "shortest" else min)(size[0] / height, size[1] / width)
        new = (max(1, round(height * scale)), max(1, round(width * scale)))
    if new != (height, width):
        images_N3HW = functional.interpolate(images_N3HW, new, mode=interpolation, antialias=True).clamp(0, 1)
    # Negative padding crops: one expression for the centre crop and for the centred frame.
    top, left = (size[0] - new[0]) // 2, (size[1] - new[1]) // 2
    edges = (left, size[1] - new[1] - left, top, size[0] - new[0] - top)
    return functional.pad(images_N3HW, edges, value=fill) if any(edges) else images_N3HW


def capture_layers(network: nn.Module, layers: Mapping[str, nn.Module], x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs of some layers by name, from one forward pass that ends at the last of them.

    Raises HvfError for a layer that the forward pass does not reach.
    """
    outputs: dict[str, torch.Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs[name] = output[0] if isinstance(output, tuple) else output
            if len(outputs) == len(layers):
                raise _AllCaptured  # the rest of the forward pass is not needed

        return keep

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        with suppress(_AllCaptured):
            if layers:
                network(x)
    finally:
        for handle in handles:
            handle.remove()
    for name in layers:
        if name not in outputs:
            raise HvfError(f"the layer {name} takes no part in this network's features; name another")
    return outputs


class _AllCaptured(Exception):
    """Ends a forward pass early."""


def weights_hash(state: Mapping[str, torch.Tensor], preprocessing: str) -> str:
    """16 hex digits of a network's tensors and of its preprocessing in words."""
    digest = hashlib.sha256(preprocessing.encode())
    for name, tensor in sorted(state.items()):
        kind = torch.float32 if tensor.dtype in HALF else tensor.dtype  # the values, however they are stored
        digest.update(f"{name} {kind} {tuple(tensor.shape)}".encode())
        for part in tensor.detach().reshape(-1).split(PART):
            digest.update(part.cpu().to(kind).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
