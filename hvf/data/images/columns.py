"""Which column of a table names the images that were shown: tables of events, metadata of epochs."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence

import pandas as pd

from hvf.config import HvfError
from hvf.data.images.matching import ImageNames, normalized, stem, without_ending

# Columns that name the image, the most usual first.
IMAGE_COLUMNS = (
    "stim_file", "image", "image_file", "image_path", "image_name", "image_filename", "image_id", "file_path",
    "filepath", "stimulus", "stim", "stim_name", "stimname", "stim_path", "stimulus_file", "stimulus_name", "picture",
    "picture_file", "picture_name", "img", "img_file", "img_path", "img_name", "photo", "file_name", "filename", "file",
    "path",
)  # fmt: skip
# Columns that say what happened, which may be an image.
EVENT_COLUMNS = ("event_name", "trial_type", "event", "event_type", "condition", "value", "description")
ONLY_NAMES = 3  # the standing from which on a column must hold nothing but names of images
ABSENT = frozenset({"", "n/a", "na", "nan", "none", "null", "<na>", "nat"})


def image_column(
    table: pd.DataFrame, names: ImageNames | None = None, where: str = "the table"
) -> tuple[str, list[str]] | None:
    """The column that names images, and its texts, "" where a row names none; None if no column does.

    With the names of the images at hand it is the column whose values are such names; without, the one of a usual name
    or with names of picture files. Raises HvfError, naming the row, if two columns of equal standing, or of usual names
    and with names in common, name different images.

    Parameters
    ----------
    table : DataFrame
    names : ImageNames, optional
    where : str
        What the table is, for messages.
    """
    ranked: dict[int, dict[str, tuple[list[str], list[object]]]] = {}
    unclear: HvfError | None = None
    for column in sorted(map(str, table.columns), key=_place):
        texts = texts_of(table[column])
        rank = _standing(column, texts, names)
        if rank is None:
            continue
        try:
            shown: list[object] = [stem(text) or None for text in texts]
            if names is not None:
                shown = [None if i < 0 else i for i in names.find(texts)]
        except HvfError as error:
            unclear = unclear or error
            continue
        unknown = any(text and one is None for text, one in zip(texts, shown, strict=True))
        if any(one is not None for one in shown) and not (unknown and rank >= ONLY_NAMES):
            ranked.setdefault(rank, {})[column] = texts, shown
    if not ranked:
        if unclear is not None:
            raise unclear
        return None
    chosen = ranked[min(ranked)]
    best = max(chosen, key=lambda column: sum(one is not None for one in chosen[column][1]))
    beside = chosen
    if names is None:  # a usual name alone is no proof: without a name in common the column is of something else
        mine = {*chosen[best][1]} - {None}
        beside = {} if min(ranked) == 1 else dict(chosen)
        beside |= {column: both for column, both in ranked.get(1, {}).items() if mine & {*both[1]}}
    for other, (texts, shown) in beside.items():
        for row, (mine, others) in enumerate(zip(chosen[best][1], shown, strict=True)):
            if mine is not None and others is not None and mine != others:
                raise HvfError(
                    f"the columns {best!r} and {other!r} of {where} name different images in row {row}: "
                    f"{chosen[best][0][row]!r} and {texts[row]!r}; say which of them was shown, or leave the other out"
                )
    return best, chosen[best][0]


def texts_of(values: Iterable[object]) -> list[str]:
    """Values as names: whole numbers without decimals, "" where there is none."""
    texts = [_text(value) for value in values]
    if all(text == "" or re.fullmatch(r"\d+(\.0+)?", text) for text in texts):
        texts = [text.partition(".")[0] for text in texts]
    return texts


def is_picture_file(name: str) -> bool:
    """Whether a name has the ending of a picture's file."""
    file = normalized(name).rpartition("/")[2]
    return without_ending(file) not in (file, "")


def is_image_column(column: str) -> bool:
    """Whether a column bears a usual name of one that names images."""
    return _word(column) in IMAGE_COLUMNS


def _text(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = os.fsdecode(value) if isinstance(value, (bytes, os.PathLike)) else str(value)
    return "" if text.strip().lower() in ABSENT else text.strip()


def _standing(column: str, texts: Sequence[str], names: ImageNames | None) -> int | None:
    """How much speaks for a column, 0 most; None if it cannot name images."""
    held = [text for text in texts if text]
    files = any(map(is_picture_file, held))
    word = _word(column)
    if not held:
        return None
    if names is None and not files:
        return 1 if word in IMAGE_COLUMNS else None
    if all(map(str.isdecimal, held)):
        return ONLY_NAMES if word in IMAGE_COLUMNS else None
    if word in IMAGE_COLUMNS or (word in EVENT_COLUMNS and files):
        return 0
    return 2 if files or word in EVENT_COLUMNS else ONLY_NAMES + 1


def _place(column: str) -> int:
    known = (*IMAGE_COLUMNS, *EVENT_COLUMNS)
    return known.index(_word(column)) if _word(column) in known else len(known)


def _word(column: str) -> str:
    return re.sub(r"[\s-]+", "_", column.strip().lower())
