"""Names: what a setting or a spec may name, and the message about a name that is not known.

An entry is registered by its name, in one file of one room:

    @FUSIONS.register("hvf")
    class HVF(Fusion): ...

The names are read from the sources of the room, so that the command line checks and lists them before anything heavy is
imported; the file itself is imported when its entry is asked for. Code outside hvf registers in the same way, and is
imported by whoever uses it. Files of features that another program computed have names too: `feature_file`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

Entry = TypeVar("Entry")


class HvfError(Exception):
    """The one error meant for the user: a clear line saying what is wrong, where, and what to do about it."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or the list of what exists when nothing is close."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; there is {', '.join(known)}"


def listed(names: Iterable[str], most: int = 6) -> str:
    """The first names, and how many more there are.

    >>> listed("abcd", most=2)
    'a, b and 2 more'
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def span(numbers: Sequence[int]) -> str:
    """From the least to the greatest; alone where they are one.

    >>> span([3, 8, 5]), span([16, 16])
    ('3 to 8', '16')
    """
    least, most = min(numbers), max(numbers)
    return f"{least} to {most}" if least < most else f"{least}"


class Registry(Generic[Entry]):
    """Entries by name, in the order of their files and lines.

    ``what`` is an entry in words ("fusion"), ``variable`` the registry's name, by which the sources register
    ("FUSIONS"), ``room`` the file or folder below hvf/ in which they do ("models/fusions").
    """

    def __init__(self, what: str, variable: str, room: str) -> None:
        self.what, self.variable, self.room = what, variable, room
        self._entries: dict[str, Entry] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """A decorator that enters what it decorates, or a function that enters its argument, under `name`."""

        def enter(entry: Entry) -> Entry:
            self._entries[name] = entry
            return entry

        return enter

    @cached_property
    def _modules(self) -> dict[str, str]:
        """{name: the module that registers it}."""
        root = Path(__file__).parent
        place = root / self.room
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        pattern = re.compile(rf"^@?{self.variable}\.register\(\s*\"([^\"]+)\"", re.MULTILINE)
        modules: dict[str, str] = {}
        for file in files:
            module = ".".join(("hvf", *file.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
            modules |= dict.fromkeys(pattern.findall(file.read_text(encoding="utf-8")), module)
        return modules

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._modules, *self._entries]))

    def __contains__(self, name: object) -> bool:
        return name in self._modules or name in self._entries

    def name_of(self, entry: Entry) -> str:
        """The name under which an entry is registered. Raises HvfError if it is not."""
        for name, other in self._entries.items():
            if other is entry:
                return name
        raise HvfError(f"{entry!r} is no registered {self.what}: {self.variable}.register(NAME) enters it")

    def check(self, name: str) -> str:
        """`name`; HvfError with the nearest one if nothing is registered under it."""
        if name not in self:
            raise HvfError(f"there is no {self.what} {name!r}{did_you_mean(name, self)}")
        return name

    def __getitem__(self, name: str) -> Entry:
        """The entry. Raises HvfError, naming the nearest, if there is none."""
        self.check(name)
        if name not in self._entries:
            import_module(self._modules[name])
        return self._entries[name]


FEATURES = "features:"
FEATURE_ENDINGS = (".npy", ".npz", ".pt", ".pth", ".safetensors", ".parquet", ".mat", ".hdf5", ".h5")
_KEYED = re.compile(rf"(.*?(?:{'|'.join(map(re.escape, FEATURE_ENDINGS))}))(?:#(.*))?", re.IGNORECASE | re.DOTALL)


class FeatureFile(NamedTuple):
    """A file or folder of features, and which of its arrays is meant; as text ``features:PATH#KEY``."""

    path: str
    key: str | None

    def __str__(self) -> str:
        return f"{FEATURES}{self.path}" + (f"#{self.key}" if self.key else "")

    def absolute(self) -> FeatureFile:
        """The same with an absolute path: a run is opened from elsewhere too."""
        return self._replace(path=os.path.abspath(os.path.expanduser(self.path)))


def feature_file(text: str | os.PathLike[str]) -> FeatureFile | None:
    """The file of features that a text names, ``[features:]PATH[#KEY]``; None of anything else.

    The path may hold any character. KEY is what follows the first ``#`` behind one of the `FEATURE_ENDINGS`; behind a
    folder, what follows the last ``#``. A folder of features is told from one of pictures by ``features:`` alone.

    >>> feature_file("clip#2.npz#image/norm")
    FeatureFile(path='clip#2.npz', key='image/norm')
    >>> feature_file("features:embeddings#RN50"), feature_file("photos.zip")
    (FeatureFile(path='embeddings', key='RN50'), None)
    """
    words = os.fspath(text)
    bare = words.removeprefix(FEATURES)
    if match := _KEYED.fullmatch(bare):
        return None if bare == words and os.path.isdir(bare) else FeatureFile(match[1], match[2] or None)
    if bare == words:
        return None
    path, mark, key = bare.rpartition("#")
    return FeatureFile(path, key) if mark and path and key and "/" not in key else FeatureFile(bare, None)


BRAIN_ENCODERS: Registry[Any] = Registry("brain encoder", "BRAIN_ENCODERS", "models/brain")
FOUNDATION: Registry[Any] = Registry("foundation encoder", "FOUNDATION", "models/brain")  # those with weights of others
FUSIONS: Registry[Any] = Registry("fusion", "FUSIONS", "models/fusions")
BACKBONES: Registry[Any] = Registry("family of backbones", "BACKBONES", "vision/backbones")
METRICS: Registry[Any] = Registry("metric", "METRICS", "evaluation/metrics")
NETWORKS: Registry[Any] = Registry("metric network", "NETWORKS", "evaluation/metrics")
DATASETS: Registry[Any] = Registry("data set", "DATASETS", "data")
STUDIES: Registry[Any] = Registry("study", "STUDIES", "study")
METHODS: Registry[Any] = Registry("method", "METHODS", "methods")

RANDOM = "random"  # in the place of a file: weights drawn at random


def check_weights(encoder: str, weights: str | None, frozen: bool) -> None:
    """Raise HvfError for weights that this brain encoder cannot take, and for none where it needs some."""
    if encoder not in FOUNDATION:
        if weights is not None or frozen:
            name = "brain.weights" if weights is not None else "brain.frozen"
            raise HvfError(f"{name} is for encoders trained by others ({listed(FOUNDATION, 20)}), not for {encoder!r}")
    elif weights is None:
        raise HvfError(
            f"brain encoder {encoder} needs brain.weights: fetch them with: {FOUNDATION[encoder].fetch}; then "
            f"--brain.weights FILE, or {RANDOM!r} for weights drawn at random"
        )


def check_weights_file(encoder: str, weights: str | None) -> None:
    """Raise HvfError, with the command that fetches it, if the file of the weights is not there."""
    if weights not in (None, RANDOM) and not os.path.isfile(weights):
        what = "is a folder: name a file in it" if os.path.isdir(weights) else "is not there"
        raise HvfError(f"brain.weights: {weights} {what}; fetch it with: {FOUNDATION[encoder].fetch}")
