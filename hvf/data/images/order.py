"""The orders that files may have: a response without a name is paired by place only where all usual orders agree."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Any

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.images.matching import without_ending

# Signs in the order of the Unicode Collation Algorithm, which file managers and `ls` follow; all come before digits.
SIGNS = " _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$"
NAMED = 'give the names with the responses: epochs.metadata["image"], or hvf.Trials(x_NCT, ids, ...).save(path)'


def check_order(images: ImageSet) -> None:
    """Refuse files of images whose usual orders differ, naming two: rows in "the images' order" could follow either.

    Images that come from no folder or zip, or were put in another order than that of their names, have the order that
    they were given. Raises HvfError.
    """
    files = images.files
    if not images.rows_sorted:
        raise HvfError(
            "the rows of the features are in another order than the names of their images, and the responses, which "
            f"name no image, may follow either: {NAMED}"
        )
    if files is None or list(files) != sorted(files):
        return
    for order, key, advice in _ORDERS:
        for i, (text, other) in enumerate(zip(files, sorted(files, key=key), strict=True), start=1):
            if text != other:
                raise HvfError(
                    f"the images have two usual orders: number {i} is {text} as text and {other} {order}, and the "
                    f"responses, which name no image, may follow either: {advice}, or {NAMED}"
                )


def by_number(name: str) -> list[tuple[int, int, str]]:
    """A sorting key under which img2 comes before img10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _by_folder(name: str) -> tuple[str, ...]:
    return tuple(name.split("/"))


def _by_class(name: str) -> tuple[str, str, str]:
    folders, _, file = name.rpartition("/")
    return folders.partition("/")[0], folders, file


def _by_locale(name: str) -> tuple[Any, ...]:
    """Folder by folder: signs, digits, letters; accents and then capitals count only where nothing else differs."""
    return tuple((_letters(part), part.swapcase()) for part in without_ending(name).split("/"))


def _letters(part: str) -> list[tuple[int, int, str]]:
    plain = [c for c in unicodedata.normalize("NFKD", part) if not unicodedata.combining(c)]
    return [
        (1, 0, c) if c.isdecimal() else (2, 0, c.casefold()) if c.isalpha() else (0, SIGNS.find(c), c) for c in plain
    ]


_RENAME = "rename them so that both agree"
_ORDERS: tuple[tuple[str, Callable[[str], Any], str], ...] = (
    ("by number", by_number, "pad the numbers with zeros"),
    ("folder by folder (torchvision's ImageFolder, pathlib)", _by_folder, _RENAME),
    ("with the files of a folder before its folders (torchvision's ImageFolder)", _by_class, _RENAME),
    ("in a file manager or `ls` (capitals and small letters alike)", _by_locale, _RENAME),
)
