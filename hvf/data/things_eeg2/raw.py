"""Raw files of THINGS-EEG2: their content, checked, and the choice of presentations of each image.

Letters: N samples of a recording, C channels, E events, I images, R repeats of an image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import mne
import numpy as np

from hvf.config import HvfError
from hvf.data.datasets import paths_by_number
from hvf.data.things_eeg2.preprocessing import PARTS, EegRecipe, Part, choose_repeats, window
from hvf.pickles import loading
from hvf.registry import listed

TARGET = 99999  # event of the target of the observer's task
SFREQ, APART_S = 1000.0, 0.2  # as published: Hz, and from one image to the next
FILES: dict[Part, tuple[str, ...]] = {
    "training": ("raw_eeg_training.npy", "raw_eeg_train.npy"),  # the second is UBP's name for it
    "test": ("raw_eeg_test.npy",),
}
LAYOUT = "raw_data/sub-XX/ses-YY/raw_eeg_{training,test}.npy"


@dataclass(frozen=True, eq=False)
class RawFile:
    """One raw file without its signals: header, and the presentations of images that are used."""

    path: Path
    part: Part
    session: int  # from 1
    ch_names: tuple[str, ...]
    sfreq: float  # Hz
    too_short: int  # events left out because their window is not wholly recorded
    codes_I: np.ndarray  # ascending; the image of code c is entry c - 1 of the metadata
    first_IR: np.ndarray  # sample at which the window of each presentation begins


def numbered_folders(folder: Path, prefix: str) -> dict[int, Path]:
    """The folders `prefix-NN` in a folder, by their numbers."""
    matches = {
        path: re.fullmatch(rf"{prefix}-0*(\d+)", path.name) for path in sorted(folder.iterdir()) if path.is_dir()
    }
    return paths_by_number((int(match[1]), path) for path, match in matches.items() if match)


def session_files(folder: Path) -> list[dict[Part, Path]]:
    """The raw files of a subject, session by session. Raises HvfError if a session or a file is missing."""
    sessions = numbered_folders(folder, "ses")
    missing = sorted(set(range(1, max(sessions, default=1) + 1)) - set(sessions))
    if missing:
        raise HvfError(
            f"{folder} lacks session {listed(map(str, missing))}: get all of {LAYOUT} (THINGS-EEG2 has 4 sessions)"
        )
    files: list[dict[Part, Path]] = []
    for _, session in sorted(sessions.items()):
        files.append({})
        for part in PARTS:
            present = [session / name for name in FILES[part] if (session / name).is_file()]
            if not present:
                raise HvfError(f"{session} has no {FILES[part][0]}: get the whole session, or leave the subject out")
            files[-1][part] = present[0]
    return files


def read_raw(path: Path) -> tuple[np.ndarray, tuple[str, ...], float]:
    """Open a raw file without reading its signals: (memory map (channels and stim, N), channel names, Hz).

    Raises HvfError if it is no such file, truncated, or if its parts do not fit together.
    """
    raw = loading.load(path, mmap=True)
    if not isinstance(raw, dict) or not {"raw_eeg_data", "ch_names", "sfreq"} <= set(raw):
        held = listed(map(str, raw)) if isinstance(raw, dict) else f"a {type(raw).__name__}"
        raise HvfError(f"{path} is no raw THINGS-EEG2 recording: it holds {held}, not raw_eeg_data, ch_names and sfreq")
    x_CN, names = np.asarray(raw["raw_eeg_data"]), [str(name) for name in raw["ch_names"]]
    if x_CN.ndim != 2 or x_CN.dtype.kind not in "fi" or len(names) != len(x_CN):
        shape = f"{x_CN.dtype} {x_CN.shape}"
        raise HvfError(f"{path} has {len(names)} channel names for data {shape}; they must be (channels, samples)")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise HvfError(f"{path} names channel {listed(twice)} twice: its names are not those of its rows")
    if "stim" not in names:
        raise HvfError(f"{path} has no channel 'stim', which holds the events; it has {listed(names)}")
    types = [str(kind) for kind in raw.get("ch_types", raw.get("ch_type", []))]
    if types and (
        len(types) != len(names) or [n for n, t in zip(names, types, strict=True) if t == "stim"] != ["stim"]
    ):
        raise HvfError(f"{path} has channel types that do not fit its names: 'stim' is of type stim, all others eeg")
    sfreq = raw["sfreq"]
    if not isinstance(sfreq, (int, float, np.number)) or not 0 < float(sfreq) < np.inf:
        raise HvfError(f"{path} has the sampling rate {sfreq!r}")
    return x_CN, tuple(names), float(sfreq)


def read_events(path: Path, stim_N: np.ndarray, n_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Onsets (samples) and codes of the images shown; targets are left out. Raises HvfError on other codes."""
    stim_N = np.asarray(stim_N, dtype=np.float64)
    if not np.isfinite(stim_N).all() or (stim_N % 1).any():
        raise HvfError(f"{path}: the row named 'stim' does not hold whole numbers: names and rows are mixed up")
    raw = mne.io.RawArray(stim_N[None], mne.create_info(["stim"], 1000.0, "stim"), verbose="error")
    try:
        events = mne.find_events(raw, stim_channel="stim", verbose="error")
    except ValueError as error:
        raise HvfError(f"{path}: the events on 'stim' cannot be told apart: {error}") from error
    onsets_E, codes_E = events[events[:, 2] != TARGET][:, (0, 2)].T
    outside = np.unique(codes_E[(codes_E < 1) | (codes_E > n_images)])
    if len(outside):
        raise HvfError(
            f"{path} has events {listed(map(str, outside))}, but image_metadata.npy knows the images 1 to {n_images} "
            f"(and {TARGET} is a target): file and metadata do not belong together"
        )
    return onsets_E, codes_E


