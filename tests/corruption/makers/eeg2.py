"""Inputs of the readers "eeg2-raw" and "eeg2-prepared": THINGS-EEG2 as recorded and as others' code leaves it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hvf.data.montages import EEG_CHANNELS
from hvf.data.things_eeg2.prepare import prepare
from hvf.data.trials.trials import Trials
from tests.corruption.case import Input, Reading
from tests.corruption.numbered import write_picture

RATE = 1000  # Hz
SPACING, FIRST = 800, 400  # samples between images and before the first
STEP = 300  # samples for which Oz carries the number; it is 0 for as long after it
TRAIN, TEST = 8, 4  # images; numbers 1..8 are trained on, 9..12 tested
CONCEPTS = ("ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen")  # two training images each, then one test image
SESSIONS = 2
NAMES = [*EEG_CHANNELS, "stim"]
RECIPE = "neurobridge-zscore"  # each channel by itself: Oz stays in proportion to the number


def concept_of(number: int) -> str:
    return CONCEPTS[(number - 1) // 2] if number <= TRAIN else CONCEPTS[number - TRAIN + 3]


def file_of(number: int) -> str:
    return f"{concept_of(number)}_{number:02d}b.jpg"


def folder_of(number: int) -> str:
    first = CONCEPTS.index(concept_of(number)) + 1
    return f"{first if number <= TRAIN else first - 4:05d}_{concept_of(number)}"


def metadata_of(name: Callable[[int], str] = file_of, folder: Callable[[int], str] = folder_of) -> dict[str, list[str]]:
    parts = {"train": range(1, TRAIN + 1), "test": range(TRAIN + 1, TRAIN + TEST + 1)}
    files = {f"{part}_img_files": [name(i) for i in numbers] for part, numbers in parts.items()}
    folders = {f"{part}_img_concepts": [folder(i) for i in numbers] for part, numbers in parts.items()}
    things = {
        f"{part}_img_concepts_THINGS": [f"{CONCEPTS.index(concept_of(i)) + 1:05d}_{concept_of(i)}" for i in numbers]
        for part, numbers in parts.items()
    }
    return files | folders | things


def save_metadata(root: Path, metadata: Mapping[str, Any]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    np.save(root / "image_metadata.npy", np.array(dict(metadata), dtype=object))


def write_images(root: Path, metadata: Mapping[str, Any]) -> None:
    """The pictures of `image_metadata.npy` in `root/image_set`."""
    for part, folder, first in (("train", "training_images", 1), ("test", "test_images", TRAIN + 1)):
        pairs = zip(metadata[f"{part}_img_concepts"], metadata[f"{part}_img_files"], strict=True)
        for number, (concept, file) in enumerate(pairs, start=first):
            path = root / "image_set" / folder / concept / file
            write_picture(path.with_suffix(".png"), number).rename(path)


# --- as recorded ------------------------------------------------------------------------------------------------------


def record(shown: Sequence[int], first_number: int, seed: int) -> dict[str, Any]:
    """A raw file's content: codes count from 1 within a part, numbers over both."""
    n = FIRST + SPACING * (len(shown) + 1)
    pattern_C = [np.random.default_rng(100 + i).normal(size=63) * 2e-5 for i in range(TRAIN + TEST + 1)]
    x_CN = np.random.default_rng(seed).normal(size=(64, n)) * 1e-5
    oz = NAMES.index("Oz")
    x_CN[oz] *= 1e-3
    x_CN[63] = 0
    for i, code in enumerate(shown):
        onset = FIRST + SPACING * i
        x_CN[63, onset] = code
        number = code + first_number - 1
        during = slice(onset + 1, onset + 1 + STEP)
        if number <= TRAIN + TEST:
            x_CN[:63, during] += pattern_C[number][:, None]
        x_CN[oz, during] = 1e-5 * number
    held = {"raw_eeg_data": x_CN, "ch_names": list(NAMES), "ch_types": ["eeg"] * 63 + ["stim"], "sfreq": RATE}
    return held | {"highpass": 0.01, "lowpass": 100}


def raw_file(root: Path, session: int = 1, part: str = "training") -> Path:
    return root / "raw_data" / "sub-01" / f"ses-{session:02d}" / f"raw_eeg_{part}.npy"


