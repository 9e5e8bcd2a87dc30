"""Metrics: worked matrices, obvious slow versions, and what ties, constants and mismatches score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity
from torchvision import transforms

from hvf.config import HvfError
from hvf.evaluation import picture_metrics
from hvf.evaluation.metrics.base import correlation_distance

RNG = np.random.default_rng(0)


def _pictures(n, size=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def test_two_way_on_a_worked_matrix():
    # Orthogonal zero-mean rows: every reconstruction correlates with exactly the reals it is built from.
    a, b, c = np.array([[1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=float)
    real = np.stack([a, b, c])
    recon = np.stack([2 * a, a + b, -c])  # beats both others; ties with real 0: a miss; below both others
    assert picture_metrics.two_way(real, recon).tolist() == [1.0, 0.5, 0.0]


def test_two_way_equals_the_obvious_slow_one():
    real, recon = RNG.normal(size=(2, 12, 30))
    recon += real
    for j, share in enumerate(picture_metrics.two_way(real, recon)):
        r = [np.corrcoef(row, recon[j])[0, 1] for row in real]
        assert share == sum(r[i] < r[j] for i in range(12) if i != j) / 11


@pytest.mark.parametrize("alike", [3, 20])
@pytest.mark.parametrize("offset", [0.0, 2.0, 3e3])
def test_single_precision_decides_no_comparison(alike, offset):
    """Seen pictures of which some differ by less than a product in single precision can tell."""
    rng, n = np.random.default_rng(1), 60
    real = (offset + rng.normal(size=(n, 40_000))).astype(np.float32)
    for i in range(1, alike):
        real[i] = real[0]
        real[i, rng.permutation(40_000)[:4]] += np.float32(1e-3)
    real[alike] = real[0]  # a tie
    recon = (real + rng.normal(size=real.shape)).astype(np.float32)
    r_NN = np.corrcoef(real, recon)[:n, n:]
    expected = (r_NN < np.diag(r_NN)).sum(axis=0) / (n - 1)
    np.testing.assert_array_equal(picture_metrics.two_way(real, recon), expected)
    seen = picture_metrics.SeenFeatures(real)
    np.testing.assert_allclose(seen.correlations(recon, np.arange(n)), r_NN, rtol=0, atol=1e-6)
    if offset < 3:  # a control: the plain product is wrong about some
        x, y = (f - f.mean(axis=1, keepdims=True) for f in (real, recon))
        plain = x @ y.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)
        assert ((plain < np.diag(plain)) != (r_NN < np.diag(r_NN))).any()


def test_collapsed_reconstructions_score_no_better_than_chance():
    real = RNG.normal(size=(20, 30))
    same = np.repeat(RNG.normal(size=(1, 30)), 20, axis=0)
    assert picture_metrics.two_way(real, same).mean() == pytest.approx(0.5)
    assert picture_metrics.two_way(real, np.full((20, 30), 0.1)).mean() == 0.0  # undefined everywhere: all misses


def test_two_way_chance_holds_random_pairings_and_not_true_ones():
    real = RNG.normal(size=(60, 30))
    recon = real + RNG.normal(size=real.shape)
    r_NN = picture_metrics.SeenFeatures(real).correlations(recon, np.arange(60))
    chance = picture_metrics.chance_of(r_NN, permutations=2000)
    low, high = chance["ci95"]
    assert chance["value"] == pytest.approx(0.5)
    assert chance["n"] == 60
    assert low < 0.5 < high < picture_metrics.two_way(real, recon).mean()
    inside = [low <= picture_metrics.two_way(real[RNG.permutation(60)], recon).mean() <= high for _ in range(200)]
    assert np.mean(inside) > 0.9
    assert picture_metrics.chance_of(r_NN, permutations=2000) == chance


def test_two_way_chance_counts_ties_and_constants_as_misses():
    real = np.array([[1.0, -1, 1, -1], [1, -1, 1, -1], [2, 2, 2, 2]])
    r_NN = picture_metrics.SeenFeatures(real).correlations(real, np.arange(3))
    assert picture_metrics.chance_of(r_NN, permutations=10)["value"] == 0.0


def test_identical_and_inverted_pictures():
    x = _pictures(3)
    for name, scores in picture_metrics.pixel_scores(x, x).items():
        np.testing.assert_allclose(scores, 1.0, err_msg=name)
    np.testing.assert_allclose(picture_metrics.pixcorr(x, 255 - x), -1.0)


@pytest.mark.parametrize("value", [0, 77, 255])
def test_pixcorr_of_a_constant_picture_is_undefined(value):
    x = _pictures(2)
    constant = x.copy()
    constant[1] = value
    for scores in (picture_metrics.pixcorr(x, constant), picture_metrics.pixcorr(constant, x)):
        assert np.isnan(scores).tolist() == [False, True]
    assert np.isfinite(picture_metrics.ssim(x, constant)).all()


def test_pictures_of_any_size_type_and_number_agree():
    x, y = _pictures(5), _pictures(5, size=40, seed=1)
    both = picture_metrics.pixel_scores(x, y)
    np.testing.assert_array_equal(both["pixcorr"], picture_metrics.pixcorr(x, y))
    np.testing.assert_array_equal(both["ssim"], picture_metrics.ssim(x, y))
    assert both["ssim"].shape == (len(x),)
    np.testing.assert_allclose(picture_metrics.ssim(x / 255.0, y / np.float32(255)), both["ssim"], atol=1e-6)
    np.testing.assert_allclose(picture_metrics.pixcorr(x[-1:], y[-1:]), both["pixcorr"][-1:], atol=1e-6)


@pytest.mark.parametrize(("old", "new"), [((24, 31), (40, 50)), ((600, 90), (256, 256)), ((64, 64), (64, 64))])
def test_resizing_is_that_of_torchvision(old, new):
    x = RNG.integers(0, 256, (*old, 3), dtype=np.uint8)
    as_tensor = torch.from_numpy(x).permute(2, 0, 1).float() / 255
    want = transforms.Resize(new)(as_tensor).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(picture_metrics.resized(x, *new), want, atol=2e-7)
    np.testing.assert_allclose(picture_metrics.resized(x / np.float32(255), *new), want, atol=2e-7)


def test_pixel_scores_equal_the_obvious_slow_ones():
    smooth = RNG.random((3, 6, 6, 3)).repeat(9, axis=1).repeat(9, axis=2).astype(np.float32)
    drawn = np.clip(smooth + 0.2 * RNG.normal(size=smooth.shape), 0, 1).astype(np.float32)
    drawn[2] = 0.999 + 0.001 * drawn[2]  # nearly saturated: where single precision would show
    scores = picture_metrics.pixel_scores(smooth, drawn)
    route = transforms.Compose([transforms.Resize((256, 256)), transforms.Resize((425, 425))])
    for i in range(3):
        a, b = (route(torch.from_numpy(x[i]).permute(2, 0, 1)).permute(1, 2, 0).numpy() for x in (smooth, drawn))
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
        assert scores["ssim"][i] == pytest.approx(structural_similarity(rgb2gray(a), rgb2gray(b), **settings), abs=1e-6)
        assert scores["pixcorr"][i] == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-6)


def test_rounds_are_measured_as_if_alone():
    x, rounds = _pictures(2), np.stack([_pictures(2, seed=s) for s in range(3)])
    for name, values_RN in picture_metrics.pixel_scores(x, rounds).items():
        assert values_RN.shape == (3, 2)
        for r in range(3):
            np.testing.assert_array_equal(values_RN[r], picture_metrics.pixel_scores(x, rounds[r])[name])


def test_two_way_of_rounds_and_their_chance():
    real = RNG.normal(size=(20, 30))
    rounds = [real + RNG.normal(size=real.shape) for _ in range(3)]
    seen = picture_metrics.SeenFeatures(real)
    r_RNN = np.stack([seen.correlations(recon, np.arange(20)) for recon in rounds])
    for shares, recon in zip(picture_metrics.two_way_shares(r_RNN), rounds, strict=True):
        np.testing.assert_array_equal(shares, picture_metrics.two_way(real, recon))
    one, three = picture_metrics.chance_of(r_RNN[0], 2000), picture_metrics.chance_of(r_RNN, 2000)
    assert three["value"] == pytest.approx(0.5)
    assert three["n"] == 20
    # Rounds of an image are alike, so that averaging them narrows chance by far less than a factor of sqrt(3).
    widths = [high - low for low, high in (one["ci95"], three["ci95"])]
    assert 0.6 < widths[1] / widths[0] <= 1.0


def test_features_of_seen_pictures_serve_any_subset():
    real, recon = RNG.normal(size=(6, 5)), RNG.normal(size=(4, 5))
    which = np.array([3, 0, 0, 5])
    seen = picture_metrics.SeenFeatures(real)
    np.testing.assert_allclose(seen.correlation(recon, which), seen.correlations(recon, which)[which, np.arange(4)])
    cosine = picture_metrics.SeenFeatures(real, centre=False).correlation(recon, which)
    want = [real[i] @ y / np.linalg.norm(real[i]) / np.linalg.norm(y) for i, y in zip(which, recon, strict=True)]
    np.testing.assert_allclose(cosine, want)


def test_correlation_distance():
    real = RNG.normal(size=(4, 2, 5))
    recon = np.stack([real[0], -real[1], 3 * real[2] + 7, np.ones((2, 5))])
    distances = correlation_distance(picture_metrics.SeenFeatures(real), recon, np.arange(4))
    np.testing.assert_allclose(distances, [0, 2, 0, np.nan], atol=1e-12)


@pytest.mark.parametrize(
    ("reals", "recons", "message"),
    [
        (_pictures(3), _pictures(2), "3 seen pictures but 2 reconstructions"),
        (_pictures(2)[..., :1], _pictures(2), "seen pictures should be an array"),
        (_pictures(2), _pictures(2).astype(np.int64), "should be uint8"),
        (_pictures(0), _pictures(0), "should be an array"),
        (_pictures(2), _pictures(2).astype(np.float32), "reconstructions are floats from .* to .*: clip them"),
        (_pictures(2) / 127.5 - 1, _pictures(2), "seen pictures are floats from -"),
        (_pictures(2), np.where(_pictures(2) == _pictures(2).max(), np.nan, 0.5), "floats from nan to nan"),
    ],
)
def test_pictures_that_do_not_pair_are_refused(reals, recons, message):
    with pytest.raises(HvfError, match=message):
        picture_metrics.pixcorr(reals, recons)


def test_routes_without_a_first_resize_need_one_size():
    with pytest.raises(HvfError, match="one size"):
        picture_metrics.ssim(_pictures(2), _pictures(2, size=30), first=None)


def test_features_that_do_not_pair_are_refused():
    with pytest.raises(HvfError, match="do not pair"):
        picture_metrics.two_way(np.zeros((3, 4)), np.zeros((2, 4)))
    with pytest.raises(HvfError, match="at least two"):
        picture_metrics.two_way(np.zeros((1, 4)), np.zeros((1, 4)))
