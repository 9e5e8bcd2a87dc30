"""The configuration of a whole run that a test can wait for: 12 test images, the shipped mini models."""

from __future__ import annotations

from hvf import presets
from hvf.config import Config

SETTINGS = {
    "data.train_concepts": 60,
    "data.images_per_concept": 2,
    "data.test_concepts": 12,
    "align.epochs": 6,
    "sampling.steps": 2,
}


def small_config() -> Config:
    return presets.in_mode(presets.mini(), "reconstruction", SETTINGS)
