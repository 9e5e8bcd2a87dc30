"""Inputs of the reader "epochs": `-epo.fif` whose Oz carries the number, in any order, and a folder of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd

import hvf
from hvf.data.recordings.single import read_recording
from tests.corruption.case import Input, Reading
from tests.corruption.makers.arrays import also_split, study_of
from tests.corruption.numbered import BRAIN, SFREQ, png, shown_in_order, trials_of, write_pictures


def epochs_of(
    shown: Sequence[int],
    metadata: pd.DataFrame | None = None,
    event_id: Mapping[str, int] | None = None,
    codes: Sequence[int] | None = None,
    names: Sequence[str] = BRAIN,
    kinds: Sequence[str] | str = "eeg",
    extra: np.ndarray | None = None,
) -> mne.EpochsArray:
    """Epochs that were shown in this order; `extra` are values (N, c, T) of further channels after Oz."""
    x_NCT = trials_of(shown, n_channels=len(BRAIN)) * 1e-6
    if extra is not None:
        x_NCT = np.concatenate([x_NCT, extra], axis=1)
    codes_N = np.ones(len(shown), int) if codes is None else np.asarray(codes)
    events = np.stack([100 + 200 * np.arange(len(shown)), np.zeros(len(shown), int), codes_N], axis=1)
    info = mne.create_info(list(names), SFREQ, kinds, verbose="error")
    return mne.EpochsArray(
        x_NCT, info, events, event_id=None if event_id is None else dict(event_id), metadata=metadata, verbose="error"
    )


def save(epochs: mne.BaseEpochs, path: Path) -> Path:
    epochs.save(path, overwrite=True, verbose="error")
    return path


def epochs_input(
    folder: Path,
    *,
    shown: Sequence[int] = tuple(shown_in_order()),
    disk: Callable[[int], str] = png,
    numbers: Sequence[int] = tuple(range(1, 13)),
    column: str | None = "image",
    table: Callable[[int], Any] = png,
    metadata: pd.DataFrame | None = None,
    change: Callable[[mne.BaseEpochs], mne.BaseEpochs] = lambda epochs: epochs,
    door: str = "study",
    test_images: int = 3,
    concepts: Mapping[int, str] | None = None,
    lacking: Sequence[int] = (),
    **epochs: Any,
) -> Input:
    """Epochs whose metadata name the images in `column` (None: no metadata), read through a door of hvf.

    Doors: "study" (`hvf train --trials`), "read_trials", "read_recording".
    """
    if metadata is None and column is not None:
        metadata = pd.DataFrame({column: [table(number) for number in shown]})
    path = save(change(epochs_of(shown, metadata, **epochs)), folder / "sub-01-epo.fif")
    images = write_pictures(folder / "images", disk, numbers)

    def read() -> Reading:
        if door == "study":
            return study_of(path, images, test_images)
        opened = hvf.open_images(images)
        if door == "read_trials":
            return Reading.of_trials(hvf.read_trials(path, opened), opened)
        return Reading.of_trials(read_recording(path, images=opened), opened)

    averaged = sorted(set(shown)) if door == "study" else shown
    also = also_split(path, images, test_images) if concepts else ()
    # Where a folder is a concept, the rest of the last concept that is tested is left out.
    may_lack = averaged if concepts or (door == "study" and "/" in disk(1)) else lacking
    return Input(read, averaged, path, images, concepts=concepts, also=also, may_lack=may_lack)
