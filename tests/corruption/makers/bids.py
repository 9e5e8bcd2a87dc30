"""Inputs of the reader "bids": a BIDS data set of EEG in BrainVision's format, prepared as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import hvf
from hvf.data.recordings.prepare import prepare_bids
from hvf.data.trials.trials import Trials
from tests.corruption.case import Input, Reading
from tests.corruption.makers.raw import PLAIN, SHOWN, brainvision, events_of, options_of, raw_with
from tests.corruption.numbered import BRAIN, SFREQ, png, write_pictures

TYPES = {"eeg": "EEG", "stim": "TRIG", "misc": "MISC", "eog": "EOG", "ecg": "ECG"}


def stem_of(root: Path, session: str = "01") -> Path:
    return root / "sub-01" / f"ses-{session}" / "eeg" / f"sub-01_ses-{session}_task-img"


def write_session(root: Path, raw: Any, table: pd.DataFrame, session: str = "01") -> Path:
    """Write one session: recording, events, channels and header; return the common beginning of its files' names."""
    stem = stem_of(root, session)
    stem.parent.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0", "DatasetType": "raw"}')
    brainvision(raw, Path(f"{stem}_eeg.vhdr"))
    table.to_csv(f"{stem}_events.tsv", sep="\t", index=False, na_rep="n/a")
    kinds = [TYPES[kind] for kind in raw.get_channel_types()]
    rows = [f"{name}\t{kind}\tuV" for name, kind in zip(raw.ch_names, kinds, strict=True)]
    Path(f"{stem}_channels.tsv").write_text("\n".join(["name\ttype\tunits", *rows]) + "\n", encoding="utf-8")
    header = {"TaskName": "img", "SamplingFrequency": SFREQ, "EEGReference": "n/a", "PowerLineFrequency": 50}
    header |= {"SoftwareFilters": "n/a", "RecordingDuration": raw.n_times / SFREQ}
    Path(f"{stem}_eeg.json").write_text(json.dumps(header))
    return stem


def bids_input(
    folder: Path,
    *,
    shown: Sequence[int] = SHOWN,
    raw: Any = None,
    table: pd.DataFrame | None = None,
    sessions: Sequence[str] = ("01",),
    disk: Callable[[int], str] | None = None,
    names: Callable[[int], str] = png,
    numbers: Sequence[int] = tuple(range(1, 13)),
    change: Callable[[Path], None] = lambda root: None,
    expected: Sequence[int] | None = None,
    may_lack: Sequence[int] = (),
    channels: Sequence[str] | None = BRAIN,
    **options: Any,
) -> Input:
    """A data set of one subject, each session with other noise; `change` corrupts it in place."""
    root = folder / "dataset"
    for i, session in enumerate(sessions):
        of_session = raw_with(shown, seed=i) if raw is None else raw
        write_session(root, of_session, events_of(shown, names) if table is None else table, session)
    change(root)
    images = write_pictures(folder / "images", disk, numbers) if disk else None

    def read() -> Reading:
        opened = None if images is None else hvf.open_images(images)
        (path,) = prepare_bids(root, folder / "out", settings=PLAIN, images=opened, **options)
        trials = Trials.load(path)
        return Reading.of_trials(trials if opened is None else trials.paired_with(opened), opened)

    return Input(
        read,
        shown=list(shown) * len(sessions) if expected is None else expected,
        path=root,
        images=images,
        options=options_of(PLAIN) | options,
        may_lack=may_lack,
        channels=channels,
    )


def edit_events(change: Callable[[str], str | bytes], session: str = "01") -> Callable[[Path], None]:
    """A corruption of a session's table of events as text."""

    def corrupt(root: Path) -> None:
        path = Path(f"{stem_of(root, session)}_events.tsv")
        text = change(path.read_text(encoding="utf-8"))
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))

    return corrupt
