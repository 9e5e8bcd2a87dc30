"""Figures of a population's alignment: accuracy of every row, and the maps by place, by scale and by neuron."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hvf.experiments.results import Result
from hvf.runs import write_atomic

MAIN = "DINA"
COLOURS = {MAIN: "C0", "HVF, contrastive": "C2", "ridge": "C1", "DINA, permuted": "0.7"}
Draw = Callable[[Result, Mapping[str, Any], Any], None]  # of the result and the analysis, on a figure


def draw_all(result: Result, analysis: Mapping[str, Any], folder: Path) -> None:
    """Draw each figure alone, and all of them on one page with the rows: population.png."""
    from matplotlib.figure import Figure

    def save(figure: Figure, name: str) -> None:
        write_atomic(folder / f"{name}.png", lambda path: figure.savefig(path, format="png", dpi=160))

    for name, draw, size in (
        ("places", _draw_places, (6.4, 2.8)),
        ("scales", _draw_scales, (7.2, 3.0)),
        ("neurons", _draw_neurons, (9.0, 3.1)),
    ):
        figure = Figure(figsize=size, layout="constrained")
        draw(result, analysis, figure)
        save(figure, name)
    page = Figure(figsize=(11, 6.8), layout="constrained")
    halves: Any = page.subfigures(2, 1, height_ratios=(1, 1))
    above, below = halves
    panels = [*above.subfigures(1, 2, width_ratios=(1, 1.45)), *below.subfigures(1, 2, width_ratios=(1, 1.75))]
    draws: tuple[Draw, ...] = (_draw_rows, _draw_scales, _draw_places, _draw_neurons)
    for letter, panel, draw in zip("abcd", panels, draws, strict=True):
        draw(result, analysis, panel)
        panel.text(0.0, 1.0, letter, fontsize=12, fontweight="bold", va="top")
    save(page, "population")


def _draw_rows(result: Result, _: Mapping[str, Any], figure: Any) -> None:
    """Top-1 of every row with its interval, and chance."""
    axes = figure.subplots()
    rows = list(result.rows)[::-1]
    values = _percent([result.rows[row].figures["top1"] for row in rows])
    axes.barh(rows, values[0], color=[COLOURS.get(row, "#9ec5e3") for row in rows], height=0.7)
    errors = np.abs(values[1:] - values[0])
    axes.errorbar(values[0], np.arange(len(rows)), xerr=errors, fmt="none", ecolor="0.2", elinewidth=1, capsize=2)
    axes.axvline(_chance(result), color="0.3", linestyle=":", linewidth=1)
    axes.set(xlabel="top-1 %, dotted: chance")
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_places(_: Result, analysis: Mapping[str, Any], figure: Any) -> None:
    """Where in the image: retrieval by one place of the maps, and the best encoder's explained variance there."""
    places = analysis["places"][MAIN]
    chance = analysis["chance_mrr"]
    maps = [("retrieved by one place", np.asarray(places["place_mrr_SS"]), chance, "mean reciprocal rank")]
    if "explained_KSS" in places:
        explained_KSS = np.asarray(places["explained_KSS"])
        best = int(explained_KSS.mean(axis=(1, 2)).argmax())
        name = _encoder(analysis["encoders"][best])
        maps.append((f"{name} reconstructed", 100 * explained_KSS[best], 0.0, "explained variance, %"))
    for axes, (title, map_SS, low, unit) in zip(np.ravel(figure.subplots(1, len(maps))), maps, strict=True):
        picture = axes.imshow(map_SS, cmap="magma", vmin=low, vmax=max(map_SS.max(), low + 1e-9))
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize=9)
        figure.colorbar(picture, ax=axes, shrink=0.8, label=f"{unit} (from chance)" if low else unit)


