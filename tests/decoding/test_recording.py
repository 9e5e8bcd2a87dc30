"""New trials made like those of training: every channel carries its own value, so that a wrong one shows."""

from __future__ import annotations

import mne
import numpy as np
import pandas as pd
import pytest

from hvf.alignment import RecordingInfo
from hvf.config import HvfError
from hvf.data.trials.trials import Trials
from hvf.decoding.recording import check_values, open_new_trials

NAMES = ("Fp1", "Oz", "PO7", "P3")
INFO = RecordingInfo("eeg", NAMES, 100.0, 0.0, 40, "", "")


def values(n: int, samples: int, seed: int = 0) -> np.ndarray:
    """(n, 4, samples) whose channel c is a noise around 10 (c + 1) µV."""
    rng = np.random.default_rng(seed)
    return 1e-6 * (rng.standard_normal((n, 4, samples)) + 10 * np.arange(1, 5)[:, None])


def epochs(tmp_path, names=NAMES, sfreq=100.0, tmin=-0.1, samples=60, order=(0, 1, 2, 3), n=6, **more):
    info = mne.create_info([names[i] for i in order], sfreq, "eeg")
    x_NCT = more.pop("x", values(n, samples))[:, list(order)]
    made = mne.EpochsArray(x_NCT, info, tmin=tmin, verbose="error", **more)
    made.save(tmp_path / "new-epo.fif", overwrite=True, verbose="error")
    return tmp_path / "new-epo.fif"


def test_channels_are_ordered_by_name_and_the_window_is_cut(tmp_path):
    path = epochs(tmp_path, order=(2, 0, 3, 1))
    new = open_new_trials(path, INFO)
    assert new.trials.ch_names == NAMES
    assert new.trials.shape == (6, 4, 40)
    assert np.allclose(new.trials.load_array(), values(6, 60)[:, :, 10:50], atol=1e-9)
    assert any("cut to 40 samples" in note for note in new.notes)
    assert new.image_ids == ("",) * 6
    assert new.names == ("0", "1", "2", "3", "4", "5")
    shouted = path.rename(path.with_name("NEW-EPO.FIF"))
    assert np.array_equal(open_new_trials(shouted, INFO).trials.load_array(), new.trials.load_array())


@pytest.mark.parametrize("names", [("FP1", "oz", "Po7.", "p3"), ("EEG Fp1", "EEG Oz", "EEG PO7", "EEG P3")])
def test_names_spelt_otherwise_are_the_same_channels(tmp_path, names):
    new = open_new_trials(epochs(tmp_path, names=names, order=(3, 2, 1, 0)), INFO)
    assert np.allclose(new.trials.load_array().mean(axis=(0, 2)), 1e-5 * np.arange(1, 5), atol=2e-7)


def test_other_channels_are_left_out_by_name(tmp_path):
    info = mne.create_info([*NAMES, "Cz"], 100.0, "eeg")
    x_NCT = np.concatenate([values(3, 60), np.full((3, 1, 60), 1e-6)], axis=1)
    mne.EpochsArray(x_NCT, info, tmin=-0.1, verbose="error").save(tmp_path / "five-epo.fif", verbose="error")
    new = open_new_trials(tmp_path / "five-epo.fif", INFO)
    assert new.trials.shape[1] == 4
    assert any("Cz" in note for note in new.notes)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"names": ("Fp1", "Oz", "PO7", "Cz")}, "lacks 1 of the 4 channels.*P3"),
        ({"names": ("Fp1", "OZ", "oz", "P3")}, "which channel is Oz"),
        ({"tmin": 0.05}, "cut longer epochs"),
        ({"samples": 45}, "cut longer epochs"),
    ],
)
def test_what_cannot_be_matched_is_refused_by_name(tmp_path, more, reason):
    with pytest.raises(HvfError, match=reason):
        open_new_trials(epochs(tmp_path, x=values(6, more.get("samples", 60)), **more), INFO)


def test_another_rate_is_resampled(tmp_path):
    """A wave of 5 Hz, recorded at 250 Hz, comes out as the same wave at 100 Hz."""
    times = np.arange(-50, 200) / 250.0
    x_NCT = 1e-6 * np.sin(2 * np.pi * 5 * times) * np.ones((6, 4, 1))
    new = open_new_trials(epochs(tmp_path, sfreq=250.0, tmin=-0.2, samples=250, x=x_NCT), INFO)
    expected = 1e-6 * np.sin(2 * np.pi * 5 * np.arange(40) / 100.0)
    assert np.abs(new.trials.load_array() - expected).max() < 5e-9
    assert any("resampled from 250 to 100 Hz" in note for note in new.notes)


