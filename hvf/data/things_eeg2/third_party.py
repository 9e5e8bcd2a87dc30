"""THINGS-EEG2 preprocessed by other code: the official arrays, NICE's, UBP's .pt, NeuroBridge's .npy.

Letters: N trials, I images, R repeats, C channels, T samples.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hvf.config import HvfError
from hvf.data.datasets import chosen_subjects
from hvf.data.images.concepts import bare_concept
from hvf.data.images.matching import stem
from hvf.data.recordings.channels import note_of, other_than_brain
from hvf.data.things_eeg2.preprocessing import PARTS, RECIPES, Part, units
from hvf.data.trials.provenance import is_finished, sha256, stamps
from hvf.data.trials.store import TrialsWriter
from hvf.data.trials.trials import Trials
from hvf.pickles import loading
from hvf.registry import listed
from hvf.runs import check_writable, say

_BLOCK = 256  # trials copied at a time
NAMES = {  # of the two parts, as each code writes them
    "official or nice": ("preprocessed_eeg_training.npy", "preprocessed_eeg_test.npy"),
    "ubp": ("train.pt", "test.pt"),
    "neurobridge": ("train.npy", "test.npy"),
}


@dataclass(frozen=True, eq=False)
class Stimuli:
    """Images of one part in the order of their event codes: file names without suffix, and concepts."""

    image_ids: np.ndarray
    concepts: np.ndarray


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


def find_metadata(folder: Path) -> Path:
    """`image_metadata.npy` in a folder, its `image_set` or a folder above. Raises HvfError if there is none."""
    for place in (folder, *list(folder.absolute().parents)[:3]):
        for path in (place / "image_metadata.npy", place / "image_set" / "image_metadata.npy"):
            if path.is_file():
                return path
    raise HvfError(
        f"{folder} has no image_metadata.npy, which says which image each event is: put the one of THINGS-EEG2's image "
        "set there"
    )


def read_metadata(folder: Path) -> dict[Part, Stimuli]:
    """Read `image_metadata.npy` (`find_metadata`). Raises HvfError if it is absent, damaged or contradictory."""
    path = find_metadata(folder)
    metadata = loading.load(path)
    stimuli: dict[Part, Stimuli] = {}
    for part in PARTS:
        prefix = "test" if part == "test" else "train"
        try:
            files = [str(name) for name in metadata[f"{prefix}_img_files"]]
            folders = [str(name) for name in metadata[f"{prefix}_img_concepts"]]
        except (TypeError, KeyError, IndexError):
            raise HvfError(f"{path} is no THINGS-EEG2 image list: {prefix}_img_files or _concepts is missing") from None
        ids = [stem(name) for name in files]
        if len(ids) != len(folders) or len(set(ids)) != len(ids) or not ids:
            raise HvfError(
                f"{path}: {len(files)} {prefix} files, {len(set(ids))} different, do not fit {len(folders)} concepts"
            )
        both = sorted(set(ids) & set(stimuli["training"].image_ids.tolist())) if part == "test" else []
        if both:
            raise HvfError(f"{path} lists the image {listed(both)} in training and in the test: one of them is another")
        stimuli[part] = Stimuli(np.asarray(ids), np.asarray([bare_concept(name) for name in folders]))
    return stimuli


def read_prepared(path: str | Path) -> Trials:
    """Read a subject's folder, or one file of it, that other code has preprocessed.

    Known are `preprocessed_eeg_{training,test}.npy` (official and NICE), `{train,test}.pt` (UBP) and
    `{train,test}.npy` with `info.json` (NeuroBridge). All but UBP's need `image_metadata.npy`, in the folder or above.
    Raises HvfError if it is none of these, one of the two files is missing, or what it holds does not fit together.
    """
    path = Path(path)
    parts: dict[Part, Prepared] = _read_folder(path) if path.is_dir() else {_part_of(path): _read_file(path)}
    trials = []
    for part, x in parts.items():
        history = {"recipe": x.recipe, "read_from": path.name}
        trials.append(Trials(x.x_NCT, **_labels(x, part), subject=_subject(path), history=history))
    return Trials.concatenate(trials, trials[0].subject) if len(trials) > 1 else trials[0]


def prepare(root: Path, out: Path, recipe: str, subjects: Sequence[int] | None = None) -> list[Path]:
    """Convert folders `sub-XX` that other code has preprocessed; return the paths of the trials.

    Parameters
    ----------
    root, out : Path
    recipe : str
        The one that the files were made by, or "hvf" if they hold what that takes: whitened trials of UBP, NICE or
        NeuroBridge.
    subjects : sequence of int, optional
        Default: all that are there.

    Raises
    ------
    HvfError
        As `read_prepared`.
    """
    candidates = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    folder = next((path for path in candidates if any(map(_kind, path.glob("sub-*")))), None)
    if folder is None and _kind(root):
        folder, folders = root.parent, {int(re.sub(r"\D", "", root.name) or 1): root}
    elif folder is None:
        raise HvfError(
            f"{root} holds no THINGS-EEG2 recordings: neither raw (raw_data/sub-XX/ses-YY/raw_eeg_training.npy) nor "
            f"preprocessed (sub-XX/{', '.join(pair[0] for pair in NAMES.values())})"
        )
    else:
        folders = {
            int(m[1]): p for p in folder.glob("sub-*") if (m := re.fullmatch(r"sub-0*(\d+)", p.name)) and _kind(p)
        }
    check_writable(out)
    paths = []
    for subject in chosen_subjects(subjects, folders, folder):
        path = out / f"sub-{subject:02d}_trials.npy"
        _convert(folders[subject], path, recipe)
        paths.append(path)
    return paths


def _convert(folder: Path, path: Path, recipe: str) -> None:
    files = _files(folder)
    sources = {file.name: file for file in files.values()}
    if is_finished(path, recipe, sources):
        return
    parts = _read_folder(folder)
    made_by = parts["training"].recipe
    if recipe != made_by and not (recipe == "hvf" and made_by in ("ubp", "nice", "neurobridge")):
        raise HvfError(
            f"{folder} holds trials made by the recipe {made_by}; for {recipe} the raw recordings are needed, "
            f"or say --recipe {made_by}"
        )
    names = parts["training"].ch_names
    others = {name: what for name in names if (what := other_than_brain(name))}
    kept = RECIPES[recipe].kept or tuple(name for name in names if name not in others)
    if others and not RECIPES[recipe].kept:
        say(folder.name, [note_of(others)])
    for part, x in parts.items():
        missing = [name for name in kept if name not in x.ch_names]
        if missing:
            raise HvfError(f"{files[part]} lacks channel {listed(missing)}")
    index_C = [parts["training"].ch_names.index(name) for name in kept]
    labels = [_labels(replace(x, ch_names=kept), part) for part, x in parts.items()]
    joined = {
        name: np.concatenate([label[name] for label in labels]) if labels[0][name] is not None else None
        for name in ("image_ids", "concepts", "splits", "sessions")
    }
    n = sum(len(x.x_NCT) for x in parts.values())
    shape = (n, len(kept), parts["training"].x_NCT.shape[2])
    history = {"recipe": recipe, "preprocessed_by": RECIPES[made_by].origin, "units": units(RECIPES[made_by])}
    history |= {"stamps": stamps(sources), "sources": {name: sha256(file) for name, file in sources.items()}}
    joint_labels: dict[str, Any] = {name: labels[0][name] for name in ("sfreq", "tmin", "ch_names", "kind")} | joined
    with TrialsWriter(
        path, shape, RECIPES[recipe].dtype, **joint_labels, subject=path.name.partition("_")[0], history=history
    ) as writer:
        row = 0
        for part, x in parts.items():
            for start in range(0, len(x.x_NCT), _BLOCK):
                block_NCT = x.x_NCT[start : start + _BLOCK, index_C]
                if not np.isfinite(block_NCT).all():
                    raise HvfError(f"{files[part]} has NaN or infinite values from trial {start} on")
                writer.x_NCT[row : row + len(block_NCT)] = block_NCT
                row += len(block_NCT)


def _kind(folder: Path) -> str | None:
    """Whose code wrote the files of a folder, by their names."""
    for kind, names in NAMES.items():
        if any((folder / name).is_file() for name in names):
            return None if kind == "neurobridge" and neurobridge_info(folder) is None else kind
    return None


def neurobridge_info(folder: Path) -> Path | None:
    """NeuroBridge's info.json in a folder or above it."""
    return next((place / "info.json" for place in (folder, folder.parent) if (place / "info.json").is_file()), None)


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


