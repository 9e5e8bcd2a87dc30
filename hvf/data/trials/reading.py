"""Reading of responses and of the images that they are of, from common files.

Letters: N trials, C channels, T samples.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.images.order import check_order
from hvf.data.trials.epochs import open_epochs
from hvf.data.trials.store import is_prepared
from hvf.data.trials.trials import Trials
from hvf.files.npy import read_npy
from hvf.runs import say

RECORDINGS = "; of a continuous recording `hvf data prepare recording --file` makes trials"


def read_trials(path: str | Path, images: ImageSet, sfreq: float = 1.0, tmin: float = 0.0) -> Trials:
    """Read responses that name their images (epochs, prepared trials), or whose rows are in the order of `images`.

    By what they were paired is said in a line, and in `history["notes"]`.

    Parameters
    ----------
    path : `.npy` of numbers, (N, C) or (N, C, T); an MNE epochs file `-epo.fif`; or prepared trials (`Trials.save`)
    images : ImageSet of N images; for those that name them, the images that they answer
    sfreq, tmin : Hz and s, for a `.npy` with samples; the others know their own.

    Raises
    ------
    HvfError
        If the file cannot be read, is a pickle, has another number of rows than there are images (saying so if it is
        transposed), or has channels with NaN, infinite or constant values (naming them).
    """
    path = Path(path)
    if not path.is_file():
        raise HvfError(f"there is no file of trials at {path}")
    if is_prepared(path):
        trials = Trials.load(path).paired_with(images)
    elif path.name.lower().endswith((".fif", ".fif.gz")):
        try:
            trials = Trials.from_epochs(open_epochs(path), images, subject=path.stem)
        except HvfError as error:
            raise HvfError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    elif path.suffix.lower() == ".npy":
        x_NCT, sampled = _read_array(path, images)
        check_order(images)
        names = tuple(f"{i:03d}" for i in range(x_NCT.shape[1]))
        trials = Trials(x_NCT, images.ids, path.stem, sfreq if sampled else 1.0, tmin, names, "features")
        note = f"{len(trials)} rows of {len(images)} images, paired by order, for a .npy names none"
        trials = trials.replace(history={"notes": [note]})
    else:
        taken = "a .npy, (N, C) or (N, C, T), or an MNE -epo.fif"
        raise HvfError(f"cannot read trials from {path}: give {taken}{RECORDINGS}")
    trials.check()
    if not is_prepared(path):
        say(path.name, (trials.history or {}).get("notes", []))
    return trials


def _read_array(path: Path, images: ImageSet) -> tuple[np.ndarray, bool]:
    """Read a `.npy` of numbers (N, C) or (N, C, T); return it as (N, C, T), and whether it has samples.

    Raises HvfError if it cannot be read, is a pickle, or N is not that of the images (saying so if it is transposed).
    """
    x = read_npy(path)
    if x.dtype.kind not in "fiub":
        raise HvfError(f"{path} holds {x.dtype}, not real numbers")
    if x.ndim not in (2, 3):
        raise HvfError(f"{path} has shape {x.shape}; trials are (images, channels) or (images, channels, samples)")
    _check_count(x.shape, len(images), path, images.note)
    return (x[:, :, None], False) if x.ndim == 2 else (x, True)


def _check_count(shape: tuple[int, ...], n_images: int, path: Path, note: str = "") -> None:
    if shape[0] == n_images:
        return
    message = f"{path} has {shape[0]} trials but there are {n_images} images"
    if len(shape) == 2 and shape[1] == n_images:
        message += "; it looks transposed (channels, images): save x.T, images first"
    elif n_images in shape[1:]:
        axis = shape.index(n_images, 1)
        message += f"; axis {axis} has {n_images}: save np.moveaxis(x, {axis}, 0), images first"
    else:
        message += "; give one trial per image, in the images' order"
    raise HvfError(f"{message} (of the images: {note})" if note else message)
