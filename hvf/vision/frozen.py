"""What every frozen encoder shares: resizing, running without gradients, pooling, and a hash of what it computes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from hvf.config import HvfError
from hvf.vision.features import FeatureSpec


@dataclass(frozen=True)
class Tower:
    """A loaded network, ready to become an encoder.

    ``prepare`` maps images (N, 3, H, W) in 0..1 to the network's input; ``run`` maps that to vectors (N, D), a map
    (N, D, H, W) or tokens (N, T, D), the first ``prefix`` of which are no patches. ``state`` holds the tensors that
    matter and ``recipe`` the preprocessing in words: both go into the hash.
    """

    network: nn.Module
    prepare: Callable[[torch.Tensor], torch.Tensor]
    run: Callable[[torch.Tensor], torch.Tensor]
    state: Mapping[str, torch.Tensor]
    recipe: str
    prefix: int = 0


class FrozenEncoder:
    """An Encoder (see ``hvf.vision.features``): a tower, read out as its spec says, on one device."""

    def __init__(self, spec: FeatureSpec, tower: Tower, device: str | torch.device = "cpu") -> None:
        self.spec, self.device, self._tower = spec, torch.device(device), tower
        tower.network.requires_grad_(False).eval().to(self.device)
        self.weights_hash = _hash(tower.state, tower.recipe)
        self.dim = self(torch.zeros(1, 3, 64, 64)).shape[1]

    def __call__(self, images_N3HW: torch.Tensor) -> torch.Tensor:
        """Features (N, D) float32 of RGB images (N, 3, H, W), floats in 0..1. Raises HvfError for other shapes."""
        if images_N3HW.ndim != 4 or images_N3HW.shape[1] != 3 or not images_N3HW.is_floating_point():
            shape = tuple(images_N3HW.shape)
            raise HvfError(f"{self.spec}: images must be floats (N, 3, H, W) in 0..1, not {images_N3HW.dtype} {shape}")
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.no_grad(), exact:
            out = self._tower.run(self._tower.prepare(images_N3HW.to(self.device, torch.float32)))
            return pooled(out, self.spec, self._tower.prefix).float()


def pooled(out: torch.Tensor, spec: FeatureSpec, prefix: int = 0) -> torch.Tensor:
    """Pool what a network gives to vectors (N, D).

    ``out``: vectors (N, D), left as they are; a map (N, D, H, W), pooled by ``mean`` unless told; tokens (N, T, D), the
    first ``prefix`` of which are no patches, pooled by ``cls`` if there is such a token. Raises HvfError where a pool
    does not fit.
    """
    pool = spec.pool
    if out.ndim == 2:
        if pool not in (None, "flat"):
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


def listen(network: nn.Module, layer: nn.Module, channels_last: bool = False) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that runs a network and returns the output of one of its layers instead of its own."""
    heard: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        heard[:] = [output[0] if isinstance(output, tuple) else output]

    layer.register_forward_hook(keep)

    def run(x: torch.Tensor) -> torch.Tensor:
        network(x)
        if not heard:
            raise HvfError(f"the layer {type(layer).__name__} takes no part in this network's features; name another")
        out = heard.pop()
        return out.permute(0, 3, 1, 2) if channels_last and out.ndim == 4 else out

    return run


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
