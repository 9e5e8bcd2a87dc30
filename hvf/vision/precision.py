"""Arithmetic of networks whose weights are in half precision.

A large network computes in its own precision on a GPU, as it is published. A CPU multiplies halves 8 to 20 times more
slowly than floats, and less exactly: there, and for small networks everywhere, the weights stay as they are, and each
block has a float32 copy of its own while it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from hvf.vision.filling import HALF

LARGE = 2**30  # bytes of weights from which on a GPU computes in their precision

_in_float32: WeakSet[nn.Module] = WeakSet()  # networks that compute in float32 already


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The blocks of a network: the elements of its longest list of modules."""
    lists = [module for module in network.modules() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    return list(max(lists, key=len, default=nn.ModuleList()))


def input_type(network: nn.Module) -> torch.dtype:
    """In what the network takes its input: float32, or its own half precision."""
    if network in _in_float32:
        return torch.float32
    return next((x.dtype for x in network.parameters() if x.is_floating_point()), torch.float32)


def place(network: nn.Module, device: torch.device) -> None:
    """Move a network to its device, in place, and let it compute in float32 unless it is large and this is a GPU."""
    halves = list(_halves(network))
    if not halves:
        nn.Module.to(network, device)
    elif device.type != "cpu" and sum(x.nbytes for x in halves) >= LARGE:
        nn.Module.to(network, device, halves[0].dtype)  # positions of another size are in float32
    else:
        nn.Module.to(network, device)
        compute_in_float32(network)


def compute_in_float32(network: nn.Module) -> None:
    """Let a network of halves compute in float32: each block by a copy that lives while it runs, the rest for good."""
    if network in _in_float32:
        return
    _in_float32.add(network)
    blocks = blocks_of(network)
    for block in blocks:
        kept: dict[torch.Tensor, torch.Tensor] = {}

        def widen(module: nn.Module, _inputs: Any, kept: dict[torch.Tensor, torch.Tensor] = kept) -> None:
            for x in _halves(module):
                kept[x] = x.data
                x.data = x.data.float()

        def restore(*_call: Any, kept: dict[torch.Tensor, torch.Tensor] = kept) -> None:
            while kept:
                x, half = kept.popitem()
                x.data = half

        block.register_forward_pre_hook(widen)
        block.register_forward_hook(restore, always_call=True)  # also where the pass is ended early
    inside = {id(x) for block in blocks for x in _halves(block)}
    for x in _halves(network):
        if id(x) not in inside:
            x.data = x.data.float()


def _halves(module: nn.Module) -> Iterator[torch.Tensor]:
    for x in (*module.parameters(), *module.buffers()):
        if x.dtype in HALF:
            yield x
