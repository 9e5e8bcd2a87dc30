"""The doctor's checks of files that MNE reads: continuous recordings, epochs, and BIDS data sets of them.

Letters: N trials, C channels, T samples.
"""

from __future__ import annotations

import glob
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

import mne
import numpy as np

from hvf.config import HvfError
from hvf.data.doctor import checks
from hvf.data.doctor.checks import Finding
from hvf.data.doctor.files import is_raw
from hvf.data.doctor.reliability import binned, repeats
from hvf.data.doctor.signals import signals
from hvf.data.doctor.tables import (
    examine_channels,
    examine_events,
    examine_session,
    one_line,
    run_name,
    sidecar,
    tables,
    things_numbers,
)
from hvf.data.images.image_set import ImageSet
from hvf.data.images.matching import stem
from hvf.data.recordings.channels import brain_channels, mend_channel_types
from hvf.data.recordings.events import stimulus_channels, triggers_of
from hvf.data.recordings.raw import data_channels, open_recording
from hvf.data.recordings.tables import read_typed
from hvf.data.things_meg.ctf import check_whole
from hvf.data.things_meg.table import CATCH, TRIAL_TYPES, zero_shot
from hvf.data.trials.epochs import shown_images
from hvf.files.guard import guarded
from hvf.registry import listed

BLOCK_BYTES = 2**26
MEG_SFREQ, MEG_RAW_SFREQ = 200.0, 1200.0
MEG_SENSORS = 271
MEG_REPEATS = 12  # of a test image, one per session
CUT_OFF = re.compile(
    r"(?i)truncat|outside (the )?data range|limited|incomplete|unexpected(ly)? end|premature|expected .* found"
)


def examine_raw(
    path: Path,
    where: str,
    *,
    sfreq: Sequence[float] = (),
    triggers: int | None = None,
    events: Path | None = None,
    picks: str | Sequence[str] | None = None,
) -> Iterator[Finding]:
    """Check a continuous recording: header, channels, positions, events, signals.

    A fault of a channel that `hvf data prepare` does not decode from, as a bad one, is a warning.

    Parameters
    ----------
    path : Path
    where : str
        Its name, for messages.
    sfreq : sequence of float
        Rates (Hz) that are published or stand in its sidecar.
    triggers : int, optional
        Of a CTF recording of THINGS-MEG: how many images it must have marked.
    events : Path, optional
        Its table of events.
    picks : str or sequence of str, optional
        Of `Preprocessing`.
    """
    try:
        if path.name.endswith(".fif"):
            check_whole(path)
        with mne.utils.catch_logging():  # what matters of MNE's warnings comes as an error
            raw = open_recording(path)
    except HvfError as error:
        yield Finding("error", "file", where, str(error), "copy it again, with the files that belong to it")
        return
    for note in mend_channel_types(raw):
        yield Finding("warning", "channels", where, note, "hvf does so; set the types for other programs")
    named = [] if picks is None or isinstance(picks, str) else [name for name in picks if name in raw.ch_names]
    kinds = _kinds(raw.info, bads=True) or ({"eeg": named} if named else {})
    if not kinds:
        message = f"no channel is typed EEG or MEG; the types are {listed(sorted(set(raw.get_channel_types())))}"
        yield Finding("error", "channels", where, message, "set their types (raw.set_channel_types) and save again")
        return
    yield from checks.names([name for group in kinds.values() for name in group], where)
    yield from _places(raw.info, kinds, where)
    yield from checks.sampling_rate(float(raw.info["sfreq"]), where, published=sfreq)
    picked = [name for group in kinds.values() for name in group]
    rows = [raw.ch_names.index(name) for name in picked]
    step = max(1, BLOCK_BYTES // (8 * len(rows)))

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, raw.n_times, step):
            yield raw[rows, start : start + step][0]

    try:
        spare = set(picked) - _decoded(raw, picks, where)
        yield from signals(blocks, picked, where, spare=spare, volts=set(kinds) == {"eeg"})
    except Exception as error:
        message = f"its data cannot be read to the end: {one_line(error)}"
        yield Finding("error", "file", where, message, "copy it again, with the files that belong to it")
        return
    yield from _marks(raw, where, triggers, events)


def _decoded(raw: Any, picks: str | Sequence[str] | None, where: str) -> set[str]:
    """The good channels that `hvf data prepare` would decode from; none if it refuses the recording."""
    try:
        return set(data_channels(raw, picks, where)[0]) - set(raw.info["bads"])
    except HvfError:
        return set()


