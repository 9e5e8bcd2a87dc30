"""Galleries out of files: pictures, features that somebody computed, features of millions of images.

Features must be those of the decoder's encoders. Where the file says whose they are, that decides; features without a
name are taken only if they are as wide, and lie where those of training lay.

Letters: M gallery images, D embedding, d width of an encoder's features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hvf.alignment import Alignment
from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet
from hvf.decoding.gallery import Gallery
from hvf.registry import FeatureFile, feature_file, listed
from hvf.vision import shards
from hvf.vision.cache import embed_all
from hvf.vision.feature_images import open_gallery_features, open_image_set
from hvf.vision.parquet import ParquetRows
from hvf.vision.specs import parse_spec

STREAMED = 2**28  # bytes of a parquet file from which on it is read some rows at a time
ENOUGH = 10  # images whose mean is compared with that of training
ALIKE = 0.3  # cosine of the two means, below which they come from different encoders
LONGER = 4.0  # times as long as in training, or as short, at which features are scaled otherwise
NAMELESS = ("", "features", "feature", "embeddings", "embedding", "x", "arr_0", "image", "images", "vector")


@dataclass(frozen=True, eq=False)
class Looker:
    """What a decoder needs to embed a gallery."""

    alignment: Alignment
    encoders: Mapping[str, str]  # {spec: hash of its weights}
    device: str = "cpu"
    background: str = "white"

    @property
    def specs(self) -> tuple[str, ...]:
        """The encoders whose features are fused."""
        return tuple(self.alignment.hvf.specs)


def open_gallery(source: str | Path, looker: Looker) -> tuple[Gallery, ImageSet | None]:
    """The images to look in, and their pictures where there are any.

    `source` is a folder or zip of pictures; a folder of `prior_training/prepare.py`; or a file of features,
    ``[features:]FILE[#KEY]``, whose keys are the names of encoders, or whose one array is the decoder's one encoder's.
    Raises HvfError if it is none of them, or its features are not of the decoder's encoders.
    """
    place = Path(source)
    if (place / shards.INDEX).is_file():
        return _of_shards(place, looker), None
    file = feature_file(source)
    if file is not None:
        return _of_features(source, file, looker), None
    if not place.exists():
        raise HvfError(f"--gallery: there is nothing at {source}")
    images = open_image_set(place, looker.background)
    z_f_MD = looker.alignment.embed_images(embed_all(images, looker.specs, looker.device, weights=looker.encoders))
    return Gallery.of(images.ids, z_f_MD, images.concepts, str(source)), images


def _of_shards(folder: Path, looker: Looker) -> Gallery:
    """Prepared features, read as they are asked for."""
    prepared = shards.open_shards(folder)
    called = {parse_spec(spec): spec for spec in prepared.specs}  # however the decoder spells it
    for spec in looker.specs:
        if parse_spec(spec) not in called:
            raise HvfError(f"{folder} has no features of {spec}, but of {listed(prepared.specs)}")
        weights = prepared.settings.encoders[called[parse_spec(spec)]].get("weights_hash")
        if looker.encoders.get(spec, weights) != weights:
            raise HvfError(f"{folder} has features of {spec} by other weights than the decoder was trained with")

    def read(start: int, stop: int) -> np.ndarray:
        features = prepared.batch(np.arange(start, stop))
        return looker.alignment.embed_images({spec: features[called[parse_spec(spec)]] for spec in looker.specs})

    return Gallery(prepared.ids, read, looker.alignment.brain.width, prepared.concepts, str(folder))


def _of_features(source: str | Path, file: FeatureFile, looker: Looker) -> Gallery:
    path = Path(file.path)
    if path.suffix.lower() == ".parquet" and path.is_file() and path.stat().st_size > STREAMED:
        return _of_parquet(path, file.key, looker)
    ids, arrays = open_gallery_features(source)
    chosen = {spec: arrays[_key_of(spec, list(arrays), looker.specs, path)] for spec in looker.specs}
    for spec, x_Md in chosen.items():
        _check(spec, x_Md, looker, path)
    return Gallery.of(ids, looker.alignment.embed_images(chosen), what=str(source))


def _of_parquet(path: Path, key: str | None, looker: Looker) -> Gallery:
    """One column of a large file, for a decoder of one encoder."""
    rows = ParquetRows(path, key)
    spec = looker.specs[0]
    _key_of(spec, [rows.key or ""], looker.specs, path)
    _check(spec, rows.read(0, min(1000, len(rows.ids))), looker, path)
    if len(set(rows.ids)) != len(rows.ids):
        raise HvfError(f"{path} names an image twice")

    def read(start: int, stop: int) -> np.ndarray:
        return looker.alignment.embed_images({spec: rows.read(start, stop)})

    return Gallery(rows.ids, read, looker.alignment.brain.width, what=str(path))


def _key_of(spec: str, keys: list[str], specs: tuple[str, ...], path: Path) -> str:
    """The key under which a file holds features of an encoder."""
    named = feature_file(spec)  # the decoder was trained on features in a file, which has a key
    for candidate in (spec, None if named is None else named.key):
        if candidate is not None and candidate in keys:
            return candidate
    if len(specs) == 1 and len(keys) == 1 and (keys[0].casefold() in NAMELESS or named is not None):
        return keys[0]
    raise HvfError(
        f"{path} has features called {listed(map(repr, keys))}, the decoder needs those of {listed(specs)}: name its "
        "arrays after the encoders"
    )


def _check(spec: str, x_Md: np.ndarray, looker: Looker, path: Path) -> None:
    """Refuse features of another width; of enough images, with a mean elsewhere, or longer or shorter by far."""
    standard = looker.alignment.normalisation.get(spec)
    if standard is None:
        return
    mean_d, sd = (x.cpu().numpy().reshape(-1) for x in standard)
    x_Md = x_Md.reshape(len(x_Md), -1)
    if x_Md.shape[1] != len(mean_d):
        raise HvfError(f"{path}: features of {spec} are {len(mean_d)} wide, these {x_Md.shape[1]}: another encoder's?")
    here_d = x_Md.mean(axis=0, dtype=np.float64)
    far = np.linalg.norm(mean_d) / np.sqrt(len(mean_d)) > 0.5 * float(sd.mean())
    norm = float(np.linalg.norm(here_d) * np.linalg.norm(mean_d))
    if len(x_Md) >= ENOUGH and far and float(here_d @ mean_d) < ALIKE * norm:
        raise HvfError(
            f"{path}: these features lie elsewhere than those of {spec} that the decoder was trained with: they come "
            "from another encoder, or are scaled otherwise"
        )
    length = float(np.sqrt(np.mean(np.square(x_Md, dtype=np.float64)) / np.mean(mean_d**2 + sd**2)))
    if len(x_Md) >= ENOUGH and not 1 / LONGER < length < LONGER:
        raise HvfError(
            f"{path}: these features are {length:.2g} times as long as those of {spec} that the decoder was trained "
            "with: they are scaled otherwise (divided by their length?), or come from another encoder"
        )
