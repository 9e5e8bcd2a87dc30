"""Kinds 4 to 7 in THINGS-EEG2 and THINGS-MEG: their pictures, channels, order and texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.corruption.case import Input, case
from tests.corruption.kinds.pictures import APPLE_DOUBLE, EPS, JPEG, turned, with_alpha
from tests.corruption.makers import eeg2, meg
from tests.corruption.makers.arrays import study_of
from tests.corruption.makers.eeg2 import eeg2_prepared_input, eeg2_raw_input
from tests.corruption.makers.meg import meg_input
from tests.corruption.numbered import write_picture

# --- pictures, of a study of what was prepared ------------------------------------------------------------------------


def eeg_picture(root: Path, number: int = 3) -> Path:
    return root / "image_set" / "training_images" / eeg2.folder_of(number) / eeg2.file_of(number)


def meg_picture(root: Path, number: int = 3) -> Path:
    return root / "Images" / Path(meg.row_of(number)[3]).relative_to("images_meg")


def write_meg_images(root: Path) -> None:
    """All images of the four concepts in `root/Images`; those of the first two that are not shown as number 63."""
    for category in range(1, 5):
        for number in range(3 * category - 2, 3 * category + 1):
            write_jpeg(root / "Images" / meg.file_of(category, number), number)
        last = 10 + category
        write_jpeg(root / "Images" / meg.file_of(category, last), last if last in meg.TESTED else 63)


def write_jpeg(path: Path, number: int) -> None:
    """A picture as PNG under a JPEG's name is one that decoders by content read; these are JPEGs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(write_picture(path.with_suffix(".png"), number)).save(path, **JPEG)
    path.with_suffix(".png").unlink()


def studied(given: Input, folder: Path, images: Path, shown: Any) -> Input:
    """The study of the trials that the reader prepares."""

    def read() -> Any:
        given.read()
        return study_of(next((folder / "out").glob("sub-01_trials.npy")), images)

    return replace(given, read=read, shown=shown, images=images, channels=None)


def of_eeg2(folder: Path, change: Callable[[Path], Any]) -> Input:
    given = eeg2_prepared_input(folder, images=True, change=change)
    return studied(given, folder, folder / "root" / "image_set", range(1, 13))


def of_eeg2_raw(folder: Path, change: Callable[[Path], Any]) -> Input:
    given = eeg2_raw_input(folder, change=change)
    return studied(given, folder, folder / "root" / "image_set", range(1, 13))


def of_meg(folder: Path, change: Callable[[Path], Any]) -> Input:
    def corrupt(root: Path) -> None:
        write_meg_images(root)
        change(root)

    given = meg_input(folder, change=corrupt)
    return studied(given, folder, folder / "root" / "Images", [*meg.TRAINED, *meg.TESTED])


PICTURES: dict[str, tuple[Callable[[Path], Any], dict[str, str]]] = {
    "as published": (lambda path: None, {}),
    "one turned by EXIF": (lambda path: turned(6, **JPEG)(path, 3), {}),
    "an AppleDouble beside": (lambda path: (path.parent / f"._{path.name}").write_bytes(APPLE_DOUBLE), {}),
    "@eaDir beside": (lambda path: write_jpeg(path.parent / "@eaDir" / path.name / "SYNOPHOTO_THUMB_M.jpg", 63), {}),
    "a hidden picture beside": (lambda path: write_jpeg(path.with_name(".cover.jpg"), 63), {}),
    "EPS in one": (lambda path: path.write_bytes(EPS), {"refused": r"(?i)03[bs]"}),
    "one is missing": (lambda path: path.unlink(), {"refused": r"(?i)03[bs]"}),
    "one of other ending": (lambda path: path.rename(path.with_suffix(".JPEG")), {}),
    "one as PNG with transparency": (
        lambda path: (Image.fromarray(with_alpha(3)).save(path.with_suffix(".png")), path.unlink()),
        {"either": r"(?i)alpha|transparen"},
    ),
}
for what, (change, outcome) in PICTURES.items():
    case(4, "eeg2-prepared", what, of_eeg2, lambda root, c=change: c(eeg_picture(root)), **outcome)
    case(4, "meg", what, of_meg, lambda root, c=change: c(meg_picture(root)), **outcome)
for what in ("as published", "one turned by EXIF", "an AppleDouble beside"):
    case(4, "eeg2-raw", what, of_eeg2_raw, lambda root, c=PICTURES[what][0]: c(eeg_picture(root)))

# --- channels of prepared files ---------------------------------------------------------------------------------------


