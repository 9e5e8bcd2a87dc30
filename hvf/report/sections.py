"""What the page says of one run: figures, pictures, failures, curves and versions, as the template takes them."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hvf.config import flatten
from hvf.data.html import data_uri
from hvf.evaluation.catalogue import FIRST, chance_name, findings, is_two_way, label, leaf, lower_is_better, meaning
from hvf.experiments.caveats import caveats
from hvf.methods import published
from hvf.report.confidence import confidence
from hvf.report.evidence import evidence
from hvf.report.folder import STAGES, Folder, main_figure, words
from hvf.report.pictures import COLUMNS, evenly_spaced, sheet, strips
from hvf.report.sensors import sensor_maps, time_courses
from hvf.report.tables import ROWS, lines_of, number, published_rows
from hvf.runs import track
from hvf.schema.run_folder import Epoch

STRIP = 8  # pictures at the top of the page
WORST = 10  # images listed as failures
GROUP = 4  # images that a group needs to be listed
GAINS = ("top1_gain", "top5_gain")  # of rows of scaled scores alone
NONE = {"text": "–", "interval": False}  # the cell of a figure that a row cannot have


def describe(folder: Folder, anchor: str, preset: str) -> dict[str, Any]:
    """All that the template says about one run. ``preset`` names whose published figures stand beside its own."""
    drawn = [stage for stage in ("seen", "ceiling", "brain") if stage in folder.pictures]
    cards, keys = _cards(folder, drawn)
    seen = folder.pictures.get("seen", {})
    chosen, by_score = evenly_spaced(folder.column(main_figure(folder)) if main_figure(folder) else {}, seen, STRIP)
    of_card = {card["index"]: card for card in cards}
    order = f"evenly spaced from the best {label(main_figure(folder))} to the worst" if by_score else "evenly spaced"
    return {
        "anchor": anchor,
        "name": folder.name,
        "title": folder.title,
        "is_run": folder.run is not None,
        "simulated": folder.simulated,
        "protocol": folder.protocol,
        "headline": _headline(folder.metrics, folder.main if folder.is_study else ""),
        "findings": findings(folder.metrics),
        "caveats": caveats(folder.config, folder.simulated) if folder.config and "brain" in folder.pictures else [],
        "is_study": folder.is_study,
        "runs": [run.name for run in folder.result.runs] if folder.result else [],
        "spread": _spread(folder),
        "bars": _bars(folder),
        "plot": _plot(folder),
        "retrieval": _table(folder, "retrieval", preset),
        "transductive": _table(folder, "transductive", preset),
        "confidence": confidence(folder),
        "evidence": evidence(folder),
        "reconstruction": _table(folder, "reconstruction", preset),
        "not_computed": [(label(name), why) for name, why in folder.evaluation.get("not_computed", {}).items()],
        "strip": [of_card[i] for i in chosen],
        "strip_how": f"{order}, not picked by eye",
        "cards": cards,
        "keys": [{"label": folder.label(key), "lower": lower_is_better(key)} for key in keys],
        "columns": [[_finite(folder.scores[key].get(card["index"])) for card in cards] for key in keys],
        "texts": [[number(folder.scores[key].get(card["index"]), key) for card in cards] for key in keys],
        "stages": [STAGES[stage] for stage in drawn],
        "missing_stages": [STAGES[s] for s in ("ceiling", "brain") if s not in drawn] if drawn else [],
        "sheet": sheet(seen) if seen and folder.gallery else "",
        "sheet_count": max(seen, default=-1) + 1,
        "sheet_columns": min(COLUMNS, max(seen) + 1) if seen else 1,
        "sheet_rows": -(-(max(seen) + 1) // COLUMNS) if seen else 1,
        "gallery_size": folder.result.gallery_size if folder.result and folder.main else 0,
        "failures": _failures(folder),
        "groups": _groups(folder),
        "curves": _curves(folder.json("history.json", list[Epoch]) or []),
        "courses": time_courses(folder),
        "maps": sensor_maps(folder),
        "settings": [(name, _setting(value)) for name, value in flatten(folder.config)] if folder.config else [],
        "data": _data(folder),
        "versions": folder.result.versions if folder.result else folder.evaluation.get("versions") or {},
    }


def _cards(folder: Folder, stages: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """One card per seen picture, or per retrieved one if there is none; and the figures they can be sorted by."""
    seen = sorted(folder.pictures.get("seen", {}))
    keys = sorted(folder.keys, key=lambda key: (leaf(key) != "pixcorr", leaf(key) == "rank"))
    ranks = folder.scores.get("retrieval/brain/rank", {})
    indices = seen or sorted(set(ranks) | {i for key in keys for i in folder.scores[key]})
    images = strips(folder.pictures, stages, seen) if seen else iter([("", 0, 0)] * len(indices))
    cards = []
    for i, (uri, width, height) in zip(track(indices, "reading pictures"), images, strict=False):
        card = {"index": i, "name": folder.names.get(i, str(i)), "uri": uri, "width": width, "height": height}
        card["retrieved"] = []
        if i in ranks:
            card["rank"] = number(ranks[i], "rank")
        if i < len(folder.top5):
            card["retrieved"] = [
                {"column": column, "name": folder.gallery_names[column], "right": column == folder.targets[i]}
                for column in folder.top5[i]
            ]
        cards.append(card)
    return cards, keys


def _headline(metrics: Mapping[str, dict], row: str = "") -> list[dict[str, Any]]:
    """The figures that a reader came for, each with its interval, and chance or the floor; of a study's main row."""
    two_way = [name for name in metrics if name.startswith("reconstruction/brain/") and is_two_way(name)]
    two_way.sort(key=lambda name: leaf(name) != "clip")  # the field's usual one first
    wanted = {
        f"reconstruction/brain/{FIRST}": "of the drawn pictures show the right kind of object, read by a network",
        "retrieval/brain/top1": "of the seen images retrieved first",
        "retrieval/brain/top5": "among the first five retrieved",
        "reconstruction/brain/pixcorr": "PixCorr of drawn and seen picture",
    }
    wanted |= {name: f"drawn picture identified against another, {label(name)}" for name in two_way[:1]}
    figures = []
    for name, text in wanted.items():
        cell = _cell(metrics.get(name), name, None)
        if cell:
            chance, floor = metrics.get(chance_name(name)), metrics.get(name.replace("/brain/", "/floor/"))
            beside = ("chance", chance) if chance else ("shuffled trials", floor)
            if is_two_way(name):
                cell |= {part: _percent(value) for part, value in _parts(metrics[name]).items()}
            value = _percent(beside[1]["value"]) if beside[1] and is_two_way(name) else None
            value = value or (number(beside[1]["value"], name) if beside[1] else None)
            text += f", by {row}" if row else ""
            figures.append({**cell, "label": text, "beside": f"{beside[0]} {value}" if value else ""})
    return figures


