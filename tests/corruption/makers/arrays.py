"""Inputs of the reader "array": a `.npy` of rows in the order of the images, and a folder or zip of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hvf.config import DataConfig
from hvf.study import open_study
from tests.corruption.case import Input, Reading, in_last_channel
from tests.corruption.numbered import png, trials_of, write_pictures


def study_of(trials: Path, images: Path, test_images: int = 3, **settings: object) -> Reading:
    where = {"trials": str(trials), "images": str(images)}
    return Reading.of_study(open_study(DataConfig(study="files", test_images=test_images, **where, **settings)))


def also_split(trials: Path, images: Path, test_images: int) -> list[Callable[[], Reading]]:
    """Other draws of the test images: that a concept is in one part may be chance in a single one."""
    return [lambda seed=seed: study_of(trials, images, test_images, split_seed=seed) for seed in (1, 2, 3)]


def array_input(
    folder: Path,
    *,
    rows: Sequence[int] | None = None,
    name: Callable[[int], str] = png,
    numbers: Sequence[int] = tuple(range(1, 13)),
    pictures: Callable[[Path], Path] | None = None,
    values: Callable[[np.ndarray], np.ndarray] = lambda x_NCT: x_NCT,
    concepts: Mapping[int, str] | None = None,
    test_images: int = 3,
) -> Input:
    """Rows of the images `rows` (default: `numbers` in the order of their names), and the pictures of `numbers`.

    `pictures` changes their folder and gives the path of what holds them then.
    """
    rows = sorted(numbers, key=name) if rows is None else rows
    np.save(folder / "responses.npy", values(trials_of(rows)[:, :, 0].astype("float32")))
    images = write_pictures(folder / "images", name, numbers)
    images = pictures(images) if pictures else images
    return Input(
        lambda: study_of(folder / "responses.npy", images, test_images),
        shown=rows,
        may_lack=rows if concepts else (),
        also=also_split(folder / "responses.npy", images, test_images) if concepts else (),
        path=folder / "responses.npy",
        images=images,
        carried=in_last_channel,
        concepts=concepts,
    )
