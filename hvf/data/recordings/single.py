"""Trials of one recording: any file that MNE reads, with a table of events or its own, or epochs."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd

from hvf.config import HvfError
from hvf.data.datasets import subject_numbers
from hvf.data.images.columns import texts_of
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.images.matching import ImageNames
from hvf.data.recordings.channels import mend_channel_types
from hvf.data.recordings.epoching import ONSET_UNITS, OpenRecording, Preprocessing, fill, plan
from hvf.data.recordings.events import (
    annotated_images,
    coded_events,
    drop_seen_concepts,
    find_image_column,
    image_events,
    image_ids,
)
from hvf.data.recordings.raw import attempt, give_positions, is_epochs, nearest, one_line, open_recording
from hvf.data.recordings.tables import read_table, table_beside
from hvf.data.trials.conversion import made_of
from hvf.data.trials.provenance import is_finished, sha256
from hvf.data.trials.trials import Trials
from hvf.files.guard import guarded
from hvf.runs import say

SAME_INTERVAL = 0.5  # of the median interval between events: a table's may differ by as much
JOINED_S = 10.0  # from the last epoch of a file to the first of the next, where MNE joins epochs
MOST_RUNS = 0.2  # of the intervals: more are not the breaks between runs


def read_recording(
    path: str | Path,
    events: str | Path | pd.DataFrame | None = None,
    *,
    settings: Preprocessing = Preprocessing(),  # noqa: B008 (frozen)
    images: ImageSet | str | Path | None = None,
    image_column: str | None = None,
    onset_unit: str | None = None,
    stim_channel: str | None = None,
    subject: str | None = None,
) -> Trials:
    """Make trials of one recording in any format that MNE reads, or of MNE epochs (`-epo.fif`).

    Parameters
    ----------
    path : path-like
        The recording: BrainVision .vhdr, EEGLAB .set, EDF, BDF, FIF, CTF .ds, ...
    events : path-like or DataFrame, optional
        Table (.tsv, .csv) with a column that names the image, and one of "onset" (s from the recording's start),
        "sample" (counted from 0 there), "code" (value of the trigger channel that stands for the image) or
        "description" (text of the annotation that does). Without one, annotations that are named after `images` tell.
        Epochs need none if their metadata have a column "image"; otherwise one row per epoch, in their order.
    settings : Preprocessing
        For continuous recordings; epochs are taken as they are.
    images : ImageSet or path-like, optional
        Set, folder or zip of the images; those named must be there, and give the trials their ids.
    image_column : str, optional
        Of the table, that names the image. Default: that of names of `images`, or the likeliest.
    onset_unit : str, optional
        "s", "ms" or "samples". Default: s, and ms where only that is possible.
    stim_channel : str, optional
        The trigger channel that shows the images, where several hold their codes.
    subject : str, optional
        Default: that of the file, or its name.

    Raises
    ------
    HvfError
        Anything is missing, damaged or contradicts itself.
    """
    path = Path(path)
    if onset_unit not in (None, *ONSET_UNITS):
        raise HvfError(f"--onset-unit must be one of {', '.join(ONSET_UNITS)}, not {onset_unit!r}")
    images = open_images(images) if isinstance(images, (str, Path)) else images
    table = None if events is None else read_table(events)
    where = "the table of events" if events is None or isinstance(events, pd.DataFrame) else str(events)
    if is_epochs(path):
        if stim_channel is not None:
            raise HvfError(f"--stim-channel means nothing for the epochs {path}: leave it out")
        return _of_epochs(path, table, where, images, image_column, subject)
    if table is None and images is None:
        raise HvfError(
            f"which images were shown when? give the table of events of {path} (--events, or {path.stem}_events.csv "
            "beside it), or the images that its annotations are named after (--images)"
        )
    raw = open_recording(path)
    notes = mend_channel_types(raw) + give_positions(raw)
    if stim_channel is not None and stim_channel not in raw.ch_names:
        raise HvfError(f"{path} has no channel {stim_channel!r}{nearest(stim_channel, raw.ch_names)}")
    more: list[str] = []
    if table is None:
        known = ImageNames(() if images is None else images.ids)
        where, (table, more) = f"the annotations of {path.name}", annotated_images(raw, known, path)
    elif not {"onset", "sample"} & set(table.columns):
        table, more = coded_events(raw, table, path, stim_channel)
    elif stim_channel is not None:
        more = [f"{stim_channel} is not read: {Path(where).name} has the onsets"]
    notes += more
    shown, more = image_events([(where, table)], image_column, images=images)
    notes += more
    if images is not None:
        ImageNames(images.ids).indices(shown["image"].tolist(), "the events")
    if settings.unseen_concepts:
        shown, more = drop_seen_concepts(shown)
        notes += more
    work = plan([OpenRecording(path.name, raw)], shown, settings, onset_unit)
    x_NCT = np.empty(work.shape, np.float32)
    fill(work, x_NCT, f"reading {path.name}")
    notes = [work.size, *notes, *work.notes]
    name = subject or (raw.info.get("subject_info") or {}).get("his_id") or path.stem
    say(name, ["; ".join(dict.fromkeys(notes))])
    files = [path, *map(Path, raw.filenames), *([Path(events)] if isinstance(events, (str, Path)) else [])]
    history = {"recipe": "recording", "parameters": asdict(settings), "units": work.units, "notes": notes}
    history["sources"] = {p.name: sha256(p) for p in files if p.is_file()}
    trials = Trials(
        x_NCT,
        subject=name,
        sfreq=work.sfreq,
        tmin=work.tmin,
        ch_names=work.ch_names,
        kind=work.kind,
        history=history,
        **work.labels,
    )
    return trials if images is None else trials.paired_with(images)


def prepare_recording(
    file: str | Path,
    out: str | Path,
    *,
    subject: str | None = None,
    settings: Preprocessing = Preprocessing(),  # noqa: B008 (frozen)
    **options: Any,
) -> Path:
    """Make `out/sub-NN_trials.npy` and its sidecar of one recording by `read_recording`; return its path.

    Parameters
    ----------
    file : path-like
    out : path-like
        Folder of the trials.
    subject : str, optional
        "8" or "sub-08". Default: that of a file named sub-08..., else 1.
    settings : Preprocessing
    **options
        Of `read_recording`: events, images, image_column, onset_unit, stim_channel.

    Raises
    ------
    HvfError
        The recording, its events or images are at fault, or the subject's trials are of something else.
    """
    file = Path(file)
    named = re.match(r"sub-?(\d+)", file.name)
    numbers = subject_numbers([subject or (named[1] if named else "1")])
    number = numbers[0] if numbers else 1
    name = f"sub-{number:02d}"
    options["events"] = options.get("events") or (None if is_epochs(file) else table_beside(file))
    check_options(file, settings, options)
    path = Path(out) / f"{name}_trials.npy"
    own = {key: _identity(value) if isinstance(value, Path) else value for key, value in options.items()}
    parameters = json.loads(json.dumps(asdict(settings) | {"file": _identity(file)} | own))
    try:
        is_finished(path, "recording", {}, parameters)
    except HvfError as error:
        raise HvfError(f"{error}, or --subject N for another person") from None
    trials = read_recording(file, settings=settings, subject=name, **options)
    made = {"sources": {}, "stamps": {}} | (trials.history or {}) | {"recipe": "recording", "parameters": parameters}
    trials.replace(history=made).save(path)
    return path


def check_options(path: Path, settings: Preprocessing, options: Mapping[str, Any]) -> None:
    """Raise HvfError for settings and options of `prepare_recording` that mean nothing for epochs."""
    if not is_epochs(path):
        return
    usual = asdict(Preprocessing())
    given = [name for name, value in asdict(settings).items() if value != usual[name]]
    unused = ["onset_unit", "stim_channel", *([] if options.get("events") else ["image_column"])]
    given += [name for name in unused if options.get(name) is not None]
    if given:
        flag = f"--{given[0].replace('_', '-')}"
        raise HvfError(f"{flag} means nothing for the epochs {path}, which are taken as they are: leave it out")


def _identity(path: Path) -> str:
    """A file's name, with a digest of its place that tells files of one name apart but not where they lie."""
    return f"{path.name} ({hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]})"


def _of_epochs(
    path: Path,
    table: pd.DataFrame | None,
    where: str,
    images: ImageSet | None,
    column: str | None,
    subject: str | None,
) -> Trials:
    if not path.exists():
        raise HvfError(f"there are no epochs at {path}")
    read = functools.partial(mne.read_epochs, path, preload=False, verbose="warning")
    epochs = attempt(path, lambda: guarded(path, "epochs", read))
    known = None if images is None else ImageNames(images.ids)
    names = None if table is None else _named_in_order(epochs, table, where, column, known)
    try:
        trials = Trials.from_epochs(epochs, images if names is None else names, subject=subject)
    except HvfError as error:
        raise HvfError(f"{path}: {error}") from error
    except (ValueError, RuntimeError, OSError) as error:
        raise HvfError(f"cannot read the epochs {path}: {one_line(error)}; is the file whole?") from error
    trials.check()
    if images is None:
        return trials.replace(x_NCT=trials.values, image_ids=image_ids(trials.image_ids.tolist()))
    if names is None:
        return trials
    ImageNames(images.ids).indices(trials.image_ids.tolist(), "the events")
    return trials.paired_with(images)


def _named_in_order(
    epochs: mne.BaseEpochs, table: pd.DataFrame, where: str, column: str | None, known: ImageNames | None
) -> list[str]:
    """The image of each epoch by a table of one row per epoch.

    Raises HvfError for a row without an image, and where the table's times or codes are in another order than those of
    the epochs' events, as in a table that was sorted by something else.
    """
    names = texts_of(table[find_image_column(table, where, column, known)])
    if "" in names:
        raise HvfError(f"row {names.index('') + 1} of {where} names no image: leave out the row, and its epoch")
    if len(names) != len(epochs):
        return names  # refused by who pairs them
    sample_N, code_N = epochs.events[:, 0], epochs.events[:, 2]
    times = [name for name in ("onset", "sample") if name in table and made_of(epochs.info) is None]
    for name in times:
        time_N = np.asarray(pd.to_numeric(table[name], errors="coerce"), float)
        row = _first_in_other_order(time_N, sample_N, epochs.info["sfreq"])
        if row is not None:
            raise HvfError(
                f"the rows of {where} are not in the order of the epochs: {name} goes from {table[name].iloc[row]} in "
                f"row {row + 1} to {table[name].iloc[row + 1]} in row {row + 2}, the event of epoch {row} from sample "
                f"{sample_N[row]} to {sample_N[row + 1]}; sort the rows as the epochs, or leave out the column {name}"
            )
    codes = np.asarray(pd.to_numeric(table["code"], errors="coerce"), float) if "code" in table else code_N
    if np.array_equal(np.sort(codes), np.sort(code_N)) and (codes != code_N).any():
        row = int(np.flatnonzero(codes != code_N)[0])
        raise HvfError(
            f"the rows of {where} are not in the order of the epochs: row {row + 1} has the code {codes[row]:g}, epoch "
            f"{row} the code {code_N[row]}; sort the rows as the epochs, or leave out the column code"
        )
    return names


def _first_in_other_order(time_N: np.ndarray, sample_N: np.ndarray, sfreq: float) -> int | None:
    """The first row after which a table's times go on otherwise than the samples of events; None if they agree.

    At whatever rates; one interval by itself may differ, as where a clock begins anew with the next run, or where a
    pause was not recorded. Events further apart than the clock says are those of other rows, unless epochs were joined
    there, which MNE puts 10 s apart. Samples that are a count, as of epochs made of an array, tell the order alone.
    """
    if not np.isfinite(time_N).all() or len(time_N) < 2:
        return None
    b, a = np.diff(time_N), np.diff(sample_N).astype(float)
    rising = (a > 0) & (b > 0)
    if (a == 1).all() or not rising.any():
        differs = np.sign(a) != np.sign(b)
    else:
        scale = np.median(a[rising] / b[rising])
        differs = np.abs(a - scale * b) > SAME_INTERVAL * np.median(np.abs(a))
        other = differs & (b > 0) & (a > scale * b) & (a - scale * b < JOINED_S * sfreq)
        if other.any():
            return int(np.flatnonzero(other)[0])
    alone = len(differs) > 2 and differs.mean() < MOST_RUNS and not (differs[1:] & differs[:-1]).any()
    return int(np.flatnonzero(differs)[0]) if differs.any() and b.any() and not alone else None
