"""A study: trials and images of one subject, split into training and test, from the simulator or from files.

Each kind of study that `data.study` may name is registered at the end of this file.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import mne
import numpy as np

from hvf.config import SUBJECTS, DataConfig, HvfError
from hvf.data.datasets import paths_by_number
from hvf.data.images.concepts import concept_key, concept_name, unified
from hvf.data.images.image_set import ImageSet
from hvf.data.images.matching import ImageNames, stem
from hvf.data.trials.provenance import is_simulated, modality
from hvf.data.trials.reading import read_trials
from hvf.data.trials.splitting import check_apart, grouped, held_out, without_neighbours
from hvf.data.trials.store import check_store, is_prepared
from hvf.data.trials.trials import Trials
from hvf.files.guard import guarded
from hvf.registry import STUDIES, feature_file, listed
from hvf.runs import cache_dir
from hvf.simulation import captioned, head, rendering
from hvf.simulation import study as simulated
from hvf.simulation.brain import RESPONSES_VERSION
from hvf.simulation.stimuli import store
from hvf.vision.feature_images import open_image_set


@dataclass(frozen=True, eq=False)
class Study:
    """One subject's data: averaged trials, row i of which is the response to image i of the set beside them.

    Every trial is marked "train" or "test" (`Trials.splits`), so that a fit can refuse test trials.
    """

    name: str
    train: Trials
    test: Trials
    train_images: ImageSet
    test_images: ImageSet
    simulated: bool
    note: str
    open_single_trials: Callable[[str, ImageSet], Trials] | None = None  # of a part's images; None: there are none

    def single_trials(self, part: Literal["train", "test"], images: ImageSet) -> Trials:
        """The trials of some images of a part before repeats were averaged; the averaged ones where nobody has them."""
        if self.open_single_trials is not None:
            return self.open_single_trials(part, images)
        return (self.train if part == "train" else self.test).paired_with(images)


@dataclass(frozen=True)
class StudyType:
    """How one kind of study is opened."""

    open: Callable[[DataConfig], Study]  # everything checked
    subjects: Callable[[DataConfig], list[int]]  # numbers of all
    training_trials: Callable[[DataConfig, Study, Sequence[int]], list[Trials]]  # of each, averaged over repeats
    channel_info: Callable[[DataConfig], mne.Info | None] = lambda data: None  # with positions; None: names alone
    categories: Callable[[], dict[str, str]] = dict  # {concept: superordinate category}


def _marked(trials: Trials, split: str, images: ImageSet) -> Trials:
    """The same trials, answers to `images`, marked as "train" or "test" and with the images' concepts."""
    concept = dict(zip(images.ids, images.concepts, strict=True))
    concepts = [concept[name] for name in trials.image_ids.tolist()]
    return trials.replace(splits=[split] * len(trials), concepts=concepts)


def open_study(data: DataConfig) -> Study:
    """Open the study that `data` names, repeats averaged and everything checked.

    No test image, and no image of a test concept, is among the training images. Raises HvfError if the study or subject
    does not exist, or the user's files are at fault (`read_trials`, `open_image_set`).
    """
    return STUDIES[data.study].open(data)


def channel_info(data: DataConfig) -> mne.Info | None:
    """The channels with their places in space: a simulated helmet's, or those of the user's epochs; None of others."""
    return STUDIES[data.study].channel_info(data)


def superordinate_categories(data: DataConfig) -> dict[str, str]:
    """The superordinate category of every concept of a study, such as "vehicle"; empty where nobody knows any."""
    return STUDIES[data.study].categories()


def stimuli(data: DataConfig) -> tuple[ImageSet, ImageSet]:
    """The training and the test images of a simulated study, without its trials."""
    return simulated.simulated_stimuli(data)


def pretraining_images(exemplars: int = 6, size: int = 64) -> ImageSet:
    """Captioned renderings for training the mini models, (N, size, size, 3); none of them is in a simulated study."""
    return captioned.pretraining_images(exemplars, size)


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
        f"{len(test_images)} test images of other concepts x {simulated.repeats_of(data, 'test')} repeats"
    )
    train, test = _marked(train, "train", train_images), _marked(test, "test", test_images)

    def single_trials(part: str, images: ImageSet) -> Trials:
        trials = simulated.simulate_trials(data, images, data.subject, part)
        return _marked(trials if data.ch_names is None else trials.pick(data.ch_names), part, images)

    return Study(data.study, train, test, train_images, test_images, True, note, single_trials)


