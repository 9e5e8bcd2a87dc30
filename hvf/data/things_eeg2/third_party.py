"""THINGS-EEG2 preprocessed by other code: the official arrays, NICE's, UBP's .pt, NeuroBridge's .npy.

Letters: N trials, I images, R repeats, C channels, T samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hvf.config import HvfError
from hvf.data.datasets import chosen_subjects, paths_by_number
from hvf.data.images.concepts import bare_concept
from hvf.data.images.matching import stem
from hvf.data.recordings.channels import CTF_SENSOR, note_of, other_than_brain
from hvf.data.things_eeg2.neurobridge import Standardised, neurobridge_info, read_neurobridge_info
from hvf.data.things_eeg2.preprocessing import PARTS, RECIPES, Part, units
from hvf.data.things_eeg2.stimuli import Stimuli, find_metadata, of_other_part, read_metadata
from hvf.data.trials.provenance import is_finished, sha256, stamps
from hvf.data.trials.store import TrialsWriter
from hvf.data.trials.trials import Trials
from hvf.pickles import loading
from hvf.registry import listed
from hvf.runs import check_writable, say

NORMALISED = {"mvnn": "neurobridge", "zscore": "neurobridge-zscore"}  # {what info.json says: recipe}
_BLOCK = 256  # trials copied at a time
OF_HVF = ("ubp", "nice", "neurobridge")  # whose files hold what the recipe hvf takes
NAMES = {  # of the two parts, as each code writes them
    "official or nice": ("preprocessed_eeg_training.npy", "preprocessed_eeg_test.npy"),
    "ubp": ("train.pt", "test.pt"),
    "neurobridge": ("train.npy", "test.npy"),
}


@dataclass(frozen=True, eq=False)
class Prepared:
    """One part as other code wrote it; `x_NCT` is read when used."""

    recipe: str
    x_NCT: np.ndarray
    image_ids: np.ndarray
    concepts: np.ndarray
    sessions: np.ndarray | None
    ch_names: tuple[str, ...]
    sfreq: float
    tmin: float


def read_prepared(path: str | Path, stimuli: Path | None = None) -> Trials:
    """Read a subject's folder, or one file of it, that other code has preprocessed.

    Known are `preprocessed_eeg_{training,test}.npy` (official and NICE), `{train,test}.pt` (UBP) and
    `{train,test}.npy` with `info.json` (NeuroBridge). All but UBP's need `image_metadata.npy`: `stimuli`, or the one in
    the folder or above. Raises HvfError if it is none of these, one of the two files is missing, or what it holds does
    not fit together.
    """
    path = Path(path)
    parts: dict[Part, Prepared] = (
        _read_folder(path, stimuli) if path.is_dir() else {_part_of(path): _read_file(path, stimuli)}
    )
    trials = []
    for part, x in parts.items():
        history = {"recipe": x.recipe, "read_from": path.name}
        trials.append(Trials(x.x_NCT, **_labels(x, part), subject=_subject(path), history=history))
    return Trials.concatenate(trials, trials[0].subject) if len(trials) > 1 else trials[0]


def prepare(
    root: Path,
    out: Path,
    recipe: str | None = None,
    subjects: Sequence[int] | None = None,
    stimuli: Path | None = None,
) -> list[Path]:
    """Convert folders `sub-XX` that other code has preprocessed; return the paths of the trials.

    Parameters
    ----------
    root, out : Path
    recipe : str, optional
        The one that the files were made by, or "hvf" if they hold what that takes: whitened trials of UBP, NICE or
        NeuroBridge. Default: "hvf" where it can be, else their own.
    subjects : sequence of int, optional
        Default: all that are there.
    stimuli : Path, optional
        The list of images. Default: the one near the trials.

    Raises
    ------
    HvfError
        As `read_prepared`.
    """
    folder, folders = subject_folders(root)
    check_writable(out)
    paths = []
    for subject in chosen_subjects(subjects, folders, folder):
        path = out / f"sub-{subject:02d}_trials.npy"
        _convert(folders[subject], path, recipe, stimuli)
        paths.append(path)
    return paths


def rehearse(root: Path, recipe: str | None = None, stimuli: Path | None = None) -> Iterator[str]:
    """What `prepare` would make of each subject, in lines; nothing is written.

    Raises HvfError as `prepare`.
    """
    for subject, place in sorted(subject_folders(root)[1].items()):
        work = _plan(place, recipe, stimuli)
        for _ in work.blocks():
            pass
        images = len(set(work.labels["image_ids"].tolist()))
        yield f"sub-{subject:02d}: {work.shape[0]} trials of {images} images, {work.shape[1]} channels"
        yield from (f"sub-{subject:02d}: {note}" for note in work.notes)


def subject_folders(root: Path) -> tuple[Path, dict[int, Path]]:
    """The folder of the subjects, and theirs by number. Raises HvfError if there are none."""
    candidates = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    folder = next((path for path in candidates if any(map(_kind, path.glob("sub-*")))), None)
    if folder is None and _kind(root):
        return root.parent, {int(re.sub(r"\D", "", root.name) or 1): root}
    if folder is None:
        zips = sorted(path.relative_to(root).as_posix() for name in ("*.zip", "*/*.zip") for path in root.glob(name))
        packed = f"; unpack the zips in it: {listed(zips)}" if zips else ""
        raise HvfError(
            f"{root} holds no THINGS-EEG2 recordings: neither raw (raw_data/sub-XX/ses-YY/raw_eeg_training.npy) nor "
            f"preprocessed (sub-XX/{', '.join(pair[0] for pair in NAMES.values())}){packed}"
        )
    named = ((re.fullmatch(r"sub-0*(\d+)", path.name), path) for path in sorted(folder.glob("sub-*")))
    return folder, paths_by_number((int(match[1]), path) for match, path in named if match and _kind(path))


@dataclass(frozen=True, eq=False)
class Plan:
    """Layout of one subject's trials, and where their values are read."""

    made_by: str  # the recipe of the files
    recipe: str  # that of the trials
    shape: tuple[int, int, int]  # (N, C, T)
    labels: dict[str, Any]  # of `TrialsWriter`
    notes: list[str]  # what was left out, or assumed
    files: dict[Part, Path]
    x_NCT: dict[Part, np.ndarray]
    index_C: list[int]  # of the channels that are kept

    def blocks(self) -> Iterator[np.ndarray]:
        """The trials, some at a time. HvfError if they are not finite, not normalised as said, or a channel is flat."""
        seen = Standardised()
        low_C, high_C = np.full(self.shape[1], np.inf), np.full(self.shape[1], -np.inf)
        for part, x_NCT in self.x_NCT.items():
            for start in range(0, len(x_NCT), _BLOCK):
                block_NCT = x_NCT[start : start + _BLOCK, self.index_C]
                if not np.isfinite(block_NCT).all():
                    raise HvfError(f"{self.files[part]} has NaN or infinite values from trial {start} on")
                low_C, high_C = np.minimum(low_C, block_NCT.min((0, 2))), np.maximum(high_C, block_NCT.max((0, 2)))
                if part == "training":
                    seen.add(block_NCT)
                yield block_NCT
        names, folder = self.labels["ch_names"], self.files["training"].parent
        if flat := [names[i] for i in np.flatnonzero(low_C == high_C)]:
            raise HvfError(f"channel {listed(flat)} of {folder} has the same value in all trials: it is damaged")
        if self.made_by in NORMALISED.values():
            seen.check(folder, names, zscore=self.made_by == NORMALISED["zscore"])


