"""Euclidean alignment: the mean covariance of every person's trials becomes the identity."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hvf.alignment.inputs import standard
from hvf.alignment.people import People, PersonInput, mean_covariance, power
from hvf.alignment.rows import Rows
from hvf.data.trials.trials import Trials


def trials(seed: int = 0, n: int = 60, scale: float = 1e-6) -> Trials:
    rng = np.random.default_rng(seed)
    x_NCT = scale * (rng.standard_normal((5, 5)) @ rng.standard_normal((n, 5, 40)) + 3.0)
    return Trials(x_NCT, [f"i{i}" for i in range(n)], f"sub-{seed:02d}", 100.0, 0.0, list("abcde"), "eeg")


def covariance(x_NCT: torch.Tensor) -> np.ndarray:
    flat_CX = x_NCT.double().numpy().swapaxes(0, 1).reshape(x_NCT.shape[1], -1)
    return flat_CX @ flat_CX.T / flat_CX.shape[1]


def test_the_mean_covariance_becomes_the_identity():
    own = trials()
    x_NCT = torch.from_numpy(own.load_array())
    aligned = PersonInput.of(own, "euclidean", "cpu")(x_NCT)
    np.testing.assert_allclose(covariance(aligned), np.eye(5), atol=1e-4)
    # As in MOABB: each trial is multiplied by R^(-1/2), R the mean of X X' over trials; of standardised channels here.
    x = own.load_array().astype(np.float64)
    x = (x - x.mean(axis=(0, 2), keepdims=True)) / x.std(axis=(0, 2), keepdims=True)
    value, vector = np.linalg.eigh(np.mean([trial @ trial.T / trial.shape[1] for trial in x], axis=0))
    np.testing.assert_allclose(aligned.numpy(), vector / np.sqrt(value) @ vector.T @ x, atol=2e-3)
    standardised = PersonInput.of(own, "standardised", "cpu")(x_NCT)
    assert np.abs(covariance(standardised) - np.eye(5)).max() > 0.2  # a control: sd alone is not enough
    np.testing.assert_allclose(np.diag(covariance(standardised)), 1, atol=1e-4)


def test_an_average_reference_leaves_no_noise_blown_up():
    x_NCT = trials().load_array()
    referenced = trials().replace(x_NCT=x_NCT - x_NCT.mean(axis=1, keepdims=True))
    aligned = PersonInput.of(referenced, "euclidean", "cpu")(torch.from_numpy(referenced.load_array()))
    values = np.linalg.eigvalsh(covariance(aligned))
    np.testing.assert_allclose(values, [0, 1, 1, 1, 1], atol=1e-3)
    np.testing.assert_allclose(power(np.diag([4.0, 0.0]), -0.5), np.diag([0.5, 0.0]))


@pytest.mark.parametrize("resident", [True, False])
def test_every_persons_trials_are_aligned_by_their_own(resident):
    both = Trials.concatenate([trials(1, scale=1e-6), trials(2, scale=4e-6)])
    person_N = np.repeat([0, 1], 60)
    people = People(both, person_N, "euclidean", np.arange(120), "cpu")
    copy = both.replace(x_NCT=both.load_array().copy())
    mixed = np.random.default_rng(0).permutation(120)
    rows = Rows(copy, (torch.zeros(1, 5, 1), torch.ones(1, 5, 1)), resident, people)
    aligned = rows[torch.from_numpy(mixed)]
    for person in (0, 1):  # the same covariance for everybody: the mean of theirs
        np.testing.assert_allclose(covariance(aligned[person_N[mixed] == person]), people.average_CC, atol=1e-3)
    together = PersonInput.of(both, "euclidean", "cpu")(torch.from_numpy(both.load_array()))
    assert np.abs(covariance(together[:60]) - np.eye(5)).max() > 0.2  # a control: one covariance for two people
    own = [mean_covariance(one, *standard(one, "cpu")) for one in (trials(1), trials(2))]
    np.testing.assert_allclose(people.average_CC, (own[0] + own[1]) / 2, atol=1e-4)


def test_a_person_of_validation_concepts_alone_has_an_input():
    both = Trials.concatenate([trials(1), trials(2)])
    people = People(both, np.repeat([0, 1], 60), "standardised", np.arange(60), "cpu")
    aligned = people.aligned(torch.from_numpy(both.load_array().copy()))
    np.testing.assert_allclose(aligned[60:].std(dim=(0, 2)).numpy(), 1, atol=1e-3)
