"""Data sets that `hvf data prepare` makes into trials: one class in one file each, registered by name.

    @DATASETS.register("my-study")
    class MyStudy(Dataset):
        title = "My study (Doe et al. 2025), EEG"
        ...

A data set's file is read by the command line, so it imports nothing heavy: `prepare` and `checks` import what they
need when they run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hvf.registry import HvfError, listed

if TYPE_CHECKING:
    from hvf.data.doctor.checks import Finding


@dataclass(frozen=True)
class Option:
    """An option of `hvf data prepare`: `onset_unit` is given as --onset-unit and handed to `Dataset.prepare`."""

    name: str
    help: str
    type: type = str  # str, int, float or Path
    checked: bool = False  # whether `hvf data doctor` takes it, too, and hands it to `Dataset.checks`

    @property
    def flag(self) -> str:
        """As it is typed: --onset-unit."""
        return f"--{self.name.replace('_', '-')}"


RECIPE = Option(
    "recipe", "a published way of preprocessing (default: hvf); a misspelt one is answered with the list", checked=True
)


@dataclass(frozen=True)
class Source:
    """A public source of files that `hvf data download` fetches."""

    about: str  # what it holds, in a few words
    service: str  # "osf", "openneuro" or "hub"
    id: str  # of the project there
    folder: str = ""  # where in the output folder the files go
    patterns: tuple[str, ...] = ("*",)  # which files are taken; * spans folders
    subjects: int = 0  # how many people it holds; 0: files are not divided by person
    subject: str = r"(?:^|/)sub-?0*(\d+)(?=\D)"  # first group: the person's number
    kind: str = "dataset"  # on the Hub: "dataset" or "model"

    @property
    def page(self) -> str:
        """Where a person reads about it."""
        if self.service == "osf":
            return f"https://osf.io/{self.id}"
        if self.service == "openneuro":
            return f"https://openneuro.org/datasets/{self.id}"
        return f"https://huggingface.co/{'datasets/' if self.kind == 'dataset' else ''}{self.id}"


class Dataset(ABC):
    """A published data set, or a format of recordings, that is made into trials."""

    title: ClassVar[str]  # name, authors, year, and whether it is EEG or MEG
    doi: ClassVar[str] = ""  # of the paper to cite; empty where each recording has its own
    licence: ClassVar[str] = ""  # of the data
    layout: ClassVar[str]  # the files by which it is recognised, for messages
    place: ClassVar[str] = "root"  # the option that says where the recordings are
    options: ClassVar[tuple[Option, ...]] = ()  # what `prepare` takes beside root, out and subjects
    sources: ClassVar[Mapping[str, Source]] = {}  # what `hvf data download NAME` fetches

    @abstractmethod
    def prepare(self, root: Path, out: Path, subjects: Sequence[str] | None = None, **options: Any) -> list[Path]:
        """Make `out/sub-XX_trials.npy` and its sidecar of each subject; return the .npy paths.

        Parameters
        ----------
        root : Path
            Folder of the recordings; what `place` names.
        out : Path
            Folder of the trials.
        subjects : sequence of str, optional
            As typed: "8" or "sub-08" (`subject_numbers`). Default: all that are there.
        **options
            Those of `options` that were given.

        Raises
        ------
        HvfError
            Something is missing, damaged or does not fit together. Nothing half-written stays.
        """

    def checks(self, path: Path, images: Path | None, **options: Any) -> Iterator[Iterator[Finding]]:
        """The doctor's checks of whatever is recognised at `path`, a file or a folder; none if nothing is.

        `images`, if given, is the folder or zip of the images that were shown; `options` are those that are `checked`,
        as far as they were given.
        """
        yield from ()


def subject_numbers(subjects: Sequence[str] | None) -> list[int] | None:
    """["8", "sub-08"] -> [8, 8]; None (all) stays None. Raises HvfError for a word that is no number."""
    if subjects is None:
        return None
    numbers: list[int] = []
    for word in subjects:
        digits = word.lower().removeprefix("sub-")
        if not digits.isdigit():
            raise HvfError(f"--subjects takes numbers such as 8 or sub-08, not {word!r}")
        numbers.append(int(digits))
    return numbers


def paths_by_number(paths: Iterable[tuple[int, Path]]) -> dict[int, Path]:
    """{number: path} of people or sessions. Raises HvfError where two are of one number, such as sub-8 and sub-08."""
    numbered: dict[int, Path] = {}
    for number, path in paths:
        if numbered.setdefault(number, path) != path:
            raise HvfError(f"{numbered[number]} and {path.name} are both number {number}: which is meant? Rename one")
    return numbered


def chosen_subjects(asked: Sequence[int] | None, available: Collection[int], folder: Path) -> list[int]:
    """The subjects asked for, each once, or all that `folder` has. Raises HvfError naming those that it has not."""
    missing = [subject for subject in asked or () if subject not in available]
    if missing or not available:
        has = f"there is {listed(map(str, sorted(available)))}" if available else "there is none"
        raise HvfError(f"{folder} has no subject {listed(map(str, missing or [1]))}; {has}")
    return sorted(available) if asked is None else list(dict.fromkeys(asked))
