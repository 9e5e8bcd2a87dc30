"""THINGS-MEG (Hebart et al. 2023, OpenNeuro ds004212) made into trials: `hvf data prepare things-meg`.

Two ways in: the published epochs, `derivatives/preprocessed/preprocessed_P{n}-epo.fif` and its split parts, or the raw
recordings, `sub-BIGMEG{n}/ses-YY/meg/*.ds` (or `*_meg.fif`) and their events.tsv, by the data set's own pipeline.

Letters: N trials, C channels, T samples.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hvf.config import HvfError, did_you_mean
from hvf.data.datasets import chosen_subjects
from hvf.data.things_meg import ctf
from hvf.data.things_meg.files import BLOCK, SubjectFiles, find_subjects, open_subject
from hvf.data.things_meg.table import trial_order
from hvf.data.trials.provenance import is_finished, is_simulated, sha256, stamps
from hvf.data.trials.store import TrialsWriter
from hvf.registry import listed
from hvf.runs import check_writable, track

SCALED = "standard deviations of each channel over the training trials"
UNITS = "standard deviations of each trial's own baseline (-0.1 to 0 s)"


@dataclass(frozen=True)
class MegRecipe:
    """A published choice of THINGS-MEG's epochs.

    All of them keep the `test` trials and those `exp` trials whose concept is not tested; repeats are not averaged.
    """

    origin: str  # where it was published
    tmin: float  # first sample kept, s
    n_times: int  # samples kept, at 200 Hz
    zscore: bool  # scale each channel by its mean and sd over all training trials
    dtype: Literal["float16", "float32"]  # of the stored trials


_UBP = MegRecipe("HaitaoWuTJU/Uncertainty-aware-Blur-Prior, process_meg.py", 0.0, 201, False, "float16")
RECIPES: dict[str, MegRecipe] = {
    "official": MegRecipe("ViCCo-Group/THINGS-data, step1_preprocessing.py", ctf.TMIN, ctf.N_TIMES, False, "float32"),
    "ubp": _UBP,
    "neurobridge": MegRecipe("feroooooo/NeuroBridge, preprocess_meg.py --zscore", 0.0, 200, True, "float32"),
    # What arXiv 2602.07495 decodes from: its code reads UBP's files, hence 201 samples and all 271 channels.
    "hvf": replace(_UBP, origin="ssshamiii/Brain-HIVE (arXiv 2602.07495): UBP's"),
}


def prepare(
    root: str | Path, out: str | Path, recipe: str = "hvf", subjects: Sequence[int] | None = None
) -> list[Path]:
    """Make `out/sub-XX_trials.npy` and its sidecar of each subject; return the .npy paths.

    Training trials come first, then test trials, both by image (`things_image_nr`) and then by time. Published epochs
    of a subject are preferred to its raw recordings. What the same recipe made of the same files is kept. Missing
    sessions and sensors of a wrong type are warned of, and stand in `history["notes"]`.

    Parameters
    ----------
    root : path-like
        The data set's root folder.
    out : path-like
        Folder of the trials.
    recipe : str
        A key of `RECIPES`.
    subjects : sequence of int, optional
        Default: all that are there.

    Raises
    ------
    HvfError
        There is no such recipe or subject, or a file is missing, damaged or does not fit the others. Nothing
        half-written stays.
    """
    root, out = Path(root), Path(out)
    name = recipe.lower()
    if name not in RECIPES:
        raise HvfError(f"unknown recipe {recipe!r}{did_you_mean(name, RECIPES)}")
    chosen = chosen_subjects(subjects, find_subjects(root), root)
    paths = [out / f"sub-{subject:02d}_trials.npy" for subject in chosen]
    for subject, path in zip(chosen, paths, strict=True):
        _prepare_subject(root, path, name, subject)
    return paths


def rehearse(root: Path) -> Iterator[str]:
    """What `prepare` would make of each subject, in lines; nothing is written, and no signal is read.

    Raises HvfError as `prepare`, but for values.
    """
    for subject in find_subjects(root):
        source, rows, _, notes = _opened(root, subject)
        images = source.table["image"].iloc[rows].nunique()
        yield f"sub-{subject:02d}: {len(rows)} trials of {images} images, {len(source.ch_names)} channels"
        yield from (f"sub-{subject:02d}: {note}" for note in notes)


# --- one subject ------------------------------------------------------------------------------------------------------


def _prepare_subject(root: Path, path: Path, name: str, subject: int) -> None:
    recipe = RECIPES[name]
    source, rows, splits, notes = _opened(root, subject)
    sources = {file.relative_to(root).as_posix(): file for file in source.files}
    if is_finished(path, name, sources):
        return
    check_writable(path)
    table = source.table
    for note in notes:
        warnings.warn(f"subject {subject} in {root}: {note}", stacklevel=3)
    kept = table.iloc[rows]
    counts = Counter(table["trial_type"])
    history: dict[str, Any] = {
        "recipe": name,
        "parameters": asdict(recipe),
        "route": source.route,
        "units": SCALED if recipe.zscore else UNITS,
        "left_out": {"catch": counts["catch"], "exp of test concepts": counts["exp"] - int((splits == "train").sum())},
        "notes": notes,
        "stamps": stamps(sources),
    }
    with TrialsWriter(
        path,
        (len(rows), len(source.ch_names), recipe.n_times),
        recipe.dtype,
        image_ids=kept["image"].to_numpy(str),
        subject=f"sub-{subject:02d}",
        sfreq=ctf.SFREQ,
        tmin=recipe.tmin,
        ch_names=source.ch_names,
        kind="meg",
        simulated=is_simulated(root),
        concepts=kept["concept"].to_numpy(str),
        splits=splits,
        sessions=kept["session"].to_numpy() if kept["session"].min() > 0 else None,
        history=history,
    ) as writer:
        _copy(source, recipe, rows, splits, writer)
        digests = {key: sha256(file) for key, file in track(sources.items(), "noting what the trials were made of")}
        writer.history["sources"] = digests


def _opened(root: Path, subject: int) -> tuple[SubjectFiles, np.ndarray, np.ndarray, list[str]]:
    """A subject's files, the rows of its table that become trials, their splits, and notes."""
    source = open_subject(root, subject)
    rows, splits = trial_order(source.table)
    if not len(rows):
        raise HvfError(f"subject {subject} in {root} has no trial of an image")
    notes = [f"there are no {split} trials" for split in ("train", "test") if split not in splits]
    return source, rows, splits, [*source.notes, *notes]


