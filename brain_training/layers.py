"""Which layer of a vision model does the brain answer to? The inverted U over layers, a gate that finds it in one run,
and the fusion of the best layers with VAE latents.

    python brain_training/layers.py [--subject 8]                            the simulated study, blocks of the mini ViT
    python brain_training/layers.py --trials X.npy --images Z.zip --backbone torchvision:squeezenet1_0/FILE \
        --layers 2 3 4 5 7 8 9 10 12 --pool grid2 --latents vae:taesdxl@112:grid4 --seeds 5    yours, 5 random splits

Rows: every layer alone, the gate over all of them, the latents, HVF over several layers and latents, --members of those
together (other validation images and other weights to begin with; the mean of their similarities), the same on permuted
trials, ridge, responses predicted from such sets (an encoding model), chance. Which layer is best, which layers are
fused, the epoch and the penalties: all are chosen on validation concepts of the training images
(`hvf.experiments.protocols`). Writes layers.json, layers.png and figures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from hvf import presets
from hvf.cli.options import parse_preset, recording_name, repeats, run_script, study_settings
from hvf.config import SUBJECTS, Config, HvfError, check_files, with_settings
from hvf.evaluation import retrieval
from hvf.experiments.protocols import ENCODING, LINEAR, Choice, HeldOut, choose, open_split
from hvf.runs import Run, write_atomic
from hvf.vision.specs import parse_spec

GATE, FUSED, PERMUTED, RIDGE, LATENTS = "gate over layers", "layers and latents (HVF)", "permuted", "ridge", "latents"
PREDICTED = "responses predicted"
TOGETHER = "several HVFs together"
MOST = (2, 3, 5)  # how many of the best layers a fusion may have; all of them is a candidate, too, and so is
APART = (2, 3)  # every second or third from the last down: neighbours tell the same


@dataclass(frozen=True)
class Sweep:
    """Compare the layers of a vision model as targets for the brain."""

    config: Annotated[Config, tyro.conf.arg(name="")]  # every setting of the preset
    preset: str = "mini"  # a whole configuration: mini, things-eeg, things-meg
    subject: int | None = None  # whose responses, the same as --data.subject
    trials: Path | None = None  # your own responses; with --images the same as --data.study files --data.trials FILE
    images: Path | None = None  # the images they answer, in the same order: folder or zip
    backbone: str = "openclip:mini-vit"  # a feature spec without layer and pool
    layers: tuple[str, ...] = ("0", "1", "2", "3")  # of the backbone, from shallow to deep
    pool: str = "mean"  # how a layer becomes a vector: cls, mean, flat, gridK
    latents: str | None = "vae:mini"  # fused with the layers; None leaves them out
    members: int = 1  # above 1: so many HVFs over layers and latents in a row, by their mean similarity
    seeds: int = 3  # simulated: training seeds; files: random splits into training and test
    out: Path | None = None  # where to (default: a readable name in runs/)


def sweep(options: Sweep) -> Path:
    """Fit and test every row on every seed or split, write table and picture, and return their folder."""
    settings = study_settings(options.subject, options.trials, options.images)
    specs = [str(parse_spec(f"{options.backbone}@{layer}:{options.pool}")) for layer in options.layers]
    latents = str(parse_spec(options.latents)) if options.latents else None
    every = (*specs, latents) if latents else tuple(specs)
    config = with_settings(options.config, {**settings, "align.mode": "retrieval", "targets.specs": every})
    check_files(config)
    seeds = repeats(config, options.seeds)
    if options.members < 1:
        raise HvfError(f"--members must be at least 1, not {options.members}")
    if len(specs) < 2:
        raise HvfError("a sweep needs at least two layers: --layers 0 1")
    run = Run.create(options.out or Path("runs") / f"{recording_name(config)}-layers", config)
    files = {f"{name}.json": one for name, one in seeds.items()}
    for file in filter(run.has, files):
        _check_members(run, file, options.members)
    for file, one in files.items():
        if not run.has(file):
            run.write_json(file, _one_seed(one, specs, latents, options.members))
    found = [run.read_json(file) for file in files]
    table = _table(found, specs)
    run.write_json("layers.json", table)
    run.write_metrics({f"retrieval/{row}/{k}": entry[k] for row, entry in table["rows"].items() for k in KEYS})
    write_atomic(run.path / "layers.png", lambda path: _draw(table, options.layers, path))
    repeated = "training seeds" if config.data.study in SUBJECTS else "random splits"
    _show(table, f"{options.seeds} {repeated}")
    return run.path


def _check_members(run: Run, name: str, members: int) -> None:
    """Refuse a stored seed or split of another --members, the one option that is not among the run's settings."""
    stored = run.read_json(name)
    there = stored.get("members", "unknown" if TOGETHER in stored["rows"] else 1)  # older ones did not tell
    if there != members:
        raise HvfError(f"{run.path} holds {name} with --members {there}, not {members}: choose another --out")


