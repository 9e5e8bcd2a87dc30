"""The simulated EEG study as raw files, in the layout in which THINGS-EEG2 is published (Gifford et al. 2022).

Letters: N images, C channels, T samples, F features, J sources.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.montages import EEG_CHANNELS
from hvf.runs import track
from hvf.simulation.brain import Brain, simulated_brain
from hvf.simulation.continuous import EEG_BAND, LEAD, RESPONSE, TAIL, onsets, record
from hvf.simulation.raw_files import (
    checked_settings,
    generator,
    image_drive,
    image_name,
    new_folder,
    response_kernel,
    save_image,
    write_readme,
)
from hvf.simulation.study import repeats_of, simulated_stimuli

EEG_SFREQ = 1000  # Hz
SOA = 0.2  # s from one image to the next
JITTER = 0.003  # s, at most, of an onset
TARGET = 99999
TARGET_SHARE = 20  # one target among so many images


def write_things_eeg(
    out: str | Path,
    subjects: Iterable[int] = (8,),
    *,
    sessions: int = 4,
    dtype: str = "float64",
    seed: int = 0,
    **sizes: int,
) -> Path:
    """Write the simulated EEG study in the layout of THINGS-EEG2; return its root `out`.

    `raw_data/sub-XX/ses-YY/raw_eeg_{training,test}.npy` (pickled dict; 63 channels in V and `stim`, 1000 Hz),
    `image_metadata.npy` and `image_set/{training,test}_images/NNNNN_concept/*.jpg`. Images follow each other every 200
    ms, so that responses overlap. Sessions 1 and 2 together show all training images, 3 and 4 show them again. One
    session of one part is in memory at a time, and its pickle.

    Parameters
    ----------
    out : path-like
        A new or empty folder.
    subjects : iterable of int
    sessions : int
        Even; the repeats divide among them.
    dtype : str
        "float64" or "float32", of the recordings.
    seed : int
        Of the order and the noise.
    **sizes : int
        train_concepts, images_per_concept, test_concepts, train_repeats and test_repeats as in `DataConfig`; the
        published ones are 1654, 10, 200, 4 and 80.

    Raises
    ------
    HvfError
        `out` is in use or the disk has too little room, or the repeats do not divide among the sessions.
    """
    subjects, out = tuple(subjects), Path(out)
    data = checked_settings(subjects, study="simulated-eeg", **sizes)
    train_repeats, test_repeats = data.train_repeats, repeats_of(data, "test")
    if sessions < 2 or sessions % 2 or train_repeats % (sessions // 2) or test_repeats % sessions:
        raise HvfError(
            f"{train_repeats} training and {test_repeats} test repeats do not divide among {sessions} sessions: give "
            "an even number of sessions, training repeats a multiple of half of it, test repeats of all of it"
        )
    if dtype not in ("float32", "float64"):
        raise HvfError(f"recordings are float32 or float64, not {dtype!r}")
    train, test = (_by_concept(images) for images in simulated_stimuli(data))
    events = len(train) * train_repeats + len(test) * test_repeats
    n_bytes = len(subjects) * events * SOA * EEG_SFREQ * 1.06 * 64 * np.dtype(dtype).itemsize
    n_bytes += (len(train) + len(test)) * 4096
    with new_folder(out, n_bytes) as root:
        write_readme(root, "THINGS-EEG2", seed)
        _write_eeg_images(root, train, test)
        drive_NF = {"training": image_drive(train), "test": image_drive(test)}
        for subject, session in track([(i, s) for i in subjects for s in range(sessions)], "writing simulated EEG"):
            brain = simulated_brain(data.study, subject, float(EEG_SFREQ), 0.0, round(RESPONSE * EEG_SFREQ))
            kernel = response_kernel(brain)
            folder = root / "raw_data" / f"sub-{subject:02d}" / f"ses-{session + 1:02d}"
            folder.mkdir(parents=True)
            half = np.array_split(generator(seed, subject, session // 2).permutation(len(train)), 2)[session % 2]
            shown = {
                "training": np.repeat(half, train_repeats // (sessions // 2)),
                "test": np.repeat(np.arange(len(test)), test_repeats // sessions),
            }
            for part, images in shown.items():
                rng = generator(seed, subject, session, part)
                recording = {
                    "raw_eeg_data": _record(brain, kernel, drive_NF[part], _with_targets(images, rng), rng, dtype),
                    "ch_names": [*EEG_CHANNELS, "stim"],
                    "ch_types": ["eeg"] * len(EEG_CHANNELS) + ["stim"],
                    "sfreq": EEG_SFREQ,
                    "highpass": EEG_BAND[0],
                    "lowpass": EEG_BAND[1],
                }
                np.save(folder / f"raw_eeg_{part}.npy", np.array(recording, dtype=object))
                del recording
    return out


def _by_concept(images: ImageSet) -> ImageSet:
    """The images in the order of their event codes: concepts sorted by name, each one's images together."""
    return images.select(sorted(range(len(images)), key=lambda i: (images.concepts[i], i)))


def _write_eeg_images(root: Path, train: ImageSet, test: ImageSet) -> None:
    """Write the pictures and image_metadata.npy; folders are numbered within a part, `_THINGS` within all concepts."""
    things = {str(name): i for i, name in enumerate(np.unique((*train.concepts, *test.concepts)), 1)}
    metadata: dict[str, list[str]] = {}
    for part, folder, images in (("train", "training_images", train), ("test", "test_images", test)):
        _, first, number = np.unique(images.concepts, return_index=True, return_inverse=True)
        folders = [f"{k + 1:05d}_{name}" for k, name in zip(number, images.concepts, strict=True)]
        files = [image_name(name, int(i - first[number[i]]) + 1) for i, name in enumerate(images.concepts)]
        for i in track(range(len(images)), f"writing the {part} images"):
            save_image(images, i, root / "image_set" / folder / folders[i] / files[i])
        metadata[f"{part}_img_concepts"] = folders
        metadata[f"{part}_img_concepts_THINGS"] = [f"{things[name]:05d}_{name}" for name in images.concepts]
        metadata[f"{part}_img_files"] = files
    np.save(root / "image_metadata.npy", np.array(metadata, dtype=object))


def _with_targets(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The images in random order with targets (-1) among them."""
    return rng.permutation(np.concatenate([images, np.full(max(1, len(images) // TARGET_SHARE), -1)]))


def _record(
    brain: Brain, kernel: np.ndarray, drive_NF: np.ndarray, shown: np.ndarray, rng: np.random.Generator, dtype: str
) -> np.ndarray:
    """Simulate one part of a session, (C + 1, samples): noise, the response to each image shown, and `stim`."""
    onset = onsets(len(shown), EEG_SFREQ, SOA, JITTER, rng)
    n_times = round((len(shown) * SOA + LEAD + TAIL) * EEG_SFREQ)
    x = np.zeros((len(brain.ch_names) + 1, n_times), dtype)
    record(brain, kernel, drive_NF, shown, onset, EEG_SFREQ, rng, x[:-1])
    x[-1, onset] = np.where(shown < 0, TARGET, shown + 1)
    return x
