"""THINGS-EEG2 (Gifford et al. 2022) made into trials: `hvf data prepare things-eeg`, by any published recipe.

Letters: N trials, T samples of an epoch, C channels, E epochs, I images, R repeats of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hvf.config import HvfError
from hvf.data.datasets import chosen_subjects
from hvf.data.recordings.channels import note_of, other_than_brain
from hvf.data.things_eeg2 import third_party
from hvf.data.things_eeg2.preprocessing import (
    PARTS,
    EegRecipe,
    Part,
    Workers,
    cut_epochs,
    epoch_operator,
    get_recipe,
    normaliser,
    order_of_repeats,
    units,
    workers,
)
from hvf.data.things_eeg2.raw import (
    RawFile,
    difference,
    numbered_folders,
    read_raw,
    read_raw_file,
    session_files,
    wrong_rate,
)
from hvf.data.things_eeg2.stimuli import Stimuli, find_metadata, read_metadata
from hvf.data.trials.lazy import release
from hvf.data.trials.provenance import is_finished, is_simulated, refuse_copies, sha256, stamps
from hvf.data.trials.store import TrialsWriter
from hvf.registry import listed
from hvf.runs import check_writable, say, track


@dataclass(frozen=True, eq=False)
class Plan:
    """Layout of one subject's trials, made without reading any signal but `stim`.

    Rows are training images in the order of their codes, repeats of one image together, then test images.
    """

    recipe: EegRecipe
    recordings: tuple[tuple[RawFile, RawFile], ...]  # training and test file of each session
    fitted: tuple[str, ...]  # channels that are normalised, in the recording's order
    ch_names: tuple[str, ...]  # channels that are stored
    rows: Mapping[Path, np.ndarray]  # row of each presentation (I, R), by file
    images: np.ndarray  # (N,) code of each row's image
    splits: np.ndarray  # (N,) its part
    sessions: np.ndarray  # (N,)
    notes: tuple[str, ...]  # what was left out

    @property
    def operator_ST(self) -> np.ndarray:
        """`epoch_operator`, (S samples of the window, T)."""
        return epoch_operator(self.recipe, self.recordings[0][0].sfreq)

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.images), len(self.ch_names), self.operator_ST.shape[1]


def prepare(
    root: Path,
    out: Path,
    recipe: str | None = None,
    subjects: Sequence[int] | None = None,
    jobs: int | None = None,
    stimuli: Path | None = None,
) -> list[Path]:
    """Make `out/sub-XX_trials.npy` and its sidecar of each subject; return the .npy paths.

    What the same recipe made of the same files is kept. A folder preprocessed by other code is converted
    (`hvf.data.things_eeg2.third_party`). The number of sessions and of repeats comes from the files.

    Parameters
    ----------
    root : path-like
        Holds `raw_data/sub-XX/ses-YY/raw_eeg_{training,test}.npy` (or the subjects directly), and `image_metadata.npy`
        in itself or in `image_set`.
    out : path-like
        Folder of the trials.
    recipe : str, optional
        A key of `hvf.data.things_eeg2.preprocessing.RECIPES`. Default: "hvf", but for trials of other code that are
        not what it takes their own.
    subjects : sequence of int, optional
        Default: all that are there.
    jobs : int, optional
        Threads that share the epochs of one session (2.1 GB at full size). Default: one per core.
    stimuli : path-like, optional
        `image_metadata.npy`, where it is not near the recordings.

    Raises
    ------
    HvfError
        Something is missing, damaged or does not fit together: which file, and why. Nothing half-written stays.
    """
    root, out = Path(root), Path(out)
    get_recipe(recipe or "hvf")
    if not root.is_dir():
        raise HvfError(f"there is no folder {root}")
    folder = _raw_folder(root)
    if folder is None:
        return third_party.prepare(root, out, recipe, subjects, stimuli)
    recipe, images = recipe or "hvf", read_metadata(root, stimuli)
    folders = numbered_folders(folder, "sub")
    paths = []
    for subject in chosen_subjects(subjects, folders, folder):
        path = out / f"sub-{subject:02d}_trials.npy"
        files = session_files(folders[subject])
        sources = _sources(root, files, stimuli)
        if not is_finished(path, recipe, sources):
            check_writable(path)
            work = plan(files, get_recipe(recipe), images)
            _write(path, recipe, work, images, sources, is_simulated(root), jobs)
        paths.append(path)
    return paths


def _raw_folder(root: Path) -> Path | None:
    """The folder of the subjects' raw recordings, if there are any."""
    return next((path for path in (root / "raw_data", root) if any(path.glob("sub-*/ses-*"))), None)


