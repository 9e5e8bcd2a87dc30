"""Accuracy against the amount of data, with a log-linear fit: top-1 = a + b log2(amount).

The amount is the number of training images (whole concepts are left out), of repeats averaged per training image
(test trials stay the same), or of other people to train on (tested on this one). Each point is fitted with the
network of the configuration and with ridge. Letters: P points, N test items, I images, D bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hvf.alignment.members import LINEAR
from hvf.config import SUBJECTS, Config, HvfError, check_files, with_settings
from hvf.evaluation import statistics
from hvf.experiments.protocols import HeldOut, Split, choose, open_split, recording_name, repeats
from hvf.experiments.repeated import each_repeat, open_folder, percent
from hvf.experiments.results import Result
from hvf.runs import Run, write_atomic

DRAWS = 2000
LEAST = 3  # concepts: two to validate on, and one to train on
Axis = Literal["trials", "repeats", "subjects"]
LABELS = {"trials": "training images", "repeats": "repeats of an image, averaged", "subjects": "other subjects"}
MODELS: dict[str, dict[str, Any]] = {"network": {}, "ridge": LINEAR}
FILE = "scaling.json"


@dataclass(frozen=True)
class Scaling:
    """Accuracy against the amount of data, for a network and for ridge.

    `run` writes the `Result`, whose rows are the points; scaling.json with the fit of each axis and model; and
    scaling.png.
    """

    axes: tuple[Axis, ...] = ("trials",)  # what to have less of
    points: int = 5  # halvings of the amount, the whole included
    seeds: int = 3  # simulated: training seeds and subsets; files: random splits too

    def run(self, config: Config, out: Path | None = None) -> Path:
        """Fit and test every point of every axis, write results, fits and figure, and return their folder."""
        config = with_settings(config, {"align.mode": "retrieval"})
        check_files(config)
        if not self.axes or len(set(self.axes)) < len(self.axes):
            raise HvfError(
                f"name at least one axis, each once: --axes {' '.join(dict.fromkeys(self.axes)) or 'trials'}"
            )
        if config.data.study not in SUBJECTS and set(self.axes) - {"trials"}:
            raise HvfError("repeats and subjects are counted in a simulated study; your own files have --axes trials")
        if "subjects" in self.axes and config.brain.people != "alike":
            raise HvfError("--axes subjects tests a person of whom nothing is known: leave --brain.people at 'alike'")
        configs = repeats(config, self.seeds)
        if self.points < 3:
            raise HvfError(f"a line needs at least three points: --points 5, not {self.points}")
        if "repeats" in self.axes and len(halvings(config.data.train_repeats, self.points)) < 3:
            raise HvfError(
                "a line needs at least three points, and halving --data.train-repeats "
                f"{config.data.train_repeats} gives fewer: have 4 or more"
            )
        run = open_folder(out, config, "scaling")
        combined, fits = [], {}
        for axis in self.axes:
            named = {f"{axis}-{name}-{self.points}": one for name, one in configs.items()}
            results = each_repeat(run, named, partial(self._one_repeat, axis))
            fits[axis] = {model: _fit(results, model) for model in MODELS}
            combined.append(Result.combined(results))
        Result.side_by_side(combined, main=combined[0].main).write(run.path)
        run.write_json(FILE, fits)
        write_atomic(run.path / "scaling.png", lambda path: _draw(fits, recording_name(config), path))
        return run.path

    def summary(self, folder: Path) -> Iterator[str]:
        """The study and chance; a line per axis and model: the slope, and top-1 at every amount."""
        result = Result.read(folder)
        yield f"{result.study.note}; chance top-1 {percent(result.chance['top1'])} %"
        for axis, models in Run.open(folder).read_json(FILE).items():
            for model, fit in models.items():
                amounts = zip(fit["amounts"], fit["top1"], strict=True)
                points = "  ".join(f"{amount:g}: {100 * top1['value']:.1f}" for amount, top1 in amounts)
                yield f"{axis:9} {model:8} {_slope(fit)} points a doubling, R² {fit['r2']:.2f}; top-1 % {points}"

    def _one_repeat(self, axis: Axis, run: Run) -> Result:
        """Fit and test every point of one seed or split."""
        points = _points(run.config, axis, self.points)
        whole, _, _, held_out = points[-1]
        training, main = "loso" if axis == "subjects" else "intra", f"network, {whole}"
        result = held_out.result("scaling", run.config, training=training, run=run.path.name, main=main)
        for name, amount, split, held_out in points:
            for model, settings in MODELS.items():
                choice = choose(split, with_settings(run.config, settings))
                row = held_out.row(choice, settings={"model": model, "amount": amount})
                result = result.with_row(f"{model}, {name}", row)
        return result


def _points(config: Config, axis: Axis, points: int) -> list[tuple[str, float, Split, HeldOut]]:
    """The points from little data to all: (name, amount, training part, test part)."""
    specs = config.targets.specs
    rng = np.random.default_rng(config.align.seed)
    if axis == "repeats":
        counts = halvings(config.data.train_repeats, points)
        each = [open_split(with_settings(config, {"data.train_repeats": n}), specs) for n in counts]
        return [(f"{n} repeats", n, *parts) for n, parts in zip(counts, each, strict=True)]
    split, held_out = open_split(config, specs, "loso" if axis == "subjects" else "intra")
    if axis == "subjects":
        people, person_N = rng.permutation(SUBJECTS[config.data.study] - 1), split.person_N
        assert person_N is not None  # trained on others: it is known whose each trial is
        counts = halvings(len(people), points)
        rows = [np.flatnonzero(np.isin(person_N, people[:n])) for n in counts]
        return [(f"{n} other subjects", n, split.select(r), held_out) for n, r in zip(counts, rows, strict=True)]
    concepts, concept_N = np.unique(split.concept_N, return_inverse=True)
    order = rng.permutation(len(concepts))
    fewest, fitting = len(concepts) >> (points - 1), (len(concepts) // LEAST).bit_length()
    if fewest < LEAST and fitting < 3:
        few = f"{len(concepts)} concepts to train on are too few for a line of three points"
        raise HvfError(f"{few}: have {4 * LEAST} or more")
    if fewest < LEAST:
        halved = f"--points {points} halves {len(concepts)} concepts to {fewest}"
        raise HvfError(f"{halved}, and {LEAST} are the fewest to train and validate on: --points {fitting}")
    parts = []
    for i in reversed(range(points)):
        rows_N = np.flatnonzero(np.isin(concept_N, order[: len(concepts) >> i]))
        name = f"1/{2**i} of the concepts" if i else "all concepts"
        parts.append((name, len(rows_N), split.select(rows_N), held_out))
    return parts


def halvings(most: int, points: int) -> list[int]:
    """A number and what is left of it after each halving, at least 1, each once and in order.

    >>> halvings(9, 5), halvings(2, 5)
    ([1, 2, 4, 9], [1, 2])
    """
    return sorted({max(1, most >> i) for i in range(points)})


def _fit(results: Sequence[Result], model: str) -> dict[str, Any]:
    """The fit of one model over all seeds or splits; amounts are their mean."""
    names = [name for name, row in results[0].rows.items() if row.settings["model"] == model]
    amounts = [float(np.mean([result.rows[name].settings["amount"] for result in results])) for name in names]
    hits = [np.concatenate([result.rows[name].hits(1) for result in results]) for name in names]
    return fit_line(amounts, np.stack(hits), [name for result in results for name in result.image_ids])


def fit_line(amounts: Sequence[float], hit_PN: np.ndarray, image_ids: Sequence[str]) -> dict[str, Any]:
    """Least-squares line of accuracy over log2(amount), with a bootstrap interval of the slope (accuracy per doubling).

    ``hit_PN`` says whether each test item was retrieved first. The bootstrap draws images, of which each may have
    several items, and all points with the same draw.
    """
    names, image_N = np.unique(image_ids, return_inverse=True)
    draws = np.random.default_rng(0).integers(len(names), size=(DRAWS, len(names)))
    weights_DI = np.stack([np.bincount(draw, minlength=len(names)) for draw in draws])
    weights_DN = weights_DI[:, image_N] / np.maximum(weights_DI[:, image_N].sum(axis=1, keepdims=True), 1)
    x, hit_PN = np.log2(amounts), hit_PN.astype(float)
    mean_P = hit_PN.mean(axis=1)
    slope, intercept = np.polyfit(x, mean_P, 1)
    slopes_D = np.polyfit(x, (weights_DN @ hit_PN.T).T, 1)[0]
    residual = np.square(mean_P - (intercept + slope * x)).sum()
    return {
        "amounts": list(amounts),
        "top1": [statistics.interval(hit_N, image_ids) for hit_N in hit_PN],
        "slope": {"value": float(slope), "ci95": np.percentile(slopes_D, [2.5, 97.5]).tolist(), "n": len(names)},
        "intercept": float(intercept),
        "r2": float(1 - residual / max(np.square(mean_P - mean_P.mean()).sum(), 1e-12)),
    }


def _slope(fit: Mapping[str, Any]) -> str:
    """The slope in percentage points, with its interval."""
    low, high = fit["slope"]["ci95"]
    return f"{100 * fit['slope']['value']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _draw(fits: Mapping[str, Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw accuracy over the amount of data, one panel per axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(fits), 3.8), layout="constrained")
    figure.suptitle(title, fontsize=8)  # the name says so if the study is simulated
    for axes, (axis, models) in zip(np.atleast_1d(figure.subplots(1, len(fits))), fits.items(), strict=True):
        for colour, (model, fit) in zip(("C0", "C1"), models.items(), strict=True):
            x, y = np.array(fit["amounts"]), 100 * np.array([entry["value"] for entry in fit["top1"]])
            ends = 100 * np.array([entry["ci95"] for entry in fit["top1"]])
            label = f"{model}: {_slope(fit)} a doubling"
            axes.errorbar(x, y, [y - ends[:, 0], ends[:, 1] - y], fmt="o", color=colour, label=label)
            axes.plot(x, 100 * (fit["intercept"] + fit["slope"]["value"] * np.log2(x)), color=colour)
        axes.set_xscale("log", base=2)
        axes.set(xlabel=LABELS[axis], ylabel="top-1 %", ylim=(0, None))
        axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, format="png", dpi=160)
