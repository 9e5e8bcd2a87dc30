"""How sure is an answer? Probabilities over a gallery, and sets that hold the right image with a stated probability.

The probability of a gallery item is a softmax over its cosines with the trial, divided by a temperature (Guo et al.,
arXiv 1706.04599) and, where that helps, less the item's own popularity: how near trials of other images lie to it. Both
are fitted on validation trials, whose images are known. The set of a trial takes the most probable items until their
probability reaches a threshold, the one that would have kept the right image of a stated share of the validation
trials: split conformal prediction with the cumulative probability as its score (Romano and others, arXiv 2006.02544).
Validation trials and new ones must be alike (exchangeable) for that share to hold, whatever the decoder is worth.

Letters: N trials, M gallery items, B bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from scipy.stats import binomtest

from hvf.evaluation.statistics import interval, rows_of_draws
from hvf.registry import HvfError

BINS = 10
SHARPEST = 1000.0  # a temperature is at least one thousandth of a cosine


@dataclass(frozen=True)
class Sharpness:
    """How cosines become log probabilities: ``scale * cosine - penalty * popularity``, normalised over the gallery."""

    scale: float  # 1 / temperature
    penalty: float = 0.0  # of an item's popularity; 0 where it does not help

    def logits(self, scores_NM: np.ndarray, popularity_M: np.ndarray | None = None) -> np.ndarray:
        """Unnormalised log probabilities (N, M); popularity (M,), or (N, M) if each trial has a gallery of its own."""
        logits_NM = self.scale * np.asarray(scores_NM, dtype=np.float64)
        return logits_NM if popularity_M is None or not self.penalty else logits_NM - self.penalty * popularity_M

    def probabilities(self, scores_NM: np.ndarray, popularity_M: np.ndarray | None = None) -> np.ndarray:
        """Probability (N, M) of every item, each row summing to 1."""
        return softmax(self.logits(scores_NM, popularity_M), axis=1)


def fit_sharpness(
    scores_NM: np.ndarray,
    target_N: np.ndarray,
    popularity_NM: np.ndarray | None = None,
    groups_N: np.ndarray | None = None,
    stand_for: float = 1.0,
) -> Sharpness:
    """Temperature, and penalty on popularity, under which the right items are most probable.

    Parameters
    ----------
    scores_NM : ndarray
        Cosines of validation trials with a gallery.
    target_N : ndarray of int
        Gallery index of each trial's own image.
    popularity_NM : ndarray, optional
        How near trials of other images lie to each item. The penalty stays 0 unless each half of the groups, with
        parameters of the other half, is better predicted with it, by more than twice the standard error.
    groups_N : ndarray, optional
        Trials of one group (concept) stay in one half.
    stand_for : float
        How many items each item but the trial's own stands for, where the gallery is a sample of a larger one.

    Raises
    ------
    HvfError
        If there is no trial, or a score is not finite.
    """
    scores_NM = np.asarray(scores_NM, dtype=np.float64)
    if not len(scores_NM) or not np.isfinite(scores_NM).all():
        raise HvfError("a temperature is fitted to finite scores of at least one validation trial")
    offset = math.log(stand_for)
    plain = _fit(scores_NM, target_N, None, offset)
    if popularity_NM is None or len(scores_NM) < 4:
        return plain
    popularity_NM = np.broadcast_to(popularity_NM, scores_NM.shape)
    groups_N = np.arange(len(scores_NM)) if groups_N is None else np.asarray(groups_N)
    _, group_N = np.unique(groups_N, return_inverse=True)
    gain_N = np.zeros(len(scores_NM))
    for half_N in (group_N % 2 == 0, group_N % 2 == 1):
        if not half_N.any() or half_N.all():
            return plain
        losses = []
        for popular in (None, popularity_NM):
            fitted = _fit(scores_NM[half_N], target_N[half_N], _rows(popular, half_N), offset)
            losses.append(_losses(fitted, scores_NM[~half_N], target_N[~half_N], _rows(popular, ~half_N), offset))
        gain_N[~half_N] = losses[0] - losses[1]
    helps = gain_N.mean() > 2 * gain_N.std() / math.sqrt(len(gain_N))
    return _fit(scores_NM, target_N, popularity_NM, offset) if helps else plain


def _rows(popularity_NM: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if popularity_NM is None else popularity_NM[rows]


def _fit(scores_NM: np.ndarray, target_N: np.ndarray, popularity_NM: np.ndarray | None, offset: float) -> Sharpness:
    """The maximum of the likelihood; the penalty stays 0 without popularity."""

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        sharpness = Sharpness(math.exp(x[0]), float(x[1]))
        logits_NM = _offset(sharpness.logits(scores_NM, popularity_NM), target_N, offset)
        logits_NM -= logits_NM.max(axis=1, keepdims=True)
        own_N = logits_NM[rows, target_N]
        p_NM = np.exp(logits_NM, out=logits_NM)  # as far as their sum, by which each row is divided below
        total_N = p_NM.sum(axis=1)

        def slope(x_NM: np.ndarray) -> float:
            return float((np.einsum("nm,nm->n", p_NM, x_NM) / total_N - x_NM[rows, target_N]).mean())

        by_penalty = 0.0 if popularity_NM is None else -slope(popularity_NM)
        value = float((np.log(total_N) - own_N).mean())
        return value, np.array([sharpness.scale * slope(scores_NM), by_penalty])

    rows, high = np.arange(len(target_N)), math.log(SHARPEST)
    bounds = [(-high, high), (0.0, 0.0 if popularity_NM is None else 2.0)]
    start = [math.log(10.0), 0.0 if popularity_NM is None else 0.5]
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B")
    return Sharpness(math.exp(found.x[0]), float(found.x[1]))


def _losses(
    sharpness: Sharpness,
    scores_NM: np.ndarray,
    target_N: np.ndarray,
    popularity_NM: np.ndarray | None,
    offset: float,
) -> np.ndarray:
    """Negative log probability of each trial's own item, (N,)."""
    logits_NM = _offset(sharpness.logits(scores_NM, popularity_NM), target_N, offset)
    return logsumexp(logits_NM, axis=1) - logits_NM[np.arange(len(target_N)), target_N]


