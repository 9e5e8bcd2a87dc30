"""The training data of every fit: trials, features of the images that they are responses to, the images' concepts.

Letters: N trials, M images, C channels, T samples, d width of an encoder's features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from hvf.config import AlignConfig, Config, HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.trials.splitting import concept_split
from hvf.data.trials.trials import Trials
from hvf.models.fusions.hvf import HVF
from hvf.vision.cache import embed_all
from hvf.vision.specs import versions
from hvf.vision.texts import embed_captions

UNLEARNT = ("concatenated", "plain")  # fusions of which nothing is learnt: what ridge can predict

Self = TypeVar("Self", bound="TrainingSet")


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Trials and the images that they are responses to; checked when it is made.

    Parameters
    ----------
    trials : Trials
        Responses (N, C, T), none of them of the test split.
    features : mapping
        {name: (M, d)} of the images, each once, however many trials respond to it: the encoders', those of views of
        the images, those of their captions (`training_features`).
    concepts : sequence of str
        What each of the M images shows; validation concepts share no image with those trained on.
    image_N : sequence of int, optional
        The image, from 0, that each trial is a response to. By default trial i responds to image i, and trials of the
        same `image_ids` to the image of the first of them.
    prior_fusion : HVF, optional
        The prior's frozen fusion, for `align.mode` "reconstruction".
    person_N : sequence of int, optional
        The person, from 0, whose each trial is; by default all are one person's.
    people : sequence of str
        Names of the people whom `person_N` numbers; by default "person 0" and so on.
    fingerprint : str, optional
        A hash that tells this training set from others, kept in the checkpoint; by default of the trials' image ids.

    Raises
    ------
    HvfError
        If trials and images do not pair, a feature is not finite, or there are test trials. What the trials hold is
        checked where a fit reads them.

    Examples
    --------
    >>> trials = Trials(np.eye(4)[:, :, None], ["a", "b", "c", "d"], "one", 100.0, 0.0, "wxyz", "features")
    >>> training_set = TrainingSet(trials, {"vae:mini": np.eye(4)}, ["cat", "cat", "dog", "dog"])
    >>> training_set.image_N
    array([0, 1, 2, 3])
    >>> TrainingSet(trials, {"vae:mini": np.eye(3)}, ["cat", "cat", "dog", "dog"])
    Traceback (most recent call last):
    hvf.registry.HvfError: concepts of 4 images but features of 3 by vae:mini
    """

    trials: Trials
    features: Mapping[str, np.ndarray]
    concepts: Sequence[str]
    image_N: np.ndarray = None  # pyright: ignore[reportAssignmentType]  # __post_init__ gives the default
    prior_fusion: HVF | None = None
    fingerprint: str | None = None
    person_N: np.ndarray | None = None
    people: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_N", _image_rows(self.trials, len(self.concepts), self.image_N))
        for name, x_Md in self.features.items():
            if len(x_Md) != len(self.concepts):
                raise HvfError(f"concepts of {len(self.concepts)} images but features of {len(x_Md)} by {name}")
            if not np.isfinite(x_Md).all():
                raise HvfError(f"features by {name} hold NaN or infinite values")
        if self.person_N is not None and len(self.person_N) != len(self.trials):
            raise HvfError(f"person_N must give the person of each of {len(self.trials)} trials")
        if self.people and self.person_N is not None and np.max(self.person_N, initial=0) >= len(self.people):
            raise HvfError(f"person_N names person {self.person_N.max()} (from 0), but people are {len(self.people)}")
        if self.trials.splits is not None and (test_N := self.trials.splits == "test").any():
            raise HvfError(f"{test_N.sum()} of the trials to be trained on are test trials")

    @property
    def concept_N(self) -> np.ndarray:
        """The concept of each trial's image, (N,)."""
        return np.asarray(self.concepts, dtype=str)[self.image_N]

    @property
    def digest(self) -> str:
        """The fingerprint, or a hash of the trials' image ids where none was given."""
        return self.fingerprint or hashlib.sha256("\n".join(self.trials.image_ids).encode()).hexdigest()

    def people_trained_on(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Names of the people who have trials here, and the place of each trial's person among them (N)."""
        if self.person_N is None:
            return (self.trials.subject,), np.zeros(len(self.trials), int)
        here, place_N = np.unique(self.person_N, return_inverse=True)
        return tuple(self.people[int(i)] if self.people else f"person {i}" for i in here), place_N

    def select(self: Self, rows: np.ndarray) -> Self:
        """The trials of these rows; all images stay."""
        person_N = None if self.person_N is None else self.person_N[rows]
        return replace(self, trials=self.trials.select(rows), image_N=self.image_N[rows], person_N=person_N)

    def permuted(self: Self, seed: int) -> Self:
        """A control: the images shuffled among the trials."""
        return replace(self, image_N=np.random.default_rng(seed).permutation(self.image_N))

    def validation_split(self, align: AlignConfig) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on, and rows of the validation concepts, whose images are not trained on."""
        return concept_split(self.concept_N.tolist(), align.validation_fraction, align.seed, at_least=2)

    def check(self, config: Config) -> None:
        """Raise HvfError if `config` asks for features or a fusion that are not here, or for what cannot be fitted."""
        fusion = self.prior_fusion
        if (config.align.mode == "reconstruction") != (fusion is not None):
            need = "needs the prior's frozen HVF" if fusion is None else "trains its own HVF and takes none"
            raise HvfError(f"align.mode {config.align.mode!r} {need}")
        if config.brain.encoder == "ridge" and fusion is None and config.fusion.kind not in UNLEARNT:
            raise HvfError(f"ridge learns no fusion: set fusion.kind to 'concatenated', not {config.fusion.kind!r}")
        if config.brain.encoder == "encoding" and fusion is not None:
            raise HvfError(
                "encoding predicts responses from features, of which the prior's fusion has none: use retrieval"
            )
        if config.brain.encoder == "encoding" and config.fusion.kind != "linear":
            raise HvfError(f"encoding solves a linear fusion: set fusion.kind to 'linear', not {config.fusion.kind!r}")
        if fusion is not None and fusion.config["width"] != config.brain.width:
            raise HvfError(
                f"the prior's embedding is {fusion.config['width']} wide, brain.width is {config.brain.width}"
            )
        if config.brain.person_layer and len(self.people_trained_on()[0]) < 2:
            raise HvfError("brain.person_layer needs trials of several people: leave it out for one")
        for name in required_specs(config, fusion):
            if name not in self.features:
                raise HvfError(f"no features of {name} were given: compute them with hvf embed --targets {name}")


def required_specs(config: Config, prior_fusion: HVF | None = None) -> list[str]:
    """Names of all features that a fit takes: encoders, their views, the captions' encoder; or a prior's encoders."""
    if prior_fusion is not None:
        return list(prior_fusion.specs)
    targets = config.targets
    views = [view for group in versions(targets.specs, targets.views).values() for view in group]
    return [*targets.specs, *views, *([targets.text] if targets.text else [])]


def training_features(
    images: ImageSet, config: Config, prior_fusion: HVF | None = None, device: str = "cpu"
) -> dict[str, np.ndarray]:
    """Features {name: (M, d)} of training images, as `required_specs` names them; from the cache where it has them.

    Parameters
    ----------
    images : ImageSet
        The M training images.
    config : Config
        Names the encoders, the views and the captions' encoder.
    prior_fusion : HVF, optional
        The prior's frozen fusion, whose encoders are taken instead.
    device : str
        Where missing features are computed.

    Raises
    ------
    HvfError
        As `embed_all` and `embed_captions` do.
    """
    names, text = required_specs(config, prior_fusion), config.targets.text
    features = embed_all(images, [name for name in names if name != text], device)
    return features | ({text: embed_captions(images, text, device)} if text else {})


def _image_rows(trials: Trials, images: int, image_N: Sequence[int] | np.ndarray | None) -> np.ndarray:
    """The image that each trial responds to, (N,), checked."""
    if image_N is None:
        if images != len(trials):
            raise HvfError(f"{len(trials)} trials but {images} concepts: image_N must tell what each shows")
        _, first, same_N = np.unique(trials.image_ids, return_index=True, return_inverse=True)
        return first[same_N]
    image_N = np.asarray(image_N)
    if image_N.shape != (len(trials),) or image_N.dtype.kind not in "iu":
        raise HvfError(f"image_N must give the image of each of {len(trials)} trials, a whole number")
    if len(image_N) and not (image_N.min() >= 0 and image_N.max() < images):
        raise HvfError(f"image_N names image {image_N.max()} (from 0), but there are {images} images")
    return image_N
