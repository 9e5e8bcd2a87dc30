"""Inputs of the reader "raw": a recording in any format that MNE reads, and a table of what was shown when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd

import hvf
from hvf.data.recordings.epoching import Preprocessing
from hvf.data.recordings.single import read_recording
from tests.corruption.case import Input, Reading
from tests.corruption.numbered import (
    BRAIN,
    GAP,
    LEAD,
    SFREQ,
    continuous,
    onsets_of,
    png,
    raw_of,
    shown_in_order,
    write_pictures,
)

PLAIN = Preprocessing(
    l_freq=None, h_freq=None, sfreq=SFREQ, whiten=False, baseline=None, tmin=0.0, tmax=0.2, unseen_concepts=False
)
SHOWN = tuple(shown_in_order())


def options_of(settings: Preprocessing) -> dict[str, Any]:
    """The settings as options of the command line."""
    given = {name: getattr(settings, name) or 0.0 for name in ("l_freq", "h_freq", "tmin", "tmax", "sfreq")}
    baseline = "none" if settings.baseline is None else ",".join(map(str, settings.baseline))
    return given | {"baseline": baseline, "whiten": "yes" if settings.whiten else "no"}


def raw_with(shown: Sequence[int] = SHOWN, others: Sequence[tuple[str, str, Any]] = (), **more: Any) -> Any:
    """The recording; `others` are (name, type, values) of further channels."""
    x_CN = continuous(shown, **more)
    rows = [np.broadcast_to(np.asarray(values, float), x_CN.shape[1:]) for _, _, values in others]
    names = [*BRAIN, *(name for name, _, _ in others)]
    return raw_of(np.vstack([x_CN, *rows]), names, ["eeg"] * len(BRAIN) + [kind for _, kind, _ in others])


def events_of(shown: Sequence[int] = SHOWN, table: Callable[[int], str] = png, column: str = "image") -> pd.DataFrame:
    onset = np.asarray(onsets_of(shown)) / SFREQ
    return pd.DataFrame({"onset": onset, "duration": 0.2, column: [table(number) for number in shown]})


def codes_table(numbers: Sequence[int] = tuple(range(1, 13)), table: Callable[[int], str] = png) -> pd.DataFrame:
    return pd.DataFrame({"code": list(numbers), "image": [table(number) for number in numbers]})


def save(raw: Any, path: Path) -> Path:
    raw.save(path, overwrite=True, verbose="error")
    return path


def raw_input(
    folder: Path,
    *,
    shown: Sequence[int] = SHOWN,
    raw: Any = None,
    events: Any = None,
    write: Callable[[Any, Path], Path] = save,
    file: str = "sub-01_raw.fif",
    disk: Callable[[int], str] | None = None,
    numbers: Sequence[int] = tuple(range(1, 13)),
    expected: Sequence[int] | None = None,
    may_lack: Sequence[int] = (),
    channels: Sequence[str] | None = BRAIN,
    settings: Preprocessing = PLAIN,
    **options: Any,
) -> Input:
    """A recording and its events, a DataFrame or what a callable writes into `folder` (returning the path).

    With `events` "none" there is no table. With `disk`, the name of each number's picture, there is a folder of images.
    """
    path = write(raw_with(shown) if raw is None else raw, folder / file)
    events = events_of(shown) if events is None else events
    events = events(folder) if callable(events) else None if isinstance(events, str) else events
    if isinstance(events, pd.DataFrame):
        events.to_csv(folder / "shown.tsv", sep="\t", index=False)
        events = folder / "shown.tsv"
    images = write_pictures(folder / "images", disk, numbers) if disk else None

    def read() -> Reading:
        opened = None if images is None else hvf.open_images(images)
        trials = read_recording(path, events, settings=settings, images=opened, **options)
        return Reading.of_trials(trials, opened)

    return Input(
        read,
        shown=shown if expected is None else expected,
        path=path,
        images=images,
        events=events,
        options=options_of(settings) | options,
        may_lack=may_lack,
        channels=channels,
    )


def brainvision(
    raw: Any, path: Path, *, data: str | None = None, markers: str | None = "", marks: Sequence[tuple[str, int]] = ()
) -> Path:
    """Write the three files of BrainVision's format, float values in µV; return the header's path.

    `data` and `markers` are the names that the header gives (default: the header's own), None for no marker file;
    `marks` (description, sample from 1).
    """
    stem = path.stem
    named = f"{stem}.vmrk" if markers == "" else markers
    head = ["Brain Vision Data Exchange Header File Version 1.0", "", "[Common Infos]", "Codepage=UTF-8"]
    head += [f"DataFile={data or f'{stem}.eeg'}"] + ([f"MarkerFile={named}"] if named else [])
    head += ["DataFormat=BINARY", "DataOrientation=MULTIPLEXED", f"NumberOfChannels={len(raw.ch_names)}"]
    head += [f"SamplingInterval={1e6 / raw.info['sfreq']:g}", "", "[Binary Infos]", "BinaryFormat=IEEE_FLOAT_32", ""]
    head += ["[Channel Infos]"] + [f"Ch{i}={name},,1,µV" for i, name in enumerate(raw.ch_names, start=1)]
    path.write_text("\n".join(head) + "\n", encoding="utf-8")
    path.with_suffix(".eeg").write_bytes((raw.get_data() * 1e6).T.astype("<f4").tobytes())
    if named:
        lines = ["Brain Vision Data Exchange Marker File, Version 1.0", "[Common Infos]", f"DataFile={stem}.eeg"]
        lines += ["[Marker Infos]", "Mk1=New Segment,,1,1,0,20240101120000000000"]
        lines += [f"Mk{i}={text},{at},1,0" for i, (text, at) in enumerate(marks, start=2)]
        path.with_suffix(".vmrk").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def annotated(raw: Any, *marks: tuple[float, float, str]) -> Any:
    """The recording with annotations (onset and duration in s, text)."""
    onsets, durations, texts = zip(*marks, strict=True)
    return raw.set_annotations(mne.Annotations(onsets, durations, texts), verbose="error")


def at(place: int) -> float:
    """The onset in s of the image shown at a place."""
    return (LEAD + GAP * place) / SFREQ