def _table(folder: Folder, section: str, preset: str) -> dict[str, Any] | None:
    """Rows of figures with intervals, the columns being whatever figures the section has; None if it has none."""
    lines = lines_of(folder, section, alone=True)
    columns = list(dict.fromkeys(name for line in lines for name in line.entries))
    if not columns:
        return None
    prefix = f"chance/{section}/"
    chance = {leaf(name): entry for name, entry in folder.metrics.items() if name.startswith(prefix)}
    not_run = {"ceiling": {}, "brain": {}} if section == "reconstruction" and folder.run else {}
    rows = {(line.kind, line.label): line.entries for line in lines}
    kinds = {line.kind for line in lines}
    rows |= {(kind, ROWS[kind]): entries for kind, entries in not_run.items() if kind not in kinds}
    order = [*ROWS, "row"]
    return {
        "columns": [(label(m), "lower is better" if lower_is_better(m) else "higher is better") for m in columns],
        "meanings": [(label(name), meaning(name)) for name in columns if meaning(name)],
        "lines": [
            {
                "kind": kind,
                "label": ROWS.get(kind, text),
                "cells": [_cell(entries.get(m), m, chance.get(m)) or (NONE if m in GAINS else None) for m in columns],
            }
            for (kind, text), entries in sorted(rows.items(), key=lambda item: order.index(item[0][0]))
        ]
        + [{"kind": "chance", "label": "chance", "cells": [_cell(chance.get(m), m, chance.get(m)) for m in columns]}],
        "published": [
            {
                "label": row.label.removeprefix("published: "),
                "cells": [_cell(row.entries.get(m), m, None) for m in columns],
            }
            for row in published_rows(section, columns, published(preset))
        ],
        "n": max((entry.get("n") or 0 for line in lines for entry in line.entries.values()), default=0),
    }


