"""The doctor's checks of tables: events and channels of BIDS data sets, and the numbers of THINGS images.

Letters: N events.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hvf.config import HvfError
from hvf.data.doctor import checks
from hvf.data.doctor.checks import Finding
from hvf.data.doctor.files import is_leftover
from hvf.data.images.matching import stem
from hvf.data.recordings.tables import read_table, read_typed
from hvf.registry import listed
from hvf.schema.reading import parse_json

MEG_SESSION = {"exp": 1854, "test": 200, "catch": 200}  # trials of THINGS-MEG per session
MEG_RUNS = 10  # per session
N_THINGS = 26_107  # images
LONGEST = 6 * 3600  # s: no recording is longer, so larger onsets are samples or milliseconds


def examine_events(path: Path, where: str) -> Iterator[Finding | pd.DataFrame]:
    """Check a BIDS events.tsv: onsets against the recording's length and rate, and THINGS' image numbers."""
    try:
        table = read_typed(path)
    except HvfError as error:
        yield Finding("error", "events", where, f"it cannot be read: {one_line(error)}", "copy it again")
        return
    if "onset" not in table or not len(table):
        message = "it has no column `onset`" if len(table) else "it lists no event"
        yield Finding("error", "events", where, message, "a BIDS table has onset and duration, in s")
        return
    onset = _numbers(table["onset"])
    odd = int(np.count_nonzero(~np.isfinite(onset)))
    header = sidecar(path)
    length, sfreq = header.get("RecordingDuration"), header.get("SamplingFrequency")
    faults = []
    if odd:
        faults.append(
            ("error", f"{odd} of {len(onset)} onsets are no numbers", "copy it again: the last line may be cut")
        )
    elif onset.min() < 0 or (np.diff(onset) < 0).any():
        faults.append(("error", "the onsets do not rise", "rows are misordered: sort them, with all their columns"))
    if not odd and (onset.max() > LONGEST or (length and onset.max() > 10 * length)):
        message = f"the last onset is {onset.max():g}, which cannot be seconds"
        faults.append(
            ("error" if length else "warning", message, "divide by the sampling rate, or by 1000 if it is ms")
        )
    elif not odd and length and onset.max() > length:
        message = f"the last onset, {onset.max():.3f} s, comes after the end of the recording at {length:.3f} s"
        faults.append(("error", message, "the recording is cut off, or the table is of another run"))
    if sfreq and "sample" in table and not odd:
        off = np.abs(_numbers(table["sample"]) - onset * sfreq)
        if not (off <= 1).all():
            message = f"{int(np.count_nonzero(~(off <= 1)))} of {len(onset)} samples are not onset x {sfreq:g} Hz"
            faults.append(("error", message, "columns are misordered, or the sampling rate is wrong"))
    for severity, message, advice in faults:
        yield Finding(severity, "events", where, message, advice)
    if not faults:
        yield Finding("ok", "events", where, f"{len(onset)} events, {onset.min():.1f} to {onset.max():.1f} s")
    if {"value", "things_category_nr", "trial_type"} <= set(table.columns):
        yield from things_numbers(table.rename(columns={"value": "things_image_nr"}), where)
    elif {"stim", "object"} <= set(table.columns):
        apart = [s for s, o in zip(table["stim"], table["object"], strict=True) if not stem(str(s)).startswith(str(o))]
        if apart:
            message = f"{len(apart)} images do not belong to the concept given with them: {listed(apart)}"
            yield Finding("error", "pairing", where, message, "columns are misordered: use the published table")
        else:
            yield Finding(
                "ok", "pairing", where, f"{table['stim'].nunique()} images of {table['object'].nunique()} concepts"
            )
    yield table


def sidecar(events: Path) -> dict[str, Any]:
    """The content of the run's own JSON (RecordingDuration, SamplingFrequency); empty without one."""
    for path in events.parent.glob(f"{run_name(events)}_*.json"):
        if path.name.endswith(("_meg.json", "_eeg.json")):
            try:
                header = parse_json(path.read_bytes())
            except (OSError, ValueError):
                return {}
            return header if isinstance(header, dict) else {}
    return {}


