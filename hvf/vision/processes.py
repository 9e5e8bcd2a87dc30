"""Processes that `accelerate launch` started: they share the images, and leave what one process leaves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from hvf.progress import say
from hvf.registry import HvfError

T = TypeVar("T")

PATIENCE = timedelta(days=30)  # processes end hours apart where their devices differ


@dataclass(frozen=True)
class Processes:
    """`count` processes, of which this is number `rank`; one that is alone waits for nobody."""

    rank: int = 0
    count: int = 1

    def share(self, n: int, batch: int, rank: int | None = None) -> list[range]:
        """The batches of n items that a process (by default this one) takes: every `count`-th, whole as for one alone.

        >>> Processes(1, 2).share(10, 3)
        [range(3, 6), range(9, 10)]
        """
        starts = list(range(0, n, batch))[self.rank if rank is None else rank :: self.count]
        return [range(start, min(start + batch, n)) for start in starts]

    def wait(self) -> None:
        """Go on when all are here."""
        if self.count > 1:
            self._gathered(None)

    def same(self, value: T) -> T:
        """The first process's value, in all of them."""
        return value if self.count == 1 else self._gathered(value)[0]

    def attempt(self, work: Callable[[], T]) -> T:
        """`work()`; what is refused in one process is refused in all."""
        if self.count == 1:
            return work()
        result, refusal = None, None
        try:
            result = work()
        except HvfError as error:
            refusal = str(error)
        for one in self._gathered(refusal):
            if one is not None:
                raise HvfError(one)
        return result  # pyright: ignore[reportReturnType]  (it was not refused)

    def first(self, work: Callable[[], T]) -> T:
        """`work()` in the first process, then in the others, which find what it left."""
        if self.count == 1:
            return work()
        done = self.attempt(lambda: work() if self.rank == 0 else None)
        return self.attempt(lambda: work() if done is None else done)

    def _gathered(self, value: Any) -> list[Any]:
        from accelerate.utils import gather_object

        return gather_object([value])


ALONE = Processes()


def several_on_cpus() -> bool:
    """Whether this is one of several processes on CPUs; accelerate has to know, or each takes itself for the only one.

    `accelerate launch --cpu` starts one process however many are asked for, without a word: here is the word.
    """
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        if asked and "WORLD_SIZE" not in os.environ and "MASTER_PORT" in os.environ:
            say(
                "accelerate launch --cpu",
                ["starts one process; for several: --config_file prior_training/configs/ddp.yaml"],
            )
        return False
    import torch

    return asked or not torch.cuda.is_available()


@contextmanager
def launched(cpu: bool) -> Iterator[tuple[Processes, int]]:
    """The processes that `accelerate launch` started, and this one's number on its machine; else one alone, and 0.

    `cpu` says that they compute on CPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield ALONE, 0
        return
    from accelerate import PartialState

    state: Any = PartialState(cpu=cpu, timeout=PATIENCE)
    if state.process_index:
        os.environ["HVF_QUIET"] = "1"  # one bar for all
    try:
        yield Processes(state.process_index, state.num_processes), state.local_process_index
    finally:
        state.destroy_process_group()
