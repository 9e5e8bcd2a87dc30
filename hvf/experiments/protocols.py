"""Model selection that cannot see test data, held by types.

`open_split` divides a study into a training part (`Split`) and a test part (`HeldOut`). `choose` fits candidates to the
`Split` alone and returns the `Choice` that was best on its validation concepts. A `HeldOut` keeps its trials to itself:
it ranks by a `Choice`, and returns ranks and figures only. `repeats` names the seeds or random splits of an experiment.
Letters: N trials, M images, d features, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, overload

import numpy as np
import torch

from hvf import alignment
from hvf.alignment import Alignment, TrainingSet
from hvf.alignment.epochs import retrieves_better
from hvf.config import SOLVED, SUBJECTS, Config, HvfError, with_settings
from hvf.data.images.image_set import ImageSet
from hvf.data.trials.trials import Trials
from hvf.decoding.confidence import BANK
from hvf.evaluation import retrieval
from hvf.evaluation.scaling import TRANSDUCTIVE, Scaling, centred_cosine, transductive_ranks
from hvf.experiments.descriptions import StudyInfo, Training
from hvf.experiments.results import Kind, Result, Row, selection
from hvf.population.feature_maps import FeatureMapAnalysis
from hvf.population.fitting import DinaAlignment
from hvf.study import open_study, other_subjects
from hvf.vision.cache import embed_all
from hvf.vision.feature_images import open_image_set

PROTOCOLS = ("intra", "loso")
_MADE_HERE = object()


class Fitted(Protocol):
    """A fitted model that can be chosen and tested: `Alignment` or `DinaAlignment`."""

    @property
    def best(self) -> dict[str, Any]:
        """The epoch or penalty chosen on validation images, and its validation_mrr, validation_top1, validation_n."""
        ...

    def embed_brain(self, trials: Trials) -> np.ndarray:
        """Embeddings (N, D) of trials."""
        ...

    def embed_images(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Embeddings (M, D) of images, from features {spec: (M, d)}."""
        ...


F = TypeVar("F", bound=Fitted)


class Choice(Generic[F]):
    """The candidate that was best on validation images, fitted. Only `choose` can make one."""

    def __init__(self, fitted: F, settings: Mapping[str, object], key: object) -> None:
        if key is not _MADE_HERE:
            raise HvfError("a Choice is made by hvf.experiments.protocols.choose, on validation images")
        self.alignment = fitted
        self.validation, chosen = selection(fitted.best)  # mrr, top1 and the number of images n
        self.settings: dict[str, Any] = {**settings, **chosen}  # of the candidate, with the epoch or penalty


