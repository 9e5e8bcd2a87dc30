"""The pictures of the simulated study: concepts rendered on all cores and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet
from hvf.files.tensors import read_tensors, write_tensors
from hvf.runs import cache_dir, track
from hvf.simulation import rendering
from hvf.simulation.features import WORKERS

N_TEST_CONCEPTS = 200  # the first of the concept list, whatever is asked for; the rest are for training
MAX_TRAIN_CONCEPTS = 1654


def rendered(concepts: list[rendering.Concept], exemplars: int) -> ImageSet:
    """`exemplars` pictures of each concept, 64 × 64, with captions; from the cache if they are there."""
    shown = [(concept, exemplar) for concept in concepts for exemplar in range(exemplars)]
    ids = [f"{concept.name}_{exemplar:02d}" for concept, exemplar in shown]
    key = hashlib.sha256(json.dumps([ids, rendering.PICTURES_VERSION]).encode()).hexdigest()[:16]
    path = cache_dir() / "stimuli" / f"rendered-{len(ids)}-{key}.safetensors"
    x_NHWC, captions = drawn_once(path, shown)
    return ImageSet.from_arrays(x_NHWC, ids, [concept.name for concept, _ in shown], captions)


def drawn_once(path: Path, shown: list[tuple[rendering.Concept, int]], size: int = 64) -> tuple[np.ndarray, list[str]]:
    """Pictures uint8 (N, size, size, 3) of (concept, exemplar) pairs and their captions, kept in the file `path`.

    What is absent, damaged or as an earlier version wrote it is drawn again.
    """
    try:
        arrays, said = read_tensors(path)
        kept = arrays.get("x_NHWC")
        words: Any = said.get("captions")
        said_all = isinstance(words, list) and [type(word) for word in words] == [str] * len(shown)
        if said_all and kept is not None and kept.shape == (len(shown), size, size, 3) and kept.dtype == np.uint8:
            return kept, words
    except (OSError, HvfError):
        pass
    x_NHWC, captions = draw(shown, size)
    store(path, lambda p: write_tensors(p, {"x_NHWC": x_NHWC}, {"captions": captions}))
    return x_NHWC, captions


def draw(shown: list[tuple[rendering.Concept, int]], size: int = 64) -> tuple[np.ndarray, list[str]]:
    """Render (concept, exemplar) pairs on all cores: pictures uint8 (N, size, size, 3) and their captions."""
    with _drawing_pool() as pool:  # drawing starts before a bar's thread
        drawing = pool.map(rendering.render, *zip(*shown, strict=True), repeat(size), chunksize=32)
        with track(len(shown), "rendering the images") as bar:
            x_NHWC, captions = np.empty((len(shown), size, size, 3), np.uint8), []
            for i, rendered in enumerate(drawing):
                x_NHWC[i] = rendered.image
                captions.append(rendered.caption)
                bar.advance()
    return x_NHWC, captions


def _drawing_pool() -> Executor:
    """Processes where they start at once and without the caller's script; else threads, which wait for one another."""
    if sys.platform == "linux":
        return ProcessPoolExecutor(WORKERS, get_context("fork"))
    return ThreadPoolExecutor(WORKERS)


def store(path: Path, save: Callable[[Path], None]) -> None:
    """Keep a result in the cache if the cache can be written; a cache that cannot only costs time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path)
    except (OSError, HvfError):
        pass
