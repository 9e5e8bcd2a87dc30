"""The command line of experiments over several seeds or random splits: the options they share, and what is printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from hvf import presets
from hvf.cli.options import parse_preset, run_script, study_settings
from hvf.config import Config, with_settings


@dataclass(frozen=True)
class FilesOptions:
    """Options of every experiment on responses from files."""

    config: Annotated[Config, tyro.conf.arg(name="")]  # every setting of the preset
    preset: str = "mini"  # a whole configuration: mini, things-eeg, things-meg
    trials: Path | None = None  # your own responses; with --images the same as --data.study files --data.trials FILE
    images: Path | None = None  # the images they answer, in the same order: folder or zip
    out: Path | None = None  # where to (default: a readable name in runs/)

    def settings(self) -> Config:
        """The configuration, with the data that the options name."""
        return with_settings(self.config, study_settings(None, self.trials, self.images))


@dataclass(frozen=True)
class StudyOptions(FilesOptions):
    """Options of every experiment on a simulated study or on files."""

    subject: int | None = None  # whose responses, the same as --data.subject

    def settings(self) -> Config:
        """The configuration, with the data that the options name."""
        return with_settings(self.config, study_settings(self.subject, self.trials, self.images))


def main(kind: Any, arguments: Sequence[str] | None = None) -> int:
    """Run an experiment from the command line and print its summary; the exit code.

    ``kind`` is a dataclass of options that is a `hvf.experiments.repeated.Experiment` and has `FilesOptions`.
    """

    def run(argv: Sequence[str] | None) -> None:
        known = {name: lambda name=name: kind(config=presets.get(name), preset=name) for name in presets.PRESETS}
        options = parse_preset(known, argv)
        folder = options.run(options.settings(), options.out)
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