@pytest.mark.parametrize(
    ("sfreq", "samples"),
    [(250.0, 300), (250.0, 301), (250.0, 304), (1000.0, 1205), (512.0, 615), (300.0, 361), (333.0, 401), (80.0, 97)],
)
def test_resampling_stretches_no_epoch_of_any_length(tmp_path, sfreq, samples):
    """A burst 0.3 s after onset, late in the decoder's window, stays where it is."""
    first = round(-0.2 * sfreq)

    def burst(times: np.ndarray) -> np.ndarray:
        return 1e-6 * np.sin(2 * np.pi * 7 * (times - 0.3)) * np.exp(-(((times - 0.3) / 0.08) ** 2))

    x_NCT = burst(np.arange(first, first + samples) / sfreq) * np.ones((6, 4, 1))
    path = epochs(tmp_path, sfreq=sfreq, tmin=first / sfreq, samples=samples, x=x_NCT)
    found_T = open_new_trials(path, INFO).trials.load_array()[0, 0]
    shift = (first / sfreq + 0.205) % 0.01 - 0.005  # epochs may begin between two samples of the decoder's
    errors = {
        ms: np.abs(found_T - burst(np.arange(40) / 100 + shift - ms / 1000)).max() for ms in (-1, -0.3, 0, 0.3, 1)
    }
    assert min(errors, key=errors.__getitem__) == 0
    assert errors[0] < 1e-8


def test_prepared_trials_of_another_rate_are_refused(tmp_path):
    trials = Trials(values(6, 60), list("abcdef"), "sub-01", 200.0, -0.1, NAMES, "eeg")
    trials.save(tmp_path / "sub-01_trials.npy")
    with pytest.raises(HvfError, match=r"200 Hz.*100 Hz.*epochs"):
        open_new_trials(tmp_path / "sub-01_trials.npy", INFO)


def test_prepared_trials_are_matched_and_know_their_images(tmp_path):
    trials = Trials(values(6, 60)[:, ::-1], list("aabbcc"), "sub-01", 100.0, -0.1, NAMES[::-1], "eeg")
    trials.save(tmp_path / "sub-01_trials.npy")
    new = open_new_trials(tmp_path / "sub-01_trials.npy", INFO, "image")
    assert new.image_ids == ("a", "b", "c")
    assert new.repeats == (2, 2, 2)
    expected = values(6, 60).reshape(3, 2, 4, 60).mean(axis=1)[:, :, 10:50]
    assert np.allclose(new.trials.load_array(), expected, atol=1e-9)


def test_an_array_is_taken_in_the_decoders_order_and_says_so(tmp_path):
    np.save(tmp_path / "x.npy", values(6, 40))
    new = open_new_trials(tmp_path / "x.npy", INFO)
    assert np.allclose(new.trials.load_array(), values(6, 40))
    assert any("names no channels" in note for note in new.notes)
    for shape, reason in (((6, 40, 4), "transpose"), ((6, 4, 60), "rate or window"), ((6, 5, 40), "5 channels")):
        np.save(tmp_path / "y.npy", np.zeros(shape))
        with pytest.raises(HvfError, match=reason):
            open_new_trials(tmp_path / "y.npy", INFO)


def test_trials_of_one_image_are_averaged(tmp_path):
    table = pd.DataFrame({"block": [1, 2, 1, 2, 1, 2], "image": ["a.png", "b.png"] * 3})
    new = open_new_trials(epochs(tmp_path, metadata=table), INFO, "block")
    assert new.names == ("1", "2")
    assert new.repeats == (3, 3)
    assert new.image_ids == ("a.png", "b.png")
    assert np.allclose(new.trials.load_array()[0], values(6, 60)[::2, :, 10:50].mean(axis=0), atol=1e-9)
    with pytest.raises(HvfError, match="did you mean 'block'"):
        open_new_trials(tmp_path / "new-epo.fif", INFO, "blocks")
    table["block"] = [1, 1, 2, 2, 3, 3]
    with pytest.raises(HvfError, match="different images"):
        open_new_trials(epochs(tmp_path, metadata=table), INFO, "block")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: 1e6 * x, "1e\\+06 times"),
        (lambda x: 1e-3 * x, "0.001 times"),
        (lambda x: x + 1e-2, "standard deviations off"),
    ],
)
def test_other_units_and_offsets_are_refused(change, reason):
    mean, sd = 1e-5 * np.arange(1, 5), np.full(4, 1e-6)
    good = Trials(values(50, 40), [str(i) for i in range(50)], "s", 100.0, 0.0, NAMES, "eeg")
    check_values(good, mean, sd, "new")
    check_values(
        good.replace(x_NCT=mean[:, None] + 0.15 * (good.load_array() - mean[:, None])), mean, sd, "means of 40"
    )
    with pytest.raises(HvfError, match=reason):
        check_values(good.replace(x_NCT=change(good.load_array())), mean, sd, "new")