class HeldOut:
    """Test trials and their images' features, which only a `Choice` can be tested on.

    Parameters
    ----------
    trials : Trials
        The N test trials; trial i is the response to image i.
    features : dict
        {spec: (N, d)} features of the test images, which are the gallery as well.
    study : StudyInfo, optional
        The study that they belong to; `result` needs it.
    concepts : sequence of str
        (N) What each test image shows.
    own : Trials, optional
        The person's training trials, by which a decoder of other people, each made alike, is moved to the person.
    """

    def __init__(
        self,
        trials: Trials,
        features: Mapping[str, np.ndarray],
        study: StudyInfo | None = None,
        concepts: Sequence[str] = (),
        own: Trials | None = None,
    ) -> None:
        self.__trials, self.__features, self.__own = trials, dict(features), own
        self.image_ids = tuple(trials.image_ids.tolist())
        self.study, self.concepts = study, tuple(concepts)

    def __len__(self) -> int:
        return len(self.image_ids)

    def row(self, *choices: Choice[Any], settings: Mapping[str, Any] | None = None) -> Row:
        """The row of a `Result` for one choice, or for several by their mean similarity.

        Validation figures are averaged over the choices; the settings are those of the first. Raises HvfError for
        anything but a `Choice`.
        """
        scores_NN = self.__scores(choices)
        names = choices[0].validation
        validation = {name: float(np.mean([choice.validation[name] for choice in choices])) for name in names}
        return Row.of_scores(scores_NN, validation, choices[0].settings, settings)

    def result(self, kind: Kind, config: Config, *, training: Training = "intra", run: str = "", main: str) -> Result:
        """The `Result` of one run on these items, before any row is tested; see `Result.start`."""
        if self.study is None:
            raise HvfError("these test trials do not belong to a study: open them with open_split")
        concepts = self.concepts
        return Result.start(kind, config, self.study, self.image_ids, concepts, training=training, run=run, main=main)

    def scaled(
        self, choice: Choice[Any], split: Split, config: Config, names: Sequence[str], of: str
    ) -> dict[str, Row]:
        """Rows of scaled scores (`hvf.evaluation.scaling`) of a choice, {scaling: row}.

        Parameters
        ----------
        choice : Choice
            Of `split` and `config`.
        split : Split
            Whose training trials are the bank of inductive scalings, and whose validation trials choose their k.
        config : Config
            The settings that the validation concepts follow from.
        names : sequence of str
            The scalings.
        of : str
            The name of the row of the cosine.
        """
        if not names:
            return {}
        cosine, fitted, rows = self.row(choice), self.__moved(choice.alignment), {}
        z_b_ND, z_f_ND = fitted.embed_brain(self.__trials), fitted.embed_images(self.__features)
        for name in names:
            if name in TRANSDUCTIVE:
                ranks_N, k = transductive_ranks(name, centred_cosine(z_b_ND, z_f_ND)), 0
            else:
                scaling = _scaling(name, choice, split, config)
                ranks_N, k = retrieval.ranks(scaling.scores(z_b_ND, z_f_ND)), scaling.k
            rows[name] = Row.of_scaling(name, ranks_N, cosine, of, k)
        return rows

    def __scores(self, choices: Sequence[Choice[Any]]) -> np.ndarray:
        """Mean similarity (N, N) of the choices, each of which must be a `Choice`."""
        if not choices:
            raise HvfError("test trials are ranked by a Choice: give at least one")
        for choice in choices:
            _refuse_unchosen(choice)
        fitted = [self.__moved(choice.alignment) for choice in choices]
        similarities = [
            retrieval.similarity(one.embed_brain(self.__trials), one.embed_images(self.__features)) for one in fitted
        ]
        return np.mean(similarities, axis=0)

    def __moved(self, fitted: Any) -> Any:
        """The fitted model; of several people who were made alike, moved to the person tested."""
        several = isinstance(fitted, Alignment) and fitted.needs_person
        return alignment.on_person(fitted, self.__own) if several and self.__own is not None else fitted

    def analyse_feature_maps(self, choice: Choice[DinaAlignment]) -> FeatureMapAnalysis:
        """What a chosen DINA's maps hold of the test trials. Raises HvfError for anything but a `Choice` of one."""
        _refuse_unchosen(choice)
        if not isinstance(choice.alignment, DinaAlignment):
            name = type(choice.alignment).__name__
            raise HvfError(f"feature maps are analysed, and {name} has none: choose with population.fitting.fit")
        return choice.alignment.analyse_feature_maps(self.__trials, self.__features)


def _refuse_unchosen(choice: object) -> None:
    if not isinstance(choice, Choice):
        raise HvfError(f"test trials are ranked by a Choice, made on validation images, not by {type(choice)}")


class Split(TrainingSet):
    """The training part of a study, on which a choice is made."""