def _warned(caught: list[warnings.WarningMessage], where: str) -> Iterator[Finding]:
    for text in dict.fromkeys(
        one_line(w.message) for w in caught if issubclass(w.category, (RuntimeWarning, UserWarning))
    ):
        if CUT_OFF.search(text):
            yield Finding("error", "file", where, f"it seems cut off: {text}", "copy it again")
        else:
            yield Finding("warning", "file", where, f"MNE says: {text}", "see whether that matters to you")


def _kinds(info: mne.Info, *, bads: bool = False) -> dict[str, list[str]]:
    """Names of the EEG and of the MEG channels, by kind, if there are any; with `bads` those marked bad too."""
    groups: dict[str, list[str]] = {"eeg": [], "meg": []}
    for name, kind in zip(info.ch_names, info.get_channel_types(), strict=True):
        group = groups.get("meg" if kind in ("mag", "grad") else kind)
        if group is not None and (bads or name not in info["bads"]):
            group.append(name)
    return {kind: group for kind, group in groups.items() if group}


def _places(info: mne.Info, kinds: dict[str, list[str]], where: str) -> Iterator[Finding]:
    for kind, ch_names in kinds.items():
        chs = [info["chs"][info.ch_names.index(name)] for name in ch_names]
        known = [bool(np.isfinite(ch["loc"][:3]).all() and np.any(ch["loc"][:3])) for ch in chs]
        yield from checks.montage(ch_names, kind, where, located=all(known))


def _marks(raw: Any, where: str, triggers: int | None, events: Path | None) -> Iterator[Finding]:
    """Check the events that the recording itself holds."""
    known = triggers is not None and "UPPT001" in stimulus_channels(raw)
    n, triggers_E3 = len(raw.annotations), triggers_of(raw, ["UPPT001"] if known else None)
    if known:
        shown = int((triggers_E3[:, 2] == 64).sum())
        if shown != triggers:
            message = f"the trigger channel marks {shown} images and events.tsv lists {triggers}"
            advice = "one of them is cut off or of another run: copy both again"
            yield Finding("error", "pairing", where, message, advice)
        else:
            yield Finding("ok", "pairing", where, f"{shown} image triggers, as many as events.tsv lists")
    elif not n and not len(triggers_E3) and events is not None:
        yield Finding("ok", "events", where, f"its events are those of {events.name}")
    elif not n and not len(triggers_E3):
        message = "it holds no events: neither annotations nor triggers"
        yield Finding("warning", "events", where, message, "give a table of events with it")
    else:
        yield Finding("ok", "events", where, f"{n} annotations, {len(triggers_E3)} triggers")


# --- epochs -----------------------------------------------------------------------------------------------------------


