"""Trials of a BIDS data set whose events name images; one recording by itself is read by `hvf.data.recordings.single`.

prepare_bids("my_dataset", "data/mine", settings=Preprocessing(sfreq=100, h_freq=40))
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from hvf.config import HvfError, did_you_mean
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.images.matching import ImageNames
from hvf.data.images.order import by_number
from hvf.data.recordings.channels import mend_channel_types
from hvf.data.recordings.epoching import ONSET_UNITS, OpenRecording, Plan, Preprocessing, fill, plan, rehearse
from hvf.data.recordings.events import (
    drop_seen_concepts,
    image_events,
)
from hvf.data.recordings.raw import attempt, check_fetched, give_positions, not_fetched
from hvf.data.recordings.tables import check_bids_table, read_table
from hvf.data.trials.provenance import is_finished, is_simulated, refuse_copies, sha256, stamps
from hvf.data.trials.store import TrialsWriter
from hvf.files.guard import guarded
from hvf.registry import listed
from hvf.runs import check_writable, say, track

# Of BIDS' electrophysiology, what mne-bids reads.
RECORDINGS = (".vhdr", ".set", ".edf", ".bdf", ".fif", ".ds", ".con", ".sqd", ".cdt", ".snirf")


def prepare_bids(
    root: str | Path,
    out: str | Path,
    *,
    subjects: Sequence[str] | None = None,
    task: str | None = None,
    image_column: str | None = None,
    stimuli: str | Path | pd.DataFrame | None = None,
    images: ImageSet | str | Path | None = None,
    onset_unit: str | None = None,
    settings: Preprocessing = Preprocessing(),  # noqa: B008 (frozen)
) -> list[Path]:
    """Make trials of a BIDS data set: `out/sub-XX_trials.npy` and its sidecar per subject, sessions and runs joined.

    What the same settings made of the same files is kept.

    Parameters
    ----------
    root : path-like
        Folder of the data set.
    out : path-like
        Folder of the trials.
    subjects : sequence of str, optional
        "01" or "sub-01", ... Default: all that have recordings.
    task : str, optional
        Which one, if several show images.
    image_column : str, optional
        Column of events.tsv that names the image ("stim_file", "image", ...). Default: the likeliest.
    stimuli : path-like or DataFrame, optional
        Table with the columns "code" and "image", where that column holds codes instead.
    images : ImageSet or path-like, optional
        Set, folder or zip that must hold all images named.
    onset_unit : str, optional
        "s" as BIDS wants it, "ms" or "samples". Default: s, and ms where only that is possible.
    settings : Preprocessing

    Raises
    ------
    HvfError
        Recordings, sidecars or settings are at fault; nothing of that subject is written.
    """
    root, out = Path(root), Path(out)
    codes = _read_codes(onset_unit, stimuli)
    images = open_images(images) if isinstance(images, (str, Path)) else images
    chosen = _subjects(root, subjects)
    check_writable(out)
    parameters = asdict(settings) | {"task": task, "image_column": image_column, "onset_unit": onset_unit}
    parameters["stimuli"] = None if codes is None else hashlib.sha256(codes.to_csv().encode()).hexdigest()
    if images is not None:
        parameters["images"] = hashlib.sha256("\n".join(images.ids).encode()).hexdigest()
    paths = []
    for name in chosen:
        recordings, unused = _recordings(root, name, task, image_column)
        files = _sources(root, recordings)
        history = {"recipe": "bids", "parameters": parameters, "stamps": stamps(files)}
        path = out / f"sub-{name}_trials.npy"
        if not is_finished(path, "bids", files, json.loads(json.dumps(parameters))):
            history["sources"] = {key: sha256(p) for key, p in files.items()}
            work, notes = _planned(root, recordings, history, images, codes, image_column, onset_unit, settings)
            history |= {"units": work.units, "notes": notes + unused}
            with TrialsWriter(
                path,
                work.shape,
                subject=f"sub-{name}",
                sfreq=work.sfreq,
                tmin=work.tmin,
                ch_names=work.ch_names,
                kind=work.kind,
                simulated=is_simulated(root),
                history=history,
                **work.labels,
            ) as writer:
                fill(work, writer.x_NCT, f"preparing sub-{name}")
            say(f"sub-{name}", history["notes"])
        paths.append(path)
    return paths


def rehearse_bids(
    root: Path,
    *,
    task: str | None = None,
    image_column: str | None = None,
    stimuli: str | Path | None = None,
    images: ImageSet | None = None,
    onset_unit: str | None = None,
    settings: Preprocessing = Preprocessing(),  # noqa: B008 (frozen)
) -> Iterator[tuple[str, Plan | HvfError, list[str]]]:
    """What `prepare_bids` would make of each subject, or why it would refuse it; nothing is written.

    Yields (sub-XX, layout of its trials or the refusal, notes). Values are read, and made into trials where these take
    up little memory. For the parameters see `prepare_bids`.
    """
    codes = _read_codes(onset_unit, stimuli)
    for name in _subjects(root, None):
        notes: list[str] = []
        try:
            recordings, unused = _recordings(root, name, task, image_column)
            files = _sources(root, recordings)
            history = {"stamps": stamps(files), "sources": {key: sha256(p) for key, p in files.items()}}
            work, notes = _planned(root, recordings, history, images, codes, image_column, onset_unit, settings)
            rehearse(work)
            yield f"sub-{name}", work, notes + unused
        except HvfError as error:
            yield f"sub-{name}", error, notes


def _read_codes(onset_unit: str | None, stimuli: str | Path | pd.DataFrame | None) -> pd.DataFrame | None:
    """The table of codes, if there is one; HvfError for a unit that is none."""
    if onset_unit not in (None, *ONSET_UNITS):
        raise HvfError(f"--onset-unit must be one of {', '.join(ONSET_UNITS)}, not {onset_unit!r}")
    return None if stimuli is None else read_table(stimuli)


def _sources(root: Path, recordings: Iterable[Any]) -> dict[str, Path]:
    """The files that a subject's trials are made of, by their path below `root`."""
    return {p.relative_to(root).as_posix(): p for bids in recordings for p in _files_of(bids)}