def wrong_rate(onsets_E: np.ndarray, sfreq: float) -> str | None:
    """What speaks against a rate that is not the published one; None where images come as often as was published."""
    if abs(sfreq - SFREQ) < 1 or len(onsets_E) < 2:
        return None
    apart = float(np.median(np.diff(onsets_E))) / sfreq
    if abs(apart - APART_S) < 0.1 * APART_S:
        return None
    return f"{sfreq:g} Hz where {SFREQ:g} Hz was published, and so images come every {apart:.2g} s, not {APART_S:g} s"


def read_raw_file(path: Path, part: Part, session: int, recipe: EegRecipe, n_images: int) -> RawFile:
    """Read names and events of one file and choose the presentations.

    An image has as many repeats as most images of the file have. A few are shown once more, so that presentations are
    chosen (`choose_repeats`); none may be shown less often.

    Parameters
    ----------
    path : Path
    part : str
        "training" or "test".
    session : int
        From 1.
    recipe : EegRecipe
    n_images : int
        Images of the part, for the range of codes.

    Raises
    ------
    HvfError
        As `read_raw` and `read_events`, and if an image is shown too seldom.
    """
    x_CN, names, sfreq = read_raw(path)
    onsets_E, codes_E = read_events(path, x_CN[names.index("stim")], n_images)
    start, stop = window(recipe, sfreq)
    whole_E = (onsets_E + start >= 0) & (onsets_E + stop <= x_CN.shape[1])
    too_short = int((~whole_E).sum())
    onsets_E, codes_E = onsets_E[whole_E], codes_E[whole_E]
    if not len(codes_E):
        raise HvfError(f"{path} has no image event on its channel 'stim' with its whole window recorded")
    codes_I, counts_I = np.unique(codes_E, return_counts=True)
    repeats = int(np.bincount(counts_I).argmax())
    fewer = codes_I[counts_I < repeats]
    if len(fewer):
        raise HvfError(
            f"{path} shows image {listed(map(str, fewer))} fewer than {repeats} times with the whole window recorded "
            f"({too_short} events are too near the ends): the recording is cut off or events are lost"
        )
    codes_I, chosen_IR = choose_repeats(codes_E, repeats)
    return RawFile(path, part, session, names, sfreq, too_short, codes_I, onsets_E[chosen_IR] + start)


def difference(names: tuple[str, ...], others: tuple[str, ...]) -> str:
    """How two lists of channels differ, as a phrase between the names of their files."""
    more, fewer = (sorted(set(a) - set(b)) for a, b in ((names, others), (others, names)))
    if more or fewer:
        parts = [f"{word} {listed(which)}" for word, which in (("has also", more), ("lacks", fewer)) if which]
        return f"{' and '.join(parts)} beside the channels of"
    i = next(i for i, (a, b) in enumerate(zip(names, others, strict=True)) if a != b)
    return f"lists its channels in another order (channel {i + 1} is {names[i]}, not {others[i]}) than"
