"""Which sensors and latencies carry it: maps and time courses of what an analysis left in the run folder.

sensors.json is a list of {"title", "how", "ch_names", "values": one per sensor}, with "positions", [x, y] in m, if
names are not of the 10-05 system or CTF's. windows.json is a list of {"title", "how", "chance": a value or null,
"windows": [{"tmin", "tmax" (s), "value", "ci95": [low, high] or null, "top5": optional, columns per image}]}.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hvf.config import HvfError
from hvf.report.folder import Folder

STRONGEST = 5  # sensors named in words


def time_courses(folder: Folder) -> list[dict[str, Any]]:
    """Each list of windows as lines on a 100 × 100 field: the value, its interval, chance."""
    plots = []
    for course in _listed(folder, "windows.json", ("title", "windows")):
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
                "best": f"{value[best]:.3g} at {_ms(windows[best])}",
            }
        )
    return plots


def sensor_maps(folder: Folder) -> list[dict[str, Any]]:
    """Each list of sensors as a topographic picture (data URI; "" where positions are unknown) and in words."""
    maps = []
    for told in _listed(folder, "sensors.json", ("title", "ch_names", "values")):
        values, names = np.array(told["values"], dtype=float), list(told["ch_names"])
        if len(values) != len(names):
            raise HvfError(f"{folder.path / 'sensors.json'} has {len(names)} sensors but {len(values)} values")
        order = np.argsort(-np.abs(values))[:STRONGEST]
        positions = _positions(names, told.get("positions"))
        maps.append(
            {
                "title": told["title"],
                "how": told.get("how", ""),
                "uri": "" if positions is None else _topomap(values, positions),
                "strongest": ", ".join(f"{names[i]} ({values[i]:+.3g})".replace("-", "−") for i in order),
            }
        )
    return maps


def _listed(folder: Folder, name: str, needed: Sequence[str]) -> list[Mapping[str, Any]]:
    told = folder.json(name) or []
    if not isinstance(told, list) or not all(isinstance(t, dict) and all(key in t for key in needed) for t in told):
        raise HvfError(f"{folder.path / name} should be a list of objects with {', '.join(needed)}")
    return told


def _positions(names: Sequence[str], given: Sequence[Sequence[float]] | None) -> np.ndarray | None:
    """(n, 2) in metres, seen from above: given, of the 10-05 system, or of CTF's layout; None if any is unknown."""
    if given is not None:
        return np.array(given, dtype=float)
    import mne

    # MNE 1.13 gave standard_1005 another name.
    system = next(n for n in ("colin27_1005", "standard_1005") if n in mne.channels.get_builtin_montages())
    montage = mne.channels.make_standard_montage(system)
    if {name.upper() for name in montage.ch_names}.issuperset(name.upper() for name in names):
        info = mne.create_info(list(names), 100.0, "eeg")
        info.set_montage(montage, match_case=False, verbose="error")
        layout = mne.channels.find_layout(info)
        centre = layout.pos[:, :2] + layout.pos[:, 2:] / 2
        return (centre - centre.mean(axis=0)) / np.ptp(centre, axis=0) * 0.17
    layout = mne.channels.read_layout("CTF-275")
    place = {name.split("-")[0]: pos[:2] + pos[2:] / 2 for name, pos in zip(layout.names, layout.pos, strict=True)}
    short = [name.split("-")[0] for name in names]
    if not all(name in place for name in short):
        return None
    centre = np.array([place[name] for name in short])
    return (centre - centre.mean(axis=0)) / np.ptp(centre, axis=0) * 0.17


def _topomap(values: np.ndarray, positions: np.ndarray) -> str:
    import mne
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4, 3.4), dpi=110)
    figure.patch.set_alpha(0)
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    signed = values.min() < 0 < values.max()
    limit = float(np.abs(values).max()) or 1.0
    mne.viz.plot_topomap(
        values,
        positions,
        axes=axes,
        show=False,
        contours=4,
        cmap="RdBu_r" if signed else "viridis",
        vlim=(-limit, limit) if signed else (float(values.min()), float(values.max())),
        sphere=(0.0, 0.0, 0.0, 0.095),
    )
    for line in axes.lines:
        line.set_color("#8a919c")  # readable on light and on dark paper
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": ""})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _ms(window: Mapping[str, Any]) -> str:
    return f"{1000 * window['tmin']:.0f}–{1000 * window['tmax']:.0f} ms"


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.2f},{b:.2f}" for a, b in zip(x, y, strict=True))