def kept_channels(made_by: str, names: Sequence[str], recipe: str | None = None) -> tuple[str, ...]:
    """Of the channels of files that were made by a recipe, those that a recipe keeps (default: `usual_recipe`)."""
    kept = RECIPES[recipe or usual_recipe(made_by)].kept
    return kept or tuple(name for name in names if not other_than_brain(name))


def usual_recipe(made_by: str) -> str:
    """The recipe that files are taken by if none is named: "hvf" where they hold what that takes, else their own."""
    return "hvf" if made_by in OF_HVF else made_by


def _plan(folder: Path, recipe: str | None, stimuli: Path | None) -> Plan:
    """Open a subject's files and lay out the trials by a recipe (None: `usual_recipe`)."""
    parts = _read_folder(folder, stimuli)
    made_by = parts["training"].recipe
    notes = [] if recipe or made_by in OF_HVF else [f"made by the recipe {made_by} and taken as such"]
    recipe = recipe or usual_recipe(made_by)
    if recipe != made_by and not (recipe == "hvf" and made_by in OF_HVF):
        raise HvfError(
            f"{folder} holds trials made by the recipe {made_by}; for {recipe} the raw recordings are needed, "
            f"or say --recipe {made_by}"
        )
    concepts = [set(parts[part].concepts.tolist()) for part in PARTS]
    if both := sorted(concepts[0] & concepts[1]):
        raise HvfError(f"{folder} has {len(both)} test concepts in training, too: {listed(both)}")
    names = parts["training"].ch_names
    others = {name: what for name in names if (what := other_than_brain(name))}
    kept = kept_channels(made_by, names, recipe)
    notes += [note_of(others)] if others and not RECIPES[recipe].kept else []
    files = _files(folder)
    for part, x in parts.items():
        missing = [name for name in kept if name not in x.ch_names]
        if missing:
            raise HvfError(f"{files[part]} lacks channel {listed(missing)}")
    labels = [_labels(replace(x, ch_names=kept), part) for part, x in parts.items()]
    joined = {
        name: np.concatenate([label[name] for label in labels]) if labels[0][name] is not None else None
        for name in ("image_ids", "concepts", "splits", "sessions")
    }
    n = sum(len(x.x_NCT) for x in parts.values())
    return Plan(
        made_by=made_by,
        recipe=recipe,
        shape=(n, len(kept), parts["training"].x_NCT.shape[2]),
        labels={name: labels[0][name] for name in ("sfreq", "tmin", "ch_names", "kind")} | joined,
        notes=notes,
        files=files,
        x_NCT={part: x.x_NCT for part, x in parts.items()},
        index_C=[parts["training"].ch_names.index(name) for name in kept],
    )


