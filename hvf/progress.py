"""What is said while work goes on: progress bars for what takes longer than two seconds, and notes on inputs.

Use it as `hvf.runs.track`.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Track(Generic[T]):
    """The progress of long work, shown on stderr.

    `for x in track(items, "embedding")` counts items; `with track(100, "drawing") as bar: bar.advance()` counts by
    hand. Work that ends soon shows nothing, and a finished bar leaves nothing; where stderr is no terminal, long work
    says one line. Silent with HVF_QUIET=1.
    """

    _DELAY = 1.0  # seconds before a bar appears
    _lock = threading.Lock()
    _shown: Any = None  # the one rich Progress that all bars share, nested ones too
    _bars = 0

    def __init__(self, work: Iterable[T] | int, description: str) -> None:
        self._items: Iterable[Any] = range(work) if isinstance(work, int) else work
        self._total = len(self._items) if hasattr(self._items, "__len__") else None  # type: ignore[arg-type]
        self._description = description
        self._done = 0
        self._task: Any = None
        self._timer: threading.Timer | None = None

    def __iter__(self) -> Iterator[T]:
        with self:
            for item in self._items:
                yield item
                self.advance()

    def __enter__(self) -> Track[T]:
        if os.environ.get("HVF_QUIET") != "1":
            self._timer = threading.Timer(self._DELAY, self._show)
            self._timer.daemon = True
            self._timer.start()
        return self

    def advance(self, n: int = 1) -> None:
        """Count `n` more as done."""
        self._done += n
        with Track._lock:
            if self._task is not None:
                Track._shown.update(self._task, completed=self._done)

    def __exit__(self, *exc: object) -> None:
        with Track._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._task is None:
                return
            Track._shown.remove_task(self._task)
            self._task = None
            Track._bars -= 1
            if Track._bars == 0:
                Track._shown.stop()
                Track._shown = None

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        with Track._lock:
            if self._timer is None:  # finished meanwhile
                return
            console = Console(stderr=True)
            if not console.is_terminal:
                print(f"{self._description} ...", file=sys.stderr, flush=True)
                return
            if Track._shown is None:
                columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
                Track._shown = Progress(*columns, console=console, transient=True)
                Track._shown.start()
            self._task = Track._shown.add_task(self._description, total=self._total, completed=self._done)
            Track._bars += 1


def one_line(text: object) -> str:
    r"""The text on one line, without characters that move a terminal's cursor or turn the direction of writing.

    >>> one_line("a\n\tb \x1b[2Jc")
    'a b [2Jc'
    """
    shown = "".join(char if char.isprintable() else " " for char in str(text))
    return re.sub(" {2,}", " ", shown).strip()


def say(where: str, notes: Iterable[str]) -> None:
    """Print what was done to an input, each note on a line of its own, on standard error."""
    for note in dict.fromkeys(notes):
        print(one_line(f"note: {where}: {note}"), file=sys.stderr)


track = Track
