"""Image sets and galleries from files of features: for whoever may not have the photographs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hvf.data.images.decoding import BACKGROUND
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.images.listing import say_once
from hvf.registry import FEATURES, feature_file
from hvf.vision.embeddings import Embeddings, read_gallery


class GalleryFeatures(NamedTuple):
    """Images (M) that are known by their features alone."""

    ids: tuple[str, ...]
    features: dict[str, np.ndarray]  # {what the file calls them (KEY): (M, d) float32}; "" if it calls them nothing


def open_image_set(path: str | Path, background: str = BACKGROUND) -> ImageSet:
    """Open a folder or a zip of images (`open_images`), or a file of features, ``[features:]FILE[#KEY]``.

    A file of features gives the images' names, and their concepts where the names lie in folders. There are no pictures
    to decode; images whose features are equal count as the same picture.
    """
    file = feature_file(path)
    if file is None:
        return open_images(path, background)
    first, *others = read_gallery(path).values()
    images, where = first.of_images, str(file).removeprefix(FEATURES)
    parts = [images.x_ND, *(one.rows_of(images.ids, where) for one in others)]
    contents = [hashlib.sha256(b"".join(x_ND[i].tobytes() for x_ND in parts)).hexdigest() for i in range(len(images))]
    say_once(where, f"{len(images)} images without pictures, {_named(first)}")
    return ImageSet.without_pictures(images.ids, contents, where)


def open_gallery_features(source: str | Path) -> GalleryFeatures:
    """The ids and the features of a gallery, ``[features:]FILE[#KEY]``: of all keys of the file, or of the one named.

    Features of several keys have the same images in the same order. Raises HvfError as `read_embeddings` does, if an
    image is named twice with different features, or keys do not hold the same images.
    """
    tables = read_gallery(source)
    first = next(iter(tables.values())).of_images
    return GalleryFeatures(first.ids, {key: one.rows_of(first.ids, first.where) for key, one in tables.items()})


def _named(table: Embeddings) -> str:
    if table.names is not None:
        return f"named by {table.origin}"
    return "numbered by row, for no names were found" + (f": {table.origin}" if table.origin else "")
