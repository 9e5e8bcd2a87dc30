"""Image sets: stimuli in a fixed order, from arrays, a folder or a zip."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from PIL import Image
from typing_extensions import deprecated

from hvf.config import HvfError
from hvf.data import html
from hvf.data.images.bombs import picture_bytes
from hvf.data.images.concepts import below_common_folder, ids_and_concepts
from hvf.data.images.decoding import BACKGROUND, colour, decode
from hvf.data.images.listing import members, picture_files, readable, say_once, walk
from hvf.data.images.matching import ImageNames, normalized, without_ending
from hvf.data.indexing import chosen_rows, row_or_rows
from hvf.files.archives import MEMBER_ERRORS, open_zip, read_member
from hvf.files.budgets import PICTURE
from hvf.registry import feature_file, listed


class _Source(Protocol):
    def load(self, index: int) -> Image.Image: ...


@dataclass(frozen=True, eq=False)
class _ArraySource:
    x_NHWC: np.ndarray

    def load(self, index: int) -> Image.Image:
        return Image.fromarray(self.x_NHWC[index])


@dataclass(frozen=True, eq=False)
class _FolderSource:
    root: Path
    names: tuple[str, ...]
    background: str = BACKGROUND

    def load(self, index: int) -> Image.Image:
        path = self.root / self.names[index]
        try:
            data = picture_bytes(path)
        except OSError as error:
            raise HvfError(f"cannot read the image {readable(str(path))}: {error.strerror or error}") from error
        return decode(data, readable(str(path)), self.background)


@dataclass(frozen=True, eq=False)
class _ZipSource:
    path: Path
    names: tuple[str, ...]
    background: str = BACKGROUND

    def load(self, index: int) -> Image.Image:
        name = self.names[index]
        try:
            data = read_member(_archive(self.path, self.path.stat().st_mtime_ns, os.getpid()), name, PICTURE)
        except MEMBER_ERRORS as error:
            raise HvfError(f"cannot read the image {name} in {self.path}: {error}") from error
        return decode(data, f"{name} in {self.path}", self.background)


@dataclass(frozen=True, eq=False)
class _NoSource:
    """Of images that are known by name alone."""

    where: str

    def load(self, index: int) -> Image.Image:
        raise HvfError(f"{self.where} holds no pictures, and this needs them: give the folder or zip of the images")


@lru_cache(maxsize=2)
def _archive(path: Path, mtime_ns: int, pid: int) -> zipfile.ZipFile:
    """The open archive: listing it anew for each image is slow. One per process, which would else share a position."""
    return open_zip(path)


class ImageSet(Sequence[Image.Image]):
    """Images in a fixed order, decoded when asked for.

    Attributes
    ----------
    ids, concepts : tuple of str
        One identifier (unique) and one concept per image.
    captions : tuple of str or None
    note : str
        Which files of a folder or zip were skipped, in one line; "" if none that looks like a picture was.
    """

    def __init__(
        self,
        source: _Source,
        ids: Iterable[str],
        concepts: Iterable[str],
        captions: Iterable[str] | None = None,
        indices: Iterable[int] | None = None,
        note: str = "",
        files: tuple[str, ...] | None = None,
    ) -> None:
        self.note, self._files = note, files
        self.rows_sorted = True  # whether names without pictures stood in the order of the set
        self.ids = tuple(str(i) for i in ids)
        self.concepts = tuple(str(c) for c in concepts)
        self.captions = None if captions is None else tuple(str(c) for c in captions)
        self._source = source
        self._indices = tuple(range(len(self.ids))) if indices is None else tuple(int(i) for i in indices)
        n = len(self._indices)
        for name, labels in (("ids", self.ids), ("concepts", self.concepts), ("captions", self.captions)):
            if labels is not None and len(labels) != n:
                raise HvfError(f"an image set of {n} images was given {len(labels)} {name}; give one per image")
        if len(set(self.ids)) != n:
            repeated = next(i for i in self.ids if self.ids.count(i) > 1)
            raise HvfError(f"the image id {repeated!r} stands for more than one image; ids must be unique")

    @classmethod
    def from_arrays(
        cls,
        x_NHWC: np.ndarray,
        ids: Iterable[str],
        concepts: Iterable[str],
        captions: Iterable[str] | None = None,
    ) -> ImageSet:
        """Build a set from arrays.

        Parameters
        ----------
        x_NHWC : ndarray of uint8
            RGB images (N, H, W, 3).
        ids, concepts : iterable of str
            One of each per image; ids are unique.
        captions : iterable of str, optional

        Raises
        ------
        HvfError
            Another shape or dtype, or another number of ids.

        Examples
        --------
        >>> images = ImageSet.from_arrays(np.zeros((2, 8, 8, 3), np.uint8), ["cat_1", "dog_1"], ["cat", "dog"])
        >>> len(images), images.concepts
        (2, ('cat', 'dog'))
        """
        shapes = set() if isinstance(x_NHWC, np.ndarray) else {np.shape(image_HWC) for image_HWC in x_NHWC}
        if len(shapes) > 1:
            raise HvfError(f"images of an array must be of one size, not {listed(map(str, sorted(shapes)))}")
        x_NHWC = np.asarray(x_NHWC)
        if x_NHWC.ndim != 4 or x_NHWC.shape[3] != 3 or x_NHWC.dtype != np.uint8:
            raise HvfError(f"images must be uint8 (N, H, W, 3), not {x_NHWC.dtype} {x_NHWC.shape}")
        ids = tuple(ids)
        if len(ids) != len(x_NHWC):
            raise HvfError(f"an image set of {len(x_NHWC)} images was given {len(ids)} ids; give one per image")
        return cls(_ArraySource(x_NHWC), ids, concepts, captions)

    @classmethod
    def without_pictures(cls, names: Sequence[str], contents: Sequence[str], where: str) -> ImageSet:
        """Images that are known by name alone, in the order of their names; whoever asks for a picture is refused.

        Parameters
        ----------
        names : sequence of str
            Files of the images, of which ids and concepts are made as those of a folder are.
        contents : sequence of str
            A sha256 for each, in place of that of its pixels: what is equal counts as the same picture.
        where : str
            What holds the names, for messages.

        Examples
        --------
        >>> images = ImageSet.without_pictures(["b/b_1.png", "a/a_1.png"], ["0" * 64, "1" * 64], "clip.npz")
        >>> images.ids, images.concepts, images.has_pictures
        (('a/a_1', 'b/b_1'), ('a', 'b'), False)
        """
        ImageNames(names, where)
        order = sorted(range(len(names)), key=lambda i: names[i])
        files = tuple(names[i] for i in order)
        bare = [without_ending(normalized(name)) for name in below_common_folder(files)]
        bare = bare if len(set(bare)) == len(bare) else [normalized(name) for name in files]
        ids, concepts, notes = ids_and_concepts([f"{name}.png" for name in bare])
        images = cls(_NoSource(where), ids, concepts, note="; ".join(notes), files=files)
        images._hashes = tuple(contents[i] for i in order)
        images.rows_sorted = order == list(range(len(order)))
        return images

    @property
    def has_pictures(self) -> bool:
        """Whether there are pictures to decode, and not names alone."""
        return not isinstance(self._source, _NoSource)

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: Sequence[int] | np.ndarray | slice) -> ImageSet: ...
    def __getitem__(self, index: Any) -> Any:
        """Return image `index` as PIL RGB; or, for ints, a mask or a slice, those images as by `select`.

        Raises HvfError, naming the file, if the image cannot be decoded.
        """
        rows = row_or_rows(index, len(self), "images")
        return self._source.load(self._indices[rows]) if isinstance(rows, int) else self.select(rows)

    def __repr__(self) -> str:
        return f"<ImageSet: {len(self)} images of {len(set(self.concepts))} concepts>"

    def _repr_html_(self) -> str:
        rows = range(min(html.SHOWN, len(self)))
        shown = "".join(html.figure(html.picture_at(self, i), (self.ids[i], self.concepts[i])) for i in rows)
        more = len(self) - len(rows)
        return html.facts(repr(self), {}, shown + (f" and {more} more" if more else ""))

    @property
    def files(self) -> tuple[str, ...] | None:
        """The name of each image's file in its folder or zip; None of images that come from neither."""
        return None if self._files is None else tuple(self._files[i] for i in self._indices)

    @property
    def shape(self) -> tuple[int]:
        """(N,): scikit-learn takes rows of what has a shape."""
        return (len(self),)

    def select(self, indices: Iterable[int] | np.ndarray | slice) -> ImageSet:
        """Return the images `indices` (ints, a mask or a slice), in that order, as a set of their own.

        Nothing is decoded. Raises HvfError for an image that is not there, or is asked for twice.
        """
        rows = np.arange(len(self))[chosen_rows(indices, len(self), "images")].tolist()
        part = ImageSet(
            self._source,
            [self.ids[i] for i in rows],
            [self.concepts[i] for i in rows],
            None if self.captions is None else [self.captions[i] for i in rows],
            [self._indices[i] for i in rows],
            files=self._files,
        )
        if "_hashes" in self.__dict__:  # already decoded once
            part._hashes = tuple(self._hashes[i] for i in rows)
        return part

    @deprecated("ImageSet.subset is now ImageSet.select, and goes with version 0.3")
    def subset(self, indices: Iterable[int] | np.ndarray | slice) -> ImageSet:
        """`select`, under its name of version 0.1."""
        return self.select(indices)

    def array(self, indices: Iterable[int] | np.ndarray | slice = slice(None), size: int | None = None) -> np.ndarray:
        """Return images (ints, a mask or a slice; all by default) as uint8 (N, H, W, 3).

        With `size`, each is resized to a size × size square (bicubic, without cropping). Without it they must share
        one size, or HvfError names two that do not.
        """
        rows = np.arange(len(self))[chosen_rows(indices, len(self), "images")].tolist()
        images = []
        for i in rows:
            image = self[i]
            if size is not None and image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.BICUBIC)
            images.append(np.asarray(image))
            if images[-1].shape != images[0].shape:
                first = self.ids[rows[0]]
                raise HvfError(
                    f"the images differ in size: {first} is {_pixels(images[0])} and {self.ids[i]} is "
                    f"{_pixels(images[-1])}; give a size to resize them to"
                )
        if not images:
            return np.zeros((0, size or 0, size or 0, 3), np.uint8)
        return np.stack(images)

    def check(self) -> None:
        """Decode every image once. Raises HvfError naming the first file that is truncated or no image."""
        self.content_hashes()

    def content_hashes(self) -> tuple[str, ...]:
        """Return the sha256 of each image's size and RGB bytes: the same picture from a folder, a zip or an array."""
        return self._hashes

    @cached_property
    def _hashes(self) -> tuple[str, ...]:
        hashes, done = [], Counter[str]()
        for i in range(len(self)):
            image = self[i]
            hashes.append(hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest())
            done.update(image.info.get("shown", ()))
        if done:
            say_once(f"of {len(self)} images", ", ".join(f"{n} {what}" for what, n in done.items()))
        return tuple(hashes)

    @property
    def digest(self) -> str:
        """sha256 over ids and contents, in order; computed once."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        lines = (f"{name}\t{content}\n" for name, content in zip(self.ids, self._hashes, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def open_images(path: str | Path, background: str = BACKGROUND) -> ImageSet:
    """Open a folder or a zip of images, in the sorted order of their names (plain string order, subfolders included).

    The concept is the name of the folder an image lies in, or, where all images lie side by side, the file's stem
    (`ids_and_concepts`).
    Images are decoded when used; `ImageSet.check` decodes them all. Links are followed. Pictures that are not taken
    (hidden, thumbnails of file servers, formats that cannot be read) are counted in one line, and in the set's `note`.

    Parameters
    ----------
    path : path
        The folder or zip.
    background : str
        Colour that lies under transparent pixels.

    Raises
    ------
    HvfError
        There is nothing to open, or a folder is linked into itself.
    """
    if feature_file(path) is not None:
        raise HvfError(f"{path} holds features, and this needs pictures: give the folder or zip of the images")
    path = Path(path)
    colour(background)
    source: _Source
    if path.is_dir():
        files, note = picture_files(walk(path), str(path), path)
        source = _FolderSource(path, tuple(files.values()), background)
    elif path.is_file():
        files, note = picture_files(members(path), str(path))
        source = _ZipSource(path, tuple(files.values()), background)
    else:
        raise HvfError(f"there is no folder or zip of images at {path}")
    names = tuple(files)
    ids, concepts, notes = ids_and_concepts(list(names))
    for line in notes:
        say_once(str(path), line)
    return ImageSet(source, ids, concepts, note="; ".join([note, *notes] if note else notes), files=names)


def _pixels(image_HWC: np.ndarray) -> str:
    return f"{image_HWC.shape[1]}x{image_HWC.shape[0]}"
