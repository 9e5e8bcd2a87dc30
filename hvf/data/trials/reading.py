"""Reading of responses from common files: arrays of numbers and MNE epochs.

Letters: N trials, C channels, T samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mne
import numpy as np

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.images.matching import stem
from hvf.registry import listed


def read_array(path: Path, n_images: int) -> tuple[np.ndarray, bool]:
    """Read a `.npy` of numbers (N, C) or (N, C, T); return it as (N, C, T), and whether it has samples.

    Raises HvfError if it cannot be read, is a pickle, or N is not `n_images` (saying so if it is transposed).
    """
    try:
        x = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        if "pickle" in str(error).lower() or "object array" in str(error).lower():
            raise HvfError(
                f"{path} holds pickled Python objects, which can run code when read; save the numbers alone: "
                "np.save(path, np.asarray(x, dtype=np.float32))"
            ) from error
        raise HvfError(f"cannot read {path}: {error}") from error
    if x.dtype.kind not in "fiub":
        raise HvfError(f"{path} holds {x.dtype}, not real numbers")
    if x.ndim not in (2, 3):
        raise HvfError(f"{path} has shape {x.shape}; trials are (images, channels) or (images, channels, samples)")
    _check_count(x.shape, n_images, path)
    return (x[:, :, None], False) if x.ndim == 2 else (x, True)


def read_epochs(path: Path, n_images: int) -> dict[str, Any]:
    """Read an MNE epochs file (`epochs_values`). Raises HvfError if it cannot be read or has not `n_images` epochs."""
    try:
        values = epochs_values(mne.read_epochs(path, preload=True, verbose="error"))
    except HvfError as error:
        raise HvfError(f"{path}: {error}") from error
    except Exception as error:  # MNE's reader raises many kinds, struct.error among them, on a damaged file
        raise HvfError(f"cannot read {path} as MNE epochs: {error}") from error
    _check_count(values["x_NCT"].shape, n_images, path)
    return values


def epochs_values(epochs: mne.BaseEpochs) -> dict[str, Any]:
    """The good EEG and MEG channels: x_NCT (float32), ch_names, kind, sfreq, tmin. Raises HvfError if there is none."""
    picks = mne.pick_types(epochs.info, meg=True, eeg=True, ref_meg=False, exclude="bads")  # pyright: ignore[reportArgumentType]
    if not len(picks):
        raise HvfError(f"no good EEG or MEG channel; the types are {listed(set(epochs.get_channel_types()))}")
    return {
        "x_NCT": epochs.get_data(picks=picks, verbose="error").astype(np.float32),
        "ch_names": tuple(epochs.ch_names[i] for i in picks),
        "kind": "eeg" if {mne.channel_type(epochs.info, i) for i in picks} == {"eeg"} else "meg",
        "sfreq": float(epochs.info["sfreq"]),
        "tmin": float(epochs.tmin),
    }


def recorded_images(
    epochs: mne.BaseEpochs, images: ImageSet | Sequence[str] | None
) -> tuple[list[str], dict[str, Any]]:
    """The id of each epoch's image, and further labels (concepts, splits, sessions), from `metadata` and `images`.

    Raises HvfError if neither says which images were shown, or they contradict each other.
    """
    metadata = getattr(epochs, "metadata", None)
    columns = {} if metadata is None else {name: metadata[name].tolist() for name in metadata.columns}
    labels = {name + "s": columns[name] for name in ("concept", "split", "session") if name in columns}
    for value in labels.get("sessions", []):
        if not isinstance(value, int) or value < 1:
            raise HvfError(f'epochs.metadata["session"] must hold whole numbers from 1, not {value!r}')
    named = columns.get("image")
    if named is not None and not all(isinstance(name, str) and name for name in named):
        bad = next(i for i, name in enumerate(named) if not (isinstance(name, str) and name))
        raise HvfError(f'epochs.metadata["image"] names no image for epoch {bad}: {named[bad]!r}')
    if images is None:
        if named is None:
            raise HvfError(
                'which images were shown? give their ids, an image set, or a column epochs.metadata["image"]'
            )
        return named, labels
    if isinstance(images, ImageSet) and named is not None:
        return named, labels
    ids = list(images.ids) if isinstance(images, ImageSet) else [str(name) for name in images]
    if len(ids) != len(epochs):
        raise HvfError(f"there are {len(epochs)} epochs but {len(ids)} images; give one per epoch, in their order")
    for i, (name, other) in enumerate(zip(ids, named or ids, strict=True)):
        if stem(name) != stem(other):
            raise HvfError(f'epoch {i} was given the image {name!r}, but epochs.metadata["image"] says {other!r}')
    return ids, labels


def _check_count(shape: tuple[int, ...], n_images: int, path: Path) -> None:
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
    raise HvfError(message)
