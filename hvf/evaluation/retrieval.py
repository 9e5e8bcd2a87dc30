"""Scores to ranks to figures: how often the image that was seen is found in the gallery.

Letters: N queries (brain embeddings), M gallery items, D embedding. Ours is the plain protocol: the gallery is the test
images themselves, the score is the cosine, and a tie counts as a miss, so that a collapsed encoder scores nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from scipy.optimize import linear_sum_assignment
from scipy.special import comb
from scipy.stats import binom, poisson

from hvf.config import HvfError
from hvf.evaluation.picture_metrics import bootstrap_ci

KS = (1, 5, 10)  # the field's figures: top-1, top-5 and, in fewer papers, top-10
TIE = 1e-9  # of the largest score: matchings that differ by less are equally good to one_to_one


def similarity(z_b_ND, z_f_MD) -> np.ndarray:
    """Cosine of every query with every gallery item, (N, M) float32. A zero vector scores 0 with everything.

    Takes arrays or tensors. Raises HvfError if the widths differ or a value is not finite.
    """
    queries_ND, gallery_MD = _rows(z_b_ND, "brain embeddings"), _rows(z_f_MD, "image embeddings")
    if queries_ND.shape[1] != gallery_MD.shape[1]:
        raise HvfError(
            f"brain embeddings are {queries_ND.shape[1]} wide and image embeddings {gallery_MD.shape[1]}: "
            "they must come from one alignment"
        )
    return _unit(queries_ND) @ _unit(gallery_MD).T


def ranks(scores_NM, target_N=None) -> np.ndarray:
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


def top_items(scores_NM, k: int = 5) -> np.ndarray:
    """The k best gallery columns of each query, best first, (N, k) int64; of tied items, the earlier first."""
    return np.argsort(-_array(scores_NM), axis=1, kind="stable")[:, :k]


def topk(ranks_N, k: int) -> float:
    """Share of queries whose item is among the first k."""
    return float((np.asarray(ranks_N) <= k).mean())


def mean_reciprocal_rank(ranks_N) -> float:
    """Mean of 1/rank; with one right item per query this is the mean average precision (mAP) that UBP reports."""
    return float((1.0 / np.asarray(ranks_N)).mean())


def k_way(ranks_N, n_gallery: int, k: int) -> float:
    """Expected top-1 when each query's item stands among k - 1 others, drawn at random from a gallery of M.

    ATM's k-way accuracy without its one draw: C(M - rank, k - 1) / C(M - 1, k - 1), averaged over queries.
    Raises HvfError unless 2 <= k <= M.
    """
    if not 2 <= k <= n_gallery:
        raise HvfError(f"{k}-way accuracy needs 2 to {n_gallery} items, the gallery's size")
    return float((comb(n_gallery - np.asarray(ranks_N), k - 1) / comb(n_gallery - 1, k - 1)).mean())


def one_to_one(scores_NN) -> np.ndarray:
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


def summarise(ranks_N, image_ids: Sequence[str] | None = None) -> dict[str, dict]:
    """top1, top5, top10, mrr (which is mAP) and median_rank as `{"value", "ci95", "n"}`, n the number of images.

    The interval draws images again (percentile bootstrap). Ranks of several seeds or splits go in together with
    `image_ids`: then an image's figures are averaged first, because repeating a seed brings no new image.
    """
    ranks_N = np.asarray(ranks_N)
    figures = {f"top{k}": (ranks_N <= k).astype(float) for k in KS} | {"mrr": 1.0 / ranks_N}
    out = {name: interval(values_N, image_ids) for name, values_N in figures.items()}
    draws = np.random.default_rng(0).integers(len(ranks_N), size=(1000, len(ranks_N)))
    low, high = np.percentile(np.median(ranks_N[draws], axis=1), [2.5, 97.5])
    median = {"value": float(np.median(ranks_N)), "ci95": [float(low), float(high)], "n": out["mrr"]["n"]}
    return {**out, "median_rank": median}


def interval(values_N, image_ids: Sequence[str] | None = None) -> dict:
    """Mean of one value per query with its bootstrap interval over images: `{"value", "ci95", "n"}`."""
    values_N = np.asarray(values_N, dtype=np.float64)
    if image_ids is None:
        return {"value": float(values_N.mean()), "ci95": list(bootstrap_ci(values_N)), "n": len(values_N)}
    _, index_N = np.unique(np.asarray(image_ids), return_inverse=True)
    count_I = np.bincount(index_N)
    mean_I = np.bincount(index_N, weights=values_N) / count_I
    # Centred on the mean over queries, which differs from the mean over images where some were drawn more often.
    shift = values_N.mean() - mean_I.mean()
    low, high = bootstrap_ci(mean_I)
    return {"value": float(values_N.mean()), "ci95": [float(low + shift), float(high + shift)], "n": len(count_I)}


def chance(k: int, n_queries: int, n_gallery: int) -> dict:
    """Top-k of guessing: k/M, with the central 95 % of its binomial distribution over N queries."""
    p = min(k / n_gallery, 1.0)
    low, high = binom.ppf([0.025, 0.975], n_queries, p) / n_queries
    return {"value": p, "ci95": [float(low), float(high)], "n": n_queries}


def one_to_one_figures(scores_NN) -> dict[str, dict]:
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


def figures(scores_NN, row: str = "brain") -> dict[str, dict]:
    """Entries of a metrics.json for scores whose rows and columns pair: retrieval/ROW/..., and chance/retrieval/....

    Figures of ranks, each query for itself; and one_to_one, for which all queries are matched at once (see there).
    """
    ranks_N = ranks(scores_NN)
    n = len(ranks_N)
    matched = one_to_one_figures(scores_NN)
    found = {f"retrieval/{row}/{name}": entry for name, entry in summarise(ranks_N).items()}
    found |= {f"retrieval/{row}/one_to_one": matched["value"], "chance/retrieval/one_to_one": matched["chance"]}
    return found | {f"chance/retrieval/top{k}": chance(k, n, n) for k in KS}


def permutation_interval(scores_NM, k: int, permutations: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Central 95 % of top-k when queries and items are paired at random: chance for these very scores.

    Unlike `chance` it knows that some items attract every query. The gallery must be the queries' own items (N = M).
    """
    scores_NN = _array(scores_NM)
    n, rng = len(scores_NN), np.random.default_rng(seed)
    ordered_NN = np.sort(scores_NN, axis=1)
    # rank_NN[i, j]: the rank that query i would have, were item j its own
    rank_NN = np.stack(
        [n - np.searchsorted(row, scores, side="left") for row, scores in zip(ordered_NN, scores_NN, strict=True)]
    )
    rates = [(rank_NN[np.arange(n), rng.permutation(n)] <= k).mean() for _ in range(permutations)]
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def load_embeddings(path: str | Path, key: str | None = None) -> np.ndarray:
    """Embeddings (N, D) float32 from `.npy`, `.pt`/`.pth` or `.safetensors`; nothing in the file is executed.

    A file that holds several arrays needs `key`; FILE#KEY says it in the path, as `images.pt#img_features`.
    Raises HvfError if the file is missing, is no such file, carries pickled code, or the key is needed or unknown.
    """
    name, _, in_path = str(path).partition("#")
    path, key = Path(name), key or in_path or None
    if not path.is_file():
        raise HvfError(f"there is no file of embeddings at {path}")
    held = _read_arrays(path)
    if isinstance(held, dict):
        arrays = {str(k): v for k, v in held.items()}
        if key is None and len(arrays) == 1:
            key = next(iter(arrays))
        if key not in arrays:
            there = ", ".join(arrays)
            raise HvfError(f"{path} holds {there}" + (f", not {key}" if key else f": say which, as {path.name}#KEY"))
        held = arrays[key]
    return _rows(held, f"embeddings in {path}")


