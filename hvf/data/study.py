"""A study: trials and images of one subject, split into training and test, from the simulator or from files."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hvf.config import STUDIES, SUBJECTS, DataConfig, HvfError
from hvf.data import sensors, simulated
from hvf.data.stimuli import ImageSet, open_images
from hvf.data.trials import Trials, read_trials
from hvf.runs import cache_dir


@dataclass(frozen=True, eq=False)
class Study:
    """One subject's data: averaged trials, row i answering image i of the set beside them."""

    name: str
    train: Trials
    test: Trials
    train_images: ImageSet
    test_images: ImageSet
    simulated: bool
    note: str


def open_study(data: DataConfig) -> Study:
    """Open the study that `data` names, repeats averaged and everything checked.

    Raises HvfError on a study or subject that does not exist, and on any fault in a user's files (`read_trials`,
    `open_images`). No test image, and no image of a test concept, is among the training images.
    """
    if data.study in SUBJECTS:
        return _simulated_study(data)
    if data.study == "files":
        return _files_study(data)
    raise HvfError(f"there is no study {data.study!r}; choose one of {', '.join(STUDIES)}")


def _simulated_study(data: DataConfig) -> Study:
    simulated.check_settings(data)
    train_images, test_images = simulated.simulated_stimuli(data)
    train = _cached_trials(data, train_images, "train")
    test = _cached_trials(data, test_images, "test")
    if data.ch_names is not None:
        train, test = train.pick(data.ch_names), test.pick(data.ch_names)
    note = (
        f"simulated {train.kind.upper()}, {len(train.ch_names)} channels, {train.subject}: "
        f"{len(train_images)} training images of {data.train_concepts} concepts x {data.train_repeats} repeats, "
        f"{len(test_images)} test images of other concepts x {data.test_repeats} repeats"
    )
    return Study(data.study, train, test, train_images, test_images, simulated=True, note=note)


def _cached_trials(data: DataConfig, images: ImageSet, split: str) -> Trials:
    """Averaged simulated trials, kept in the cache under everything they depend on, the simulator's code included."""
    repeats = data.train_repeats if split == "train" else data.test_repeats
    settings = [data.study, data.subject, split, repeats, data.sfreq, data.tmin, data.tmax, images.digest]
    sources = [inspect.getsource(module) for module in (simulated, sensors)]
    key = hashlib.sha256(json.dumps([settings, sources]).encode()).hexdigest()[:16]
    path = cache_dir() / "trials" / f"{data.study}-{data.subject:02d}-{split}-{key}.safetensors"
    if path.is_file():
        try:
            return Trials.load(path)
        except HvfError:  # damaged: make it again
            pass
    trials = simulated.simulate_trials(data, images, data.subject, split, averaged=True)
    simulated.store(path, trials.save)
    return trials


def _files_study(data: DataConfig) -> Study:
    if data.trials is None or data.images is None:
        raise HvfError("a study from files needs both trials (.npy or -epo.fif) and images (a folder or a zip)")
    images = open_images(data.images)
    _check_order(images.ids, data.images)
    trials = read_trials(data.trials, images, sfreq=data.sfreq, tmin=data.tmin)
    if data.ch_names is not None:
        trials = trials.pick(data.ch_names)
    train_index, test_index = held_out(_groups(images), data.test_images, data.split_seed)
    train, test = trials.select(train_index), trials.select(test_index)
    train.check()
    concepts = len(set(images.concepts))
    note = (
        f"{Path(data.trials).name}: {len(train)} training and {len(test)} held-out images "
        f"({concepts} concepts, split {data.split_seed}), {len(trials.ch_names)} channels"
    )
    return Study(
        Path(data.trials).stem, train, test, images.subset(train_index), images.subset(test_index), False, note
    )


def _groups(images: ImageSet) -> tuple[str, ...]:
    """Each image's concept; the same picture under another name counts as the concept of the first, so as not to be
    trained on and tested. Decodes every image: a broken one is an HvfError that names it."""
    first: dict[str, str] = {}
    pairs = zip(images.content_hashes(), images.concepts, strict=True)
    return tuple(first.setdefault(content, concept) for content, concept in pairs)


def _check_order(ids: tuple[str, ...], where: str) -> None:
    """Refuse names whose order as text is not that of their numbers: nobody can tell which one the trials follow."""
    by_number = sorted(ids, key=lambda name: [(p.zfill(20) if p.isdigit() else p) for p in re.split(r"(\d+)", name)])
    for text, number in zip(sorted(ids), by_number, strict=True):
        if text != number:
            raise HvfError(
                f"the images in {where} have two orders, as text ({text} comes first) and by number ({number} does): "
                "pad the numbers with zeros, so that the trials pair with the right images"
            )


def held_out(concepts: tuple[str, ...], n_test: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose `n_test` items at random for the test; return the indices (train, test), each ascending.

    Where concepts repeat, whole concepts are drawn until there are enough items; what is left of the last one is
    dropped, so that no test concept is seen in training. Raises HvfError if too few items are left to train on.
    """
    concepts_N = np.asarray(concepts, dtype=str)
    n = len(concepts_N)
    if not 1 <= n_test < n:
        raise HvfError(f"cannot hold out {n_test} of {n} images; --test-images must lie between 1 and {n - 1}")
    names, first = np.unique(concepts_N, return_index=True)
    names = names[np.argsort(first)]  # the images' order, so that the draw does not hang on spelling
    rank = {name: i for i, name in enumerate(np.random.default_rng(seed).permutation(names).tolist())}
    rank_N = np.asarray([rank[name] for name in concepts_N.tolist()])
    drawn = np.argsort(rank_N, kind="stable")
    test = drawn[:n_test]
    train = np.flatnonzero(rank_N > rank_N[test[-1]])
    if len(train) < 2:
        raise HvfError(f"holding out {n_test} of {n} images leaves no other concept to train on; hold out fewer")
    return train, np.sort(test)
