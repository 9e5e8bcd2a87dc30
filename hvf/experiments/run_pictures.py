"""The pictures of a run: images/ROW/NNNN_id.png, one for each test image, left whole and read back.

Letters: N images, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hvf.config import HvfError
from hvf.data.images.decoding import decode
from hvf.runs import Run, padded, usable_cores, write_atomic


def write_pictures(run: Run, row: str, ids: tuple[str, ...], images_NHWC: np.ndarray) -> None:
    """Leave a picture of each image in images/ROW, NNNN_id.png, and no other."""
    pictures = [Image.fromarray(image_HWC) for image_HWC in images_NHWC]
    leave_pictures(run, row, ids, [lambda tmp, picture=picture: picture.save(tmp) for picture in pictures])


def leave_pictures(run: Run, row: str, ids: tuple[str, ...], writers: Sequence[Callable[[Path], Any]]) -> None:
    """Leave the files that these write in images/ROW, one for each image, and no other picture."""
    names = picture_names(ids)
    for stale in pictures_of(run, row).keys() - set(names):
        (run.path / "images" / row / stale).unlink()
    with ThreadPoolExecutor(usable_cores()) as pool:  # PNGs are packed, and wait for the disk, outside Python's lock
        list(pool.map(lambda name, write: write_atomic(run.path / "images" / row / name, write), names, writers))


def picture_names(ids: tuple[str, ...]) -> list[str]:
    """The files of a row's pictures: numbers, and of names at most 80 characters and 160 bytes."""
    plain = ("".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:80] for name in ids)
    short = (name.encode()[:160].decode(errors="ignore") for name in plain)  # file systems count bytes, 255 at most
    return [f"{padded(i, len(ids))}_{name}.png" for i, name in enumerate(short)]


def are_whole(run: Run, row: str, ids: tuple[str, ...]) -> bool:
    """Whether all pictures of a row are there, no other is, and each can be read."""
    pictures = pictures_of(run, row)
    if list(pictures) != picture_names(ids):
        return False
    try:
        return len(_stack(pictures)) == len(ids)
    except HvfError:
        return False


def pictures_of(run: Run, row: str) -> dict[str, Path]:
    """{name: file} of a row's pictures, in order; none where the row was not drawn."""
    folder = run.path / "images" / row
    return {path.name: path for path in sorted(folder.glob("[0-9]*.png"))}


def _stack(pictures: dict[str, Path]) -> np.ndarray:
    try:
        return np.stack([np.asarray(decode(path.read_bytes(), str(path))) for path in pictures.values()])
    except (OSError, ValueError) as error:
        raise HvfError(f"the pictures of this run cannot be read ({error}): draw them again") from error
