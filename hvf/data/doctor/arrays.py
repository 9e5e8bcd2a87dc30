"""The doctor's checks of plain arrays of responses, and of folders and zips of images.

Letters: N trials, C channels, T samples.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hvf.config import HvfError
from hvf.data.doctor import checks
from hvf.data.doctor.checks import Finding
from hvf.data.doctor.rehearsal import rehearse_trials
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.images.order import check_order
from hvf.data.trials.store import sidecar_of
from hvf.files.npy import npy_header, read_npy
from hvf.registry import listed

SMALL = 32  # pixels; encoders see at least 64
SAMPLED = 2000  # values of each axis of an array that are compared with their neighbours
SMOOTH = 0.5  # correlation of neighbours along an axis that is time


def is_array(path: Path) -> bool:
    """Whether a file is a `.npy` of plain numbers, by its header."""
    if path.suffix.lower() != ".npy":
        return False
    try:
        header = npy_header(path)
    except HvfError:
        return False
    return header.dtype.kind in "fiub" and len(header.shape) in (2, 3)


def examine_array(path: Path, images: Path | None, where: str) -> Iterator[Finding]:
    """Check a plain array, (N, C) or (N, C, T): as `hvf train` reads it, and which of its axes is which."""
    yield from rehearse_trials(path, images, where)
    if not is_array(path):
        return
    if re.fullmatch(r"sub-\d+_trials\.npy", path.name):
        message = f"it is named as trials that hvf prepared, but {sidecar_of(path).name} is not beside it"
        advice = "copy both: without it, only the order of the rows says which images they are of"
        yield Finding("warning", "sidecar", where, message, advice)
    x = read_npy(path, mmap=True)
    yield from _orientation(x, where)
    if 0 not in x.shape:
        yield from _values(x, where)


def _orientation(x: np.ndarray, where: str) -> Iterator[Finding]:
    """Check that rows look like trials, and the last of three axes like time."""
    advice = "trials come first, then channels, then samples: see np.moveaxis"
    if x.ndim == 3 and min(x.shape) > 3:
        along = [_smoothness(x, axis) for axis in range(3)]
        if max(along) > SMOOTH and along[2] < max(along) - 0.3:
            axis = int(np.argmax(along))
            message = f"the values change slowly along axis {axis} ({along[axis]:.2f} from one to the next) and not "
            message += f"along the last ({along[2]:.2f}): axis {axis} looks like time"
            yield Finding("warning", "axes", where, message, advice)
            return
    longest = int(np.argmax(x.shape[:2]))
    if longest == 1 and x.shape[1] > 4 * x.shape[0]:
        message = f"{x.shape[0]} rows of {x.shape[1]} channels: more channels than trials"
        yield Finding("warning", "axes", where, message, f"if the rows are channels, transpose it; {advice}")
        return
    yield Finding("ok", "axes", where, f"shape {tuple(map(int, x.shape))}: trials first")


def _smoothness(x: np.ndarray, axis: int) -> float:
    """Median correlation of neighbours along an axis, over some of its lines."""
    x_nL = np.moveaxis(x, axis, -1)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, n, 64) for n in x_nL.shape[:-1]]
    lines_nL = np.asarray(x_nL[tuple(rows)][:, :SAMPLED], dtype=np.float64)
    a, b = lines_nL[:, :-1], lines_nL[:, 1:]
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
    r = r[np.isfinite(r)]
    return float(np.median(r)) if len(r) else 0.0


def _values(x: np.ndarray, where: str) -> Iterator[Finding]:
    """Check for rows that hold the same values as another, and rows of zeros."""
    rows = [np.ascontiguousarray(row).tobytes() for row in x]
    n = Counter(rows)
    empty = sum(k for row, k in n.items() if not any(row))
    same = sum(k - 1 for row, k in n.items() if k > 1 and any(row))
    if empty:
        yield Finding(
            "warning", "repeats", where, f"{empty} of {len(x)} rows are zeros", "see whether it was filled to the end"
        )
    if same:
        message = f"{same} of {len(x)} rows are exact copies of another"
        yield Finding("warning", "repeats", where, message, "a trial was counted twice, or the values are few")
    if not (same or empty):
        yield Finding("ok", "repeats", where, f"no two of the {len(x)} rows are equal")


# --- images -----------------------------------------------------------------------------------------------------------


def examine_images(path: Path, where: str) -> Iterator[Finding]:
    """Check a folder or zip of images: every picture decoded, sizes, equal pictures, concepts."""
    try:
        images = open_images(path)
    except HvfError as error:
        yield Finding("error", "images", where, str(error), "give a folder or zip that holds the images")
        return
    concepts = len(set(images.concepts))
    each = ", each its own" if concepts == len(images) else ""
    yield Finding("ok", "images", where, f"{len(images)} images of {concepts} concepts{each}")
    try:
        check_order(images)
    except HvfError as error:
        advice = "no matter where the trials name their images; `hvf train` refuses an array in their order"
        yield Finding("warning", "order", where, str(error), advice)
    yield from _pictures(images, where)


def _pictures(images: ImageSet, where: str) -> Iterator[Finding]:
    sizes: Counter[tuple[int, int]] = Counter()
    flat, broken, first, same = [], [], {}, []
    for i in range(len(images)):
        try:
            image = images[i]
        except HvfError as error:
            broken.append(str(error))
            continue
        sizes[image.size] += 1
        if all(low == high for low, high in image.getextrema()):  # pyright: ignore[reportGeneralTypeIssues]
            flat.append(images.ids[i])
        key = checks.content_of(image)
        if key in first:
            same.append((i, first[key]))
        first.setdefault(key, i)
    if broken:
        message = f"{len(broken)} of {len(images)} images cannot be read: {broken[0]}"
        yield Finding("error", "images", where, message, "`hvf train` refuses them: copy them again, or leave them out")
    if flat:
        message = f"{len(flat)} images are of one colour: {listed(flat)}"
        yield Finding("warning", "images", where, message, "see whether they are what was shown")
    if same:
        pairs = listed((f"{images.ids[i]} is {images.ids[k]}" for i, k in same), 3)
        apart = sum(images.concepts[i] != images.concepts[k] for i, k in same)
        message = f"{len(same)} images are the same picture as another: {pairs}"
        message += f"; {apart} of another concept" if apart and len(set(images.concepts)) < len(images) else ""
        advice = "they are kept together, in training or in test; if one was saved under a wrong name, mend it"
        yield Finding("warning", "duplicates", where, message, advice)
    elif sizes:
        yield Finding("ok", "duplicates", where, f"{sum(sizes.values())} different pictures")
    small = {size: n for size, n in sizes.items() if min(size) < SMALL}
    if small:
        message = f"{sum(small.values())} images are smaller than {SMALL} pixels, such as {_size(min(small))}"
        yield Finding("warning", "sizes", where, message, "fine if they were shown so; else take the originals")
    elif sizes:
        most = listed((f"{n} of {_size(size)}" for size, n in sizes.most_common()), 3)
        yield Finding("ok", "sizes", where, most)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
