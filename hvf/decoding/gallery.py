"""A gallery: the images that a trial is looked for among, by their embeddings, read in blocks, and how it is scored.

Letters: M gallery images, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from hvf.config import HvfError
from hvf.evaluation.scaling import COSINE, Scaling

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
    scaling : Scaling
        What scores of trials with the images are: the cosine, or scaled by a bank of training trials.
    """

    ids: Sequence[str]
    read: Callable[[int, int], np.ndarray]
    width: int
    concepts: Sequence[str] = ()
    what: str = "the gallery"
    scaling: Scaling = COSINE
    _hubness_M: np.ndarray | None = field(default=None, init=False)  # r_g of each image, of a block once it was read

    def __post_init__(self) -> None:
        if not len(self.ids):
            raise HvfError(f"{self.what} holds no image")
        if self.scaling.bank_BD is not None:
            object.__setattr__(self, "_hubness_M", np.full(len(self), np.nan, np.float32))

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

    def scaled(self, scaling: Scaling) -> Gallery:
        """The same gallery under another scaling. Raises HvfError if that is of another width."""
        if scaling.z_f_mean_D is not None and len(scaling.z_f_mean_D) != self.width:
            raise HvfError(f"{self.what} is {self.width} wide and the scaling's bank {len(scaling.z_f_mean_D)}")
        return replace(self, scaling=scaling)

    def blocks(self, rows: int | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """All images in order, some at a time: (their places, what of them meets trials). HvfError if not finite.

        The inner product with `scaling.queries` of trials is the score; of the cosine it is z_f scaled to length 1.
        """
        step = rows or max(1, BLOCK_BYTES // (4 * self.width))
        for start in range(0, len(self), step):
            z_MD = self.read(start, min(start + step, len(self)))
            yield slice(start, start + len(z_MD)), self._images(z_MD, start)

    def _images(self, z_MD: np.ndarray, start: int) -> np.ndarray:
        """What of the images from `start` meets trials; how near they are to the bank is computed once."""
        if not np.isfinite(z_MD).all():
            bad = start + int(np.flatnonzero(~np.isfinite(z_MD).all(axis=1))[0])
            raise HvfError(f"{self.what}: the embedding of {self.ids[bad]!r} is not finite")
        if self._hubness_M is None:
            return self.scaling.images(z_MD)
        known_M = self._hubness_M[start : start + len(z_MD)]
        if np.isnan(known_M).any():
            known_M[:] = self.scaling.hubness(z_MD)
        return self.scaling.images(z_MD, known_M)

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """As `blocks`, (n, D), of n images drawn at random; of all, in order, if there are no more."""
        if len(self) <= n:
            return np.concatenate([z_MD for _, z_MD in self.blocks()])
        chosen = np.sort(np.random.default_rng(seed).choice(len(self), n, replace=False))
        return np.concatenate([self._images(self.read(int(i), int(i) + 1), int(i)) for i in chosen])


def _rows(z_f_MD: np.ndarray, start: int, stop: int) -> np.ndarray:
    return np.asarray(z_f_MD[start:stop], dtype=np.float32)
