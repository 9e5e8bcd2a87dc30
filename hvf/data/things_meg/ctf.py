"""Continuous MEG of THINGS-MEG, CTF `.ds` or FIF, and its epochs by the data set's own pipeline.

The pipeline is that of Hebart et al. 2023 (ViCCo-Group/THINGS-data, `MEG/step1_preprocessing.py`).

Letters: E epochs, C channels, N samples at the recording's rate.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
from mne.baseline import rescale

from hvf.config import HvfError
from hvf.data.recordings.channels import mend_channel_types
from hvf.data.recordings.raw import one_line, open_recording
from hvf.data.recordings.tables import read_table, read_typed
from hvf.data.things_meg.table import CATCH
from hvf.registry import listed

SFREQ = 200.0  # Hz, of the epochs
TMIN, N_TIMES = -0.1, 281  # of the epochs: -0.1 to 1.3 s, both included
BAND = (0.1, 40.0)  # Hz
FILTER = 33.0  # s, length of MNE's FIR filter for that band
STIM, TRIGGER = "UPPT001", 64  # the stimulus computer's channel, and its value when an image comes
LAG = 0.5  # s: a photodiode's onset farther than this from its trigger belongs to another trial
BROKEN = frozenset({"MRO11-1609"})  # dropped by the official pipeline
EVENT_COLUMNS = ("trial_type", "things_category_nr", "value", "sample")
BLOCK = 32  # epochs in memory at once


def check_whole(path: Path) -> None:
    """Raise HvfError if a FIF file lacks its end: MNE may read a truncated one and miss what came last."""
    try:
        with open(path, "rb") as file:
            head = file.read(56)
            size = file.seek(0, 2)
            file.seek(-min(16, size), 2)
            tail = file.read()
            whole = len(head) == 56 and head[:12] == struct.pack(">3i", 100, 31, 20)
            directory = struct.unpack(">5i", head[36:])[4] if whole else -1
            if whole and directory > 0:  # most writers but MNE put a directory of the file at its end
                file.seek(directory)
                tag = file.read(16)
                whole = len(tag) == 16 and directory + 16 + struct.unpack(">4i", tag)[2] <= size
            elif whole:
                whole = tail == struct.pack(">4i", 108, 0, 0, -1)
    except OSError as error:
        raise HvfError(f"cannot read {path}: {error.strerror or error}") from error
    if not whole:
        raise HvfError(f"{path} is truncated or not a FIF file ({size} bytes): fetch it again")


def read_events(path: Path) -> pd.DataFrame:
    """Read an events.tsv of ds004212, one row per trial; `value` is the event's code, 999999 where the file has none.

    Raises HvfError if it is missing, lacks a column, or its samples are not in the order of time.
    """
    if not path.exists():
        raise HvfError(f"{path} is missing: fetch the events that belong to the recording")
    events = read_typed(path)
    missing = [name for name in EVENT_COLUMNS if name not in events]
    if missing:
        raise HvfError(f"{path} has no column {listed(missing)}; it has {listed(map(str, events.columns))}")
    try:
        events["value"] = events["value"].astype(float).fillna(CATCH).astype(int)
        events["things_category_nr"] = events["things_category_nr"].astype(float)
        events["sample"] = events["sample"].astype(float).astype(int)
    except (TypeError, ValueError) as error:
        raise HvfError(f"{path} has something else than numbers where numbers belong: {error}") from error
    late = np.flatnonzero(np.diff(events["sample"]) <= 0)
    if len(late):
        raise HvfError(f"{path}: row {late[0] + 2} comes before row {late[0] + 1} in time; the events are misordered")
    return events


def open_meg(path: Path) -> mne.io.BaseRaw:
    """Open a `.ds` folder or a FIF file; no data are read. Raises HvfError if it is damaged."""
    if path.suffix != ".ds" and path.exists():
        check_whole(path)
    return open_recording(path)


def sensors(raw: Any, table: Path | None = None) -> tuple[list[str], list[str]]:
    """MEG sensors of a recording (or of epochs), in its order, and notes on those recognised by their names.

    Sensors of another type get their type in place. `table` is the recording's channels.tsv: that of ds004212 types all
    272 sensors OTHER, so that readers that trust it find none.
    """
    notes = mend_channel_types(raw)
    names = [name for name, kind in zip(raw.ch_names, raw.get_channel_types(), strict=True) if kind == "mag"]
    types = {} if table is None or not table.is_file() else channel_types(table)
    other = [name for name in names if not types.get(name, "MEG").upper().startswith("MEG")]
    if other:
        notes.append(f"{len(other)} channels typed {types[other[0]]} in channels.tsv are MEG sensors and taken as such")
    return names, notes


def channel_types(path: Path) -> dict[str, str]:
    """{name: type} of a BIDS channels.tsv; HvfError if it cannot be read."""
    table = read_table(path)
    missing = [name for name in ("name", "type") if name not in table]
    if missing:
        raise HvfError(f"cannot read names and types of channels from {path}: it has no column {listed(missing)}")
    return dict(zip(table["name"], table["type"], strict=True))


def official_epochs(
    raw: mne.io.BaseRaw, ch_names: Sequence[str], samples_E: np.ndarray, where: Path
) -> Iterator[tuple[slice, np.ndarray]]:
    """Filter a recording, cut epochs at the photodiode's samples and z-score each.

    As published: 0.1-40 Hz with MNE's FIR defaults; epochs from -0.1 to 1.3 s; z-score by the baseline at the
    recording's own rate; every 6th sample of 1200 Hz. The recording's channels are in memory meanwhile.

    Parameters
    ----------
    raw : mne.io.BaseRaw
    ch_names : sequence of str
        C channels, in the order wanted.
    samples_E : ndarray of int
        Onsets, from the recording's start.
    where : Path
        The recording, for messages.

    Yields
    ------
    places : slice
        Of the epochs, in `samples_E`.
    x_ECT : ndarray
        float64 (e, C, 281).

    Raises
    ------
    HvfError
        The recording's triggers do not fit the samples, or an epoch is not whole.
    """
    check_triggers(raw, samples_E, where)
    step = raw.info["sfreq"] / SFREQ
    if step != round(step):
        raise HvfError(f"{where} was sampled at {raw.info['sfreq']:g} Hz, which is no multiple of {SFREQ:g} Hz")
    try:
        raw = raw.copy().pick(list(ch_names), verbose="error").load_data(verbose="error")
    except Exception as error:  # a truncated file
        raise HvfError(f"cannot read {where} to its end: {one_line(error)}") from error
    raw.filter(*BAND, picks="all", verbose="error")
    events = np.stack([samples_E + raw.first_samp, 0 * samples_E, np.ones_like(samples_E)], axis=1)
    tmax = TMIN + (N_TIMES - 1) / SFREQ
    epochs = mne.Epochs(
        raw, events, tmin=TMIN, tmax=tmax, picks="all", baseline=None, preload=False, verbose="error"
    ).drop_bad(verbose="error")
    for i, reasons in enumerate(epochs.drop_log):
        if reasons:
            raise HvfError(f"{where}: the epoch of event {i + 1} cannot be cut whole ({listed(reasons)})")
    for start in range(0, len(epochs), BLOCK):
        places = slice(start, min(start + BLOCK, len(epochs)))
        x_ECN: Any = epochs.get_data(item=places, verbose="error")
        yield places, zscore(x_ECN, epochs.times)[:, :, :: round(step)]


def zscore(x_ECN: np.ndarray, times_N: np.ndarray) -> np.ndarray:
    """Subtract each epoch's and channel's mean up to 0 s (included) and divide by its standard deviation (ddof 0)."""
    with np.errstate(divide="ignore", invalid="ignore"):  # a flat channel: refused where the trials are written
        return rescale(x_ECN, times_N, (None, 0), mode="zscore", copy=True, verbose="error")


def check_triggers(raw: mne.io.BaseRaw, samples_E: np.ndarray, where: Path) -> None:
    """Raise HvfError unless there is one trigger per event, shortly before or after its photodiode's sample."""
    if STIM not in raw.ch_names:
        raise HvfError(f"{where} has no channel {STIM}, which carries the triggers; it has {listed(raw.ch_names)}")
    try:
        events = mne.find_events(raw, stim_channel=STIM, verbose="error")
    except Exception as error:  # a truncated file, or triggers of a single sample
        raise HvfError(f"cannot read the triggers of {where}: {one_line(error)}") from error
    triggers = events[events[:, 2] == TRIGGER, 0] - raw.first_samp
    if len(triggers) != len(samples_E):
        raise HvfError(
            f"{where} has {len(triggers)} triggers of value {TRIGGER} but its events.tsv has {len(samples_E)} rows: "
            "they do not belong together, or one is incomplete"
        )
    far = np.flatnonzero(np.abs(samples_E - triggers) > LAG * raw.info["sfreq"])
    if len(far):
        i = far[0]
        raise HvfError(
            f"{where}: event {i + 1} of its events.tsv is at sample {samples_E[i]} but its trigger at {triggers[i]}: "
            "the events are of another recording"
        )
