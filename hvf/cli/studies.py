"""The command line of experiments over several seeds or random splits: the options they share, and what is printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from hvf.cli.options import Folder, StudyOptions, run_script
from hvf.cli.parser import parse


@dataclass(frozen=True)
class ExperimentOptions(StudyOptions):
    """Options of every experiment over several seeds or random splits."""

    out: Folder = None  # where to (default: a readable name in runs/)


def main(kind: Any, arguments: Sequence[str] | None = None) -> int:
    """Run an experiment from the command line and print its summary; the exit code.

    ``kind`` is a dataclass of an experiment (`hvf.experiments.repeated`) with `ExperimentOptions`.
    """

    def run(argv: Sequence[str] | None) -> None:
        options = parse(kind, argv)
        folder = options.run(options.config, options.out)
        show(options.summary(folder))
        print(f"wrote {folder}")

    return run_script(run, arguments)


def show(parts: Iterable[Table | str]) -> None:
    """Print tables and lines; lines as they are, whatever brackets they hold."""
    for part in parts:
        if isinstance(part, str):
            print(part)
        else:
            Console().print(part)
