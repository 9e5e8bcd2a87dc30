"""Layer sweep: how well each layer of a vision model serves as a target for the brain, alone and fused.

Rows of the result: every layer alone, a learned gate over all of them, VAE latents, HVF over several layers and
latents, an ensemble of such HVFs, HVF on permuted trials, ridge, and an encoding model. Which layers are fused, the
epoch and the penalties are chosen on validation concepts (`hvf.experiments.protocols`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from rich.table import Table

from hvf.alignment.members import ENCODING, LINEAR
from hvf.config import Config, HvfError, check_files, with_settings
from hvf.experiments.protocols import choose, open_split, repeats
from hvf.experiments.repeated import each_repeat, open_folder, table_of_rows, write_combined
from hvf.experiments.results import Result
from hvf.runs import Run, write_atomic
from hvf.schema.bounds import EachOnce
from hvf.vision.specs import parse_spec

GATE, FUSED, PERMUTED, RIDGE, LATENTS = "gate over layers", "layers and latents (HVF)", "permuted", "ridge", "latents"
PREDICTED, TOGETHER = "responses predicted", "several HVFs together"
LARGEST = (2, 3, 5)  # candidates for the fusion: so many of the best layers; all layers are one as well
STEPS = (2, 3)  # and every second or third layer from the last one down: neighbouring layers are redundant
COLOURS = {PREDICTED: "C6", TOGETHER: "C5", FUSED: "C3", GATE: "C2", RIDGE: "C1", LATENTS: "C4", PERMUTED: "0.6"}
FILE = "layers.json"


@dataclass(frozen=True)
class LayerSweep:
    """Comparison of the layers of a vision model as targets for the brain.

    `run` writes the `Result`; layers.json with the gate's weights, the layers that were fused, and the best layer by
    the sweep and by the gate; and layers.png.
    """

    backbone: str = "openclip:mini-vit"  # a feature spec without layer and pool
    layers: EachOnce[str] = ("0", "1", "2", "3")  # of the backbone, from shallow to deep
    pool: str = "mean"  # how a layer becomes a vector: cls, mean, flat, gridK
    latents: str | None = "vae:mini"  # fused with the layers; None leaves them out
    members: int = 1  # above 1: so many HVFs over layers and latents in a row, by their mean similarity
    seeds: int = 3  # simulated: training seeds; files: random splits

    def run(self, config: Config, out: Path | None = None) -> Path:
        """Fit and test every row on every seed or split, write results and figure, and return their folder."""
        specs, latents = self._specs()
        config = with_settings(config, {"align.mode": "retrieval", "targets.specs": (*specs, *latents)})
        check_files(config)
        configs = repeats(config, self.seeds)
        if self.members < 1:
            raise HvfError(f"--members must be at least 1, not {self.members}")
        if len(specs) < 2:
            raise HvfError("a sweep needs at least two layers: --layers 0 1")
        run = open_folder(out, config, "layers")
        results = each_repeat(run, configs, self._one_repeat, {"members": self.members})
        combined = write_combined(run, results)
        sweep = _sweep(results, combined, specs)
        run.write_json(FILE, sweep)
        write_atomic(run.path / "layers.png", lambda path: _draw(combined, sweep, self.layers, path))
        return run.path

    def summary(self, folder: Path) -> Iterator[Table | str]:
        """The table of all rows, and how far the gate's layer is from the best one."""
        sweep = Run.open(folder).read_json(FILE)
        gate = {spec: f"{weight:.2f}" for spec, weight in sweep["gate"].items()}
        yield table_of_rows(Result.read(folder), {"gate": gate})
        apart = ", ".join(str(n) for n in sweep["layers_apart"])
        yield f"layers from the sweep's best to the gate's: {apart}; on average over all, {sweep['apart_on_average']}"

    def _specs(self) -> tuple[list[str], list[str]]:
        """The specs of the layers, and of the latents, if there are any."""
        specs = [str(parse_spec(f"{self.backbone}@{layer}:{self.pool}")) for layer in self.layers]
        return specs, [str(parse_spec(self.latents))] if self.latents else []

    def _one_repeat(self, run: Run) -> Result:
        """Choose and test every row for one seed or split."""
        config, (specs, latents) = run.config, self._specs()
        split, held_out = open_split(config, (*specs, *latents))
        alone = {spec: choose(split, with_settings(config, {"targets.specs": (spec,)})) for spec in (*specs, *latents)}
        gate = choose(split, with_settings(config, {"targets.specs": tuple(specs), "fusion.kind": "gated"}))
        best_first = sorted(specs, key=lambda spec: -alone[spec].validation["mrr"])
        sets = [best_first[:most] for most in LARGEST if most < len(specs)] + [specs]
        sets += [specs[::-1][::step] for step in STEPS if len(specs) > 2 * step]
        candidates = [{"targets.specs": (*layers, *latents)} for layers in sets]
        fused = choose(split, config, candidates)
        chosen = {"targets.specs": fused.alignment.config.targets.specs}
        choices = {(LATENTS if spec in latents else spec): [choice] for spec, choice in alone.items()}
        choices |= {GATE: [gate], FUSED: [fused]}
        choices[PERMUTED] = [choose(split.permuted(config.align.seed), with_settings(config, chosen))]
        choices[RIDGE] = [choose(split, with_settings(config, chosen | LINEAR))]
        choices[PREDICTED] = [choose(split, with_settings(config, ENCODING), candidates)]
        if self.members > 1:  # seeds far apart, so that no member is another repeat's
            seeds = [config.align.seed + 1000 * k for k in range(1, self.members)]
            others = [choose(split, with_settings(config, {**chosen, "align.seed": seed})) for seed in seeds]
            choices[TOGETHER] = [fused, *others]
        result = held_out.result("layers", config, run=run.path.name, main=FUSED)
        for row, members in choices.items():
            result = result.with_row(row, held_out.row(*members))
        weights = dict(zip(specs, gate.alignment.hvf.gate.tolist(), strict=True))
        return result.with_details(
            gate=weights, best_layer=best_first[0], gate_layer=max(weights, key=lambda spec: weights[spec])
        )


