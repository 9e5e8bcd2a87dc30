"""Large image sets: a folder, a zip, tar shards, or a data set of the Hugging Face Hub, read where they lie.

All become an `ImageSet`, whose images are read when used, in any order, and a fingerprint computed without decoding
any image: another set or another order has another fingerprint.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from hvf.config import HvfError
from hvf.data.images.bombs import check_picture_size, picture_bytes
from hvf.data.images.decoding import BACKGROUND, IMAGE_SUFFIXES, decode, why_skipped
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.images.listing import picture_files, skipped_line, walk
from hvf.files.archives import open_zip
from hvf.files.budgets import LABEL, MEMBERS

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
SAVED = ("state.json", "dataset_dict.json")  # what `datasets` leaves in a folder that it saved


def open_image_source(name: str | Path, split: str = "train", background: str = BACKGROUND) -> tuple[ImageSet, str]:
    """Open images of any kind of source, with a fingerprint of names and sizes (or that of `datasets`).

    The concept of an image is its class label if there is one, else its folder, else its tar.

    Parameters
    ----------
    name : path or str
        A folder or zip of images; a .tar or a folder of them; a folder that `datasets` saved or that holds parquet
        files; or a Hub id such as ``ILSVRC/imagenet-1k``.
    split : str
        Which part of a data set of the Hub.
    background : str
        Colour that lies under transparent pixels.

    Raises
    ------
    HvfError
        It is none of these, or unreadable.
    """
    images, fingerprint = _opened(name, split, background)
    return images, fingerprint if background == BACKGROUND else f"{fingerprint}-{background.lstrip('#')}"


def _opened(name: str | Path, split: str, background: str) -> tuple[ImageSet, str]:
    path = Path(name).expanduser()
    if path.is_dir():
        tars = sorted(path.glob("*.tar"))
        if tars:
            return _from_tars(path, tars, background)
        if any((path / file).is_file() for file in SAVED) or next(path.rglob("*.parquet"), None):
            return _from_datasets(str(path), split, background)
        images = open_images(path, background)
        files, _ = picture_files(walk(path), str(path), path)
        return images, _fingerprint((name, (path / files[name]).stat().st_size) for name in sorted(files, key=Path))
    if path.is_file() and path.suffix.lower() == ".tar":
        return _from_tars(path.parent, [path], background)
    if path.is_file():
        images = open_images(path, background)
        with open_zip(path) as archive:
            return images, _fingerprint(sorted((one.filename, one.CRC, one.file_size) for one in archive.infolist()))
    if HUB_ID.fullmatch(str(name)):
        return _from_datasets(str(name), split, background)
    raise HvfError(f"there are no images at {name}: no such folder or file, and not a Hub data set's name (owner/name)")


@dataclass(frozen=True, eq=False)
class _TarSource:
    """Uncompressed tars, read at the places where their members lie."""

    places: tuple[tuple[Path, str, int, int], ...]  # tar, member, offset, bytes
    background: str

    def load(self, index: int) -> Image.Image:
        path, member, offset, size = self.places[index]
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                data = file.read(check_picture_size(size, f"{member} in {path}"))
        except OSError as error:
            raise HvfError(f"cannot read the image {member} in {path}: {error.strerror or error}") from error
        return decode(data, f"{member} in {path}", self.background)


def _from_tars(folder: Path, tars: list[Path], background: str) -> tuple[ImageSet, str]:
    """WebDataset's layout: the files of a sample share their name up to the first dot; NAME.cls is its label."""
    ids, concepts, places, facts = [], [], [], []
    skipped: list[tuple[str, str]] = []
    n = 0
    for path in tars:
        labels: dict[str, str] = {}
        pictures: list[tuple[str, tarfile.TarInfo]] = []
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    name = PurePosixPath(member.name)
                    key = str(name.with_name(name.name.partition(".")[0])) if name.name else ""
                    if not member.isfile() or member.issparse():  # whose bytes do not lie as they are
                        continue
                    n += 1
                    if n > MEMBERS():
                        raise HvfError(f"{folder} holds more than {MEMBERS():,.0f} files in its tars; {MEMBERS.advice}")
                    why = why_skipped(str(name).removeprefix("./"))
                    if why is None:
                        pictures.append((key, member))
                    elif why:
                        skipped.append((f"{path.name}/{name}", why))
                    elif name.suffix == ".cls" and (file := archive.extractfile(member)):
                        labels[key] = file.read(LABEL).decode("ascii", "replace").strip()
        except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, RecursionError) as error:
            raise HvfError(f"{path} is not a whole, uncompressed tar: {error}") from error
        for key, member in pictures:
            parent = PurePosixPath(key).parent.name
            ids.append(f"{path.stem}/{key}")
            concepts.append(labels.get(key) or parent or path.stem)
            places.append((path, member.name, member.offset_data, member.size))
            facts.append((path.name, member.name, member.size, concepts[-1]))
    if not ids:
        raise HvfError(f"the tars in {folder} hold no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    note = skipped_line(skipped, str(folder), len(ids))
    return ImageSet(_TarSource(tuple(places), background), ids, concepts, note=note), _fingerprint(facts)


@dataclass(frozen=True, eq=False)
class _DatasetSource:
    """An image column of a `datasets.Dataset`, memory-mapped Arrow."""

    rows: Any
    column: str
    name: str
    background: str

    def load(self, index: int) -> Image.Image:
        try:
            cell = self.rows[index][self.column]
            data = cell["bytes"] if cell["bytes"] is not None else picture_bytes(Path(cell["path"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise HvfError(f"image {index} of {self.name} cannot be read: {error}") from error
        return decode(data, f"{index} of {self.name}", self.background)


def _from_datasets(name: str, split: str, background: str) -> tuple[ImageSet, str]:
    import datasets

    try:
        saved = any((Path(name) / file).is_file() for file in SAVED)
        loaded = datasets.load_from_disk(name) if saved else datasets.load_dataset(name, split=split)
        rows: Any = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
    except Exception as error:  # `datasets`, the Hub's client and its transport share no class of error
        reason = " ".join(str(error).split())[:200]
        raise HvfError(
            f"the data set {name} (split {split}) cannot be read: {reason}; "
            f"fetch one of the Hub with `hf download --repo-type dataset {name}`, after `hf auth login` if it is gated"
        ) from error
    pictures = [column for column, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    if not pictures:
        raise HvfError(f"the data set {name} has no column of images; it has {', '.join(rows.features)}")
    labels = [column for column, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)]
    n = len(rows)
    concepts = [f"{i:08d}" for i in range(n)]  # where nothing is known, each image is a concept of its own
    if labels:
        kind = rows.features[labels[0]]
        given = rows.select_columns(labels[:1])[:][labels[0]]  # -1 or None in a test part that is not labelled
        concepts = [kind.int2str(one) if one is not None and one >= 0 else concepts[i] for i, one in enumerate(given)]
    column = rows.select_columns(pictures[:1]).cast_column(pictures[0], datasets.Image(decode=False))
    source = _DatasetSource(column, pictures[0], name, background)
    return ImageSet(source, [f"{i:08d}" for i in range(n)], concepts), f"datasets-{rows._fingerprint}"


def _fingerprint(facts: Iterable[tuple]) -> str:
    digest = hashlib.sha256()
    for fact in facts:
        digest.update("\t".join(map(str, fact)).encode() + b"\n")
    return digest.hexdigest()[:32]
