"""Captioned pictures for training the mini models: every concept but the 200 that tests use.

Mini encoders, diffusion model and Fusion Prior are trained on these. Exemplar numbers start where those of the
simulated study end, so that no picture of the study, training or test, is among them.
"""

from __future__ import annotations

import hashlib

from hvf.data.images.image_set import ImageSet
from hvf.runs import cache_dir
from hvf.simulation import rendering
from hvf.simulation.stimuli import N_TEST_CONCEPTS, drawn_once

FIRST_EXEMPLAR = 1000


def pretraining_images(exemplars: int = 6, size: int = 64) -> ImageSet:
    """Pictures (N, size, size, 3) of the concepts that no test uses, `exemplars` of each, with captions.

    They are rendered once and kept in the cache under `rendering.PICTURES_VERSION`.
    """
    shown = rendering.concepts()[N_TEST_CONCEPTS:]
    names = [concept.name for concept in shown for _ in range(exemplars)]
    key = hashlib.sha256(f"{names} {size} {FIRST_EXEMPLAR} {rendering.PICTURES_VERSION}".encode()).hexdigest()[:16]
    drawn = [(concept, FIRST_EXEMPLAR + i) for concept in shown for i in range(exemplars)]
    x_NHWC, captions = drawn_once(cache_dir() / "pretraining" / f"{key}.safetensors", drawn, size)
    ids = [f"{name}_{i % exemplars:02d}" for i, name in enumerate(names)]
    return ImageSet.from_arrays(x_NHWC, ids, names, captions)