def rehearse(root: Path, recipe: str | None = None, stimuli: Path | None = None) -> Iterator[str]:
    """What `prepare` would make of a root, in a line per subject; nothing is written.

    Raises HvfError as `prepare`, but for values of raw recordings that are not finite or never change: these signals
    are not read.
    """
    folder = _raw_folder(root)
    if folder is None:
        yield from third_party.rehearse(root, recipe, stimuli)
        return
    images, folders = read_metadata(root, stimuli), numbered_folders(folder, "sub")
    for subject in chosen_subjects(None, folders, folder):
        files = session_files(folders[subject])
        work = plan(files, get_recipe(recipe or "hvf"), images)
        refuse_copies({name: sha256(path) for name, path in _sources(root, files, stimuli).items()})
        shown = len(set(zip(work.splits.tolist(), work.images.tolist(), strict=True)))
        sessions = len(work.recordings)
        yield f"sub-{subject:02d}: {work.shape[0]} trials of {shown} images in {sessions} sessions, paired by code"
        short = sum(recording.too_short for pair in work.recordings for recording in pair)
        if short:
            yield f"sub-{subject:02d}: {short} events have no whole window and are left out"


def _sources(root: Path, files: Sequence[Mapping[Part, Path]], stimuli: Path | None) -> dict[str, Path]:
    """The files that a subject's trials are made of, by their path below `root`."""
    sources = {p.relative_to(root).as_posix(): p for pair in files for p in pair.values()}
    return sources | {"image_metadata.npy": find_metadata(root, stimuli)}


def plan(files: Sequence[Mapping[Part, Path]], recipe: EegRecipe, stimuli: Mapping[Part, Stimuli]) -> Plan:
    """Read the events of all of a subject's files and lay out the rows. Raises HvfError if files do not fit."""
    training_concepts, test_concepts = (set(stimuli[part].concepts.tolist()) for part in PARTS)
    if both := sorted(training_concepts & test_concepts):
        raise HvfError(f"image_metadata.npy has {len(both)} test concepts in training, too: {listed(both)}")
    recordings = []
    for session, paths in enumerate(files, 1):
        training, test = (
            read_raw_file(paths[part], part, session, recipe, len(stimuli[part].image_ids)) for part in PARTS
        )
        recordings.append((training, test))
    first = recordings[0][0]
    for other in (recording for pair in recordings for recording in pair):
        if other.sfreq != first.sfreq:
            raise HvfError(f"{other.path} is sampled at {other.sfreq:g} Hz, {first.path} at {first.sfreq:g} Hz")
        if other.ch_names != first.ch_names:
            raise HvfError(f"{other.path} {difference(other.ch_names, first.ch_names)} {first.path}")
    if fault := wrong_rate(np.sort(first.first_IR, axis=None), first.sfreq):
        raise HvfError(f"{first.path}: {fault}")
    named = tuple(name for name in first.ch_names if name != "stim")
    others = {name: what for name in named if (what := other_than_brain(name))}
    names = tuple(name for name in named if name not in others)
    wanted = tuple(name for name in names if name[0] in "OP") if recipe.channels is None else recipe.channels
    missing = [name for name in wanted if name not in names]
    if missing or not wanted:
        raise HvfError(f"{first.path} lacks channel {listed(missing or ['O...', 'P...'])}; it has {listed(names)}")
    rows, labels, offset = {}, [], 0
    for i, part in enumerate(PARTS):
        of_part, session_IR = _lay_out([pair[i] for pair in recordings], len(stimuli[part].image_ids), recipe)
        rows |= {path: rows_IR + offset for path, rows_IR in of_part.items()}
        codes_IR = np.broadcast_to(np.arange(1, len(session_IR) + 1)[:, None], session_IR.shape)
        labels.append((codes_IR.ravel(), np.full(session_IR.size, part), session_IR.ravel()))
        offset += session_IR.size
    images, splits, sessions = (np.concatenate(label) for label in zip(*labels, strict=True))
    fitted = tuple(name for name in names if name in wanted)
    notes = (note_of(others),) if others else ()
    return Plan(recipe, tuple(recordings), fitted, recipe.kept or wanted, rows, images, splits, sessions, notes)


