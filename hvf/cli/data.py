"""`hvf data ...`: recordings from the internet or a lab, checked and made into trials. Part of the command line."""

from __future__ import annotations

import sys
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Union

from tyro.conf import Positional, arg

from hvf import presets
from hvf.cli.options import Folder, Int, Word, Words
from hvf.data.datasets import Dataset, Option, subject_numbers
from hvf.registry import DATASETS, HvfError, did_you_mean
from hvf.runs import check_writable

DEFAULT_OUT = Path("data")

People = Annotated[Words, arg(metavar="N [N ...]")]


def _options() -> dict[str, list[tuple[Option, list[str]]]]:
    """The options of all data sets: {name: (the option as some of them take it, and which), ...}."""
    options: dict[str, dict[Option, list[str]]] = {}
    for dataset in DATASETS:
        for option in DATASETS[dataset].options:
            options.setdefault(option.name, {}).setdefault(option, []).append(dataset)
    return {name: list(variants.items()) for name, variants in options.items()}


@dataclass(frozen=True)
class _Prepare:
    """Make trials of recordings: epochs, baseline, resampling, whitening; one file per subject, with its sidecar.

    Example: hvf data prepare recording --file my.vhdr --events events.csv --images photos --out trials
    """

    dataset: Annotated[Positional[str], arg(metavar="DATASET", help=" | ".join(DATASETS), help_behavior_hint="")]
    root: Annotated[Folder, arg(help="where the recordings are")] = None
    subjects: Annotated[People, arg(help="which people (default: all that are there)")] = None
    out: Annotated[Folder, arg(help="folder of the trials (default: data/DATASET)")] = None

    def __call__(self) -> int:
        dataset: Dataset = DATASETS[self.dataset]()
        settings: dict[str, Any] = {} if self.root is None else {"root": self.root}
        for name, variants in _options().items():
            value = getattr(self, name)
            if value is not None and not any(self.dataset in taken_by for _, taken_by in variants):
                raise HvfError(f"{variants[0][0].flag} means nothing for {self.dataset}; leave it out")
            settings |= {} if value is None else {name: value}
        if dataset.place not in settings:
            own = [option.help for option in dataset.options if option.name == dataset.place]
            what = own[0] if own else f"the folder that holds the {self.dataset} recordings"
            raise HvfError(f"--{dataset.place} is missing: name {what}")
        place = settings.pop(dataset.place)
        if "root" in settings:
            raise HvfError(f"--root means nothing for {self.dataset}; say --{dataset.place}")
        for path in dataset.prepare(place, self.out or DEFAULT_OUT / self.dataset, self.subjects, **settings):
            from hvf.data.trials.trials import Trials

            print(f"{Trials.load(path)}\n  {path}")
        if dataset.doi:
            print(f"cite {dataset.title}, https://doi.org/{dataset.doi}; the data are {dataset.licence}")
        return 0


def _fields(*, checked: bool = False) -> list[tuple[str, Any, None]]:
    """The options as fields of `Prepare`; those that are `checked` as fields of `Doctor`."""
    fields: list[tuple[str, Any, None]] = []
    for name, variants in _options().items():
        kind = variants[0][0].type
        about = "; ".join(f"{', '.join(datasets)}: {option.help}" for option, datasets in variants)
        metavar = {str: "NAME", int: "N", float: "X", Path: "PATH"}[kind]
        settings = arg(metavar=metavar, constructor=kind, help=about, help_behavior_hint="")
        if variants[0][0].checked or not checked:
            fields.append((name, Annotated[Union[None, kind], settings], None))  # noqa: UP007 as in hvf.cli.options
    return fields


Prepare = make_dataclass(
    "Prepare",
    _fields(),
    bases=(_Prepare,),
    namespace={"__doc__": _Prepare.__doc__},
    frozen=True,
)


