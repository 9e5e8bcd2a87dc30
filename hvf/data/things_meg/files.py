"""The files of THINGS-MEG: the trials of a subject, listed before any signal is read, and a reader of their signals.

Letters: N trials, C channels, T samples, E events of one recording.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd

from hvf.config import HvfError
from hvf.data.recordings.raw import one_line
from hvf.data.recordings.tables import read_typed
from hvf.data.things_meg import ctf
from hvf.data.things_meg.table import CATCH, check_same, trial_table
from hvf.files.guard import guarded
from hvf.registry import listed
from hvf.runs import track

EPOCHS = re.compile(r"preprocessed_P(\d+)-epo(?:-\d+)?\.fif")
SUBJECT = re.compile(r"sub-BIGMEG(\d+)")
BLOCK = 64  # epochs in memory at once


@dataclass(frozen=True)
class SubjectFiles:
    """One subject's files: a table of all trials, and a reader of some of them."""

    route: str  # "published epochs" or "raw recordings"
    table: pd.DataFrame  # (N rows): see `trial_table`
    ch_names: tuple[str, ...]
    files: list[Path]
    notes: list[str]  # what was left out or changed
    read: Callable[[np.ndarray], Iterator[tuple[np.ndarray, np.ndarray]]]  # mask (N,) -> (rows, float (n, C, 281))


def find_subjects(root: Path) -> list[int]:
    """Numbers of the subjects that have epochs or recordings. Raises HvfError if there are none."""
    if not root.is_dir():
        raise HvfError(f"there is no folder {root}")
    names = [(EPOCHS, path.name) for path in _epochs_folder(root).glob("*.fif")]
    names += [(SUBJECT, path.parent.parent.name) for path in root.glob("sub-*/ses-*/meg")]
    numbers = {int(match[1]) for pattern, name in names if (match := pattern.fullmatch(name))}
    if not numbers:
        raise HvfError(
            f"{root} is not THINGS-MEG: it has neither derivatives/preprocessed/preprocessed_P1-epo.fif nor "
            "sub-BIGMEG1/ses-01/meg; name the data set's root folder"
        )
    return sorted(numbers)


# --- the published epochs ---------------------------------------------------------------------------------------------


def open_subject(root: Path, subject: int) -> SubjectFiles:
    """Open a subject's published epochs, or else its raw recordings."""
    path = _epochs_folder(root) / f"preprocessed_P{subject}-epo.fif"
    if path.is_symlink() and not path.exists():
        raise HvfError(f"cannot read {path}: its content is not here (git annex or datalad get)")
    parts = sorted(path.parent.glob(f"preprocessed_P{subject}-epo-*.fif"))
    return _open_epochs(path, parts, root, subject) if path.exists() or parts else _open_raw(root, subject)


