"""Topographies and time courses of a run, from the files that an analysis left in its folder.

sensors.json is a list of {"title", "how", "ch_names", "values": one per sensor}, with "positions", [x, y] in m, if
names are not of the 10-05 system or CTF's, "marked", true where a sensor stands out (a white dot), and "limits", [low,
high] of the colours where maps are to be compared. windows.json is a list of {"title", "how", "chance": a value or
null, "windows": [{"tmin", "tmax" (s), "value", "ci95": [low, high] or null, "top5": optional, columns per image}]}.
embedding.png is shown beside them.

Positions are those of `hvf.data.sensor_positions`: seen from above, nose up.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from hvf.config import HvfError
from hvf.data.html import data_uri
from hvf.data.sensor_positions import HEAD, positions_of
from hvf.report.folder import Folder
from hvf.schema.run_folder import SensorMap, TimeCourse

STRONGEST = 5  # sensors named in words
BARS = 20  # of sensors without places, so many are drawn
INK = "#8a919c"  # readable on light and on dark paper


def time_courses(folder: Folder) -> list[dict[str, Any]]:
    """Every time course of windows.json as lines on a 100 × 100 field: the value, its interval, chance."""
    plots = []
    for course in folder.json("windows.json", list[TimeCourse]) or []:
        windows = course["windows"]
        if len(windows) < 2:
            continue
        centre = np.array([(w["tmin"] + w["tmax"]) / 2 for w in windows])
        value = np.array([w["value"] for w in windows], dtype=float)
        low, high = (np.array([(w.get("ci95") or (w["value"],) * 2)[k] for w in windows], float) for k in (0, 1))
        bottom, top = min(0.0, float(low.min())), float(max(high.max(), course.get("chance") or 0.0)) or 1.0
        x = 100 * (centre - centre.min()) / (np.ptp(centre) or 1.0)
        y, y_low, y_high = (100 - 100 * (v - bottom) / (top - bottom) for v in (value, low, high))
        chance, best = course.get("chance"), int(value.argmax())
        plots.append(
            {
                "title": course["title"],
                "how": course.get("how", ""),
                "line": _points(x, y),
                "band": f"{_points(x, y_low)} {_points(x[::-1], y_high[::-1])}",
                "y_chance": None if chance is None else round(100 - 100 * (chance - bottom) / (top - bottom), 2),
                "low": f"{bottom:.3g}",
                "high": f"{top:.3g}",
                "from": f"{1000 * centre.min():.0f} ms",
                "to": f"{1000 * centre.max():.0f} ms",
                "best": f"{value[best]:.3g} at {ms(windows[best])}",
            }
        )
    return plots


def sensor_maps(folder: Folder) -> list[dict[str, Any]]:
    """Every map of sensors.json as a topography, or as bars where positions are unknown; and embedding.png."""
    maps = []
    for entry in folder.json("sensors.json", list[SensorMap]) or []:
        values, names = np.array(entry["values"], dtype=float), list(entry["ch_names"])
        if len(values) != len(names):
            raise HvfError(f"{folder.path / 'sensors.json'} has {len(names)} sensors but {len(values)} values")
        for what in ("positions", "marked"):
            if entry.get(what) is not None and len(entry[what]) != len(names):
                raise HvfError(f"{folder.path / 'sensors.json'} has {len(names)} sensors but {len(entry[what])} {what}")
        order = np.argsort(-np.abs(values))[:STRONGEST]
        places = entry.get("positions")
        positions = positions_of(names) if places is None else np.array(places, dtype=float)
        marked = np.array(entry.get("marked") or np.zeros(len(names)), dtype=bool)
        what = "ranked bars" if positions is None else "on the head, seen from above, nose up"
        maps.append(
            {
                "title": entry["title"],
                "how": entry.get("how", ""),
                "alt": f"{entry['title']}: {what}",
                "words": "Strongest: " + ", ".join(f"{names[i]} ({values[i]:+.3g})" for i in order).replace("-", "−"),
                **_square(values, names, positions, marked, entry.get("limits")),
            }
        )
    embedding = folder.picture("embedding.png")
    return [*maps, _picture(embedding)] if embedding else maps


def draw_topography(
    axes: Any,
    values: np.ndarray,
    positions: np.ndarray,
    limits: Sequence[float] | None = None,
    marked: np.ndarray | None = None,
    ink: str = "black",
) -> Any:
    """Draw a topography by MNE and return its image, for a colour bar.

    Parameters
    ----------
    axes : matplotlib Axes
        Where to draw.
    values : ndarray
        (C) A value per sensor; white is zero where there are values of both signs.
    positions : ndarray
        (C, 2) in m, as in `hvf.data.sensor_positions`.
    limits : (low, high), optional
        Those of the colours, by default those of the values.
    marked : ndarray, optional
        (C) bool, sensors with a white dot.
    ink : str
        Colour of the outlines.
    """
    import mne

    low, high = limits or limits_of(values)
    image, _ = mne.viz.plot_topomap(
        values,
        positions,
        axes=axes,
        show=False,
        contours=4,
        cmap="RdBu_r" if low < 0 else "Reds",
        vlim=(low, high),
        sphere=(0.0, 0.0, 0.0, HEAD),
        extrapolate="local",  # where there is no sensor nothing is known
        sensors=False,
        mask=None if marked is None or not marked.any() else marked,
        mask_params={"marker": "o", "markerfacecolor": "w", "markeredgecolor": "k", "markersize": 3.5, "linewidth": 0},
    )
    for line in axes.lines:
        if line.get_marker() in ("None", None, ""):
            line.set_color(ink)
    return image


def draw_bars(axes: Any, values: np.ndarray, names: Sequence[str], marked: np.ndarray | None = None) -> None:
    """Draw the strongest `BARS` sensors as ranked bars; those marked in colour."""
    order = np.argsort(-values)[:BARS]
    colours = ["C0" if marked is None or marked[i] else "0.7" for i in order]
    axes.barh(np.arange(len(order)), values[order], color=colours)
    axes.set_yticks(np.arange(len(order)), [names[i] for i in order])
    axes.invert_yaxis()
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def limits_of(values: np.ndarray) -> tuple[float, float]:
    """Limits of the colours: symmetric about zero if a tenth or more of the largest lies below it, else from zero."""
    largest = float(np.abs(values).max()) or 1.0
    return (-largest, largest) if values.min() < -0.1 * largest else (0.0, largest)


def _square(
    values: np.ndarray,
    names: Sequence[str],
    positions: np.ndarray | None,
    marked: np.ndarray,
    limits: Sequence[float] | None,
) -> dict[str, Any]:
    """{"uri", "width", "height"} of a drawing that is readable on light and dark paper."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4, 3.4), dpi=110)
    figure.patch.set_alpha(0)
    if positions is None:
        axes = figure.add_axes((0.2, 0.1, 0.75, 0.88))
        axes.patch.set_alpha(0)
        draw_bars(axes, values, names, marked if marked.any() else None)
        axes.tick_params(colors=INK, labelsize=7)
        axes.spines["bottom"].set_color(INK)
    else:
        axes = figure.add_axes((0.02, 0.1, 0.96, 0.9))
        image = draw_topography(axes, values, positions, limits, marked, INK)
        bar = figure.colorbar(image, cax=figure.add_axes((0.25, 0.06, 0.5, 0.022)), orientation="horizontal")
        bar.set_ticks([image.get_clim()[0], *([0.0] if image.get_clim()[0] < 0 else []), image.get_clim()[1]])
        bar.ax.set_xticklabels([f"{t:.2g}".replace("-", "−") for t in bar.get_ticks()])
        bar.ax.tick_params(colors=INK, labelsize=8, length=2)
        bar.outline.set_visible(False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": ""})
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"uri": uri, "width": 374, "height": 374}


def _picture(picture: Image.Image) -> dict[str, Any]:
    picture.thumbnail((900, 900))
    title = "Embeddings of brain and image in one plane"
    how = "a line joins the two of one image"
    size = {"width": picture.width, "height": picture.height}
    return {"title": title, "how": how, "alt": title, "words": "", "uri": data_uri(picture, lossless=False), **size}


def ms(window: Mapping[str, Any]) -> str:
    """A time window in words: 100–150 ms."""
    return f"{1000 * window['tmin']:.0f}–{1000 * window['tmax']:.0f} ms"


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.2f},{b:.2f}" for a, b in zip(x, y, strict=True))
