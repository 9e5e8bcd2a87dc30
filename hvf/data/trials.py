"""Trials: what the sensors (or neurons) said, one row per presentation, and which image each row answers.

Letters: N trials, C channels, T samples.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mne
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hvf.config import HvfError
from hvf.data.stimuli import ImageSet
from hvf.runs import write_atomic


@dataclass(frozen=True, eq=False)
class Trials:
    """Responses to images.

    Attributes
    ----------
    x_NCT : float32 array, in V (EEG), T (MEG) or the file's own units (features)
    image_ids : array of str, (N,)
        The image each row answers; repeats of an image carry the same id.
    subject : str
    sfreq, tmin : float
        Sampling rate in Hz and time of the first sample after the image's onset in s.
    ch_names : tuple of str, (C,)
    kind : "eeg", "meg" or "features"
    simulated : bool
    """

    x_NCT: np.ndarray
    image_ids: np.ndarray
    subject: str
    sfreq: float
    tmin: float
    ch_names: tuple[str, ...]
    kind: str
    simulated: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "x_NCT", np.asarray(self.x_NCT, dtype=np.float32))
        object.__setattr__(self, "image_ids", np.asarray(self.image_ids, dtype=str))
        object.__setattr__(self, "ch_names", tuple(str(name) for name in self.ch_names))
        if self.x_NCT.ndim != 3:
            raise HvfError(f"trials must be (trials, channels, samples), not {self.x_NCT.shape}")
        n, c, _ = self.x_NCT.shape
        if len(self.image_ids) != n:
            raise HvfError(f"{n} trials were given {len(self.image_ids)} image ids; give one per trial")
        if len(self.ch_names) != c:
            raise HvfError(f"{c} channels were given {len(self.ch_names)} names; give one per channel")

    def __len__(self) -> int:
        return len(self.x_NCT)

    def __repr__(self) -> str:
        n, c, t = self.x_NCT.shape
        origin = ", simulated" if self.simulated else ""
        return f"<Trials: {self.subject}, {n} trials x {c} {self.kind} channels x {t} samples{origin}>"

    @property
    def times(self) -> np.ndarray:
        """Time of each sample after the image's onset, in s, (T,)."""
        return self.tmin + np.arange(self.x_NCT.shape[2]) / self.sfreq

    def average(self) -> Trials:
        """Return one row per image, the mean of its trials (summed in float64), in order of first appearance."""
        ids, first, rows = np.unique(self.image_ids, return_index=True, return_inverse=True)
        if len(ids) == len(self):
            return self
        by_image = np.argsort(rows, kind="stable")
        groups = np.split(by_image, np.cumsum(np.bincount(rows))[:-1])
        order = np.argsort(first)
        x_NCT = np.stack([mean_of_repeats(self.x_NCT[groups[i]]) for i in order])
        return replace(self, x_NCT=x_NCT, image_ids=ids[order])

    def select(self, indices: Sequence[int] | np.ndarray) -> Trials:
        """Return the trials `indices` (ints or a mask), in that order."""
        indices = np.asarray(indices)
        if indices.size == 0:
            indices = indices.astype(int)
        return replace(self, x_NCT=self.x_NCT[indices], image_ids=self.image_ids[indices])

    def pick(self, ch_names: Iterable[str]) -> Trials:
        """Return the channels named, in that order. Raises HvfError naming those that are not there."""
        ch_names = tuple(ch_names)
        missing = [name for name in ch_names if name not in self.ch_names]
        if missing:
            raise HvfError(f"{self.subject} has no channel {_some(missing)}; it has {_some(self.ch_names)}")
        index = [self.ch_names.index(name) for name in ch_names]
        return replace(self, x_NCT=self.x_NCT[:, index], ch_names=ch_names)

    def crop(self, tmin: float, tmax: float) -> Trials:
        """Return the samples in [tmin, tmax) s. Raises HvfError if the recording does not hold that window."""
        start, stop = (round((t - self.tmin) * self.sfreq) for t in (tmin, tmax))
        if not 0 <= start < stop <= self.x_NCT.shape[2]:
            end = self.tmin + self.x_NCT.shape[2] / self.sfreq
            raise HvfError(f"cannot crop to [{tmin:g}, {tmax:g}) s: the trials run over [{self.tmin:g}, {end:g}) s")
        return replace(self, x_NCT=self.x_NCT[:, :, start:stop], tmin=self.tmin + start / self.sfreq)

    def aligned_to(self, images: ImageSet) -> Trials:
        """Return one row per image of `images`, in its order; repeats are averaged, other images' trials dropped.

        Raises HvfError naming the images that no trial answers.
        """
        averaged = self.average()
        row = {name: i for i, name in enumerate(averaged.image_ids.tolist())}
        missing = [name for name in images.ids if name not in row]
        if missing:
            raise HvfError(f"{len(missing)} of {len(images)} images have no trial of {self.subject}: {_some(missing)}")
        return averaged.select([row[name] for name in images.ids])

    def permuted(self, seed: int) -> Trials:
        """Return the same trials with the image ids shuffled among them: what a decoder scores by chance."""
        return replace(self, image_ids=np.random.default_rng(seed).permutation(self.image_ids))

    def check(self) -> None:
        """Raise HvfError, naming the channels, if any holds NaN, infinity or never changes."""
        if self.x_NCT.size == 0:
            raise HvfError(f"the trials of {self.subject} are empty: {self.x_NCT.shape} (trials, channels, samples)")
        low_C, high_C = self.x_NCT.min(axis=(0, 2)), self.x_NCT.max(axis=(0, 2))  # NaN and infinity show in these
        for bad_C, what in (
            (~(np.isfinite(low_C) & np.isfinite(high_C)), "NaN or infinite values"),
            (low_C == high_C, "the same value in every trial and sample"),
        ):
            if bad_C.any():
                names = [self.ch_names[i] for i in np.flatnonzero(bad_C)]
                plural = "channel" if len(names) == 1 else f"{len(names)} channels"
                raise HvfError(f"{plural} {_some(names)} of {self.subject}: {what}; repair or drop before decoding")

    def save(self, path: str | Path) -> None:
        """Write the trials to one safetensors file, whole or not at all."""
        meta = {"image_ids": self.image_ids.tolist(), "subject": self.subject, "sfreq": self.sfreq, "tmin": self.tmin}
        meta |= {"ch_names": self.ch_names, "kind": self.kind, "simulated": self.simulated}
        x_NCT = np.ascontiguousarray(self.x_NCT)
        write_atomic(Path(path), lambda temporary: save_file({"x_NCT": x_NCT}, temporary, {"trials": json.dumps(meta)}))

    @classmethod
    def load(cls, path: str | Path) -> Trials:
        """Read what `save` wrote. Raises HvfError if the file is absent or something else."""
        try:
            with safe_open(path, framework="numpy") as file:
                meta = json.loads(file.metadata()["trials"])
                return cls(x_NCT=file.get_tensor("x_NCT"), **meta)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise HvfError(f"{path} is not a file of trials written by hvf: {error}") from error


