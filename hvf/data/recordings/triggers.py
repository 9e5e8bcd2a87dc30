"""Events that a recording holds itself: codes of its trigger channel, and annotations.

Letters: N samples, E events, R runs of one value on the channel.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import mne
import numpy as np

from hvf.config import HvfError
from hvf.data.recordings.channels import other_than_brain, values_of
from hvf.registry import listed

COMPOSITE = ("STI101", "STI 101", "STI 014", "STI014")  # hold the codes of all others
PRESSES = re.compile(r"(?i)resp|button|key|press|UPPT002")
APART_S = 0.001  # bits of one code may come that far apart, or two samples
BOUNCE_S, NEAR_S = 0.01, 0.05  # a code that falls for less and comes again so near is one
AT_ONCE_S, NEARLY_ALL = 0.005, 0.9  # an event is at a trigger; of the events
NUMBER = re.compile(r"\s*([+-]?\d+)(?:\.0*)?\s*")  # EEGLAB's may be 4.0
ENDS_IN_NUMBER = re.compile(r"(?<![\d.])(\d+)\s*$")
LOW_BITS = 2**16 - 1  # of the code; above them BioSemi's Status and others hold their own state


def trigger_codes(
    raw: Any, wanted: Collection[str], where: str | Path, channel: str | None = None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(sample from the start (E,), code as text (E,), notes) of the trigger channel, else of annotations.

    Bits of one code that come a sample apart are one event; of several trigger channels the one is taken that holds
    wanted codes.

    Parameters
    ----------
    raw : mne.io.BaseRaw
    wanted : collection of str
        Codes that stand for images.
    where : path-like
        The recording, for messages.
    channel : str, optional
        The trigger channel.

    Raises
    ------
    HvfError
        Several channels hold wanted codes, or what one holds can be read in two ways.
    """
    if channel is not None:
        if channel not in raw.ch_names:
            raise HvfError(f"{where} has no channel {channel!r}; it has {listed(raw.ch_names, 12)}")
        return _of_channel(raw, channel, wanted, where)
    types = dict(zip(raw.ch_names, raw.get_channel_types(), strict=True))
    stim = [name for name, kind in types.items() if kind == "stim"]
    stim = next(([name] for name in COMPOSITE if name in stim), stim)
    found = _of_channels(raw, stim, wanted, where)
    if found is not None and np.isin(found[1], list(wanted)).any():
        return found
    samples, codes = _numbered_annotations(raw, where)
    if np.isin(codes, list(wanted)).any():
        return samples, codes, []
    named = [name for name, kind in types.items() if kind == "misc" and other_than_brain(name) == "trigger"]
    other = _of_channels(raw, named, wanted, where)
    return other or found or (samples, codes, [])


def annotated(raw: Any) -> tuple[np.ndarray, np.ndarray]:
    """(sample from the start, text) of each annotation."""
    if not len(raw.annotations):
        return np.zeros(0, int), np.zeros(0, str)
    ids: Any = {text: i for i, text in enumerate(sorted(set(raw.annotations.description)), start=1)}
    options: Any = {"event_id": ids, "regexp": None, "verbose": "error"}
    events, _ = mne.events_from_annotations(raw, **options)
    texts = {i: text for text, i in ids.items()}
    return events[:, 0] - raw.first_samp, np.asarray([texts[i] for i in events[:, 2].tolist()], dtype=str)


def check_origin(raw: Any, sample_N: np.ndarray, where: str | Path) -> None:
    """Refuse events counted from where the acquisition began, as MNE's are, and not from the recording's start.

    Both may lie inside a recording whose first sample is not 0; its own triggers and annotations tell which was meant.
    Raises HvfError where nearly all events lie at these only once the first sample is taken off.
    """
    if not raw.first_samp or not len(sample_N):
        return
    types = zip(raw.ch_names, raw.get_channel_types(), strict=True)
    stim = [i for i, (name, kind) in enumerate(types) if kind == "stim" or other_than_brain(name) == "trigger"]
    onsets = [np.flatnonzero(np.diff(x_N)) + 1 for x_N in values_of(raw, stim)] if stim else [annotated(raw)[0]]
    onset_E = np.unique(np.concatenate(onsets))
    near = AT_ONCE_S * raw.info["sfreq"] + 1

    def share(sample_N: np.ndarray) -> float:
        """Of the events, how many have a trigger, or an annotation where there is no trigger channel, beside them."""
        after_N = np.minimum(np.searchsorted(onset_E, sample_N - near), len(onset_E) - 1)
        return float(np.mean(np.abs(onset_E[after_N] - sample_N) <= near))

    if len(onset_E) and share(sample_N - raw.first_samp) > NEARLY_ALL > 2 * share(sample_N):
        raise HvfError(
            f"the events of {where} lie at its triggers or annotations only once its first sample, {raw.first_samp} "
            f"({raw.first_time:g} s), is taken off: count from the recording's start (in MNE, events[:, 0] - "
            "raw.first_samp)"
        )


def _of_channels(
    raw: Any, names: Collection[str], wanted: Collection[str], where: str | Path
) -> tuple[np.ndarray, np.ndarray, list[str]] | None:
    """The events of the one channel that holds wanted codes; those of the first if none does; None without channels."""
    events = {}
    for name in names:
        try:
            events[name] = _of_channel(raw, name, wanted, where)
        except HvfError:
            if len(names) == 1:
                raise
    holding = [name for name in events if np.isin(events[name][1], list(wanted)).any()]
    stimuli = [name for name in holding if not PRESSES.search(name)] or holding
    if len(stimuli) > 1:
        raise HvfError(
            f"the trigger channels {' and '.join(stimuli)} of {where} all hold codes of the table: say which shows the "
            "images with --stim-channel"
        )
    if not holding:
        return next(iter(events.values()), None)
    samples, codes, notes = events[stimuli[0]]
    if len(names) > 1:
        notes = [*notes, f"the codes are those of {stimuli[0]}, not of {listed(n for n in names if n != stimuli[0])}"]
    return samples, codes, notes