def _draw_scales(result: Result, analysis: Mapping[str, Any], figure: Any) -> None:
    """Coarse against fine: top-1 from some bands of the maps, and variance explained in each band."""
    left, right = figure.subplots(1, 2)
    scales = analysis["scales"][MAIN]
    at = np.arange(len(scales["low"]))
    for key, colour, label in (
        ("low", "C0", "this and coarser"),
        ("high", "C3", "this and finer"),
        ("band", "0.4", "this alone"),
    ):
        _line(left, at, scales[key], colour, label)
    left.axhline(_chance(result), color="0.6", linestyle=":", linewidth=1)
    left.set(ylabel="top-1 %", ylim=(0, None))
    left.set_title("bands of the shared map", fontsize=9)
    encoders, explained_KB = analysis["encoders"], scales.get("explained_KB", ())
    n_layers = len([name for name in encoders if name != "latents"])
    for k, (name, explained_B) in enumerate(zip(encoders, explained_KB, strict=False)):
        colour = "C4" if name == "latents" else f"{0.75 - 0.75 * k / max(1, n_layers - 1):.2f}"
        right.plot(at, 100 * np.asarray(explained_B), "o-", color=colour, markersize=4, label=_encoder(name))
    right.axhline(0, color="0.6", linestyle=":", linewidth=1)
    right.set(ylabel="explained variance, %")
    right.set_title("bands of the frozen maps", fontsize=9)
    for axes in (left, right):
        axes.set(xlabel="half-cycles across the image", xticks=at)
        axes.legend(fontsize=7, frameon=False)


def _draw_neurons(result: Result, analysis: Mapping[str, Any], figure: Any) -> None:
    """Each neuron's contribution against its strength, how few are enough, and the places of the best."""
    neurons = analysis["neurons"]
    drop_C, strength_C = np.asarray(neurons["drop"]), np.asarray(neurons["strength"])
    first, second, third = figure.subfigures(1, 3, width_ratios=(1, 1, 1.15))
    axes = first.subplots()
    axes.scatter(strength_C, 1000 * drop_C, s=14, color="C0", alpha=0.7, linewidth=0)
    axes.axhline(0, color="0.6", linestyle=":", linewidth=1)
    rho, (low, high) = neurons["strength_rho"]["value"], neurons["strength_rho"]["ci95"]
    axes.set_title(f"leaving one neuron out\nSpearman's ρ {rho:.2f} [{low:.2f}, {high:.2f}]", fontsize=9)
    axes.set(xlabel="mean response", ylabel="cosine lost, × 10⁻³")
    axes = second.subplots()
    for how, colour, label in (("kept", "C0", "only these"), ("dropped", "C3", "all but these")):
        counts = sorted((int(k), entry) for k, entry in neurons[how].items())
        _line(axes, [k for k, _ in counts], [entry for _, entry in counts], colour, label)
    axes.set_xscale("log", base=2)
    axes.axhline(_chance(result), color="0.6", linestyle=":", linewidth=1)
    axes.set(xlabel="neurons that contribute most", ylabel="top-1 %", ylim=(0, None))
    axes.set_title("how many neurons\n(their order is from validation)", fontsize=9)
    axes.legend(fontsize=7, frameon=False)
    drop_CSS = np.asarray(neurons["drop_map"])
    best = np.argsort(-drop_C)[:9]
    most = np.abs(drop_CSS[best]).max()
    third.suptitle("places of the nine that\ncontribute most", fontsize=9)
    for axes, c in zip(np.ravel(third.subplots(3, 3)), best, strict=False):
        axes.imshow(drop_CSS[c], cmap="RdBu_r", vmin=-most, vmax=most)
        axes.set(xticks=[], yticks=[])


def _line(axes: Any, x: Any, entries: Sequence[Mapping[str, Any]], colour: str, label: str) -> None:
    """Figures in percent over x, with their intervals as a band."""
    values = _percent(entries)
    axes.plot(x, values[0], "o-", color=colour, markersize=4, label=label)
    axes.fill_between(x, values[1], values[2], color=colour, alpha=0.15, linewidth=0)


def _percent(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Values and both ends of their intervals, (3, len(entries)), in percent."""
    return 100 * np.array([[entry["value"], *entry["ci95"]] for entry in entries]).T


def _chance(result: Result) -> float:
    return 100 * result.chance["top1"]["value"]


def _encoder(name: str) -> str:
    return name if name == "latents" else f"layer {name}"
