"""The trials of THINGS-MEG: which image each shows, and which of them are trained and tested on.

Letters: N trials.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from hvf.config import HvfError
from hvf.data.images.decoding import IMAGE_SUFFIXES
from hvf.registry import listed

TRIAL_TYPES = ("exp", "test", "catch")
CATCH = 999999  # event code of a trial that shows no image of THINGS
NUMBERED = re.compile(r"_\d+[a-z]*$")  # aardvark_01b is of the concept aardvark


def zero_shot(trial_types: Iterable[str], concepts: Iterable[Any]) -> np.ndarray:
    """The split of each trial, (N,): "test", "train" for `exp` trials of concepts that are not tested, else "".

    Raises HvfError on an unknown trial type.
    """
    types_N, concepts_N = np.asarray(list(trial_types), str), np.asarray(list(concepts))
    _check_types(types_N, "the trials")
    test_N = types_N == "test"
    train_N = (types_N == "exp") & ~np.isin(concepts_N, np.unique(concepts_N[test_N]))
    return np.where(test_N, "test", np.where(train_N, "train", ""))


def image_numbers(files: Iterable[str]) -> list[str]:
    """All of THINGS' images, "concept/file.jpg", in the order of `things_image_nr`.

    Concepts are in the order of `things_concepts.tsv`, which sorts `_` before digits and `-`; a plain sorted listing
    has 285 images in other places.
    """

    def place(file: str) -> tuple[str, str]:
        concept, _, name = file.rpartition("/")
        return concept.replace("_", " "), name

    return sorted(files, key=place)


def trial_table(metadata: pd.DataFrame, where: str, root: Path) -> pd.DataFrame:
    """The published metadata, checked: trial_type, number, category, image, concept, session of each trial.

    Where `metadata` has no column image_path, the image is the file of its number in `root/Images`; `where` is its
    source, for messages. Raises HvfError if a column or value is missing, or numbers and names contradict each other.
    """
    missing = [n for n in ("trial_type", "things_image_nr", "things_category_nr") if n not in metadata]
    if missing:
        raise HvfError(f"{where} has no column {listed(missing)}; it has {listed(map(str, metadata.columns))}")
    types_N = metadata["trial_type"].astype(str).to_numpy()
    _check_types(types_N, where)
    shown = types_N != "catch"
    numbers = {}
    for name in ("things_image_nr", "things_category_nr"):
        numbers[name] = np.asarray(pd.to_numeric(metadata[name], errors="coerce"), float)
        bad = np.flatnonzero(shown & ~(numbers[name] >= 1))
        if len(bad):
            raise HvfError(f"{where}: row {bad[0] + 1} has no {name} ({metadata[name].iloc[bad[0]]!r})")
        numbers[name] = np.where(shown, numbers[name], 0).astype(int)
    if "image_path" in metadata:
        files = [str(path) for path in metadata["image_path"]]
    else:
        files = _listed_images(numbers["things_image_nr"], where, root)
    stems = [
        PurePosixPath(file.replace("\\", "/")).stem if known else "" for file, known in zip(files, shown, strict=True)
    ]
    table = pd.DataFrame({
        "trial_type": types_N,
        "number": numbers["things_image_nr"],
        "category": numbers["things_category_nr"],
        "image": stems,
        "concept": [NUMBERED.sub("", stem) for stem in stems],
        "session": metadata["session_nr"].astype(int).to_numpy() if "session_nr" in metadata else 0,
    })  # fmt: skip
    shown_rows = table[shown]
    for a, b in (("number", "image"), ("image", "number"), ("category", "concept"), ("concept", "category")):
        several = shown_rows.groupby(a, sort=False)[b].unique()
        several = several[several.map(len) > 1]
        if len(several):
            both = " and ".join(map(str, several.iloc[0][:2]))
            raise HvfError(f"{where} contradicts itself: the {a} {several.index[0]} goes with the {b}s {both}")
    return table


def trial_order(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(rows that are kept, in the order in which they are stored; split of each): training first, by image and time."""
    splits_N = zero_shot(table["trial_type"], table["category"])
    rows = np.flatnonzero(splits_N != "")
    rows = rows[np.lexsort((rows, table["number"].to_numpy()[rows], splits_N[rows] == "test"))]
    return rows, splits_N[rows]


def check_same(a: pd.DataFrame, b: pd.DataFrame, where: str, csv: Path) -> None:
    """Compare two tables of trials.

    Parameters
    ----------
    a, b : DataFrame
    where : str
        Source of `a`, for messages.
    csv : Path
        Source of `b`.

    Raises
    ------
    HvfError
        They are not the same trials in the same order; names the first that differs.
    """
    for name in ("trial_type", "things_image_nr"):
        if name not in a or name not in b:
            raise HvfError(f"{csv if name in a else where} has no column {name}")
        x, y = (t[name].fillna(CATCH).to_numpy() for t in (a, b))
        differ = np.flatnonzero(x != y)
        if len(differ):
            i = differ[0]
            raise HvfError(
                f"{where} and {csv} differ in {len(differ)} trials, first in row {i + 1}: {name} is {x[i]} and {y[i]}; "
                "they are of different recordings, or one is misordered"
            )


def _listed_images(numbers: np.ndarray, where: str, root: Path) -> list[str]:
    """The files of numbered images, from the listing of `root/Images`."""
    folder = root / "Images"
    pictures = (p for p in folder.glob("[!.@]*/[!.]*") if p.suffix.lower() in IMAGE_SUFFIXES)
    files = [p.relative_to(folder).as_posix() for p in pictures]
    if len(files) < numbers.max(initial=1):
        raise HvfError(
            f"{where} has no column image_path, and {folder} has {len(files)} images, not all those that are numbered "
            f"up to {numbers.max(initial=1)}: fetch sourcedata/sample_attributes_P*.csv or all images of THINGS"
        )
    names = image_numbers(files)
    return [names[number - 1] if number else "" for number in numbers]


def _check_types(types_N: np.ndarray, where: str) -> None:
    unknown = sorted(set(types_N.tolist()) - set(TRIAL_TYPES))
    if unknown:
        raise HvfError(
            f"{where} has the unknown trial type {listed(map(repr, unknown))}; known is {listed(TRIAL_TYPES)}"
        )
