"""Comparison of visual encoders as targets for the brain, alone and fused, with ablations and controls.

Rows of the result: each encoder; all fused by HVF; the ablations asked for (every set of encoders; every kind of
fusion; a fixed temperature; the loss in one direction); HVF on permuted trials; ridge regression to all encoders. The
epoch, the penalty and the settings of the grid are chosen on validation concepts (`hvf.experiments.protocols`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rich.table import Table

from hvf.alignment.members import LINEAR
from hvf.config import Config, HvfError, Loss, check_files, with_settings
from hvf.experiments.data_digests import input_digests
from hvf.experiments.made_from import changed, said_by, stamped
from hvf.experiments.protocols import choose, open_split, repeats
from hvf.experiments.repeated import open_folder, table_of_rows, write_combined
from hvf.experiments.results import FILE, Result, as_json
from hvf.registry import FUSIONS
from hvf.runs import Run, say
from hvf.schema.bounds import EachOnce, Positive, SomeEachOnce
from hvf.schema.reading import parse_json
from hvf.vision.specs import check_targets

FUSED, PERMUTED, RIDGE = "fused (HVF)", "fused, trials permuted", "ridge, all encoders"

Ablation = Literal["encoders", "projector", "temperature", "loss"]


@dataclass(frozen=True)
class TargetComparison:
    """Comparison of visual encoders, alone and fused, as targets for the brain.

    A second `run` adds the rows that are missing, whatever ablations it asks for; another grid computes all anew, as
    trials, images or features that have changed do.
    """

    seeds: int = 3  # simulated: training seeds; files: random splits into training and test
    ablations: EachOnce[Ablation] = ()  # further rows
    temperatures: SomeEachOnce[Positive] = (0.01, 0.03, 0.07, 0.2, 0.5)  # the fixed ones
    grid: EachOnce[str] = ()  # settings to choose among on validation, as brain.input_noise=0.5,1.0

    def run(self, config: Config, out: Path | None = None) -> Path:
        """Train and test every row on every seed or split, write the results, and return their folder."""
        candidates = list(_candidates(self.grid))
        if config.align.mode != "retrieval":
            raise HvfError("targets are compared in retrieval mode: the prior's fusion is one fixed set of encoders")
        rows = self._rows(config)
        for settings in (*candidates, *rows.values()):
            one = with_settings(config, settings)
            check_files(one)
            check_targets(one.targets)
        configs = repeats(config, self.seeds)
        run = open_folder(out, config, "targets")
        parts = [Run.create(run.path / name, one) for name, one in configs.items()]
        write_combined(run, [_one_repeat(part, rows, candidates) for part in parts])
        return run.path

    def summary(self, folder: Path) -> Iterator[Table]:
        """The table of all rows."""
        yield table_of_rows(Result.read(folder))

    def _rows(self, config: Config) -> dict[str, dict[str, Any]]:
        """The settings of each row."""
        specs = config.targets.specs
        rows: dict[str, dict[str, Any]] = {spec: {"targets.specs": (spec,)} for spec in specs}
        if len(specs) > 1:
            rows[FUSED] = {}
        if "encoders" in self.ablations:
            sets = (s for size in range(2, len(specs)) for s in itertools.combinations(specs, size))
            rows |= {" + ".join(some): {"targets.specs": some} for some in sets}
        if "projector" in self.ablations:
            kinds = [kind for kind in FUSIONS if kind != config.fusion.kind and not FUSIONS[kind].weighs_people]
            rows |= {f"fusion: {kind}": {"fusion.kind": kind} for kind in kinds}
        if "temperature" in self.ablations:
            fixed = {"align.learn_temperature": False}
            rows |= {f"τ fixed at {value:g}": {**fixed, "align.temperature": value} for value in self.temperatures}
        if "loss" in self.ablations:
            rows |= {f"loss: {loss}": {"align.loss": loss} for loss in get_args(Loss) if loss != config.align.loss}
        return rows | {PERMUTED: {}, RIDGE: LINEAR}


def _candidates(grid: Sequence[str]) -> Iterator[dict[str, Any]]:
    """All combinations of a grid: ["a.b=1,2", "c.d=3"] -> {"a.b": 1, "c.d": 3}, {"a.b": 2, "c.d": 3}."""
    axes: dict[str, list[tuple[str, Any]]] = {}
    for text in grid:
        name, _, several = text.partition("=")
        values = several.split(",")
        if name in axes or len(set(values)) < len(values):
            raise HvfError(f"--grid takes each setting, and each value of it, once, not {' '.join(grid)}")
        try:
            axes[name] = [(name, parse_json(value)) for value in values]
        except ValueError:
            raise HvfError(f"--grid takes SETTING=NUMBER,NUMBER,..., not {text!r}") from None
    return (dict(point) for point in itertools.product(*axes.values()))


def _one_repeat(run: Run, rows: Mapping[str, Mapping[str, Any]], candidates: list[dict[str, Any]]) -> Result:
    """The rows of one seed or split, in order; those that are missing, or have other settings, are computed."""
    stored = Result.read(run.path) if run.has(FILE) else None
    if stored is not None and stored.details["candidates"] != as_json(candidates):
        stored = None
    digests = input_digests(run.config)
    if other := changed(said_by(stored), digests):
        say(run.path.name, [f"computed anew: other {' and '.join(other)} than before"])
        stored = None
    known = dict(stored.rows) if stored else {}
    missing = [row for row, settings in rows.items() if row not in known or known[row].settings != as_json(settings)]
    result = stored
    if missing:
        split, held_out = open_split(run.config, run.config.targets.specs)
        main = FUSED if FUSED in rows else next(iter(rows))
        start = held_out.result("targets", run.config, run=run.path.name, main=main)
        result = replace(stamped(start.with_details(candidates=candidates), digests), rows=known)
        for row in missing:
            part = split.permuted(run.config.align.seed) if row == PERMUTED else split
            choice = choose(part, with_settings(run.config, rows[row]), [{}] if row == RIDGE else candidates)
            result = result.with_row(row, held_out.row(choice, settings=rows[row]))
            result.write(run.path)
    assert result is not None
    return replace(result, rows={row: result.rows[row] for row in rows})
