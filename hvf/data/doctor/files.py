"""Which files of a folder are recordings, epochs and tables of events, and which are leftovers of a system."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from hvf.data.doctor.checks import Finding
from hvf.data.images.decoding import SYSTEM_FOLDERS
from hvf.data.images.image_set import open_images
from hvf.data.recordings.raw import NOT_RAW, continued, is_epochs
from hvf.data.trials.provenance import sha256
from hvf.registry import HvfError

RAW_SUFFIXES = (".fif", ".fif.gz", ".ds", ".vhdr", ".set", ".edf", ".bdf", ".gdf", ".cnt", ".mff", ".sqd", ".con",
                ".nwb")  # fmt: skip
PART = re.compile(r"(-\d+|_split-\d+_[a-z]+)\.fif(\.gz)?$")  # what MNE and BIDS call parts of a split recording


def is_leftover(path: Path) -> bool:
    """Whether a name, relative to the folder looked through, is hidden (AppleDouble's `._a.fif` too) or of a system."""
    return any(
        part.lower() in SYSTEM_FOLDERS or (part.startswith(".") and part not in (".", "..")) for part in path.parts
    )


def below(root: Path, pattern: str = "*") -> Iterator[Path]:
    """Files and folders below a folder in the order of their names, without leftovers."""
    yield from sorted(path for path in root.rglob(pattern) if not is_leftover(path.relative_to(root)))


def files_below(root: Path, *endings: str) -> list[Path]:
    """Files below a folder whose names end so, in upper or lower case."""
    return [path for path in below(root) if path.name.lower().endswith(endings) and path.is_file()]


def holds_images(root: Path) -> bool:
    """Whether a folder is one of images: it can be opened as such."""
    try:
        return len(open_images(root)) > 0
    except HvfError:
        return False


def is_raw(path: Path) -> bool:
    """Whether a file (or CTF folder) is a continuous recording, by its name; a FIF of epochs is none."""
    return path.name.lower().endswith(RAW_SUFFIXES) and not NOT_RAW.search(path.name) and not is_epochs(path)


def raw_below(root: Path) -> list[Path]:
    """Continuous recordings below a folder, a CTF or EGI folder as one, further parts of a split FIF left out."""
    paths = [path for path in below(root) if is_raw(path) and not (PART.search(path.name) and continued(path))]
    folders = {path for path in paths if path.is_dir()}
    return [path for path in paths if not folders & set(path.parents)]


def copies(paths: Sequence[Path], root: Path) -> Iterator[Finding]:
    """Find recordings that hold the same bytes as another, whatever their names."""
    files = {path: max((p for p in _files(path)), key=lambda p: p.stat().st_size, default=None) for path in paths}
    sizes = Counter(file.stat().st_size for file in files.values() if file is not None)
    first: dict[str, Path] = {}
    for path, file in files.items():
        if file is None or sizes[file.stat().st_size] < 2:
            continue
        other = first.setdefault(sha256(file), path)
        if other != path:
            where, name = (p.relative_to(root).as_posix() for p in (path, other))
            message = f"it is a copy of {name}"
            yield Finding("warning", "file", where, message, "leave one out, or put the right file in its place")


def _files(path: Path) -> list[Path]:
    """The files that hold a recording: of a folder those in it, of a header also those that bear its name."""
    if path.is_dir():
        return [p for p in path.rglob("*") if p.is_file()]
    tables_too = [p for p in path.parent.glob(f"{glob.escape(path.stem)}.*") if p.is_file()]
    return [p for p in tables_too if p.suffix.lower() not in (".tsv", ".csv", ".json", ".txt")] or [path]
