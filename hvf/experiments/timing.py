"""Timing: what the benchmark scripts share. Repeated runs, memory of a child process, goals, tables.

A benchmark times ways to do one thing in one process with a `Clock`, or runs whole stages with `in_process`, each in a
process of its own whose peak memory is then known; the script hands `--stage` on to `run_stage`. Importing this file
loads neither numpy nor torch, so that a stage's memory is its own.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from hvf.config import HvfError
from hvf.runs import code_version, usable_cores

Result = TypeVar("Result")
Row = Mapping[str, str | float | None]  # by column; the first row has all columns


class Clock:
    """Wall time and processor time (all threads) of named blocks, in seconds; a name may be timed repeatedly.

    `wall` and `cpu` are {name: seconds of every block}. On a CUDA device the block's kernels are waited for.

    Examples
    --------
    >>> clock = Clock()
    >>> clock.repeat("sum", lambda: sum(range(10)), times=3, warmup=1)
    45
    >>> len(clock.wall["sum"])
    3
    >>> sorted(clock.summary("sum")["cpu"])
    ['max', 'median', 'min']
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.wall: dict[str, list[float]] = {}
        self.cpu: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._synchronize()
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)
        self.cpu.setdefault(name, []).append(time.process_time() - cpu)

    def repeat(self, name: str, work: Callable[[], Result], times: int = 1, warmup: int = 0) -> Result:
        """Call `work` untimed `warmup` times, then timed `times` times; the last result."""
        for _ in range(warmup):
            work()
        for _ in range(times - 1):
            with self(name):
                work()
        with self(name):
            result = work()
        return result

    def alternate(self, ways: Mapping[str, Callable[[], object]], times: int) -> None:
        """Time each way `times` times, forwards and backwards in turn, so that a drift of the machine favours none."""
        for turn in range(times):
            for name in list(ways)[:: -1 if turn % 2 else 1]:
                self.repeat(name, ways[name])

    def median(self, name: str) -> float:
        """The median wall time of a block."""
        return statistics.median(self.wall[name])

    def summary(self, name: str, parts: int = 1) -> dict[str, dict[str, float]]:
        """{"wall" | "cpu": {"median", "min", "max"}} of one of `parts` equal parts of a block."""
        return {
            unit: {of.__name__: of(seconds[name]) / parts for of in (statistics.median, min, max)}
            for unit, seconds in (("wall", self.wall), ("cpu", self.cpu))
        }

    def totals(self) -> dict[str, dict[str, float]]:
        """{"seconds" | "cpu": {name: sum}}: the wall time and the processor time of all blocks of each name."""
        return {
            unit: {name: sum(each) for name, each in seconds.items()}
            for unit, seconds in (("seconds", self.wall), ("cpu", self.cpu))
        }

    def _synchronize(self) -> None:
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.synchronize(self.device)


def environment(device: str = "cpu") -> dict[str, Any]:
    """The machine and the versions that timings hold for: device, threads, cores, Python, numpy, torch and hvf.

    The threads are those of torch where it is loaded, else of OMP_NUM_THREADS, else all cores.
    """
    torch: Any = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else int(os.environ.get("OMP_NUM_THREADS", usable_cores()))
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else f"CPU, {threads} threads",
        "processor": platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "threads": threads,
        "python": platform.python_version(),
        "versions": {"hvf": code_version()} | {name: version(name) for name in ("numpy", "torch")},
    }


def resident_memory() -> dict[str, int]:
    """Resident memory of this process in bytes: `peak`; now `anonymous` (its own), and `file` (mapped, droppable).

    Linux counts the process alone; elsewhere only the peak is known, as getrusage gives it.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak": peak * (1 if sys.platform == "darwin" else 1024), "anonymous": 0, "file": 0}
    kilobytes = {name: int(rest.split()[0]) for name, rest in (line.split(":", 1) for line in lines) if "kB" in rest}
    return {"peak": kilobytes["VmHWM"] * 1024} | {
        name: kilobytes[field] * 1024 for name, field in (("anonymous", "RssAnon"), ("file", "RssFile"))
    }


def in_process(script: str | Path, stage: str, *arguments: Any) -> dict[str, Any]:
    """Run a stage of a benchmark script in a process of its own, its progress shown on stderr.

    The stage's result, and `peak`: the most memory that the process had resident, in bytes. Raises HvfError if the
    stage failed, for its own reason, or was killed.
    """
    command = [sys.executable, str(script), "--stage", stage, json.dumps(arguments, default=str)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode:
        short = " (killed, as the system does where memory is short)" if done.returncode == -9 else ""
        reason = lines[-1] if done.returncode == 2 and lines else f"it ended with code {done.returncode}{short}"
        raise HvfError(f"stage {stage} failed: {reason}")
    return json.loads(lines[-1])


def run_stage(stages: Mapping[str, Callable[..., dict[str, Any]]], name: str, arguments: str) -> int:
    """Run one of a script's stages for `in_process`, print its result as the last line, and return the exit code."""
    try:
        result = stages[name](*json.loads(arguments))
    except HvfError as error:
        print(error)
        return 2
    print(json.dumps(result | {"peak": resident_memory()["peak"]}))
    return 0


def goal(name: str, figure: float | None, bound: float, unit: str, at_least: bool = False) -> str:
    """One figure beside its goal: an upper bound, or with `at_least` a lower one; None: not measured.

    Examples
    --------
    >>> goal("speed-up", 2.04, 1.8, "x", at_least=True)
    'speed-up: 2.04 x (goal: at least 1.8 x, met)'
    >>> goal("peak memory", None, 4, "GB")
    'peak memory: not measured (goal: at most 4 GB)'
    """
    asked = f"goal: at {'least' if at_least else 'most'} {bound:g} {unit}"
    if figure is None:
        return f"{name}: not measured ({asked})"
    met = figure >= bound if at_least else figure <= bound
    return f"{name}: {shown(figure)} {unit} ({asked}, {'met' if met else 'missed'})"


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Print rows as a table, numbers to the right; 130 columns wide unless COLUMNS says otherwise."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for i, column in enumerate(rows[0]):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*(shown(row.get(column, "")) for column in rows[0]))
    Console(width=None if os.environ.get("COLUMNS") else 130).print(table)


def markdown_table(rows: Sequence[Row]) -> str:
    """The same table as Markdown.

    Examples
    --------
    >>> print(markdown_table([{"": "ours", "seconds": 1.5}, {"": "published"}]))
    |  | seconds |
    | --- | ---: |
    | ours | 1.5 |
    | published |  |
    """
    columns = list(rows[0])
    rule = ["---", *["---:"] * (len(columns) - 1)]
    lines = [columns, rule, *([shown(row.get(column, "")) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def shown(value: str | float | None) -> str:
    """A cell of a table: words as they are, numbers with three significant digits, None as not measured."""
    if value is None or isinstance(value, str):
        return "not measured" if value is None else value
    return f"{value:.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"