def _offset(logits_NM: np.ndarray, target_N: np.ndarray, offset: float) -> np.ndarray:
    """Logits in which every item but the trial's own counts exp(offset) times."""
    logits_NM[np.arange(len(target_N)), target_N] -= offset
    return logits_NM


def popularity(scores_BM: np.ndarray, scale: float) -> np.ndarray:
    """Log mean of exp(scale * cosine) over B trials of other images, (M,): how often an item is near anyway."""
    return np.asarray(logsumexp(scale * np.asarray(scores_BM, dtype=np.float64), axis=0)) - math.log(len(scores_BM))


def mass_above(p_NM: np.ndarray, target_N: np.ndarray) -> np.ndarray:
    """Probability of all items that are more probable than each trial's own, (N,): 0 where that one comes first."""
    own_N1 = np.take_along_axis(p_NM, np.asarray(target_N)[:, None], axis=1)
    return np.where(p_NM > own_N1, p_NM, 0.0).sum(axis=1)


def conformal_threshold(mass_N: np.ndarray, level: float) -> float:
    """Smallest mass above which no more than 1 - level of validation trials had their image, counting the new trial.

    The ceil((N + 1) * level)-th smallest of the N masses; 1 (the whole gallery) where N is too small for the level.
    """
    if not 0 < level < 1:
        raise HvfError(f"the level of a set must lie between 0 and 1, not {level}")
    n = len(mass_N)
    k = max(1, math.ceil((n + 1) * level - 1e-9))
    return 1.0 if k > n else float(np.sort(mass_N)[k - 1])


