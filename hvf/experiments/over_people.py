"""Figures of drawn pictures over several people: the table that a paper prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hvf.evaluation.catalogue import is_proportion, label, lower_is_better
from hvf.evaluation.statistics import over_runs
from hvf.runs import Run
from hvf.schema.reading import read_as
from hvf.schema.run_folder import PerImage

FILE = "reconstruction.json"


def over_people(runs: Sequence[Run]) -> dict[str, Any]:
    """{"figures": {name: ...}, "chance": {name: ...}} of the pictures of several people's runs.

    An image's rounds are averaged before anything else. A figure's `value` is the mean over people, `ci95` Student's
    interval of it; `one_round` is that interval if one round alone had been drawn of each image, the mean of those of
    every round; `rounds_sd` is the standard deviation over rounds of the mean over people; `people` are their means.
    """
    metrics = [run.metrics() for run in runs]
    rounds = [read_as(PerImage, run.path / "per_image.json").get("rounds", {}) for run in runs]
    figures: dict[str, Any] = {}
    for name in [name for name in metrics[0] if name.startswith("reconstruction/")]:
        if not all(name in of_one for of_one in (*metrics, *rounds)):
            continue  # undefined for somebody
        means = [float(of_one[name]["value"]) for of_one in metrics]
        round_SR = np.array([[_mean(scores) for scores in of_one[name]] for of_one in rounds])
        singly = [over_runs(of_round, share=is_proportion(name)) for of_round in round_SR.T]
        spread = [one["ci95"] for one in singly if one["ci95"]]
        figures[name] = over_runs(means, share=is_proportion(name)) | {
            "one_round": np.mean(spread, axis=0).tolist() if spread else None,
            "rounds": round_SR.shape[1],
            "rounds_sd": float(round_SR.mean(axis=0).std(ddof=1)) if round_SR.shape[1] > 1 else None,
            "people": means,
        }
    levels = [name for name in metrics[0] if name.startswith("chance/reconstruction/")]
    chance = {
        name: {"value": float(np.mean([of_one[name]["value"] for of_one in metrics])), "ci95": None, "n": len(runs)}
        for name in levels
        if all(name in of_one for of_one in metrics)
    }
    return {"people": [run.path.name for run in runs], "figures": figures, "chance": chance}


def table(summary: Mapping[str, Any], title: str) -> str:
    """The figures of `over_people` as Markdown."""
    lines = [
        f"**{title}**",
        "",
        "| | mean over people | one round alone | sd over rounds | chance |",
        "| --- " * 5 + "|",
    ]
    for name, entry in summary["figures"].items():
        _, row, figure = name.split("/")
        chance = summary["chance"].get(f"chance/reconstruction/{figure}")
        spread = "–" if entry["rounds_sd"] is None else f"{entry['rounds_sd']:.4f}"
        arrow = "↓" if lower_is_better(figure) else "↑"
        cells = [f"{entry['value']:.3f}{_range(entry['ci95'])}", f"{entry['value']:.3f}{_range(entry['one_round'])}"]
        guessing = f"{chance['value']:.3f}" if chance else "–"
        lines.append(f"| {row}: {label(figure)} {arrow} | {' | '.join(cells)} | {spread} | {guessing} |")
    people = len(summary["people"])
    note = (
        f"{people} people: {', '.join(summary['people'])}. In brackets: Student's 95 % interval over people, of means "
        "over rounds, and as it is of one round alone."
    )
    return "\n".join([*lines, "", note, ""])


def _range(ci95: Sequence[float] | None) -> str:
    return "" if ci95 is None else f" [{ci95[0]:.3f}, {ci95[1]:.3f}]"


def _mean(scores: Sequence[float | None]) -> float:
    """Over the images where it is defined."""
    return float(np.mean([score for score in scores if score is not None]))
