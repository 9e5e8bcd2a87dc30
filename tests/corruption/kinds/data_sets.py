"""Kind 8 in data sets: sessions copied and swapped, files missing, half fetched or cut, other systems' files beside."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.corruption.case import Input, case
from tests.corruption.makers import eeg2, meg
from tests.corruption.makers.bids import bids_input, stem_of, write_session
from tests.corruption.makers.eeg2 import eeg2_prepared_input, eeg2_raw_input, raw_file
from tests.corruption.makers.meg import meg_input
from tests.corruption.makers.raw import SHOWN, events_of, raw_with
from tests.corruption.numbered import APPLE_DOUBLE, BRAIN

# --- BIDS -------------------------------------------------------------------------------------------------------------

TWO = {"sessions": ("01", "02")}
COPY = r"(?i:cop(y|ies)|same)"


def copied_data(root: Path) -> None:
    """The second session's values are the first's."""
    shutil.copy(f"{stem_of(root)}_eeg.eeg", f"{stem_of(root, '02')}_eeg.eeg")


def copied_session(root: Path) -> None:
    for ending in ("eeg.eeg", "events.tsv", "channels.tsv", "eeg.json", "eeg.vmrk"):
        shutil.copy(f"{stem_of(root)}_{ending}", f"{stem_of(root, '02')}_{ending}")


def removed(ending: str, session: str = "01") -> Callable[[Path], None]:
    return lambda root: Path(f"{stem_of(root, session)}_{ending}").unlink()


def dangling(ending: str) -> Callable[[Path], None]:
    def link(root: Path) -> None:
        path = Path(f"{stem_of(root)}_{ending}")
        path.unlink()
        path.symlink_to(f"../../../.git/annex/objects/{path.name}")

    return link


def pointer(ending: str) -> Callable[[Path], None]:
    """A file that a checkout without git-annex leaves: its text is a path."""
    return lambda root: Path(f"{stem_of(root)}_{ending}").write_text("/annex/objects/MD5E-s99--0.dat\n")


def apple_doubles(root: Path) -> None:
    for file in [p for p in root.rglob("*") if p.is_file()]:
        (file.parent / f"._{file.name}").write_bytes(APPLE_DOUBLE)


def in_capitals(root: Path) -> None:
    path = Path(f"{stem_of(root)}_eeg.vhdr")
    path.rename(path.with_suffix(".VHDR"))


def added(name: str, data: bytes = b"") -> Callable[[Path], None]:
    def add(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)

    return add


case(8, "bids", "two sessions", bids_input, **TWO)
case(8, "bids", "a recording copied into a session", bids_input, change=copied_data, refused=COPY, **TWO)
case(8, "bids", "a session copied", bids_input, change=copied_session, refused=COPY, **TWO)
case(8, "bids", "AppleDoubles beside", bids_input, change=apple_doubles)
case(8, "bids", "AppleDoubles beside two sessions", bids_input, change=apple_doubles, **TWO)
case(8, "bids", "no data file", bids_input, change=removed("eeg.eeg"), refused=r"(?i)\.eeg")
case(8, "bids", "no marker file", bids_input, change=removed("eeg.vmrk"), either=r"vmrk")
case(8, "bids", "no channels.tsv", bids_input, change=removed("channels.tsv"))
case(8, "bids", "data not fetched", bids_input, change=dangling("eeg.eeg"), refused=r"(?i)datalad get|git annex")
case(8, "bids", "header not fetched", bids_input, change=dangling("eeg.vhdr"), refused=r"(?i)datalad get|git annex")
case(
    8,
    "bids",
    "events not fetched",
    bids_input,
    change=dangling("events.tsv"),
    refused=r"(?i)datalad get|git annex|events\.tsv",
)
case(8, "bids", "a pointer for data", bids_input, change=pointer("eeg.eeg"), refused=r"(?i)\.eeg|annex|datalad|damaged")
case(
    8,
    "bids",
    "a pointer for events",
    bids_input,
    change=pointer("events.tsv"),
    refused=r"(?i)events\.tsv|annex|datalad",
)
case(8, "bids", "a derivatives folder beside", bids_input, change=added("derivatives/x/sub-01/report.html", b"x"))
case(8, "bids", "a hidden folder beside", bids_input, change=added(".git/annex/x", b"x"))


def annexed_ds(folder: Path) -> Input:
    """A data set of an empty .ds and its events alone."""
    given = bids_input(folder)
    stem = stem_of(folder / "dataset")
    table = Path(f"{stem}_events.tsv").read_text()
    shutil.rmtree(stem.parent)
    meg_folder = stem.parent.parent / "meg"
    (meg_folder / f"{stem.name}_meg.ds").mkdir(parents=True)
    (meg_folder / f"{stem.name}_events.tsv").write_text(table)
    return given


case(8, "bids", "an empty .ds", annexed_ds, refused=r"_meg\.ds")


def other_order(folder: Path, change: Callable[[Path], None] | None = None) -> Input:
    """Two sessions that show the images in different orders; perhaps their tables are swapped."""
    reverse = SHOWN[::-1]
    given = bids_input(folder)
    write_session(folder / "dataset", raw_with(reverse, seed=1), events_of(reverse), "02")
    if change:
        change(folder / "dataset")
    return Input(given.read, [*SHOWN, *reverse], given.path, channels=BRAIN)


case(8, "bids", "two sessions of other orders", other_order)

# --- THINGS-EEG2 ------------------------------------------------------------------------------------------------------


def eeg_copy(one: tuple[int, str], two: tuple[int, str]) -> Callable[[Path], None]:
    def copy(root: Path) -> None:
        shutil.copy(raw_file(root, *one), raw_file(root, *two))

    return copy


def eeg_swap(one: tuple[int, str], two: tuple[int, str]) -> Callable[[Path], None]:
    def swap(root: Path) -> None:
        a, b = raw_file(root, *one), raw_file(root, *two)
        a.rename(a.with_suffix(".tmp"))
        b.rename(a)
        a.with_suffix(".tmp").rename(b)

    return swap


def cut_file(path: Callable[[Path], Path], share: float = 0.7) -> Callable[[Path], None]:
    def cut(root: Path) -> None:
        data = path(root).read_bytes()
        path(root).write_bytes(data[: int(len(data) * share)])

    return cut


RAW: dict[str, tuple[Callable[[Path], Any], dict[str, str]]] = {
    "a session copied": (eeg_copy((1, "training"), (2, "training")), {"refused": COPY}),
    "a test file copied": (eeg_copy((1, "test"), (2, "test")), {"refused": COPY}),
    "training copied into the test": (
        eeg_copy((1, "training"), (1, "test")),
        {"refused": r"(?i)event|often|same|cop|fewer"},
    ),
    "training and test swapped": (eeg_swap((1, "training"), (1, "test")), {"refused": r"(?i)event|often|mixed|fewer"}),
    "sessions swapped": (eeg_swap((1, "training"), (2, "training")), {}),
    "a file cut": (cut_file(raw_file), {"refused": r"(?i)damaged|cut|truncat|whole|end"}),
    "a session missing": (
        lambda root: shutil.rmtree(raw_file(root).parent),
        {"refused": r"(?i)lacks session 1|session"},
    ),
    "a test file missing": (lambda root: raw_file(root, 2, "test").unlink(), {"refused": r"raw_eeg_test"}),
    "AppleDoubles beside": (apple_doubles, {}),
    "UBP's name of a file": (lambda root: raw_file(root).rename(raw_file(root).with_name("raw_eeg_train.npy")), {}),
    "endings in capitals": (
        lambda root: raw_file(root).rename(raw_file(root).with_suffix(".NPY")),
        {"either": r"raw_eeg_training"},
    ),
    "a session's folder copied": (
        lambda root: shutil.copytree(raw_file(root).parent, raw_file(root, 3).parent),
        {"refused": COPY + r"|(?i:fewer)"},
    ),
    "the list missing": (lambda root: (root / "image_metadata.npy").unlink(), {"refused": r"image_metadata"}),
    "the list in image_set": (
        lambda root: (root / "image_metadata.npy").rename(root / "image_set" / "image_metadata.npy"),
        {},
    ),
}
for what, (change, outcome) in RAW.items():
    case(8, "eeg2-raw", what, eeg2_raw_input, change=change, **outcome)


def file_of(name: str) -> Callable[[Path], Path]:
    return lambda root: root / "sub-01" / name


def copy_half(one: str, two: str) -> Callable[[Path], None]:
    return lambda root: shutil.copy(file_of(one)(root), file_of(two)(root))


PREPARED: dict[str, tuple[str, Callable[[Path], Any], dict[str, str]]] = {
    "AppleDoubles beside": ("official", apple_doubles, {}),
    "a half missing": (
        "official",
        lambda root: file_of("preprocessed_eeg_test.npy")(root).unlink(),
        {"refused": r"preprocessed_eeg_test"},
    ),
    "training copied over the test": (
        "official",
        copy_half("preprocessed_eeg_training.npy", "preprocessed_eeg_test.npy"),
        {"refused": r"8.*4|4.*8|" + COPY},
    ),
    "a file cut": (
        "official",
        cut_file(file_of("preprocessed_eeg_training.npy")),
        {"refused": r"(?i)damaged|cut|truncat|end|whole"},
    ),
    "ubp, training copied over the test": (
        "ubp",
        copy_half("train.pt", "test.pt"),
        {"refused": r"(?i)training|both|" + COPY},
    ),
    "ubp, halves swapped": (
        "ubp",
        lambda root: (
            file_of("train.pt")(root).rename(root / "x"),
            file_of("test.pt")(root).rename(file_of("train.pt")(root)),
            (root / "x").rename(file_of("test.pt")(root)),
        ),
        {"refused": r"(?i)test|training|swapped|folder"},
    ),
    "ubp, a file cut": ("ubp", cut_file(file_of("train.pt")), {"refused": r"(?i)damaged|cut|truncat|end|whole|zip"}),
    "neurobridge without info.json": (
        "neurobridge",
        lambda root: file_of("info.json")(root).unlink(),
        {"refused": r"(?i)info\.json|preprocessed"},
    ),
    "neurobridge, info.json above": (
        "neurobridge",
        lambda root: file_of("info.json")(root).rename(root / "info.json"),
        {},
    ),
    "channels in another order in the test": (
        "official",
        eeg2.edit_dict(lambda held: held.update(ch_names=held["ch_names"][::-1]), "test"),
        {"refused": r"(?i)ch_names|channel|order"},
    ),
    "times of another rate in the test": (
        "official",
        eeg2.edit_dict(lambda held: held.update(times=held["times"] * 2), "test"),
        {"refused": r"(?i)sfreq|rate|times|tmin"},
    ),
    "a channel name more": (
        "official",
        eeg2.edit_dict(lambda held: held.update(ch_names=[*held["ch_names"], "Iz"])),
        {"refused": r"(?i)channel"},
    ),
    "channels reordered alike": (
        "official",
        lambda root: [eeg2.edit_dict(reordered, part)(root) for part in eeg2.R],
        {},
    ),
    "ubp, channels reordered alike": (
        "ubp",
        lambda root: [eeg2.edit_ubp(reordered_ubp, part)(root) for part in ("train", "test")],
        {},
    ),
    "the list missing, not needed": ("ubp", lambda root: (root / "image_metadata.npy").unlink(), {}),
}
for what, (by, change, outcome) in PREPARED.items():
    case(8, "eeg2-prepared", what, eeg2_prepared_input, by=by, change=change, **outcome)


def reordered(held: dict[str, Any]) -> None:
    place = np.random.default_rng(0).permutation(len(held["ch_names"]))
    held["preprocessed_eeg_data"] = held["preprocessed_eeg_data"][:, :, place]
    held["ch_names"] = [held["ch_names"][i] for i in place]


def reordered_ubp(held: dict[str, Any]) -> None:
    place = np.random.default_rng(0).permutation(len(held["ch_names"]))
    held["eeg"] = held["eeg"][:, :, place]
    held["ch_names"] = [held["ch_names"][i] for i in place]


# --- THINGS-MEG -------------------------------------------------------------------------------------------------------

case(8, "meg", "AppleDoubles beside", meg_input, change=apple_doubles)
case(
    8,
    "meg",
    "epochs cut",
    meg_input,
    change=cut_file(meg.epochs_file),
    refused=r"(?i)truncat|fetch|cut|whole",
)


def not_fetched(root: Path) -> None:
    meg.epochs_file(root).unlink()
    meg.epochs_file(root).symlink_to("../../.git/annex/objects/x.fif")


case(
    8,
    "meg",
    "epochs not fetched",
    meg_input,
    change=not_fetched,
    refused=r"(?i)datalad get|git annex|fetch",
)
case(
    8,
    "meg",
    "no table at all",
    meg_input,
    metadata=lambda t: None,
    csv=lambda t: None,
    refused=r"sample_attributes",
)


def other_subject(table: pd.DataFrame) -> pd.DataFrame:
    return meg.attributes(meg.shown_numbers(seed=3))


case(
    8,
    "meg",
    "csv of another subject",
    meg_input,
    csv=other_subject,
    refused=r"(?i)differ|misordered|different",
)
