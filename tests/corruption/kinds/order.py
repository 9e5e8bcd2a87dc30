"""Kind 6: rows in the order of the files, where two usual orders differ."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tests.corruption.case import Input, case, in_last_channel
from tests.corruption.makers.arrays import study_of
from tests.corruption.makers.epochs import epochs_of, save
from tests.corruption.numbered import trials_of, write_picture

Order = Callable[[Sequence[str]], list[str]]


def as_text(names: Sequence[str]) -> list[str]:
    return sorted(names)


def by_number(names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)])


def image_folder(names: Sequence[str]) -> list[str]:
    """The order of torchvision's ImageFolder: classes sorted by name, then the files of each."""
    return sorted(names, key=lambda name: (os.path.dirname(name), os.path.basename(name)))


def ignoring_case(names: Sequence[str]) -> list[str]:
    return sorted(names, key=str.lower)


def by_stem(names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: os.path.splitext(name)[0])


def without_marks(names: Sequence[str]) -> list[str]:
    """As a locale sorts: letters and digits first, case and punctuation after."""
    return sorted(names, key=lambda name: (re.sub(r"[^a-z0-9/]", "", name.lower()), name))


def walk(names: Sequence[str]) -> list[str]:
    """The order of os.walk: a folder's own files before those in folders."""
    return sorted(names, key=lambda name: (os.path.dirname(name) != "", name))


def numbers_of(names: Sequence[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(names, start=1)}


def ordered(folder: Path, names: Sequence[str], order: Order, zipped: bool = False, epochs: bool = False) -> Input:
    """Rows in an order of the files' names; the picture of row i shows i."""
    numbers = numbers_of(order(names))
    images = folder / "images"
    for name, number in numbers.items():
        write_picture(images / name, number)
    if zipped:
        with zipfile.ZipFile(folder / "images.zip", "w") as archive:
            for name in reversed(names):
                archive.write(images / name, name)
        images = folder / "images.zip"
    shown = list(numbers.values())
    if epochs:
        path = save(epochs_of(shown), folder / "sub-01-epo.fif")
        return Input(lambda: study_of(path, images), shown, path, images, may_lack=shown)
    np.save(folder / "responses.npy", trials_of(shown)[:, :, 0].astype("float32"))
    path = folder / "responses.npy"
    return Input(lambda: study_of(path, images), shown, path, images, carried=in_last_channel, may_lack=shown)


PADDED = [f"img{i:02d}.png" for i in range(1, 13)]
PLAIN = [f"img{i}.png" for i in range(1, 13)]
CLASSES = [f"{c}/{c}_{i:02d}.png" for c in ("ice", "ice-cream", "zebra") for i in range(4)]
SPACED = [f"{c}/{i:02d}.png" for c in ("sea", "sea lion", "seal") for i in range(4)]
CASES = [f"{c}{i:02d}.png" for c in ("Ant", "bee", "Cow", "dog") for i in range(3)]
FOLDERS = [f"{c}/{i:02d}.png" for c in ("Ant", "bee", "Cow", "dog") for i in range(3)]
ACCENTS = [f"{c}{i:02d}.png" for c in ("eagle", "éclair", "fox", "zebra") for i in range(3)]
MARKS = ["ice_a.png", "icea_b.png", "ice-c.png", "iceb.png", "ice d.png", "icez.png"]
STEMS = ["cat.png", "cat-1.png", "cat-2.png", "dog.png", "dog-1.png", "dog-2.png"]
MIXED = ["b/01.png", "b/02.png", "d/01.png", "d/02.png", "a.png", "c.png", "e.png"]
COUNTED = [f"c{c}/{i:02d}.png" for c in (1, 2, 10, 11) for i in range(3)]
DATES = [f"2024-{month}-{day}.png" for month in (1, 2, 10) for day in (1, 2, 11)]
ONE = ["a.png", "b.png", "c.png", "d.png", "e.png"]

ORDER = r"(?i)order"
# The names, orders in which a lab may have written its rows, and whether all usual orders are one.
LISTS: dict[str, tuple[Sequence[str], tuple[Order, ...], bool]] = {
    "padded numbers": (PADDED, (as_text, by_number), True),
    "plain numbers": (PLAIN, (as_text, by_number), False),
    "classes of which one begins another": (CLASSES, (as_text, image_folder), False),
    "classes with a space": (SPACED, (as_text, image_folder), False),
    "names of both cases": (CASES, (as_text, ignoring_case), False),
    "folders of both cases": (FOLDERS, (as_text, ignoring_case), False),
    "names with accents": (ACCENTS, (as_text, lambda names: list(names)), False),
    "names with marks": (MARKS, (as_text, without_marks), False),
    "a name that begins another": (STEMS, (as_text, by_stem), False),
    "pictures beside folders": (MIXED, (as_text, walk), False),
    "numbered folders": (COUNTED, (as_text, by_number), False),
    "dates": (DATES, (as_text, by_number), False),
    "letters": (ONE, (as_text,), True),
}
for what, (names, orders, same) in LISTS.items():
    for order in orders:
        how = getattr(order, "__name__", "order").replace("<lambda>", "by a locale")
        outcome = {} if same else {"refused": ORDER}
        case(6, "array", f"{what}, {how}", ordered, names, order, **outcome)
    case(
        6, "epochs", f"{what}, unnamed", ordered, names, orders[-1], False, True, **({} if same else {"refused": ORDER})
    )
    case(6, "array", f"{what}, in a zip", ordered, names, orders[-1], True, **({} if same else {"refused": ORDER}))
