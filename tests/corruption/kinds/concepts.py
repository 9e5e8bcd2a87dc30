"""Kind 2: folders say what is one concept, whatever hides it; none is trained on and tested."""

from __future__ import annotations

import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from tests.corruption.case import Input, Reading, case
from tests.corruption.makers import eeg2
from tests.corruption.makers.arrays import also_split, array_input, study_of
from tests.corruption.makers.bids import bids_input
from tests.corruption.makers.eeg2 import eeg2_prepared_input, eeg2_raw_input
from tests.corruption.makers.epochs import epochs_input
from tests.corruption.makers.meg import meg_input
from tests.corruption.makers.raw import events_of, raw_input
from tests.corruption.numbered import shown_in_order, write_pictures

N = 24
ROWS = range(1, N + 1)
CONCEPT = {i: f"c{(i - 1) // 4}" for i in ROWS}  # six concepts of four images
SHARED = r"(?i)concept"


def in_folders(i: int) -> str:
    return f"{CONCEPT[i]}/img{i:02d}.png"


def zipped(member: Callable[[int], str], name: str = "images.zip") -> Callable[[Path], Path]:
    """Pack the pictures instead of the folder; member names are written as they are, backslashes too."""

    def pack(folder: Path) -> Path:
        path = folder.with_name(name)
        with zipfile.ZipFile(path, "w") as archive:
            for i in ROWS:
                info = zipfile.ZipInfo("x")
                info.filename = member(i)
                archive.writestr(info, next(folder.rglob(f"img{i:02d}.png")).read_bytes())
        return path

    return pack


def linked(folder: Path) -> Path:
    """One concept's folder is a link to another disk."""
    store = folder.with_name("store")
    (folder / "c2").rename(store)
    (folder / "c2").symlink_to(store, target_is_directory=True)
    return folder


def linked_file(folder: Path) -> Path:
    store = folder.with_name("store.png")
    (folder / "c2" / "img09.png").rename(store)
    (folder / "c2" / "img09.png").symlink_to(store)
    return folder


def linked_to_itself(folder: Path) -> Path:
    (folder / "c2" / "up").symlink_to(folder, target_is_directory=True)
    return folder


LAYOUTS: dict[str, tuple[Callable[[int], str], Callable[[Path], Path]]] = {
    "folders": (in_folders, lambda f: f),
    "folders below a folder": (lambda i: f"stimuli/{in_folders(i)}", lambda f: f),
    "a zip": (in_folders, zipped(in_folders)),
    "a zip with backslashes": (in_folders, zipped(lambda i: in_folders(i).replace("/", "\\"))),
    "a zip with backslashes below a folder": (in_folders, zipped(lambda i: f"set\\{in_folders(i)}".replace("/", "\\"))),
    "a zip from the folder above": (in_folders, zipped(lambda i: f"images/{in_folders(i)}")),
    "a zip with ./ before": (in_folders, zipped(lambda i: f"./{in_folders(i)}")),
    "a zip called .ZIP": (in_folders, zipped(in_folders, "images.ZIP")),
    "a concept's folder is a link": (in_folders, linked),
    "a picture is a link": (in_folders, linked_file),
}
for layout, (name, pack) in LAYOUTS.items():
    case(
        2,
        "array",
        layout,
        array_input,
        rows=ROWS,
        numbers=ROWS,
        name=name,
        pictures=pack,
        concepts=CONCEPT,
        test_images=8,
    )
case(
    2,
    "array",
    "a link to the folder above",
    array_input,
    rows=ROWS,
    numbers=ROWS,
    name=in_folders,
    pictures=linked_to_itself,
    concepts=CONCEPT,
    test_images=8,
    either=r"(?i)link",
)

MORE = shown_in_order(N)
for layout in ("folders", "a zip with backslashes", "a concept's folder is a link"):
    name, pack = LAYOUTS[layout]

    def of_epochs(folder: Path, name: Any = name, pack: Any = pack) -> Input:
        given = epochs_input(
            folder, shown=MORE, disk=name, numbers=ROWS, table=in_folders, concepts=CONCEPT, test_images=8
        )
        images = pack(given.images)
        return Input(
            lambda: study_of(given.path, images, 8), given.shown, given.path, images, concepts=CONCEPT,
            also=also_split(given.path, images, 8), may_lack=given.shown,
        )  # fmt: skip

    case(2, "epochs", layout, of_epochs)


# One concept spelt in two ways: both are the same folder to those who made the set.
def spelt(first: str, second: str) -> Callable[[int], str]:
    """Concept c0 is called `first` for its first two images and `second` for the others."""
    return lambda i: f"{(first if i < 3 else second) if i < 5 else CONCEPT[i]}/img{i:02d}.png"


SPELT = {
    "composed and decomposed": ("café", unicodedata.normalize("NFD", "café")),
    "numbered and bare": ("00001_ant", "ant"),
    "with two numbers": ("00001_ant", "00007_ant"),
    "with a space after": ("ant", "ant "),
    "upper and lower case": ("Ant", "ant"),
    "hyphen and underscore": ("ice-cream", "ice_cream"),
}
for what, (first, second) in SPELT.items():
    case(
        2,
        "array",
        f"a concept spelt {what}",
        array_input,
        numbers=ROWS,
        name=spelt(first, second),
        concepts=CONCEPT,
        test_images=8,
        either=r"(?i)concept|spelt|order|same",
    )
    case(
        2,
        "epochs",
        f"a concept spelt {what}",
        epochs_input,
        shown=MORE,
        disk=spelt(first, second),
        numbers=ROWS,
        table=lambda i: f"img{i:02d}.png",
        concepts=CONCEPT,
        test_images=8,
        either=r"(?i)concept|spelt|same",
    )


