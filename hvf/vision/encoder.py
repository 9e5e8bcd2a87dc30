"""What every frozen encoder shares: resizing, running without gradients, pooling, and a hash of what it computes."""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from hvf.config import HvfError, did_you_mean
from hvf.vision.specs import FeatureSpec


@dataclass(frozen=True)
class Tower:
    """A loaded network, ready to become an encoder.

    ``prepare`` maps images (N, 3, H, W) in 0..1 to the network's input; ``run`` maps that to the last output: vectors
    (N, D), a map (N, D, H, W) or tokens (N, T, D), the first ``prefix`` of which are no patches. ``layers`` are those
    that a spec may name instead, ``final`` the one that stands for the last output where ``run`` would give classes;
    their maps are (N, H, W, D) where ``channels_last``. ``state`` holds the tensors that matter and ``recipe`` the
    preprocessing in words: both go into the hash.
    """

    network: nn.Module
    prepare: Callable[[torch.Tensor], torch.Tensor]
    run: Callable[[torch.Tensor], torch.Tensor]
    state: Mapping[str, torch.Tensor]
    recipe: str
    prefix: int = 0
    layers: Mapping[str, nn.Module] = field(default_factory=dict)
    final: str | None = None
    channels_last: bool = False


class FrozenEncoder:
    """An Encoder (see ``hvf.vision.specs``): a tower, read out as its spec says, on one device."""

    def __init__(self, spec: FeatureSpec, tower: Tower, device: str | torch.device = "cpu") -> None:
        self.spec, self.device, self._tower = spec, torch.device(device), tower
        tower.network.requires_grad_(False).eval().to(self.device)
        self.weights_hash = _hash(tower.state, tower.recipe)
        self.dim = self(torch.zeros(1, 3, 64, 64)).shape[1]

    def __call__(self, images_N3HW: torch.Tensor) -> torch.Tensor:
        """Features (N, D) float32 of RGB images (N, 3, H, W), floats in 0..1. Raises HvfError for other shapes."""
        return self.together(images_N3HW, (self.spec,))[0]

    def together(self, images_N3HW: torch.Tensor, specs: Sequence[FeatureSpec]) -> list[torch.Tensor]:
        """Features (N, D) for each of several specs that differ in layer and pool alone, in one pass of the network."""
        if images_N3HW.ndim != 4 or images_N3HW.shape[1] != 3 or not images_N3HW.is_floating_point():
            shape = tuple(images_N3HW.shape)
            raise HvfError(f"{self.spec}: images must be floats (N, 3, H, W) in 0..1, not {images_N3HW.dtype} {shape}")
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        tower = self._tower
        named = {spec: (spec.layer or tower.final) if tower.layers else None for spec in specs}
        for spec, layer in named.items():
            if layer is not None and layer not in tower.layers:
                raise HvfError(f"{spec}: no layer {layer!r}{nearest(layer, [name for name in tower.layers if name])}")
        with torch.no_grad(), exact:
            x = tower.prepare(images_N3HW.to(self.device, torch.float32))
            heard = listen(tower.network, {name: tower.layers[name] for name in named.values() if name}, x)
            outs = [tower.run(x) if name is None else heard[name] for name in named.values()]
            turned = [x.permute(0, 3, 1, 2) if tower.channels_last and x.ndim == 4 else x for x in outs]
            return [pooled(x, spec, tower.prefix).float() for x, spec in zip(turned, specs, strict=True)]


def pooled(out: torch.Tensor, spec: FeatureSpec, prefix: int = 0) -> torch.Tensor:
    """Pool what a network gives to vectors (N, D).

    ``out``: vectors (N, D), left as they are; a map (N, D, H, W), pooled by ``mean`` unless told; tokens (N, T, D), the
    first ``prefix`` of which are no patches, pooled by ``cls`` if there is such a token. Raises HvfError where a pool
    does not fit.
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
    """Resize images (N, 3, H, W) in 0..1 to (N, 3, *size), antialiased, staying in 0..1.

    ``how``: ``shortest`` covers the frame and crops the centre, ``longest`` fits inside it and pads with ``fill``,
    ``squash`` ignores the aspect ratio (open_clip's three resize modes).
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


def listen(network: nn.Module, layers: Mapping[str, nn.Module], x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Run a network until all of some layers have spoken; returns their outputs by name."""
    heard: dict[str, torch.Tensor] = {}

    def hearing(name: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            heard[name] = output[0] if isinstance(output, tuple) else output
            if len(heard) == len(layers):
                raise _Heard  # what comes after would be computed for nothing

        return keep

    hooks = [layer.register_forward_hook(hearing(name)) for name, layer in layers.items()]
    try:
        with suppress(_Heard):
            if layers:
                network(x)
    finally:
        for hook in hooks:
            hook.remove()
    for name in layers:
        if name not in heard:
            raise HvfError(f"the layer {name} takes no part in this network's features; name another")
    return heard


class _Heard(Exception):
    """Ends a forward pass."""


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """A state dict from .npz, .safetensors or a torch checkpoint; nothing in the file is executed."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def nearest(word: str, known: list[str]) -> str:
    """`did_you_mean`, for long lists."""
    # Model libraries know hundreds of names: where none is close, offer a few, not all.
    return did_you_mean(word, difflib.get_close_matches(word, known, n=5, cutoff=0.0))


@contextmanager
def reading(path: object, what: str) -> Iterator[None]:
    """Turn any failure to read a weights file into one line: which file, what it should have held, what went wrong."""
    try:
        yield
    except HvfError:
        raise
    except Exception as error:  # corrupt files raise whatever the parser at hand likes to raise
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason if len(reason) <= 240 else reason[:240] + " ..."
        raise HvfError(f"{path} does not hold {what}: {reason}") from error


def cached_from_hub(spec: object, repository: str, files: tuple[str, ...], subfolder: str = "") -> list[Path]:
    """Paths of a Hub repository's files in the local Hugging Face cache, all of them.

    Raises HvfError naming the first absent file, the repository and the command that fetches what is needed.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    paths = []
    names = [f"{subfolder}/{file}" if subfolder else file for file in files]
    for name in names:
        try:
            path = try_to_load_from_cache(repository, name)
        except HFValidationError:
            raise HvfError(f"{spec}: {repository!r} is neither an existing path nor a Hub id") from None
        if not isinstance(path, str):
            fetch = f"hf download {repository} {' '.join(names)}"
            raise HvfError(f"{spec}: {name} of {repository} is not on this machine; fetch it with: {fetch}")
        paths.append(Path(path))
    return paths


def _hash(state: Mapping[str, torch.Tensor], recipe: str) -> str:
    digest = hashlib.sha256(recipe.encode())
    for name, tensor in sorted(state.items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {flat.dtype} {tuple(tensor.shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
