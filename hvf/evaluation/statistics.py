"""Means over images or runs and their intervals, as entries of metrics.json: `{"value", "ci95", "n"}`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student


def bootstrap_ci(
    per_image_N: ArrayLike, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over images.

    Undefined (NaN) entries are left out. Images are resampled, so the interval speaks for other images of the same
    kind, not for other subjects or other training seeds. NaN, NaN when nothing is defined.

    Parameters
    ----------
    per_image_N : array_like
        (N,) one score per image.
    level : float
        Coverage of the interval.
    resamples, seed : int
        How often images are drawn again, and from which random numbers.

    Examples
    --------
    >>> bootstrap_ci([1.0, 1.0, 1.0])
    (1.0, 1.0)
    """
    values = np.asarray(per_image_N, dtype=np.float64)
    values = values[~np.isnan(values)]
    if values.size == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    step = max(1, 4_000_000 // values.size)  # draws at once: 32 MB of indices, however many images there are
    means = [
        values[rng.integers(values.size, size=(min(step, resamples - start), values.size))].mean(axis=1)
        for start in range(0, resamples, step)
    ]
    low, high = np.percentile(np.concatenate(means), [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def mean_over_images(per_image: ArrayLike, seed: int = 0) -> dict[str, Any]:
    """Mean of the defined scores with its bootstrap interval over images: `{"value", "ci95", "n"}`.

    `per_image` is (N,), or (R, N) to average the rounds of each image first. The peers' mean is NaN as soon as one
    pair is undefined (a constant picture under PixCorr); here the mean is over the defined images, and `n` counts
    those alone, so that an `n` below the number of images says that some were left out. All NaN when none is defined.
    """
    scores_N = np.asarray(per_image, dtype=np.float64)
    if scores_N.ndim == 2:
        scores_N = scores_N.mean(axis=0)
    defined_N = scores_N[~np.isnan(scores_N)]
    value = float(defined_N.mean()) if defined_N.size else float("nan")
    return {"value": value, "ci95": list(bootstrap_ci(defined_N, seed=seed)), "n": int(defined_N.size)}


def interval(values_N: ArrayLike, image_ids: Sequence[str] | None = None) -> dict[str, Any]:
    """Mean of one value per query with its bootstrap interval over images: `{"value", "ci95", "n"}`.

    With `image_ids` (one per query) an image's values are averaged first: repeating a seed brings no new image.
    """
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


def rows_of_draws(
    n: int, image_ids: Sequence[str] | None = None, draws: int = 1000, seed: int = 0
) -> Iterator[np.ndarray]:
    """The rows of each bootstrap draw of images, for figures that are no means: all rows of an image together.

    Parameters
    ----------
    n : int
        How many rows there are.
    image_ids : sequence of str, optional
        The image of each row; by default each has its own.
    draws, seed : int
        How often images are drawn again, and from which random numbers.
    """
    rng = np.random.default_rng(seed)
    if image_ids is None:
        yield from rng.integers(n, size=(draws, n))
        return
    _, index_N = np.unique(np.asarray(image_ids), return_inverse=True)
    rows = np.split(np.argsort(index_N, kind="stable"), np.cumsum(np.bincount(index_N))[:-1])
    for drawn in rng.integers(len(rows), size=(draws, len(rows))):
        yield np.concatenate([rows[i] for i in drawn])


def over_runs(values: Sequence[float] | np.ndarray, *, share: bool = False) -> dict[str, Any]:
    """Mean over runs (seeds, subjects, folds) with Student's 95 % interval of the mean; a single run has no interval.

    That of a `share` is cut off at 0 and 1.

    >>> over_runs([0.5])
    {'value': 0.5, 'ci95': None, 'n': 1}
    >>> over_runs([0.9, 1.0], share=True)["ci95"][1]
    1.0
    """
    mean, n = float(np.mean(values)), len(values)
    if n == 1:
        return {"value": mean, "ci95": None, "n": 1}
    half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    low, high = (max(0.0, mean - half), min(1.0, mean + half)) if share else (mean - half, mean + half)
    return {"value": mean, "ci95": [low, high], "n": n}
