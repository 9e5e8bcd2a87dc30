"""Inputs of the reader "meg": THINGS-MEG's published epochs and its table of trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd

from hvf.data.things_meg.prepare import prepare
from hvf.data.trials.trials import Trials
from tests.corruption.case import Input, Reading

CONCEPTS = ("aardvark", "abacus", "acorn", "anchor")  # three images each; of the last two a fourth is tested
TRAINED, TESTED = range(1, 7), (13, 14)  # numbers whose trials are kept: exp of concepts that are not tested, and test
CATCH = 999999
SENSORS = tuple(f"ML{region}{row}{column}-1609" for region in "CFOPT" for row in (1, 2) for column in (1, 2, 3))
CARRIER = SENSORS[0]
RATE, N_TIMES = 200.0, 281


def row_of(number: int) -> list[Any]:
    """Type, image number, concept number and path of a trial of the image with this number."""
    if number <= 12:
        category = (number - 1) // 3 + 1
        return ["exp", number + category - 1, category, f"images_meg/{file_of(category, number)}"]
    category = number - 10
    return ["test", 4 * category, category, f"images_test_meg/{file_of(category, number)}"]


def file_of(category: int, number: int) -> str:
    concept = CONCEPTS[category - 1]
    return f"{concept}/{concept}_{number:02d}s.jpg"


def attributes(shown: Sequence[int]) -> pd.DataFrame:
    """The table of trials as published; 0 is a catch trial."""
    rows = [row_of(i) if i else ["catch", np.nan, np.nan, "images_catch_meg/catch_001.jpg"] for i in shown]
    columns = ["trial_type", "things_image_nr", "things_category_nr", "image_path"]
    return pd.DataFrame(rows, columns=columns).assign(session_nr=1, run_nr=1)


def shown_numbers(seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).permutation([0, *range(1, 13), *TESTED, *TESTED]).tolist()


def epochs_of(
    shown: Sequence[int],
    table: pd.DataFrame | None,
    names: Sequence[str] = SENSORS,
    kinds: Sequence[str] | str = "mag",
    codes: Sequence[int] | None = None,
    rate: float = RATE,
) -> mne.EpochsArray:
    rng = np.random.default_rng(1)
    x_NCT = rng.normal(size=(len(shown), len(names), N_TIMES)).astype("float32")
    courses = np.repeat(3 * rng.normal(size=(20, len(names), 26)), 10, axis=2)  # of each image's response
    x_NCT[..., 21:] += courses[list(shown)]
    x_NCT[:, 0] = 0.01 * x_NCT[:, 0] + np.asarray(shown)[:, None]
    right = attributes(shown)["things_image_nr"].fillna(CATCH).astype(int).to_numpy()
    events = np.stack([100 + 400 * np.arange(len(shown)), 0 * right, right if codes is None else codes], axis=1)
    info = mne.create_info(list(names), rate, kinds, verbose="error")
    return mne.EpochsArray(x_NCT, info, events, tmin=-0.1, baseline=None, metadata=table, proj=False, verbose="error")


def epochs_file(root: Path) -> Path:
    return root / "derivatives" / "preprocessed" / "preprocessed_P1-epo.fif"


def csv_file(root: Path) -> Path:
    return root / "sourcedata" / "sample_attributes_P1.csv"


def meg_input(
    folder: Path,
    *,
    shown: Sequence[int] = tuple(shown_numbers()),
    metadata: Callable[[pd.DataFrame], pd.DataFrame | None] = lambda table: table,
    csv: Callable[[pd.DataFrame], pd.DataFrame | None] = lambda table: table,
    change: Callable[[Path], None] = lambda root: None,
    expected: Sequence[int] | None = None,
    channels: Sequence[str] = SENSORS,
    **epochs: Any,
) -> Input:
    """Published epochs with metadata, and the csv; either table may be changed or (None) missing."""
    root = folder / "root"
    for path in (epochs_file(root), csv_file(root)):
        path.parent.mkdir(parents=True)
    epochs_of(shown, metadata(attributes(shown)), **epochs).save(epochs_file(root), verbose="error")
    table = csv(attributes(shown))
    if table is not None:
        table.to_csv(csv_file(root), index=False)
    change(root)

    def read() -> Reading:
        (path,) = prepare(root, folder / "out", "ubp")
        return Reading.of_trials(Trials.load(path))

    kept = [i for i in shown if i in TRAINED or i in TESTED]
    return Input(
        read,
        shown=kept if expected is None else expected,
        path=root,
        carried=in_first_sensor,
        channels=channels,
    )


def in_first_sensor(trials: Trials) -> np.ndarray:
    return trials.load_array()[:, trials.ch_names.index(CARRIER)].astype(float).mean(axis=1)


def edit_csv(change: Callable[[str], str | bytes]) -> Callable[[Path], None]:
    """A corruption of the table of trials as text."""

    def corrupt(root: Path) -> None:
        text = change(csv_file(root).read_text(encoding="utf-8"))
        csv_file(root).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))

    return corrupt