def _read_folder(folder: Path) -> dict[Part, Prepared]:
    parts: dict[Part, Prepared] = {part: _read_file(path) for part, path in _files(folder).items()}
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


def _read_file(path: Path) -> Prepared:
    if not path.is_file():
        raise HvfError(f"there is no file {path}")
    kind = next((kind for kind, names in NAMES.items() if path.name in names), None)
    readers: dict[str, Callable[[Path], Prepared]] = {"ubp": _read_ubp, "neurobridge": _read_neurobridge}
    return readers.get(kind or "", _read_dict)(path)


def _read_dict(path: Path) -> Prepared:
    """The official code's file, or NICE's bare pickle under the same name, which differ in their times."""
    held = loading.load(path, mmap=True)
    if not isinstance(held, dict) or not {"preprocessed_eeg_data", "ch_names", "times"} <= set(held):
        raise HvfError(f"{path} is no preprocessed THINGS-EEG2: it must hold preprocessed_eeg_data, ch_names, times")
    x_IRCT = held["preprocessed_eeg_data"]
    sfreq, tmin = _axes(path, x_IRCT, held["ch_names"], held["times"], 4)
    stimuli = read_metadata(path.parent)[_part_of(path)]
    recipe = "official" if len(held["times"]) == x_IRCT.shape[-1] else "nice"
    return _by_code(path, recipe, x_IRCT, stimuli, held["ch_names"], sfreq, tmin)


