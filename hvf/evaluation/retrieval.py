"""Retrieval: scores to ranks to figures. How often is the image that was seen the nearest in the gallery?

Letters: N queries (brain embeddings), M gallery items, D embedding. Ours is the plain protocol: the gallery is the test
images themselves, the score is the cosine, and a tie counts as a miss, so that a collapsed encoder scores nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom, poisson

from hvf.evaluation.catalogue import retrieval_metrics
from hvf.evaluation.statistics import interval, rows_of_draws
from hvf.registry import HvfError
from hvf.vision.embeddings import as_rows

Numbers = ArrayLike | torch.Tensor
KS = (1, 5, 10)  # the field's figures: top-1, top-5 and, in fewer papers, top-10
TIE = 1e-9  # of the largest score: matchings that differ by less are equally good to one_to_one


def similarity(z_b_ND: Numbers, z_f_MD: Numbers) -> np.ndarray:
    """Cosine of every query with every gallery item, (N, M) float32. A zero vector scores 0 with everything.

    Takes arrays or tensors. Raises HvfError if the widths differ or a value is not finite.
    """
    queries_ND, gallery_MD = as_rows(z_b_ND, "brain embeddings"), as_rows(z_f_MD, "image embeddings")
    if queries_ND.shape[1] != gallery_MD.shape[1]:
        raise HvfError(
            f"brain embeddings are {queries_ND.shape[1]} wide and image embeddings {gallery_MD.shape[1]}: "
            "they must come from one alignment"
        )
    return unit(queries_ND) @ unit(gallery_MD).T


def ranks(scores_NM: Numbers, target_N: ArrayLike | None = None) -> np.ndarray:
    """Rank of each query's own item, (N,) int64 from 1: one more than the number of others that score at least as much.

    `target_N` is the column of each query's item; by default query i belongs to item i. Raises HvfError if a score is
    NaN (it would compare as beaten), or a target is not in the gallery.
    """
    scores_NM = _array(scores_NM)
    if scores_NM.ndim != 2 or np.isnan(scores_NM).any():
        raise HvfError(f"scores must be an array (queries, gallery) without NaN, not {scores_NM.shape}")
    n, m = scores_NM.shape
    target_N = np.arange(n) if target_N is None else np.asarray(target_N)
    if target_N.shape != (n,) or (n and not 0 <= target_N.min() <= target_N.max() < m):
        raise HvfError(f"{n} queries of a gallery of {m} need one target each, a column from 0 to {m - 1}")
    own_N1 = np.take_along_axis(scores_NM, target_N[:, None], axis=1)
    return (scores_NM >= own_N1).sum(axis=1)  # the item itself is the one added


def top_items(scores_NM: Numbers, k: int = 5) -> np.ndarray:
    """The k best gallery columns of each query, best first, (N, k) int64; of tied items, the earlier first."""
    return np.argsort(-_array(scores_NM), axis=1, kind="stable")[:, :k]


def topk(ranks_N: ArrayLike, k: int) -> float:
    """Share of queries whose item is among the first k."""
    return float((np.asarray(ranks_N) <= k).mean())


def mean_reciprocal_rank(ranks_N: ArrayLike) -> float:
    """Mean of 1/rank; with one right item per query this is the mean average precision (mAP) that UBP reports."""
    return float((1.0 / np.asarray(ranks_N)).mean())


def one_to_one(scores_NN: Numbers) -> np.ndarray:
    """Whether each query gets its own item when all are matched at once, each item given once, (N,) bool.

    The matching has the largest total score (Hungarian method). It uses the whole test set jointly: knowing that no
    item is seen twice lifts its accuracy above top-1, and it is to be compared with matchings only. Of equally good
    matchings the one with the fewest right pairs counts, so that here too a tie is a miss. Raises HvfError if a score
    is not finite, or queries and items are not equally many.
    """
    scores_NN = np.array(_array(scores_NN), dtype=np.float64)
    if scores_NN.ndim != 2 or scores_NN.shape[0] != scores_NN.shape[1] or not np.isfinite(scores_NN).all():
        raise HvfError(f"one-to-one matching needs finite scores of as many queries as items, not {scores_NN.shape}")
    np.fill_diagonal(scores_NN, np.diagonal(scores_NN) - TIE * max(float(np.abs(scores_NN).max()), TIE))
    queries_N, items_N = linear_sum_assignment(scores_NN, maximize=True)
    return queries_N == items_N


def summarise(ranks_N: ArrayLike, image_ids: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """The registered figures of ranks (top1, ..., mrr) and median_rank as `{"value", "ci95", "n"}`, n of images.

    The interval draws images again (percentile bootstrap). Ranks of several seeds or splits go in together with
    `image_ids`: then an image's figures are averaged first, because repeating a seed brings no new image. Of the median
    rank all ranks of an image are drawn together.
    """
    ranks_N = np.asarray(ranks_N)
    out = {
        name: interval(metric.per_query(ranks_N), image_ids)
        for name, metric in retrieval_metrics().items()
        if metric.per_query is not None
    }
    medians = [np.median(ranks_N[rows]) for rows in rows_of_draws(len(ranks_N), image_ids)]
    low, high = np.percentile(medians, [2.5, 97.5])
    median = {"value": float(np.median(ranks_N)), "ci95": [float(low), float(high)], "n": out["mrr"]["n"]}
    return {**out, "median_rank": median}


def chance(k: int, n_queries: int, n_gallery: int) -> dict:
    """Top-k of guessing: k/M, with the central 95 % of its binomial distribution over N queries."""
    p = min(k / n_gallery, 1.0)
    low, high = binom.ppf([0.025, 0.975], n_queries, p) / n_queries
    return {"value": p, "ci95": [float(low), float(high)], "n": n_queries}


def one_to_one_figures(scores_NN: Numbers) -> dict[str, dict[str, Any]]:
    """Entries `value` and `chance` of one-to-one matching: the share of right pairs, and that of a random matching.

    The interval of the value draws images again with the matching as it is. A random matching has one right pair on
    average, however many there are; its interval is the central 95 % of their (Poisson) number.
    """
    right_N = one_to_one(scores_NN).astype(float)
    return {"value": interval(right_N), "chance": one_to_one_chance(len(right_N))}


def one_to_one_chance(n: int) -> dict:
    """Share of right pairs in a random matching of n: one pair on average, the interval from a Poisson number."""
    low, high = poisson.ppf([0.025, 0.975], 1) / n
    return {"value": 1 / n, "ci95": [float(low), min(float(high), 1.0)], "n": n}


def figures(
    scores_NM: Numbers,
    row: str = "brain",
    target_N: ArrayLike | None = None,
    image_ids: Sequence[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Entries of a metrics.json for scores: retrieval/ROW/..., and chance/retrieval/....

    Figures of ranks, each query for itself; and, where queries and items pair, one_to_one, for which all queries are
    matched at once (see there).

    Parameters
    ----------
    scores_NM : array or tensor
    row : str
        What the figures are of.
    target_N, image_ids
        As `ranks` and `summarise` take them.
    """
    ranks_N = ranks(scores_NM, target_N)
    n, m = _array(scores_NM).shape
    entries = {f"retrieval/{row}/{name}": entry for name, entry in summarise(ranks_N, image_ids).items()}
    order_N = np.arange(n) if target_N is None else np.asarray(target_N)
    if n == m == len(np.unique(order_N)):
        matched = one_to_one_figures(_array(scores_NM)[:, order_N])
        entries |= {f"retrieval/{row}/one_to_one": matched["value"], "chance/retrieval/one_to_one": matched["chance"]}
    n_images = n if image_ids is None else len(set(image_ids))
    return entries | {f"chance/retrieval/top{k}": chance(k, n_images, m) for k in KS}


def _array(x: Numbers) -> np.ndarray:
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def unit(x_ND: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; zero rows stay zero."""
    norm_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
    return x_ND / np.where(norm_N1 > 0, norm_N1, 1.0)