def examine_channels(path: Path, where: str) -> Iterator[Finding]:
    """Check a BIDS channels.tsv: names and types."""
    try:
        table = read_table(path)
        ch_names, types = table["name"].tolist(), table["type"].tolist()
    except (HvfError, KeyError) as error:
        yield Finding("error", "channels", where, f"it cannot be read: {one_line(error)}", "copy it again")
        return
    faults = [item for item in checks.names(ch_names, where) if item.severity != "ok"]
    yield from faults
    yield from checks.sensor_types(dict(zip(ch_names, types, strict=True)), where)


def _numbers(column: Any) -> np.ndarray:
    """A column as floats, NaN where it holds something else."""
    return np.asarray(pd.to_numeric(column, errors="coerce"), dtype=float)


def run_name(events: Path) -> str:
    """sub-01_task-main_run-01 of sub-01_task-main_run-01_events.tsv."""
    return re.sub(r"_events\.tsv(\.gz)?$", "", events.name)


def tables(root: Path) -> list[Path]:
    """Tables of events in a BIDS folder."""
    paths = [p for p in root.glob("sub-*/**/*_events.tsv*") if p.name.endswith((".tsv", ".tsv.gz"))]
    return sorted(p for p in paths if not is_leftover(p.relative_to(root)))


def things_numbers(table: Any, where: str, number: str = "things_image_nr") -> Iterator[Finding]:
    """Check that image numbers rise with the concepts' numbers, and with the files' names within a concept."""
    columns = [number, "things_category_nr", *(["image_path"] if "image_path" in table else [])]
    rows = table[columns].dropna(subset=columns[:2]).drop_duplicates()
    outside = rows[(rows[number] < 1) | (rows[number] > N_THINGS)]
    if len(outside):
        message = f"image numbers outside 1..{N_THINGS}: {listed(f'{v:g}' for v in outside[number])}"
        yield Finding("error", "events", where, message, "use the published table")
        return
    rows = rows.sort_values(number, kind="stable")
    bad = np.flatnonzero(np.diff(rows["things_category_nr"].to_numpy(float)) < 0)
    bad = bad if len(bad) else np.flatnonzero(rows[number].duplicated().to_numpy())
    if len(bad):
        row = rows.iloc[int(bad[0]) + (0 if rows[number].duplicated().any() else 1)]
        message = (
            f"image {row[number]:g} cannot be of concept {row['things_category_nr']:g}: numbers of images rise with "
        )
        message += f"those of concepts, and {len(bad)} here do not"
        yield Finding("error", "pairing", where, message, "rows are misordered or mislabelled: use the published table")
        return
    if "image_path" in rows:
        files = rows.assign(file=[stem(str(name)) for name in rows["image_path"]])
        unsorted = [int(c) for c, part in files.groupby("things_category_nr")["file"] if list(part) != sorted(part)]
        if unsorted:
            which = listed(map(str, unsorted))
            message = f"the files of {len(unsorted)} concepts are not in the order of their numbers: {which}"
            yield Finding("error", "pairing", where, message, "image_path is misordered: use the published table")
            return
    yield Finding("ok", "pairing", where, f"{len(rows)} images, their numbers in the order of the concepts")


def one_line(error: object) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()[:300] or type(error).__name__


def examine_session(parts: list[pd.DataFrame], where: str) -> Finding:
    """Compare the trials of one session of THINGS-MEG, all runs together, with the published numbers."""
    shown = pd.concat(parts)["trial_type"].value_counts().to_dict()
    if shown == MEG_SESSION:
        text = ", ".join(f"{n} {kind}" for kind, n in MEG_SESSION.items())
        return Finding("ok", "events", where, f"{len(parts)} runs with {text} trials, as published")
    counts = ", ".join(f"{shown.get(kind, 0)} of {n} {kind}" for kind, n in MEG_SESSION.items())
    severity = "error" if len(parts) >= MEG_RUNS else "warning"
    message = f"{len(parts)} of {MEG_RUNS} runs with {counts} trials"
    return Finding(severity, "events", where, message, "a table is cut off or a run is missing: copy them again")
