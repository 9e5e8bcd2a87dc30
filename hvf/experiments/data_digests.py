"""Digests of what a result hangs on besides its settings: trials, images, features in files, weights of encoders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from hvf.config import SUBJECTS, Config, HvfError
from hvf.data.trials.trials import Trials
from hvf.experiments.finished import data_files
from hvf.files.remembered import Remembered
from hvf.study import Study, open_study, trials_of_subjects
from hvf.vision.cache import content_hashes, weights_hashes

FOLDER = "data"  # in the cache folder


def input_digests(config: Config, study: Study | None = None, people: Sequence[int] | None = ()) -> dict[str, str]:
    """`data_digests`, and that of the weights of the encoders that ``config`` names, where they are at hand."""
    try:
        hashes = weights_hashes(config.targets.specs)
    except HvfError:  # a finished result can be shown without them
        hashes = {}
    return data_digests(config, study, people) | encoders_digest(hashes)


def encoders_digest(hashes: Mapping[str, str]) -> dict[str, str]:
    """{what, in words: digest} of the hashes {spec: hash of its weights}; {} of none."""
    if not hashes:
        return {}
    return {"weights of the encoders": hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()}


def data_digests(config: Config, study: Study | None = None, people: Sequence[int] | None = ()) -> dict[str, str]:
    """{what, in words: digest} of the trials, the images and the features that ``config`` names.

    They are read once, as long as their files stay as they are. Of a simulated study there are none: its settings say
    all of it.

    Parameters
    ----------
    config : Config
    study : Study, optional
        That of ``config.data``, where it is open.
    people : sequence of int, optional
        Other subjects who are trained on; None: all of the study.
    """
    if config.data.study in SUBJECTS:
        return {}
    about = json.dumps([asdict(config.data), config.targets.specs, people if people is None else sorted(people)])
    files = sorted({path.absolute() for path in data_files(config)})
    known = Remembered(files, f"digests of {about}", FOLDER)
    digests = known.get("digests")
    if isinstance(digests, dict):
        return digests
    study = open_study(config.data) if study is None else study
    digests = {
        "training trials": _digest(study.single_trials("train", study.train_images)),
        "test trials": _digest(study.single_trials("test", study.test_images)),
        "images": hashlib.sha256(f"{study.train_images.digest} {study.test_images.digest}".encode()).hexdigest(),
    }
    if people is None or people:
        digests["trials of other people"] = _digest(trials_of_subjects(config.data, study, people or ())[0])
    if features := content_hashes(config.targets.specs):
        digests["features"] = " ".join(features)
    known.put({"digests": digests})
    return digests


def _digest(trials: Trials) -> str:
    """sha256 of the values, and of what says which image, channel and time they are of."""
    labels = [trials.sfreq, trials.tmin, trials.ch_names, trials.image_ids.tolist()]
    digest = hashlib.sha256(json.dumps(labels).encode())
    for _, block_NCT in trials.batches():
        digest.update(block_NCT.tobytes())
    return digest.hexdigest()
