"""Superordinate categories of concepts, such as "vehicle": from a table, or from the study."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from hvf.config import DataConfig, HvfError
from hvf.study import superordinate_categories


def categories_of(concepts: Sequence[str], data: DataConfig, path: Path | None = None) -> list[str] | None:
    """The category of each concept; None where nobody knows any.

    From a CSV with lines ``concept,category``, or else from the study. Raises HvfError if the CSV cannot be read or
    lacks a concept.
    """
    if path is None:
        known = superordinate_categories(data)
        return [known[concept] for concept in concepts] if known else None
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            named = {row[0].strip(): row[1].strip() for row in csv.reader(file) if len(row) > 1}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HvfError(f"--categories: {path} cannot be read ({error})") from None
    missing = [concept for concept in dict.fromkeys(concepts) if concept not in named]
    if missing:
        raise HvfError(f"{path} lacks {len(missing)} of the concepts shown, the first {missing[0]!r}")
    return [named[concept] for concept in concepts]
