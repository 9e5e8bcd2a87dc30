"""Steps that a GPU takes without Python: recorded once as a CUDA graph, then replayed.

A small network's step is thousands of small kernels, which a GPU does faster than Python asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

PLAIN_STEPS = 4  # before a graph is recorded: libraries choose their algorithms, an optimiser makes its moments


class Replayed:
    """``step(*inputs)``, which changes weights in place and returns a tensor; on a GPU replayed from a CUDA graph.

    Tensors are all that changes from call to call: ``inputs``, of which every combination of lengths has a graph of its
    own, and what ``step`` reads in place. It must not look at values (no `.item()`) nor move tensors between devices.
    Random numbers follow torch's generator, as they do without a graph. On a CPU it is called as it is.
    """

    def __init__(self, step: Callable[..., Tensor], device: torch.device | str) -> None:
        self.step, self.device = step, torch.device(device)
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.plain = 0
        self.graphs: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor]] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        if self.stream is None:
            return self.step(*inputs)
        if self.plain < PLAIN_STEPS:  # on the stream on which a graph is recorded later, as autograd wants it
            self.plain += 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                out = self.step(*inputs)
            torch.cuda.current_stream().wait_stream(self.stream)
            return out
        shapes = tuple(x.shape for x in inputs)
        if shapes not in self.graphs:
            self.graphs[shapes] = self.recorded(inputs)
        graph, own, out = self.graphs[shapes]
        for ours, new in zip(own, inputs, strict=True):
            ours.copy_(new)
        graph.replay()
        return out.clone()

    def recorded(self, inputs: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor]:
        """A graph, the tensors it reads its inputs from, and the one it writes to; recording changes no weight."""
        own, graph = tuple(x.clone() for x in inputs), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            out = self.step(*own)
        return graph, own, out


@contextmanager
def fast_products(device: torch.device | str) -> Iterator[None]:
    """Matrix products of float32 in TF32 on a GPU: sums stay float32, factors keep ten bits (bfloat16: seven)."""
    before = torch.get_float32_matmul_precision()
    if torch.device(device).type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
