"""`hvf data ...`: recordings from the internet or a lab, checked and made into trials. Part of the command line."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from hvf.config import HvfError, did_you_mean

DATASETS = ("things-eeg", "things-meg", "bids")
DEFAULT_OUT = Path("data")

Folder = Annotated[Path | None, arg(metavar="PATH", constructor=Path, help_behavior_hint="")]
Word = Annotated[str | None, arg(metavar="NAME", constructor=str, help_behavior_hint="")]
Words = Annotated[tuple[str, ...] | None, arg(metavar="N [N ...]", help_behavior_hint="")]
Int = Annotated[int | None, arg(metavar="N", constructor=int, help_behavior_hint="")]


@dataclass(frozen=True)
class Prepare:
    """Make trials of recordings: epochs, baseline, resampling, whitening; one file per subject, with its sidecar."""

    dataset: Annotated[Positional[str], arg(metavar="DATASET", help_behavior_hint="")]  # things-eeg, things-meg or bids
    root: Folder = None  # where the recordings are
    recipe: Word = None  # a published way of preprocessing (default: hvf); a misspelt one is answered with the list
    subjects: Words = None  # which ones (default: all that are there)
    jobs: Int = None  # sessions at once (default: as many as cores and memory allow)
    task: Word = None  # bids: which task, if there are several
    image_column: Word = None  # bids: the column of events.tsv that names the image (default: found)
    stimuli: Folder = None  # bids: a table of event code and image, where events.tsv has codes alone
    onset_unit: Word = None  # bids: s or ms, where events.tsv gives onsets in another unit than it should
    out: Folder = None  # folder of the trials (default: data/DATASET)

    def __call__(self) -> int:
        if self.dataset not in DATASETS:
            raise HvfError(f"there is no data set {self.dataset!r}{did_you_mean(self.dataset, DATASETS)}")
        if self.root is None:
            raise HvfError(f"--root is missing: name the folder that holds the {self.dataset} recordings")
        bids_only = ("task", "image_column", "stimuli", "onset_unit")
        for name in ("jobs", "recipe") if self.dataset == "bids" else bids_only:
            if getattr(self, name) is not None:
                raise HvfError(f"--{name.replace('_', '-')} means nothing for {self.dataset}; leave it out")
        out = self.out or DEFAULT_OUT / self.dataset
        for path in self._prepare(self.root, out):
            from hvf.data.trials.trials import Trials

            print(f"{Trials.load(path)}\n  {path}")
        return 0

    def _prepare(self, root: Path, out: Path) -> list[Path]:
        if self.dataset == "bids":
            from hvf.data.recordings.prepare import prepare_bids

            given = {"image_column": self.image_column, "stimuli": self.stimuli, "onset_unit": self.onset_unit}
            settings = {name: value for name, value in given.items() if value is not None}
            return prepare_bids(root, out, subjects=self.subjects, task=self.task, **settings)
        numbers = None if self.subjects is None else [subject_number(word) for word in self.subjects]
        if self.dataset == "things-eeg":
            from hvf.data.things_eeg2 import prepare as things_eeg

            return things_eeg.prepare(root, out, self.recipe or "hvf", numbers, self.jobs)
        from hvf.data.things_meg import prepare as things_meg

        return things_meg.prepare(root, out, self.recipe or "hvf", numbers)


@dataclass(frozen=True)
class Doctor:
    """Check recordings or trials and say what is wrong, in plain words. Exit code 1 if something is."""

    path: Annotated[Positional[Path], arg(metavar="PATH", help_behavior_hint="")]  # folder or file
    images: Folder = None  # the images that the trials answer, if they lie elsewhere

    def __call__(self) -> int:
        from rich.console import Console
        from rich.table import Table

        from hvf.data.doctor.examination import examine

        findings = examine(self.path, self.images)
        table = Table(title=f"{self.path}", title_justify="left", show_lines=True)
        for column in ("", "check", "where", "what", "what to do"):
            table.add_column(column, overflow="fold")
        style = {"error": "[bold red]error", "warning": "[yellow]warning", "ok": "[green]ok"}
        for f in findings:
            table.add_row(style[f.severity], f.check, f.where, f.message, f.advice)
        Console().print(table)
        wrong = sum(f.severity == "error" for f in findings)
        doubtful = sum(f.severity == "warning" for f in findings)
        print(f"{len(findings)} checks: {wrong} wrong, {doubtful} to look at")
        if wrong:
            print(f"hvf: {self.path}: {wrong} things are wrong, see the table", file=sys.stderr)
        return 1 if wrong else 0


@dataclass(frozen=True)
class Download:
    """Fetch a public data set, resuming what is there and checking every file."""

    name: Annotated[Positional[str], arg(metavar="NAME", help_behavior_hint="")]  # misspelt: the list
    subjects: Words = None  # which ones (default: all)
    out: Folder = None  # folder to fetch into (default: data/NAME)

    def __call__(self) -> int:
        from hvf.data.download.catalogue import download

        subjects = None if self.subjects is None else [subject_number(word) for word in self.subjects]
        out = self.out or DEFAULT_OUT / self.name
        download(self.name, out, subjects=subjects)
        print(f"wrote {out}")
        return 0


@dataclass(frozen=True)
class Simulate:
    """Write the simulated study as raw files in a published layout: something to try the whole way on."""

    dataset: Annotated[Positional[str], arg(metavar="DATASET", help_behavior_hint="")]  # things-eeg or things-meg
    subjects: Words = None  # which ones (default: one)
    train_concepts: Int = None  # how many concepts the training images show (default: that of the layout)
    out: Folder = None  # the root that is made (default: data/simulated-DATASET)

    def __call__(self) -> int:
        from hvf.simulation import raw_files

        writers = {"things-eeg": raw_files.write_things_eeg, "things-meg": raw_files.write_things_meg}
        if self.dataset not in writers:
            raise HvfError(f"there is no layout {self.dataset!r}{did_you_mean(self.dataset, writers)}")
        settings: dict[str, Any] = {} if self.train_concepts is None else {"train_concepts": self.train_concepts}
        if self.subjects is not None:
            settings["subjects"] = tuple(subject_number(word) for word in self.subjects)
        out = self.out or DEFAULT_OUT / f"simulated-{self.dataset}"
        writers[self.dataset](out, **settings)
        print(f"wrote {out} (simulated)")
        return 0


COMMANDS = {"prepare": Prepare, "doctor": Doctor, "download": Download, "simulate": Simulate}


def subject_number(word: str) -> int:
    """8, 08 or sub-08 -> 8; HvfError otherwise."""
    digits = word.lower().removeprefix("sub-")
    if not digits.isdigit():
        raise HvfError(f"--subjects takes numbers such as 8 or sub-08, not {word!r}")
    return int(digits)