def _cached_trials(data: DataConfig, images: ImageSet, split: str) -> Trials:
    """Averaged simulated trials, cached under everything they depend on, the simulator's version included."""
    repeats = simulated.repeats_of(data, split)
    settings = [data.study, data.subject, split, repeats, data.sfreq, data.tmin, data.tmax, images.digest]
    key = hashlib.sha256(json.dumps([settings, RESPONSES_VERSION]).encode()).hexdigest()[:16]
    path = cache_dir() / "trials" / f"{data.study}-{data.subject:02d}-{split}-{key}.npy"
    if path.is_file():
        try:
            check_store(path)
            return Trials.load(path)
        except HvfError:  # damaged: make it again
            pass
    trials = simulated.simulate_trials(data, images, data.subject, split, averaged=True)
    store(path, trials.save)
    return trials


def _files_study(data: DataConfig) -> Study:
    """A study of the user's files: trials that name their images or follow their order, and may name their split."""
    if data.trials is None or data.images is None:
        raise HvfError("a study from files needs both trials (.npy or -epo.fif) and images (a folder or a zip)")
    path = store_path(data.trials, data.subject)
    images = open_image_set(data.images, data.background)
    prepared = is_prepared(path)
    if prepared:
        trials = _prepared_trials(data, path)
        ImageNames(images.ids, str(data.images)).indices(np.unique(trials.image_ids).tolist(), path.name)
        trials = trials.paired_with(images)
    else:
        trials = read_trials(path, images, sfreq=data.sfreq, tmin=data.tmin)
        if path.suffix.lower() != ".npy":  # plain numbers have the rate and the window of the settings
            trials = _in_window(trials, data)
        trials = trials if data.ch_names is None else trials.pick(data.ch_names)
        if trials.splits is not None and not {"train", "test"} <= {*trials.splits.tolist()}:
            if "test" in trials.splits:
                raise HvfError(f"{path.name}: every trial is marked as test: there is none to train on")
            trials = trials.replace(splits=None)
    shown = with_concepts(images, trials)
    if trials.splits is None:
        train_index, test_index = held_out(grouped(shown), data.test_images, data.split_seed)
        how = f"split {data.split_seed}"
    else:
        row = {name: i for i, name in enumerate(shown.ids)}
        train_index, test_index = (
            sorted({row[name] for name in trials.split(part).image_ids.tolist()}) for part in ("train", "test")
        )
        how = "split as prepared" if prepared else "split as in the metadata"
    of_part = {"train": _of_part(trials, "train", data), "test": _of_part(trials, "test", data)}
    near = ""
    if data.neighbours:
        asked = of_part["test"].select(np.isin(of_part["test"].image_ids, np.asarray(shown.ids)[test_index]))
        taught = of_part["train"].select(np.isin(of_part["train"].image_ids, np.asarray(shown.ids)[train_index]))
        of_part["train"] = without_neighbours(taught, asked, data.neighbours, path.name)
        left = len(taught) - len(of_part["train"])
        near = f", {left} of {len(taught)} training trials left out, at most {data.neighbours} from a test trial"
    train_images, test_images = (
        part_images.select(np.flatnonzero(np.isin(part_images.ids, of_part[part].image_ids)))
        for part, part_images in (("train", shown.select(train_index)), ("test", shown.select(test_index)))
    )
    check_apart(train_images, test_images, path.name)
    train, test = (
        _marked(_of_images(of_part[part], part_images), part, part_images)
        for part, part_images in (("train", train_images), ("test", test_images))
    )
    history = trials.history or {}
    simulated = trials.simulated or (
        not prepared and (_in_simulated_folder(path) or _in_simulated_folder(_place_of(data.images)))
    )
    origin = f"{'simulated ' if simulated else ''}{modality(trials.kind)}"
    recipe = f"recipe {history['recipe']}, " if history.get("recipe") else ""
    notes = "" if prepared else "".join(f"; {note}" for note in history.get("notes", []))
    sessions = "".join(
        f", {part} trials of session {', '.join(map(str, numbers))}"
        for part, numbers in (("training", data.train_sessions), ("test", data.test_sessions))
        if numbers is not None
    )
    note = (
        f"{path.name}: {origin}, {trials.subject}, {recipe}{len(train)} training and {len(test)} test images of other "
        f"concepts ({how}){sessions}{near}, {len(trials.ch_names)} channels{notes}"
    )

    def single_trials(part: str, images: ImageSet) -> Trials:
        return _marked(of_part[part].select(np.isin(of_part[part].image_ids, images.ids)), part, images)

    return Study(path.stem, train, test, train_images, test_images, simulated, note, single_trials)


