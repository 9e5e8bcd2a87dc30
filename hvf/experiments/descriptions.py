"""Descriptions that a result carries: the study it is about, the protocol of its figures, and its runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hvf.config import Config
from hvf.data.images.image_set import ImageSet
from hvf.schema.run_folder import Count, Number
from hvf.study import Study

OF_NAMES = "names:"  # a digest that knows no pictures begins so

TRAINING = {
    "intra": "within-subject",
    "loso": "trained on other subjects",
    "pooled": "trained on several subjects, the tested one among them",
    "both": "within-subject, or trained on other subjects where a row says so",
}
Training = Literal["intra", "loso", "pooled"]


@dataclass(frozen=True)
class StudyInfo:
    """Description of the data that were trained and tested on."""

    name: str
    note: str
    simulated: bool
    kind: str
    subject: str
    ch_names: tuple[str, ...]
    sfreq: Number
    window: tuple[Number, Number]  # s, from the first sample to the end of the last
    n_train_images: int
    n_test_images: int
    train_digest: str
    test_digest: str  # "" where runs were tested on different images

    @classmethod
    def of(cls, study: Study) -> StudyInfo:
        """The description of an open study."""
        train = study.train
        return cls(
            name=study.name,
            note=study.note,
            simulated=study.simulated,
            kind=train.kind,
            subject=train.subject,
            ch_names=tuple(train.ch_names),
            sfreq=float(train.sfreq),
            window=(float(train.tmin), float(train.times[-1] + 1 / train.sfreq)),
            n_train_images=len(study.train_images),
            n_test_images=len(study.test_images),
            train_digest=_digest(study.train_images),
            test_digest=_digest(study.test_images),
        )


def _digest(images: ImageSet) -> str:
    """That of the pictures; of images that are known by features alone, that of their names."""
    if images.has_pictures:
        return images.digest
    return OF_NAMES + hashlib.sha256("\n".join(images.ids).encode()).hexdigest()


@dataclass(frozen=True)
class ProtocolInfo:
    """How a figure was obtained: a figure without it cannot be compared."""

    training: Literal["intra", "loso", "pooled", "both"]  # whose trials are trained on: a key of TRAINING
    held_out: str  # how test images were held out
    gallery: str = "plain test images as gallery"
    selection: str = "epoch, penalty and settings chosen on validation concepts"

    @classmethod
    def of(cls, config: Config, note: str, training: Training = "intra") -> ProtocolInfo:
        """The protocol of a study: `note` is the study's, which says whether its split was prepared."""
        data = config.data
        zero_shot = data.study != "files" or "split as prepared" in note
        held_out = "concepts unseen in training" if zero_shot else f"held-out images, split {data.split_seed}"
        return cls(training, held_out)

    @property
    def label(self) -> str:
        """The protocol in a line."""
        return f"{TRAINING[self.training]}, {self.held_out}, averaged trials, {self.gallery}"


@dataclass(frozen=True)
class RunInfo:
    """One run: a training with its own seed (and, of a user's files, its own random split), tested once."""

    name: str
    seed: int
    split_seed: int
    n: Count  # test items


def common_study(studies: Sequence[StudyInfo]) -> StudyInfo:
    """The first run's study, with the subjects of all; digests that differ over runs are left empty."""
    first = studies[0]
    subjects = list(dict.fromkeys(study.subject for study in studies))
    blank = {
        name: "" for name in ("train_digest", "test_digest") if len({getattr(study, name) for study in studies}) > 1
    }
    return replace(first, subject=", ".join(subjects), **blank)


def common_protocol(protocols: Sequence[ProtocolInfo]) -> ProtocolInfo:
    """The first one; of several random splits, their number, and "both" where training differs."""
    splits, trainings = ({getattr(one, name) for one in protocols} for name in ("held_out", "training"))
    held_out = splits.pop() if len(splits) == 1 else f"held-out images, {len(splits)} random splits"
    return replace(protocols[0], held_out=held_out, training=trainings.pop() if len(trainings) == 1 else "both")
