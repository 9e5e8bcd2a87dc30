"""Kind 8: files as others leave them: renamed, copied, half fetched, upper case, with AppleDoubles beside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.corruption.case import Input, case
from tests.corruption.makers.arrays import array_input, study_of
from tests.corruption.makers.epochs import epochs_input
from tests.corruption.makers.raw import brainvision, raw_input
from tests.corruption.numbered import APPLE_DOUBLE

# --- BrainVision ------------------------------------------------------------------------------------------------------


def of_brainvision(
    folder: Path, change: Callable[[Path], Path] = lambda path: path, file: str = "sub-01.vhdr", **more: Any
) -> Input:
    """A BrainVision recording; `change` corrupts its files and gives the header's path."""
    return raw_input(folder, write=lambda raw, path: change(brainvision(raw, path, **more)), file=file)


def without(ending: str) -> Callable[[Path], Path]:
    def remove(path: Path) -> Path:
        path.with_suffix(ending).unlink()
        return path

    return remove


def renamed(*endings: str) -> Callable[[Path], Path]:
    """These files have another name than the header gives."""

    def rename(path: Path) -> Path:
        for ending in endings:
            path.with_suffix(ending).rename(path.with_name(f"patient7{ending}"))
        return path.with_name("patient7.vhdr") if ".vhdr" in endings else path

    return rename


def upper(*endings: str) -> Callable[[Path], Path]:
    def rename(path: Path) -> Path:
        for ending in endings:
            path.with_suffix(ending).rename(path.with_suffix(ending.upper()))
        return path.with_suffix(".VHDR") if ".vhdr" in endings else path

    return rename


def cut(path: Path) -> Path:
    data = path.with_suffix(".eeg")
    data.write_bytes(data.read_bytes()[:-7])
    return path


def apple_double(path: Path) -> Path:
    for file in list(path.parent.iterdir()):
        if file.is_file():
            (file.parent / f"._{file.name}").write_bytes(APPLE_DOUBLE)
    return path


NAMES_IT = r"(?i)\.eeg|\.vmrk|vhdr|rename|patient7|sub-01"
case(8, "raw", "BrainVision", of_brainvision)
case(8, "raw", "BrainVision, no marker file named", of_brainvision, markers=None)
case(8, "raw", "BrainVision, marker file missing", of_brainvision, without(".vmrk"), either=r"vmrk")
case(8, "raw", "BrainVision, data missing", of_brainvision, without(".eeg"), refused=r"\.eeg")
case(8, "raw", "BrainVision, all three renamed", of_brainvision, renamed(".vhdr", ".eeg", ".vmrk"), either=NAMES_IT)
case(8, "raw", "BrainVision, data renamed", of_brainvision, renamed(".eeg"), either=NAMES_IT)
case(8, "raw", "BrainVision, header renamed", of_brainvision, renamed(".vhdr"))
case(8, "raw", "BrainVision, header in capitals", of_brainvision, upper(".vhdr"), either=NAMES_IT)
case(8, "raw", "BrainVision, all in capitals", of_brainvision, upper(".vhdr", ".eeg", ".vmrk"), either=NAMES_IT)
case(8, "raw", "BrainVision, data in capitals", of_brainvision, upper(".eeg"), either=NAMES_IT)
case(8, "raw", "BrainVision, cut within a sample", of_brainvision, cut, refused=r"(?i)ends within|damaged|cut")
case(8, "raw", "BrainVision, AppleDoubles beside", of_brainvision, apple_double)
case(
    8,
    "raw",
    "BrainVision, the data given",
    raw_input,
    write=lambda r, p: brainvision(r, p).with_suffix(".eeg"),
    file="sub-01.vhdr",
    refused=r"vhdr",
)


# --- other formats ----------------------------------------------------------------------------------------------------


def fif_as(name: str) -> Callable[[Any, Path], Path]:
    def write(raw: Any, path: Path) -> Path:
        raw.save(path, overwrite=True, verbose="error")
        return path.rename(path.with_name(name))

    return write


case(
    8,
    "raw",
    "fif in capitals",
    raw_input,
    write=fif_as("SUB-01_RAW.FIF"),
    either=r"(?i)fif",
)
case(8, "raw", "fif of another name", raw_input, write=fif_as("recording.fif"))
case(8, "raw", "fif gzipped", raw_input, file="sub-01_raw.fif.gz")


