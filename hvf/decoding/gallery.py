"""A gallery: the images that a trial is looked for among, by their embeddings, read in blocks.

Letters: M gallery images, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from hvf.config import HvfError
from hvf.evaluation.retrieval import unit

BLOCK_BYTES = 2**25  # of embeddings at once


@dataclass(frozen=True, eq=False)
class Gallery:
    """Images by name, and their embeddings z_f, which are read some at a time.

    Parameters
    ----------
    ids : sequence of str
        (M) Names, each once.
    read : callable
        Gives z_f (n, D) float32 of the images from one index to another.
    width : int
        D.
    concepts : sequence of str
        What each image shows; () where nobody knows.
    what : str
        What it is, for messages and pages.
    """

    ids: Sequence[str]
    read: Callable[[int, int], np.ndarray]
    width: int
    concepts: Sequence[str] = ()
    what: str = "the gallery"

    def __post_init__(self) -> None:
        if not len(self.ids):
            raise HvfError(f"{self.what} holds no image")

    @classmethod
    def of(
        cls, ids: Sequence[str], z_f_MD: np.ndarray, concepts: Sequence[str] = (), what: str = "the gallery"
    ) -> Gallery:
        """A gallery in memory, or memory-mapped. Raises HvfError unless there is a finite embedding for every name."""
        if z_f_MD.ndim != 2 or len(z_f_MD) != len(ids):
            raise HvfError(f"{what} has {len(ids)} names and embeddings of shape {z_f_MD.shape}")
        return cls(ids, partial(_rows, z_f_MD), int(z_f_MD.shape[1]), tuple(concepts), what)

    def __len__(self) -> int:
        return len(self.ids)

    def blocks(self, rows: int | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """All images in order, some at a time: (their places, z_f scaled to length 1). HvfError if not finite."""
        step = rows or max(1, BLOCK_BYTES // (4 * self.width))
        for start in range(0, len(self), step):
            z_MD = self.read(start, min(start + step, len(self)))
            yield slice(start, start + len(z_MD)), _finite_unit(z_MD, self, start)

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """z_f (n, D), scaled to length 1, of n images drawn at random; of all, in order, if there are no more."""
        if len(self) <= n:
            return np.concatenate([z_MD for _, z_MD in self.blocks()])
        chosen = np.sort(np.random.default_rng(seed).choice(len(self), n, replace=False))
        return np.concatenate([_finite_unit(self.read(int(i), int(i) + 1), self, int(i)) for i in chosen])


def _rows(z_f_MD: np.ndarray, start: int, stop: int) -> np.ndarray:
    return np.asarray(z_f_MD[start:stop], dtype=np.float32)


def _finite_unit(z_MD: np.ndarray, gallery: Gallery, start: int) -> np.ndarray:
    if not np.isfinite(z_MD).all():
        bad = start + int(np.flatnonzero(~np.isfinite(z_MD).all(axis=1))[0])
        raise HvfError(f"{gallery.what}: the embedding of {gallery.ids[bad]!r} is not finite")
    return unit(z_MD)
