"""From continuous recordings and image events to trials: filtering, epochs, baseline, resampling, whitening.

Letters: N trials, C channels, T samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mne
import numpy as np
import pandas as pd

from hvf.config import HvfError
from hvf.data.recordings.events import image_ids
from hvf.data.recordings.raw import check_scales, data_channels, load, one_line
from hvf.data.recordings.triggers import check_origin
from hvf.data.recordings.whitening import inverse_root, shrunk_covariances
from hvf.registry import listed
from hvf.runs import track

BLOCK_BYTES = 2**27  # of epochs at the recording's own rate held at once
SCALED_BY = 100  # trials of a recording that its unit is judged by
BLOCK_TRIALS = 32  # whose covariances are taken together
DISAGREE_S = 0.2  # between the columns onset and sample of one table
CLOSEST_S = 0.01  # between images; none are shown closer than one picture of a screen at 100 Hz
ONSET_UNITS = ("s", "ms", "samples")
UNITS_S = {"s": 1.0, "ms": 1e-3}


@dataclass(frozen=True)
class Preprocessing:
    """How a recording becomes trials, in this order; all through MNE but the whitening.

    Raises HvfError if the settings contradict each other.
    """

    picks: str | tuple[str, ...] | None = None  # "eeg", "meg" or names of channels; None: MEG where there is, else EEG
    l_freq: float | None = 0.1  # high-pass, Hz; left out where the recording was made with as high a one
    h_freq: float | None = 100.0  # low-pass, Hz; left out where the recording reaches no further
    tmin: float = 0.0  # start of the window after image onset, s
    tmax: float = 1.0  # end of the window, s, not included: T = round((tmax - tmin) * sfreq)
    baseline: tuple[float, float] | None = (-0.2, 0.0)  # s, both included; its mean is subtracted
    sfreq: float = 250.0  # Hz, after resampling; a slower recording keeps its own
    whiten: bool = True  # multivariate noise normalisation (MVNN), fitted on each session's training trials
    unseen_concepts: bool = True  # leave out training trials of concepts that are tested

    def __post_init__(self) -> None:
        if not self.tmin < self.tmax:
            raise HvfError(f"the window from tmin {self.tmin:g} to tmax {self.tmax:g} s is empty")
        if self.baseline is not None and not self.baseline[0] < self.baseline[1] <= self.tmax:
            raise HvfError(f"the baseline {self.baseline} must be (start, end) in s, before tmax {self.tmax:g}")
        if not self.sfreq > 0:
            raise HvfError(f"sfreq must be a rate in Hz, not {self.sfreq:g}")
        for name in ("l_freq", "h_freq"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                flag = f"--{name.replace('_', '-')}"
                raise HvfError(f"{flag} must be above 0 Hz, or 0 (None in Python) for no filter, not {value:g}")
        if self.l_freq and self.h_freq and self.l_freq >= self.h_freq:
            raise HvfError(f"--l-freq {self.l_freq:g} must be below --h-freq {self.h_freq:g} Hz")
        if isinstance(self.picks, str) and self.picks not in ("eeg", "meg"):
            raise HvfError(f"picks must be 'eeg', 'meg' or a tuple of channel names, not {self.picks!r}")
        named = () if self.picks is None or isinstance(self.picks, str) else tuple(self.picks)
        twice = [name for name in named if named.count(name) > 1]
        if twice:
            raise HvfError(f"picks names the channel {twice[0]!r} twice")

    @property
    def start(self) -> float:
        """From where a recording must reach around an onset (to `tmax`), in s."""
        return min(self.tmin, self.baseline[0]) if self.baseline else self.tmin


@dataclass(frozen=True, eq=False)
class OpenRecording:
    """A recording opened by MNE: its name for messages, the raw, and its session, from 1."""

    where: str
    raw: Any
    session: int = 1


@dataclass(frozen=True, eq=False)
class Plan:
    """Layout of a subject's trials, made before any value is read."""

    recordings: tuple[OpenRecording, ...]  # in the order of the trials
    events: pd.DataFrame  # one row per trial: recording, sample (from its start), image; concept and split where known
    settings: Preprocessing
    ch_names: tuple[str, ...]
    kind: str  # "eeg" or "meg"
    sfreq: float  # of the trials, Hz
    tmin: float  # s
    notes: tuple[str, ...]  # what was left out or assumed

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, C, T)."""
        t = round((self.settings.tmax - self.settings.tmin) * self.sfreq)
        return len(self.events), len(self.ch_names), t

    @property
    def size(self) -> str:
        """How many trials of how many images there are, and channels."""
        return f"{self.shape[0]} trials of {self.events['image'].nunique()} images, {self.shape[1]} channels"

    @property
    def units(self) -> str:
        if self.settings.whiten:
            return "standard deviations of the whitened noise"
        return "V" if self.kind == "eeg" else "T (gradiometers T/m)"

    @property
    def labels(self) -> dict[str, Any]:
        """image_ids, sessions, positions, and where known concepts and splits of the trials."""
        session = np.asarray([r.session for r in self.recordings])
        labels = {name + "s": self.events[name].to_numpy(str) for name in ("concept", "split") if name in self.events}
        session_N = session[self.events["recording"].to_numpy(int)]  # rows follow recordings, and these time
        position_N = pd.Series(session_N).groupby(session_N).cumcount().to_numpy(int)
        when = {"sessions": session_N, "positions": position_N}
        return {"image_ids": image_ids(self.events["image"].tolist())} | when | labels


def plan(
    recordings: Sequence[OpenRecording], events: pd.DataFrame, settings: Preprocessing, onset_unit: str | None = None
) -> Plan:
    """Place the image events in the recordings, and check that they fit.

    Parameters
    ----------
    recordings : sequence of OpenRecording
    events : DataFrame
        Of `hvf.data.recordings.events.image_events`.
    settings : Preprocessing
    onset_unit : str, optional
        "s", "ms" or "samples". Default: s, and ms where only that is possible (as in THINGS-EEG1).

    Raises
    ------
    HvfError
        Events without a time or beyond the recording, two at the same time, or channels that differ.
    """
    notes, placed = [], []
    for i, recording in enumerate(recordings):
        own = events[events["recording"] == i]
        if len(own):
            own, more = _placed(own, recording, settings, onset_unit)
            notes += more
            placed.append(own)
    joined: Any = pd.concat(placed, ignore_index=True)
    if not len(joined):
        raise HvfError(f"no image event of {listed(r.where for r in recordings)} is left; {'; '.join(notes)}")
    used = sorted(set(joined["recording"]))
    ch_names, more = _common_channels([recordings[i] for i in used], settings)
    first = recordings[used[0]].raw
    types = {kind for kind, name in zip(first.get_channel_types(), first.ch_names, strict=True) if name in ch_names}
    sfreq = float(min([settings.sfreq, *(recordings[i].raw.info["sfreq"] for i in used)]))
    if round((settings.tmax - settings.tmin) * sfreq) < 1:
        raise HvfError(f"the window from {settings.tmin:g} to {settings.tmax:g} s holds no sample at {sfreq:g} Hz")
    if sfreq < settings.sfreq:
        more.append(f"{sfreq:g} Hz as recorded, for no rate is raised to {settings.sfreq:g}")
    began, index = _offset(settings, first.info["sfreq"], sfreq)
    return Plan(
        recordings=tuple(recordings),
        events=joined,
        settings=settings,
        ch_names=tuple(ch_names),
        kind="meg" if types & {"mag", "grad"} else "eeg",
        sfreq=sfreq,
        tmin=round(began + index / sfreq, 6) + 0.0,
        notes=tuple(dict.fromkeys(notes + more)),
    )


def fill(work: Plan, x_NCT: np.ndarray, description: str) -> None:
    """Write all trials into `x_NCT`, float32, reading one recording at a time.

    Raises HvfError, naming recording and channels, for values that cannot be read, are not finite or never change.
    """
    recording_N, scales = work.events["recording"].to_numpy(int), {}
    for i in track(sorted(set(recording_N.tolist())), description):
        rows = np.flatnonzero(recording_N == i)  # they lie together
        samples = work.events["sample"].to_numpy(int)[rows]
        _fill_recording(work, work.recordings[i], samples, x_NCT[rows[0] : rows[-1] + 1])
        scales[work.recordings[i].where] = np.median(np.std(x_NCT[rows[:SCALED_BY]], axis=(0, 2)))
        check_scales(scales)
    if not work.settings.whiten:
        return
    session_N = work.labels["sessions"]
    for session in sorted(set(session_N.tolist())):
        _whiten(work, np.flatnonzero(session_N == session), x_NCT)


def rehearse(work: Plan) -> None:
    """Do what `fill` does without keeping it; where the trials are large, only the values are read.

    Raises HvfError as `fill`, which for large trials may still refuse recordings that are too short or noise that
    cannot be whitened.
    """
    n, c, t = work.shape
    if 4 * n * c * t <= BLOCK_BYTES:
        fill(work, np.empty((n, c, t), np.float32), "rehearsing")
        return
    for i in sorted(set(work.events["recording"].tolist())):
        load(work.recordings[i].raw, work.ch_names, work.recordings[i].where)


def _placed(
    own: Any, recording: OpenRecording, settings: Preprocessing, unit: str | None
) -> tuple[pd.DataFrame, list[str]]:
    """Events of one recording with their sample, in time order, without those whose window is cut off or bad."""
    raw, where, notes = recording.raw, recording.where, []
    sfreq, n = raw.info["sfreq"], raw.n_times
    column = "onset" if "onset" in own else "sample"
    if column not in own:
        raise HvfError(f"the events of {where} have no column 'onset' or 'sample'")
    time: Any = np.asarray(pd.to_numeric(own[column], errors="coerce"), dtype=float)
    if not np.isfinite(time).all():
        bad = int(np.flatnonzero(~np.isfinite(time))[0])
        row, value = own["row"].iloc[bad], own[column].iloc[bad]
        raise HvfError(f"row {row} of the events of {where} names an image, but its {column} is {value!r}")
    unit = "samples" if column == "sample" else unit
    if unit is None:
        in_ms = round(time.max() * 1e-3 * sfreq)
        unit = "ms" if round(time.max() * sfreq) >= n and n // 2 < in_ms < n and sfreq == 1000 else "s"
        if unit == "ms":
            notes.append(f"the onsets of {where} reach beyond it in s and are taken as ms, which fits")
    sample = np.rint(time if unit == "samples" else time * UNITS_S[unit] * sfreq).astype(int)
    outside = (sample < 0) | (sample >= n)
    if outside.any():
        bad = int(np.flatnonzero(outside)[0])
        first, length = raw.first_samp, f"{n / sfreq:.2f} s ({n} samples)"
        hint = "are the events of another recording, or is it cut off?"
        if unit == "samples" and first and (sample >= first).all() and (sample < first + n).all():
            hint = f"samples are counted from the file's start: subtract its first sample, {first}"
        elif unit == "s" and (sample >= 0).all() and time.max() < 1e3 * n / sfreq and np.median(time) > n / sfreq:
            hint += " Are the onsets in milliseconds? Then say --onset-unit ms"
        raise HvfError(
            f"{int(outside.sum())} of {len(own)} image events of {where} lie beyond it: row {own['row'].iloc[bad]} is "
            f"at {own[column].iloc[bad]}, but it lasts {length}; {hint}"
        )
    if column == "onset" and "sample" in own:
        _check_same_times(sample, own, where, sfreq)
    check_origin(raw, sample, where)
    order = np.argsort(sample, kind="stable")
    own, sample = own.iloc[order].assign(sample=sample[order]), sample[order]
    same = own["image"].to_numpy()[1:] == own["image"].to_numpy()[:-1]
    again = np.append(False, (np.diff(sample) < CLOSEST_S * sfreq) & same)
    if again.any():
        notes.append(f"{int(again.sum())} rows of the events of {where} are repeated and count once")
        own, sample = own[~again], sample[~again]
    close = np.flatnonzero(np.diff(sample) < CLOSEST_S * sfreq)
    if len(close):
        i = close[0]
        a, b = own["row"].iloc[i], own["row"].iloc[i + 1]
        apart = sample[i + 1] - sample[i]
        when = "at the same time" if apart == 0 else f"{1e3 * apart / sfreq:.3g} ms ({apart} samples) apart"
        reason = "" if apart == 0 else f"; {len(close)} events are closer than images can be shown"
        raise HvfError(f"rows {a} and {b} of the events of {where} show two images {when}{reason}")
    start, stop = sample + round(settings.start * sfreq), sample + round(settings.tmax * sfreq) + 1
    cut = (start < 0) | (stop > n)
    if cut.any():
        notes.append(f"{int(cut.sum())} events of {where} have no whole window in it and are left out")
    spoilt = ~cut & _in_bad_segments(raw, start, stop)
    if spoilt.any():
        notes.append(f"{int(spoilt.sum())} events of {where} overlap segments marked bad, or a cut, and are left out")
    return own[~(cut | spoilt)], notes


def _check_same_times(sample_N: np.ndarray, own: Any, where: str, sfreq: float) -> None:
    """Raise HvfError if the column sample says other times than onset, at whatever rate and from whatever start."""
    other_N = np.asarray(pd.to_numeric(own["sample"], errors="coerce"), dtype=float)
    if len(own) < 3 or not np.isfinite(other_N).all() or not np.ptp(sample_N) or not np.ptp(other_N):
        return
    apart_N = np.abs(np.polyval(np.polyfit(other_N, sample_N, 1), other_N) - sample_N)
    if apart_N.max() > DISAGREE_S * sfreq:
        i = int(apart_N.argmax())
        raise HvfError(
            f"the columns onset and sample of the events of {where} contradict each other, most in row "
            f"{own['row'].iloc[i]}: onset {own['onset'].iloc[i]}, sample {own['sample'].iloc[i]}; leave one of them out"
        )


def _in_bad_segments(raw: Any, start_N: np.ndarray, stop_N: np.ndarray) -> np.ndarray:
    """Whether each window, in samples, overlaps an annotation "bad...", as `mne.Epochs(reject_by_annotation=True)`.

    One without duration, such as the "BAD boundary" between two recordings that were joined, spoils the windows that it
    lies inside of. So do EEGLAB's "boundary", whose duration is that of what was cut out, and BrainVision's "New
    Segment".
    """
    sfreq, bad_N = raw.info["sfreq"], np.zeros(len(start_N), bool)
    for annotation in raw.annotations:
        text = annotation["description"].lower()
        if text.startswith(("bad", "boundary", "new segment")):
            onset = annotation["onset"] - raw.first_time
            duration = annotation["duration"] if text.startswith("bad") else 0.0
            bad_N |= (onset < stop_N / sfreq) & (onset + duration > start_N / sfreq)
    return bad_N


def _common_channels(recordings: Sequence[OpenRecording], settings: Preprocessing) -> tuple[list[str], list[str]]:
    """Channels that all recordings have, in the order of the first, and notes on the others."""
    notes, names_of = [], []
    for recording in recordings:
        names, more = data_channels(recording.raw, settings.picks, recording.where)
        names_of.append(names)
        notes += more
        bads = [name for name in recording.raw.info["bads"] if name in names]
        if bads:
            notes.append(f"bad channels of {recording.where} are interpolated: {listed(bads)}")
    common = [name for name in names_of[0] if all(name in names for names in names_of)]
    left_out = sorted({name for names in names_of for name in names} - set(common))
    if not common:
        raise HvfError(f"{recordings[0].where} and the recordings after it have no channel in common")
    if left_out:
        notes.append(f"channels that not all recordings have are left out: {listed(left_out)}")
    return common, notes


def _offset(settings: Preprocessing, raw_sfreq: float, sfreq: float) -> tuple[float, int]:
    """(time of the first sample of MNE's epochs in s, index of the window's first sample in the resampled ones)."""
    began = round(settings.start * raw_sfreq) / raw_sfreq
    return began, round((settings.tmin - began) * sfreq)


def _fill_recording(work: Plan, recording: OpenRecording, samples: np.ndarray, out_NCT: np.ndarray) -> None:
    raw, settings = load(recording.raw, work.ch_names, recording.where), work.settings
    info = raw.info
    l_freq, h_freq = settings.l_freq, settings.h_freq
    if l_freq is not None and info["highpass"] >= l_freq:
        l_freq = None
    if h_freq is not None and (info["lowpass"] <= h_freq or h_freq >= info["sfreq"] / 2):
        h_freq = None
    if l_freq is not None:
        needed = 3.3 / min(max(0.25 * l_freq, 2.0), l_freq)  # MNE's Hamming-window design
        if raw.n_times / info["sfreq"] < needed:
            raise HvfError(
                f"{recording.where} lasts {raw.n_times / info['sfreq']:.1f} s, too short for a high-pass at {l_freq:g} "
                f"Hz, which needs {needed:.0f} s: choose a higher one (--l-freq), or none (--l-freq 0)"
            )
    n_raw = round((settings.tmax - settings.start) * info["sfreq"]) + 1
    step = max(1, BLOCK_BYTES // (8 * len(work.ch_names) * n_raw))
    _, first = _offset(settings, info["sfreq"], work.sfreq)
    with mne.use_log_level("error"):
        try:
            if l_freq is not None or h_freq is not None:
                raw.filter(l_freq, h_freq)
            for begin in range(0, len(samples), step):
                block = slice(begin, begin + step)
                x_NCT = _epochs(raw, samples[block], settings, work.sfreq)
                out_NCT[block] = x_NCT[..., first : first + out_NCT.shape[2]]
        except (ValueError, RuntimeError) as error:
            raise HvfError(f"cannot make epochs of {recording.where}: {one_line(error)}") from error


def _epochs(raw: Any, samples: np.ndarray, settings: Preprocessing, sfreq: float) -> np.ndarray:
    events = np.stack([samples + raw.first_samp, np.zeros_like(samples), np.ones_like(samples)], axis=1)
    epochs: Any = mne.Epochs(
        raw,
        events,
        tmin=settings.start,
        tmax=settings.tmax,
        baseline=settings.baseline,
        picks="all",
        preload=True,
        reject_by_annotation=False,  # these were left out before
    )
    if len(epochs) != len(samples):
        raise RuntimeError(f"{len(samples) - len(epochs)} epochs cannot be cut from it")
    if sfreq != raw.info["sfreq"]:
        epochs.resample(sfreq)
    return epochs.get_data()


def _whiten(work: Plan, rows: np.ndarray, x_NCT: np.ndarray) -> None:
    """Multiply a session's trials by the inverse root of the noise covariance of its training trials."""
    fitted = rows
    if "split" in work.events:
        train = rows[work.events["split"].to_numpy(str)[rows] == "train"]
        fitted = train if len(train) else rows
    c = x_NCT.shape[1]
    total_CC = np.zeros((c, c))
    for block in _blocks(fitted):
        total_CC += shrunk_covariances(np.asarray(x_NCT[block], dtype=np.float64)).sum(axis=0)
    try:
        matrix_CC = inverse_root(total_CC / len(fitted), work.ch_names)
    except HvfError as error:
        raise HvfError(f"{error}; --whiten no leaves the noise as it is") from error
    for block in _blocks(rows):
        x_NCT[block] = matrix_CC @ np.asarray(x_NCT[block], dtype=np.float64)


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), BLOCK_TRIALS):
        yield rows[start : start + BLOCK_TRIALS]