def _convert(folder: Path, path: Path, recipe: str | None, stimuli: Path | None) -> None:
    sources = {file.name: file for file in _files(folder).values()}
    if _kind(folder) != "ubp":
        sources |= {"image_metadata.npy": find_metadata(folder, stimuli)}
    if _kind(folder) == "neurobridge" and (info := neurobridge_info(folder)):
        sources |= {info.name: info}
    work = _plan(folder, recipe, stimuli)
    if is_finished(path, work.recipe, sources):
        return
    say(folder.name, work.notes)
    made_by = RECIPES[work.made_by]
    history = {"recipe": work.recipe, "preprocessed_by": made_by.origin, "units": units(made_by)}
    history |= {"stamps": stamps(sources), "sources": {name: sha256(file) for name, file in sources.items()}}
    number = path.name.partition("_")[0]
    dtype = RECIPES[work.recipe].dtype
    with TrialsWriter(path, work.shape, dtype, **work.labels, subject=number, history=history) as writer:
        row = 0
        for block_NCT in work.blocks():
            writer.x_NCT[row : row + len(block_NCT)] = block_NCT
            row += len(block_NCT)


def _kind(folder: Path) -> str | None:
    """Whose code wrote the files of a folder, by their names."""
    for kind, names in NAMES.items():
        if any((folder / name).is_file() for name in names):
            return None if kind == "neurobridge" and neurobridge_info(folder) is None else kind
    return None


