"""The images of a gallery ranked for each trial, whose own image is known.

Shapes: N trials, M gallery, K images kept, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hvf.data import html
from hvf.data.images.image_set import ImageSet
from hvf.evaluation import retrieval

TOP = 5  # gallery images kept per trial


@dataclass(frozen=True)
class Retrieval:
    """Gallery images ranked for each trial."""

    scores_NM: np.ndarray  # cosine of each trial's embedding with each gallery image
    ranks_N: np.ndarray  # rank of the trial's own image, from 1; ties count as misses
    top_NK: np.ndarray  # gallery indices, best first
    gallery: ImageSet | None = None  # the M images
    target_N: np.ndarray | None = None  # gallery index of each trial's own image

    def top(self, k: int) -> float:
        """Share of trials whose image is among the first k."""
        return retrieval.topk(self.ranks_N, k)

    def __repr__(self) -> str:
        n, m = self.scores_NM.shape
        figures = ", ".join(f"top-{k} {100 * self.top(k):.1f} %" for k in (1, 5) if n)
        return f"<Retrieval: {n} trials among {m} images{', ' if n else ''}{figures}>"

    def _repr_html_(self) -> str:
        if self.gallery is None or self.target_N is None:
            return html.facts(repr(self), {})
        return html.ranked(repr(self), self.gallery, self.target_N, self.ranks_N, self.top_NK, self.scores_NM)


def rank(z_b_ND: np.ndarray, z_f_MD: np.ndarray, target_N: np.ndarray | None = None) -> Retrieval:
    """Rank gallery embeddings (M, D) for each z_b (N, D); `target_N` is the gallery index of its own image."""
    scores_NM = retrieval.similarity(z_b_ND, z_f_MD)
    return Retrieval(scores_NM, retrieval.ranks(scores_NM, target_N), retrieval.top_items(scores_NM, TOP))