def examine_epochs(
    path: Path, where: str, attributes: Path | None = None, images: ImageSet | None = None
) -> Iterator[Finding]:
    """Check an -epo.fif and its split parts.

    Parameters
    ----------
    path : Path
    where : str
        Its name, for messages.
    attributes : Path, optional
        THINGS-MEG's sample_attributes_P{n}.csv, one row per epoch.
    images : ImageSet, optional
        The images at hand.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_whole(path)
            epochs: Any = guarded(path, "epochs", lambda: mne.read_epochs(path, preload=False, verbose="error"))
        except Exception as error:  # MNE's readers raise many kinds on a damaged file, struct.error among them
            message = f"it cannot be read: {one_line(error)}"
            yield Finding("error", "file", where, message, "copy it again, with all its parts (-epo-1.fif ...)")
            return
    yield from _warned(caught, where)
    table = cast(Any, epochs.metadata)
    things_meg = _is_things_meg(table)
    kinds = _kinds(epochs.info)
    picked = [name for name in epochs.ch_names if any(name in group for group in kinds.values())]
    picks = [epochs.ch_names.index(name) for name in picked]
    if not picks:
        message = (
            f"no good channel is typed EEG or MEG; the types are {listed(sorted(set(epochs.get_channel_types())))}"
        )
        yield Finding("error", "channels", where, message, "set the types (epochs.set_channel_types) and save again")
        return
    yield from checks.names(picked, where)
    yield from _places(epochs.info, kinds, where)
    yield from checks.sampling_rate(float(epochs.info["sfreq"]), where, published=(MEG_SFREQ,) if things_meg else ())
    if things_meg and len(picks) != MEG_SENSORS:
        message = f"{len(picks)} of the {MEG_SENSORS} published sensors"
        yield Finding("warning", "channels", where, message, "fine if you left some out yourself")
    step = max(1, BLOCK_BYTES // (8 * len(picks) * len(epochs.times)))
    kept = np.ones(len(epochs), bool)
    trials: list[np.ndarray] = []

    taken = _taken(table) if things_meg else kept

    def blocks() -> Iterator[np.ndarray]:
        first = not trials
        for start in range(0, len(epochs), step):
            x_NCT = epochs[start : start + step].get_data(picks=picks, verbose="error")
            if first:
                trials.append(binned(x_NCT, epochs.times))
            yield x_NCT[taken[start : start + step]]

    try:
        yield from signals(blocks, picked, where, spare=set(picked) - set(brain_channels(epochs.info)[0]))
    except Exception as error:
        message = f"its data cannot be read to the end: {one_line(error)}"
        yield Finding("error", "file", where, message, "copy it again, with all its parts (-epo-1.fif ...)")
        return
    sessions = None
    if things_meg:
        yield from _metadata(table, np.asarray(epochs.events[:, 2]), where, attributes)
        ids = table["things_image_nr"].to_numpy(float, na_value=np.nan)
        kept = np.isfinite(ids)
        if images is not None and "image_path" in table:
            yield from _known(table["image_path"].astype(str).to_numpy()[kept], images.ids, where)
        sessions = table["session_nr"].to_numpy()[kept] if "session_nr" in table else None
    else:
        try:
            ids = np.asarray(shown_images(epochs, images).names)
        except HvfError:  # which the reader says
            ids = epochs.events[:, 2]
    if len(trials) and kept.sum() > 3:
        yield from repeats(np.concatenate(trials)[kept], ids[kept], where, sessions_N=sessions)


def _taken(table: Any) -> np.ndarray:
    """Whether `hvf data prepare things-meg` takes each epoch: not those of catch trials."""
    try:
        return zero_shot(table["trial_type"], table["things_category_nr"]) != ""
    except (HvfError, KeyError):  # whose cause is said beside
        return np.ones(len(table), bool)


def _is_things_meg(table: Any) -> bool:
    return table is not None and {"things_image_nr", "trial_type"} <= set(table.columns)


def _known(ids: np.ndarray, images: Sequence[str], where: str) -> Iterator[Finding]:
    known = {stem(name) for name in images}
    unknown = sorted({name for name in ids if stem(name) not in known})
    if unknown:
        message = f"{len(unknown)} images that were seen are not among the {len(known)} at hand: {listed(unknown)}"
        yield Finding("error", "pairing", where, message, "give the folder with all of them, under the names used here")
    else:
        yield Finding("ok", "pairing", where, f"all {len(set(ids))} images seen are at hand")


def _metadata(table: Any, codes_N: np.ndarray, where: str, attributes: Path | None) -> Iterator[Finding]:
    """Check THINGS-MEG's metadata against the event codes, against sample_attributes, and for contradictions."""
    numbers = table["things_image_nr"].to_numpy(float, na_value=np.nan)
    apart = np.flatnonzero(np.where(np.isnan(numbers), CATCH, numbers) != codes_N)
    if len(apart):
        i = int(apart[0])
        message = f"{len(apart)} of {len(table)} epochs have another event code than their metadata says: "
        message += f"epoch {i} has {codes_N[i]} and {numbers[i]:g}"
        yield Finding("error", "pairing", where, message, "metadata and epochs are misordered: use the published file")
    else:
        yield Finding("ok", "pairing", where, f"{len(table)} epochs, each with the event code of its metadata")
    yield from things_numbers(table, where)
    kinds = table["trial_type"].value_counts().to_dict()
    strange = sorted(set(kinds) - set(TRIAL_TYPES))
    if strange:
        message = f"trial types that THINGS-MEG does not have: {listed(map(str, strange))}"
        yield Finding("error", "events", where, message, "they are exp, test and catch")
    test, exp = (table[table["trial_type"] == kind] for kind in ("test", "exp"))
    numbers = sorted(test["things_image_nr"].dropna().unique())
    ids = test["things_image_nr"].tolist()
    whole = "session_nr" in table and table["session_nr"].nunique() >= MEG_REPEATS
    yield from checks.counts(ids, [int(i) for i in numbers], MEG_REPEATS, where, complete=whole, part="test")
    again = exp["things_image_nr"].duplicated().sum()
    if again:
        message = f"{again} of {len(exp)} exp trials show an image that was shown before"
        yield Finding(
            "warning", "events", where, message, "each was shown once: see whether sessions were joined twice"
        )
    leaking = exp["things_category_nr"].isin(test["things_category_nr"].dropna().unique()).sum()
    if leaking:
        message = f"{leaking} of {len(exp)} exp trials show a concept that is tested, as published"
        yield Finding("ok", "leak", where, message, "`hvf data prepare things-meg` drops them")
    if attributes is not None and attributes.is_file():
        yield from _attributes(table, attributes, where)


