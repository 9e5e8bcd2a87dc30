"""Subjects x seeds in one table: what is retrieved and drawn, beside what the papers report.

    python eval/benchmark.py                               # simulated subject 8, one seed
    python eval/benchmark.py --subjects 1 8 10 --seeds 0 1 2 --out runs/benchmark

Each cell is a run folder of its own, as `hvf reconstruct` makes it; a second call takes up the cells that are there.
The table goes to OUT/table.md and table.json. Published figures stand below, labelled: they are of real EEG and other
pictures, so they show the field's scale and are not to be compared with simulated ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from scipy.stats import t as student

from hvf import presets
from hvf.config import HvfError, with_settings
from hvf.decoder import ROWS, reconstruct_run
from hvf.runs import Run, check_writable, write_atomic

# arXiv 2602.07495, EEG, as their own tables print them: as shares, and PixCorr.
PUBLISHED = {
    "HVF, THINGS-EEG2, 10 subjects": {"top1": 0.757, "top5": 0.946, "pixcorr": 0.195},
    "HVF, THINGS-EEG2, subject 8": {"pixcorr": 0.227},
    "ATM, THINGS-EEG2, subject 8": {"pixcorr": 0.160},
    "UBP, THINGS-EEG2, 10 subjects": {"top1": 0.509, "top5": 0.797},
}


@dataclass(frozen=True)
class Benchmark:
    """Retrieve and draw for several subjects and seeds, and make a table of it."""

    preset: str = "mini"  # a whole configuration
    subjects: tuple[int, ...] = (8,)  # of the simulated study
    seeds: tuple[int, ...] = (0,)  # of training and of sampling
    out: Path = Path("runs/benchmark")  # run folders and the table


def run_cells(options: Benchmark) -> dict[str, dict[str, dict]]:
    """The metrics of every subject and seed, by the name of its run folder."""
    if not options.subjects or not options.seeds:
        raise HvfError("name at least one subject and one seed, as --subjects 8 --seeds 0")
    check_writable(options.out)
    cells = {}
    for subject in options.subjects:
        for seed in options.seeds:
            settings = {
                "data.subject": subject,
                "align.seed": seed,
                "sampling.seed": seed,
                "align.mode": "reconstruction",
            }
            config = with_settings(presets.get(options.preset), settings)
            run = Run.create(options.out / f"sub-{subject:02d}-seed-{seed}", config)
            reconstruct_run(run)
            cells[run.path.name] = run.metrics()
    return cells


def mean_and_interval(values: list[float]) -> dict:
    """Mean over cells with Student's 95 % interval of the mean; one cell has no interval."""
    mean, n = float(np.mean(values)), len(values)
    if n == 1:
        return {"value": mean, "ci95": None, "n": 1}
    half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return {"value": mean, "ci95": [mean - half, mean + half], "n": n}


def table_rows(cells: Mapping[str, Mapping[str, dict]]) -> dict[str, dict[str, dict]]:
    """{row: {figure: entry}}: ceiling, brain and floor over all cells, and chance."""
    names = list(next(iter(cells.values())))
    rows: dict[str, dict[str, dict]] = {row: {} for row in (*ROWS, "chance")}
    for name in names:
        first, *middle, figure = name.split("/")
        row = "chance" if first == "chance" else middle[0] if middle else ""
        if row in rows and first != "validation":
            rows[row][figure] = mean_and_interval([metrics[name]["value"] for metrics in cells.values()])
    return rows


def markdown(rows: Mapping[str, Mapping[str, dict]], cells: int) -> str:
    """The table as Markdown, simulated rows first, published ones below."""
    figures = [f for f in rows["brain"] if f not in ("mrr", "median_rank")]
    lines = [
        f"Simulated study, {cells} run(s) of one subject and one seed each; mean, and 95 % interval over runs.",
        "Within subject; test concepts unseen in training; gallery: the plain test images; ties are misses.",
        "",
        "| | " + " | ".join(figures) + " |",
        "| --- |" + " --- |" * len(figures),
    ]
    for row, entries in rows.items():
        lines.append(f"| {row} (simulated) | " + " | ".join(_cell(entries.get(f)) for f in figures) + " |")
    for row, values in PUBLISHED.items():
        lines.append(
            f"| published: {row} | "
            + " | ".join(_cell({"value": values[f], "ci95": None} if f in values else None) for f in figures)
            + " |"
        )
    return "\n".join(lines) + "\n"


def _cell(entry: Mapping | None) -> str:
    if entry is None:
        return "–"
    low, high = entry["ci95"] or (None, None)
    return f"{entry['value']:.3f}" + (f" ({low:.3f} to {high:.3f})" if low is not None else "")


def main(options: Benchmark) -> int:
    try:
        cells = run_cells(options)
    except HvfError as error:
        print(f"hvf: {error}", file=sys.stderr)
        return 2
    rows = table_rows(cells)
    text = markdown(rows, len(cells))
    whole = json.dumps({"rows": rows, "cells": cells}, indent=2)
    write_atomic(options.out / "table.md", lambda path: path.write_text(text))
    write_atomic(options.out / "table.json", lambda path: path.write_text(whole))
    print(text)
    print(f"wrote {options.out / 'table.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Benchmark)))
