"""The encoding model: closed forms against the obvious slow way, and what it finds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from hvf import alignment, presets
from hvf.alignment import Alignment
from hvf.alignment.encoding import Encoding, mean_by_image
from hvf.alignment.training_set import TrainingSet
from hvf.config import Config, HvfError, with_settings
from hvf.data.trials.trials import Trials
from hvf.evaluation import retrieval

SPECS = ("test:wide", "test:narrow")
M, TEST = 240, 60


def settings(**changed) -> Config:
    told = {"targets.specs": SPECS, "brain.encoder": "encoding", "fusion.kind": "linear", "brain.dropout": 0.0}
    return with_settings(presets.mini(), told | {name.replace("__", "."): x for name, x in changed.items()})


def neurons(seed: int = 0) -> tuple[Trials, dict[str, np.ndarray], tuple[str, ...]]:
    """Twelve channels that answer linearly to features of images, with noise that they share."""
    rng = np.random.default_rng(seed)
    features = {"test:wide": rng.normal(0, 3, (M, 40)), "test:narrow": rng.normal(1, 0.1, (M, 8))}
    drive = np.concatenate([features["test:wide"] / 3, (features["test:narrow"] - 1) / 0.1], 1)
    x_MC = drive @ rng.normal(size=(48, 12)) / 7
    x_MC += 1.5 * rng.normal(size=(M, 2)) @ rng.normal(size=(2, 12)) + 0.3 * rng.normal(size=(M, 12))
    ids = [f"image-{i:03d}" for i in range(M)]
    names = tuple(f"n{i:02d}" for i in range(12))
    trials = Trials(x_MC[:, :, None].astype(np.float32), ids, "simulated neurons", 1.0, 0.0, names, "misc")
    return trials, {k: x.astype(np.float32) for k, x in features.items()}, tuple(ids)


def found(trials, features, concepts, config, image_N=None) -> tuple[float, Alignment]:
    """Top-1 among the last images, which are not fitted."""
    learnt = {spec: x[:-TEST] for spec, x in features.items()}
    fitted = alignment.fit(
        TrainingSet(
            trials.select(np.arange(M - TEST)),
            learnt,
            concepts[:-TEST],
            image_N if image_N is not None else np.arange(M - TEST),
        ),
        config,
    )
    z_b = fitted.embed_brain(trials.select(np.arange(M - TEST, M)))
    z_f = fitted.embed_images({spec: x[-TEST:] for spec, x in features.items()})
    return retrieval.topk(retrieval.ranks(retrieval.similarity(z_b, z_f), np.arange(TEST)), 1), fitted


@pytest.mark.parametrize("width", [10, 90])
def test_weights_and_errors_are_those_of_ridge_image_by_image(width):
    rng = np.random.default_rng(1)
    f_MF, x_MX = rng.normal(size=(30, width)), rng.normal(size=(30, 5)) + 4
    solved = Encoding.of(x_MX, f_MF, 5)
    weights, errors = solved.weights(0.7)
    centred = f_MF - f_MF.mean(0)
    slow = Ridge(0.7, fit_intercept=False).fit(centred, x_MX - x_MX.mean(0))
    np.testing.assert_allclose(weights, slow.coef_.T, atol=1e-8)
    for i in (0, 7, 29):
        others = np.arange(30) != i
        left_out = Ridge(0.7, fit_intercept=False).fit(centred[others], (x_MX - x_MX.mean(0))[others])
        np.testing.assert_allclose(
            errors[i], (x_MX - x_MX.mean(0))[i] - left_out.predict(centred[i : i + 1])[0], atol=1e-8
        )


def test_components_are_kept_in_order_of_their_variance():
    x_MX = np.random.default_rng(2).normal(size=(50, 20)) * np.linspace(5, 0.1, 20)
    solved = Encoding.of(x_MX, np.random.default_rng(3).normal(size=(50, 4)), 6)
    assert solved.axes_XP.shape == (20, 6)
    kept = np.square(solved.y_MP).sum() / np.square(x_MX - x_MX.mean(0)).sum()
    best = np.sort(np.linalg.svd(x_MX - x_MX.mean(0), compute_uv=False) ** 2)[::-1]
    assert kept == pytest.approx(best[:6].sum() / best.sum(), rel=1e-3)


def test_it_finds_images_that_decoding_does_not_and_permuted_trials_find_none():
    trials, features, concepts = neurons()
    top1, fitted = found(trials, features, concepts, settings())
    ridge, _ = found(trials, features, concepts, settings(brain__encoder="ridge", fusion__kind="concatenated"))
    assert top1 > 0.5
    assert top1 > ridge + 0.1
    order_N = np.random.default_rng(0).permutation(M - TEST)
    permuted, _ = found(trials, features, concepts, settings(), order_N)
    assert permuted < 0.1
    (best,) = [entry for entry in fitted.history if entry["best"]]
    assert best["validation_mrr"] == max(entry["validation_mrr"] for entry in fitted.history)


def test_a_file_carries_it_and_single_trials_are_averaged(tmp_path):
    trials, features, concepts = neurons()
    top1, fitted = found(trials, features, concepts, settings())
    fitted.save(tmp_path)
    again = Alignment.load(tmp_path)
    np.testing.assert_array_equal(again.embed_brain(trials), fitted.embed_brain(trials))
    np.testing.assert_array_equal(again.embed_images(features), fitted.embed_images(features))
    twice = np.repeat(np.arange(M - TEST), 2)
    repeated = trials.select(np.concatenate([twice, np.arange(M - TEST, M)]))
    jitter = np.zeros((len(repeated), 1, 1), np.float32)
    jitter[: len(twice) : 2], jitter[1 : len(twice) : 2] = 0.4, -0.4  # which the mean takes away
    x_NCT = repeated.batch(slice(None)) + jitter
    single = repeated.replace(x_NCT=x_NCT).select(np.arange(len(twice)))
    learnt = {spec: x[:-TEST] for spec, x in features.items()}
    other = alignment.fit(TrainingSet(single, learnt, concepts[:-TEST], twice), settings())
    z_b, z_f = other.embed_brain(trials.select(np.arange(M - TEST, M))), other.embed_images(features)[-TEST:]
    assert retrieval.topk(retrieval.ranks(retrieval.similarity(z_b, z_f), np.arange(TEST)), 1) == pytest.approx(
        top1, abs=0.1
    )


def test_means_by_image():
    images, means = mean_by_image(np.array([[1.0], [5.0], [3.0]]), np.array([7, 2, 7]))
    assert images.tolist() == [2, 7]
    assert means.tolist() == [[5.0], [2.0]]


def test_what_it_cannot_solve_is_refused():
    trials, features, concepts = neurons()
    with pytest.raises(HvfError, match="set fusion.kind to 'linear', not 'hvf'"):
        alignment.fit(TrainingSet(trials, features, concepts), settings(fusion__kind="hvf"))