def _lay_out(own: Sequence[RawFile], n_images: int, recipe: EegRecipe) -> tuple[dict[Path, np.ndarray], np.ndarray]:
    """Rows of each recording's presentations (I, R), counted within the part, and the session of each (images, R)."""
    subject, each = own[0].path.parent.parent, [recording.first_IR.shape[1] for recording in own]
    if len(set(each)) > 1:
        counts = ", ".join(f"{n} in session {recording.session}" for n, recording in zip(each, own, strict=True))
        raise HvfError(f"{subject}: {own[0].part} images are shown so often: {counts}; files are mixed up or cut off")
    r = each[0]
    if recipe.normalisation == "time" and r < 2:
        raise HvfError(f"{own[0].path} shows each image once: this recipe needs repeats to tell noise from response")
    before_I, passes = np.zeros(n_images, int), []
    for recording in own:
        passes.append(before_I[recording.codes_I - 1])
        before_I[recording.codes_I - 1] += 1
    total = int(before_I.max())
    short = np.flatnonzero(before_I < total)
    if len(short):
        raise HvfError(
            f"{subject}: {len(short)} of {n_images} {own[0].part} images are shown in fewer sessions than the others "
            f"({total}), image {listed(str(i + 1) for i in short)} too: a session is missing, double or not theirs"
        )
    place_R = order_of_repeats(total * r) if recipe.shuffled else np.arange(total * r)
    rows, session_IR = {}, np.zeros((n_images, total * r), int)
    for recording, pass_I in zip(own, passes, strict=True):
        index_I1 = recording.codes_I[:, None] - 1
        places_IR = place_R[pass_I[:, None] * r + np.arange(r)]
        rows[recording.path] = index_I1 * total * r + places_IR
        session_IR[index_I1, places_IR] = recording.session
    return rows, session_IR


def read_epochs(work: Plan, recording: RawFile, pool: Workers) -> np.ndarray:
    """The chosen epochs of a raw file before normalisation, in V, float64 (I, R, C, T)."""
    x_ECT = np.empty((recording.first_IR.size, len(work.fitted), work.shape[2]))
    _each_epoch(work, recording, pool, x_ECT.__setitem__)
    return x_ECT.reshape(*recording.first_IR.shape, *x_ECT.shape[1:])


def fill_session(work: Plan, pair: tuple[RawFile, RawFile], out_NCT: np.ndarray, pool: Workers) -> None:
    """Write the normalised trials of one session.

    Parameters
    ----------
    work : Plan
    pair : tuple of RawFile
        The session's training and test file.
    out_NCT : ndarray
        All trials of the subject, of any float dtype; the session's rows are filled.
    pool : Workers
    """
    held = {r.part: read_epochs(work, r, pool) for r in pair if r.part in work.recipe.fitted_on}
    try:
        matrix_CC, shift_C1 = normaliser(work.recipe, held.values(), work.fitted, pool)
    except HvfError as error:
        raise HvfError(f"{pair[0].path.parent}: {error}") from error
    kept = [work.fitted.index(name) for name in work.ch_names]
    matrix_CC, shift_C1 = matrix_CC[kept], shift_C1[kept]

    for recording in pair:
        rows_E = work.rows[recording.path].ravel()

        def write(which: np.ndarray | slice, x_ECT: np.ndarray, rows_E: np.ndarray = rows_E) -> None:
            y_ECT = matrix_CC @ x_ECT
            y_ECT -= shift_C1
            out_NCT[rows_E[which]] = y_ECT.astype(out_NCT.dtype)

        if recording.part in held:
            x_IRCT = held.pop(recording.part)
            x_ECT = x_IRCT.reshape(-1, *x_IRCT.shape[2:])
            for _ in pool.blocks(len(x_ECT), lambda block, x_ECT=x_ECT, write=write: write(block, x_ECT[block])):
                pass
            del x_IRCT, x_ECT  # before more is read
        else:
            _each_epoch(work, recording, pool, write)


