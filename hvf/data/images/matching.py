"""Names of images met with the names of an image set: the one place where it is decided that two names are one.

A name is a path below some folder, a file name, or a file name without its ending. Unicode forms (NFC, NFD),
backslashes, spaces around it and the case of the ending (`.PNG`) make no difference; the case of the rest does.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property

from hvf.config import HvfError
from hvf.data.images.concepts import bare_concept
from hvf.data.images.decoding import IMAGE_SUFFIXES
from hvf.registry import listed


class ImageNames:
    """The names of an image set, which other names are met with.

    Parameters
    ----------
    names : sequence of str
        `ImageSet.ids`, or file names.
    where : str
        What holds the images, for messages.

    Raises
    ------
    HvfError
        If two of them are one name.

    Examples
    --------
    >>> names = ImageNames(["cat/cat_1", "cat/cat_2", "dog/dog_1"])
    >>> names.indices(["stimuli/dog/dog_1.JPG", "cat_2.png", r"cat\\cat_1"])
    [2, 1, 0]
    >>> names.find(["cat_7"])
    [-1]
    """

    def __init__(self, names: Sequence[str], where: str = "the image set") -> None:
        self.names, self.where = tuple(names), where
        self._index: dict[str, int] = {}
        for i, name in enumerate(self.names):
            first = self._index.setdefault(normalized(name), i)
            if first != i:
                raise HvfError(
                    f"{where} holds two images of one name, {self.names[first]!r} and {name!r}, which differ in the "
                    "case of the ending or in the form of a letter (NFC, NFD) alone: rename one of them"
                )

    def find(self, asked: Iterable[str]) -> list[int]:
        """Index of the image that each name is of, -1 where there is none.

        The whole path decides, then the folders that lie next to the file, then the file's name, then its name without
        ending. Where some of the folders named are the set's, so must be all. Raises HvfError where a name stands for
        several images, or names of different files stand for one.
        """
        asked = list(asked)
        keys = {name: normalized(name) for name in dict.fromkeys(asked)}
        folders = {bare_concept(key.split("/")[-2]) for key in keys.values() if "/" in key}
        known = bool(folders & self._folders)
        found = {name: self._find(name, key, known) for name, key in keys.items()}
        self._refuse_shared({name: i for name, i in found.items() if i >= 0 and keys[name] not in self._index}, found)
        return [found[name] for name in asked]

    def _refuse_shared(self, loose: dict[str, int], found: dict[str, int]) -> None:
        """Refuse two names of one image that are two files; where one is the image's whole path, drop the other."""
        names_of: dict[int, list[str]] = {}
        if loose:
            for name, i in found.items():
                names_of.setdefault(i, []).append(name)
        for name, i in loose.items():
            for other in names_of[i]:
                if _may_be_one(normalized(name), normalized(other)):
                    continue
                if other not in loose:
                    found[name] = -1
                    break
                raise HvfError(f"{name!r} and {other!r} are two files, but {self.where} has {self.names[i]!r} alone")

    def indices(self, asked: Iterable[str], source: str = "the trials") -> list[int]:
        """As `find`; raises HvfError that lists the names that are of no image, which `source` holds."""
        asked = list(asked)
        indices = self.find(asked)
        missing = list(dict.fromkeys(name for name, i in zip(asked, indices, strict=True) if i < 0))
        if missing:
            n = len(set(asked))
            which = f"{len(missing)} of the {n} images named in {source} {'is' if len(missing) == 1 else 'are'}"
            raise HvfError(f"{which} not in {self.where}: {listed(missing)}{self.nearest(missing[0])}")
        return indices

    def nearest(self, name: str) -> str:
        """`"; did you mean 'x'?"`, or one of the names that there are."""
        word, stems = stem(name), {stem(known): known for known in self.names}
        folded = {known.casefold(): known for known in stems}
        if word.casefold() in folded:
            return f"; there is {stems[folded[word.casefold()]]!r}, which differs in upper and lower case"
        close = difflib.get_close_matches(word.casefold(), list(folded), n=1, cutoff=0.6)
        if close:
            return f"; did you mean {stems[folded[close[0]]]!r}?"
        return f"; its names are {listed(self.names, 3)}" if self.names else ""

    def _find(self, name: str, key: str, known: bool) -> int:
        """The image that `name` is of; `known`: a folder that the set does not have holds other images."""
        if key in self._index:
            return self._index[key]
        *folders, file = key.split("/")
        ranked: dict[tuple[int, int, bool, int], list[int]] = {}
        for i in {i for word in {file, without_ending(file)} for i in self._by_file.get(word, ())}:
            *others, other = self._paths[i]
            same = 3 if file == other else 2 if without_ending(file) == other or file == without_ending(other) else 1
            shared = _shared(folders, others), _shared(map(bare_concept, folders), map(bare_concept, others))
            ranked.setdefault((*shared, folders == others, same), []).append(i)
        if not ranked:
            return -1
        best = max(ranked)
        if best[1] == 0 and folders and known and len(self._paths[ranked[best][0]]) > 1:
            return -1  # of another folder
        if len(ranked[best]) > 1:
            both = " and ".join(self.names[i] for i in sorted(ranked[best])[:2])
            raise HvfError(f"which image was seen as {name!r} is not clear: {both} share that name")
        return ranked[best][0]

    @cached_property
    def _paths(self) -> list[list[str]]:
        return [key.split("/") for key in self._index]

    @cached_property
    def _folders(self) -> set[str]:
        return {bare_concept(path[-2]) for path in self._paths if len(path) > 1}

    @cached_property
    def _by_file(self) -> dict[str, list[int]]:
        """{file name, and without its ending: the images}."""
        index: dict[str, list[int]] = {}
        for i, path in enumerate(self._paths):
            for word in {path[-1], without_ending(path[-1])}:
                index.setdefault(word, []).append(i)
        return index


def normalized(name: str) -> str:
    """A name in the form in which names are compared: NFC, slashes, no spaces around, the ending in lower case.

    >>> normalized(r" .\\stimuli\\cafe\u0301.PNG") == "stimuli/caf\u00e9.png"
    True
    """
    name = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    if "./" in name or "//" in name:
        name = "/".join(part for part in name.split("/") if part not in ("", "."))
    bare = without_ending(name)
    return bare + name[len(bare) :].lower()


def without_ending(name: str) -> str:
    """A name without the ending of a picture's file.

    >>> without_ending("cat/cat_1.JPG"), without_ending("version 1.2")
    ('cat/cat_1', 'version 1.2')
    """
    head, dot, ending = name.rpartition(".")
    return head if dot + ending.lower() in IMAGE_SUFFIXES else name


def stem(name: str) -> str:
    """The name of an image's file, without folder and ending.

    >>> stem("00001_aardvark/aardvark_01b.jpg")
    'aardvark_01b'
    """
    return without_ending(normalized(name).rsplit("/", 1)[-1])


def _may_be_one(one: str, other: str) -> bool:
    """Whether two names may be of one file: one is the end of the other, but for the ending that one may lack."""
    (*folders, file), (*others, last) = one.split("/"), other.split("/")
    if file != last and without_ending(file) != last and file != without_ending(last):
        return False
    return _shared(map(bare_concept, folders), map(bare_concept, others)) == min(len(folders), len(others))


def _shared(folders: Iterable[str], others: Iterable[str]) -> int:
    """How many folders two paths share, counted from the file."""
    n = 0
    for one, other in zip(reversed(list(folders)), reversed(list(others)), strict=False):
        if one != other:
            break
        n += 1
    return n