def cut_fif(raw: Any, path: Path) -> Path:
    raw.save(path, verbose="error")
    path.write_bytes(path.read_bytes()[:-5000])
    return path


case(
    8,
    "raw",
    "fif cut",
    raw_input,
    write=cut_fif,
    refused=r"(?i)whole|damaged|cut|truncat|cannot read",
)


def emptied(raw: Any, path: Path) -> Path:
    path.write_bytes(b"")
    return path


case(
    8,
    "raw",
    "an empty file",
    raw_input,
    write=emptied,
    refused=r"(?i)whole|damaged|empty|cannot read",
)


def dangling(raw: Any, path: Path) -> Path:
    path.symlink_to(path.parent / ".git" / "annex" / "objects" / "MD5E-s9--0.fif")
    return path


case(
    8,
    "raw",
    "a link to content that is not here",
    raw_input,
    write=dangling,
    refused=r"(?i)datalad get|git annex",
)


def empty_ds(raw: Any, path: Path) -> Path:
    folder = path.with_name("sub-01_meg.ds")
    folder.mkdir()
    return folder


case(
    8,
    "raw",
    "an empty .ds",
    raw_input,
    write=empty_ds,
    refused=r"(?i)sub-01_meg\.ds|datalad",
)


def a_folder(raw: Any, path: Path) -> Path:
    folder = path.with_name("sub-01")
    folder.mkdir()
    return folder


case(8, "raw", "a folder", raw_input, write=a_folder, refused=r"(?i)folder|directory|sub-01|cannot read")


# --- arrays and epochs ------------------------------------------------------------------------------------------------


def array_file(folder: Path, change: Callable[[Path], Path]) -> Input:
    given = array_input(folder)
    path = change(given.path)
    return Input(lambda: study_of(path, given.images), given.shown, path, given.images, carried=given.carried)


def pickled(path: Path) -> Path:
    np.save(path, np.array(list(np.load(path)), dtype=object), allow_pickle=True)
    return path


def zipped(path: Path) -> Path:
    np.savez(path.with_suffix(".npz"), x=np.load(path))
    return path.with_suffix(".npz")


def cut_array(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-20])
    return path


def dtype(kind: str) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        np.save(path, np.load(path).astype(kind))
        return path

    return write


def column_order(path: Path) -> Path:
    np.save(path, np.asfortranarray(np.load(path)))
    return path


ARRAYS: dict[str, tuple[Callable[[Path], Path], dict[str, str]]] = {
    "pickled": (pickled, {"refused": r"(?i)pickle"}),
    "an .npz": (zipped, {"refused": r"(?i)npz|npy"}),
    "cut": (cut_array, {"refused": r"(?i)cannot read|damaged|cut"}),
    "float16": (dtype("float16"), {}),
    "big-endian": (dtype(">f8"), {}),
    "column order": (column_order, {}),
    "complex": (dtype("complex64"), {"refused": r"(?i)complex|real"}),
    "ending in capitals": (lambda path: path.rename(path.with_suffix(".NPY")), {"either": r"(?i)npy"}),
    "an AppleDouble beside": (lambda path: apple_double(path), {}),
    "a .json of others beside": (lambda path: (path.with_suffix(".json").write_text("{}"), path)[1], {}),
}
for what, (change, outcome) in ARRAYS.items():
    case(8, "array", what, array_file, change, **outcome)


def epochs_file(folder: Path, change: Callable[[Path], Path]) -> Input:
    given = epochs_input(folder)
    path = change(given.path)
    return Input(lambda: study_of(path, given.images), given.shown, path, given.images)


def cut_epochs(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-3000])
    return path


EPOCHS: dict[str, tuple[Callable[[Path], Path], dict[str, str]]] = {
    "cut": (cut_epochs, {"refused": r"(?i)cannot read|damaged|cut|truncat|whole"}),
    "empty": (lambda path: (path.write_bytes(b""), path)[1], {"refused": r"(?i)cannot read|empty|damaged|whole"}),
    "in capitals": (lambda path: path.rename(path.with_name("SUB-01-EPO.FIF")), {"either": r"(?i)fif"}),
    "of any name": (lambda path: path.rename(path.with_name("sub-01.fif")), {}),
    "called _epo": (lambda path: path.rename(path.with_name("sub-01_epo.fif")), {}),
    "an AppleDouble beside": (apple_double, {}),
}
for what, (change, outcome) in EPOCHS.items():
    case(8, "epochs", what, epochs_file, change, **outcome)
