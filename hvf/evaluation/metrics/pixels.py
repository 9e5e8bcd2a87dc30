"""PixCorr and SSIM: reconstruction and seen picture, pixel by pixel."""

from __future__ import annotations

from hvf.evaluation.metrics.base import PixelMetric
from hvf.registry import METRICS

METRICS.register("pixcorr")(PixelMetric(label="PixCorr", score=lambda pair: pair.correlation()))
METRICS.register("ssim")(PixelMetric(label="SSIM", score=lambda pair: pair.structural_similarity()))
