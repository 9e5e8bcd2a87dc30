"""THINGS-EEG2's list of images, `image_metadata.npy`: which image each event code stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hvf.config import HvfError
from hvf.data.images.concepts import bare_concept
from hvf.data.images.matching import stem
from hvf.data.things_eeg2.preprocessing import PARTS, Part
from hvf.pickles import loading
from hvf.registry import listed


@dataclass(frozen=True, eq=False)
class Stimuli:
    """Images of one part in the order of their event codes: file names without suffix, and concepts."""

    image_ids: np.ndarray
    concepts: np.ndarray


def find_metadata(folder: Path, given: Path | None = None) -> Path:
    """The list of images: the file (or its folder) that is `given`, or `image_metadata.npy` near the recordings.

    It is looked for in their folder, in the images' folder there, and in three folders above. Raises HvfError if there
    is none.
    """
    name = "image_metadata.npy"
    if given is not None:
        path = given / name if given.is_dir() else given
        if not path.is_file():
            raise HvfError(f"there is no list of images at {path}: give THINGS-EEG2's {name}, or its folder")
        return path
    for place in (folder, *list(folder.absolute().parents)[:3]):
        for path in (place / name, place / "image_set" / name, place / "Image_set" / name):
            if path.is_file():
                return path
    raise HvfError(
        f"{folder} has no {name}, which says which image each event is: say where THINGS-EEG2's is with --stimuli, or "
        "put it there (hvf data download things-eeg2-images fetches it)"
    )


def read_metadata(folder: Path, given: Path | None = None) -> dict[Part, Stimuli]:
    """Read the list of images (`find_metadata`). Raises HvfError if it is absent, damaged or contradictory."""
    path = find_metadata(folder, given)
    metadata = loading.load(path)
    stimuli: dict[Part, Stimuli] = {}
    for part in PARTS:
        prefix = "test" if part == "test" else "train"
        try:
            files = [str(name) for name in metadata[f"{prefix}_img_files"]]
            folders = [str(name) for name in metadata[f"{prefix}_img_concepts"]]
        except (TypeError, KeyError, IndexError):
            raise HvfError(f"{path} is no THINGS-EEG2 image list: {prefix}_img_files or _concepts is missing") from None
        ids = [stem(name) for name in files]
        if len(ids) != len(folders) or len(set(ids)) != len(ids) or not ids:
            raise HvfError(
                f"{path}: {len(files)} {prefix} files, {len(set(ids))} different, do not fit {len(folders)} concepts"
            )
        both = sorted(set(ids) & set(stimuli["training"].image_ids.tolist())) if part == "test" else []
        if both:
            raise HvfError(f"{path} lists the image {listed(both)} in training and in the test: one of them is another")
        stimuli[part] = Stimuli(np.asarray(ids), np.asarray([bare_concept(name) for name in folders]))
    return stimuli


def of_other_part(names: Sequence[str], part: Part) -> list[str]:
    """Of the names of images, those that lie in the folder of the other part."""
    other = re.compile(r"(^|/)(train|training)_images/" if part == "test" else r"(^|/)test_images/")
    return [name for name in names if other.search(name.replace("\\", "/"))]
