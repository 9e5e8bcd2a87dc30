"""Versions of the simulator: pictures and responses may change only with a new version, which makes caches anew."""

from __future__ import annotations

import hashlib

import numpy as np

from hvf.config import DataConfig
from hvf.simulation.brain import RESPONSES_VERSION
from hvf.simulation.rendering import PICTURES_VERSION, SCENES, concepts, render
from hvf.simulation.study import simulate_trials, simulated_stimuli

PICTURES = {1: "7721a7103d8f9d53"}  # by version: sha256 of the pictures and captions below
RESPONSES = {  # by version: projections of the trials below on fixed random directions, in units of their RMS
    1: {
        "simulated-eeg": [2.10958, 0.73414, 1.12943, -0.17230, -0.81320, 1.39983, 0.06192, 0.52361],
        "simulated-meg": [-0.39423, 0.06802, -0.19774, -0.51586, 0.59699, 1.45677, -0.01125, -0.67806],
    }
}


def pictures_digest() -> str:
    """Of one exemplar of 60 concepts, in every scene."""
    rendered = [render(concept, exemplar) for exemplar, concept in enumerate(concepts()[::30][:60])]
    assert {picture.scene for picture in rendered} == set(SCENES)
    digest = hashlib.sha256()
    for picture in rendered:
        digest.update(picture.image.tobytes() + picture.caption.encode())
    return digest.hexdigest()[:16]


def projections(study: str) -> np.ndarray:
    """Eight projections of a subject's trials: any change moves them, other machines' rounding does not."""
    data = DataConfig(study=study, subject=2, train_concepts=2, images_per_concept=2, test_concepts=2, train_repeats=2)
    x_NCT = simulate_trials(data, simulated_stimuli(data)[0], 2, "train").load_array().astype(float)
    x_NCT /= np.sqrt(np.square(x_NCT).mean())
    directions = np.random.default_rng(0).standard_normal((8, x_NCT.size))
    return directions @ x_NCT.ravel() / np.sqrt(x_NCT.size)


def test_other_pictures_need_a_new_version():
    assert pictures_digest() == PICTURES.get(PICTURES_VERSION), "raise rendering.PICTURES_VERSION and note the digest"


def test_other_responses_need_a_new_version():
    assert set(RESPONSES) == {RESPONSES_VERSION}, "note the projections of the new version"
    for study, expected in RESPONSES[RESPONSES_VERSION].items():
        np.testing.assert_allclose(projections(study), expected, atol=1e-4, err_msg="raise brain.RESPONSES_VERSION")
