"""Kind 8 in data sets: sessions copied and swapped, files missing, half fetched or cut, other systems' files beside."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.corruption.case import Input, case
from tests.corruption.makers import eeg2
from tests.corruption.makers.bids import bids_input, stem_of, write_session
from tests.corruption.makers.eeg2 import eeg2_raw_input, raw_file
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
case(8, "bids", "no tables of events", bids_input, change=removed("events.tsv"), refused=r"no events\.tsv")
case(8, "bids", "header in capitals", bids_input, change=in_capitals, refused=r"\.VHDR is in capitals")
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


def packed(root: Path) -> None:
    subject = root / "raw_data" / "sub-01"
    shutil.make_archive(str(subject), "zip", subject)
    shutil.rmtree(subject)


def early_nan(held: dict[str, Any]) -> None:
    held["raw_eeg_data"][5, 0] = np.nan


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
    "sessions not unpacked": (packed, {"refused": r"unpack the zips.*sub-01\.zip"}),
    "a rate that is not the study's": (
        lambda root: [
            eeg2.edit_raw(lambda held: held.update(sfreq=512), session, part)(root)
            for session in (1, 2)
            for part in ("training", "test")
        ],
        {"refused": r"512 Hz where 1000 Hz"},
    ),
    "NaN before the first image": (eeg2.edit_raw(early_nan), {}),
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
