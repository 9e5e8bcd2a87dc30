"""The simulated EEG study as raw files, in the layout in which THINGS-EEG2 is published (Gifford et al. 2022).

Letters: N images, C channels, T samples, F features, J sources.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import scipy.fft

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.montages import EEG_CHANNELS
from hvf.runs import track
from hvf.simulation.brain import TRIAL_GAIN_SD, Brain, simulated_brain
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
EEG_BAND = (0.01, 100)  # Hz, of the amplifier
SOA = 200  # ms from one image to the next
JITTER = 3  # ms, at most, of an onset
TARGET = 99999
TARGET_SHARE = 20  # one target among so many images
LEAD, TAIL = 1000, 1500  # samples before the first and after the last onset
RESPONSE = 800  # samples: the simulator's responses are over by then
DRIFT_RMS = 20e-6  # V, below 0.5 Hz
OFFSET_SD = 30e-6  # V, of each electrode


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
    n_bytes = len(subjects) * events * SOA * 1.06 * 64 * np.dtype(dtype).itemsize + (len(train) + len(test)) * 4096
    with new_folder(out, n_bytes) as root:
        write_readme(root, "THINGS-EEG2", seed)
        _write_eeg_images(root, train, test)
        drive_NF = {"training": image_drive(train), "test": image_drive(test)}
        for subject, session in track([(i, s) for i in subjects for s in range(sessions)], "writing simulated EEG"):
            brain = simulated_brain(data.study, subject, float(EEG_SFREQ), 0.0, RESPONSE)
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
    """Simulate one part of a session, (C + 1, samples): noise, the response to each image shown, and `stim`.

    Responses at 1000 Hz are computed again each time an image is shown (26 MFLOP), a hundred at once, which costs less
    than keeping them all.
    """
    onset = LEAD + np.arange(len(shown)) * SOA + rng.integers(-JITTER, JITTER + 1, len(shown))
    gain = 1 + TRIAL_GAIN_SD * rng.standard_normal(len(shown), dtype=np.float32)
    x = np.zeros((len(brain.ch_names) + 1, len(shown) * SOA + LEAD + TAIL), dtype)
    _add_noise(x[:-1], brain, rng)
    x[-1, onset] = np.where(shown < 0, TARGET, shown + 1)
    evoked_CT = brain.evoked_CT.astype(np.float32)
    for start in range(0, len(shown), 100):
        images, at = shown[start : start + 100], onset[start : start + 100]
        drive = np.where(images[:, None] < 0, np.float32(0), drive_NF[images])  # a target: the common response alone
        sum_CT = np.zeros((len(evoked_CT), at[-1] - at[0] + RESPONSE), np.float32)
        for response_CT, g, i in zip(
            (drive @ kernel).reshape(-1, *evoked_CT.shape), gain[start : start + 100], at - at[0], strict=True
        ):
            sum_CT[:, i : i + RESPONSE] += g * (response_CT + evoked_CT)
        x[:-1, at[0] : at[-1] + RESPONSE] += sum_CT
    return x


def _add_noise(x_CT: np.ndarray, brain: Brain, rng: np.random.Generator) -> None:
    """Fill the channels with continuous noise of the simulator's spectrum, with drifts and offsets."""
    n = int(scipy.fft.next_fast_len(x_CT.shape[1], real=True) or 0)
    hz = np.fft.rfftfreq(n, 1 / EEG_SFREQ)

    def bins(low: float, high: float, power: np.ndarray | None = None, *, j: int = 1) -> tuple[slice, np.ndarray]:
        """Slice of a frequency band, and random Fourier coefficients there of `j` signals of unit variance."""
        band = slice(*np.searchsorted(hz, (low, high)))
        density = np.ones(band.stop - band.start) if power is None else power[band]
        drawn = rng.standard_normal((j, len(density), 2), dtype=np.float32).view(np.complex64)[..., 0]
        return band, drawn * (n / 2 * np.sqrt(density / density.sum())).astype(np.float32)

    brain_band = slice(0, int(np.searchsorted(hz, 40.0)))
    spectrum_CF = np.zeros((len(x_CT), brain_band.stop), np.complex64)
    floor = np.maximum(hz, EEG_BAND[0])
    # The two densities of `simulated_brain`.
    for field_CJ, power in (
        (brain.background_CJ, 1 / np.maximum(hz, 1.0) ** 1.4),
        (brain.alpha_CJ, np.exp(-(((hz - 10.0) / 1.5) ** 2))),
    ):
        band, drawn = bins(0.5, 40.0, power, j=field_CJ.shape[1])
        spectrum_CF[:, band] += field_CJ @ drawn
    for x_T, brain_F in zip(x_CT, spectrum_CF, strict=True):
        full = np.zeros(len(hz), np.complex64)
        full[brain_band] = brain_F
        band, drawn = bins(0.0, EEG_BAND[1])
        full[band] += drawn[0] * np.float32(brain.sensor_sd * 2**0.5)  # the simulator's own is white up to 50 Hz
        band, drawn = bins(EEG_BAND[0], 0.5, 1 / floor**2)
        full[band] += drawn[0] * np.float32(DRIFT_RMS)
        x_T[:] = scipy.fft.irfft(full, n)[: len(x_T)]
        x_T += OFFSET_SD * rng.standard_normal()