def _attributes(table: Any, path: Path, where: str) -> Iterator[Finding]:
    try:
        attributes = read_typed(path)
    except HvfError as error:
        yield Finding("error", "pairing", path.name, f"it cannot be read: {one_line(error)}", "copy it again")
        return
    if len(attributes) != len(table):
        message = f"{len(attributes)} rows for {len(table)} epochs of {where}"
        advice = "one of them is cut off or of another subject: copy both again"
        yield Finding("error", "pairing", path.name, message, advice)
        return
    for column in ("things_image_nr", "trial_type", "session_nr", "run_nr"):
        if column not in table:
            continue
        given, held = (list(map(_plain, t[column])) if column in t else [None] * len(t) for t in (attributes, table))
        apart = next((i for i, (a, b) in enumerate(zip(given, held, strict=True)) if a != b), None)
        if apart is not None:
            severity = "error" if column in ("things_image_nr", "trial_type") else "warning"
            message = f"row {apart} has {column} {given[apart]}, the metadata of {where} says {held[apart]}"
            advice = "rows are misordered, cut off or of another subject: copy both again"
            yield Finding(severity, "pairing", path.name, message, advice)
            return
    yield Finding("ok", "pairing", path.name, f"{len(attributes)} rows, as the epochs' metadata")


def _plain(value: Any) -> Any:
    """A cell in a form in which 3 equals 3.0, and two missing values are equal."""
    if value is None or value != value:
        return None
    return float(value) if isinstance(value, (int, float, np.number)) else str(value)


# --- BIDS -------------------------------------------------------------------------------------------------------------


def recordings_of(root: Path) -> set[Path]:
    """Recordings that have a table of events."""
    return {path for path in map(_recording, tables(root)) if path is not None}


def _recording(events: Path) -> Path | None:
    return next((p for p in sorted(events.parent.glob(f"{glob.escape(run_name(events))}_*")) if is_raw(p)), None)


def examine_bids(root: Path) -> Iterator[Finding]:
    """Check a BIDS data set, THINGS-MEG's raw runs included: its tables, and the recordings that are there."""
    bare, sessions = [], {}
    for events in tables(root):
        where = f"{events.relative_to(root).as_posix()}"
        run = run_name(events)
        channels = events.parent / f"{run}_channels.tsv"
        table, recording = None, _recording(events)
        findings: list[Iterable[Finding]] = []
        for item in examine_events(events, where):
            if isinstance(item, Finding):
                findings.append([item])
            else:
                table = item
        things_meg = table is not None and {"value", "things_category_nr", "trial_type"} <= set(table.columns)
        if channels.is_file():
            findings.append(examine_channels(channels, channels.relative_to(root).as_posix()))
        if recording is None:
            bare.append(where)
        else:
            triggers = len(table) if things_meg and table is not None else None
            sfreq = [MEG_RAW_SFREQ] if things_meg else [f for f in [sidecar(events).get("SamplingFrequency")] if f]
            name = recording.relative_to(root).as_posix()
            findings.append(examine_raw(recording, name, sfreq=sfreq, triggers=triggers, events=events))
        for item in chain.from_iterable(findings):
            taken = item.severity == "error" and recording is not None and not things_meg  # else its reader says it
            yield replace(item, severity="warning") if taken else item
        if things_meg:
            sessions.setdefault(events.parent.parent, []).append(table)
    if bare:
        message = f"{len(bare)} tables of events have no recording beside them: {listed(bare, 1)}"
        yield Finding("warning", "file", root.name, message, "download the recordings, or leave these out")
    for session, parts in sessions.items():
        yield examine_session(parts, session.relative_to(root).as_posix())