def set_sizes(p_NM: np.ndarray, threshold: float) -> np.ndarray:
    """How many items each trial's set holds, (N,): those with at most `threshold` of the probability above them.

    The most probable item is in every set, and all of a tie or none.
    """
    sizes_N = np.empty(len(p_NM), dtype=int)
    for i, p_M in enumerate(p_NM):
        sorted_M = np.sort(p_M)[::-1]
        above_M = np.concatenate([[0.0], np.cumsum(sorted_M)[:-1]])
        n = int(np.searchsorted(above_M, threshold + 1e-9, side="right"))
        sizes_N[i] = np.searchsorted(-sorted_M, -sorted_M[n - 1], side="right")
    return sizes_N


def expected_calibration_error(p_N: np.ndarray, right_N: np.ndarray, bins: int = BINS) -> float:
    """Mean distance between how probable first answers are and how often they are right, weighted by bin (M = bins).

    Bins hold equally many trials (adaptive calibration error, arXiv 1904.01685): bins of equal width would be empty.
    """
    p_N, right_N = np.asarray(p_N, dtype=float), np.asarray(right_N, dtype=float)
    gap_N = (p_N - right_N)[np.argsort(p_N, kind="stable")]
    return float(sum(abs(part.sum()) for part in np.array_split(gap_N, min(bins, len(gap_N)))) / len(gap_N))


def reliability(p_N: np.ndarray, right_N: np.ndarray, bins: int = BINS) -> list[dict[str, Any]]:
    """Bins of equally many trials by the probability of their first answer: its mean, the share right, its interval."""
    p_N, right_N = np.asarray(p_N, dtype=float), np.asarray(right_N, dtype=bool)
    order = np.argsort(p_N, kind="stable")
    parts = []
    for rows in np.array_split(order, min(bins, len(order))):
        low, high = binomtest(int(right_N[rows].sum()), len(rows)).proportion_ci(method="wilson")
        parts.append(
            {
                "probability": float(p_N[rows].mean()),
                "right": float(right_N[rows].mean()),
                "ci95": [float(low), float(high)],
                "n": len(rows),
            }
        )
    return parts


def coverage(held_N: np.ndarray, image_ids: Sequence[str] | None = None) -> dict[str, Any]:
    """Share of trials whose set holds their image, with its 95 % (Wilson) interval: `{"value", "ci95", "n"}`.

    With `image_ids` (one per trial) the interval is that of as many images: all their trials hold as many as one would.
    """
    held_N = np.asarray(held_N, dtype=bool)
    n, share = len(held_N) if image_ids is None else len(set(image_ids)), float(held_N.mean())
    low, high = binomtest(round(share * n), n).proportion_ci(method="wilson")
    return {"value": share, "ci95": [float(low), float(high)], "n": n}


def confidence_figures(
    p_first_N: np.ndarray,
    right_N: np.ndarray,
    held_N: np.ndarray,
    sizes_N: np.ndarray,
    image_ids: Sequence[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Entries coverage, set_size and ece of a metrics.json, with intervals over images.

    Parameters
    ----------
    p_first_N, right_N : ndarray
        The probability of each trial's first answer, and whether it is right.
    held_N, sizes_N : ndarray
        Whether each trial's set holds its image, and how many images it holds.
    image_ids : sequence of str, optional
        The image of each trial; by default each has its own.
    """
    draws = rows_of_draws(len(p_first_N), image_ids)
    errors = np.array([expected_calibration_error(p_first_N[rows], right_N[rows]) for rows in draws])
    ece = expected_calibration_error(p_first_N, right_N)
    # Trials that are drawn twice widen the distance in their bin: the mean of the draws lies too high by as much.
    low, high = np.maximum(np.percentile(errors, [2.5, 97.5]) - (errors.mean() - ece), 0.0)
    covered = coverage(held_N, image_ids)
    return {
        "coverage": covered,
        "set_size": interval(np.asarray(sizes_N, dtype=float), image_ids),
        "ece": {"value": ece, "ci95": [float(low), float(high)], "n": covered["n"]},
    }
