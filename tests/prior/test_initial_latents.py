"""The kernel ridge from embeddings to latents: what it explains, what it leaves open, to disk and back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import RidgeCV

from hvf.prior.initial_latents import LENGTH, PENALTIES, InitialLatents

N, D, SHAPE = 90, 6, (4, 3, 2)


@pytest.fixture(scope="module")
def told() -> tuple[np.ndarray, np.ndarray]:
    """Latents of which embeddings tell three quarters of the variance, and the embeddings, which have a mean."""
    rng = np.random.default_rng(0)
    z_ND = rng.normal(size=(N, D)).astype(np.float32)
    map_DP = rng.normal(size=(D, 24)) / np.sqrt(D)
    latents = z_ND @ map_DP + np.sqrt(1 / 3) * rng.normal(size=(N, 24))
    return latents.reshape(N, *SHAPE).astype(np.float32), z_ND + 5


def kernel_ridge(latents: np.ndarray, z_ND: np.ndarray, rows: np.ndarray, penalty: float):
    """What scikit-learn fits to these rows: a function of embeddings."""
    variance = np.square(z_ND - z_ND.mean(axis=0, dtype=np.float64)).sum(axis=1).mean()
    flat_NP = latents.reshape(len(latents), -1)[rows].astype(np.float64)
    model = KernelRidge(alpha=penalty, kernel="rbf", gamma=1 / (2 * LENGTH**2 * variance))
    model.fit(z_ND[rows].astype(np.float64), flat_NP - flat_NP.mean(axis=0))
    return lambda other_ND: model.predict(other_ND.astype(np.float64)) + flat_NP.mean(axis=0)


def test_images_left_out_of_the_fit_say_how_much_it_explains(told) -> None:
    latents, z_ND = told
    fitted = InitialLatents.fit(latents, z_ND)
    rows, flat_NP = np.arange(0, N, 10), latents.reshape(N, -1)
    predicted_NP = kernel_ridge(latents, z_ND, np.setdiff1d(np.arange(N), rows), fitted.penalty)(z_ND)
    np.testing.assert_allclose(fitted.predict(z_ND).reshape(N, -1), predicted_NP, rtol=0, atol=1e-4)
    error = np.square(predicted_NP - flat_NP)[rows].mean()
    assert fitted.explained == pytest.approx(1 - error / np.square(flat_NP[rows] - flat_NP.mean(axis=0)).mean())
    assert 0.6 < fitted.explained < 0.85
    shuffled = InitialLatents.fit(latents, np.roll(z_ND, 1, axis=0))  # embeddings of other images
    assert shuffled.explained < 0.05


def test_held_out_images_decide_on_the_penalty_and_their_own_embeddings_on_what_it_explains(told) -> None:
    latents, z_ND = told
    rows, rng = np.arange(60, 90), np.random.default_rng(1)
    brain_ND = z_ND[rows] + 2 * rng.normal(size=(30, D)).astype(np.float32)
    fitted = InitialLatents.fit(latents, z_ND, dict(zip(rows.tolist(), brain_ND, strict=True)))
    flat_NP = latents.reshape(N, -1)
    fits = [kernel_ridge(latents, z_ND, np.arange(60), penalty) for penalty in PENALTIES]
    best = int(np.argmin([np.square(fit(brain_ND) - flat_NP[rows]).sum() for fit in fits]))
    own = InitialLatents.fit(latents, z_ND, {row: z_ND[row] for row in rows.tolist()})
    assert fitted.penalty == PENALTIES[best] > own.penalty
    error = np.square(fits[best](z_ND[rows]) - flat_NP[rows]).mean()
    assert fitted.explained == pytest.approx(1 - error / np.square(flat_NP[rows] - flat_NP.mean(axis=0)).mean())
    predicted = fitted.predict(z_ND[:7])
    assert (predicted.shape, predicted.dtype) == ((7, *SHAPE), np.float32)
    np.testing.assert_allclose(predicted.reshape(7, -1), fits[best](z_ND[:7]), rtol=0, atol=1e-5)


def test_what_no_linear_map_finds_is_found() -> None:
    """Latents that are products of two dimensions of the embedding."""
    rng = np.random.default_rng(4)
    z_ND = rng.normal(size=(800, D)).astype(np.float32)
    latents = (z_ND[:, rng.integers(D, size=24)] * z_ND[:, rng.integers(D, size=24)]).reshape(-1, *SHAPE)
    rows = np.arange(0, 800, 10)
    line = RidgeCV(np.logspace(-3, 6, 10)).fit(z_ND, latents.reshape(800, -1))
    assert line.score(z_ND[rows], latents.reshape(800, -1)[rows]) < 0.1  # even of what it was fitted to
    assert InitialLatents.fit(latents, z_ND).explained > 0.9


def test_of_many_images_some_are_fitted_to_evenly(told, monkeypatch) -> None:
    monkeypatch.setattr("hvf.prior.initial_latents.MOST", 27)
    latents, z_ND = told
    fitted = InitialLatents.fit(latents, z_ND)
    others = np.setdiff1d(np.arange(N), np.arange(0, N, 10))
    np.testing.assert_array_equal(fitted.images_MD, z_ND[others[np.linspace(0, 80, 27).round().astype(int)]])
    model = kernel_ridge(latents, z_ND, others[np.linspace(0, 80, 27).round().astype(int)], fitted.penalty)
    np.testing.assert_allclose(fitted.predict(z_ND).reshape(N, -1), model(z_ND), rtol=0, atol=1e-4)


def test_many_latents_are_computed_in_blocks_and_one_image_explains_nothing(told, monkeypatch) -> None:
    latents, z_ND = told
    whole = InitialLatents.fit(latents, z_ND)
    monkeypatch.setattr("hvf.prior.initial_latents.COLUMNS", 7)
    parts = InitialLatents.fit(latents, z_ND)
    np.testing.assert_allclose(parts.predict(z_ND), whole.predict(z_ND), rtol=0, atol=1e-5)
    assert parts.explained == pytest.approx(whole.explained, abs=1e-6)
    single = InitialLatents.fit(latents[:1], z_ND[:1])
    np.testing.assert_array_equal(single.open_share(z_ND), np.ones(N))
    np.testing.assert_allclose(single.predict(z_ND[:1]), latents[:1], atol=1e-6)


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
    zeros = np.zeros((1, 400)), np.zeros((1, 1, 2, 2)), np.zeros((1, 2, 2)), np.zeros(400)
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
