"""The doctor's checks of THINGS-EEG2: raw files, stimulus list and images.

Letters: N trials or events, C channels, T samples, B time bins.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hvf.config import HvfError
from hvf.data.doctor import checks
from hvf.data.doctor.checks import Finding
from hvf.data.doctor.reliability import WINDOW, binned, repeats
from hvf.data.doctor.signals import signals
from hvf.data.images.concepts import bare_concept
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.images.matching import stem
from hvf.data.montages import EEG_CHANNELS
from hvf.data.things_eeg2.preprocessing import Part
from hvf.data.things_eeg2.raw import FILES, SFREQ, TARGET, wrong_rate
from hvf.data.things_eeg2.stimuli import find_metadata
from hvf.pickles import loading
from hvf.registry import listed

PARTS: dict[Part, str] = {
    "training": "train",
    "test": "test",
}  # of files, and of lists in the metadata
IMAGES = {"training": 16_540, "test": 200}
REPEATS = {"training": 4, "test": 80}
SESSIONS = 4
MANY = 1000  # trials that are enough to judge the repeats of a session by itself
LONGEST_WINDOW = 1.0  # s after onset that the recipes take
BLOCK = 2**16  # samples read at a time


@dataclass
class Stimuli:
    """Images of THINGS-EEG2 in the order of their event codes, as far as `image_metadata.npy` is there and whole."""

    files: dict[str, list[str]] = field(default_factory=dict)
    concepts: dict[str, list[str]] = field(default_factory=dict)

    def number(self, part: str) -> int:
        return len(self.files[part]) if part in self.files else IMAGES[part]


@dataclass
class Shown:
    """Events of one raw file: codes (N,), `binned` trials (n, C, B) of those wholly recorded, and their codes (n,)."""

    codes_N: np.ndarray
    trials_NCB: np.ndarray
    ids_N: np.ndarray


def is_raw_root(path: Path) -> bool:
    return any(True for _ in raw_files(path))


def raw_files(root: Path) -> Iterator[Path]:
    folder = root / "raw_data" if (root / "raw_data").is_dir() else root
    yield from sorted(folder.glob("sub-*/ses-*/raw_eeg_*.npy"))


def examine_raw_root(root: Path, images: Path | None, given: Path | None = None) -> Iterator[Finding]:
    """Check THINGS-EEG2 as published: `raw_data/sub-XX/ses-YY/raw_eeg_*.npy`, `image_metadata.npy`, the images."""
    stimuli = Stimuli()
    try:
        yield from examine_list(find_metadata(root, given), stimuli)
    except HvfError:  # which `prepare` says
        message = "image_metadata.npy is missing: which event shows which image can only be guessed"
        advice = "copy it from the study's OSF page into the folder that holds raw_data"
        yield Finding("warning", "stimulus list", root.name, message, advice)
    at_hand = images or next((p for p in (root / "image_set", root) if image_folders(p)), None)
    if at_hand is not None:
        yield from examine_images(at_hand, stimuli)
    for subject in sorted({path.parent.parent for path in raw_files(root)}):
        yield from _subject(subject, stimuli)


def image_folders(path: Path) -> dict[str, Path]:
    """The folders {training,test}_images (or train_images) in a folder of images; none if it is no such folder."""
    names = {"training": ("training_images", "train_images"), "test": ("test_images",)}
    folders = {part: next((path / n for n in some_ if (path / n).is_dir()), None) for part, some_ in names.items()}
    return {part: folder for part, folder in folders.items() if folder is not None}


def examine_images(path: Path, stimuli: Stimuli) -> Iterator[Finding]:
    """Check the images on disk: in the order of the stimulus list, whole, test images unlike training images."""
    folders = image_folders(path)
    if not folders:
        message = "there is neither training_images nor test_images in it"
        yield Finding("warning", "images", str(path), message, "give the folder that holds both with --images")
        return
    sets: dict[str, ImageSet] = {}
    for part, folder in folders.items():
        try:
            sets[part] = open_images(folder)
        except HvfError as error:
            yield Finding("error", "images", folder.name, str(error), "unpack the images there")
            continue
        if part in stimuli.files:
            yield from checks.listed_as(stimuli.files[part], sets[part].ids, folder.name, "the folder of images")
    if len(sets) == 2:
        train, test = (map(bare_concept, sets[part].concepts) for part in ("training", "test"))
        yield from checks.leak(train, test, path.name)
    yield from checks.contents(sets.get("training"), sets.get("test"), path.name)


def examine_list(path: Path, stimuli: Stimuli) -> Iterator[Finding]:
    """Check `image_metadata.npy`: lists of equal length, sorted as event codes count, no test concept in training."""
    where = path.name
    try:
        content = loading.load(path)
        for part, short in PARTS.items():
            stimuli.files[part] = [str(name) for name in content[f"{short}_img_files"]]
            key = f"{short}_img_concepts"
            stimuli.concepts[part] = [str(name) for name in content.get(f"{key}_THINGS", content.get(key, ()))]
    except (HvfError, KeyError, TypeError, AttributeError) as error:
        stimuli.files.clear()
        message = str(error) if isinstance(error, HvfError) else "it is not the stimulus list of THINGS-EEG2"
        yield Finding("error", "stimulus list", where, message, "copy image_metadata.npy from the study's OSF page")
        return
    for part, files in stimuli.files.items():
        concepts = stimuli.concepts[part]
        if len(concepts) != len(files):
            message = f"{len(files)} {part} images have {len(concepts)} concepts"
            yield Finding("error", "stimulus list", where, message, "use the published list")
            continue
        twice = [name for name, n in Counter(files).items() if n > 1]
        if twice:
            message = f"{len(twice)} {part} images are listed twice: {listed(twice)}"
            yield Finding("error", "stimulus list", where, message, "use the published list")
        apart = [f for f, c in zip(files, concepts, strict=True) if not stem(f).startswith(bare_concept(c))]
        if 0 < len(apart) < len(files):
            message = (
                f"{len(apart)} {part} images are listed under another concept than their name says: {listed(apart)}"
            )
            advice = "files and concepts are misordered: use the published list"
            yield Finding("error", "stimulus list", where, message, advice)
        elif list(zip(concepts, files, strict=True)) != sorted(zip(concepts, files, strict=True)):
            message = f"the {part} images are not sorted by concept and file, as event codes count them"
            yield Finding("error", "stimulus list", where, message, "use the published list")
        else:
            less = "" if len(files) == IMAGES[part] else f", {IMAGES[part]} were published"
            severity = "warning" if less else "ok"
            advice = "fine for a part of the study or a smaller one" if less else ""
            message = f"{len(files)} {part} images of {len(set(concepts))} concepts, sorted{less}"
            yield Finding(severity, "stimulus list", where, message, advice)
    for named, bare, what in ((stimuli.concepts, bare_concept, "concepts"), (stimuli.files, stem, "images")):
        yield from checks.leak(map(bare, named["training"]), map(bare, named["test"]), where, what)


def _subject(folder: Path, stimuli: Stimuli) -> Iterator[Finding]:
    sessions = sorted(path for path in folder.glob("ses-*") if path.is_dir())
    if len(sessions) != SESSIONS:
        message = f"{len(sessions)} of {SESSIONS} sessions: {listed(path.name for path in sessions)}"
        yield Finding("warning", "file", folder.name, message, "fine for a try; download the others for the figures")
    whole = len(sessions) >= SESSIONS
    first_with: dict[str, str] = {}
    for part in PARTS:
        shown: list[Shown] = []
        for session in sessions:
            path = next((p for name in FILES[part] if (p := session / name).is_file()), session / FILES[part][0])
            where = f"{folder.name}/{session.name}/{path.name}"
            if not path.is_file():
                whole = False
                yield Finding("error", "file", where, "the file is missing", "download or copy it")
                continue
            one = None
            try:
                for item in _recording(path, where, stimuli.number(part)):
                    if isinstance(item, Finding):
                        yield item
                    else:
                        one = item
            except HvfError as error:
                yield Finding("error", "file", where, str(error), "download or copy it again")
            if one is None:
                whole = False
                continue
            shown.append(one)
            digest = hashlib.sha256(one.codes_N.tobytes()).hexdigest()
            if len(one.codes_N) > 1 and digest in first_with:
                message = f"the same events in the same order as {first_with[digest]}"
                yield Finding("error", "events", where, message, "one is a copy of the other: download it again")
            first_with.setdefault(digest, where)
        if shown:
            codes = np.concatenate([one.codes_N for one in shown]).tolist()
            numbers = range(1, stimuli.number(part) + 1)
            yield from checks.counts(codes, numbers, REPEATS[part], folder.name, complete=whole, part=part)
            if len({one.trials_NCB.shape[1:] for one in shown}) == 1 and len(shown) > 1:
                trials, ids = (
                    np.concatenate([getattr(one, name) for one in shown]) for name in ("trials_NCB", "ids_N")
                )
                own = np.repeat(np.arange(len(shown)), [len(one.ids_N) for one in shown])
                yield from repeats(trials, ids, f"{folder.name} ({part})", sessions_N=own)


def examine_recording(path: Path) -> Iterator[Finding]:
    """Check one raw file by itself."""
    part = "training" if "training" in path.name else "test"
    try:
        yield from (item for item in _recording(path, path.name, IMAGES[part]) if isinstance(item, Finding))
    except HvfError as error:
        yield Finding("error", "file", path.name, str(error), "download or copy it again")


def _recording(path: Path, where: str, n_images: int) -> Iterator[Finding | Shown]:
    """Findings of one raw file, then its `Shown` if it can be read."""
    content = loading.load(path, mmap=True)
    lacking = [
        key for key in ("raw_eeg_data", "ch_names", "sfreq") if not isinstance(content, dict) or key not in content
    ]
    if lacking:
        message = f"it has no {listed(lacking)}: not a raw file of THINGS-EEG2"
        yield Finding("error", "file", where, message, "use the published file")
        return
    x_Cn, ch_names = content["raw_eeg_data"], [str(name) for name in content["ch_names"]]
    sfreq = float(content["sfreq"])
    if getattr(x_Cn, "ndim", 0) != 2 or x_Cn.dtype.kind not in "fiu" or len(x_Cn) != len(ch_names):
        shape = getattr(x_Cn, "shape", None)
        message = f"{len(ch_names)} channel names do not fit data of shape {shape}"
        yield Finding("error", "channels", where, message, "rows are channels, one name each: use the published file")
        return
    yield from checks.names(ch_names, where, published=(*EEG_CHANNELS, "stim"))
    eeg = [i for i, name in enumerate(ch_names) if name != "stim"]
    yield from checks.montage([ch_names[i] for i in eeg], "eeg", where)
    rows = slice(eeg[0], eeg[-1] + 1) if eeg == list(range(eeg[0], eeg[-1] + 1)) else eeg

    has_stim = "stim" in ch_names
    stim_n = np.asarray(x_Cn[ch_names.index("stim")]) if has_stim else np.zeros(x_Cn.shape[1])
    onset_N = np.flatnonzero((stim_n != 0) & (np.append(0, stim_n[:-1]) != stim_n))
    shown_N = onset_N[stim_n[onset_N] != TARGET]
    yield _rate(sfreq, shown_N, where)
    read_n = _in_windows(shown_N, len(stim_n), sfreq)

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, x_Cn.shape[1], BLOCK):
            yield x_Cn[rows, start : start + BLOCK][:, read_n[start : start + BLOCK]]

    named = [ch_names[i] for i in eeg]
    yield from signals(blocks, named, where, spare=set(named) - set(EEG_CHANNELS), volts=True)
    if not has_stim:
        yield Finding("error", "events", where, "there is no channel `stim`", "use the published file")
        return
    held = np.count_nonzero(stim_n) - len(onset_N)
    if held > len(onset_N):
        message = f"triggers last {1 + held / max(1, len(onset_N)):.0f} samples; published ones last one"
        yield Finding("warning", "events", where, message, "the first sample of each was taken")
    onset_N, codes_N = shown_N, stim_n[shown_N]
    yield from _events(onset_N, codes_N, x_Cn.shape[1], sfreq, n_images, where)
    if len(codes_N):
        trials, kept_N = _epochs(x_Cn, rows, onset_N, sfreq)
        if len(trials) >= MANY:
            yield from repeats(trials, codes_N[kept_N], where)
        yield Shown(codes_N.astype(np.int64), trials, codes_N[kept_N])


def _rate(sfreq: float, onset_N: np.ndarray, where: str) -> Finding:
    """Check the rate: that of the study, or another one by which images come as often as in the study."""
    if not np.isfinite(sfreq) or sfreq <= 0 or abs(sfreq - SFREQ) < 1:
        return checks.sampling_rate(sfreq, where)[0]
    fault = wrong_rate(onset_N, sfreq)
    if fault:
        return Finding("error", "sampling rate", where, fault, "every latency would be wrong: correct it")
    message = f"{sfreq:g} Hz where {SFREQ:g} Hz was published"
    return Finding("warning", "sampling rate", where, message, "fine if you resampled it")


def _in_windows(onset_N: np.ndarray, n_samples: int, sfreq: float) -> np.ndarray:
    """Whether each sample is in the window of an event; all are where there is none."""
    edges_n = np.zeros(n_samples + 1, int)
    np.add.at(edges_n, np.clip(onset_N - round(0.2 * sfreq), 0, n_samples), 1)
    np.add.at(edges_n, np.clip(onset_N + round(LONGEST_WINDOW * sfreq) + 1, 0, n_samples), -1)
    return (np.cumsum(edges_n)[:-1] > 0) | (not len(onset_N))


def _events(
    onset_N: np.ndarray, codes_N: np.ndarray, n_samples: int, sfreq: float, n_images: int, where: str
) -> Iterator[Finding]:
    findings = checks.codes(codes_N, n_images, where)
    if findings[0].severity == "ok":
        n = Counter(codes_N.tolist())
        usual = Counter(n.values()).most_common(1)[0][0]
        fewer = [f"{code:g}" for code, k in sorted(n.items()) if k < usual]
        if fewer:
            message = (
                f"{len(fewer)} of {len(n)} images were shown less often than the others' {usual} times: {listed(fewer)}"
            )
            yield Finding("error", "events", where, message, "events were lost: use the published file, and whole")
        surplus = sum(k > usual for k in n.values())
        text = f"; {surplus} of {len(n)} images shown more often than {usual} times, as is normal" if surplus else ""
        findings = [Finding("ok", "events", where, findings[0].message + text)]
    yield from findings
    if len(onset_N) > 1 and np.median(np.diff(onset_N)) / sfreq > 2 * 0.2:
        message = f"images come every {np.median(np.diff(onset_N)) / sfreq:.2f} s; published: every 0.2 s"
        advice = "see whether events were lost, or the sampling rate is wrong"
        yield Finding("warning", "events", where, message, advice)
    late = np.count_nonzero(onset_N > n_samples - LONGEST_WINDOW * sfreq)
    if late:
        left = (n_samples - onset_N[-1]) / sfreq
        message = f"{late} events come less than 1 s before the end, the last {left:.3f} s: windows up to 1 s drop them"
        severity = "error" if left < 0.2 else "warning"
        yield Finding(severity, "events", where, message, "if the recording was cut off, copy it again")


def _epochs(
    x_Cn: np.ndarray, rows: slice | list[int], onset_N: np.ndarray, sfreq: float
) -> tuple[np.ndarray, np.ndarray]:
    """`binned` trials of a continuous recording (n, C, B), and the indices (n,) of events wholly recorded."""
    length = round(WINDOW[1] * sfreq)
    kept_N = np.flatnonzero(onset_N + length <= x_Cn.shape[1])
    times_T = np.arange(length) / sfreq
    parts = []
    for i in range(0, len(kept_N), 64):
        x_NCT = np.stack([x_Cn[rows, s : s + length] for s in onset_N[kept_N[i : i + 64]]])
        parts.append(binned(x_NCT, times_T))
    return (np.concatenate(parts) if parts else np.zeros((0, 1, 1))), kept_N
