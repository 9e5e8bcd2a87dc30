"""Retrieval: figures of the rank of each query's own image. One right image per query."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hvf.evaluation.metrics.base import RetrievalMetric
from hvf.registry import METRICS

if TYPE_CHECKING:
    import numpy as np


def within(ranks_N: np.ndarray, k: int) -> np.ndarray:
    """1.0 where the query's image is among the first k, else 0.0, (N,)."""
    return (ranks_N <= k).astype(float)


def reciprocal(ranks_N: np.ndarray) -> np.ndarray:
    """1 / rank, (N,); its mean is also the mean average precision (mAP) that UBP reports."""
    return 1.0 / ranks_N


METRICS.register("top1")(RetrievalMetric(label="top-1", per_query=partial(within, k=1), share=True))
METRICS.register("top5")(RetrievalMetric(label="top-5", per_query=partial(within, k=5), share=True))
METRICS.register("top10")(RetrievalMetric(label="top-10", per_query=partial(within, k=10), share=True))
METRICS.register("mrr")(RetrievalMetric(label="mAP (= MRR)", per_query=reciprocal))
METRICS.register("median_rank")(RetrievalMetric(label="median rank", lower_is_better=True))
METRICS.register("rank")(RetrievalMetric(label="rank", lower_is_better=True))
METRICS.register("one_to_one")(RetrievalMetric(label="one-to-one matching (Hungarian)", share=True))
METRICS.register("top1_gain")(RetrievalMetric(label="top-1 above the cosine's", share=True))
METRICS.register("top5_gain")(RetrievalMetric(label="top-5 above the cosine's", share=True))
