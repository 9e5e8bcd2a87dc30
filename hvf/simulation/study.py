"""The simulated study: a THINGS-like study of rendered images, whose responses are simulated.

Letters: N images, C channels, T samples, R repeats.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np

from hvf.config import TEST_REPEATS, DataConfig, HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.trials.lazy import mean_of_repeats
from hvf.data.trials.trials import Trials
from hvf.files.tensors import read_tensors, write_tensors
from hvf.runs import cache_dir, track
from hvf.simulation import rendering
from hvf.simulation.brain import RESPONSES_VERSION, Brain, noisy_trials, response, sensors, simulated_brain
from hvf.simulation.features import WORKERS, noise_keys
from hvf.simulation.stimuli import MAX_TRAIN_CONCEPTS, N_TEST_CONCEPTS, rendered, store

TURNED = "/transposed"  # after the name of a stored array that lies the other way round in memory


def repeats_of(data: DataConfig, split: str) -> int:
    """Trials of an image of the "train" or "test" part."""
    if split == "train":
        return data.train_repeats
    return TEST_REPEATS[data.study] if data.test_repeats is None else data.test_repeats


def check_settings(data: DataConfig) -> None:
    """Raise HvfError, naming the valid range, if the simulated study has no such concepts, repeats or window."""
    for name, low, high in (
        ("train_concepts", 1, MAX_TRAIN_CONCEPTS),
        ("test_concepts", 1, N_TEST_CONCEPTS),
        ("images_per_concept", 1, 100),
        ("train_repeats", 1, 1000),
        ("test_repeats", 1, 1000),
    ):
        value = repeats_of(data, "test") if name == "test_repeats" else getattr(data, name)
        if not low <= value <= high:
            raise HvfError(f"{data.study}: {name} must lie between {low} and {high}, not {value}")
    if data.sfreq <= 0 or _n_samples(data) < 2:
        raise HvfError(f"{data.study}: the window [{data.tmin}, {data.tmax}) s at {data.sfreq} Hz holds no two samples")


def simulated_stimuli(data: DataConfig) -> tuple[ImageSet, ImageSet]:
    """The (training, test) images of the simulated study, 64 × 64, rendered once and then read from the cache.

    Test concepts are unseen in training and have one image each; a smaller study's training concepts are a prefix
    of the full one's 1,654.
    """
    check_settings(data)
    concepts = rendering.concepts()
    test = concepts[: data.test_concepts]
    train = concepts[N_TEST_CONCEPTS : N_TEST_CONCEPTS + data.train_concepts]
    return rendered(train, data.images_per_concept), rendered(test, 1)


def simulate_trials(data: DataConfig, images: ImageSet, subject: int, split: str, *, averaged: bool = False) -> Trials:
    """Simulate a subject's responses to images.

    Parameters
    ----------
    data : DataConfig
        Study, rate (Hz), window (s) and repeats.
    images : ImageSet
        Of concepts that the simulator knows.
    subject : int
        Counted from 1.
    split : str
        "train" or "test": `repeats_of(data, split)` trials of each image. An image's trials depend on (study, subject,
        split, image id) alone.
    averaged : bool
        Return the mean over repeats, exactly as `.average()` would, without holding the single trials.

    Returns
    -------
    Trials
        In the images' order, repeats of an image side by side.

    Raises
    ------
    HvfError
        The study has no such subject or split.
    """
    check_settings(replace(data, subject=subject))
    if split not in ("train", "test"):
        raise HvfError(f"the simulated study has the splits train and test, not {split!r}")
    repeats = repeats_of(data, split)
    n_times = _n_samples(data)
    brain = _built_once(data.study, subject, data.sfreq, data.tmin, n_times)
    kind = sensors(data.study)
    n_channels = len(brain.ch_names)
    keys = noise_keys(images)
    x_NCT = np.empty((len(images) * (1 if averaged else repeats), n_channels, n_times), np.float32)

    def simulate(i: int, response_CT: np.ndarray) -> None:
        x_RCT = noisy_trials(brain, response_CT, repeats, f"{data.study}/{subject}/{split}/{keys[i]}")
        if averaged:
            x_NCT[i] = mean_of_repeats(x_RCT)
        else:
            x_NCT[i * repeats : (i + 1) * repeats] = x_RCT

    with ThreadPoolExecutor(WORKERS) as pool:  # each image's noise has its own seed; drawing it lets others run
        for start in track(range(0, len(images), 200), f"simulating {kind.upper()}, subject {subject}, {split}"):
            block = range(start, min(start + 200, len(images)))
            list(pool.map(simulate, block, response(brain, images.select(block))))
    ids = np.asarray(images.ids) if averaged else np.repeat(np.asarray(images.ids), repeats)
    return Trials(x_NCT, ids, f"sub-{subject:02d}", data.sfreq, data.tmin, brain.ch_names, kind, simulated=True)


@cache
def _built_once(study: str, subject: int, sfreq: float, tmin: float, n_times: int) -> Brain:
    """A simulated brain, kept in the cache: MNE's forward model takes as long as all of its trials."""
    settings = [study, subject, sfreq, tmin, n_times, RESPONSES_VERSION]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    path = cache_dir() / "brains" / f"{study}-{subject:02d}-{key}.safetensors"
    with contextlib.suppress(OSError, HvfError, KeyError, TypeError):  # absent, damaged, of another version
        arrays, said = read_tensors(path)
        turned = {name.removesuffix(TURNED): x.T if name.endswith(TURNED) else x for name, x in arrays.items()}
        return Brain(ch_names=tuple(said["ch_names"]), sensor_sd=said["sensor_sd"], **turned)
    brain = simulated_brain(study, subject, sfreq, tmin, n_times)
    arrays = {name: x for name, x in vars(brain).items() if isinstance(x, np.ndarray)}
    # As they lie in memory: BLAS rounds a product otherwise where its factors lie in another order.
    arrays = {
        name if x.flags.c_contiguous else name + TURNED: np.ascontiguousarray(x if x.flags.c_contiguous else x.T)
        for name, x in arrays.items()
    }
    store(path, lambda p: write_tensors(p, arrays, {"ch_names": list(brain.ch_names), "sensor_sd": brain.sensor_sd}))
    return brain


def _n_samples(data: DataConfig) -> int:
    return round((data.tmax - data.tmin) * data.sfreq)