def _planned(
    root: Path,
    recordings: Sequence[Any],
    history: Mapping[str, Any],
    images: ImageSet | None,
    codes: pd.DataFrame | None,
    image_column: str | None,
    onset_unit: str | None,
    settings: Preprocessing,
) -> tuple[Plan, list[str]]:
    """The layout of one subject's trials, and notes; all that can be refused before values are read.

    `history` has the "stamps" and "sources" of the subject's files; for the others see `prepare_bids`.
    """
    refuse_copies(_digests_of_values(recordings, root, history), "the recording ")
    events, notes = image_events(
        [(p, read_table(p)) for p in map(_events_file, recordings)], image_column, codes, images
    )
    if images is not None:
        ImageNames(images.ids).indices(events["image"].tolist(), "the events")
    if settings.unseen_concepts:
        events, more = drop_seen_concepts(events)
        notes += more
    opened = [_open(root, bids, recordings, notes) for bids in track(recordings, "opening recordings")]
    work = plan(opened, events, settings, onset_unit)
    return work, list(dict.fromkeys([work.size, *notes, *work.notes]))


def _subjects(root: Path, asked: Sequence[str] | None) -> list[str]:
    """The labels of the subjects asked for, or of all that have recordings."""
    if not root.is_dir():
        raise HvfError(f"there is no folder {root}")
    there = sorted(p.name.removeprefix("sub-") for p in root.glob("sub-*") if p.is_dir())
    there = [name for name in there if name != "emptyroom"]
    if not there:
        raise HvfError(f"{root} is not a BIDS dataset: it holds no folder sub-XX")
    if asked is None:
        have = [name for name in there if _matches(root, name)]
        if not have:
            raise HvfError(f"{root} holds no EEG or MEG recordings, only tables: fetch these, too{not_fetched(root)}")
        return have
    unpadded = {name.lstrip("0"): name for name in there}
    chosen = []
    for word in map(str, asked):
        name = word.removeprefix("sub-")
        name = name if name in there else unpadded.get(name.lstrip("0"), name)
        if name not in there:
            raise HvfError(f"{root} has no subject {word!r}{did_you_mean(name, there)}")
        chosen.append(name)
    return list(dict.fromkeys(chosen))


def _matches(root: Path, name: str) -> list[Any]:
    """All recordings of a subject, as mne-bids finds them."""
    from mne_bids import BIDSPath

    matches = []
    for datatype in ("meg", "eeg"):
        bids = BIDSPath(root=root, subject=name, datatype=datatype, suffix=datatype, check=False)
        matches += [
            match
            for match in bids.match(ignore_json=True)
            if match.extension in RECORDINGS
            and match.split in (None, "01", "1")
            and match.acquisition not in ("crosstalk", "calibration")
        ]
    return sorted(
        matches,
        key=lambda match: (
            *(by_number(name or "") for name in (match.session, match.task, match.run)),
            str(match.fpath),
        ),
    )