def _spread(folder: Folder) -> list[dict[str, Any]]:
    """For each row its top-1 and top-5 in every run; [] of one run alone."""
    if not folder.result or len(folder.result.runs) < 2:
        return []
    return [
        {"label": ROWS.get(name, name), "cells": [" · ".join(number(v, figure) for v in row.each.get(figure, ()))
                                                  for figure in ("top1", "top5")]}
        for name, row in folder.rows.items()
    ]  # fmt: skip


def _bars(folder: Folder) -> dict[str, Any] | None:
    """Top-1 of each row of a study, the best first, with its interval, its runs, and chance, on a line from 0 to 1."""
    rows = {name: row for name, row in folder.rows.items() if "top1" in row.figures} if folder.is_study else {}
    if len(rows) < 2 or not folder.result:
        return None
    chance = folder.result.chance.get("top1")
    lines = []
    for name, row in sorted(rows.items(), key=lambda item: -item[1].figures["top1"]["value"]):
        value, low, high = _parts(row.figures["top1"]).values()
        lines.append(
            {
                "label": ROWS.get(name, name),
                "text": number(value, "top1"),
                **{part: round(100 * x, 2) for part, x in (("x", value), ("x_low", low), ("x_high", high))},
                "each": [round(100 * x, 2) for x in row.each.get("top1", ())] if len(folder.result.runs) > 1 else [],
            }
        )
    return {"lines": lines, "x_chance": round(100 * chance["value"], 2) if chance else None}


def _plot(folder: Folder) -> dict[str, Any] | None:
    """The picture that a study drew of its rows: layers.png, scaling.png, population.png."""
    picture = folder.picture(f"{folder.result.kind}.png") if folder.result else None
    if picture is None:
        return None
    return {"uri": data_uri(picture, lossless=True), "width": picture.width, "height": picture.height}


