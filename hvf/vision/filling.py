"""Networks without values, filled with the tensors of a file as they are: no copy, in the file's own precision."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.module import register_module_parameter_registration_hook

from hvf.registry import HvfError

HALF = (torch.float16, torch.bfloat16)
# What libraries call the embeddings of positions, one for each token.
POSITIONS = ("pos_embed", "pos_embedding", "positional_embedding", "position_embedding", "position_embeddings")


@contextmanager
def without_values() -> Iterator[None]:
    """Parameters of modules that this thread builds have shapes alone (device "meta"); buffers have their values."""
    thread = threading.get_ident()

    def on_meta(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta or threading.get_ident() != thread:
            return None  # kept as it is
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=False)

    hook: Any = on_meta  # torch's own annotation leaves out that a hook may give another parameter
    handle = register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def half_type(tensors: Iterable[torch.Tensor]) -> torch.dtype | None:
    """float16 or bfloat16 if all floating-point tensors are of that type, otherwise None."""
    types = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    return types.pop() if len(types) == 1 and types <= set(HALF) else None


def fill(network: nn.Module, state: Mapping[str, torch.Tensor], what: str, others: bool = False) -> None:
    """Give a network the tensors of a file, uncopied: in half precision if all are, otherwise in float32.

    Parameters
    ----------
    network : nn.Module
        Built under `without_values`, or not.
    state : mapping
        {name: tensor}.
    what : str
        The file and what it should hold, as "FILE does not hold timm vit weights".
    others : bool
        Whether the file may hold tensors that the network has no place for, as those of a classifier.

    Raises
    ------
    HvfError
        Naming a tensor that is missing, superfluous, or of another shape.
    """
    own = network.state_dict()
    floating = half_type(x for name, x in state.items() if name in own) or torch.float32
    filled: dict[str, torch.Tensor] = {}
    for name, x in state.items():
        one = own.get(name, x)
        filled[name] = x.reshape(one.shape) if x.numel() == one.numel() == 1 else x
        if filled[name].shape != one.shape:
            raise HvfError(f"{what}: {name} is {tuple(x.shape)}, not {tuple(one.shape)}")
        filled[name] = filled[name].to(floating if one.is_floating_point() else one.dtype)
    missing, unused = network.load_state_dict(filled, strict=False, assign=True)  # it knows older names of some tensors
    if missing:
        raise HvfError(f"{what}: no {missing[0]} ({len(missing)} missing)")
    if unused and not others:
        raise HvfError(f"{what}: {unused[0]} has no place in it ({len(unused)} such tensors)")
    tensors = [*network.named_parameters(), *network.named_buffers()]
    if empty := [name for name, tensor in tensors if tensor.is_meta]:
        raise HvfError(f"{what}: {empty[0]} got no value ({len(empty)} such tensors)")


def fit_positions(network: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a file, position embeddings interpolated to the grid of the network, which has another size.

    Bicubic, without antialiasing, in float32: as DINOv2 and InternViT are defined. Tokens that are no patches (class
    token, registers) come first and keep theirs.
    """
    own = network.state_dict()
    out = dict(state)
    for name, x in state.items():
        shape = own[name].shape if name in own else x.shape
        if x.shape == shape or x.ndim != len(shape) or not name.endswith(POSITIONS) or x.shape[-1] != shape[-1]:
            continue
        x_TD = x.float().reshape(-1, x.shape[-1])
        old, new = x.shape[-2], shape[-2]
        prefixes = [n for n in range(9) if n < min(old, new) and math.isqrt(old - n) ** 2 == old - n]
        first = next((n for n in prefixes if math.isqrt(new - n) ** 2 == new - n), None)
        if first is None or len(x_TD) != old:
            continue  # `fill` says that it has another shape
        sides = math.isqrt(old - first), math.isqrt(new - first)
        grid_1Dhw = x_TD[first:].T.reshape(1, -1, sides[0], sides[0])
        grid_1Dhw = functional.interpolate(grid_1Dhw, (sides[1],) * 2, mode="bicubic", align_corners=False)
        out[name] = torch.cat([x_TD[:first], grid_1Dhw.flatten(2)[0].T]).reshape(shape)
    return out


def hashed_state(
    network: nn.Module, state: Mapping[str, torch.Tensor], fitted: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """A filled network's tensors, positions as the file has them: machines interpolate with other last bits."""
    changed = {name: x for name, x in state.items() if fitted[name] is not x}
    return network.state_dict() | changed
