"""What the families of timm and transformers share: preprocessing, and layers by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hvf.registry import HvfError
from hvf.vision.weights import nearest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hvf.vision.specs import FeatureSpec

EXACT = 1e-6  # pixels, by which a side that is a whole number may be off


def preprocessing(
    size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    whole: Sequence[int] | None = None,
    how: str = "shortest",
    half: Callable[[float], int] = round,
) -> tuple[Callable[[torch.Tensor], torch.Tensor], str]:
    """The preprocessing that model libraries share, as a function and in words.

    Parameters
    ----------
    size : (int, int)
        Height and width of the network's input, pixels.
    mean, std : sequence of float
        Of the three channels.
    interpolation : str
        "bilinear", or anything else for bicubic.
    whole : (int, int), optional
        The frame that images are resized to, of which the centre is cropped to `size`; by default `size` itself.
    how : {"shortest", "squash"}
        Cover the frame, or ignore the aspect ratio.
    half : callable
        What the library makes of half a pixel before the centre: `round`, or `int`.
    """
    import torch

    from hvf.vision.encoder import resized

    size = (int(size[0]), int(size[1]))
    whole = size if whole is None else (max(size[0], int(whole[0])), max(size[1], int(whole[1])))
    kernel = "bilinear" if interpolation == "bilinear" else "bicubic"
    mean_3, std_3 = torch.tensor(tuple(mean)).view(1, 3, 1, 1), torch.tensor(tuple(std)).view(1, 3, 1, 1)

    def prepare(images_N3HW: torch.Tensor) -> torch.Tensor:
        if how == "squash" or whole == size:
            frame = resized(images_N3HW, whole, how, kernel)
        else:  # as the libraries round: nothing is cropped before all is
            sides = images_N3HW.shape[2:]
            scale = max(a / b for a, b in zip(whole, sides, strict=True))
            new = [max(a, int(b * scale + EXACT)) for a, b in zip(whole, sides, strict=True)]
            frame = resized(images_N3HW, (new[0], new[1]), "squash", kernel)
        top, left = (half((a - b) / 2) for a, b in zip(frame.shape[2:], size, strict=True))
        frame = frame[..., top : top + size[0], left : left + size[1]]
        return (frame - mean_3.to(frame.device)) / std_3.to(frame.device)

    of = "of" if whole == size else "cut from"
    words = f"{size} {of} {whole} {kernel} mean {tuple(mean)} std {tuple(std)}"
    return prepare, words if how == "shortest" else f"{words} {how}"


def check_size(spec: FeatureSpec, patch: object) -> None:
    """Raise HvfError unless the size of a spec, if it has one, is a multiple of the network's patch (or its sides)."""
    sides = patch if isinstance(patch, (tuple, list)) else (patch,)
    for side in sides:
        if spec.size and isinstance(side, int) and spec.size % side:
            below = spec.size // side * side
            near = f"{below} or {below + side}" if below else str(side)
            raise HvfError(f"{spec}: {spec.size} px is no multiple of the network's patches of {side} px; {near} is")


def named_layers(spec: FeatureSpec, network: nn.Module) -> dict[str, nn.Module]:
    """Layers that a spec may name: blocks by their number from 0, in the longest list, and any submodule."""
    from hvf.vision.precision import blocks_of

    blocks = {str(number): block for number, block in enumerate(blocks_of(network))}
    layers = blocks | {name: module for name, module in network.named_modules() if name}
    if spec.layer is not None and spec.layer not in layers:
        hint = nearest(spec.layer, list(layers))
        raise HvfError(f"{spec}: no layer {spec.layer!r}; blocks go from 0 to {len(blocks) - 1}{hint}")
    return layers