def _recordings(root: Path, name: str, task: str | None, column: str | None) -> tuple[list[Any], list[str]]:
    """The recordings of one subject and one task that have events, and a note on those of the task that have none."""
    matches = _matches(root, name)
    if not matches:
        raise HvfError(
            f"sub-{name} of {root} has no EEG or MEG recording, only tables{not_fetched(root / f'sub-{name}')}; get it"
        )
    tasks = sorted({bids.task or "" for bids in matches})
    if task is not None and task not in tasks:
        raise HvfError(f"sub-{name} of {root} has no task {task!r}{did_you_mean(task, tasks)}")
    with_events = [bids for bids in matches if task in (None, bids.task) and _events_file(bids) is not None]
    if not with_events:
        raise HvfError(f"the recordings of sub-{name} in {root} have no events.tsv beside them")
    tasks = sorted({bids.task or "" for bids in with_events})
    if len(tasks) > 1:
        tasks = [t for t in tasks if any(_names_images(bids, column) for bids in with_events if (bids.task or "") == t)]
        if len(tasks) != 1:
            raise HvfError(f"sub-{name} of {root} did several tasks ({listed(tasks)}): choose one with --task")
    kinds = {bids.datatype for bids in with_events}
    if len(kinds) > 1:
        with_events = [bids for bids in with_events if bids.datatype == "meg"]
    chosen = [bids for bids in with_events if (bids.task or "") == tasks[0]]
    check_fetched(*(Path(bids.fpath) for bids in chosen))
    alike = [bids for bids in matches if (bids.task or "", bids.datatype) == (tasks[0], chosen[0].datatype)]
    unused = [Path(bids.fpath).name for bids in alike if _events_file(bids) is None]
    return chosen, [f"recordings without an events.tsv are left out: {listed(unused)}"] if unused else []


def _names_images(bids: Any, column: str | None) -> bool:
    try:
        image_events([(_events_file(bids), read_table(_events_file(bids)))], column)
    except HvfError:
        return False
    return True


def _events_file(bids: Any) -> Any:
    return bids.find_matching_sidecar(suffix="events", extension=".tsv", on_error="ignore")


def _files_of(bids: Any) -> list[Path]:
    """A recording (a folder's files singly) and its own sidecars."""
    source = Path(bids.fpath)
    base = re.sub(r"(_split-\d+)?_[a-z]+$", "", source.name.removesuffix(bids.extension))
    beside = [p for p in source.parent.iterdir() if p.name.startswith(base + "_")]
    files = [q for p in beside for q in ((p,) if p.is_file() else p.rglob("*")) if q.is_file()]
    return sorted({*files, *([] if _events_file(bids) is None else [Path(_events_file(bids))])})


def _open(root: Path, bids: Any, matches: Sequence[Any], notes: list[str]) -> OpenRecording:
    from mne_bids import read_raw_bids

    source = Path(bids.fpath)
    if not source.exists():
        raise HvfError(f"cannot read the recording {source}: its content is not here (git annex or datalad get)")
    try:
        raw = attempt(source, lambda: guarded(source, "recording", lambda: read_raw_bids(bids, verbose="warning")))
    except HvfError:
        check_bids_table(_events_file(bids))  # the more helpful reason, where mne-bids fails on that
        raise
    notes += mend_channel_types(raw) + give_positions(raw)
    sessions = sorted({other.session or "" for other in matches}, key=by_number)
    label = bids.session or ""
    numbered = all(session.isdigit() and int(session) > 0 for session in sessions)
    session = int(label) if numbered else sessions.index(label) + 1
    return OpenRecording(source.relative_to(root).as_posix(), raw, session)


def _digests_of_values(recordings: Iterable[Any], root: Path, history: Mapping[str, Any]) -> dict[str, str]:
    """The sha256 of each recording's largest file, which holds its values; headers may be equal for all runs."""
    digests = {}
    for bids in recordings:
        name = bids.fpath.relative_to(root).as_posix()
        own = [key for key in history["sources"] if key == name or key.startswith(name + "/")]
        stem = name.removesuffix(Path(bids.fpath).suffix)
        own += [key for key in history["sources"] if key.startswith(stem + ".") and not key.endswith((".tsv", ".json"))]
        digests[name] = history["sources"][max(own, key=lambda key: history["stamps"][key][0])]
    return digests