def _read_arrays(path: Path):
    readers: dict[str, Callable] = {
        ".npy": lambda p: np.load(p, allow_pickle=False),
        ".pt": lambda p: torch.load(p, map_location="cpu", weights_only=True),
        ".safetensors": load_file,
    }
    readers[".pth"] = readers[".pt"]
    if path.suffix not in readers:
        raise HvfError(f"cannot read embeddings from {path}: give {', '.join(readers)}")
    try:
        return readers[path.suffix](path)
    except SafetensorError as error:
        raise HvfError(f"{path} is not a readable safetensors file: {error}") from error
    except Exception as error:  # numpy and torch raise many kinds on files that are damaged or carry code
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise HvfError(f"{path} cannot be read as plain numbers: {first}") from error


def _array(x) -> np.ndarray:
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def _rows(x, what: str) -> np.ndarray:
    x = x.detach().cpu().float() if isinstance(x, torch.Tensor) else x
    try:
        x_ND = np.asarray(x, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise HvfError(f"the {what} are not an array of numbers") from error
    if x_ND.ndim != 2 or not x_ND.size:
        raise HvfError(f"the {what} should be an array (items, width), not {x_ND.shape}")
    if not np.isfinite(x_ND).all():
        raise HvfError(f"the {what} hold NaN or infinite values")
    return x_ND


def _unit(x_ND: np.ndarray) -> np.ndarray:
    norm_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
    return x_ND / np.where(norm_N1 > 0, norm_N1, 1.0)