def mean_of_repeats(x_RCT: np.ndarray) -> np.ndarray:
    """Average the repeats of one image: float32 (R, C, T) -> (C, T), summed in float64."""
    return x_RCT.mean(axis=0, dtype=np.float64).astype(np.float32)


def read_trials(path: str | Path, images: ImageSet, sfreq: float = 1.0, tmin: float = 0.0) -> Trials:
    """Read responses whose rows are in the order of `images`.

    Parameters
    ----------
    path : `.npy` of numbers, (N, C) or (N, C, T), or an MNE epochs file `-epo.fif`
    images : ImageSet of N images
    sfreq, tmin : Hz and s, for a `.npy` with samples; an epochs file knows its own.

    Raises
    ------
    HvfError
        If the file cannot be read, is a pickle, has another number of rows than there are images (saying so if it is
        transposed), or has channels with NaN, infinite or constant values (naming them).
    """
    path = Path(path)
    if not path.is_file():
        raise HvfError(f"there is no file of trials at {path}")
    if path.name.endswith((".fif", ".fif.gz")):
        trials = _read_epochs(path, images)
    elif path.suffix == ".npy":
        trials = _read_array(path, images, sfreq, tmin)
    else:
        raise HvfError(f"cannot read trials from {path}: give a .npy, (N, C) or (N, C, T), or an MNE -epo.fif")
    trials.check()
    return trials


def concept_split(
    concepts: Sequence[str], fraction: float, seed: int, *, at_least: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Split items into two parts that share no concept; return their indices (train, validation), each ascending.

    `fraction` of the concepts, at least `at_least` and never all, go to the second part.
    Raises HvfError if there are too few concepts for that.
    """
    concepts_N = np.asarray(concepts, dtype=str)
    names = np.unique(concepts_N)
    n_val = max(at_least, round(fraction * len(names)))
    if not 0 < n_val < len(names):
        raise HvfError(f"cannot set {n_val} concepts aside for validation: there are {len(names)}")
    chosen = np.random.default_rng(seed).permutation(names)[:n_val]
    held_out = np.isin(concepts_N, chosen)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _read_array(path: Path, images: ImageSet, sfreq: float, tmin: float) -> Trials:
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
    _check_count(x.shape, images, path)
    x_NCT = x[:, :, None] if x.ndim == 2 else x
    names = tuple(f"{i:03d}" for i in range(x.shape[1]))
    ids = np.asarray(images.ids)
    return Trials(x_NCT, ids, path.stem, 1.0 if x.ndim == 2 else sfreq, tmin, names, "features")


def _read_epochs(path: Path, images: ImageSet) -> Trials:
    try:
        epochs = mne.read_epochs(path, preload=True, verbose="error")
        picks = mne.pick_types(epochs.info, meg=True, eeg=True, ref_meg=False, exclude="bads")  # pyright: ignore[reportArgumentType]
        x_NCT = epochs.get_data(picks=picks, verbose="error") if len(picks) else None
    except Exception as error:  # MNE's reader raises many kinds, struct.error among them, on a damaged file
        raise HvfError(f"cannot read {path} as MNE epochs: {error}") from error
    if x_NCT is None:
        raise HvfError(f"{path} has no good EEG or MEG channel; its types are {_some(set(epochs.get_channel_types()))}")
    _check_count(x_NCT.shape, images, path)
    names = tuple(epochs.ch_names[i] for i in picks)
    kind = "eeg" if {mne.channel_type(epochs.info, i) for i in picks} == {"eeg"} else "meg"
    ids = np.asarray(images.ids)
    return Trials(x_NCT, ids, path.stem, float(epochs.info["sfreq"]), float(epochs.tmin), names, kind)


def _check_count(shape: tuple[int, ...], images: ImageSet, path: Path) -> None:
    if shape[0] == len(images):
        return
    message = f"{path} has {shape[0]} trials but there are {len(images)} images"
    if len(shape) == 2 and shape[1] == len(images):
        message += "; it looks transposed (channels, images): save x.T, images first"
    elif len(images) in shape[1:]:
        axis = shape.index(len(images), 1)
        message += f"; axis {axis} has {len(images)}: save np.moveaxis(x, {axis}, 0), images first"
    else:
        message += "; give one trial per image, in the images' order"
    raise HvfError(message)


def _some(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