def test_few_trials_of_one_sample_may_have_one_value():
    mean, sd = np.zeros(4), np.ones(4)
    x_NCT = np.random.default_rng(0).integers(0, 2, (40, 4, 1)).astype(float)
    x_NCT[:, 1] = 0.0
    silent = Trials(x_NCT, [str(i) for i in range(40)], "s", 1.0, 0.0, NAMES, "features")
    check_values(silent[:1], mean, sd, "one")
    check_values(silent[:20], mean, sd, "few")
    with pytest.raises(HvfError, match="channel Oz .*same value"):
        check_values(silent, mean, sd, "many")
    with pytest.raises(HvfError, match="NaN"):
        check_values(silent[:1].replace(x_NCT=np.full((1, 4, 1), np.nan)), mean, sd, "new")
    with pytest.raises(HvfError, match="other units"):
        check_values(silent[:9].replace(x_NCT=1e6 * x_NCT[:9]), mean, sd, "new")


def test_one_channel_in_another_unit_is_named():
    mean, sd = 1e-5 * np.arange(1, 5), np.full(4, 1e-6)
    x_NCT = values(9, 40)
    x_NCT[0, 1] = 1.0  # a jump in one trial
    trials = Trials(x_NCT, [str(i) for i in range(9)], "s", 100.0, 0.0, NAMES, "eeg")
    check_values(trials, mean, sd, "new")
    x_NCT = values(9, 40)
    x_NCT[:, 2] *= 1e6
    with pytest.raises(HvfError, match="new: PO7: .*unit"):
        check_values(trials.replace(x_NCT=x_NCT), mean, sd, "new")


def test_a_channel_marked_bad_is_named(tmp_path):
    path = epochs(tmp_path, names=("FP1", "oz", "PO7", "P3"))
    marked = mne.read_epochs(path, verbose="error")
    marked.info["bads"] = ["oz"]
    marked.save(path, overwrite=True, verbose="error")
    with pytest.raises(HvfError, match="needs Oz, marked bad"):
        open_new_trials(path, INFO)


def test_eeg_recorded_beside_meg_is_decoded(tmp_path):
    info = mne.create_info(["MEG0111", *NAMES], 100.0, ["mag"] + ["eeg"] * 4)
    x_NCT = np.concatenate([np.full((6, 1, 60), 1e-12), values(6, 60)], axis=1)
    mne.EpochsArray(x_NCT, info, tmin=-0.1, verbose="error").save(tmp_path / "both-epo.fif", verbose="error")
    new = open_new_trials(tmp_path / "both-epo.fif", INFO)
    assert np.allclose(new.trials.load_array(), values(6, 60)[:, :, 10:50], atol=1e-9)
    assert any("MEG channels are left out" in note for note in new.notes)


def test_a_rate_less_than_half_a_sample_off_is_the_same(tmp_path):
    new = open_new_trials(epochs(tmp_path, sfreq=99.99), INFO)
    assert new.trials.sfreq == 100.0
    assert np.allclose(new.trials.load_array(), values(6, 60)[:, :, 10:50], atol=1e-9)
    assert not any("resampled" in note for note in new.notes)


def test_images_that_are_named_for_some_trials_alone_are_said(tmp_path):
    table = pd.DataFrame({"image": ["a.png", "b.png", None] * 2})
    new = open_new_trials(epochs(tmp_path, metadata=table), INFO)
    assert new.image_ids == ("",) * 6
    assert any("names no image for epoch 2" in note for note in new.notes)


def test_several_arrays_are_not_trials(tmp_path):
    np.savez(tmp_path / "x.npz", x=values(6, 40))
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(HvfError, match="several arrays"):
        open_new_trials(tmp_path / "x.npy", INFO)


def test_another_kind_is_refused(tmp_path):
    trials = Trials(values(6, 40), list("abcdef"), "sub-01", 100.0, 0.0, NAMES, "meg")
    trials.save(tmp_path / "sub-01_trials.npy")
    with pytest.raises(HvfError, match="holds MEG.*EEG"):
        open_new_trials(tmp_path / "sub-01_trials.npy", INFO)