def _of_part(trials: Trials, part: str, data: DataConfig) -> Trials:
    """The trials of a split, where there is one, and of the sessions that are asked for."""
    trials = trials if trials.splits is None else trials.split(part)
    sessions, option = data.test_sessions, "--data.test-sessions"
    if part == "train":
        sessions, option = data.train_sessions, "--data.train-sessions"
    if sessions is None:
        return trials
    session_N = np.full(len(trials), -1) if trials.sessions is None else trials.sessions
    there = set() if trials.sessions is None else set(session_N.tolist())
    if not sessions:
        raise HvfError(f"{option} names no session: leave it out for all, or give their numbers")
    if missing := sorted(set(sessions) - there):
        known = f"of sessions {', '.join(map(str, sorted(there)))}" if there else "without session numbers"
        raise HvfError(f"{option} asks for {listed(map(str, missing))}: the {part} trials are {known}")
    return trials.select(np.isin(session_N, sessions))


def _of_images(trials: Trials, images: ImageSet) -> Trials:
    """One row per image of a part of the set that the trials were paired with: the very ids count, not likenesses."""
    return trials.select(np.isin(trials.image_ids, images.ids)).aligned_to(images)


def _place_of(images: str) -> Path:
    """The folder, zip or file of features that `data.images` names."""
    file = feature_file(images)
    return Path(file.path if file else images)


def _in_simulated_folder(path: Path) -> bool:
    """Whether a file lies in a folder that `hvf data simulate` wrote: plain arrays carry no mark of their own."""
    return any(map(is_simulated, path.resolve().parents))


def store_path(path: str | Path, subject: int) -> Path:
    """The file of trials: `path`, or in a folder of prepared subjects that of `subject`; HvfError if it has none."""
    if not (path := Path(path)).is_dir():
        return path
    stores = subjects(path)
    if subject not in stores:
        known = ", ".join(map(str, stores)) or "none"
        raise HvfError(f"{path} holds no prepared trials of subject {subject} (sub-NN_trials.npy), but of: {known}")
    return stores[subject]


def subjects(folder: Path) -> dict[int, Path]:
    """The prepared subjects in a folder, by number: {8: folder/sub-08_trials.npy, ...}."""
    named = {p: re.fullmatch(r"sub-0*(\d+)_trials\.npy", p.name) for p in sorted(folder.iterdir())}
    return paths_by_number((int(match[1]), p) for p, match in named.items() if match and is_prepared(p))


def _prepared_trials(data: DataConfig, path: Path) -> Trials:
    check_store(path)  # before anything is computed
    trials = _in_window(Trials.load(path), data)
    return trials if data.ch_names is None else trials.pick(data.ch_names)


def _in_window(trials: Trials, data: DataConfig) -> Trials:
    """The trials cropped to data.tmin and data.tmax, so far as these were asked for."""
    default = DataConfig()
    asked = {name for name in ("sfreq", "tmin", "tmax") if getattr(data, name) != getattr(default, name)}
    asked |= set(data.asked) or ({"tmin", "tmax"} if asked & {"tmin", "tmax"} else set())
    if "sfreq" in asked and not math.isclose(data.sfreq, trials.sfreq, rel_tol=1e-6):
        raise HvfError(
            f"the trials of {trials.subject} have {trials.sfreq:g} Hz but --data.sfreq asks for {data.sfreq:g} Hz: "
            "prepare them with a recipe of that rate"
        )
    if not asked & {"tmin", "tmax"}:
        return trials
    end = trials.tmin + trials.shape[2] / trials.sfreq
    try:
        return trials.crop(*(data.tmin if "tmin" in asked else trials.tmin, data.tmax if "tmax" in asked else end))
    except HvfError as error:
        raise HvfError(f"--data.tmin and --data.tmax: {error}; prepare them with a recipe of that window") from error


