"""Run folders to something one looks at: a self-contained HTML page and a grid of pictures. Only reads files.

What is read: config.json; metrics.json; per_image.json {"ids", "concepts", "scores": {metric: a number per image}};
retrieval.json {"protocol", "gallery": ids, ROW: {"target", "rank", "top5"}} (columns of the gallery, ranks from 1);
history.json, one entry per epoch; versions.json; images/{seen,ceiling,brain,floor}/NNNN_id.png. All but the first are
optional: what is missing is shown as not run. Picture NNNN is row NNNN of per_image.json and of retrieval.json.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hvf import runs
from hvf.config import HvfError, flatten

STAGES = {
    "seen": "seen",
    "ceiling": "from the image itself",
    "brain": "from the brain",
    "floor": "from shuffled trials",
}
ROWS = {
    "ceiling": "ceiling: the image's own embedding",
    "brain": "brain",
    "floor": "floor: trials shuffled",
    "chance": "chance",
}
LABELS = {
    "top1": "top-1",
    "top5": "top-5",
    "mrr": "mean reciprocal rank",
    "median_rank": "median rank",
    "pixcorr": "PixCorr",
    "ssim": "SSIM",
    "rank": "rank",
}
LOWER_IS_BETTER = ("rank", "median_rank", "effnet", "swav")
SHARES = ("top1", "top5")  # shown in per cent
ORDER_BY = "reconstruction/brain/pixcorr"  # what decides which pictures stand for the rest
LARGE, THUMB = 256, 44  # pixels: the largest picture of the page, and a retrieved one


def write_report(run_paths: Iterable[str | Path], out: str | Path) -> Path:
    """One HTML page about one or several runs, with everything inside: it asks nothing of any network.

    Raises HvfError if a path is not a run folder, a file in it cannot be read, or `out` cannot be written.
    """
    opened = [runs.Run.open(path) for path in run_paths]
    if not opened:
        raise HvfError("a report needs at least one run folder")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        runs=[_describe(run, f"run{i}") for i, run in enumerate(opened)],
        rows=ROWS,
        stages=STAGES,
        hvf_version=runs.code_version(),
    )
    out = Path(out)
    runs.write_atomic(out, lambda tmp: tmp.write_text(page, encoding="utf-8"))
    return out


def write_grid(run_path: str | Path, n_rows: int = 8) -> Path:
    """Draw RUN/grid.png: seen | from the image itself | from the brain, one image per row.

    Rows are not chosen by eye: they are evenly spaced from the best to the worst PixCorr of the brain's picture, which
    the caption says. Raises HvfError if the run holds no pictures.
    """
    run = runs.Run.open(run_path)
    pictures = _pictures(run)
    if "seen" not in pictures:
        raise HvfError(f"{run.path} has no pictures in images/seen: draw them with hvf reconstruct")
    chosen, how = _evenly_spaced(run, pictures["seen"], n_rows)
    names = _names(run, pictures["seen"])
    scores = _scores(run).get(ORDER_BY, {})
    grid = _draw_grid(
        pictures,
        [(i, names[i], f"PixCorr {scores.get(i, math.nan):.3f}" if scores else "") for i in chosen],
        f"{_title(run)}. {len(chosen)} of {len(pictures['seen'])} pictures, {how}.",
    )
    out = run.path / "grid.png"
    runs.write_atomic(out, lambda tmp: grid.save(tmp, optimize=True))
    return out


def _describe(run: runs.Run, anchor: str) -> dict[str, Any]:
    """All that the template says about one run."""
    metrics, pictures = run.metrics(), _pictures(run)
    retrieval = run.read_json("retrieval.json") if run.has("retrieval.json") else {}
    seen = pictures.get("seen", {})
    chosen, how = _evenly_spaced(run, seen, 8)
    cards, keys = _cards(run, pictures, retrieval)
    return {
        "anchor": anchor,
        "name": run.path.resolve().name,
        "title": _title(run),
        "simulated": run.simulated,
        "protocol": retrieval.get("protocol") or _protocol(run, retrieval),
        "headline": _headline(metrics),
        "retrieval": _table(metrics, "retrieval", ("brain", "floor", "chance")),
        "reconstruction": _table(metrics, "reconstruction", ("ceiling", "brain", "floor", "chance")),
        "strip": [next(card for card in cards if card["index"] == i) for i in chosen],
        "strip_how": how,
        "cards": cards,
        "sort_keys": [{"label": _label(key), "lower": _leaf(key) in LOWER_IS_BETTER} for key in keys],
        "stages": [stage for stage in ("seen", "ceiling", "brain") if stage in pictures],
        "thumbs": {i: _data_uri(path, THUMB) for i, path in seen.items()} if retrieval else {},
        "gallery_size": len(retrieval.get("gallery", ())),
        "curves": _curves(run.read_json("history.json")) if run.has("history.json") else [],
        "settings": [(name, _setting(value)) for name, value in flatten(run.config)],
        "versions": run.read_json("versions.json") if run.has("versions.json") else {},
    }


def _pictures(run: runs.Run) -> dict[str, dict[int, Path]]:
    """{stage: {index: file}} of the stages that left pictures."""
    found = {}
    for stage in STAGES:
        files = sorted((run.path / "images" / stage).glob("*.png"))
        numbered = {int(p.name.split("_")[0]): p for p in files if p.name.split("_")[0].isdigit()}
        if numbered:
            found[stage] = numbered
    return found


def _scores(run: runs.Run) -> dict[str, dict[int, float]]:
    """{metric name: {image index: score}}; undefined scores are NaN."""
    if not run.has("per_image.json"):
        return {}
    columns = run.read_json("per_image.json").get("scores", {})
    return {key: {i: math.nan if s is None else float(s) for i, s in enumerate(c)} for key, c in columns.items()}


def _names(run: runs.Run, seen: Mapping[int, Path]) -> dict[int, str]:
    """What each picture shows: its concept, or the id in its file name."""
    told = run.read_json("per_image.json") if run.has("per_image.json") else {}
    concepts = dict(enumerate(told.get("concepts") or told.get("ids") or ()))
    return {i: _words(concepts.get(i, path.stem.partition("_")[2] or path.stem)) for i, path in seen.items()}


def _evenly_spaced(run: runs.Run, seen: Mapping[int, Path], n: int) -> tuple[list[int], str]:
    """Indices of `n` pictures that stand for all, best first, and how they were chosen, in words."""
    scores = _scores(run).get(ORDER_BY, {})
    how = "evenly spaced from the best PixCorr to the worst, not picked by eye"
    if not any(i in scores for i in seen):
        how = "evenly spaced in the order of the images, not picked by eye"
    # Undefined scores come last; equal ones, and all of them without scores, in the order of the images.
    score = {i: scores.get(i, math.nan) for i in seen}
    ordered = sorted(seen, key=lambda i: (math.isnan(score[i]), -score[i] if score[i] == score[i] else 0, i))
    places = np.linspace(0, len(ordered) - 1, min(n, len(ordered))).round().astype(int)
    return [ordered[place] for place in places], how


def _cards(run: runs.Run, pictures: dict[str, dict[int, Path]], retrieval: dict) -> tuple[list[dict], list[str]]:
    """One card per seen picture, or per retrieved one if nothing was drawn; and the keys that they can be sorted by."""
    seen = pictures.get("seen", {})
    brain = retrieval.get("brain", {})
    scores = {key: column for key, column in _scores(run).items() if key.startswith("reconstruction/brain/")}
    if brain:
        scores["retrieval/brain/rank"] = dict(enumerate(brain["rank"]))
    names, gallery = _names(run, seen), retrieval.get("gallery", [])
    cards = []
    for i in runs.track(sorted(seen or range(len(brain.get("rank", ())))), "reading pictures"):
        card = {
            "index": i,
            "name": names[i] if i in names else _words(gallery[brain["target"][i]]),
            "images": [
                (s, _data_uri(pictures[s][i], LARGE)) for s in STAGES if s != "floor" and i in pictures.get(s, ())
            ],
            "scores": [
                (_label(key), _number(column.get(i), key), _sortable(column.get(i))) for key, column in scores.items()
            ],
            "retrieved": [],
        }
        if i < len(brain.get("rank", ())):
            target = brain["target"][i]
            card["rank"] = brain["rank"][i]
            card["retrieved"] = [
                {"column": c, "name": names.get(c) or _words(gallery[c]), "right": c == target}
                for c in brain["top5"][i]
            ]
        cards.append(card)
    return cards, list(scores)


def _table(metrics: Mapping[str, dict], section: str, rows: Sequence[str]) -> dict[str, Any] | None:
    """Rows of figures with their intervals, the columns being whatever metrics the section has; None if it has none."""
    found = {}
    for name, entry in metrics.items():
        words = name.split("/")
        if len(words) == 3 and words[0] == section:
            found[words[1], words[2]] = entry
        elif len(words) == 3 and words[:2] == ["chance", section]:
            found["chance", words[2]] = entry
    columns = list(dict.fromkeys(metric for row, metric in found if row != "chance"))
    if not columns:
        return None
    cells = {row: [_cell(found.get((row, m)), m, found.get(("chance", m))) for m in columns] for row in rows}
    return {
        "columns": [(_label(m), "lower is better" if m in LOWER_IS_BETTER else "higher is better") for m in columns],
        "cells": {row: line for row, line in cells.items() if row != "chance" or any(line)},
        "n": max(entry.get("n") or 0 for entry in found.values()),
    }


def _cell(entry: dict | None, metric: str, chance: dict | None) -> dict[str, Any] | None:
    """A figure as text, and where its dot, interval and chance stand on a line from 0 (or below) to 1."""
    if not entry or entry.get("value") is None:
        return None
    low, high = entry.get("ci95") or (entry["value"], entry["value"])
    cell: dict[str, Any] = {
        "text": _number(entry["value"], metric),
        "low": _number(low, metric),
        "high": _number(high, metric),
    }
    cell["interval"] = bool(entry.get("ci95"))
    cell["n"] = entry.get("n")
    if max(abs(entry["value"]), abs(low), abs(high)) <= 1:
        cell["x"], cell["x_low"], cell["x_high"] = (_place(v) for v in (entry["value"], low, high))
        cell["x_chance"] = _place(chance["value"]) if chance else None
    return cell


def _place(value: float) -> float:
    """-0.2..1 to 0..100, the rest to the ends: PixCorr of a floor lies around 0 and has to be seen there."""
    return round(min(max((value + 0.2) / 1.2, 0.0), 1.0) * 100, 2)


def _headline(metrics: Mapping[str, dict]) -> list[dict[str, Any]]:
    """The two or three figures that a reader came for, each with interval and chance."""
    wanted = [
        ("retrieval/brain/top1", "found first", "retrieval/top1"),
        ("retrieval/brain/top5", "among the first five", "retrieval/top5"),
    ]
    two_way = [name for name in metrics if name.startswith("reconstruction/brain/two_way")]
    wanted += [
        (name, f"drawn picture told from another, {_label(name)}", name.replace("/brain", "")) for name in two_way[:1]
    ]
    figures = []
    for name, text, chance in wanted:
        cell = _cell(metrics.get(name), "top1", None)
        if cell:
            guess = metrics.get(f"chance/{chance}", {}).get("value")
            figures.append({**cell, "label": text, "chance": None if guess is None else _number(guess, "top1")})
    return figures


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


def _title(run: runs.Run) -> str:
    data = run.config.data
    if data.study != "files":
        return f"Simulated {data.study.removeprefix('simulated-').upper()}, subject {data.subject}"
    name = Path(data.trials).name if data.trials else data.study
    return f"{name} (simulated)" if run.simulated else name


def _protocol(run: runs.Run, retrieval: Mapping[str, Any]) -> str:
    data = run.config.data
    way = f"{len(retrieval['gallery'])}-way, " if retrieval.get("gallery") else ""
    note = run.read_json("study.json").get("note", "") if run.has("study.json") else ""
    unseen = data.study != "files" or "split as prepared" in note
    zero_shot = "concepts unseen in training" if unseen else f"held-out images, split {data.split_seed}"
    return f"{way}within-subject, {zero_shot}, averaged trials, plain test images as gallery"


def _words(name: object) -> str:
    """checked_red_truck -> checked red truck."""
    return str(name).replace("_", " ").strip()


def _leaf(name: str) -> str:
    return name.rpartition("/")[2]


def _label(name: str) -> str:
    leaf = _leaf(name)
    return LABELS.get(leaf) or (f"two-way ({leaf.removeprefix('two_way_')})" if leaf.startswith("two_way_") else leaf)


def _number(value: float | None, name: str = "") -> str:
    """0.4321 -> "0.432"; shares in per cent; what is undefined as a dash."""
    if value is None or math.isnan(value):
        return "–"
    if _leaf(name) in SHARES:
        return f"{100 * value:.1f} %"
    return f"{value:.0f}" if _leaf(name) in ("rank", "median_rank") else f"{value:.3f}".replace("-", "−")


def _sortable(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"


def _setting(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    # A page is for showing around: of a file, its name, not the folders of somebody's machine.
    return os.path.basename(value) if isinstance(value, str) and os.path.isabs(value) else str(value)


def _data_uri(path: Path, largest: int) -> str:
    """The picture as WebP, at most `largest` pixels wide; small ones lossless, because each of their pixels counts."""
    image = _open(path)
    lossless = max(image.size) <= 128 and largest > THUMB
    image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=lossless, quality=80 if lossless else 88, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise HvfError(f"{path} cannot be read as a picture: {error}") from error


def _draw_grid(pictures: dict[str, dict[int, Path]], rows: list[tuple[int, str, str]], caption: str) -> Image.Image:
    """Rows of (index, name, score) under headed columns, with a caption below."""
    cell, gap, margin, left = 192, 12, 28, 168
    ink, grey, paper, empty = "#1b1f24", "#6b7280", "#ffffff", "#f1f3f5"
    fonts = {size: ImageFont.load_default(size) for size in (15, 17)}
    width = margin + left + 3 * (cell + gap) - gap + margin
    lines = _wrapped(caption, fonts[15], width - 2 * margin)
    top = margin + 34
    height = top + len(rows) * (cell + gap) + 12 + 21 * len(lines) + margin - 8
    grid = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(grid)
    for column, stage in enumerate(("seen", "ceiling", "brain")):
        x = margin + left + column * (cell + gap)
        draw.text((x + cell / 2, margin + 8), STAGES[stage], fill=ink, font=fonts[17], anchor="mm")
        for row, (index, _, _) in enumerate(rows):
            y = top + row * (cell + gap)
            if index in pictures.get(stage, {}):
                picture = _open(pictures[stage][index]).resize((cell, cell), Image.Resampling.BICUBIC)
                grid.paste(picture, (x, y))
            else:
                draw.rectangle((x, y, x + cell, y + cell), fill=empty)
                draw.text((x + cell / 2, y + cell / 2), "not run", fill=grey, font=fonts[15], anchor="mm")
    for row, (_, name, score) in enumerate(rows):
        y = top + row * (cell + gap) + cell / 2
        for line, (text, colour) in enumerate(
            [*((w, ink) for w in _wrapped(name, fonts[15], left - 16)), (score, grey)]
        ):
            draw.text((margin, y - 20 + 21 * line), text, fill=colour, font=fonts[15], anchor="lm")
    for line, text in enumerate(lines):
        draw.text(
            (margin, height - margin - 21 * (len(lines) - line) + 14), text, fill=grey, font=fonts[15], anchor="lm"
        )
    return grid


def _wrapped(text: str, font, width: float) -> list[str]:
    """`text` in lines of at most `width` pixels; a word longer than that is cut with an ellipsis."""
    lines = [""]
    for word in text.split():
        while font.getlength(word) > width:
            word = word[:-2] + "…"
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width else [*lines, word]
    return lines
