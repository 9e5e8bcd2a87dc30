"""Splits of items by concept, so that no concept is in both parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hvf.config import HvfError


def concept_split(
    concepts: Sequence[str] | np.ndarray, fraction: float, seed: int, *, at_least: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Split items into two parts that share no concept; return their indices (train, validation), each ascending.

    `fraction` of the concepts, at least `at_least` and never all, go to the second part.
    Raises HvfError if there are too few concepts for that.
    """
    concepts_N = np.asarray(concepts, dtype=str)
    names = np.unique(concepts_N)
    n_val = max(at_least, round(fraction * len(names)))
    if not 0 < n_val < len(names):
        raise HvfError(f"cannot set {n_val} concepts aside for validation: there are {len(names)}")
    chosen = np.random.default_rng(seed).permutation(names)[:n_val]
    held_out = np.isin(concepts_N, chosen)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