def _one_seed(config: Config, specs: list[str], latents: str | None, members: int) -> dict:
    """Ranks of the test images and what validation said, for every row of one seed or split."""
    every = (*specs, latents) if latents else tuple(specs)
    split, held_out = open_split(config, every)
    alone = {spec: choose(split, with_settings(config, {"targets.specs": (spec,)})) for spec in every}
    gate = choose(split, with_settings(config, {"targets.specs": tuple(specs), "fusion.kind": "gated"}))
    best_first = sorted(specs, key=lambda spec: -alone[spec].validation["mrr"])
    sets = [best_first[:most] for most in MOST if most < len(specs)] + [specs]
    sets += [specs[::-1][::step] for step in APART if len(specs) > 2 * step]
    candidates = [{"targets.specs": (*chosen, *([latents] if latents else []))} for chosen in sets]
    fused = choose(split, config, candidates)
    taken = {"targets.specs": fused.alignment.config.targets.specs}
    linear = {**taken, **LINEAR}
    choices = {(LATENTS if spec == latents else spec): choice for spec, choice in alone.items()}
    choices |= {GATE: gate, FUSED: fused}
    choices[PERMUTED] = choose(split.permuted(config.align.seed), with_settings(config, taken))
    choices[RIDGE] = choose(split, with_settings(config, linear))
    choices[PREDICTED] = choose(split, with_settings(config, ENCODING), candidates)
    rows = {row: _row([choice], held_out) for row, choice in choices.items()}
    if members > 1:  # seeds far apart, so that no member is another seed's
        seeds = [config.align.seed + 1000 * k for k in range(1, members)]
        others = [choose(split, with_settings(config, {**taken, "align.seed": seed})) for seed in seeds]
        rows[TOGETHER] = _row([fused, *others], held_out)
    weights = dict(zip(specs, gate.alignment.hvf.gate.tolist(), strict=True))
    return {
        "note": split.note,
        "members": members,
        "image_ids": list(held_out.image_ids),
        "rows": rows,
        "gate": weights,
        "best_layer": best_first[0],
        "gate_layer": max(weights, key=lambda spec: weights[spec]),
    }


def _row(choices: list[Choice], held_out: HeldOut) -> dict:
    """Ranks by all choices together; what validation said is their mean, what was chosen the first's."""
    chosen = {name: list(v) if isinstance(v, tuple) else v for name, v in choices[0].settings.items()}
    validation = {key: float(np.mean([choice.validation[key] for choice in choices])) for key in choices[0].validation}
    return {"ranks": held_out.ranks(*choices).tolist(), "validation": validation, "chosen": chosen}


KEYS = ("top1", "top5", "mrr")


