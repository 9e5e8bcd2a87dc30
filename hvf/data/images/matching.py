"""Names of images met with the ids of an image set."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hvf.config import HvfError
from hvf.data.images.image_set import IMAGE_SUFFIXES, ImageSet


def image_indices(names: Sequence[str], images: ImageSet) -> list[int]:
    """Index of each named image in the set, by its id or else by its file's name (`stem`); -1 where it is absent.

    Raises HvfError where a name stands for several of the images.
    """
    by_id = {name: i for i, name in enumerate(images.ids)}
    if all(name in by_id for name in names):
        return [by_id[name] for name in names]
    by_stem: dict[str, list[int]] = {}
    for name, i in by_id.items():
        by_stem.setdefault(stem(name), []).append(i)
    indices = []
    for name in names:
        matches = [by_id[name]] if name in by_id else by_stem.get(stem(name), [-1])
        if len(matches) > 1:
            both = " and ".join(images.ids[i] for i in matches[:2])
            raise HvfError(f"which image was seen as {name!r} is not clear: {both} share that name")
        indices += matches
    return indices


def bare_concept(folder: str) -> str:
    """The concept of an image folder, without its number.

    >>> bare_concept("00001_aardvark")
    'aardvark'
    """
    return re.sub(r"^\d+_", "", folder)


def stem(name: str) -> str:
    """The name of an image's file, without folder and suffix.

    >>> stem("00001_aardvark/aardvark_01b.jpg")
    'aardvark_01b'
    """
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    head, dot, suffix = name.rpartition(".")
    return head if dot + suffix.lower() in IMAGE_SUFFIXES else name