def with_concepts(images: ImageSet, trials: Trials) -> ImageSet:
    """The images that were shown, with the concepts of the trials, or else those of their folders, each spelt one way.

    The concept of an image that lies by itself is its own name.
    """
    part = images.select(np.flatnonzero(np.isin(images.ids, np.unique(trials.image_ids))))
    concept_of = dict(zip(part.ids, part.concepts, strict=True))
    if trials.concepts is not None:
        pairs = list(dict.fromkeys(zip(trials.image_ids.tolist(), trials.concepts.tolist(), strict=True)))
        concept_of = dict(pairs)
        for name, concept in pairs:
            if concept_key(concept_of[name]) != concept_key(concept):
                raise HvfError(
                    f"the trials say that {name} shows {concept!r}, and also that it shows {concept_of[name]!r}"
                )
        of_folders = len({concept_key(concept) for concept in part.concepts})
        if (
            1 < of_folders < len(set(concept_of.values())) == len(part)
        ):  # the folders say more than a name for each image
            concept_of = dict(zip(part.ids, part.concepts, strict=True))
    own = [concept_of[name] == stem(name) for name in part.ids]
    spelt, _ = unified("" if alone else concept_of[name] for name, alone in zip(part.ids, own, strict=True))
    part.concepts = tuple(
        stem(name) if alone else concept_name(concept)
        for name, alone, concept in zip(part.ids, own, spelt, strict=True)
    )
    return part


def other_subjects(
    data: DataConfig, study: Study, numbers: Sequence[int] = ()
) -> tuple[Trials, np.ndarray, tuple[str, ...]]:
    """Leave one subject out: `trials_of_subjects` of all but that of `study`, or of those of these numbers.

    Raises HvfError if there is no other, or one does not fit.
    """
    others = [number for number in numbers or STUDIES[data.study].subjects(data) if number != data.subject]
    if not others:
        raise HvfError(f"there is no other subject than {data.subject} in {data.trials or data.study}")
    trials, person_N, names = trials_of_subjects(data, study, others)
    subject = trials.subject if numbers else f"all but {study.train.subject}"
    return trials.replace(subject=subject), person_N, names


def trials_of_subjects(
    data: DataConfig, study: Study, numbers: Sequence[int] = ()
) -> tuple[Trials, np.ndarray, tuple[str, ...]]:
    """The training trials (N) of several subjects, averaged within each, whose each is, from 0 (N), and their names.

    They are responses to images that `study` trains on. By default all subjects of the study. Raises HvfError for one
    who is not there, or does not fit.
    """
    known = STUDIES[data.study].subjects(data)
    numbers = sorted(numbers or known)
    if missing := [number for number in numbers if number not in known]:
        there = ", ".join(map(str, known)) or "none"
        raise HvfError(f"{data.trials or data.study} has no subject {missing[0]}; there are {there}")
    parts = STUDIES[data.study].training_trials(data, study, numbers)
    person_N = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return Trials.concatenate(parts), person_N, tuple(f"sub-{number:02d}" for number in numbers)


def _simulated_subjects(data: DataConfig) -> list[int]:
    return list(range(1, SUBJECTS[data.study] + 1))


def _simulated_training(data: DataConfig, study: Study, numbers: Sequence[int]) -> list[Trials]:
    return [_simulated_study(replace(data, subject=number)).train for number in numbers]


def _subjects_of_files(data: DataConfig) -> list[int]:
    folder = Path(data.trials or "")
    if not folder.is_dir():
        raise HvfError("leaving one subject out needs a folder of prepared subjects: --trials DIR --subject N")
    return list(subjects(folder))


def _training_of_files(data: DataConfig, study: Study, numbers: Sequence[int]) -> list[Trials]:
    parts: list[Trials] = []
    everything, stores = open_image_set(data.images or "", data.background), subjects(Path(data.trials or ""))
    for number in numbers:
        trials = _prepared_trials(data, stores[number]).pick(study.train.ch_names)
        trials = _of_part(trials, "train", data).paired_with(everything)
        parts.append(trials.select(np.isin(trials.image_ids, study.train_images.ids)).average())
    return parts


def _helmet(data: DataConfig) -> mne.Info:
    return head.sensor_info("meg", data.sfreq)


def _info_of_epochs(data: DataConfig) -> mne.Info | None:
    if data.trials is None or not data.trials.lower().endswith((".fif", ".fif.gz")):
        return None
    path = Path(data.trials)
    return guarded(path, "epochs", lambda: mne.read_epochs(path, preload=False, verbose="error")).info


def _simulated_categories() -> dict[str, str]:
    return {concept.name: concept.category for concept in rendering.concepts()}


_SIMULATED = _simulated_study, _simulated_subjects, _simulated_training
STUDIES.register("simulated-eeg")(StudyType(*_SIMULATED, categories=_simulated_categories))
STUDIES.register("simulated-eeg-hard")(StudyType(*_SIMULATED, categories=_simulated_categories))
STUDIES.register("simulated-meg")(StudyType(*_SIMULATED, _helmet, _simulated_categories))
STUDIES.register("files")(StudyType(_files_study, _subjects_of_files, _training_of_files, _info_of_epochs))