def training_and_test(i: int) -> str:
    """Folders of the parts above those of the concepts, as THINGS-EEG2's images lie."""
    part = "test_images" if i > 20 else "training_images"
    return f"{part}/{CONCEPT[i]}/img{i:02d}.png"


case(
    2,
    "array",
    "folders of the parts above",
    array_input,
    numbers=ROWS,
    name=training_and_test,
    concepts=CONCEPT,
    test_images=8,
    either=SHARED,
)
case(
    2,
    "array",
    "one folder for all",
    array_input,
    rows=ROWS,
    numbers=ROWS,
    name=lambda i: f"all/img{i:02d}.png",
)
case(
    2,
    "array",
    "pictures beside folders",
    array_input,
    numbers=ROWS,
    name=lambda i: in_folders(i) if i > 4 else f"c_img{i:02d}.png",
    concepts={i: c if i > 4 else str(i) for i, c in CONCEPT.items()},
    test_images=8,
    either=r"(?i)order|concept|folder",
)


# --- tables that name concepts ----------------------------------------------------------------------------------------


def table_of(concept: Callable[[int], str], split: Callable[[int], str] | None) -> pd.DataFrame:
    table = events_of(MORE).assign(concept=[concept(i) for i in MORE])
    return table if split is None else table.assign(split=[split(i) for i in MORE])


def of_raw(folder: Path, concept: Callable[[int], str], split: Callable[[int], str] | None = None) -> Input:
    """A recording made into trials that name concepts, and perhaps a split, and a study of these."""
    given = raw_input(folder, shown=MORE, events=table_of(concept, split))
    write_pictures(folder / "images", in_folders, ROWS)
    path, images = folder / "sub-01_trials.npy", folder / "images"

    def read(seed: int = 0) -> Reading:
        ((trials, _),) = given.read().parts
        trials.save(path)
        return study_of(path, images, 8, split_seed=seed)

    also = [lambda seed=seed: read(seed) for seed in ((1, 2) if split is None else ())]
    return Input(read, ROWS, path, images, concepts=CONCEPT, also=also, may_lack=ROWS)


def of_bids(folder: Path, concept: Callable[[int], str], split: Callable[[int], str] | None = None) -> Input:
    """The same of a data set."""
    given = bids_input(folder, shown=MORE, table=table_of(concept, split))
    images = write_pictures(folder / "images", in_folders, ROWS)
    path = folder / "out" / "sub-01_trials.npy"

    def read() -> Reading:
        given.read()
        return study_of(path, images, 8)

    return Input(read, ROWS, path, images, concepts=CONCEPT, may_lack=ROWS)


def apart(i: int) -> str:
    return "test" if i > 16 else "train"


def torn(i: int) -> str:
    return "test" if i % 4 == 0 else "train"


def own(i: int) -> str:
    return f"img{i:02d}"


for reader, write in (("raw", of_raw), ("bids", of_bids)):
    case(2, reader, "concepts as the folders", write, CONCEPT.get, apart)
    case(2, reader, "concepts as the folders, no split", write, CONCEPT.get)
    case(2, reader, "a concept in both parts", write, CONCEPT.get, torn, refused=SHARED)
    case(2, reader, "each image its own concept", write, own, either=SHARED)
    case(2, reader, "each image its own concept, in both parts", write, own, torn, refused=SHARED)
    case(2, reader, "numbered concepts", write, lambda i: f"{i:05d}_{CONCEPT[i]}", apart)

# --- THINGS -----------------------------------------------------------------------------------------------------------

FOLDERS = eeg2.folder_of


def one_concept(i: int) -> str:
    """Image 3's folder is another concept's."""
    return FOLDERS(7 if i == 3 else i)


case(
    2,
    "eeg2-raw",
    "folders without numbers",
    eeg2_raw_input,
    metadata=eeg2.metadata_of(folder=eeg2.concept_of),
)
case(
    2,
    "eeg2-raw",
    "files of one concept in another's folder",
    eeg2_raw_input,
    metadata=eeg2.metadata_of(folder=one_concept),
    either=SHARED,
)
case(
    2,
    "eeg2-raw",
    "a test concept in training",
    eeg2_raw_input,
    metadata=eeg2.metadata_of(folder=lambda i: FOLDERS(9 if i in (1, 2) else i)),
    refused=r"(?i)test concepts in training",
)
case(
    2,
    "eeg2-prepared",
    "a test concept in training",
    eeg2_prepared_input,
    metadata=eeg2.metadata_of(folder=lambda i: FOLDERS(9 if i in (1, 2) else i)),
    either=SHARED,
)
case(
    2,
    "eeg2-prepared",
    "folders without numbers",
    eeg2_prepared_input,
    metadata=eeg2.metadata_of(folder=eeg2.concept_of),
)


def wrong_category(table: pd.DataFrame) -> pd.DataFrame:
    other = table.copy()
    other.loc[other["things_image_nr"] == 2, "things_category_nr"] = 3
    return other


case(
    2,
    "meg",
    "an image of two concepts",
    meg_input,
    metadata=wrong_category,
    csv=wrong_category,
    refused=r"(?i)concept|contradict|categor",
)