@dataclass(frozen=True)
class _Doctor:
    """Check recordings, trials or images and say what is wrong, in plain words. Exit code 1 if something is.

    Example: hvf data doctor my.vhdr --images photos --plot pictures
    """

    path: Annotated[Positional[Path], arg(metavar="PATH", help="folder or file", help_behavior_hint="")]
    images: Annotated[Folder, arg(help="the images that the trials answer, if they lie elsewhere")] = None
    events: Annotated[Folder, arg(help="a recording's table of events (default: the one beside it of its name)")] = None
    plot: Annotated[Folder, arg(help="folder for pictures: responses, channels, events, reliability")] = None

    def __call__(self) -> int:
        if self.plot is not None:
            check_writable(self.plot)
        from rich.console import Console
        from rich.table import Table

        from hvf.data.doctor.examination import examine

        options = {name: value for name, _, _ in _fields(checked=True) if (value := getattr(self, name)) is not None}
        findings = examine(self.path, self.images, self.events, **options)
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
        if self.plot is not None:
            from hvf.report.recording_pictures import draw

            for picture in draw(self.path, self.plot, self.images, self.events):
                print(f"  {picture}")
        if wrong:
            things = "1 thing is" if wrong == 1 else f"{wrong} things are"
            print(f"hvf: {self.path}: {things} wrong, see the table", file=sys.stderr)
        return 1 if wrong else 0


Doctor = make_dataclass(
    "Doctor", _fields(checked=True), bases=(_Doctor,), namespace={"__doc__": _Doctor.__doc__}, frozen=True
)


@dataclass(frozen=True)
class Download:
    """Fetch a public data set, or the weights of a preset, resuming what is there and checking every file.

    Example: hvf data download things-eeg2-raw --subjects 8 --out things-eeg2
    """

    name: Annotated[Positional[str], arg(metavar="NAME", help_behavior_hint="")]  # weights, or a source; misspelt: all
    subjects: People = None  # which ones (default: all)
    preset: Word = None  # of "weights": whose, as things-eeg
    out: Folder = None  # folder to fetch into (default: data/NAME); weights go to the Hub's cache ($HF_HOME)

    def __call__(self) -> int:
        if self.name == "weights":
            return self._weights()
        if self.preset is not None:
            raise HvfError("--preset belongs to weights: hvf data download weights --preset things-eeg")
        from hvf.data.download.catalogue import download

        out = self.out or DEFAULT_OUT / self.name
        download(self.name, out, subjects=subject_numbers(self.subjects))
        print(f"wrote {out}")
        return 0

    def _weights(self) -> int:
        if self.preset is None or self.subjects is not None or self.out is not None:
            raise HvfError(
                "weights are those of a preset, and go to the Hub's cache ($HF_HOME says where): "
                "hvf data download weights --preset things-eeg"
            )
        config = presets.get(self.preset)
        from hvf.prior.hub_weights import fetch_all, missing, required

        needed = required(config)
        size = fetch_all(needed)
        if lacking := missing(config):
            raise HvfError(f"{lacking[0].repository} came without all that is needed of it: fetch it again")
        print(f"{self.preset}: {len(needed)} sets of weights, {size / 1e9:.1f} GB, are on this machine")
        return 0


@dataclass(frozen=True)
class Simulate:
    """Write the simulated study as raw files in a published layout: something to try the whole way on.

    Example: hvf data simulate things-eeg --train-concepts 200 --out eeg
    """

    # brainvision, new-recording, things-eeg, things-meg
    dataset: Annotated[Positional[str], arg(metavar="DATASET", help_behavior_hint="")]
    subjects: People = None  # which ones (default: one)
    train_concepts: Int = None  # how many concepts the training images show (default: that of the layout)
    out: Folder = None  # the root that is made (default: data/simulated-DATASET)

    def __call__(self) -> int:
        from hvf.simulation.lab_recording import write_lab_recordings
        from hvf.simulation.new_recording import write_new_recording
        from hvf.simulation.things_eeg import write_things_eeg
        from hvf.simulation.things_meg import write_things_meg

        writers = {
            "things-eeg": write_things_eeg,
            "things-meg": write_things_meg,
            "brainvision": write_lab_recordings,  # a lab's .vhdr: one to train on, one to decode
            "new-recording": write_new_recording,  # epochs of unknown images, and pictures to look among
        }
        if self.dataset not in writers:
            raise HvfError(f"there is no layout {self.dataset!r}{did_you_mean(self.dataset, writers)}")
        if self.train_concepts is not None and self.dataset == "new-recording":
            raise HvfError("--train-concepts means nothing for new-recording, which trains nothing")
        settings: dict[str, Any] = {} if self.train_concepts is None else {"train_concepts": self.train_concepts}
        if self.subjects is not None:
            settings["subjects"] = tuple(subject_numbers(self.subjects) or ())
        out = self.out or DEFAULT_OUT / f"simulated-{self.dataset}"
        writers[self.dataset](out, **settings)
        print(f"wrote {out} (simulated)")
        return 0


COMMANDS = {"prepare": Prepare, "doctor": Doctor, "download": Download, "simulate": Simulate}
