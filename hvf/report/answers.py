"""The page of `hvf decode`: each trial with its first answers, how sure they are, and what was drawn."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hvf import runs
from hvf.evaluation.catalogue import label
from hvf.experiments.decoding import Decoded
from hvf.experiments.live import State
from hvf.report.folder import words
from hvf.report.pages import environment
from hvf.report.pictures import COLUMNS, data_uri, sheet

SHOWN = 5  # answers of each trial on the page
MOST = 500  # trials on the page


def write_page(decoded: Decoded, path: Path) -> None:
    """Write the page, one file that holds everything, with thumbnails where the gallery has pictures."""
    text = environment().get_template("answers.html.j2").render(**describe(decoded))
    runs.write_atomic(path, lambda tmp: tmp.write_text(text, encoding="utf-8", errors="replace"))


def write_live_page(latest: Mapping[str, State], path: Path) -> None:
    """A page that reloads itself: what was drawn of each stimulus so far, the latest first."""
    cards = []
    for state in reversed(list(latest.values())):
        answers, picture = state.answers, state.picture_HWC
        cards.append(
            {
                "name": state.stimulus,
                "count": state.presentations,
                "nothing": bool(answers.says_nothing_N[0]),
                "drawn": "" if picture is None else data_uri(Image.fromarray(picture), lossless=False),
                "first": words(answers.gallery.ids[answers.top_NK[0, 0]]),
            }
        )
    text = environment().get_template("live.html.j2").render(cards=cards)
    runs.write_atomic(path, lambda tmp: tmp.write_text(text, encoding="utf-8", errors="replace"))


def describe(decoded: Decoded) -> dict[str, Any]:
    """All that the template says."""
    answers, summary = decoded.answers, decoded.summary
    n = min(len(decoded.trials.names), MOST)
    listed = sorted({int(column) for row in answers.top_NK[:n, :SHOWN] for column in row})
    place = {column: i for i, column in enumerate(listed)}
    images = decoded.images
    thumbs = {} if images is None else {i: [partial(images.__getitem__, column)] for column, i in place.items()}
    return {
        "title": f"Answers to {Path(summary['trials']).name}",
        "simulated": summary["simulated"],
        "decoder": Path(summary["decoder"]).name,
        "gallery": summary["gallery"],
        "gallery_size": summary["gallery_size"],
        "n": summary["n_trials"],
        "notes": summary["notes"],
        "figures": _headline(decoded),
        "calibrated": bool(answers.calibrated),
        "level": f"{answers.level:.0%}",
        "cards": [_card(decoded, i, place) for i in range(n)],
        "sheet": sheet(thumbs) if thumbs else "",
        "listed": len(listed),
        "columns": min(COLUMNS, len(listed)),
        "sheet_rows": -(-len(listed) // COLUMNS),
        "version": summary["code"],
    }


def _headline(decoded: Decoded) -> list[dict[str, str]]:
    """The figures at the top: size of the sets, trials that say nothing, and accuracy where images are known."""
    answers, summary = decoded.answers, decoded.summary
    figures = []
    if answers.calibrated:
        text = f"{summary['mean_set_size']:.1f}"
        figures.append({"text": text, "label": f"images in a set of {answers.level:.0%}, on average", "beside": ""})
        beside = f"of {summary['n_trials']}"
        figures.append({"text": str(summary["says_nothing"]), "label": "trials that say nothing", "beside": beside})
    row = "brain" if answers.gallery.scaling.name == "cosine" else answers.gallery.scaling.name
    for name in (f"retrieval/{row}/top1", f"retrieval/{row}/top5", f"confidence/{row}/coverage"):
        entry = summary["metrics"].get(name)
        if entry:
            what = "of sets hold the image" if name.endswith("coverage") else f"{label(name)} of {entry['n']} known"
            low, high = entry["ci95"]
            interval = f"{low:.1%} to {high:.1%}"
            figures.append({"text": f"{entry['value']:.1%}", "label": what, "beside": interval})
    return figures


def _card(decoded: Decoded, i: int, place: dict[int, int]) -> dict[str, Any]:
    answers = decoded.answers
    known, target = bool(answers.known_N[i]), int(answers.target_N[i])
    found = []
    for rank in range(min(SHOWN, answers.top_NK.shape[1])):
        column, p = int(answers.top_NK[i, rank]), float(answers.probability_NK[i, rank])
        sure = not np.isnan(p)
        found.append(
            {
                "column": place[column],
                "name": words(answers.gallery.ids[column]),
                "right": known and column == target,
                "in_set": bool(answers.in_set_NK[i, rank]) or not answers.calibrated,
                "share": round(100 * p, 1) if sure else None,
                "text": f"{p:.1%}" if sure else f"{answers.similarity_NK[i, rank]:.3f}",
            }
        )
    truth = ""
    if known:
        truth = f"seen: {words(answers.gallery.ids[target])}, rank {answers.rank_N[i]}"
    elif decoded.trials.image_ids[i] and answers.known_N.any():  # else they name stimuli rather than images
        truth = f"seen: {words(decoded.trials.image_ids[i])}, which is not in the gallery"
    drawn = ""
    if decoded.drawn_NHWC is not None:
        drawn = data_uri(Image.fromarray(decoded.drawn_NHWC[i]), lossless=False)
    repeats = int(answers.repeats_N[i])
    sets = f"set of {answers.set_size_N[i]}" if answers.calibrated else ""
    averaged = f"{repeats} trials" if repeats > 1 else ""
    return {
        "name": f"trial {decoded.trials.names[i]}",
        "sure": " · ".join(part for part in (averaged, sets) if part),
        "nothing": bool(answers.says_nothing_N[i]),
        "answers": found,
        "truth": truth,
        "drawn": drawn,
    }