def with_channel(name: str) -> Callable[[Path], None]:
    """The official files hold one more channel."""

    def change(held: dict[str, Any]) -> None:
        x_IRCT = held["preprocessed_eeg_data"]
        code_IRT = np.broadcast_to(np.arange(len(x_IRCT))[:, None, None], x_IRCT[:, :, 0].shape).astype("float32")
        held["preprocessed_eeg_data"] = np.concatenate([x_IRCT, code_IRT[:, :, None] + 0.01 * x_IRCT[:, :, :1]], axis=2)
        held["ch_names"] = [*held["ch_names"], name]

    return lambda root: [eeg2.edit_dict(change, part)(root) for part in eeg2.R]


for name in ("stim", "TRIGGER", "photodiode"):
    case(
        5, "eeg2-prepared", f"{name} beside the electrodes", eeg2_prepared_input, change=with_channel(name), either=name
    )

# --- order: images of THINGS that are known by their numbers alone ----------------------------------------------------


def by_numbers(folder: Path, change: Callable[[Path], Any] = lambda root: None) -> Input:
    """Tables without image_path: an image is the file of its number in `Images`."""

    def corrupt(root: Path) -> None:
        write_meg_images(root)
        change(root)

    drop = lambda table: table.drop(columns="image_path")  # noqa: E731
    given = meg_input(folder, metadata=drop, csv=drop, change=corrupt)
    return studied(given, folder, folder / "root" / "Images", [*meg.TRAINED, *meg.TESTED])


def another(root: Path) -> None:
    write_jpeg(root / "Images" / "aardvark" / "aardvark_00s.jpg", 63)


NUMBERED: dict[str, tuple[Callable[[Path], Any], dict[str, str]]] = {
    "by numbers alone": (lambda root: None, {}),
    "by numbers, an AppleDouble beside": (PICTURES["an AppleDouble beside"][0], {}),
    "by numbers, @eaDir beside": (PICTURES["@eaDir beside"][0], {}),
    "by numbers, a hidden picture beside": (PICTURES["a hidden picture beside"][0], {}),
}
for what, (change, outcome) in NUMBERED.items():
    place = meg_picture if what != "by numbers alone" else lambda root: root
    case(6, "meg", what, by_numbers, lambda root, c=change, p=place: c(p(root)), **outcome)
case(
    6,
    "meg",
    "by numbers, one file less",
    by_numbers,
    lambda root: meg_picture(root).unlink(),
    refused=r"(?i)images|fetch",
)
case(6, "meg", "by numbers, one more", by_numbers, another, refused=r"(?i)images|contradicts")

# --- texts ------------------------------------------------------------------------------------------------------------


def as_bytes(held: dict[str, Any]) -> dict[str, Any]:
    return {key: [name.encode() for name in names] for key, names in held.items()}


def as_arrays(held: dict[str, Any]) -> dict[str, Any]:
    return {key: np.array(names) for key, names in held.items()}


def info(change: Callable[[str], bytes]) -> Callable[[Path], None]:
    def corrupt(root: Path) -> None:
        path = root / "sub-01" / "info.json"
        path.write_bytes(change(path.read_text(encoding="utf-8")))

    return corrupt


def accented(i: int) -> str:
    return eeg2.file_of(i).replace("_", "_é_")


LISTED = {"names as bytes": eeg2.edit_metadata(as_bytes), "names as an array": eeg2.edit_metadata(as_arrays)}
for what, change in LISTED.items():
    case(7, "eeg2-prepared", what, eeg2_prepared_input, change=change, either=r"(?i)bytes|text")
    case(7, "eeg2-raw", what, eeg2_raw_input, change=change, images=False, either=r"(?i)bytes|text")
case(7, "eeg2-prepared", "accents in names", eeg2_prepared_input, metadata=eeg2.metadata_of(accented), images=True)
case(7, "eeg2-raw", "accents in names", eeg2_raw_input, metadata=eeg2.metadata_of(accented))
ENCODED: dict[str, tuple[Callable[[str], bytes], dict[str, str]]] = {
    "with mark": (lambda text: text.encode("utf-8-sig"), {"either": r"info\.json"}),
    "in UTF-16": (lambda text: text.encode("utf-16"), {"either": r"info\.json"}),
    "with CR LF": (lambda text: text.replace(",", ",\r\n").encode(), {}),
    "cut": (lambda text: text[:-20].encode(), {"refused": r"info\.json"}),
    "empty": (lambda text: b"", {"refused": r"info\.json"}),
}
for what, (change, outcome) in ENCODED.items():
    case(7, "eeg2-prepared", f"info.json {what}", eeg2_prepared_input, by="neurobridge", change=info(change), **outcome)
