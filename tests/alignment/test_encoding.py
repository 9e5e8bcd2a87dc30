"""The encoding model: closed forms against the obvious slow way, and what it finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hvf import alignment, presets
from hvf.alignment import Alignment
from hvf.alignment.encoding import (
    Choice,
    Encoding,
    _some,
    band_of,
    factors_of,
    mean_by_image,
    put,
    whitening,
)
from hvf.alignment.training_set import TrainingSet
from hvf.config import Config, HvfError, with_settings
from hvf.data.trials.trials import Trials
from hvf.evaluation import retrieval
from hvf.models.fusions.linear import Linear

SPECS = ("features:wide.npy", "features:narrow.npy")
M, TEST = 240, 60


def settings(**changed) -> Config:
    told = {"targets.specs": SPECS, "brain.encoder": "encoding", "fusion.kind": "linear", "brain.dropout": 0.0}
    return with_settings(presets.mini(), told | {name.replace("__", "."): x for name, x in changed.items()})


def neurons(seed: int = 0) -> tuple[Trials, dict[str, np.ndarray], tuple[str, ...]]:
    """Twelve channels that answer linearly to features of images, with noise that they share."""
    rng = np.random.default_rng(seed)
    features = {SPECS[0]: rng.normal(0, 3, (M, 40)), SPECS[1]: rng.normal(1, 0.1, (M, 8))}
    drive = np.concatenate([features[SPECS[0]] / 3, (features[SPECS[1]] - 1) / 0.1], 1)
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


def test_components_are_kept_in_order_of_their_variance():
    x_MX = np.random.default_rng(2).normal(size=(50, 20)) * np.linspace(5, 0.1, 20)
    f_Md = torch.from_numpy(np.random.default_rng(3).normal(size=(50, 4)))
    solved = Encoding.of(x_MX, {"features:a.npy": f_Md}, np.arange(50), 6)
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
    (entry,) = fitted.history
    assert set(entry["bands"]) == set(SPECS)
    assert entry["validation_top1"] > 0.5


def test_a_band_that_tells_nothing_costs_little():
    trials, features, concepts = neurons()
    alone, _ = found(trials, features, concepts, settings())
    noise = {"features:noise.npy": np.random.default_rng(5).normal(size=(M, 400)).astype(np.float32)}
    specs = {"targets__specs": (*SPECS, *noise)}
    top1, fitted = found(trials, features | noise, concepts, settings(**specs))
    assert set(fitted.best["bands"]) == {*SPECS, *noise}
    assert top1 > alone - 0.1


def test_layers_of_a_network_are_one_band_and_files_each_their_own():
    specs = ("torchvision:squeezenet1_0/w.npz@features.5:grid4", "torchvision:squeezenet1_0/w.npz@features.9:grid2")
    assert len({band_of(spec) for spec in specs}) == 1
    assert len({band_of(spec) for spec in ("vae:mini@64", "vae:mini@32:grid4", "openclip:mini-vit")}) == 2
    assert len({band_of(spec) for spec in ("features:a.npz#one", "features:a.npz#two", "features:b.npz")}) == 2
    assert len({band_of(spec) for spec in ("features:folder.v2#RN50", "features:folder.v2#vae")}) == 2
    factors = factors_of({specs[0]: 30, specs[1]: 10, "vae:mini": 8})
    assert 30 * factors[specs[0]] ** 2 + 10 * factors[specs[1]] ** 2 == pytest.approx(1)
    assert 8 * factors["vae:mini"] ** 2 == pytest.approx(1)


@pytest.mark.parametrize("constant", [0.0, 80.0])
def test_the_constant_makes_a_cosine_of_directions_or_of_distances(constant):
    rng = np.random.default_rng(4)
    x_MX, f_Md = rng.normal(size=(40, 5)) + 3, torch.from_numpy(rng.normal(size=(40, 7)).astype(np.float32))
    model = Encoding.of(x_MX, {SPECS[0]: f_Md}, np.arange(40), 5)
    project, fusion = torch.nn.Linear(5, 6), Linear({SPECS[0]: 7}, 6, 1, 0.0)
    put(model, Choice({SPECS[0]: 0.5}, None, 0.2, constant, 1.0, 0.0), project, fusion)
    with torch.no_grad():
        z_b, z_f = project(torch.from_numpy(x_MX).float()).numpy(), fusion({SPECS[0]: f_Md}).numpy()
    np.testing.assert_allclose(z_b[:, -1], constant, atol=1e-5)
    np.testing.assert_allclose(z_f[:, -1], constant, atol=1e-5)
    apart = np.linalg.norm(z_b[:, None] - z_f[None], axis=2)
    by_cosine, by_distance = np.argmax(retrieval.similarity(z_b, z_f), 1), np.argmin(apart, 1)
    assert (by_cosine == by_distance).mean() == 1 if constant else (by_cosine != by_distance).any()


def test_errors_are_made_white_and_shrinkage_keeps_variances():
    errors_MP = np.random.default_rng(6).normal(size=(3000, 4)) @ np.random.default_rng(7).normal(size=(4, 4))
    white = errors_MP @ whitening(errors_MP, 0.0)
    np.testing.assert_allclose(white.T @ white / 3000, np.eye(4), atol=1e-8)
    apart = whitening(errors_MP, 1.0)
    np.testing.assert_allclose(apart, np.diag(1 / np.sqrt(np.square(errors_MP).mean(0))), atol=1e-8)


def test_images_are_searched_by_whole_groups():
    group_M = np.repeat(np.arange(30), 4)
    rows = _some(group_M, 50)
    assert 40 < len(rows) <= 50
    assert (np.unique(group_M[rows], return_counts=True)[1] == 4).all()
    assert _some(group_M, 200).tolist() == list(range(120))
    assert len(_some(np.repeat([0, 1], 60), 50)) == 50


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
