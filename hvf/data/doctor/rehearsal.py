"""What `hvf data prepare` and `hvf train` answer to the same files: their own readers, run without writing anything.

A refusal is a finding in the reader's own words, and each of its notes one as well, so that what the doctor calls right
is taken, and what is refused is called wrong.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from hvf.config import HvfError
from hvf.data.doctor.checks import Finding
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.images.matching import ImageNames
from hvf.data.recordings.epoching import Plan
from hvf.data.recordings.prepare import read_recording, rehearse_bids
from hvf.data.things_eeg2 import prepare as things_eeg2
from hvf.data.things_eeg2 import third_party
from hvf.data.things_meg import prepare as things_meg
from hvf.data.trials.epochs import open_epochs
from hvf.data.trials.reading import read_trials
from hvf.data.trials.trials import Trials


def rehearsed(command: str, where: str, read: Callable[[], Iterable[str]]) -> Iterator[Finding]:
    """The notes of a reader, each a finding, or its refusal.

    Parameters
    ----------
    command : str
        Whose reader it is: "hvf train", "hvf data prepare bids".
    where : str
        File or folder, for messages.
    read : callable
        Reads, and returns what was done to the input in lines; raises HvfError where the command refuses.
    """
    check = command.split()[-1] if "prepare" not in command else "prepare"
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            notes = list(dict.fromkeys(read()))
    except HvfError as error:
        yield Finding("error", check, where, str(error), f"`{command}` refuses it for this reason: mend this first")
        return
    for note in notes or ["it is taken as it is"]:
        yield Finding("ok", check, where, note)


def rehearse_trials(path: Path, images: Path | None, where: str) -> Iterator[Finding]:
    """What `hvf train` makes of epochs or of a plain array and their images.

    Without images, epochs are read as far as their own names of images go, and an array as one row per image.
    """

    def read() -> Iterator[str]:
        if images is not None:
            trials = read_trials(path, open_images(images))
        elif path.suffix.lower() == ".npy":
            ids = [f"{i:08d}" for i in range(_rows(path))]
            trials = read_trials(path, ImageSet.from_arrays(np.zeros((len(ids), 1, 1, 3), np.uint8), ids, ids))
            trials = trials.replace(history=None)
        else:
            trials = Trials.from_epochs(open_epochs(path))
            trials.check()
        yield f"{len(trials)} trials, {len(trials.ch_names)} channels, {trials.shape[2]} samples"
        yield from (trials.history or {}).get("notes", ())

    yield from rehearsed("hvf train", where, read)


def _rows(path: Path) -> int:
    """How many rows an array has, by its header; 1 where that cannot be read, as its reader then says."""
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError):
        return 1
    return shape[0] if shape and shape[0] else 1


def rehearse_recording(
    path: Path, events: Path | pd.DataFrame | None, images: Path | None, where: str
) -> Iterator[Finding]:
    """What `read_recording` makes of a recording and its table of events."""

    def read() -> Iterator[str]:
        trials = read_recording(path, events, images=images)
        yield from (trials.history or {}).get("notes", ())

    yield from rehearsed("hvf data prepare recording", where, read)


def rehearse_dataset(root: Path, images: Path | None = None) -> Iterator[Finding]:
    """What `prepare_bids` would make of each subject of a BIDS data set."""
    shown = None
    if images is not None:
        try:
            shown = open_images(images)
        except HvfError as error:
            yield Finding("error", "images", images.name, str(error), "give the folder or zip of the images")
            return
    for name, work, notes in rehearse_bids(root, shown):
        yield from rehearsed("hvf data prepare bids", name, partial(_planned, work, notes))


def _planned(work: Plan | HvfError, notes: list[str]) -> Iterator[str]:
    if isinstance(work, HvfError):
        raise work
    yield from notes


def rehearse_things_eeg2(root: Path) -> Iterator[Finding]:
    """What `hvf data prepare things-eeg` would make of a root of raw recordings or of what other code prepared."""
    yield from rehearsed("hvf data prepare things-eeg", root.name, lambda: things_eeg2.rehearse(root))


def rehearse_third_party(path: Path, images: Path | None, where: str) -> Iterator[Finding]:
    """What `hvf data prepare things-eeg` would make of a folder that other code prepared."""

    def read() -> Iterator[str]:
        trials = third_party.read_prepared(path)
        if images is not None:
            ImageNames(open_images(images).ids, str(images)).indices(np.unique(trials.image_ids).tolist(), where)
        yield f"{len(trials)} trials of {len(set(trials.image_ids.tolist()))} images, {len(trials.ch_names)} channels"

    if path.is_dir() and not any(third_party.NAMES["ubp"][0] == p.name for p in path.iterdir()):
        try:
            third_party.find_metadata(path)
        except HvfError as error:
            yield Finding("warning", "prepare", where, str(error), "`hvf data prepare things-eeg` needs it")
            return
    yield from rehearsed("hvf data prepare things-eeg", where, read)


def rehearse_things_meg(root: Path) -> Iterator[Finding]:
    """What `hvf data prepare things-meg` would make of a root."""
    yield from rehearsed("hvf data prepare things-meg", root.name, lambda: things_meg.rehearse(root))
