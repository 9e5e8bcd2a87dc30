"""PixCorr and SSIM: reconstruction and seen picture, pixel by pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvf.evaluation.metrics.base import PixelMetric
from hvf.registry import METRICS

if TYPE_CHECKING:
    from hvf.evaluation.picture_metrics import PixelMeter


def pixel_correlation(pair: PixelMeter) -> float:
    """Pearson's r of all pixels of both pictures; NaN if either is constant."""
    return pair.correlation()


def structural_similarity(pair: PixelMeter) -> float:
    """Mean SSIM of the grey pictures (Wang et al., 2004)."""
    return pair.structural_similarity()


METRICS.register("pixcorr")(PixelMetric(label="PixCorr", score=pixel_correlation))
METRICS.register("ssim")(PixelMetric(label="SSIM", score=structural_similarity))
