"""Which sensors and latencies carry what a run decodes, and is it what the image looks like, or what it shows?

    python brain_training/interpret.py runs/sub-08-eeg          a run of hvf train, retrieve or reconstruct
    python brain_training/interpret.py RUN --layers openclip:mini-vit@0:mean openclip:mini-vit@2:mean
    python brain_training/interpret.py RUN --categories categories.csv      lines "concept,category"

Parts and choices: hvf/experiments/interpretation.py. Writes into the run folder sensors.json and windows.json, which
`hvf report` and `hvf explore` show, interpretation.json, interpretation.png and embedding.png; takes up the parts that
are in interpretation/.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from hvf.cli.options import parse_settings, script
from hvf.cli.studies import show
from hvf.config import HvfError
from hvf.experiments.interpretation import Interpretation
from hvf.report.interpretation import summary, write_interpretation
from hvf.runs import Run


@dataclass(frozen=True)
class Options(Interpretation):
    """Ask a trained run what carries its decoding."""

    run: tyro.conf.Positional[Path] = Path()  # a run folder with a trained brain encoder


@script
def main(arguments: Sequence[str] | None) -> None:
    """Analyse the run that is named, and show and write what was found."""
    options = parse_settings(Options(), arguments)
    if not (options.run / "config.json").is_file():
        raise HvfError("name a run folder: python brain_training/interpret.py RUN (hvf retrieve makes one)")
    run = Run.open(options.run)
    result = options.analyse(run)
    write_interpretation(run, result)
    show(summary(result))
    print(f"wrote {run.path}")


if __name__ == "__main__":
    sys.exit(main())