def _of_channel(
    raw: Any, name: str, wanted: Collection[str], where: str | Path
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    x_N, notes = _whole_values(raw, name, wanted, where)
    start_R = np.append(0, np.flatnonzero(np.diff(x_N)) + 1)
    value_R, length_R = x_N[start_R], np.diff(np.append(start_R, len(x_N)))
    start_R, value_R, merged = _settled(start_R, value_R, length_R, wanted, raw.info["sfreq"], f"{name} of {where}")
    if merged:
        notes.append(f"{merged} codes on {name} whose bits come one or two samples apart are taken as one event each")
    bounced_R = np.zeros(len(value_R), bool)
    low = np.diff(start_R, append=len(x_N))[1:-1] < BOUNCE_S * raw.info["sfreq"]
    near = start_R[2:] - start_R[:-2] < NEAR_S * raw.info["sfreq"]
    bounced_R[2:] = (value_R[2:] == value_R[:-2]) & (value_R[1:-1] == 0) & low & near
    if bounced_R.any():
        notes.append(f"{int(bounced_R.sum())} codes on {name} fall and come again at once: each is one event")
    first = value_R[0]
    onset_R = (value_R != 0) & ~bounced_R
    onset_R[0] = False  # when it came is not known
    if first and str(first) in wanted:
        rests = onset_R[1:].sum() > 2 and bool((value_R[2::2] == first).all())
        if rests:
            raise HvfError(
                f"the trigger channel {name} of {where} rests at {first}, which is also the code of an image: when "
                "that was shown cannot be told; give the onsets in a table"
            )
        notes.append(f"{name} is at {first} when the recording begins; when that came is not known: left out")
    return start_R[onset_R], value_R[onset_R].astype(str), notes


def _whole_values(raw: Any, name: str, wanted: Collection[str], where: str | Path) -> tuple[np.ndarray, list[str]]:
    """The channel's codes, int (N,), without the bits that are no part of them."""
    x_N = values_of(raw, [raw.ch_names.index(name)])[0]
    if np.isfinite(x_N).all() and np.abs(x_N - np.rint(x_N)).max(initial=0) > 1e-3:
        x_N = x_N * 1e6  # typed as a channel of µV
    elif np.isfinite(x_N).all() and 0 < np.abs(x_N).max(initial=0) < 1e-3:
        x_N = x_N * 1e6
    if not np.isfinite(x_N).all() or np.abs(x_N - np.rint(x_N)).max(initial=0) > 1e-3:
        raise HvfError(f"the trigger channel {name} of {where} does not hold whole numbers: give the onsets in a table")
    code_N = np.rint(x_N).astype(np.int64)
    numbers = [int(code) for code in wanted if code.isdigit()]
    notes = []
    if ((code_N > LOW_BITS) | (code_N < 0)).any() and max(numbers, default=0) <= LOW_BITS:
        code_N = code_N & LOW_BITS
        notes.append(f"of the values on {name} the lower 16 bits are taken as the code")
    always = int(np.bitwise_and.reduce(code_N)) if len(code_N) else 0
    if always and not any(number & always for number in numbers):
        code_N = code_N & ~always
        notes.append(f"{name} is never below {always}, which is taken off its codes")
    return code_N, notes


def _settled(
    start_R: np.ndarray,
    value_R: np.ndarray,
    length_R: np.ndarray,
    wanted: Collection[str],
    sfreq: float,
    where: str,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Starts and values of runs without those that last while the bits of a code change; how many codes that mended."""
    short = max(2, round(APART_S * sfreq))
    starts, values, merged = [], [], 0
    began: int | None = None  # of the code whose bits are coming
    for r, (start, value, length) in enumerate(zip(start_R.tolist(), value_R.tolist(), length_R.tolist(), strict=True)):
        following = int(value_R[r + 1]) if r + 1 < len(value_R) else 0
        before = values[-1] if values else 0
        passing = value != 0 and length <= short and r + 1 < len(value_R)
        if passing and following and not value & ~(before | following) and not before & following & ~value:
            if str(value) in wanted and str(following) not in wanted:
                raise HvfError(
                    f"the codes {value} and {following} on {where} come {length} samples apart: bits of one code, or "
                    "two events? Give the onsets in a table"
                )
            began = start if began is None else began
            continue
        if passing and not following and before and not value & ~before and began is None:
            continue  # the bits of the last code go one after the other
        merged += began is not None
        if not values or value != values[-1]:
            starts.append(start if began is None else began)
            values.append(value)
        began = None
    return np.asarray(starts, int), np.asarray(values, np.int64), merged


def _numbered_annotations(raw: Any, where: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """(sample, number as text) of the annotations that end in a number, such as BrainVision's "Stimulus/S  4"."""
    samples, descriptions = annotated(raw)
    numbers = [NUMBER.fullmatch(text) or ENDS_IN_NUMBER.search(text) for text in descriptions.tolist()]
    codes = np.asarray([str(int(match[1])) if match else "" for match in numbers], dtype=str)
    for code in dict.fromkeys(codes[codes != ""].tolist()):
        texts = sorted(set(descriptions[codes == code].tolist()))
        if len(texts) > 1:
            raise HvfError(
                f"the code {code} of {where} may be {' or '.join(map(repr, texts))}: give a column 'description' "
                "instead of 'code'"
            )
    return samples[codes != ""], codes[codes != ""]
