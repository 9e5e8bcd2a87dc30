"""Trials cut from a stream of the Lab Streaming Layer at its markers, as they come (extra ``live``: mne-lsl).

The stream carries its markers in a trigger channel, whose codes say which presentations are of the same image; they are
read as those of a recording are (`hvf.data.recordings.triggers`). A trial is cut with a margin on either side, matched
to the decoder's recording like epochs of a file (`hvf.decoding.recording`), and so answered alike.

Letters: N trials, C channels, T samples.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import mne
import numpy as np

from hvf.alignment import RecordingInfo
from hvf.config import HvfError
from hvf.data.recordings.triggers import trigger_codes
from hvf.data.trials.trials import Trials
from hvf.decoding.recording import of_epochs
from hvf.registry import did_you_mean, listed

MARGIN = 0.2  # s before and after the decoder's window, for resampling and the baseline
KEPT = 10.0  # s of the stream that are kept, beyond a trial
SILENCE = 5.0  # s without a sample after which the stream has ended
POLL = 0.05  # s


class LiveTrial(NamedTuple):
    """One presentation: the code of its marker, the trial, and what was done to it."""

    stimulus: str
    trial: Trials
    notes: list[str]


class LiveTrials:
    """Iterates over the trials of a stream until it ends.

    Parameters
    ----------
    name : str
        Of the stream.
    recording : RecordingInfo
        What the decoder was trained on.
    markers : str, optional
        The trigger channel; by default the stream's only channel of type "stim".
    baseline : bool
        Subtract each channel's mean over the 0.2 s before onset.
    timeout : float
        s to wait for the stream.

    Raises
    ------
    HvfError
        If mne-lsl is not installed, there is no such stream, it is not sampled regularly, or has no trigger channel.
    """

    def __init__(
        self,
        name: str,
        recording: RecordingInfo,
        markers: str | None = None,
        baseline: bool = False,
        timeout: float = 10.0,
    ) -> None:
        try:
            from mne_lsl.stream import StreamLSL
        except ImportError as error:
            raise HvfError("--stream needs the package mne-lsl: pip install 'hvf[live]'") from error
        self.name, self.recording, self.baseline = name, recording, baseline
        self._before = max(0.0, -recording.tmin) + MARGIN
        self._after = recording.tmin + recording.n_times / recording.sfreq + MARGIN
        try:
            self.stream: Any = StreamLSL(bufsize=KEPT, name=name).connect(acquisition_delay=None, timeout=timeout)
        except Exception as error:  # the library raises RuntimeError for what is not there, and others
            reason = " ".join(str(error).split())[:160]
            raise HvfError(f"no stream called {name!r} is to be had within {timeout:g} s ({reason})") from error
        self.sfreq = float(self.stream.info["sfreq"])
        if self.sfreq <= 0:
            raise HvfError(f"the stream {name!r} is not sampled regularly: trials cannot be cut from it")
        self.markers = self._marker_channel(markers)
        scale = {name: 10.0**power for name, power in zip(self.stream.ch_names, self._powers(), strict=True)}
        self._scale_C1 = np.array([scale[name] for name in self.stream.ch_names])[:, None]

    def _marker_channel(self, markers: str | None) -> str:
        names = list(self.stream.ch_names)
        if markers is not None:
            if markers not in names:
                raise HvfError(f"the stream {self.name!r} has no channel {markers!r}{did_you_mean(markers, names)}")
            return markers
        stim = [name for name, kind in zip(names, self.stream.get_channel_types(), strict=True) if kind == "stim"]
        if len(stim) != 1:
            there = listed(stim) or "none is of type stim"
            raise HvfError(f"which channel of {self.name!r} holds the markers ({there})? say --markers CHANNEL")
        return stim[0]

    def _powers(self) -> list[int]:
        """The power of ten that each channel's values stand for, of V or T; 0 of the trigger channel."""
        powers = [int(power) for _, power in self.stream.get_channel_units()]
        return [0 if name == self.markers else power for name, power in zip(self.stream.ch_names, powers, strict=True)]

    def __iter__(self) -> Iterator[LiveTrial]:
        """Trials in the order of their markers, each as soon as its last sample is there."""
        kept_CN = np.empty((len(self.stream.ch_names), 0))
        first = cut = 0  # samples of the stream before those kept, and up to which markers were seen
        last = time.monotonic()
        margin = round((self._before + self._after) * self.sfreq)
        while True:
            new_CN = self._new_samples()
            if new_CN.shape[1]:
                last = time.monotonic()
                kept_CN = np.concatenate([kept_CN, new_CN], axis=1)
                for onset, code in self._markers(kept_CN):
                    start, stop = onset - round(self._before * self.sfreq), onset + round(self._after * self.sfreq) + 1
                    if onset + first < cut or start < 0 or stop > kept_CN.shape[1]:
                        continue
                    cut = onset + first + 1
                    yield self._trial(code, kept_CN[:, start:stop])
                surplus = kept_CN.shape[1] - margin - round(KEPT * self.sfreq)
                if surplus > 0:
                    kept_CN, first = kept_CN[:, surplus:], first + surplus
            elif time.monotonic() - last > SILENCE:
                return
            else:
                time.sleep(POLL)

    def _new_samples(self) -> np.ndarray:
        """The samples (C, N) that came since the last call."""
        try:
            self.stream.acquire()
            n = int(self.stream.n_new_samples)
            if not n:
                return np.empty((len(self.stream.ch_names), 0))
            if n > self.stream.n_buffer:
                raise HvfError(f"{self.name}: samples were lost, for they came faster than they were answered")
            return self.stream.get_data()[0][:, -n:] * self._scale_C1
        except RuntimeError:  # the stream has gone
            return np.empty((len(self.stream.ch_names), 0))

    def _markers(self, kept_CN: np.ndarray) -> list[tuple[int, str]]:
        """(sample, code) of the markers in what is kept; a code that is high at its first sample began before it."""
        info = mne.create_info(list(self.stream.ch_names), self.sfreq, "misc")
        row = self.stream.ch_names.index(self.markers)
        if not kept_CN[row].any():
            return []
        raw = mne.io.RawArray(kept_CN, info, verbose="error")
        samples, codes, _ = trigger_codes(raw, (), f"the stream {self.name}", self.markers)
        return [(int(sample), str(code)) for sample, code in zip(samples, codes, strict=True) if sample > 0]

    def _trial(self, code: str, x_CT: np.ndarray) -> LiveTrial:
        info = self.stream.info.copy()
        epochs = mne.EpochsArray(x_CT[None], info, tmin=-round(self._before * self.sfreq) / self.sfreq, verbose="error")
        if self.baseline:
            epochs.apply_baseline((-MARGIN, 0.0), verbose="error")
        trials, notes = of_epochs(epochs, self.recording, f"the stream {self.name}")
        return LiveTrial(code, trials, notes)

    def close(self) -> None:
        """Disconnect."""
        if self.stream.connected:
            self.stream.disconnect()
