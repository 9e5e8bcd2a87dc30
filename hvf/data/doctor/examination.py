"""The doctor: recognises what a folder or file holds, runs the checks of it, and reports findings in plain words.

Letters: N trials.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import multimode
from typing import Any

import numpy as np

from hvf.config import HvfError, did_you_mean
from hvf.data.doctor import arrays, checks, recordings, things_eeg2
from hvf.data.doctor.checks import SEVERITIES, Finding
from hvf.data.doctor.files import copies, files_below, holds_images, is_epochs, is_raw, raw_below
from hvf.data.doctor.rehearsal import rehearse_recording, rehearse_trials
from hvf.data.doctor.reliability import binned, repeats
from hvf.data.doctor.signals import signals
from hvf.data.images.concepts import concept_key
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.images.matching import ImageNames
from hvf.data.recordings.epoching import Preprocessing
from hvf.data.recordings.options import with_settings
from hvf.data.recordings.tables import table_beside
from hvf.data.trials.store import is_prepared, verify
from hvf.data.trials.trials import Trials
from hvf.registry import DATASETS, feature_file, listed

__all__ = ["Finding", "examine"]


@dataclass(frozen=True)
class Asked:
    """What the doctor is asked about, and what `hvf data prepare` would be given with it."""

    path: Path
    images: Path | None
    events: Path | None
    options: dict[str, Any]

    def of(self, dataset: str) -> dict[str, Any]:
        """The options that a data set takes."""
        own = {option.name for option in DATASETS[dataset].options}
        return {name: value for name, value in self.options.items() if name in own}


def known_layouts() -> str:
    """What the doctor recognises, for messages."""
    layouts = ", ".join(DATASETS[name].layout for name in DATASETS)
    others = "trials that hvf prepared (.npy and .json), a plain array (.npy), an -epo.fif"
    return f"{layouts}, {others}, or a folder or zip of images"


def examine(
    path: str | Path, images: str | Path | None = None, events: str | Path | None = None, **options: Any
) -> list[Finding]:
    """Check recordings, tables, images or trials at `path`, anything in `known_layouts`; the worst findings come first.

    What `hvf data prepare` or `hvf train`, given the same, would refuse is an error, in their own words. Equal findings
    of several files are one.

    Parameters
    ----------
    path : path-like
        File or folder.
    images : path-like, optional
        Folder or zip of the images that were shown, or a folder of training_images and test_images. Default: those of a
        THINGS-EEG2 root.
    events : path-like, optional
        Table of events of the recording or epochs `path`. Default: of a recording the one that bears its name, beside
        it.
    **options
        Those of `hvf data prepare` that decide what it takes (`Option.checked`): stimuli, image_column, l_freq, ...

    Raises
    ------
    HvfError
        One of them does not exist, or options make no sense.
    """
    if images is not None and feature_file(images) is not None:
        raise HvfError(f"the doctor looks at pictures, and {images} holds features: leave --images out")
    known = {option.name for name in DATASETS for option in DATASETS[name].options if option.checked}
    for name in sorted(set(options) - known):
        raise HvfError(f"the doctor has no option {name!r}{did_you_mean(name, known)}")
    with_settings(options)
    path, images, events = Path(path), *(None if p is None else Path(p) for p in (images, events))
    for named in (path, images, events):
        if named is not None and not named.exists():
            raise HvfError(f"there is no file or folder at {named}")
    findings = _merged(_safe(_all(Asked(path, images, events, options)), path.name))
    return sorted(findings, key=lambda item: SEVERITIES.index(item.severity))


def _safe(findings: Iterator[Finding], where: str) -> Iterator[Finding]:
    """The findings; an exception in a check becomes one more, so that the other files are still checked."""
    try:
        yield from findings
    except HvfError as error:
        yield Finding("error", "prepare", where, str(error), "mend that, then look again")
    except Exception as error:
        message = f"it is so unusual that looking at it failed: {type(error).__name__}: {error}"
        yield Finding("error", "file", where, message, "compare with the published layout; if it is right, report this")


def _merged(findings: Iterable[Finding]) -> list[Finding]:
    """Findings that differ in `where` alone, as one."""
    places: dict[Finding, list[str]] = {}
    for item in findings:
        places.setdefault(replace(item, where=""), []).append(item.where)
    return [replace(item, where=listed(dict.fromkeys(where), 2)) for item, where in places.items()]


def _all(asked: Asked) -> Iterator[Finding]:
    path, images = asked.path, asked.images
    is_file = path.is_file() or path.suffix.lower() in (".ds", ".mff")
    recognised = list(_of_file(asked) if is_file else _of_folder(asked))
    if not recognised and is_file:
        message = f"this is nothing that hvf knows; it knows {known_layouts()}"
        yield Finding("error", "file", path.name, message, _hint(path))
    elif not recognised:
        message = f"nothing in it is known to hvf; it knows {known_layouts()}"
        yield Finding("error", "file", path.name or str(path), message, "give the folder that holds one of these")
    for findings in recognised:
        yield from findings if is_file else _safe(findings, path.name)
    if images is not None and images != path and not things_eeg2.image_folders(images):
        yield from arrays.examine_images(images, images.name)


def _hint(path: Path) -> str:
    name = path.name.lower()
    for suffixes, header in (((".eeg", ".vmrk", ".dat"), ".vhdr"), ((".fdt",), ".set"), ((".meg4", ".res4"), ".ds")):
        if name.endswith(suffixes):
            return f"give the {header} that belongs to it"
    if re.search(r"[-_]epo-\d+\.fif", name):
        return "give the first part, -epo.fif; the others are read with it"
    return "give a file or folder of one of these"


def _of_file(asked: Asked) -> Iterator[Iterator[Finding]]:
    """The checks of a file, by what it is recognised as."""
    path, images = asked.path, asked.images
    if is_prepared(path):
        yield _stores([path], images)
        return
    of_datasets = list(_of_datasets(asked))
    yield from of_datasets
    if is_epochs(path):
        yield _epochs(path, path.name, asked)
    elif is_raw(path):
        yield _raw(path, path.name, asked)
    elif path.suffix.lower() == ".zip":
        yield arrays.examine_images(path, path.name)
    elif not of_datasets and path.suffix.lower() == ".npy":
        yield arrays.examine_array(path, images, path.name)


def _of_folder(asked: Asked) -> Iterator[Iterator[Finding]]:
    """The checks of each thing that is recognised in a folder."""
    root, images = asked.path, asked.images
    stores = [path for path in files_below(root, ".npy") if is_prepared(path)]
    if stores:
        yield _stores(stores, images)
    recognised = list(_of_datasets(asked))
    yield from recognised
    epochs = [path for path in files_below(root, ".fif", ".fif.gz") if is_epochs(path)]
    for path in epochs:
        yield _epochs(path, path.relative_to(root).as_posix(), asked)
    known = recordings.recordings_of(root)  # checked with their tables
    raws = [path for path in raw_below(root) if path not in known]
    for path in raws:
        yield _raw(path, path.relative_to(root).as_posix(), asked)
    if raws:
        yield copies(raws, root)
    if stores or recognised or epochs or raws or known:
        return
    plain = [path for path in files_below(root, ".npy") if arrays.is_array(path)]
    for path in plain:
        yield arrays.examine_array(path, images, path.relative_to(root).as_posix())
    if holds_images(root):
        yield arrays.examine_images(root, root.name)


def _of_datasets(asked: Asked) -> Iterator[Iterator[Finding]]:
    for name in DATASETS:
        yield from DATASETS[name]().checks(asked.path, asked.images, **asked.of(name))


def _raw(path: Path, where: str, asked: Asked) -> Iterator[Finding]:
    events = asked.events if asked.events is not None and path == asked.path else table_beside(path)
    picks = with_settings(asked.of("recording")).get("settings", Preprocessing()).picks
    yield from recordings.examine_raw(path, where, events=events, picks=picks)
    yield from _prepared(path, where, events, asked)


def _epochs(path: Path, where: str, asked: Asked) -> Iterator[Finding]:
    number = re.match(r"preprocessed_P(\d+)[-_]epo", path.name)
    attributes = None
    if number and len(path.parents) > 2:
        attributes = path.parents[2] / "sourcedata" / f"sample_attributes_P{number[1]}.csv"
    shown = open_images(asked.images) if asked.images else None
    yield from recordings.examine_epochs(path, where, attributes, shown)
    events = asked.events if path == asked.path else None
    if number is None and asked.images is not None and events is None:
        yield from rehearse_trials(path, asked.images, where)
    elif number is None:
        yield from _prepared(path, where, events, asked)


def _prepared(path: Path, where: str, events: Path | None, asked: Asked) -> Iterator[Finding]:
    """What `hvf data prepare recording` makes of a file.

    One of a folder that only lacks what says which images were shown is warned of: nobody asks to prepare it so.
    """
    for item in rehearse_recording(path, events, asked.images, where, **asked.of("recording")):
        lacking = item.severity == "error" and "which images were shown" in item.message
        bare = lacking and path != asked.path and asked.images is None
        yield replace(item, severity="warning") if bare else item


# --- trials that hvf prepared -----------------------------------------------------------------------------------------


def _stores(paths: list[Path], images: Path | None) -> Iterator[Finding]:
    """Check prepared trials, each file and all against each other."""
    at_hand = open_images(images) if images else None
    first: Trials | None = None
    digests: dict[str, str] = {}
    shown: dict[str, set[int]] = {"train": set(), "test": set()}
    for path in paths:
        where = path.name
        try:
            digest = verify(path)
            trials = Trials.load(path)
        except HvfError as error:
            yield Finding("error", "sidecar", where, str(error), "prepare it again")
            continue
        if digest in digests:
            message = f"the same data as {digests[digest]}"
            yield Finding("error", "file", where, message, "one is a copy of the other: prepare it again")
        digests.setdefault(digest, where)
        yield from _store(trials, where)
        if first is not None and (trials.ch_names, trials.sfreq) != (first.ch_names, first.sfreq):
            message = f"its channels or sampling rate differ from {paths[0].name}'s"
            yield Finding("warning", "channels", where, message, "to train across subjects prepare both by one recipe")
        first = first or trials
        if at_hand is not None:
            yield from _pairing(trials, at_hand, where, shown)
    if at_hand is not None and shown["train"] and shown["test"]:
        train, test = (at_hand.select(sorted(shown[part])) for part in ("train", "test"))
        yield from checks.contents(train, test, Path(images or "").name)


def _store(trials: Trials, where: str) -> Iterator[Finding]:
    if not len(trials):
        yield Finding("error", "events", where, "it holds no trials", "prepare it again")
        return
    yield from checks.names(trials.ch_names, where)
    yield from checks.montage(trials.ch_names, trials.kind, where)
    yield from checks.sampling_rate(trials.sfreq, where)
    binned_parts = []

    def blocks() -> Iterator[np.ndarray]:
        first = not binned_parts
        for _, x_NCT in trials.batches():
            if first:
                binned_parts.append(binned(x_NCT, trials.times))
            yield x_NCT

    yield from signals(blocks, trials.ch_names, where)
    splits = np.full(len(trials), "all") if trials.splits is None else trials.splits
    for part in np.unique(splits):
        ids, n = np.unique(trials.image_ids[splits == part], return_counts=True)
        yield _repeated(ids, n, where if part == "all" else f"{where} ({part})")
    x_NCB = np.concatenate(binned_parts)
    for part in np.unique(splits):
        rows = np.flatnonzero(splits == part)
        sessions = None if trials.sessions is None else trials.sessions[rows]
        name = where if part == "all" else f"{where} ({part})"
        yield from repeats(x_NCB[rows], trials.image_ids[rows], name, sessions_N=sessions)
    if trials.splits is not None:
        test = trials.splits == "test"
        if test.all() or not test.any():
            message = f"all trials are of the {trials.splits[0]} set"
            yield Finding("warning", "events", where, message, "`hvf train` needs those of both")
        for labels, what in ((trials.concepts, "concepts"), (trials.image_ids, "images")):
            if labels is not None and test.any() and not test.all():
                yield from checks.leak(labels[~test], labels[test], where, what)


def _repeated(ids: np.ndarray, n: np.ndarray, where: str) -> Finding:
    usual = max(multimode(n.tolist()))
    few = ids[n < usual]
    if (n == usual).mean() < 0.5:  # there is no usual number
        return Finding("ok", "events", where, f"{len(ids)} images with {n.min()} to {n.max()} trials each")
    if len(few):
        message = f"{len(few)} of {len(ids)} images have fewer trials than the others' {usual}: {listed(few)}"
        return Finding("warning", "events", where, message, "fine if you left trials out; else prepare it again")
    more = ", or more" if n.max() > usual else ""
    return Finding("ok", "events", where, f"{len(ids)} images with {usual} trials each{more}")


def _pairing(trials: Trials, images: ImageSet, where: str, shown: dict[str, set[int]]) -> Iterator[Finding]:
    """Check that every image shown is at hand and has the concept that the trials name."""
    ids, first = np.unique(trials.image_ids, return_index=True)
    try:
        places = np.array(ImageNames(images.ids).find(ids.tolist()))
    except HvfError as error:
        yield Finding("error", "pairing", where, str(error), "give each image a name of its own")
        return
    absent = ids[places < 0]
    if len(absent):
        message = f"{len(absent)} of {len(ids)} images that were shown are not at hand: {listed(absent)}"
        yield Finding("error", "pairing", where, message, "give the folder with all of them, under the names used here")
        return
    of_folders = [concept_key(images.concepts[i]) for i in places]
    of_trials = of_folders if trials.concepts is None else [concept_key(name) for name in trials.concepts[first]]
    if 1 < len(set(of_folders)) < len(set(of_trials)) == len(ids):  # folders say more than a name for each image
        of_trials = of_folders
    apart = [(name, a, b) for name, a, b in zip(ids, of_trials, of_folders, strict=True) if a != b]
    if apart and len(set(of_folders)) < len(ids):  # else each image lies alone and its concept is unknown
        message = f"{len(apart)} images are of another concept there, such as {apart[0][0]}: "
        message += f"{apart[0][1]} here, {apart[0][2]} in the folder"
        if set(of_trials) <= {concept_key(concept) for concept in images.concepts}:
            advice = "image ids and concepts are misordered: prepare it again"
            yield Finding("error", "pairing", where, message, advice)
            return
        yield Finding("warning", "pairing", where, message, "fine if both are right in their own words")
    if trials.splits is not None:
        of_part = {part: np.isin(ids, trials.image_ids[trials.splits == part]) for part in shown}
        for part, rows in of_part.items():
            shown[part].update(places[rows].tolist())
        if of_trials is of_folders:
            train, test = ([of_trials[i] for i in np.flatnonzero(rows)] for rows in of_part.values())
            yield from (item for item in checks.leak(train, test, where) if item.severity == "error")
    yield Finding("ok", "pairing", where, f"all {len(ids)} images shown are at hand")
