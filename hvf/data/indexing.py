"""Rows of trials or of images, chosen by whole numbers, a mask or a slice: one rule for both."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from hvf.registry import HvfError


def chosen_rows(indices: Iterable[int] | np.ndarray | slice, n: int, what: str) -> np.ndarray | slice:
    """Rows among n, as ints (R,) in the order asked for, or the slice that was given.

    `indices` are whole numbers (negative ones count from the end), a mask of n truth values, or a slice. Raises
    HvfError for anything else; `what` names the rows in its message.

    Examples
    --------
    >>> chosen_rows([2, -1], 4, "trials"), chosen_rows([True, False, True], 3, "trials")
    (array([2, 3]), array([0, 2]))
    """
    if isinstance(indices, slice):
        return indices
    how = f"{what} are chosen by whole numbers, a mask or a slice"
    if isinstance(indices, (str, bytes)) or not (isinstance(indices, Iterable) or hasattr(indices, "__array__")):
        raise HvfError(f"{how}, not by {indices!r}")
    asked = np.asarray(indices if hasattr(indices, "__array__") else list(indices))
    if asked.shape == (0,) and asked.dtype != bool:
        return np.zeros(0, int)
    if asked.ndim != 1 or asked.dtype.kind not in "biu":
        raise HvfError(f"{how}, not by {asked.dtype} of shape {asked.shape}")
    if asked.dtype == bool:
        if len(asked) != n:
            raise HvfError(f"a mask of {len(asked)} values cannot choose among {n} {what}")
        return np.flatnonzero(asked)
    outside = asked[(asked < -n) | (asked >= n)]
    if len(outside):
        raise HvfError(f"there is no {outside[0]} among the {what}: they are {n}, counted from 0")
    rows = asked.astype(int)
    return np.where(rows < 0, rows + n, rows)


def row_or_rows(index: Any, n: int, what: str) -> int | np.ndarray | slice:
    """What stands in brackets behind trials or images: one row as an int, or several as by `chosen_rows`.

    `index, ...` counts as `index`, which is how scikit-learn takes rows. Raises IndexError for a row that is not there,
    as iteration needs it.
    """
    if isinstance(index, tuple):
        if len(index) != 2 or index[1] is not Ellipsis:
            raise HvfError(f"{what} have one axis to choose along: give one index, not {len(index)}")
        index = index[0]
    if isinstance(index, (bool, np.bool_)):
        raise HvfError(f"{index} chooses no {what}: give a number, or a mask of {n} values")
    if np.ndim(index) == 0:
        try:
            row = operator.index(index)
        except TypeError:
            return chosen_rows(index, n, what)
        if not -n <= row < n:
            raise IndexError(f"there is no {row} among the {what}: they are {n}, counted from 0")
        return row % n
    return chosen_rows(index, n, what)


def spread_rows(n: int, most: int) -> np.ndarray:
    """At most so many of n rows, ints, evenly spaced from the first to the last.

    Examples
    --------
    >>> spread_rows(10, 4), spread_rows(3, 8)
    (array([0, 3, 6, 9]), array([0, 1, 2]))
    """
    return np.linspace(0, n - 1, min(most, n)).round().astype(int)
