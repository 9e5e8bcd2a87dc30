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


def preprocessing(
    size: Sequence[int], mean: Sequence[float], std: Sequence[float], interpolation: str = "bicubic", crop: float = 1.0
) -> tuple[Callable[[torch.Tensor], torch.Tensor], str]:
    """The preprocessing that model libraries share, as a function and in words.

    Height and width of the network's input in pixels; mean and deviation of the three channels; "bilinear", or anything
    else for bicubic; the share of the resized frame that the centre crop keeps.
    """
    import torch

    from hvf.vision.encoder import resized

    size = (int(size[0]), int(size[1]))
    whole = (round(size[0] / crop), round(size[1] / crop))
    how = "bilinear" if interpolation == "bilinear" else "bicubic"
    mean_3, std_3 = torch.tensor(tuple(mean)).view(1, 3, 1, 1), torch.tensor(tuple(std)).view(1, 3, 1, 1)

    def prepare(images_N3HW: torch.Tensor) -> torch.Tensor:
        frame = resized(images_N3HW, whole, "shortest", how)
        top, left = (whole[0] - size[0]) // 2, (whole[1] - size[1]) // 2
        frame = frame[..., top : top + size[0], left : left + size[1]]
        return (frame - mean_3.to(frame.device)) / std_3.to(frame.device)

    return prepare, f"{size} of {whole} {how} mean {tuple(mean)} std {tuple(std)}"


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
