"""`hvf export`: what a run draws from, for drawing it without hvf."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from hvf.cli.options import Folder
from hvf.registry import HvfError
from hvf.runs import Run, check_writable


@dataclass(frozen=True)
class Export:
    """Write what a run draws from: adapter, embeddings and a script that needs diffusers and safetensors alone.

    Example: hvf export runs/sub-08-eeg-reconstruction --out exported
    """

    run: Annotated[Positional[Path | None], arg(metavar="RUN", help_behavior_hint="")] = None  # of hvf reconstruct
    out: Folder = None  # a new folder

    def __call__(self) -> int:
        if self.run is None or self.out is None:
            raise HvfError("name a run and a new folder: hvf export RUN --out FOLDER")
        run = Run.open(self.run)
        check_writable(self.out)
        from hvf.experiments.exporting import SCRIPT, export_run

        export_run(run, self.out)
        print(f"wrote {self.out}")
        print(f"  python {self.out / SCRIPT} draws the pictures, without hvf")
        return 0
