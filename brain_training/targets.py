"""Which target is found best from the brain, and what does each part of the method bring? A table, and the controls.

    python brain_training/targets.py [--subject 8] [--seeds 3]                        the simulated study, 3 seeds
    python brain_training/targets.py --ablations encoders projector temperature loss  and what each part of it brings
    python brain_training/targets.py --trials X.npy --images Z.zip --targets.specs SPEC SPEC --seeds 5 \
        [--grid brain.input_noise=0.5,1.0 ...]                                        your data, 5 random splits

Rows: each encoder, all fused by HVF, the ablations asked for (every set of encoders; every kind of fusion, of which
"concatenated" learns nothing; a fixed τ; the loss in one direction), the fusion on permuted trials, ridge regression to
all encoders, chance. Every choice is made on validation concepts taken from the training images
(`hvf.experiments.protocols`): the epoch, ridge's penalty, the settings of --grid. Each split is tested once. A second
call takes up the rows that are there, whatever ablations it asks for.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from hvf import presets
from hvf.cli.options import parse_preset, recording_name, repeats, run_script, study_settings
from hvf.config import SUBJECTS, Config, HvfError, Loss, check_files, with_settings
from hvf.evaluation import retrieval
from hvf.experiments.protocols import LINEAR, choose, open_split
from hvf.registry import FUSIONS
from hvf.runs import Run

FUSED, PERMUTED, RIDGE = "fused (HVF)", "fused, trials permuted", "ridge, all encoders"


@dataclass(frozen=True)
class Comparison:
    """Compare visual encoders, alone and fused, as targets for the brain."""

    config: Annotated[Config, tyro.conf.arg(name="")]  # every setting of the preset
    preset: str = "mini"  # a whole configuration: mini, things-eeg, things-meg
    subject: int | None = None  # whose responses, the same as --data.subject
    trials: Path | None = None  # your own responses; with --images the same as --data.study files --data.trials FILE
    images: Path | None = None  # the images they answer, in the same order: folder or zip
    seeds: int = 3  # simulated: training seeds; files: random splits into training and test
    ablations: tuple[Literal["encoders", "projector", "temperature", "loss"], ...] = ()  # further rows
    temperatures: tuple[float, ...] = (0.01, 0.03, 0.07, 0.2, 0.5)  # the fixed ones
    grid: tuple[str, ...] = ()  # settings to choose among on validation, as brain.input_noise=0.5,1.0
    out: Path | None = None  # where to (default: a readable name in runs/)


def compare(options: Comparison) -> Path:
    """Train and test every row on every seed or split, write the table, and return its folder."""
    settings = study_settings(options.subject, options.trials, options.images)
    config, candidates = with_settings(options.config, settings), list(_candidates(options.grid))
    if config.align.mode != "retrieval":
        raise HvfError("targets are compared in retrieval mode: the prior's fusion is one fixed set of encoders")
    for config_of_candidate in (with_settings(config, candidate) for candidate in candidates):
        check_files(config_of_candidate)
    rows = _rows(config, options)
    for settings_of_row in rows.values():
        check_files(with_settings(config, settings_of_row))
    seeds = repeats(config, options.seeds)
    run = Run.create(options.out or Path("runs") / f"{recording_name(config)}-targets", config)
    found = [_one_seed(run, f"{name}.json", one, rows, candidates) for name, one in seeds.items()]
    table = _table(found)
    run.write_json("targets.json", table)
    run.write_metrics(_flat(table), merge=False)
    repeated = "training seeds" if config.data.study in SUBJECTS else "random splits"
    _show(table, found[0]["note"], f"{options.seeds} {repeated}")
    return run.path


def _candidates(grid: Sequence[str]) -> Iterator[dict[str, Any]]:
    """["a.b=1,2", "c.d=3"] -> {"a.b": 1, "c.d": 3}, {"a.b": 2, "c.d": 3}."""
    axes = []
    for text in grid:
        name, equals, values = text.partition("=")
        try:
            axes.append([(name, json.loads(value)) for value in values.split(",")])
        except ValueError:
            raise HvfError(f"--grid takes SETTING=NUMBER,NUMBER,..., not {text!r}") from None
    return (dict(point) for point in itertools.product(*axes))


def _rows(config: Config, options: Comparison) -> dict[str, dict[str, Any]]:
    """The settings that make each row."""
    specs, asked = config.targets.specs, options.ablations
    rows: dict[str, dict[str, Any]] = {spec: {"targets.specs": (spec,)} for spec in specs}
    if len(specs) > 1:
        rows[FUSED] = {}
    if "encoders" in asked:
        sets = (s for size in range(2, len(specs)) for s in itertools.combinations(specs, size))
        rows |= {" + ".join(some): {"targets.specs": some} for some in sets}
    if "projector" in asked:
        rows |= {f"fusion: {kind}": {"fusion.kind": kind} for kind in FUSIONS if kind != config.fusion.kind}
    if "temperature" in asked:
        fixed = {"align.learn_temperature": False}
        rows |= {f"τ fixed at {value:g}": {**fixed, "align.temperature": value} for value in options.temperatures}
    if "loss" in asked:
        rows |= {f"loss: {loss}": {"align.loss": loss} for loss in get_args(Loss) if loss != config.align.loss}
    return rows | {PERMUTED: {}, RIDGE: LINEAR}


def _one_seed(run: Run, name: str, config: Config, rows: Mapping[str, Mapping], candidates: list[dict]) -> dict:
    """Ranks of the test images, and what was chosen on validation, for every row of one seed or split."""
    told = run.read_json(name) if run.has(name) else {}
    if told.get("candidates") != candidates:
        told = {"candidates": candidates, "rows": {}}
    missing = [row for row in rows if told["rows"].get(row, {}).get("settings") != _plain(rows[row])]
    if missing:
        split, held_out = open_split(config, config.targets.specs)
        told |= {"note": split.note, "image_ids": list(held_out.image_ids)}
    for row in missing:
        part = split.permuted(config.align.seed) if row == PERMUTED else split
        choice = choose(part, with_settings(config, rows[row]), [{}] if row == RIDGE else candidates)
        told["rows"][row] = {
            "settings": _plain(rows[row]),
            "ranks": held_out.ranks(choice).tolist(),
            "chosen": _plain(choice.settings),
            "validation": choice.validation,
        }
        run.write_json(name, told)
    return {**told, "rows": {row: told["rows"][row] for row in rows}}


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives them back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def _table(found: list[dict]) -> dict[str, dict]:
    """For every row: top1 and top5, the lead of all encoders fused on the same images, and the mean on validation."""
    ids = [name for one in found for name in one["image_ids"]]
    ranks = {row: np.concatenate([one["rows"][row]["ranks"] for one in found]) for row in found[0]["rows"]}
    whole = FUSED if FUSED in ranks else next(iter(ranks))
    table = {}
    for row, ranks_N in ranks.items():
        summary = retrieval.summarise(ranks_N, ids)
        each = [float(np.mean(np.asarray(one["rows"][row]["ranks"]) <= 1)) for one in found]
        validation = float(np.mean([one["rows"][row]["validation"]["top1"] for one in found]))
        table[row] = {name: summary[name] for name in ("top1", "top5", "mrr")}
        table[row] |= {"top1_each": each, "validation_top1": validation}
        if row != whole:
            lead_N = (ranks[whole] <= 1).astype(float) - (ranks_N <= 1)
            table[row]["fused_leads"] = retrieval.interval(lead_N, ids)
    m = len(found[0]["image_ids"])
    table["chance"] = {f"top{k}": retrieval.chance(k, len(ids), m) for k in retrieval.KS}
    return table


def _flat(table: dict[str, dict]) -> dict[str, dict]:
    names = ("top1", "top5", "mrr")
    figures = {f"retrieval/{row}/{k}": entry[k] for row, entry in table.items() for k in names if k in entry}
    return {name.replace("retrieval/chance/", "chance/retrieval/"): entry for name, entry in figures.items()}


def _show(table: dict[str, dict], note: str, repeated: str) -> None:
    shown = Table(title=f"{note}; {repeated}", title_justify="left")
    shown.add_column("target", overflow="fold")
    for column in ("top-1 % [95 %]", "each", "top-5 % [95 %]", "fused leads by [95 %]", "validation top-1 %"):
        shown.add_column(column, justify="right")
    for row, entry in table.items():
        cells = [_percent(entry["top1"]), " ".join(f"{100 * v:.1f}" for v in entry.get("top1_each", []))]
        cells += [_percent(entry["top5"]), _percent(entry["fused_leads"]) if "fused_leads" in entry else ""]
        shown.add_row(row, *cells, f"{100 * entry['validation_top1']:.1f}" if "validation_top1" in entry else "")
    Console().print(shown)


def _percent(entry: dict) -> str:
    low, high = entry["ci95"]
    return f"{100 * entry['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main(arguments: Sequence[str] | None = None) -> int:
    known = {name: lambda name=name: Comparison(presets.get(name), name) for name in presets.PRESETS}
    return run_script(lambda argv: print(f"wrote {compare(parse_preset(known, argv))}"), arguments)


if __name__ == "__main__":
    sys.exit(main())
