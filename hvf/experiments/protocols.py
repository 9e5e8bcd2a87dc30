"""Choosing on validation and testing once, held by types: what is to be tested can be ranked by a choice, and no more.

`open_split` parts a study into what may be fitted (`Split`) and what is held out (`HeldOut`). `choose` fits candidates
on the first alone and returns a `Choice`; `HeldOut.ranks` takes a `Choice` and nothing else, and gives nothing away
that a fit could take. Letters: N trials, M gallery, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar, overload

import numpy as np
import torch

from hvf import alignment
from hvf.alignment import Alignment, TrainingSet
from hvf.config import SUBJECTS, Config, HvfError, with_settings
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.trials.trials import Trials
from hvf.evaluation import retrieval
from hvf.experiments.results import Kind, Result, Row, StudyInfo
from hvf.population.feature_maps import Examination
from hvf.population.fitting import DinaAlignment
from hvf.study import open_study, other_subjects
from hvf.vision.cache import embed_all

PROTOCOLS = ("intra", "loso")
LINEAR = {  # the honest baseline, over any configuration; it is solved at once, and learns from no views or captions
    "brain.encoder": "ridge",
    "fusion.kind": "concatenated",
    "targets.views": (),
    "targets.text": None,
    "align.text_weight": 0.0,
}
ENCODING = LINEAR | {
    "brain.encoder": "encoding",
    "fusion.kind": "linear",
}  # the other direction, solved at once as well
_MADE_HERE = object()


class Fitted(Protocol):
    """What can be chosen and tested: `Alignment`, `DinaAlignment`."""

    @property
    def best(self) -> dict:
        """The epoch or penalty that validation images chose, with what they said: validation_mrr, _top1, _n."""
        ...

    def embed_brain(self, trials: Trials) -> np.ndarray:
        """(N, D)."""
        ...

    def embed_images(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """(M, D)."""
        ...


F = TypeVar("F", bound=Fitted)


class Choice(Generic[F]):
    """The candidate that was best on validation images; `choose` alone makes one.

    Attributes: ``alignment``, ``settings`` (those that set it apart, and the epoch), ``validation`` {mrr, top1, n}.
    """

    def __init__(self, fitted: F, settings: Mapping[str, object], key: object) -> None:
        if key is not _MADE_HERE:
            raise HvfError("a Choice is made by hvf.experiments.protocols.choose, on validation images")
        best = fitted.best
        self.alignment = fitted
        self.settings = {**settings, **{name: best[name] for name in ("epoch", "penalty") if name in best}}
        self.validation = {name: best[f"validation_{name}"] for name in ("mrr", "top1", "n")}


class HeldOut:
    """Test trials and the features of the images they answer, kept from everything but the ranking by a `Choice`."""

    def __init__(
        self,
        trials: Trials,
        features: Mapping[str, np.ndarray],
        study: StudyInfo | None = None,
        concepts: Sequence[str] = (),
    ) -> None:
        self.__trials, self.__features = trials, dict(features)
        self.image_ids = tuple(trials.image_ids.tolist())
        self.study, self.concepts = study, tuple(concepts)

    def __len__(self) -> int:
        return len(self.image_ids)

    def ranks(self, *choices: Choice[Any]) -> np.ndarray:
        """Rank (N,) of each trial's own image among all N; by the mean similarity, if several choices are given.

        Raises HvfError for anything but a `Choice`.
        """
        return retrieval.ranks(self.__scores(choices))

    def row(self, *choices: Choice[Any], settings: Mapping[str, Any] | None = None) -> Row:
        """The row of a `Result` by all choices together: mean validation figures, settings of the first.

        Raises HvfError for anything but a `Choice`.
        """
        scores_NN = self.__scores(choices)
        names = choices[0].validation
        validation = {name: float(np.mean([choice.validation[name] for choice in choices])) for name in names}
        return Row.of_scores(scores_NN, validation, choices[0].settings, settings)

    def result(self, kind: Kind, config: Config, *, training: str = "intra", run: str = "", main: str) -> Result:
        """The `Result` of one run on these items, before any row is tested; see `Result.start`."""
        if self.study is None:
            raise HvfError("these test trials do not belong to a study: open them with open_split")
        concepts = self.concepts
        return Result.start(kind, config, self.study, self.image_ids, concepts, training=training, run=run, main=main)

    def __scores(self, choices: Sequence[Choice[Any]]) -> np.ndarray:
        """Mean similarity (N, N) of the choices, each of which must be a `Choice`."""
        if not choices:
            raise HvfError("test trials are ranked by a Choice: give at least one")
        for choice in choices:
            _refuse_unchosen(choice)
        fitted = [choice.alignment for choice in choices]
        similarities = [
            retrieval.similarity(one.embed_brain(self.__trials), one.embed_images(self.__features)) for one in fitted
        ]
        return np.mean(similarities, axis=0)

    def examine(self, choice: Choice[DinaAlignment]) -> Examination:
        """What a chosen DINA's maps hold of the test trials. Raises HvfError for anything but a `Choice` of one."""
        _refuse_unchosen(choice)
        if not isinstance(choice.alignment, DinaAlignment):
            raise HvfError(f"maps are examined, and {type(choice.alignment).__name__} has none: choose with dina.fit")
        return choice.alignment.examine(self.__trials, self.__features)