def _cell(entry: Mapping[str, Any] | None, name: str, chance: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A figure as text, and where its dot, interval and chance stand on a line from 0 (or below) to 1."""
    if not entry or entry.get("value") is None:
        return None
    value, low, high = _parts(entry).values()
    cell: dict[str, Any] = {"text": number(value, name), "low": number(low, name), "high": number(high, name)}
    cell |= {"interval": bool(entry.get("ci95")), "n": entry.get("n")}
    if max(abs(value), abs(low), abs(high)) <= 1 and leaf(name) not in ("rank", "median_rank"):
        cell["x"], cell["x_low"], cell["x_high"] = (_place(v) for v in (value, low, high))
        cell["x_chance"] = _place(chance["value"]) if chance else None
        cell["x_zero"] = _place(0.0)
    return cell


def _parts(entry: Mapping[str, Any]) -> dict[str, float]:
    low, high = entry.get("ci95") or (entry["value"], entry["value"])
    return {"text": entry["value"], "low": low, "high": high}


def _place(value: float) -> float:
    """-0.2..1 to 0..100, the rest to the ends: PixCorr of a floor lies around 0, which must be visible."""
    return round(min(max((value + 0.2) / 1.2, 0.0), 1.0) * 100, 2)


def _failures(folder: Folder) -> dict[str, Any] | None:
    """The images ranked last, what came first in their place, and the images that come first too often."""
    if not folder.top5 or not folder.gallery:
        return None
    ranks, name, targets = folder.scores["retrieval/brain/rank"], folder.gallery_names, folder.targets
    first = [columns[0] for columns in folder.top5]
    worst = sorted(ranks, key=lambda i: (-ranks[i], i))[:WORST]
    wrong = Counter(c for c, target in zip(first, targets, strict=True) if c != target)
    return {
        "n": len(ranks),
        "beyond": {k: sum(rank > k for rank in ranks.values()) for k in (1, 5, 10) if k < len(folder.gallery)},
        "worst": [
            {"column": targets[i], "name": folder.names.get(i, ""), "rank": number(ranks[i], "rank"),
             "instead": first[i], "instead_name": name[first[i]]}
            for i in worst if ranks[i] > 1
        ],
        "hubs": [{"column": c, "name": name[c], "times": times} for c, times in wrong.most_common(5) if times > 2],
    }  # fmt: skip


def _groups(folder: Folder) -> dict[str, Any] | None:
    """Means of groups of images, worst first: concepts of several images, or else words that names share."""
    figure = main_figure(folder)
    scores = {i: s for i, s in folder.column(figure).items() if not math.isnan(s)} if figure else {}
    members: dict[str, set[int]] = {}
    concepts = folder.concepts
    repeated = len(set(concepts)) < len(concepts)
    for i in scores:
        groups = [words(concepts[i])] if repeated else re.findall(r"[^\W\d_]{3,}", folder.names.get(i, ""))
        for word in groups:
            members.setdefault(word, set()).add(i)
    kept = {w: ids for w, ids in members.items() if GROUP <= len(ids) < len(scores)}
    if len(kept) < 2:
        return None
    means = {word: float(np.mean([scores[i] for i in ids])) for word, ids in kept.items()}
    ordered = sorted(means, key=lambda word: means[word] * (-1 if lower_is_better(figure) else 1))
    values = list(means.values())
    low, high = min(values), max(values)

    def lines(chosen: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {"name": word, "n": len(kept[word]), "text": number(means[word], figure),
             "share": round(8 + 92 * (means[word] - low) / ((high - low) or 1), 1)}
            for word in chosen
        ]  # fmt: skip

    cut = min(6, len(ordered) // 2)
    return {
        "figure": label(figure),
        "by": "concept" if repeated else "word in the image's name",
        "mean": number(float(np.mean(list(scores.values()))), figure),
        "worst": lines(ordered[:cut]),
        "best": lines(ordered[::-1][:cut]),
    }


def _curves(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Training curves as polylines on a 100 × 100 field: loss, and validation top-1."""
    plots = []
    for title, lines in (
        ("loss", {"loss": "training", "validation_loss": "validation"}),
        ("top-1 on validation concepts", {"validation_top1": "validation"}),
    ):
        series: dict[str, list[Any]] = {text: [e.get(key) for e in history] for key, text in lines.items()}
        series = {t: v for t, v in series.items() if len(v) > 1 and all(isinstance(x, (int, float)) for x in v)}
        if not series:
            continue
        low = min(0.0, *(min(v) for v in series.values()))
        high = max(max(v) for v in series.values()) or 1.0
        x = np.linspace(0, 100, len(history))
        y = {text: 100 - 100 * (np.array(v) - low) / (high - low) for text, v in series.items()}
        best = next((i for i, e in enumerate(history) if e.get("best")), None)
        plots.append(
            {
                "title": title,
                "lines": [(t, " ".join(f"{a:.2f},{b:.2f}" for a, b in zip(x, v, strict=True))) for t, v in y.items()],
                "low": f"{low:.3g}",
                "high": f"{high:.3g}",
                "epochs": len(history),
                "best": None if best is None else best + 1,
                "x_best": None if best is None else round(float(x[best]), 2),
            }
        )
    return plots


def _data(folder: Folder) -> list[tuple[str, str]]:
    """What the run was trained and tested on, and with which networks it was measured."""
    lines: list[tuple[str, str]] = []
    if folder.result:
        study, several = folder.result.study, "different in each run"
        lines = [
            ("study", study.note or study.name),
            ("sensors", f"{len(study.ch_names)}, {study.sfreq:g} Hz"),
            ("window", " to ".join(f"{t:g} s" for t in study.window)),
            ("train images", f"{study.n_train_images}, digest {study.train_digest or several}"),
            ("test images", f"{study.n_test_images}, digest {study.test_digest or several}"),
            *([("selection", folder.result.protocol.selection)] if folder.is_study else []),
            ("runs", ", ".join(run.name for run in folder.result.runs)),
        ]
    for name, source in folder.evaluation.get("weights", {}).items():
        lines.append((f"weights of {name}", f"{source.get('network', '')}: {source.get('file', '')} "
                                           f"(sha256 {source.get('sha256', '')[:12]})"))  # fmt: skip
    for name in ("images", "recons"):
        if where := folder.evaluation.get(name):
            lines.append((name, os.path.basename(os.path.normpath(where))))
    return lines


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(f"{value:.6g}")


def _setting(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    # A page is for showing around: of a file, its name, not the folders of somebody's machine.
    return os.path.basename(value) if isinstance(value, str) and os.path.isabs(value) else str(value)
