"""What `hvf data prepare` and `hvf train` answer to the same files: their own readers, run without writing anything.

A refusal is a finding in the reader's own words, and each of its notes one as well, so that what the doctor calls right
is taken, and what is refused is called wrong.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hvf.config import HvfError
from hvf.data.doctor.checks import Finding
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.images.matching import ImageNames
from hvf.data.recordings.epoching import Plan, Preprocessing
from hvf.data.recordings.options import with_settings
from hvf.data.recordings.prepare import rehearse_bids
from hvf.data.recordings.single import check_options, read_recording
from hvf.data.things_eeg2 import prepare as things_eeg2
from hvf.data.things_eeg2 import third_party
from hvf.data.things_meg import prepare as things_meg
from hvf.data.trials.epochs import open_epochs
from hvf.data.trials.reading import read_trials
from hvf.data.trials.trials import Trials
from hvf.files.npy import npy_header


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
        shape = npy_header(path).shape
    except HvfError:
        return 1
    return shape[0] if shape and shape[0] else 1


def rehearse_recording(
    path: Path, events: Path | None, images: Path | None, where: str, **options: Any
) -> Iterator[Finding]:
    """What `prepare_recording` makes of a recording or of epochs, with what else was given."""

    def read() -> Iterator[str]:
        own = with_settings(options)
        check_options(path, own.get("settings", Preprocessing()), own | {"events": events})
        trials = read_recording(path, events, images=images, **own)
        yield from (trials.history or {}).get("notes", ())

    yield from rehearsed("hvf data prepare recording", where, read)


def rehearse_dataset(root: Path, images: Path | None = None, **options: Any) -> Iterator[Finding]:
    """What `prepare_bids`, with these options, would make of each subject of a BIDS data set."""
    shown = None
    if images is not None:
        try:
            shown = open_images(images)
        except HvfError as error:
            yield Finding("error", "images", images.name, str(error), "give the folder or zip of the images")
            return
    for name, work, notes in rehearse_bids(root, images=shown, **options):
        yield from rehearsed("hvf data prepare bids", name, partial(_planned, work, notes))


def _planned(work: Plan | HvfError, notes: list[str]) -> Iterator[str]:
    if isinstance(work, HvfError):
        raise work
    yield from notes


def rehearse_things_eeg2(root: Path, **options: Any) -> Iterator[Finding]:
    """What `hvf data prepare things-eeg` would make of a root of raw recordings or of what other code prepared."""
    yield from rehearsed("hvf data prepare things-eeg", root.name, lambda: things_eeg2.rehearse(root, **options))


def rehearse_third_party(
    root: Path,
    files: Sequence[Path],
    images: Path | None,
    *,
    recipe: str | None = None,
    stimuli: Path | None = None,
) -> Iterator[Finding]:
    """What `hvf data prepare things-eeg` would make of a root of `files` of other code, and whether `images` fit them.

    A root that it does not look into as deep is named.
    """
    command = "hvf data prepare things-eeg"
    try:
        folders = list(third_party.subject_folders(root)[1].values())
    except HvfError:
        deeper = sorted({file.parent.parent.relative_to(root).as_posix() for file in files})
        for folder in deeper:
            if "meg" in f"{root.name}/{folder}".lower():
                continue
            message = f"trials of other code lie in {folder}"
            yield Finding("warning", "prepare", root.name, message, f"`{command}` takes that folder as --root")
        return
    yield from rehearsed(command, root.name, lambda: third_party.rehearse(root, recipe, stimuli))

    def pair(folder: Path) -> Iterator[str]:
        shown = np.unique(third_party.read_prepared(folder, stimuli).image_ids).tolist()
        ImageNames(open_images(images or "").ids, str(images)).indices(shown, folder.name)
        yield f"all {len(shown)} images shown are at hand"

    for folder in folders if images is not None else ():
        yield from rehearsed("hvf train", folder.name, partial(pair, folder))


def rehearse_things_meg(root: Path) -> Iterator[Finding]:
    """What `hvf data prepare things-meg` would make of a root."""
    yield from rehearsed("hvf data prepare things-meg", root.name, lambda: things_meg.rehearse(root))