def of_meg(folder: Path) -> bool:
    """Whether a folder of such files is of THINGS-MEG, by its name or that of the one above it."""
    return any("meg" in name.lower() for name in folder.parts[-2:])


def _files(folder: Path) -> dict[Part, Path]:
    kind = _kind(folder)
    if kind is None:
        raise HvfError(
            f"{folder} holds no preprocessed THINGS-EEG2: {listed(n for pair in NAMES.values() for n in pair)}"
        )
    files: dict[Part, Path] = {part: folder / name for part, name in zip(PARTS, NAMES[kind], strict=True)}
    for path in files.values():
        if not path.is_file():
            raise HvfError(f"{folder} has no {path.name}, only its other half: get both")
    return files


def _read_folder(folder: Path, stimuli: Path | None) -> dict[Part, Prepared]:
    parts: dict[Part, Prepared] = {part: _read_file(path, stimuli) for part, path in _files(folder).items()}
    train, test = parts["training"], parts["test"]
    for what in ("recipe", "ch_names", "sfreq", "tmin"):
        a, b = getattr(train, what), getattr(test, what)
        if a != b:
            raise HvfError(f"{folder}: training and test differ in {what} ({a} and {b}); they are of different origin")
    shared = sorted(set(train.image_ids.tolist()) & set(test.image_ids.tolist()))
    if shared:
        raise HvfError(
            f"{folder}: training and test hold the same images ({listed(shared)}): one is a copy of the other"
        )
    if train.x_NCT.shape[2] != test.x_NCT.shape[2]:
        raise HvfError(f"{folder}: training and test differ in their number of samples")
    return parts


def _part_of(path: Path) -> Part:
    return "test" if "test" in path.name else "training"


def _subject(path: Path) -> str:
    return next((name for name in reversed(path.parts) if re.fullmatch(r"sub-\d+", name)), path.stem)


def _labels(x: Prepared, part: Part) -> dict[str, Any]:
    splits = np.full(len(x.image_ids), "test" if part == "test" else "train")
    labels = {"image_ids": x.image_ids, "concepts": x.concepts, "splits": splits, "sessions": x.sessions}
    return labels | {"ch_names": x.ch_names, "sfreq": x.sfreq, "tmin": x.tmin, "kind": "eeg"}


def _read_file(path: Path, stimuli: Path | None) -> Prepared:
    if not path.is_file():
        raise HvfError(f"there is no file {path}")
    kind = next((kind for kind, names in NAMES.items() if path.name in names), None)
    if kind == "ubp":
        return _read_ubp(path)
    return (_read_neurobridge if kind == "neurobridge" else _read_dict)(path, stimuli)


def _read_dict(path: Path, list_of_images: Path | None) -> Prepared:
    """The official code's file, or NICE's bare pickle under the same name, which differ in their times."""
    held = loading.load(path, mmap=True)
    if not isinstance(held, dict) or not {"preprocessed_eeg_data", "ch_names", "times"} <= set(held):
        raise HvfError(f"{path} is no preprocessed THINGS-EEG2: it must hold preprocessed_eeg_data, ch_names, times")
    x_IRCT = held["preprocessed_eeg_data"]
    sfreq, tmin = _axes(path, x_IRCT, held["ch_names"], held["times"], 4)
    stimuli = read_metadata(path.parent, list_of_images)[_part_of(path)]
    recipe = "official" if len(held["times"]) == x_IRCT.shape[-1] else "nice"
    return _by_code(path, recipe, x_IRCT, stimuli, held["ch_names"], sfreq, tmin)


def _read_neurobridge(path: Path, list_of_images: Path | None) -> Prepared:
    info_path = neurobridge_info(path.parent)
    if info_path is None:
        raise HvfError(f"{path} has no info.json beside it or above, which names its channels")
    info = read_neurobridge_info(info_path)
    ch_names, times = info["ch_names"], info["times"]
    recipe = NORMALISED[info["normalization"]]
    x = loading.load(path, mmap=True)  # (concepts, images, R, C, T)
    sfreq, tmin = _axes(path, x, ch_names, times, 5)
    x_IRCT = x.reshape(-1, *x.shape[2:])
    stimuli = read_metadata(path.parent, list_of_images)[_part_of(path)]
    return _by_code(path, recipe, x_IRCT, stimuli, ch_names, sfreq, tmin)


