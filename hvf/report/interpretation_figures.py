"""Figures of an interpretation (`hvf.experiments.interpretation`): interpretation.png and embedding.png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hvf.experiments.interpretation import FIGURE
from hvf.report.sensors import draw_bars, draw_topography, limits_of, ms

LOST = "reciprocal rank lost"
ONLY = ("only low-level", "shared", "only semantic")
COLOURS = dict(zip(ONLY, ("#2a7fb8", "0.6", "#c8553d"), strict=True))


def draw_interpretation(result: Mapping[str, Any], title: str, path: Path) -> None:
    """interpretation.png: sensors, sensors by time, windows, and what explains the responses."""
    from matplotlib.figure import Figure

    timed, explained = bool(result["retrained"]), "left_out" not in result["explained"]
    rows = [0.72 if timed else 1.1] + [0.85] * timed + [0.85] * (timed and explained)
    figure = Figure(figsize=(10, 3.1 * sum(rows) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=rows)[:, 0]
    top = parts[0]
    if explained and not timed:
        top, beside = parts[0].subfigures(1, 2)
        _draw_explained_embedding(beside.subplots(), result["explained"], "b")
    (_draw_heads if result["positions"] is not None else _draw_ranked)(result, top)
    if timed:
        _draw_windows(result, parts[1])
        if explained:
            _draw_explained(result["explained"], parts[2])
    figure.savefig(path, format="png", dpi=170)


def _draw_ranked(result: Mapping[str, Any], part: Any) -> None:
    axes = part.subplots()
    values, marked = lost_of(result["occlusion"]["sensor"])
    draw_bars(axes, np.array(values), result["ch_names"], np.array(marked))
    axes.tick_params(axis="y", labelsize=6)
    axes.set_xlabel(f"{LOST} without it")
    axes.set_title("a  the strongest alone (colour: p < .05, family-wise)", loc="left", fontsize=9)


def _draw_heads(result: Mapping[str, Any], part: Any) -> None:
    lost, times = result["occlusion"], result["occlusion"]["parts"]
    positions, n = np.array(result["positions"]), len(result["occlusion"]["parts"])
    grid = part.add_gridspec(1, 3 + n, width_ratios=[1.7, 0.05] + [1.0] * n + [0.05])
    values, marked = lost_of(lost["neighbours"])
    axes = part.add_subplot(grid[0])
    mixed = "\n(whitened: channels are mixtures)" if result["whitened"] else ""
    axes.set_title(f"a  {LOST} without\na sensor and its neighbours{mixed}", loc="left", fontsize=9)
    image = draw_topography(axes, np.array(values), positions, marked=np.array(marked))
    _bar(part, image, grid[1])
    every = np.array([one["lost"][FIGURE] for one in times])
    for i, one in enumerate(times):
        axes = part.add_subplot(grid[2 + i])
        axes.set_title(ms(one), fontsize=8)
        if i == 0:
            axes.set_title("b  the same, only in a window of time\n", loc="left", fontsize=9)
        image = draw_topography(axes, every[i], positions, limits_of(every))
    if times:
        _bar(part, image, grid[-1])


def _bar(part: Any, image: Any, place: Any) -> None:
    axes = part.add_subplot(place)
    axes.axis("off")
    inset = axes.inset_axes((0, 0.3, 1, 0.4))  # as high as the heads beside it
    part.colorbar(image, cax=inset).ax.tick_params(labelsize=7)


def _draw_windows(result: Mapping[str, Any], part: Any) -> None:
    left, right = part.subplots(1, 2)
    x = np.array([500 * (w["tmin"] + w["tmax"]) for w in result["retrained"]])
    entries = [w["figures"]["top1"] for w in result["retrained"]]
    _line(left, x, entries, "C0", scale=100)
    left.axhline(100 / entries[0]["n"], color="k", linestyle="--", linewidth=0.8)
    left.annotate("chance", (x[-1], 100 / entries[0]["n"]), (0, 3), textcoords="offset points", ha="right", fontsize=7)
    left.set(ylabel="top-1 %", ylim=(0, None))
    left.set_title("c  decoder retrained on one window alone", loc="left", fontsize=9)
    hidden = result["occlusion"]["window"]
    _line(right, x, hidden["figures"][FIGURE], "C3")
    right.axhline(0, color="k", linewidth=0.8)
    right.axhline(hidden["threshold"][FIGURE], color="k", linestyle=":", linewidth=0.8)
    right.annotate("p < .05, family-wise", (x[-1], hidden["threshold"][FIGURE]), (0, 3), textcoords="offset points",
                   ha="right", fontsize=7)  # fmt: skip
    right.set(ylabel=LOST)
    right.set_title("d  one window occluded", loc="left", fontsize=9)
    for axes in (left, right):
        _tidy(axes)
        axes.set_xlabel("ms after onset (centre of the window)")


def _draw_explained(explained: Mapping[str, Any], part: Any) -> None:
    left, right = part.subplots(1, 2)
    edges = 1000 * np.array(explained["edges"])
    x = (edges[:-1] + edges[1:]) / 2
    for name in ONLY:
        _line(left, x, explained["responses"][name], COLOURS[name], label=name, scale=100, marker="")
    left.axhline(0, color="k", linewidth=0.8)
    left.set(xlabel="ms after onset", ylabel="R² of responses, %")
    left.legend(fontsize=7, frameon=False)
    left.set_title("e  what explains the responses", loc="left", fontsize=9)
    _tidy(left)
    _draw_explained_embedding(right, explained, "f")


def _draw_explained_embedding(axes: Any, explained: Mapping[str, Any], letter: str) -> None:
    """R² of the brain embedding, parted, and how often it is identified from each kind of feature alone."""
    entries = [100 * explained["embedding"][name]["value"] for name in ONLY]
    start, kinds = 0.0, list(explained["identified"])
    for name, value in zip(ONLY, entries, strict=True):
        axes.barh(0, value, left=start, color=COLOURS[name], height=0.55, label=name)
        if abs(value) > 1.5:
            axes.text(start + value / 2, 0, f"{value:.0f}", ha="center", va="center", fontsize=8, color="w")
        start += value
    for i, (name, colour) in enumerate(zip(kinds, (COLOURS[ONLY[0]], COLOURS[ONLY[2]], "0.3"), strict=True)):
        entry = explained["identified"][name]
        ends = [[100 * (entry["value"] - entry["ci95"][0])], [100 * (entry["ci95"][1] - entry["value"])]]
        axes.barh(i + 1.3, 100 * entry["value"], xerr=ends, color=colour, height=0.55, alpha=0.75)
    chance = 100 / explained["identified"][kinds[0]]["n"]
    axes.plot([chance, chance], [0.9, 3.7], "k--", linewidth=0.8)
    labels = ["R² of z_b", *(f"identified: {name}" for name in kinds)]
    axes.set_yticks([0, 1.3, 2.3, 3.3], labels, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="%; dashed: chance", xlim=(min(0.0, min(entries)), None))
    axes.set_title(f"{letter}  what explains the brain embedding z_b", loc="left", fontsize=9)
    _tidy(axes)


def draw_embedding(result: Mapping[str, Any], path: Path) -> None:
    """embedding.png: brain (dots) and image (rings) of each test image, and accuracy by category; either may lack."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    plane = None if "left_out" in result["map"] else result["map"]
    accuracy = result["categories"]["accuracy"] if result["categories"] else {}
    shades = colormaps["tab20" if len(accuracy) > 10 else "tab10"]
    colour_of = {name: shades(i % shades.N) for i, name in enumerate(sorted(accuracy))}
    ratios = [1.4] * (plane is not None) + [1.0] * bool(accuracy)
    figure = Figure(figsize=(10 if len(ratios) == 2 else 6, 5.2), layout="constrained")
    panels = list(np.ravel(figure.subplots(1, len(ratios), width_ratios=ratios)))
    if plane is not None:
        n = len(plane["brain"])
        colours = [colour_of[name] for name in result["categories"]["of_image"]] if accuracy else ["C0"] * n
        _draw_map(panels[0], plane, colours, "simulated: " if result["simulated"] else "")
    if accuracy:
        _draw_categories(panels[-1], accuracy, colour_of)
    figure.savefig(path, format="png", dpi=170)