def _sweep(results: Sequence[Result], combined: Result, specs: Sequence[str]) -> dict[str, Any]:
    """The gate's mean weights, the layers fused in each repeat, and how many layers lie between the two best ones."""
    details = [result.details for result in results]
    place = {spec: i for i, spec in enumerate(specs)}
    gate = {spec: float(np.mean([each["gate"][spec] for each in details])) for spec in specs}
    best = max(specs, key=lambda spec: combined.rows[spec].validation["mrr"])
    return {
        "layers": specs,
        "gate": gate,
        "fused": [chosen["targets.specs"] for chosen in combined.rows[FUSED].chosen],
        "best_layer": [each["best_layer"] for each in details],
        "gate_layer": [each["gate_layer"] for each in details],
        "layers_apart": [abs(place[each["gate_layer"]] - place[each["best_layer"]]) for each in details],
        "apart_on_average": abs(place[max(gate, key=lambda spec: gate[spec])] - place[best]),
    }


def _draw(result: Result, sweep: Mapping[str, Any], names: Sequence[str], path: Path) -> None:
    """Draw test and validation top-1 over layers, the gate's weights, and the other rows as lines."""
    from matplotlib.figure import Figure

    rows, at = result.rows, np.arange(len(names))
    top1 = [rows[spec].figures["top1"] for spec in sweep["layers"]]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    figure.suptitle(fill(result.study.note, 110), fontsize=7)  # it says so if the data are simulated
    axes = figure.subplots()
    ends = 100 * np.array([entry["ci95"] for entry in top1])
    axes.fill_between(at, ends[:, 0], ends[:, 1], alpha=0.2, color="C0", linewidth=0)
    axes.plot(at, [100 * entry["value"] for entry in top1], "o-", color="C0", label="one layer, test")
    validation = [100 * rows[spec].validation["top1"] for spec in sweep["layers"]]
    axes.plot(at, validation, "o:", color="C7", label="validation")
    for row, colour in COLOURS.items():
        if row in rows:
            value = 100 * rows[row].figures["top1"]["value"]
            axes.axhline(value, color=colour, linestyle="--", linewidth=1.2, label=row)
    axes.set_xticks(at, names)
    axes.set(xlabel="layer", ylabel="top-1 % (validation among fewer images)", ylim=(0, 100))
    below = axes.twinx()
    below.bar(at, [sweep["gate"][spec] for spec in sweep["layers"]], width=0.4, color="C2", alpha=0.25)
    below.set(ylim=(0, 4), yticks=(0, 1), ylabel="gate")
    figure.legend(fontsize=7, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, format="png", dpi=160)