def _read_ubp(path: Path) -> Prepared:
    held = loading.load(path, mmap=True)
    if not isinstance(held, dict) or not {"eeg", "img", "session", "ch_names", "times"} <= set(held):
        raise HvfError(f"{path} is not UBP's: it must hold eeg, img, session, ch_names, times")
    x_IRCT = held["eeg"]
    sfreq, tmin = _axes(path, x_IRCT, held["ch_names"], held["times"], 4)
    images, sessions = np.asarray(held["img"]), np.asarray(held["session"])
    if images.shape != x_IRCT.shape[:2] or sessions.shape != images.shape:
        raise HvfError(f"{path}: {images.shape} image names and {sessions.shape} sessions for trials {x_IRCT.shape}")
    names = [str(name) for name in images.ravel()]
    if of_other_part(names, _part_of(path)):
        raise HvfError(f"{path} holds trials of the other part's images: the training and the test file are swapped")
    return Prepared(
        recipe="ubp",
        x_NCT=x_IRCT.reshape(-1, *x_IRCT.shape[2:]),
        image_ids=np.asarray([stem(name) for name in names]),
        concepts=np.asarray([bare_concept(Path(name).parent.name) for name in names]),
        sessions=sessions.ravel().astype(int) + 1,
        ch_names=tuple(map(str, held["ch_names"])),
        sfreq=sfreq,
        tmin=tmin,
    )


def _by_code(
    path: Path, recipe: str, x_IRCT: np.ndarray, stimuli: Stimuli, ch_names: Sequence[str], sfreq: float, tmin: float
) -> Prepared:
    n, r = x_IRCT.shape[:2]
    if n != len(stimuli.image_ids):
        raise HvfError(
            f"{path} has {n} images, image_metadata.npy {len(stimuli.image_ids)}: they do not belong together"
        )
    return Prepared(
        recipe=recipe,
        x_NCT=x_IRCT.reshape(-1, *x_IRCT.shape[2:]),
        image_ids=np.repeat(stimuli.image_ids, r),
        concepts=np.repeat(stimuli.concepts, r),
        sessions=None,
        ch_names=tuple(map(str, ch_names)),
        sfreq=sfreq,
        tmin=tmin,
    )


def _axes(path: Path, x: Any, ch_names: Sequence[str], times: Any, ndim: int) -> tuple[float, float]:
    """(Hz, first sample in s). Code that drops samples keeps all times: the last ones are those of the samples."""
    times = np.asarray(times, dtype=float)
    sensors = [str(name) for name in ch_names if CTF_SENSOR.fullmatch(str(name))]
    if sensors:
        raise HvfError(
            f"{path} is of THINGS-MEG ({len(sensors)} sensors, {sensors[0]}, ...): hvf data prepare things-meg takes "
            "its published epochs instead"
        )
    if not isinstance(x, np.ndarray) or x.ndim != ndim or x.dtype.kind != "f":
        raise HvfError(f"{path} holds no array of real numbers with {ndim} axes")
    if len(ch_names) != x.shape[-2] or len(set(ch_names)) != len(ch_names):
        raise HvfError(f"{path} has {len(set(ch_names))} different channel names for {x.shape[-2]} channels")
    if times.ndim != 1 or len(times) < max(2, x.shape[-1]) or not (np.diff(times) > 0).all():
        raise HvfError(f"{path} has {times.size} times for {x.shape[-1]} samples")
    return round((len(times) - 1) / (times[-1] - times[0]), 6), round(float(times[len(times) - x.shape[-1]]), 6)