def _copy(source: SubjectFiles, recipe: MegRecipe, rows: np.ndarray, splits: np.ndarray, writer: TrialsWriter) -> None:
    """Copy the trials `rows` into their places, reading each file from front to back."""
    place = np.full(len(source.table), -1)
    place[rows] = np.arange(len(rows))
    first = round((recipe.tmin - ctf.TMIN) * ctf.SFREQ)
    train = splits == "train"
    scale = _Scale(len(source.ch_names))
    low_C, high_C = np.full(len(source.ch_names), np.inf), np.full(len(source.ch_names), -np.inf)
    with track(len(rows), "reading trials") as bar:
        for rows_n, x_NCT in source.read(place >= 0):
            # Through float32, as the published files hold it, so that float16 rounds the same number.
            x_NCT = x_NCT[:, :, first : first + recipe.n_times].astype(np.float32)
            with np.errstate(over="ignore"):
                stored = x_NCT.astype(recipe.dtype)
            bad = np.flatnonzero(~np.isfinite(stored).all(axis=(0, 2)))
            if len(bad):
                names = [source.ch_names[i] for i in bad]
                raise HvfError(
                    f"{source.files[0].parent}: channel {listed(names)} is flat before the image, not finite or too "
                    f"large, among the trials {rows_n[0] + 1} to {rows_n[-1] + 1}: the file is damaged there"
                )
            writer.x_NCT[place[rows_n]] = stored
            low_C, high_C = np.minimum(low_C, stored.min((0, 2))), np.maximum(high_C, stored.max((0, 2)))
            if recipe.zscore:
                scale.add(x_NCT[train[place[rows_n]]])
            bar.advance(len(rows_n))
    flat = [source.ch_names[i] for i in np.flatnonzero(low_C == high_C)]
    if flat:
        raise HvfError(f"{source.files[0].parent}: channel {listed(flat)} has the same value in all trials")
    if recipe.zscore:
        mean_C, sd_C = scale.result()
        for start in range(0, len(rows), BLOCK):
            block = writer.x_NCT[start : start + BLOCK]
            block[:] = (block - mean_C[:, None]) / sd_C[:, None]
        writer.history["zscore"] = {"mean": mean_C.tolist(), "sd": sd_C.tolist()}


class _Scale:
    """Mean and standard deviation (ddof 0) of each channel over blocks of trials (Chan et al. 1979)."""

    def __init__(self, n_channels: int) -> None:
        self._n = 0
        self._mean_C, self._squares_C = np.zeros(n_channels), np.zeros(n_channels)

    def add(self, x_NCT: np.ndarray) -> None:
        n = x_NCT.shape[0] * x_NCT.shape[2]
        if not n:
            return
        mean_C = x_NCT.mean(axis=(0, 2), dtype=np.float64)
        squares_C = x_NCT.var(axis=(0, 2), dtype=np.float64) * n
        step_C, total = mean_C - self._mean_C, self._n + n
        self._squares_C += squares_C + step_C**2 * self._n * n / total
        self._mean_C += step_C * n / total
        self._n = total

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        if not self._n or not self._squares_C.all():
            raise HvfError("there are no training trials, or a flat channel, to scale the trials by")
        return self._mean_C, np.sqrt(self._squares_C / self._n)