def _draw_map(axes: Any, plane: Mapping[str, Any], colours: Sequence[Any], simulated: str) -> None:
    """Both embeddings of each image in one plane, joined by a line."""
    brain_N2, image_N2 = np.array(plane["brain"]), np.array(plane["images"])
    for brain_2, image_2, colour in zip(brain_N2, image_N2, colours, strict=True):
        axes.plot(*zip(brain_2, image_2, strict=True), color=colour, linewidth=0.5, alpha=0.5, zorder=1)
    axes.scatter(*image_N2.T, s=26, facecolors="w", edgecolors=colours, linewidths=1.2, label="image", zorder=2)
    axes.scatter(*brain_N2.T, s=16, c=colours, linewidths=0, label="brain", zorder=3)
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.set_title(f"{simulated}brain (dots) and image (rings), UMAP", loc="left", fontsize=9)


def _draw_categories(axes: Any, accuracy: Mapping[str, Mapping[str, Any]], colour_of: Mapping[str, Any]) -> None:
    """Accuracy by category, of the image itself and of the category of what is retrieved first."""
    names = list(accuracy)
    at = np.arange(len(names))
    for offset, key, alpha in ((-0.2, "category", 1.0), (0.2, "top1", 0.45)):
        entries = [accuracy[name][key] for name in names]
        value = 100 * np.array([e["value"] for e in entries])
        ends = np.abs(100 * np.array([e["ci95"] for e in entries]).T - value)
        style = {"color": [colour_of[n] for n in names], "alpha": alpha, "error_kw": {"linewidth": 0.8}}
        axes.barh(at + offset, value, 0.38, xerr=ends, **style)
    for i, name in enumerate(names):
        axes.plot([100 * accuracy[name]["chance"]] * 2, [i - 0.4, i], "k--", linewidth=0.9)
    axes.set_yticks(at, [f"{name} ({accuracy[name]['top1']['n']})" for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="%", xlim=(0, 100))
    axes.set_title(
        "first is of the category (dark; dashed: chance); first is the image (light)", loc="left", fontsize=8
    )
    _tidy(axes)


def _line(
    axes: Any,
    x: np.ndarray,
    entries: Sequence[Mapping[str, Any]],
    colour: str,
    label: str = "",
    scale: float = 1,
    marker: str = "o",
) -> None:
    ends = scale * np.array([entry["ci95"] for entry in entries])
    axes.fill_between(x, ends[:, 0], ends[:, 1], color=colour, alpha=0.2, linewidth=0)
    axes.plot(x, [scale * entry["value"] for entry in entries], color=colour, marker=marker, markersize=3, label=label)


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(8)


def lost_of(part: Mapping[str, Any]) -> tuple[list[float], list[bool]]:
    """Mean losses of each occlusion, and which of them lie above the family-wise threshold."""
    values = [entry["value"] for entry in part["figures"][FIGURE]]
    return values, [value > part["threshold"][FIGURE] for value in values]
