"""Features of image sets, computed once and kept on disk.

An entry is one safetensors file. Its name is a hash of everything the features depend on: the spec, the encoder's
weights and preprocessing, and the images' content. Its metadata carry the same facts and a checksum of the array, so
that a truncated, altered or foreign entry is seen, and recomputed. Writers use a temporary name of their own and a
rename: any number of processes may share a cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from hvf import runs
from hvf.config import HvfError
from hvf.vision.features import load_encoder, parse_spec

if TYPE_CHECKING:
    from hvf.vision.features import Encoder, FeatureSpec

BATCH = 32
_FORMAT = "hvf-features-1"
_log = logging.getLogger(__name__)


class Images(Protocol):
    """What ``embed`` needs of an image set: length, ids, a content digest, and RGB images by index."""

    ids: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Hash of the images' content and order."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any:
        """The image at an index: PIL RGB, or anything that ``np.asarray`` turns into uint8 (H, W, 3)."""


def embed(
    images: Images,
    spec: str | FeatureSpec,
    device: str | torch.device = "cpu",
    cache: str | Path | None = None,
) -> np.ndarray:
    """Features (N, D) float32 of N images under a feature spec, read from the cache or computed and put there.

    ``cache`` is the folder of entries; by default ``features`` in hvf's cache folder. A cache that cannot be written
    costs a warning, not the features. Raises HvfError for a bad spec, missing weights, an image that cannot be decoded
    (naming it) or one whose features are not finite.
    """
    spec = parse_spec(spec)
    encoder = load_encoder(spec, device)
    entry = {
        "format": _FORMAT,
        "spec": str(spec),
        "weights_hash": encoder.weights_hash,
        "images": images.digest,
    }
    name = hashlib.sha256("\n".join(f"{key}={value}" for key, value in sorted(entry.items())).encode()).hexdigest()[:32]
    path = Path(cache if cache is not None else runs.cache_dir() / "features") / f"{name}.safetensors"
    features_ND = _read(path, entry, (len(images), encoder.dim))
    if features_ND is None:
        features_ND = _compute(images, encoder, device, str(spec))
        _write(path, entry, features_ND)
    return features_ND


def _compute(images: Images, encoder: Encoder, device: str | torch.device, title: str) -> np.ndarray:
    features_ND = np.empty((len(images), encoder.dim), np.float32)
    starts = list(range(0, len(images), BATCH))
    for start in runs.track(starts, f"features {title}"):
        # Images may differ in size: those of one size go through together, each batch's result lands in its own rows.
        by_size: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
        for index in range(start, min(start + BATCH, len(images))):
            pixels_HW3 = _pixels(images, index)
            by_size.setdefault(pixels_HW3.shape, []).append((index, pixels_HW3))
        for group in by_size.values():
            rows, pixels = zip(*group, strict=True)
            batch_N3HW = torch.from_numpy(np.stack(pixels)).to(device).permute(0, 3, 1, 2).float() / 255
            features_ND[list(rows)] = encoder(batch_N3HW).cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(features_ND).all(axis=1))
    if len(bad):
        raise HvfError(f"{title}: features of image {images.ids[bad[0]]!r} are not finite ({len(bad)} such images)")
    return features_ND


def _pixels(images: Images, index: int) -> np.ndarray:
    try:
        pixels_HW3 = np.asarray(images[index])
    except HvfError:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # what PIL raises for truncated and malformed files
        raise HvfError(f"image {images.ids[index]!r} cannot be decoded: {error}") from error
    if pixels_HW3.ndim != 3 or pixels_HW3.shape[2] != 3 or pixels_HW3.dtype != np.uint8:
        raise HvfError(f"image {images.ids[index]!r} is not RGB with 8 bits: {pixels_HW3.dtype} {pixels_HW3.shape}")
    return pixels_HW3


def _metadata(entry: dict[str, str], features_ND: np.ndarray) -> dict[str, str]:
    checksum = hashlib.sha256(features_ND.tobytes()).hexdigest()
    # One JSON value, because safetensors writes several in no fixed order: the same features make the same file.
    return {"hvf": json.dumps({**entry, "sha256": checksum}, sort_keys=True)}


def _read(path: Path, entry: dict[str, str], shape: tuple[int, int]) -> np.ndarray | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, "np") as file:
            metadata, features_ND = file.metadata() or {}, file.get_tensor("features")
    except Exception as error:  # safetensors raises its own type, a damaged header others: every one means recompute
        _log.warning("feature cache entry %s is unreadable and is made again: %s", path, error)
        return None
    if features_ND.shape != shape or metadata != _metadata(entry, features_ND):
        _log.warning("feature cache entry %s is damaged and is made again", path)
        return None
    return features_ND


def _write(path: Path, entry: dict[str, str], features_ND: np.ndarray) -> None:
    metadata = _metadata(entry, features_ND)
    try:
        runs.write_atomic(path, lambda temporary: save_file({"features": features_ND}, temporary, metadata))
    except HvfError as error:
        _log.warning("features are not cached: %s", error)