def _scaling(name: str, choice: Choice[Any], split: Split, config: Config) -> Scaling:
    """An inductive scaling by training trials of the split, its k chosen on validation trials that were not fitted to.

    Where all were (a closed form, `align.refit`), k is the field's number.
    """
    if config.brain.people != "alike" and split.person_N is not None:
        raise HvfError(
            f"--scaling {name} takes a bank of training trials, and those of several people, each made alike "
            f"({config.brain.people}), are no bank of the person tested"
        )
    train_N, held_N = split.validation_split(config.align)
    bank = split.trials.select(train_N[:: max(1, len(train_N) // BANK)][:BANK])
    images_M, target_V = np.unique(split.image_N[held_N], return_inverse=True)
    z_f_MD = choice.alignment.embed_images({spec: x_Md[images_M] for spec, x_Md in split.features.items()})
    bank_BD = choice.alignment.embed_brain(bank)
    if config.align.refit or config.brain.encoder in SOLVED:
        return Scaling.of_bank(name, bank_BD, z_f_MD)
    z_b_VD = choice.alignment.embed_brain(split.trials.select(held_N))
    return Scaling.fit(name, bank_BD, z_b_VD, z_f_MD, target_V)


def open_split(config: Config, specs: Sequence[str], protocol: str = "intra") -> tuple[Split, HeldOut]:
    """Divide the study that ``config.data`` names into a training and a test part, with features of their images.

    ``protocol`` "intra" trains on the subject that is tested, "loso" on all other subjects of the study. Auxiliary
    targets (views, captions) are for the training part alone. Images of a user's files are embedded once, whatever the
    random split. Raises HvfError where the study or its features cannot be had (`open_study`, `training_features`).
    """
    if protocol not in PROTOCOLS:
        raise HvfError(f"there is no protocol {protocol!r}; there is {', '.join(PROTOCOLS)}")
    study = open_study(config.data)
    simulated = config.data.study in SUBJECTS
    everything = study.train_images if simulated else _every_image(config, study.train_images)
    with_specs = with_settings(config, {"targets.specs": tuple(specs)})
    features = alignment.training_features(everything, with_specs, device=device())
    row = {name: i for i, name in enumerate(everything.ids)}
    train, person_N, people = study.train.aligned_to(study.train_images), None, ()
    if protocol == "loso":
        train, person_N, people = other_subjects(config.data, study)
    place = {name: i for i, name in enumerate(study.train_images.ids)}
    image_N = np.array([place[name] for name in train.image_ids.tolist()])
    rows_M = [row[name] for name in study.train_images.ids]
    train_features = {spec: x_Md[rows_M] for spec, x_Md in features.items()}
    split = Split(train, train_features, study.train_images.concepts, image_N, person_N=person_N, people=people)
    if simulated:
        test_features = embed_all(study.test_images, specs, device())
    else:
        test_features = {spec: features[spec][[row[name] for name in study.test_images.ids]] for spec in specs}
    test = study.test.aligned_to(study.test_images)
    return split, HeldOut(test, test_features, StudyInfo.of(study), study.test_images.concepts, study.train)


def _every_image(config: Config, train_images: ImageSet) -> ImageSet:
    """All images of a user's files; training images with the study's concepts, which captions are made from."""
    everything = open_image_set(config.data.images or "", config.data.background)
    concept_of = dict(zip(train_images.ids, train_images.concepts, strict=True))
    everything.concepts = tuple(concept_of.get(*pair) for pair in zip(everything.ids, everything.concepts, strict=True))
    return everything


@overload
def choose(split: Split, config: Config, candidates: Sequence[Mapping[str, object]] = ({},)) -> Choice[Alignment]: ...


@overload
def choose(
    split: Split, config: Config, candidates: Sequence[Mapping[str, object]] = ({},), *, fit: Callable[..., F]
) -> Choice[F]: ...


def choose(
    split: Split,
    config: Config,
    candidates: Sequence[Mapping[str, object]] = ({},),
    *,
    fit: Callable[..., Any] = alignment.fit,
) -> Choice[Any]:
    """Fit every candidate and return the one that retrieves validation images best (`retrieves_better`).

    Parameters
    ----------
    split : Split
        The training part of a study; ``fit`` takes validation concepts from it.
    config : Config
        The settings that all candidates share.
    candidates : sequence of dict
        The settings of each candidate, as `with_settings` takes them.
    fit : callable
        `hvf.alignment.fit`, or `hvf.population.fitting.fit` with its own settings bound by `functools.partial`.
    """
    if not isinstance(split, Split):
        raise HvfError(f"a choice is made on a Split, not on {type(split).__name__}: test trials stay out of it")
    if not candidates:
        raise HvfError("there is nothing to choose from: give at least one candidate")
    best: Choice[Any] | None = None
    for settings in candidates:
        one = with_settings(config, settings)
        fitted = fit(split, one, device())
        choice = Choice(fitted, settings, _MADE_HERE)
        if best is None or retrieves_better(fitted.best, best.alignment.best):
            best = choice
    assert best is not None
    return best


def repeats(config: Config, number: int, option: str = "seeds") -> dict[str, Config]:
    """Configurations of an experiment's repeats, by the name of the folder that each result is kept in.

    The test images of a simulated study are given, so that only training is repeated: seed-0, seed-1, ... A user's
    files are split anew at random in each repeat: split-0, split-1, ...

    Raises HvfError for a number below 1, which the command-line option ``option`` gave.
    """
    if number < 1:
        raise HvfError(f"--{option} must be at least 1, not {number}")
    if config.data.study in SUBJECTS:
        return {f"seed-{seed}": with_settings(config, {"align.seed": seed}) for seed in range(number)}
    seeds = ({"align.seed": seed, "data.split_seed": seed} for seed in range(number))
    return {f"split-{seed}": with_settings(config, settings) for seed, settings in enumerate(seeds)}


def recording_name(config: Config) -> str:
    """Name of the recording in folders and titles: "sub-08-simulated-eeg", or the stem of the user's file."""
    simulated = config.data.study in SUBJECTS
    return f"sub-{config.data.subject:02d}-{config.data.study}" if simulated else Path(config.data.trials or "").stem


def device() -> str:
    """The device to compute on: CUDA if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