def _refuse_unchosen(choice: object) -> None:
    if not isinstance(choice, Choice):
        raise HvfError(f"test trials are ranked by a Choice, made on validation images, not by {type(choice)}")


@dataclass(frozen=True)
class Split:
    """What may be fitted: trial i of N answers image ``image_N[i]`` of M, with its ``features`` (M, d) and concept."""

    trials: Trials
    image_N: np.ndarray
    features: Mapping[str, np.ndarray]
    concepts: tuple[str, ...]
    note: str

    @property
    def concept_N(self) -> np.ndarray:
        """The concept of each trial's image."""
        return np.asarray(self.concepts)[self.image_N]

    def select(self, rows: np.ndarray) -> Split:
        """Some of the trials."""
        return replace(self, trials=self.trials.select(rows), image_N=self.image_N[rows])

    def permuted(self, seed: int) -> Split:
        """The control: each trial answers another trial's image."""
        return replace(self, image_N=np.random.default_rng(seed).permutation(self.image_N))


def open_split(config: Config, specs: Sequence[str], protocol: str = "intra") -> tuple[Split, HeldOut]:
    """The study that ``config.data`` names, with the features of ``specs``, parted by a protocol.

    ``intra``: one subject; ``loso``: fitted on all others, tested on this one. What training sees beside the images
    (views, captions) is in the split alone. Images of a user's files are embedded once, whatever the split. Raises
    HvfError as `open_study` and `training_features` do.
    """
    if protocol not in PROTOCOLS:
        raise HvfError(f"there is no protocol {protocol!r}; there is {', '.join(PROTOCOLS)}")
    study = open_study(config.data)
    simulated = config.data.study in SUBJECTS
    everything = study.train_images if simulated else _every_image(config, study.train_images)
    learnt = with_settings(config, {"targets.specs": tuple(specs)})
    features = alignment.training_features(everything, learnt, device=device())
    row = {name: i for i, name in enumerate(everything.ids)}
    train = other_subjects(config.data, study) if protocol == "loso" else study.train.aligned_to(study.train_images)
    place = {name: i for i, name in enumerate(study.train_images.ids)}
    image_N = np.array([place[name] for name in train.image_ids.tolist()])
    rows_M = [row[name] for name in study.train_images.ids]
    seen = {spec: x_Md[rows_M] for spec, x_Md in features.items()}
    split = Split(train, image_N, seen, study.train_images.concepts, study.note)
    if simulated:
        shown = embed_all(study.test_images, specs, device())
    else:
        shown = {spec: features[spec][[row[name] for name in study.test_images.ids]] for spec in specs}
    test = study.test.aligned_to(study.test_images)
    return split, HeldOut(test, shown, StudyInfo.of(study), study.test_images.concepts)


def _every_image(config: Config, train_images: ImageSet) -> ImageSet:
    """All images of a user's files; those trained on under the concepts that the study gives them, for captions."""
    everything = open_images(config.data.images or "")
    told = dict(zip(train_images.ids, train_images.concepts, strict=True))
    everything.concepts = tuple(told.get(*pair) for pair in zip(everything.ids, everything.concepts, strict=True))
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
    """Fit `config` with each candidate's settings; the one whose validation images are found best.

    Validation concepts are taken from ``split`` by ``fit``: `alignment.fit`, or `alignment.dina.fit` with its own
    settings bound (`functools.partial`). Raises HvfError if handed anything but a `Split`.
    """
    if not isinstance(split, Split):
        raise HvfError(f"a choice is made on a Split, not on {type(split).__name__}: test trials stay out of it")
    if not candidates:
        raise HvfError("there is nothing to choose from: give at least one candidate")
    training_set = TrainingSet(split.trials, split.features, split.concepts, split.image_N)
    best: Choice[Any] | None = None
    for settings in candidates:
        one = with_settings(config, settings)
        fitted = fit(training_set, one, device())
        made = Choice(fitted, settings, _MADE_HERE)
        if best is None or made.validation["mrr"] > best.validation["mrr"]:
            best = made
    assert best is not None
    return best


def device() -> str:
    """Where to compute: a CUDA device if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