def _read_neurobridge(path: Path) -> Prepared:
    info_path = neurobridge_info(path.parent)
    if info_path is None:
        raise HvfError(f"{path} has no info.json beside it or above, which names its channels")
    try:
        info = json.loads(info_path.read_text(encoding="utf-8"))
        ch_names, times, how = info["ch_names"], info["times"], info["normalization"]
        recipe = {"mvnn": "neurobridge", "zscore": "neurobridge-zscore"}[how]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HvfError(f"{info_path} is damaged or not NeuroBridge's ({type(error).__name__}: {error})") from error
    x = loading.load(path, mmap=True)  # (concepts, images, R, C, T)
    sfreq, tmin = _axes(path, x, ch_names, times, 5)
    x_IRCT = x.reshape(-1, *x.shape[2:])
    return _by_code(path, recipe, x_IRCT, read_metadata(path.parent)[_part_of(path)], ch_names, sfreq, tmin)


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
    other = "training_images" if _part_of(path) == "test" else "test_images"
    if any(f"{other}/" in name.replace("\\", "/") for name in names):
        raise HvfError(f"{path} holds trials of {other}: the training and the test file are swapped")
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
    if not isinstance(x, np.ndarray) or x.ndim != ndim or x.dtype.kind != "f":
        raise HvfError(f"{path} holds no array of real numbers with {ndim} axes")
    if len(ch_names) != x.shape[-2] or len(set(ch_names)) != len(ch_names):
        raise HvfError(f"{path} has {len(set(ch_names))} different channel names for {x.shape[-2]} channels")
    if times.ndim != 1 or len(times) < max(2, x.shape[-1]) or not (np.diff(times) > 0).all():
        raise HvfError(f"{path} has {times.size} times for {x.shape[-1]} samples")
    return round((len(times) - 1) / (times[-1] - times[0]), 6), round(float(times[len(times) - x.shape[-1]]), 6)