def _open_epochs(path: Path, parts: list[Path], root: Path, subject: int) -> SubjectFiles:
    if not path.exists():
        raise HvfError(f"{path} is missing, though there is {parts[0].name}: fetch all parts")
    for part in (path, *parts):
        ctf.check_whole(part)
    try:
        epochs = guarded(path, "epochs", lambda: mne.read_epochs(path, preload=False, verbose="error"))
    except HvfError:  # of who looked at the file first
        raise
    except FileNotFoundError as error:
        raise HvfError(f"the part {error.filename} of {path.name} is missing: fetch all parts") from error
    except Exception as error:  # MNE's reader raises many kinds on a damaged file
        raise HvfError(f"cannot read {path} as epochs: {one_line(error)}") from error
    if (epochs.info["sfreq"], epochs.times.size) != (ctf.SFREQ, ctf.N_TIMES) or abs(epochs.tmin - ctf.TMIN) > 1e-6:
        raise HvfError(
            f"{path} has {epochs.times.size} samples from {epochs.tmin:g} s at {epochs.info['sfreq']:g} Hz, not the "
            f"published {ctf.N_TIMES} from {ctf.TMIN:g} s at {ctf.SFREQ:g} Hz"
        )
    csv = _csv(root, subject)
    metadata, where = epochs.metadata, f"the metadata of {path}"
    if csv.is_file():
        attributes = read_typed(csv)
        if len(attributes) != len(epochs):
            raise HvfError(
                f"{csv} has {len(attributes)} rows but {path.name} has {len(epochs)} epochs, its parts included"
            )
        if metadata is not None:
            check_same(metadata, attributes, where, csv)
        else:
            metadata, where = attributes, str(csv)
    if metadata is None:
        raise HvfError(f"{path} has no metadata, and {csv} is missing: fetch it, it says which images were seen")
    table = trial_table(metadata, where, root)
    _check_codes(epochs.events[:, 2], table, path, where)
    names, notes = ctf.sensors(epochs)
    if not names:
        raise HvfError(f"{path} has no MEG sensors; it has {listed(epochs.ch_names)}")

    def read(kept: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        picks = np.asarray([epochs.ch_names.index(name) for name in names])
        wanted = np.flatnonzero(kept)
        for start in range(0, len(wanted), BLOCK):
            rows = wanted[start : start + BLOCK]
            try:
                x_NCT: Any = epochs.get_data(picks=picks, item=rows, verbose="error")
            except Exception as error:
                raise HvfError(f"cannot read {path} and its parts to the end: {one_line(error)}") from error
            yield rows, x_NCT

    files = [path, *parts, *([csv] if csv.is_file() else [])]
    return SubjectFiles("published epochs", table, tuple(names), files, notes, read)


# --- the raw recordings -----------------------------------------------------------------------------------------------


def _open_raw(root: Path, subject: int) -> SubjectFiles:
    """Check header, events and channels of every recording; `read` reads the signals."""
    paths = _raw_paths(root, subject)
    csv, attributes = _csv(root, subject), None
    if csv.is_file():
        attributes = read_typed(csv)
    elif not (root / "Images").is_dir():
        raise HvfError(f"{csv} is missing: fetch it, it says which images were seen")
    ch_names: list[str] = []
    tables, samples, notes = [], [], Counter()
    for path in track(paths, "looking at recordings"):
        stem = path.name.removesuffix(path.suffix).removesuffix("_meg")
        raw = ctf.open_meg(path)
        names, notes_of = ctf.sensors(raw, path.with_name(f"{stem}_channels.tsv"))
        names = [name for name in names if name not in ctf.BROKEN]
        notes.update(notes_of)
        if raw.duration < ctf.FILTER:
            notes.update([f"a recording is shorter than the filter ({ctf.FILTER:g} s): its slow parts are distorted"])
        ch_names = ch_names or names
        if names != ch_names or not names:
            odd = sorted(set(names) ^ set(ch_names)) or [b for a, b in zip(ch_names, names, strict=True) if a != b]
            raise HvfError(
                f"{path} has {len(names)} sensors, not the {len(ch_names)} of {paths[0].name} in their order; they "
                f"differ in {listed(odd)}"
            )
        events = ctf.read_events(path.with_name(f"{stem}_events.tsv"))
        samples.append(events["sample"].to_numpy())
        tables.append(
            events.rename(columns={"value": "things_image_nr"}).assign(session_nr=_session(path), file=path.name)
        )
    metadata, where = pd.concat(tables, ignore_index=True), f"the events of {root}/sub-BIGMEG{subject}"
    if attributes is not None:
        metadata, missing = _of_sessions(attributes, metadata, csv)
        where = str(csv)
        notes.update(missing)
    table = trial_table(metadata, where, root)
    starts = np.cumsum([0, *(len(s) for s in samples)])

    def read(kept: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for path, samples_E, start in zip(paths, samples, starts, strict=False):
            for places, x_NCT in ctf.official_epochs(ctf.open_meg(path), ch_names, samples_E, path):
                rows = np.arange(start + places.start, start + places.stop)
                if kept[rows].any():
                    yield rows[kept[rows]], x_NCT[kept[rows]]

    files = [csv] if csv.is_file() else []
    for path in paths:
        inner = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        files += [*inner, path.with_name(path.name.removesuffix(path.suffix).removesuffix("_meg") + "_events.tsv")]
    counted = [note if times == 1 else f"{note} ({times} recordings)" for note, times in notes.items()]
    return SubjectFiles("raw recordings", table, tuple(ch_names), files, counted, read)


def _raw_paths(root: Path, subject: int) -> list[Path]:
    """The subject's recordings of the main task, by session and run."""
    folders = [p for p in root.glob("sub-*/ses-*/meg") if _number(SUBJECT, p.parent.parent.name) == subject]
    paths = [p for folder in folders for p in (*folder.glob("*.ds"), *folder.glob("*_meg.fif"))]
    paths = [p for p in paths if "_task-" not in p.name or "_task-main" in p.name]  # the others are of rest and noise
    if not paths:
        raise HvfError(f"{root}/sub-BIGMEG{subject} has no recording *_meg.ds or *_meg.fif of the task main")
    return sorted(paths, key=lambda p: (_session(p), p.name))


def _of_sessions(attributes: pd.DataFrame, events: pd.DataFrame, csv: Path) -> tuple[pd.DataFrame, list[str]]:
    """The rows of the table of all trials that belong to `events`, in their order; and a note of missing sessions."""
    if "session_nr" not in attributes:
        raise HvfError(f"{csv} has no column session_nr")
    parts = []
    for session, mine in events.groupby("session_nr", sort=True):
        rows = attributes.loc[attributes["session_nr"] == session, :]
        if len(rows) != len(mine):
            raise HvfError(
                f"the events of session {session} have {len(mine)} rows in {mine['file'].nunique()} recordings but "
                f"{csv.name} has {len(rows)}: a recording or a part of its events is missing"
            )
        check_same(mine, rows, f"the events of session {session}", csv)
        parts.append(rows)
    absent = sorted(set(attributes["session_nr"]) - set(events["session_nr"]))
    note = [f"there is no recording of session {listed(map(str, absent), 12)}"] if absent else []
    return pd.concat(parts, ignore_index=True), note


def _check_codes(codes: np.ndarray, table: pd.DataFrame, path: Path, where: str) -> None:
    wanted = np.where(table["trial_type"] == "catch", CATCH, table["number"])
    differ = np.flatnonzero(codes != wanted)
    if len(differ):
        i = differ[0]
        raise HvfError(
            f"{len(differ)} events of {path} are of other images than {where} says, first the epoch {i + 1}: "
            f"{codes[i]}, not {wanted[i]}; one of them is misordered"
        )


def _csv(root: Path, subject: int) -> Path:
    return root / "sourcedata" / f"sample_attributes_P{subject}.csv"


def _epochs_folder(root: Path) -> Path:
    return root / "derivatives" / "preprocessed"


def _session(path: Path) -> int:
    return _number(re.compile(r"ses-(\d+)"), path.parent.parent.name) or 0


def _number(pattern: re.Pattern[str], name: str) -> int | None:
    match = pattern.fullmatch(name)
    return int(match[1]) if match else None
