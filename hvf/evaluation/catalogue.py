"""Figures by name: their labels, which way is better, where their chance stands, and which of them cannot be right.

A figure's name is a path, as in metrics.json: SECTION/ROW/NAME, such as "reconstruction/brain/pixcorr", and
"chance/SECTION/NAME" for what guessing gives. NAME is a registered metric (`hvf.evaluation.metrics`), or "two_way_" and
an encoder's name. Importing this imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from hvf.evaluation.metrics.base import PictureMetric, RetrievalMetric, TwoWayMetric
from hvf.registry import METRICS

# Whether the right thing was drawn, then the field's order of columns; metrics that are not among them follow.
FIRST = "kind_top1"
COLUMNS = (
    FIRST,
    *("pixcorr", "ssim", "alexnet2", "alexnet5", "inception", "clip", "effnet", "swav", "lpips", "dreamsim", "dino"),
)

MEANINGS = {
    "top1": "how often the seen image comes first in the gallery",
    "top5": "how often it is among the first five",
    "top10": "how often it is among the first ten",
    "mrr": "mean of 1 / rank: 1 if all come first, .5 if all come second",
    "rank": "place of the seen image in the gallery, 1 the first",
    "median_rank": "half of the seen images come at this place or before",
    "one_to_one": "how often the match is right where every image is given once, to all trials together",
    "top1_gain": "the share above that of plain cosines, of the same trials",
    "top5_gain": "the share above that of plain cosines, of the same trials",
    "coverage": "how often the seen image is in the set that was given; it should be the share that was asked for",
    "set_size": "images in such a set: the fewer, the surer the decoder",
    "says_nothing": "trials that lie no nearer to an image than trials that carry nothing do",
    "ece": "how far the probabilities are from how often they are right",
    "kind_top1": "how often a network that had no part in drawing reads the right kind of object from the picture",
    "pixcorr": "correlation of the pixels: layout and colours, not what is shown; backgrounds that are alike raise it",
    "ssim": "likeness of local contrast and structure; smooth pictures score high whatever they show",
    "alexnet2": "two-way in an early layer of AlexNet: edges, colours, textures",
    "alexnet5": "two-way in a late layer of AlexNet: parts and shapes",
    "inception": "two-way in Inception v3: what kind of thing it is",
    "clip": "two-way in CLIP ViT-L/14: what it is, as words would say it",
    "effnet": "distance in EfficientNet-B1: 0 if both show the same to it",
    "swav": "distance in SwAV: 0 if both show the same to it",
    "lpips": "perceived difference of patches, by AlexNet",
    "dreamsim": "difference as people judge it, by an ensemble fitted to their judgements",
    "dino": "cosine in DINO: 1 if both show the same to it",
}


def picture_metrics() -> dict[str, PictureMetric]:
    """The metrics of reconstruction, in the order of a table's columns."""
    names = [*COLUMNS, *(name for name in METRICS if name not in COLUMNS)]
    return {name: METRICS[name] for name in names if isinstance(METRICS[name], PictureMetric)}


def retrieval_metrics() -> dict[str, RetrievalMetric]:
    """The metrics of retrieval."""
    return {name: METRICS[name] for name in METRICS if isinstance(METRICS[name], RetrievalMetric)}


def is_share(name: str) -> bool:
    """Whether the figure is a share of all queries, shown in per cent."""
    name = leaf(name).removeprefix("validation_")
    return name in METRICS and METRICS[name].share


def leaf(name: str) -> str:
    """reconstruction/brain/pixcorr -> pixcorr."""
    return name.rpartition("/")[2]


def label(name: str) -> str:
    """The figure's name in a table."""
    name = leaf(name)
    if name.startswith("two_way_"):
        return f"two-way ({name.removeprefix('two_way_')})"
    if name.startswith("validation_"):
        return f"validation {label(name.removeprefix('validation_'))}"
    return METRICS[name].label if name in METRICS else name


def number(value: float | None, name: str = "") -> str:
    """0.4321 -> "0.432"; shares in per cent; what is undefined as a dash."""
    if value is None or math.isnan(value):
        return "–"
    if is_share(name):
        return f"{100 * value:.1f} %"
    if leaf(name) in ("rank", "median_rank"):
        return f"{value:g}" if value == int(value) else f"{value:.1f}"
    return f"{value:.3f}".replace("-", "−")


def meaning(name: str) -> str:
    """How to read the figure, in a sentence without a full stop; "" for one that says nothing of itself."""
    name = leaf(name)
    if is_two_way(name) and name not in MEANINGS:
        return "how often the drawn picture is nearer to what was seen than to another picture, in this network"
    return MEANINGS.get(name, "")


def lower_is_better(name: str) -> bool:
    """Whether a smaller figure is the better one."""
    name = leaf(name)
    return name in METRICS and METRICS[name].lower_is_better


def is_two_way(name: str) -> bool:
    """Whether the figure is a two-way identification, whose chance is one half."""
    name = leaf(name)
    return name.startswith("two_way_") or (name in METRICS and isinstance(METRICS[name], TwoWayMetric))


def is_proportion(name: str) -> bool:
    """Whether the figure lies between 0 and 1: a share of all queries, or a two-way identification."""
    return is_share(name) or is_two_way(name)


def is_transductive(name: str) -> bool:
    """Whether the figure takes all test trials at once, so that it compares with no figure of single trials."""
    return name.startswith("transductive/") or leaf(name) == "one_to_one"


def rows_of(metrics: Mapping[str, Any], section: str) -> list[str]:
    """The rows of a section, in order: retrieval/csls floor/top1 is one of the row "csls floor"."""
    names = (name.partition("/")[2].rpartition("/")[0] for name in metrics if name.startswith(f"{section}/"))
    return list(dict.fromkeys(names))


def chance_name(name: str) -> str:
    """Where the chance level of a figure stands: "retrieval/brain/top1" -> "chance/retrieval/top1"."""
    return f"chance/{name.partition('/')[0]}/{leaf(name)}"


def findings(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Warnings about figures that cannot be right: a floor above chance, a brain no better than chance.

    A chance that may reach 1 (top-10 among a dozen images) says nothing about either, and is passed over.
    """
    sentences = []
    for name, chance in metrics.items():
        _, high = chance.get("ci95") or (0, 1)
        if not re.fullmatch("chance/[^/]+/[^/]+", name) or high >= 1:
            continue
        _, section, figure = name.split("/")
        brain = metrics.get(f"{section}/brain/{figure}")
        what = f"{section}, {label(figure)}"
        guessed = f"{number(chance['value'], figure)}, by luck up to {number(high, figure)}"
        for row in rows_of(metrics, section):
            floor = metrics.get(f"{section}/{row}/{figure}") if row.split(" ")[-1] == "floor" else None
            if floor and floor["value"] > high:
                scaled = "" if row == "floor" else f" ({row.removesuffix(' floor')})"
                value = number(floor["value"], figure)
                sentences.append(f"{what}{scaled}: permuted trials score {value}, above chance ({guessed})")
        if brain and brain["value"] <= high:
            value = number(brain["value"], figure)
            sentences.append(f"{what}: the brain scores {value}, no better than chance ({guessed})")
    return sentences
