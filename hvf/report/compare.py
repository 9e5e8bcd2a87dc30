"""Two runs on the same images: which is better, by how much, and whether chance would do it.

Letter: N images. Each image is its own control: what is tested is the difference of its two scores. The interval draws
images again (percentile bootstrap); p is that of exchanging the two runs within images (sign flips), two-sided. Where
several figures are tested, p is corrected after Holm (1979): the chance that any of the differences called real is
none stays at 5 % or less. The test speaks for other images of the kind, not for other subjects or training seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hvf.config import HvfError
from hvf.data.images.matching import without_ending
from hvf.evaluation.catalogue import label, leaf, lower_is_better
from hvf.experiments.descriptions import OF_NAMES
from hvf.report.folder import Folder

LEVEL = 0.05
RESAMPLES = 9999
AT_ONCE = 250  # resamplings held in memory together
RANKED = ("top1", "top5", "mrr")  # of retrieval: figures that are means over images


@dataclass(frozen=True)
class Difference:
    """One figure of two runs: their means, B minus A with its 95 % interval, p, p corrected after Holm, and N."""

    figure: str
    a: float
    b: float
    difference: float
    ci95: tuple[float, float]
    p: float
    p_holm: float
    n: int

    @property
    def better(self) -> str:
        """ "A", "B", or "" where the corrected test does not tell them apart."""
        if self.p_holm > LEVEL or self.difference == 0:
            return ""
        return "B" if (self.difference > 0) != lower_is_better(self.figure) else "A"


@dataclass(frozen=True)
class Comparison:
    """Two runs and the differences of what both measured. ``refused`` says why they cannot be paired, if so."""

    a: Folder
    b: Folder
    differences: Sequence[Difference] = ()
    refused: str = ""

    @property
    def verdict(self) -> str:
        """Which is better, in a sentence."""
        if self.refused:
            return f"not compared: {self.refused}"
        wins = {side: [label(d.figure) for d in self.differences if d.better == side] for side in "AB"}
        names = {"A": self.a.name, "B": self.b.name}
        of = f"{len(self.differences)} figure{'s' if len(self.differences) > 1 else ''}"
        if not wins["A"] and not wins["B"]:
            return f"{names['A']} and {names['B']} cannot be told apart: none of {of} differs after correction"
        if wins["A"] and wins["B"]:
            each = "; ".join(f"{names[side]} in {', '.join(wins[side])}" for side in "AB")
            return f"neither is better throughout: {each}"
        side, other = ("A", "B") if wins["A"] else ("B", "A")
        return f"{names[side]} is better than {names[other]} in {len(wins[side])} of {of}: {', '.join(wins[side])}"


def compare(a: Folder, b: Folder) -> Comparison:
    """Test every figure per image that both have, of the brain's pictures and of retrieval."""
    try:
        order = _same_images(a, b)
    except HvfError as error:
        return Comparison(a, b, refused=str(error))
    tested: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for figure in _figures(a):
        if figure not in _figures(b):
            continue
        of_a, of_b = a.column(figure), b.column(figure)
        pairs = [(of_a.get(i, math.nan), of_b.get(j, math.nan)) for i, j in enumerate(order)]
        x_N, y_N = np.array([pair for pair in pairs if not any(map(math.isnan, pair))]).reshape(-1, 2).T
        if len(x_N) > 1:
            tested[figure] = (x_N, y_N)
    if not tested:
        return Comparison(a, b, refused="the two have no figure per image in common")
    p = {figure: paired_p(x_N, y_N) for figure, (x_N, y_N) in tested.items()}
    corrected = holm(p)
    differences = [
        Difference(
            figure,
            float(x_N.mean()),
            float(y_N.mean()),
            float((y_N - x_N).mean()),
            paired_interval(x_N, y_N),
            p[figure],
            corrected[figure],
            len(x_N),
        )
        for figure, (x_N, y_N) in tested.items()
    ]
    return Comparison(a, b, differences)


def paired_p(x_N: np.ndarray, y_N: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of the mean difference when the two scores of any image may be exchanged; exact below 14 images."""
    from scipy.stats import permutation_test

    difference_N = np.asarray(y_N, dtype=np.float64) - np.asarray(x_N, dtype=np.float64)
    if not difference_N.any():
        return 1.0
    test = permutation_test(
        (difference_N, -difference_N),  # exchanging a pair flips the sign of its difference
        lambda d, _, axis: d.mean(axis=axis),
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=AT_ONCE,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def paired_interval(x_N: np.ndarray, y_N: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % of the mean difference y - x over images drawn again."""
    from scipy.stats import bootstrap

    difference_N = np.asarray(y_N, dtype=np.float64) - np.asarray(x_N, dtype=np.float64)
    if np.ptp(difference_N) == 0:
        return float(difference_N[0]), float(difference_N[0])
    rng = np.random.default_rng(seed)
    interval = bootstrap(
        (difference_N,), np.mean, n_resamples=RESAMPLES, method="percentile", batch=AT_ONCE, rng=rng
    ).confidence_interval
    return float(interval.low), float(interval.high)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p values corrected for their number after Holm (1979)."""
    corrected, highest = {}, 0.0
    for rank, name in enumerate(sorted(p, key=p.__getitem__)):
        highest = max(highest, min(1.0, (len(p) - rank) * p[name]))
        corrected[name] = highest
    return {name: corrected[name] for name in p}


def _figures(folder: Folder) -> list[str]:
    """Figures per image of the brain, without the rank, whose mean nobody reports."""
    keys = [key for key in folder.scores if "/brain/" in key]
    drawn = [key for key in keys if leaf(key) != "rank"]
    return ([f"retrieval/brain/{name}" for name in RANKED] if "retrieval/brain/rank" in keys else []) + drawn


def _same_images(a: Folder, b: Folder) -> list[int]:
    """For each image of A its row in B. HvfError if the two are not about the same images."""
    ids_a, ids_b = ([str(without_ending(name)) for name in folder.ids] for folder in (a, b))
    if all(len(set(map(_unfoldered, ids))) == len(ids) for ids in (ids_a, ids_b)):
        ids_a, ids_b = (list(map(_unfoldered, ids)) for ids in (ids_a, ids_b))  # aircraft/01b.jpg is 01b.png
    for folder, ids in ((a, ids_a), (b, ids_b)):
        if not ids:
            raise HvfError(f"{folder.name} does not say which images its scores are of")
        if len(set(ids)) < len(ids):
            raise HvfError(f"{folder.name} names an image twice")
    lacking = [name for name in ids_a if name not in set(ids_b)]
    more = [name for name in ids_b if name not in set(ids_a)]
    if lacking or more:
        first = lacking[0] if lacking else more[0]
        where = (b if lacking else a).name
        raise HvfError(
            f"{a.name} and {b.name} are about different images ({len(set(ids_a) & set(ids_b))} in common; {where} "
            f"lacks {first}): a paired test needs the same ones"
        )
    digests = [folder.result.study.test_digest if folder.result else "" for folder in (a, b)]
    seen = [digest for digest in digests if digest and not digest.startswith(OF_NAMES)]
    if len(set(seen)) > 1:
        raise HvfError(f"{a.name} and {b.name} saw different images under the same names")
    row = {name: i for i, name in enumerate(ids_b)}
    return [row[name] for name in ids_a]


def _unfoldered(name: str) -> str:
    return name.rpartition("/")[2]
