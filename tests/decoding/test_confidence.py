"""Validation means, and trials that carry nothing."""

from __future__ import annotations

import numpy as np
import pytest

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.trials.trials import Trials
from hvf.decoding.confidence import Confidence, mean_over, trials_of, without_information

IDS = ["b", "a", "c"]
IMAGES = ImageSet.from_arrays(np.zeros((3, 2, 2, 3), np.uint8), IDS, ["x", "y", "z"])


def single(seed: int = 0) -> Trials:
    """Four rows of each image in mixed order, whose first sample tells the row."""
    x_NCT = np.random.default_rng(seed).standard_normal((12, 2, 16)).astype(np.float32)
    x_NCT[:, 0, 0] = np.arange(12)
    return Trials(x_NCT, ["a", "b", "c"] * 4, "s", 100.0, 0.0, ["O1", "O2"], "eeg")


def test_rows_of_each_image_in_the_images_order():
    assert [rows.tolist() for rows in trials_of(single(), IMAGES)] == [[1, 4, 7, 10], [0, 3, 6, 9], [2, 5, 8, 11]]
    with pytest.raises(HvfError, match="1 of 3 images have no trial: c"):
        trials_of(single().select([0, 1]), IMAGES)


def test_trials_of_other_images_are_counted_and_left_out():
    """The rows are those of the trials as they are, not of what is left of them."""
    shown = IMAGES.select([2, 0])
    assert [rows.tolist() for rows in trials_of(single(), shown)] == [[2, 5, 8, 11], [1, 4, 7, 10]]
    assert [rows.tolist() for rows in trials_of(single().select([0, 3, 1]), IMAGES.select([0]))] == [[2]]


def test_means_over_as_many_trials_as_there_are():
    def embed(trials: Trials) -> np.ndarray:
        return trials.load_array()[:, 0, :1]

    kept = Confidence.fit(embed, np.zeros((3, 1), np.float32), single(), IMAGES, single())
    assert sorted(kept.z_b) == [1, 2, 4]
    assert kept.z_b[1].ravel().tolist() == [1, 0, 2]
    assert kept.z_b[2].ravel().tolist() == [2.5, 1.5, 3.5]
    assert kept.z_b[4].ravel().tolist() == [5.5, 4.5, 6.5]
    of_two = Confidence.fit(embed, np.zeros((2, 1), np.float32), single(), IMAGES.select([2, 0]), single())
    assert of_two.z_b[2].ravel().tolist() == [3.5, 2.5]
    again = Confidence.of_tensors(kept.tensors(), kept.concepts)
    assert all(np.array_equal(again.z_b[r], kept.z_b[r]) for r in kept.z_b)
    assert again.concepts == ("x", "y", "z")


def test_means_keep_the_name_of_their_image():
    means = mean_over(single(), [np.array([2, 5]), np.array([0])])
    assert means.image_ids.tolist() == ["c", "a"]
    assert means.load_array()[0] == pytest.approx(single().load_array()[[2, 5]].mean(axis=0))


@pytest.mark.parametrize("samples", [1, 16, 17])
def test_noise_keeps_mean_and_covariance_but_not_the_trials(samples):
    rng = np.random.default_rng(0)
    mixing_CC = np.array([[1.0, 0.8], [0.0, 0.6]])
    signal_NCT = np.einsum("cd,ndt->nct", mixing_CC, rng.standard_normal((4000, 2, samples))) + 3.0
    trials = Trials(signal_NCT.astype(np.float32), [str(i) for i in range(4000)], "s", 100.0, 0.0, ["a", "b"], "eeg")
    noise_NCT = without_information(trials).load_array()
    assert noise_NCT.mean(axis=0) == pytest.approx(trials.load_array().mean(axis=0), abs=0.08)
    assert noise_NCT.std() == pytest.approx(trials.load_array().std(), rel=0.03)
    if samples > 1:  # the channels stay together
        both = np.corrcoef(noise_NCT[:, 0].ravel(), noise_NCT[:, 1].ravel())[0, 1]
        assert both == pytest.approx(np.corrcoef(signal_NCT[:, 0].ravel(), signal_NCT[:, 1].ravel())[0, 1], abs=0.03)
    alike = np.corrcoef(noise_NCT.reshape(4000, -1).ravel(), trials.load_array().reshape(4000, -1).ravel())[0, 1]
    assert abs(alike) < 0.3  # the constant component of an epoch has no phase to turn
