"""The report of an interpretation (`hvf.experiments.interpretation`): files for the page, and a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from rich.table import Table

from hvf.data.trials.provenance import modality
from hvf.experiments.interpretation import FIGURE
from hvf.report.interpretation_figures import LOST, ONLY, draw_embedding, draw_interpretation, lost_of
from hvf.report.sensors import limits_of, ms
from hvf.runs import Run, write_atomic

STRONGEST = 5  # sensors in the table
# Of whitened trials; Haufe et al. (2014) on filters and patterns.
MIXED = (
    "The trials are whitened, so that each channel is a mixture of all sensors: the map is one of mixtures, not of "
    "places on the head. For those prepare the trials without whitening"
)


def write_interpretation(run: Run, result: Mapping[str, Any]) -> None:
    """Write what the page shows into the run folder: sensors.json, windows.json, interpretation.png, embedding.png."""
    run.write_json("sensors.json", sensor_lists(result))
    if result["retrained"]:
        run.write_json("windows.json", window_lists(result))
    write_atomic(run.path / "interpretation.png", lambda path: draw_interpretation(result, _title(result), path))
    if result["categories"] or "left_out" not in result["map"]:
        write_atomic(run.path / "embedding.png", lambda path: draw_embedding(result, path))


def sensor_lists(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """sensors.json: what is lost without a sensor, with its neighbours first, then by time."""
    lost, names = result["occlusion"], result["ch_names"]
    where = {} if result["positions"] is None else {"positions": result["positions"]}
    common = "occluded: replaced by the mean training response, images ranked again"
    common += f". {MIXED}" if result["whitened"] else ""
    near = f"each sensor with those within {1000 * result['radius']:g} mm ({lost['neighbours_each']:.1f} on average)"
    maps = []
    for name, title, how in (
        ("neighbours", LOST.capitalize(), near),
        ("sensor", f"{LOST.capitalize()}, one sensor at a time", "each alone"),
    ):
        if name in lost:
            values, marked = lost_of(lost[name])
            how = f"{how}, {common}. Dots: more than the largest of all by chance (p < .05, family-wise)"
            maps.append({"title": title, "how": how, "ch_names": names, "values": values, "marked": marked} | where)
    limits = list(limits_of(np.array([part["lost"][FIGURE] for part in lost["parts"]] or [[0.0]])))
    for part in lost["parts"]:
        title, how = f"{LOST.capitalize()}, {ms(part)}", f"{near}, {common}, in this time alone"
        maps.append(
            {"title": title, "how": how, "ch_names": names, "values": part["lost"][FIGURE]} | where | {"limits": limits}
        )
    return maps


def window_lists(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """windows.json: retrained and occluded windows, and what explains the responses."""
    n = result["retrained"][0]["figures"]["top1"]["n"]
    retrained = [{"tmin": w["tmin"], "tmax": w["tmax"], **_entry(w["figures"]["top1"]), "top5": w["top5"]}
                 for w in result["retrained"]]  # fmt: skip
    lost = result["occlusion"]["window"]["figures"][FIGURE]
    hidden = [{"tmin": w["tmin"], "tmax": w["tmax"], **_entry(entry)}
              for w, entry in zip(result["retrained"], lost, strict=True)]  # fmt: skip
    courses = [
        {"title": "Top-1 from one window", "how": "retrained on it alone", "chance": 1 / n, "windows": retrained},
        {"title": LOST.capitalize(), "how": "the window occluded", "chance": None, "windows": hidden},
    ]
    edges = result["explained"].get("edges", [])
    for name in ONLY if edges else ():
        bins = [{"tmin": a, "tmax": b, **_entry(entry)} for a, b, entry in
                zip(edges[:-1], edges[1:], result["explained"]["responses"][name], strict=True)]  # fmt: skip
        how = "R² of all sensors' responses to test images; variance partitioning, banded ridge"
        courses.append({"title": f"Explained: {name}", "how": how, "chance": None, "windows": bins})
    return courses


def _entry(figure: Mapping[str, Any]) -> dict:
    return {"value": figure["value"], "ci95": figure["ci95"]}


def summary(result: Mapping[str, Any]) -> Iterator[Table | str]:
    """The strongest sensors and all windows in a table, and the rest in lines."""
    yield _occlusion_table(result)
    if result["whitened"]:
        yield MIXED
    if result["retrained"]:
        best = max(result["retrained"], key=lambda window: window["validation"]["mrr"])
        top1 = best["figures"]["top1"]
        yield f"retrained on one window, {ms(best)} by validation: top-1 {_interval(top1, 100)} % ({_chance(top1)})"
    explained = result["explained"]
    if "left_out" in explained:
        yield f"low-level against semantic: {explained['left_out']}"
    else:
        yield from _explained_lines(explained, timed=bool(result["retrained"]))
    if "left_out" in result["map"]:
        yield f"map of both modalities: left out, {result['map']['left_out']}"


def _title(result: Mapping[str, Any]) -> str:
    """What was recorded, of whom, and top-1 of the intact trials."""
    intact, kind = result["occlusion"]["intact"]["top1"], result["kind"]
    label = "simulated " if result["simulated"] else ""
    low, high = (100 * v for v in intact["ci95"])
    top1 = f"top-1 {100 * intact['value']:.1f} % [{low:.1f}, {high:.1f}] of {intact['n']} images"
    return f"{label}{modality(kind)}, {result['subject']}: {top1}"


def _occlusion_table(result: Mapping[str, Any]) -> Table:
    lost = result["occlusion"]
    table = Table(title=f"{_title(result)}; {LOST} without ...", title_justify="left")
    for column in ("", "without it [95 %]", "p < .05", "top-1 lost, points", "permuted"):
        table.add_column(column, justify="left" if not column else "right")

    def add(label: str, part: Mapping[str, Any], i: int) -> None:
        entry, top1 = part["figures"][FIGURE][i], part["figures"]["top1"][i]
        mark = "*" if entry["value"] > part["threshold"][FIGURE] else ""
        table.add_row(label, _interval(entry), mark, f"{100 * top1['value']:+.1f}", f"{part['permuted'][i]:+.3f}")

    for name, label in (("neighbours", "{} and neighbours"), ("sensor", "{}")):
        if name in lost:
            for i in np.argsort(-np.array(lost_of(lost[name])[0]))[:STRONGEST]:
                add(label.format(result["ch_names"][i]), lost[name], int(i))
            table.add_section()
    for i, window in enumerate(result["retrained"]):
        add(ms(window), lost["window"], i)
    return table


def _explained_lines(explained: Mapping[str, Any], timed: bool) -> Iterator[str]:
    """R² of each part and each encoder where it is largest, and identification of the brain embedding."""
    for name in (*ONLY, "both"):
        peak = int(np.argmax([entry["value"] for entry in explained["responses"][name]]))
        at = {"tmin": explained["edges"][peak], "tmax": explained["edges"][peak + 1]}
        when = f" (most, on the test images, at {ms(at)})" if timed else ""
        of = f"R² of responses {_interval(explained['responses'][name][peak])}{when}"
        yield f"{name}: {of}; of z_b {_interval(explained['embedding'][name])}"
    for spec, entries in explained["encoders"].items():
        peak = int(np.argmax([entry["value"] for entry in entries]))
        when = f", most, on the test images, at {1000 * explained['edges'][peak]:.0f} ms" if timed else ""
        yield f"{spec} alone: R² of responses {_interval(entries[peak])}{when}"
    for name, entry in explained["identified"].items():
        yield f"z_b identified by what {name} features predict: {_interval(entry, 100)} % ({_chance(entry)})"


def _chance(top1: Mapping[str, Any]) -> str:
    return f"chance {100 / top1['n']:.1f}"


def _interval(entry: Mapping[str, Any], scale: float = 1) -> str:
    digits = 1 if scale == 100 else 3
    low, high = entry["ci95"]
    return f"{scale * entry['value']:.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