def _table(found: list[dict], specs: list[str]) -> dict:
    """Figures of every row over all seeds or splits; where sweep and gate found the best layer."""
    ids = [name for one in found for name in one["image_ids"]]
    rows: dict[str, dict] = {}
    for row in found[0]["rows"]:
        parts = [one["rows"][row] for one in found]
        summary = retrieval.summarise(np.concatenate([part["ranks"] for part in parts]), ids)
        rows[row] = {key: summary[key] for key in KEYS}
        rows[row]["each"] = [retrieval.topk(part["ranks"], 1) for part in parts]
        for key in ("mrr", "top1"):
            rows[row][f"validation_{key}"] = float(np.mean([part["validation"][key] for part in parts]))
    m = len(found[0]["image_ids"])
    place = {spec: i for i, spec in enumerate(specs)}
    apart = [abs(place[one["gate_layer"]] - place[one["best_layer"]]) for one in found]
    gate = {spec: float(np.mean([one["gate"][spec] for one in found])) for spec in specs}
    chosen = [one["rows"][FUSED]["chosen"]["targets.specs"] for one in found]
    best = max(specs, key=lambda spec: rows[spec]["validation_mrr"])
    return {
        "note": found[0]["note"], "layers": specs, "rows": rows, "gate": gate, "fused": chosen,
        "best_layer": [one["best_layer"] for one in found], "gate_layer": [one["gate_layer"] for one in found],
        "layers_apart": apart, "apart_on_average": abs(place[max(gate, key=lambda spec: gate[spec])] - place[best]),
        "chance": {f"top{k}": retrieval.chance(k, len(ids), m) for k in (1, 5)},
    }  # fmt: skip


def _draw(table: dict, names: tuple[str, ...], path: Path) -> None:
    """Test and validation top-1 over layers, the gate's weights, and the other rows as lines."""
    from matplotlib.figure import Figure

    rows, at = table["rows"], np.arange(len(names))
    percent = lambda key: [100 * rows[spec][key]["value"] for spec in table["layers"]]  # noqa: E731
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    figure.suptitle(fill(table["note"], 110), fontsize=7)  # simulated data are called so here
    axes = figure.subplots()
    ends = 100 * np.array([rows[spec]["top1"]["ci95"] for spec in table["layers"]])
    axes.fill_between(at, ends[:, 0], ends[:, 1], alpha=0.2, color="C0", linewidth=0)
    axes.plot(at, percent("top1"), "o-", color="C0", label="one layer, test")
    axes.plot(at, [100 * rows[s]["validation_top1"] for s in table["layers"]], "o:", color="C7", label="validation")
    for row, colour in (
        (PREDICTED, "C6"),
        (TOGETHER, "C5"),
        (FUSED, "C3"),
        (GATE, "C2"),
        (RIDGE, "C1"),
        (LATENTS, "C4"),
        (PERMUTED, "0.6"),
    ):
        if row in rows:
            axes.axhline(100 * rows[row]["top1"]["value"], color=colour, linestyle="--", linewidth=1.2, label=row)
    axes.set_xticks(at, names)
    axes.set(xlabel="layer", ylabel="top-1 % (validation among fewer images)", ylim=(0, 100))
    below = axes.twinx()
    below.bar(at, [table["gate"][spec] for spec in table["layers"]], width=0.4, color="C2", alpha=0.25)
    below.set(ylim=(0, 4), yticks=(0, 1), ylabel="gate")
    figure.legend(fontsize=7, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, format="png", dpi=160)


def _show(table: dict, repeated: str) -> None:
    shown = Table(title=f"{table['note']}; {repeated}", title_justify="left")
    for column in ("target", "top-1 % [95 %]", "each", "top-5 %", "validation MRR", "gate"):
        shown.add_column(column, justify="left" if column == "target" else "right", overflow="fold")
    for row, entry in table["rows"].items():
        value, (low, high) = entry["top1"]["value"], entry["top1"]["ci95"]
        cells = [f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"]
        cells += [" ".join(f"{100 * v:.1f}" for v in entry["each"]), f"{100 * entry['top5']['value']:.1f}"]
        gate = f"{table['gate'][row]:.2f}" if row in table["gate"] else ""
        shown.add_row(row, *cells, f"{entry['validation_mrr']:.3f}", gate)
    chance = [f"{100 * table['chance'][k]['value']:.1f}" for k in ("top1", "top5")]
    shown.add_row("chance", chance[0], "", chance[1], "", "")
    Console().print(shown)
    apart = ", ".join(str(n) for n in table["layers_apart"])
    print(f"layers from the sweep's best to the gate's: {apart}; on average over all, {table['apart_on_average']}")


def main(arguments: Sequence[str] | None = None) -> int:
    known = {name: lambda name=name: Sweep(presets.get(name), name) for name in presets.PRESETS}
    return run_script(lambda argv: print(f"wrote {sweep(parse_preset(known, argv))}"), arguments)


if __name__ == "__main__":
    sys.exit(main())
