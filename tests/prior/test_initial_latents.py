"""The ridge from embeddings to latents: what it explains, what it leaves open, and the way to disk and back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from hvf.prior.initial_latents import PENALTIES, InitialLatents

N, D, SHAPE = 90, 6, (4, 3, 2)


@pytest.fixture(scope="module")
def told() -> tuple[np.ndarray, np.ndarray]:
    """Latents of which embeddings tell three quarters of the variance, and the embeddings, which have a mean."""
    rng = np.random.default_rng(0)
    z_ND = rng.normal(size=(N, D)).astype(np.float32)
    map_DP = rng.normal(size=(D, 24)) / np.sqrt(D)
    latents = z_ND @ map_DP + np.sqrt(1 / 3) * rng.normal(size=(N, 24))
    return latents.reshape(N, *SHAPE).astype(np.float32), z_ND + 5


def test_what_is_left_out_of_the_fit_says_how_much_it_explains(told) -> None:
    latents, z_ND = told
    fitted = InitialLatents.fit(latents, z_ND)
    flat_NP, rest = latents.reshape(N, -1), np.arange(N)
    left_out = [Ridge(fitted.penalty).fit(z_ND[rest != i], flat_NP[rest != i]).predict(z_ND[[i]])[0] for i in range(N)]
    expected = 1 - np.square(np.array(left_out) - flat_NP).mean() / flat_NP.var(axis=0).mean()
    assert fitted.explained == pytest.approx(expected, abs=1e-4)
    assert 0.65 < fitted.explained < 0.8
    shuffled = InitialLatents.fit(latents, np.roll(z_ND, 1, axis=0))  # embeddings of other images
    assert shuffled.explained < 0.05


def test_held_out_images_decide_on_the_penalty_and_their_own_embeddings_on_what_it_explains(told) -> None:
    latents, z_ND = told
    rows, rng = np.arange(60, 90), np.random.default_rng(1)
    brain_ND = z_ND[rows] + 2 * rng.normal(size=(30, D)).astype(np.float32)
    fitted = InitialLatents.fit(latents, z_ND, dict(zip(rows.tolist(), brain_ND, strict=True)))
    flat_NP = latents.reshape(N, -1)
    fits = [Ridge(penalty).fit(z_ND[:60], flat_NP[:60]) for penalty in PENALTIES]
    best = int(np.argmin([np.square(ridge.predict(brain_ND) - flat_NP[rows]).sum() for ridge in fits]))
    assert fitted.penalty == PENALTIES[best] > InitialLatents.fit(latents, z_ND).penalty
    error = np.square(fits[best].predict(z_ND[rows]) - flat_NP[rows]).mean()
    assert fitted.explained == pytest.approx(1 - error / np.square(flat_NP[rows] - flat_NP.mean(axis=0)).mean())
    whole = Ridge(fitted.penalty).fit(z_ND, flat_NP)  # in the end to all images
    predicted = fitted.predict(z_ND[:7])
    assert (predicted.shape, predicted.dtype) == ((7, *SHAPE), np.float32)
    np.testing.assert_allclose(predicted.reshape(7, -1), whole.predict(z_ND[:7]), rtol=0, atol=1e-5)


def test_the_shorter_an_embedding_the_more_is_open(told) -> None:
    fitted = InitialLatents.fit(*told)
    direction = np.zeros(D)
    direction[2] = np.sqrt(fitted.variance)
    z_ND = fitted.mean_D + np.array([0, 0.5, 1, 3])[:, None] * direction
    explained = fitted.explained
    expected = [1, 1 - explained / 4, 1 - explained, 1 - explained]  # the mean itself, half as far, as far, farther
    np.testing.assert_allclose(fitted.open_share(z_ND), expected, atol=1e-6)
    z_f_ND = told[1]
    np.testing.assert_allclose(fitted.mean_D, z_f_ND.mean(axis=0), rtol=1e-5)
    assert fitted.variance == pytest.approx(z_f_ND.var(axis=0).sum(), rel=1e-4)
    one_by_one = np.concatenate([fitted.open_share(z_f_ND[i : i + 1]) for i in range(N)])
    np.testing.assert_array_equal(fitted.open_share(np.asfortranarray(z_f_ND)), one_by_one)


def test_a_posterior_mean_leaves_open_what_it_does_not_know() -> None:
    """Of normal variables, of which z_b tells a fifth."""
    rng = np.random.default_rng(2)
    z_f_ND = rng.normal(size=(300, 400))
    z_b_ND = z_f_ND + 2 * rng.normal(size=z_f_ND.shape)
    zeros = np.zeros((1, 2, 2, 400)), np.zeros((1, 2, 2)), np.zeros(400)
    fitted = InitialLatents(*zeros, variance=400.0, explained=0.75, penalty=1.0)
    assert fitted.open_share(z_b_ND / 5).mean() == pytest.approx(1 - 0.75 * 0.2, abs=0.005)
    assert fitted.open_share(z_b_ND).mean() == pytest.approx(1 - 0.75, abs=0.005)  # not the mean, and longer


def test_images_that_are_all_alike_leave_nothing_open_that_is_no_number() -> None:
    latents, z_ND = np.ones((8, *SHAPE), np.float32), np.ones((8, D), np.float32)
    fitted = InitialLatents.fit(latents, z_ND, {0: z_ND[0], 1: z_ND[1]})
    np.testing.assert_array_equal(fitted.open_share(np.stack([z_ND[0], z_ND[0] + 1])), [1, 0])
    np.testing.assert_allclose(fitted.predict(z_ND), latents, atol=1e-6)


def test_what_was_kept_predicts_the_same_to_the_bit(told) -> None:
    fitted = InitialLatents.fit(*told)
    arrays, numbers = fitted.tensors()
    assert {x.dtype for x in arrays.values()} == {np.dtype(np.float32)}
    again = InitialLatents.of_tensors({k: x.copy() for k, x in arrays.items()}, json.loads(json.dumps(numbers)))
    np.testing.assert_array_equal(again.predict(told[1]), fitted.predict(told[1]))
    np.testing.assert_array_equal(again.open_share(told[1]), fitted.open_share(told[1]))
    assert again.penalty == fitted.penalty
