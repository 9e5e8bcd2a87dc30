"""What figures are called, which way is better, where their chance stands, and which of them cannot be right.

A figure's name is a path, as metrics.json has it: SECTION/ROW/NAME, such as "reconstruction/brain/pixcorr", and
"chance/SECTION/NAME" for what guessing gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A reconstruction metric: its name in a table, the network and layer it looks at (none: pixels), and its formula.

    Formulas: ``two-way`` identification; ``distance``, 1 - Pearson's r; ``cosine``, ``cosine distance``; ``lpips``.
    """

    label: str
    formula: str
    network: str = ""
    layer: str = ""

    @property
    def lower_is_better(self) -> bool:
        return self.formula in ("distance", "cosine distance", "lpips")


METRICS = {
    "pixcorr": Metric("PixCorr", "pixels"),
    "ssim": Metric("SSIM", "pixels"),
    "alexnet2": Metric("AlexNet(2)", "two-way", "alexnet", "features.4"),
    "alexnet5": Metric("AlexNet(5)", "two-way", "alexnet", "features.11"),
    "inception": Metric("Inception", "two-way", "inception"),
    "clip": Metric("CLIP", "two-way", "clip"),
    "effnet": Metric("EffNet-B", "distance", "effnet"),
    "swav": Metric("SwAV", "distance", "swav"),
    "lpips": Metric("LPIPS", "lpips", "alexnet"),
    "dreamsim": Metric("DreamSim", "cosine distance", "dreamsim"),
    "dino": Metric("DINO", "cosine", "dino"),
}
RETRIEVAL = {
    "top1": "top-1",
    "top5": "top-5",
    "top10": "top-10",
    "mrr": "mAP (= MRR)",  # one right image per trial: UBP's mAP is the mean reciprocal rank
    "median_rank": "median rank",
    "rank": "rank",
    "one_to_one": "one-to-one matching (Hungarian)",
}
SHARES = ("top1", "top5", "top10", "one_to_one")  # shown in per cent


def leaf(name: str) -> str:
    """reconstruction/brain/pixcorr -> pixcorr."""
    return name.rpartition("/")[2]


def label(name: str) -> str:
    """The figure's name in a table."""
    name = leaf(name)
    if name.startswith("two_way_"):
        return f"two-way ({name.removeprefix('two_way_')})"
    return METRICS[name].label if name in METRICS else RETRIEVAL.get(name, name)


def lower_is_better(name: str) -> bool:
    """Whether a smaller figure is the better one."""
    name = leaf(name)
    return name in ("rank", "median_rank") or (name in METRICS and METRICS[name].lower_is_better)


def is_two_way(name: str) -> bool:
    """Whether the figure is a two-way identification, whose chance is one half."""
    name = leaf(name)
    return name.startswith("two_way_") or (name in METRICS and METRICS[name].formula == "two-way")


def chance_name(name: str) -> str:
    """Where the chance level of a figure stands: "retrieval/brain/top1" -> "chance/retrieval/top1"."""
    section, *_, figure = name.split("/")
    return f"chance/{section}/{figure}"


def findings(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Sentences about figures that cannot be right: a floor above chance, a brain no better than chance.

    A chance of 1 (top-10 among ten images) says nothing about either, and is passed over.
    """
    said = []
    for name, chance in metrics.items():
        if not name.startswith("chance/") or chance["value"] >= 1:
            continue
        _, section, figure = name.split("/")
        floor, brain = (metrics.get(f"{section}/{row}/{figure}") for row in ("floor", "brain"))
        high = chance["ci95"][1]
        if floor and floor["value"] > high:
            said.append(f"{section} {figure}: permuted trials score {floor['value']:.3f}, above chance ({high:.3f})")
        if brain and brain["value"] <= high:
            said.append(
                f"{section} {figure}: the brain scores {brain['value']:.3f}, no better than chance ({high:.3f})"
            )
    return said
