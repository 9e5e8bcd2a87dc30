"""Figures and pictures against the number of trials averaged, as the page takes them."""

from __future__ import annotations

import math
from typing import Any

from hvf.report.folder import Folder
from hvf.report.pictures import evenly_spaced, strips

SHOWN = {"top1": "found first", "coverage": "sets that hold the image", "pixcorr": "PixCorr"}
STRIP = 8  # images whose pictures sharpen


def evidence(folder: Folder) -> dict[str, Any]:
    """Curves, table and strips; {} for a folder without `repeats.json`."""
    found = folder.evidence
    if not found:
        return {}
    lines = found["repeats"]
    counts = [line["trials"] for line in lines]
    names = [name for name in SHOWN if all(name in line["figures"] for line in lines)]
    drawn = [stage for stage in folder.stages if stage.startswith("trials_") and stage in folder.pictures]
    stages = ["seen", *drawn] if drawn and "seen" in folder.pictures else []
    last = folder.column("reconstruction/brain/pixcorr") if stages else {}
    chosen, _ = evenly_spaced(last, folder.pictures["seen"], STRIP) if stages else ([], False)
    names_of = [folder.names.get(i, str(i)) for i in chosen]
    return {
        "columns": [SHOWN[name] for name in names],
        "lines": [{"trials": line["trials"], "cells": [_cell(line["figures"][n]) for n in names]} for line in lines],
        "curves": [_curve(SHOWN[name], counts, [line["figures"][name] for line in lines]) for name in names],
        "chance": f"{found['chance']['top1']['value']:.1%}",
        "strips": [
            {"uri": uri, "width": width, "height": height, "name": name}
            for (uri, width, height), name in zip(strips(folder.pictures, stages, chosen), names_of, strict=True)
        ],
        "stages": [folder.stages[stage] for stage in stages],
        "draws": found["draws"],
    }


def _cell(entry: dict[str, Any]) -> dict[str, str]:
    low, high = entry["ci95"]
    return {"text": f"{entry['value']:.3f}", "ci": f"{low:.3f} to {high:.3f}"}


def _curve(title: str, counts: list[int], entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Points in a square of 100, the number of trials on a logarithmic axis, values from 0 to 1."""
    span = math.log(counts[-1] / counts[0]) or 1.0
    x = [100 * math.log(r / counts[0]) / span for r in counts]

    def y(value: float) -> float:
        return 100 - 100 * min(1.0, max(0.0, value))

    low, high = ([y(entry["ci95"][side]) for entry in entries] for side in (0, 1))
    band = [*zip(x, high, strict=True), *reversed(list(zip(x, low, strict=True)))]
    points = [*zip(x, (y(entry["value"]) for entry in entries), strict=True)]
    return {
        "title": title,
        "line": " ".join(f"{a:.1f},{b:.1f}" for a, b in points),
        "band": " ".join(f"{a:.1f},{b:.1f}" for a, b in band),
        "from": f"{counts[0]} trial{'s' if counts[0] > 1 else ''}",
        "to": f"{counts[-1]} trials",
    }
