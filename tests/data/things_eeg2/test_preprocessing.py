"""Preprocessing: every shortcut equals the long way that it stands for."""

from __future__ import annotations

import mne
import numpy as np
import pytest
import scipy.linalg
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import _cov

from hvf.config import HvfError
from hvf.data.montages import EEG_CHANNELS
from hvf.data.recordings import whitening
from hvf.data.things_eeg2 import preprocessing
from hvf.data.things_eeg2.preprocessing import RECIPES, workers
from hvf.presets import POSTERIOR_17


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def loop_covariance(x_IRCT, over):
    """As the published scripts do it: one condition after the other."""
    if over == "epochs":
        return np.mean([[_cov(x_CT.T, shrinkage="auto") for x_CT in x_RCT] for x_RCT in x_IRCT], axis=(0, 1))
    samples = range(x_IRCT.shape[3])
    return np.mean([[_cov(x_RCT[:, :, t], shrinkage="auto") for t in samples] for x_RCT in x_IRCT], axis=(0, 1))


@pytest.mark.parametrize(("recipe", "sfreq"), [("official", 1000.0), ("hvf", 1000.0), ("hvf", 500.0), ("hvf", 250.0)])
def test_one_product_equals_mne_epochs(recipe, sfreq):
    recipe = RECIPES[recipe]
    x_CN = noise(3, round(4 * sfreq)).cumsum(axis=1) * 1e-7 + np.array([[1e-3], [0.0], [-2e-4]])
    onsets = np.array([1.0, 1.2, 1.403]) * sfreq
    events = np.stack([onsets.round().astype(int), np.zeros(3, int), np.ones(3, int)], axis=1)
    raw = mne.io.RawArray(x_CN, mne.create_info(3, sfreq, "eeg"), verbose="error")
    epochs = mne.Epochs(
        raw, events, tmin=recipe.tmin, tmax=recipe.tmax, baseline=(None, 0), preload=True, verbose="error"
    )
    if sfreq != recipe.sfreq:
        epochs.resample(recipe.sfreq, verbose="error")
    theirs = epochs.get_data(verbose="error")[:, :, epochs.times > recipe.tmin_kept - 1e-9]
    start, _ = preprocessing.window(recipe, sfreq)
    operator = preprocessing.epoch_operator(recipe, sfreq)
    ours = np.empty((3, 2, operator.shape[1]))
    peak = preprocessing.cut_epochs(x_CN, np.array([2, 0]), events[:, 0] + start, operator, ours)
    if sfreq == recipe.sfreq:
        theirs = theirs[:, :, : ours.shape[2]]
    assert ours.shape[2] == theirs.shape[2]
    assert np.abs(ours - theirs[:, [2, 0]]).max() <= 1e-10 * np.abs(theirs).max()
    assert peak == pytest.approx(np.abs(ours).max(axis=(0, 2)))


@pytest.mark.parametrize("shape", [(5, 7, 40), (5, 7, 4), (3, 7, 2), (4, 1, 10), (2, 30, 20)])
def test_covariances_equal_scikit_learn(shape):
    x = noise(*shape) * np.geomspace(1, 100, shape[1])[:, None] + 3
    x = x + x[:, :1] * 0.5
    ours = whitening.shrunk_covariances(x)
    theirs = np.stack([_cov(sample.T, shrinkage="auto") for sample in x])
    assert np.abs(ours - theirs).max() <= 1e-12 * np.abs(theirs).max()
    if min(shape[1:]) > 2:  # with two samples there is nothing to shrink, however it is done
        plain = np.stack([ledoit_wolf(sample.T)[0] for sample in x])
        assert np.abs(plain - theirs).max() > 1e-3 * np.abs(theirs).max()


def test_covariance_of_a_constant_channel_equals_scikit_learn():
    x = noise(2, 5, 30)
    x[:, 2] = 4.0
    theirs = np.stack([_cov(sample.T, shrinkage="auto") for sample in x])
    assert np.allclose(whitening.shrunk_covariances(x), theirs, rtol=1e-12)


@pytest.mark.parametrize("over", ["epochs", "time"])
@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_mean_covariance_equals_the_loop(over, repeats):
    x = noise(7, repeats, 4, 5)
    with workers(2) as pool:
        ours = preprocessing.mean_covariance(x, over, pool)
    theirs = loop_covariance(x, over)
    assert np.abs(ours - theirs).max() <= 1e-12 * np.abs(theirs).max()
    assert np.abs(ours - loop_covariance(x, {"epochs": "time", "time": "epochs"}[over])).max() > 0.01


def test_inverse_root():
    x = noise(6, 50)
    cov = x @ x.T / 50
    theirs = scipy.linalg.fractional_matrix_power(cov, -0.5)
    assert np.allclose(whitening.inverse_root(cov, "abcdef"), theirs, rtol=1e-10)
    x[4] = 2 * x[1]
    with pytest.raises(HvfError, match=r"not independent.*\bb\b.*\be\b"):
        whitening.inverse_root(x @ x.T / 50, "abcdef")


def test_zscore():
    x = noise(9, 2, 3, 20) * 5 + np.arange(3)[:, None]
    with workers(2) as pool:
        matrix, shift = preprocessing.normaliser(RECIPES["neurobridge-zscore"], [x], "abc", pool)
    y = matrix @ x - shift
    assert np.allclose(y.mean(axis=(0, 1, 3)), 0, atol=1e-12)
    assert np.allclose(y.std(axis=(0, 1, 3)), 1)


@pytest.mark.parametrize(
    ("shown", "repeats", "chosen"), [(2, 2, [1, 0]), (3, 2, [1, 2]), (3, 3, [1, 2, 0]), (4, 3, [2, 1, 3])]
)
def test_choice_of_repeats(shown, repeats, chosen):
    codes = np.array([7] * shown + [3] * 5)[np.random.default_rng(0).permutation(shown + 5)]
    images, events = preprocessing.choose_repeats(codes, repeats)
    assert images.tolist() == [3, 7]
    assert events[1].tolist() == np.flatnonzero(codes == 7)[chosen].tolist()


def test_order_of_repeats():
    assert np.argsort(preprocessing.order_of_repeats(4)).tolist() == [2, 1, 3, 0]
    assert np.argsort(preprocessing.order_of_repeats(6)).tolist() == [3, 5, 2, 1, 4, 0]


def test_recipes_and_their_channels():
    assert sorted(preprocessing.FRONT_TO_BACK) == sorted(EEG_CHANNELS)
    assert preprocessing.POSTERIOR == POSTERIOR_17
    assert preprocessing.get_recipe("neurobridge_zscore").normalisation == "zscore"
    with pytest.raises(HvfError, match=r"'offical'.*official"):
        preprocessing.get_recipe("offical")


def test_threads_stop_at_an_error():
    def fail(rows):
        raise HvfError("no")

    with pytest.raises(HvfError, match="no"), workers(2) as pool:
        list(pool.blocks(1000, fail))
