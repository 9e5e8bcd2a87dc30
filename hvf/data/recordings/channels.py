"""Which channels record the brain: the one rule, whatever the channels are typed, for every reader.

A channel is left out if its name says that it records something else (a trigger, a counter, an eye), or if it is no
electrode by its name and its values are steps or a count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mne
import numpy as np
from mne.io.constants import FIFF

from hvf.data.montages import EEG_CHANNELS, montage_1005
from hvf.registry import HvfError, listed

CTF_SENSOR = re.compile(r"M[LRZ][CFOPT]\d\d(-\d+)?")
NEUROMAG_SENSOR = re.compile(r"MEG ?\d{3}([123])")
BRAIN_TYPES = ("eeg", "mag", "grad")
NUMBERED = re.compile(r"(?i)(meg ?|e)\d+|[a-h]\d{1,2}")  # electrodes of EGI's nets and BioSemi's caps, MEG sensors
# What a word of a channel's name says that it records. A word is of letters; side, axis or number may follow.
AXIS, SIDE = r"[xyz]?", r"(l|r|u|d|a|b|h|v|left|right|up|down|upper|lower|above|below)?"
OTHERS = {
    "eye": rf"[hvlr]?eog{SIDE}|[hv]eo[lrud]?|pupil\w*|gaze\w*|eye\w*",
    "heart": rf"(ecg|ekg){SIDE}",
    "muscle": rf"emg{SIDE}|chin",
    "trigger": r"trig\w*|trg|status|sti|stim(ulus|uli|code|channel)?|d(in|io)|digital\w*|ttl|markers?\w*|events?"
    r"|annotations?|sync\w*|lpt|parallel|uppt|upadc|responses?|buttons?\w*|key(press|board)|keys",
    "counter": r"count(er)?s?|sample(s|nr|no|number|count|index)?|packets?\w*|package|sequence"
    r"|interpolated|ramp|sawtooth|index",
    "time": r"time\w*|clock|sclk|timer|lsl|unixtime",
    "light": r"photo\w*|pd|diode|light\w*|lux|phd",
    "skin": r"gsr|eda|scr|skin\w*|galvanic|electrodermal",
    "movement": rf"acc{AXIS}|accel(eration|erometer|erometry)?s?{AXIS}|gyro(scope)?s?{AXIS}|mot|motion\w*"
    r"|quat(ernion)?s?|[xyz]dir|joystick|mouse|wheel|force|grip",
    "body": r"resp|respiration|breath(ing)?|thora\w*|abdo\w*|airflow|nasal|snore|belt|temp|temperature|ppg"
    r"|pleth\w*|plet|pulse\w*|spo|sao|heart\w*|hr|bpm|erg",
    "device": r"cq|battery\w*|impedances?|validation|quality",
    "auxiliary input": r"aux|auxiliary|misc|analog\w*|u?adc|audio|mic|microphone|sound\w*|bip",
}
# Of the whole name.
WHOLE = {
    "eye": r"[lis]o[12]|[lr]oc",
    "movement": r"[xyz][ _-]?dir",
    "body": r"s[ap]o2",
    "auxiliary input": r"exg[1-8]",
}  # names that are one word
PATTERNS = {what: re.compile(pattern) for what, pattern in OTHERS.items()}
WHOLE_PATTERNS = {what: re.compile(pattern) for what, pattern in WHOLE.items()}
TYPES = {"eye": "eog", "heart": "ecg", "muscle": "emg", "skin": "gsr"}  # MNE's; of all others misc
SPANS, SPAN_S = 5, 10.0  # how many parts of a recording are looked at for steps, and how long, s
STEPS = 0.05  # a channel whose value changes at fewer samples holds steps


def other_than_brain(name: str) -> str | None:
    """What a channel of this name records, if not the brain: "trigger", "eye", ...; None for all others.

    >>> [other_than_brain(name) for name in ("TRIGGER", "HEOGleft", "CQ_AF3", "AccX", "Oz", "PD", "PO3", "A1", "T7")]
    ['trigger', 'eye', 'device', 'movement', None, 'light', None, None, None]
    """
    if is_electrode(name):
        return None
    bare = re.sub(r"^(eeg|meg)[ _.-]+(?=\D)", "", name.strip().casefold())
    for what, pattern in WHOLE_PATTERNS.items():
        if pattern.fullmatch(bare):
            return what
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", name)  # TimeStamp, AccX
    words = re.findall(r"[^\W\d_]+", spaced.casefold()) + re.findall(r"[^\W\d_]+", name.casefold())
    return next((what for word in words for what, pattern in PATTERNS.items() if pattern.fullmatch(word)), None)


def is_electrode(name: str) -> bool:
    """Whether it is the name of an electrode of the 10-05 system or of a MEG sensor; `EEG Cz-REF` is that of Cz.

    >>> is_electrode("EEG Fp1-LE"), is_electrode("MLC11-1609"), is_electrode("Status")
    (True, True, False)
    """
    bare = re.sub(r"(?i)^eeg[ _.-]+|[-_ ](ref|le|re|ar|avg|av|cle|[am][12])$|\.+$|-\d+$", "", name.strip())
    return bare.casefold() in _electrodes() or bool(CTF_SENSOR.fullmatch(name) or NEUROMAG_SENSOR.fullmatch(name))


def brain_channels(info: mne.Info, kind: str | None = None, known: Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """Names of the EEG or MEG channels that record the brain, bad ones too, and notes on those that do not.

    Parameters
    ----------
    info : mne.Info
        Of a recording or of epochs.
    kind : str, optional
        "eeg" or "meg". Default: both.
    known : iterable of str
        Channels that are known to hold something else (`steps`).
    """
    wanted = {"eeg": ("eeg",), "meg": ("mag", "grad"), None: BRAIN_TYPES}[kind]
    typed = [name for name, t in zip(info["ch_names"], info.get_channel_types(), strict=True) if t in wanted]
    others = {name: what for name in typed if (what := other_than_brain(name))}
    stepped = [name for name in known if name in typed and name not in others]
    notes = [note_of(others)] if others else []
    if stepped:
        notes.append(f"{listed(stepped)} hold steps or a count, as triggers and counters do, and are left out")
    return [name for name in typed if name not in others and name not in stepped], notes


def note_of(others: dict[str, str]) -> str:
    """The line that names the channels left out: {name: what it records}."""
    kinds = ", ".join(dict.fromkeys(others.values()))
    are = (
        "1 channel records no brain by its name and is"
        if len(others) == 1
        else (f"{len(others)} channels record no brain by their names and are")
    )
    return f"{are} left out: {listed(others, 12)} ({kinds})"


def steps(raw: Any, names: Sequence[str]) -> list[str]:
    """Those of the channels whose names are of no electrode and whose values are steps or a count.

    A few parts of the recording are read. A channel that never changes there is not among them.
    """
    names = [name for name in names if not (is_electrode(name) or NUMBERED.fullmatch(name))]
    if not names:
        return []
    span = min(raw.n_times, max(2, round(SPAN_S * raw.info["sfreq"])))
    picks = [raw.ch_names.index(name) for name in names]
    starts = sorted({round(i * (raw.n_times - span) / (SPANS - 1)) for i in range(SPANS)})
    difference_CN = np.concatenate(
        [np.diff(values_of(raw, picks, start, start + span), axis=1) for start in starts], axis=1
    )
    return [name for name, d_N in zip(names, difference_CN, strict=True) if _is_stepped(d_N)]


def values_of(raw: Any, picks: Sequence[int], start: int = 0, stop: int | None = None) -> np.ndarray:
    """Values (C, N) of channels from one sample to another; HvfError, naming the file, if they cannot be read."""
    try:
        return raw[list(picks), start:stop][0]
    except Exception as error:  # MNE's readers raise many kinds where a file is cut off or damaged
        where = listed(sorted({Path(name).name for name in raw.filenames if name})) or "in memory"
        why = " ".join(str(error).split()) or type(error).__name__
        raise HvfError(f"cannot read the recording {where}: {why}; is it whole?") from error


def mend_channel_types(raw: Any) -> list[str]:
    """Set the type of channels by their names, in place; return notes on what was changed.

    MEG sensors named as by CTF and Neuromag (the `channels.tsv` of ds004212, THINGS-MEG, types its 272 sensors OTHER,
    which makes them "misc"), and what is typed EEG or MEG but records something else.
    """
    notes, types = [], dict(zip(raw.ch_names, raw.get_channel_types(), strict=True))
    mended: dict[str, list[str]] = {}
    for channel in raw.info["chs"]:
        name = channel["ch_name"]
        neuromag = NEUROMAG_SENSOR.fullmatch(name)
        if types[name] in ("mag", "grad", "ref_meg") or not (neuromag or CTF_SENSOR.fullmatch(name)):
            continue
        planar = neuromag is not None and neuromag[1] != "1"
        coil = FIFF.FIFFV_COIL_VV_PLANAR_T1 if planar else FIFF.FIFFV_COIL_VV_MAG_T3
        channel["kind"] = FIFF.FIFFV_MEG_CH
        channel["coil_type"] = coil if neuromag else FIFF.FIFFV_COIL_CTF_GRAD
        channel["unit"] = FIFF.FIFF_UNIT_T_M if planar else FIFF.FIFF_UNIT_T
        mended.setdefault(types[name], []).append(name)
    for kind, names in mended.items():
        label = "misc (OTHER in channels.tsv)" if kind == "misc" else kind
        notes.append(f"{len(names)} channels typed {label} are MEG sensors by their names and taken as such")
    typed = [name for name, kind in types.items() if kind in BRAIN_TYPES]
    others = {name: what for name in typed if (what := other_than_brain(name))}
    if others:
        kinds = {name: TYPES.get(what, "misc") for name, what in others.items()}
        raw.set_channel_types(kinds, on_unit_change="ignore", verbose="error")
        notes.append(note_of(others))
    return notes


@cache
def _electrodes() -> frozenset[str]:
    more = ("T3", "T4", "T5", "T6", "A1", "A2", "M1", "M2", "CB1", "CB2", "Nz", "Iz", "FCCz", "CPPz")
    return frozenset(name.casefold() for name in (*montage_1005().ch_names, *EEG_CHANNELS, *more))


def _is_stepped(difference_N: np.ndarray) -> bool:
    """Whether the differences of consecutive values are those of steps, or of a count (all alike but for resets)."""
    moved = difference_N[difference_N != 0]
    if not len(moved) or not np.isfinite(moved).all():
        return False
    if len(moved) < STEPS * len(difference_N):
        return True
    step = np.median(moved)
    return bool(np.mean(np.isclose(difference_N, step, rtol=1e-6, atol=0.0)) > 0.9)
