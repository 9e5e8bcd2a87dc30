"""How does accuracy grow with data? Top-1 against training images, repeats and subjects, with a log-linear fit.

    python brain_training/scaling.py [--subject 8] [--axes trials repeats subjects]     the simulated study
    python brain_training/scaling.py --trials X.npy --images Z.zip --axes trials        yours

Axes: ``trials``: a random half, quarter, ... of the training concepts; ``repeats``: trials averaged per training image
(simulated; the test trials stay the same); ``subjects``: how many other people are trained on, tested on this one.
Each point is fitted with a network (the configuration's) and with ridge; epoch and penalty are chosen on validation
concepts. The fit is accuracy = a + b log2(amount); the interval of b draws test images again, all points with the same
draw. Writes scaling.json and scaling.png.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from hvf import presets
from hvf.cli.options import parse_preset, recording_name, repeats, run_script, study_settings
from hvf.config import SUBJECTS, Config, HvfError, check_files, with_settings
from hvf.evaluation import retrieval
from hvf.experiments.protocols import LINEAR, HeldOut, Split, choose, open_split
from hvf.runs import Run, write_atomic

DRAWS = 2000
NAMES = {"trials": "training images", "repeats": "repeats of an image, averaged", "subjects": "other subjects"}
Axis = Literal["trials", "repeats", "subjects"]


@dataclass(frozen=True)
class Scaling:
    """Accuracy against the amount of data, for a network and for ridge."""

    config: Annotated[Config, tyro.conf.arg(name="")]  # every setting of the preset
    preset: str = "mini"  # a whole configuration: mini, things-eeg, things-meg
    subject: int | None = None  # whose responses, the same as --data.subject
    trials: Path | None = None  # your own responses; with --images the same as --data.study files --data.trials FILE
    images: Path | None = None  # the images they answer, in the same order: folder or zip
    axes: tuple[Axis, ...] = ("trials",)  # what to have less of
    points: int = 5  # halvings of the amount, the whole included
    seeds: int = 3  # simulated: training seeds and subsets; files: random splits too
    out: Path | None = None  # where to (default: a readable name in runs/)


def scale(options: Scaling) -> Path:
    """Fit and test every point of every axis, write fits and picture, and return their folder."""
    settings = study_settings(options.subject, options.trials, options.images)
    config = with_settings(options.config, {**settings, "align.mode": "retrieval"})
    check_files(config)
    if config.data.study not in SUBJECTS and set(options.axes) - {"trials"}:
        raise HvfError("repeats and subjects are counted in a simulated study; your own files have --axes trials")
    seeds = repeats(config, options.seeds)
    if options.points < 3:
        raise HvfError(f"a line needs at least three points: --points 5, not {options.points}")
    run = Run.create(options.out or Path("runs") / f"{recording_name(config)}-scaling", config)
    found: dict[str, list[dict]] = {}
    for axis in options.axes:
        for repeat, one in seeds.items():
            name = f"{axis}-{repeat}-{options.points}.json"
            if not run.has(name):
                run.write_json(name, _one_seed(one, axis, options.points))
            found.setdefault(axis, []).append(run.read_json(name))
    told = {axis: _fitted(seeds) for axis, seeds in found.items()}
    run.write_json("scaling.json", told)
    write_atomic(run.path / "scaling.png", lambda path: _draw(told, recording_name(config), path))
    for axis, models in told.items():
        for model, fit in models.items():
            low, high = fit["slope"]["ci95"]
            points = "  ".join(
                f"{n:g}: {100 * v['value']:.1f}" for n, v in zip(fit["amounts"], fit["top1"], strict=True)
            )
            slope = f"{100 * fit['slope']['value']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points a doubling"
            print(f"{axis:9} {model:8} {slope}, R² {fit['r2']:.2f}; top-1 % {points}")
    return run.path


def _one_seed(config: Config, axis: Axis, points: int) -> dict:
    """{model: [{amount, ranks}, ...]} of one seed or split."""
    linear = with_settings(config, LINEAR)
    out: dict[str, Any] = {"network": [], "ridge": []}
    for amount, split, held_out in _amounts(config, axis, points):
        for model, settings in (("network", config), ("ridge", linear)):
            ranks_N = held_out.ranks(choose(split, settings))
            out[model].append({"amount": amount, "ranks": ranks_N.tolist()})
        out["image_ids"] = list(held_out.image_ids)
    return out


def _amounts(config: Config, axis: Axis, points: int) -> list[tuple[float, Split, HeldOut]]:
    """(how much, what may be fitted, what is held out) from little to all."""
    specs = config.targets.specs
    rng = np.random.default_rng(config.align.seed)
    if axis == "repeats":
        counts = sorted({max(1, config.data.train_repeats >> i) for i in range(points)})
        return [(n, *open_split(with_settings(config, {"data.train_repeats": n}), specs)) for n in counts]
    split, held_out = open_split(config, specs, "loso" if axis == "subjects" else "intra")
    if axis == "subjects":
        people = rng.permutation(SUBJECTS[config.data.study] - 1)
        person_N = np.arange(len(split.trials)) // (len(split.trials) // len(people))
        counts = sorted({max(1, len(people) >> i) for i in range(points)})
        return [(n, split.select(np.flatnonzero(np.isin(person_N, people[:n]))), held_out) for n in counts]
    concepts, concept_N = np.unique(split.concept_N, return_inverse=True)
    order = rng.permutation(len(concepts))
    parts = []
    for i in reversed(range(points)):
        rows = np.flatnonzero(np.isin(concept_N, order[: len(concepts) >> i]))
        parts.append((len(rows), split.select(rows), held_out))
    return parts


def _fitted(seeds: list[dict]) -> dict[str, dict]:
    """For each model: amounts, top1 of each, and the slope over log2(amount) with its bootstrap interval."""
    ids = [name for one in seeds for name in one["image_ids"]]
    names, image_N = np.unique(ids, return_inverse=True)
    draws = np.random.default_rng(0).integers(len(names), size=(DRAWS, len(names)))
    weights_DI = np.stack([np.bincount(draw, minlength=len(names)) for draw in draws])
    weights_DN = weights_DI[:, image_N] / np.maximum(weights_DI[:, image_N].sum(axis=1, keepdims=True), 1)
    told = {}
    for model in ("network", "ridge"):
        amounts = [float(np.mean([one[model][i]["amount"] for one in seeds])) for i in range(len(seeds[0][model]))]
        right_PN = np.stack(
            [np.concatenate([np.asarray(one[model][i]["ranks"]) <= 1 for one in seeds]) for i in range(len(amounts))]
        ).astype(float)
        x = np.log2(amounts)
        mean_P = right_PN.mean(axis=1)
        slope, start = np.polyfit(x, mean_P, 1)
        slopes_D = np.polyfit(x, (weights_DN @ right_PN.T).T, 1)[0]
        residual = np.square(mean_P - (start + slope * x)).sum()
        told[model] = {
            "amounts": amounts,
            "top1": [retrieval.interval(right_N, ids) for right_N in right_PN],
            "slope": {"value": float(slope), "ci95": np.percentile(slopes_D, [2.5, 97.5]).tolist(), "n": len(names)},
            "intercept": float(start),
            "r2": float(1 - residual / max(np.square(mean_P - mean_P.mean()).sum(), 1e-12)),
        }
    return told


def _draw(told: dict, who: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(told), 3.8), layout="constrained")
    figure.suptitle(who, fontsize=8)  # of a simulated study it says that it is one
    for axes, (axis, models) in zip(np.atleast_1d(figure.subplots(1, len(told))), told.items(), strict=True):
        for colour, (model, fit) in zip(("C0", "C1"), models.items(), strict=True):
            x, y = np.array(fit["amounts"]), 100 * np.array([entry["value"] for entry in fit["top1"]])
            ends = 100 * np.array([entry["ci95"] for entry in fit["top1"]])
            low, high = fit["slope"]["ci95"]
            slope = f"{100 * fit['slope']['value']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] a doubling"
            axes.errorbar(x, y, [y - ends[:, 0], ends[:, 1] - y], fmt="o", color=colour, label=f"{model}: {slope}")
            axes.plot(x, 100 * (fit["intercept"] + fit["slope"]["value"] * np.log2(x)), color=colour)
        axes.set_xscale("log", base=2)
        axes.set(xlabel=NAMES[axis], ylabel="top-1 %", ylim=(0, None))
        axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, format="png", dpi=160)


def main(arguments: Sequence[str] | None = None) -> int:
    known = {name: lambda name=name: Scaling(presets.get(name), name) for name in presets.PRESETS}
    return run_script(lambda argv: print(f"wrote {scale(parse_preset(known, argv))}"), arguments)


if __name__ == "__main__":
    sys.exit(main())