def edit_raw(change: Callable[[dict[str, Any]], Any], session: int = 1, part: str = "training") -> Callable:
    """A corruption of a raw file's content."""

    def corrupt(root: Path) -> None:
        path = raw_file(root, session, part)
        held = np.load(path, allow_pickle=True).item()
        held = change(held) or held
        np.save(path, np.array(held, dtype=object))

    return corrupt


def edit_metadata(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A corruption of image_metadata.npy."""

    def corrupt(root: Path) -> None:
        held = np.load(root / "image_metadata.npy", allow_pickle=True).item()
        save_metadata(root, change(held) or held)

    return corrupt


def in_proportion(trials: Trials) -> np.ndarray:
    """The number of each trial from Oz, which holds it for half the time and 0 after: in proportion, without offset."""
    x_NT = trials.load_array()[:, trials.ch_names.index("Oz")]
    height_N = x_NT[:, 10:65].mean(axis=1) - x_NT[:, 85:140].mean(axis=1)
    carried_N = np.zeros(len(trials))
    sessions = np.ones(len(trials)) if trials.sessions is None else trials.sessions
    for session in set(sessions.tolist()):
        for part in ("train", "test"):
            rows = (sessions == session) & (trials.splits == part)
            if rows.any():  # the smallest number of a part is known
                carried_N[rows] = height_N[rows] / height_N[rows].min() * (1 if part == "train" else TRAIN + 1)
    return carried_N


def eeg2_raw_input(
    folder: Path,
    *,
    change: Callable[[Path], None] = lambda root: None,
    shown: Callable[[int], tuple[Sequence[int], Sequence[int]]] | None = None,
    metadata: Mapping[str, Any] | None = None,
    images: bool = True,
    expected: Sequence[int] | None = None,
    channels: Sequence[str] | None = EEG_CHANNELS,
) -> Input:
    """Two sessions that show every training image once and every test image twice; `change` corrupts the root."""
    root = folder / "root"
    metadata = metadata_of() if metadata is None else metadata
    save_metadata(root, metadata)
    for session in range(1, SESSIONS + 1):
        rng = np.random.default_rng(session)
        train, test = rng.permutation(TRAIN) + 1, rng.permutation(np.repeat(np.arange(TEST), 2)) + 1
        train, test = shown(session) if shown else (train.tolist(), test.tolist())
        for part, codes, first in (("training", train, 1), ("test", test, TRAIN + 1)):
            path = raw_file(root, session, part)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.array(record(codes, first, 10 * session + first), dtype=object))
    if images:
        write_images(root, metadata)
    change(root)

    def read() -> Reading:
        (path,) = prepare(root, folder / "out", RECIPE, jobs=1)
        return Reading.of_trials(Trials.load(path))

    numbers = [i for i in range(1, TRAIN + 1) for _ in range(SESSIONS)]
    numbers += [i for i in range(TRAIN + 1, TRAIN + TEST + 1) for _ in range(2 * SESSIONS)]
    return Input(
        read,
        shown=numbers if expected is None else expected,
        path=root,
        carried=in_proportion,
        channels=channels,
    )


# --- as other code leaves it ------------------------------------------------------------------------------------------

POSTERIOR = ("P7", "P5", "P3", "P1", "Pz", "P2", "P4", "P6", "P8", "PO7", "PO3", "POz", "PO4", "PO8", "O1", "Oz", "O2")
R = {"training": 2, "test": 4}  # repeats


def part_of(part: str, names: Sequence[str] = POSTERIOR, n_times: int = 100) -> np.ndarray:
    """Trials (I, R, C, T) of a part: Oz holds the number."""
    numbers = np.arange(1, TRAIN + 1) if part == "training" else np.arange(TRAIN + 1, TRAIN + TEST + 1)
    rng = np.random.default_rng(len(part))
    x_IRCT = rng.normal(size=(len(numbers), 1, len(names), 1)) + rng.normal(
        size=(len(numbers), R[part], len(names), n_times)
    )
    x_IRCT[:, :, list(names).index("Oz")] = numbers[:, None, None] + 0.01 * rng.normal(
        size=(len(numbers), R[part], n_times)
    )
    return x_IRCT.astype("float32")


def write_official(subject: Path, *, rate: float = 100.0) -> None:
    times = -0.2 + np.arange(100) / rate
    for part in R:
        held = {"preprocessed_eeg_data": part_of(part), "ch_names": list(POSTERIOR), "times": times}
        np.save(subject / f"preprocessed_eeg_{part}.npy", np.array(held, dtype=object))


def write_ubp(subject: Path) -> None:
    times = np.arange(-50, 250) / 250.0
    for part, file, first in (("training", "train", 1), ("test", "test", TRAIN + 1)):
        x_IRCT = part_of(part, EEG_CHANNELS, 250)
        numbers = range(first, first + len(x_IRCT))
        folder = f"{'training' if part == 'training' else 'test'}_images"
        names = [[f"{folder}/{folder_of(i)}/{file_of(i)}"] * R[part] for i in numbers]
        session = np.tile(np.arange(R[part]), (len(x_IRCT), 1))
        held = {"eeg": x_IRCT.astype("float16"), "img": np.array(names), "session": session}
        held |= {"ch_names": list(EEG_CHANNELS), "times": times, "label": np.zeros(x_IRCT.shape[:2], int)}
        torch.save(held, subject / f"{file}.pt", pickle_protocol=4)


def write_neurobridge(subject: Path) -> None:
    info = {"ch_names": list(EEG_CHANNELS), "times": (np.arange(-50, 250) / 250.0).tolist(), "normalization": "mvnn"}
    (subject / "info.json").write_text(json.dumps(info))
    for part, file, each in (("training", "train", 2), ("test", "test", 1)):
        x_IRCT = part_of(part, EEG_CHANNELS, 250)
        np.save(subject / f"{file}.npy", x_IRCT.reshape(-1, each, *x_IRCT.shape[1:]))


WRITERS = {"official": write_official, "ubp": write_ubp, "neurobridge": write_neurobridge}


def eeg2_prepared_input(
    folder: Path,
    *,
    by: str = "official",
    change: Callable[[Path], None] = lambda root: None,
    metadata: Mapping[str, Any] | None = None,
    images: bool = False,
    stimuli: str | None = None,
) -> Input:
    """One subject's folder as `by` leaves it, below image_metadata.npy; `change` corrupts the root.

    `stimuli` is the list of images, in the folder above the root, that the reader is told.
    """
    root = folder / "root"
    (root / "sub-01").mkdir(parents=True)
    metadata = metadata_of() if metadata is None else metadata
    save_metadata(root, metadata)
    WRITERS[by](root / "sub-01")
    if images:
        write_images(root, metadata)
    change(root)

    def read() -> Reading:
        (path,) = prepare(root, folder / "out", **options)
        return Reading.of_trials(Trials.load(path))

    options = {} if stimuli is None else {"stimuli": folder / stimuli}
    numbers = [i for i in range(1, TRAIN + 1) for _ in range(R["training"])]
    numbers += [i for i in range(TRAIN + 1, TRAIN + TEST + 1) for _ in range(R["test"])]
    return Input(read, shown=numbers, path=root, carried=in_units, channels=POSTERIOR, options=options)


def in_units(trials: Trials) -> np.ndarray:
    return trials.load_array()[:, trials.ch_names.index("Oz")].astype(float).mean(axis=1)


def edit_dict(change: Callable[[dict[str, Any]], Any], part: str = "training") -> Callable[[Path], None]:
    """A corruption of an official file's content."""

    def corrupt(root: Path) -> None:
        path = root / "sub-01" / f"preprocessed_eeg_{part}.npy"
        held = np.load(path, allow_pickle=True).item()
        held = change(held) or held
        np.save(path, np.array(held, dtype=object))

    return corrupt


def edit_ubp(change: Callable[[dict[str, Any]], Any], part: str = "train") -> Callable[[Path], None]:
    """A corruption of the content of one of UBP's files."""

    def corrupt(root: Path) -> None:
        path = root / "sub-01" / f"{part}.pt"
        held = torch.load(path, weights_only=False)
        held = change(held) or held
        torch.save(held, path, pickle_protocol=4)

    return corrupt