def _each_epoch(work: Plan, recording: RawFile, pool: Workers, use: Callable[[np.ndarray, np.ndarray], None]) -> None:
    """Cut all epochs, in the order of time, and call `use(places, x_ECT)` on some at a time."""
    x_CN, names, _ = read_raw(recording.path)
    channels = np.asarray([names.index(name) for name in work.fitted])
    operator_ST = work.operator_ST
    first_E = recording.first_IR.ravel()
    order_E = np.argsort(first_E)

    def cut(block: slice) -> np.ndarray:
        places = order_E[block]
        x_ECT = np.empty((len(places), len(channels), operator_ST.shape[1]))
        peak_C = cut_epochs(x_CN, channels, first_E[places], operator_ST, x_ECT)
        use(places, x_ECT)
        return peak_C

    peak_C = np.max(list(pool.blocks(len(first_E), cut)), axis=0)
    for bad_C, what in (
        (~np.isfinite(peak_C), "NaN or infinite values"),
        (peak_C <= 1e-9 * np.median(peak_C), "the same value throughout"),
    ):
        if bad_C.any():
            where = listed(work.fitted[i] for i in np.flatnonzero(bad_C))
            raise HvfError(f"{recording.path}: channel {where} has {what}; repair the recording before it is prepared")


def _write(
    path: Path,
    recipe: str,
    work: Plan,
    stimuli: Mapping[Part, Stimuli],
    sources: Mapping[str, Path],
    simulated: bool,
    jobs: int | None,
) -> None:
    repeats = {part: int(((work.splits == part) & (work.images == 1)).sum()) for part in PARTS}
    name_of = {source: name for name, source in sources.items()}
    dropped = {name_of[r.path]: r.too_short for pair in work.recordings for r in pair if r.too_short}
    history: dict[str, Any] = {"recipe": recipe, "parameters": asdict(work.recipe), "units": units(work.recipe)}
    history |= {"sessions": len(work.recordings), "repeats": repeats, "too_short": dropped, "stamps": stamps(sources)}
    history |= {"notes": list(work.notes)} if work.notes else {}
    number = path.name.partition("_")[0]
    index = {part: work.images[work.splits == part] - 1 for part in PARTS}
    with (
        workers(jobs) as pool,
        TrialsWriter(
            path,
            work.shape,
            work.recipe.dtype,
            image_ids=np.concatenate([stimuli[part].image_ids[index[part]] for part in PARTS]),
            concepts=np.concatenate([stimuli[part].concepts[index[part]] for part in PARTS]),
            splits=np.where(work.splits == "test", "test", "train"),
            sessions=work.sessions,
            subject=number,
            sfreq=work.recipe.sfreq,
            tmin=work.recipe.tmin_kept,
            ch_names=work.ch_names,
            kind="eeg",
            simulated=simulated,
            history=history,
        ) as writer,
    ):
        digests = {"image_metadata.npy": pool.submit(sha256, sources["image_metadata.npy"])}
        for pair in track(work.recordings, f"preparing {number}, session by session"):
            for name, source in sources.items():
                if source in (pair[0].path, pair[1].path):
                    digests[name] = pool.submit(sha256, source)
            fill_session(work, pair, writer.x_NCT, pool)
            release(writer.x_NCT)
        writer.history["sources"] = {name: digest.result() for name, digest in digests.items()}
        refuse_copies(writer.history["sources"])
    say(number, work.notes)
