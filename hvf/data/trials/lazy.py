"""Lazy arrays: rows of one or more stored arrays, read only when values are asked for.

Letters: N rows, P stored rows, C channels, T samples.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hvf.config import HvfError

BLOCK_BYTES = 2**25  # what is read at a time


class Once:
    """A check that is made when it is first called; it raises, or never has to be made again."""

    def __init__(self, check: Callable[[Any], None], of: Any) -> None:
        self._check, self._of, self._made = check, of, False

    def __call__(self) -> None:
        if not self._made:
            self._check(self._of)
            self._made = True


@dataclass(frozen=True, eq=False)
class _Part:
    """A stored array, and which of its channels and samples are taken."""

    array: np.ndarray  # float16 or float32 (P, C, T), in memory or memory-mapped
    channels: np.ndarray | None  # indices; None: all
    times: slice
    check: Once | None = None  # before values are read

    @property
    def shape(self) -> tuple[int, int, int]:
        n, c, t = self.array.shape
        return n, c if self.channels is None else len(self.channels), len(range(t)[self.times])

    @property
    def values(self) -> np.ndarray:
        """The array, checked."""
        if self.check is not None:
            self.check()
        return self.array

    def read(self, rows: np.ndarray) -> np.ndarray:
        x_PCT = self.values[:, :, self.times]
        return x_PCT[rows] if self.channels is None else x_PCT[rows[:, None], self.channels]


@dataclass(frozen=True, eq=False)
class LazyArray:
    """An array (N, C, T) whose rows each are a stored row or the mean of several; indexing reads and copies no data."""

    parts: tuple[_Part, ...]
    rows_P: np.ndarray  # stored rows, counted through all parts
    starts_N: np.ndarray | None = None  # row i is the mean of rows_P[starts_N[i] : starts_N[i + 1]]; None: of one each

    @classmethod
    def of(cls, x_NCT: np.ndarray, check: Once | None = None) -> LazyArray:
        """All of an array, checked before it is read; what is neither float16 nor float32 is made float32.

        Raises HvfError for what are no real numbers (of complex ones half would be lost), or not of three axes.
        """
        x_NCT = np.asarray(x_NCT)
        if x_NCT.ndim != 3:
            raise HvfError(f"trials must be (trials, channels, samples), not {x_NCT.shape}")
        if x_NCT.dtype.kind not in "fiub":
            raise HvfError(f"trials are real numbers, not {x_NCT.dtype}")
        if x_NCT.dtype not in (np.float16, np.float32):
            x_NCT = x_NCT.astype(np.float32)
        return cls((_Part(x_NCT, None, slice(None), check),), np.arange(len(x_NCT)))

    @property
    def shape(self) -> tuple[int, int, int]:
        n = len(self.rows_P) if self.starts_N is None else len(self.starts_N) - 1
        return n, *self.parts[0].shape[1:]

    def select(self, indices: np.ndarray | slice) -> LazyArray:
        """The rows `indices` (ints, a mask or a slice), in that order."""
        if self.starts_N is None:
            return replace(self, rows_P=self.rows_P[indices])
        first_N, counts_N = self.starts_N[:-1][indices], np.diff(self.starts_N)[indices]
        starts_N = np.concatenate([[0], np.cumsum(counts_N)])
        places_P = np.arange(starts_N[-1]) + np.repeat(first_N - starts_N[:-1], counts_N)
        return replace(self, rows_P=self.rows_P[places_P], starts_N=starts_N)

    def channels(self, indices: Sequence[int]) -> LazyArray:
        """The channels `indices`, in that order."""
        index_C = np.asarray(indices, dtype=int)
        return replace(
            self,
            parts=tuple(
                replace(p, channels=index_C if p.channels is None else p.channels[index_C]) for p in self.parts
            ),
        )

    def samples(self, start: int, stop: int) -> LazyArray:
        """The samples from `start` up to `stop`."""

        def narrower(part: _Part) -> slice:
            kept = range(part.array.shape[2])[part.times][start:stop]
            return slice(kept.start, kept.stop)

        return replace(self, parts=tuple(replace(p, times=narrower(p)) for p in self.parts))

    def mean_by(self, group_N: np.ndarray) -> LazyArray:
        """One row per group (numbered from 0), the mean of its rows; rows that are means already count alike."""
        if self.starts_N is not None:
            counts_N = np.diff(self.starts_N)
            largest = np.zeros(group_N.max() + 1, int)
            np.maximum.at(largest, group_N, counts_N)
            if (counts_N != largest[group_N]).any():  # means of unequal weight do not merge
                return LazyArray.of(self.gather()).mean_by(group_N)
            inner = self.select(np.argsort(group_N, kind="stable"))
            sizes = np.bincount(group_N) * largest
            return replace(inner, starts_N=np.concatenate([[0], np.cumsum(sizes)]))
        rows_P = self.rows_P[np.argsort(group_N, kind="stable")]
        return replace(self, rows_P=rows_P, starts_N=np.concatenate([[0], np.cumsum(np.bincount(group_N))]))

    @staticmethod
    def joined(arrays: Sequence[LazyArray]) -> LazyArray:
        """The rows of several arrays, one after the other; they share channels and samples."""
        stored = [sum(len(p.array) for p in array.parts) for array in arrays]
        offsets = np.cumsum([0, *stored[:-1]])
        parts = tuple(part for array in arrays for part in array.parts)
        rows_P = np.concatenate([array.rows_P + offset for array, offset in zip(arrays, offsets, strict=True)])
        if all(array.starts_N is None for array in arrays):
            return LazyArray(parts, rows_P)
        counts = [
            np.ones(len(array.rows_P), int) if array.starts_N is None else np.diff(array.starts_N) for array in arrays
        ]
        return LazyArray(parts, rows_P, np.concatenate([[0], np.cumsum(np.concatenate(counts))]))

    def gather(self, copy: bool = False) -> np.ndarray:
        """Everything, float32 (N, C, T). Unless a `copy` is asked for, the stored array itself if that is the same."""
        if not copy and self._is_stored():
            return self.parts[0].values
        out_NCT = np.empty(self.shape, np.float32)
        for rows in self._blocks():
            block = self.select(np.arange(rows.start, rows.stop))
            x_PCT = block._read()
            if block.starts_N is None:
                out_NCT[rows] = x_PCT
            else:
                for i, (start, stop) in enumerate(zip(block.starts_N[:-1], block.starts_N[1:], strict=True)):
                    out_NCT[rows.start + i] = mean_of_repeats(x_PCT[start:stop])
        return out_NCT

    def _is_stored(self) -> bool:
        part = self.parts[0]
        same = self.shape == part.shape == part.array.shape and part.channels is None and part.array.dtype == np.float32
        return same and self.starts_N is None and bool((self.rows_P == np.arange(len(self.rows_P))).all())

    def _blocks(self) -> Iterator[slice]:
        """Consecutive rows whose stored rows take about BLOCK_BYTES."""
        n, c, t = self.shape
        most = max(1, BLOCK_BYTES // max(1, 4 * c * t))
        ends_N = np.arange(1, n + 1) if self.starts_N is None else self.starts_N[1:]
        start = 0
        while start < n:
            read = 0 if start == 0 else ends_N[start - 1]
            stop = max(start + 1, int(np.searchsorted(ends_N, read + most, side="right")))
            yield slice(start, stop)
            start = stop

    def _read(self) -> np.ndarray:
        """The stored rows, float32 (P, C, T), each file read from front to back."""
        out_PCT = np.empty((len(self.rows_P), *self.shape[1:]), np.float32)
        order_P = np.argsort(self.rows_P, kind="stable")
        sorted_P = self.rows_P[order_P]
        offset = 0
        for part in self.parts:
            first, last = np.searchsorted(sorted_P, [offset, offset + len(part.array)])
            if last > first:
                out_PCT[order_P[first:last]] = part.read(sorted_P[first:last] - offset)
            offset += len(part.array)
        return out_PCT


def mean_of_repeats(x_RCT: np.ndarray) -> np.ndarray:
    """Average the repeats of one image: float32 (R, C, T) -> (C, T), summed in float64."""
    return x_RCT.mean(axis=0, dtype=np.float64).astype(np.float32)


def release(array: np.ndarray) -> None:
    """Free a memory map's pages: they stay in the system's cache, or are written to disk."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)
