"""Trials as MNE epochs and xarray arrays: what comes back is what went in."""

from __future__ import annotations

import builtins

import mne
import numpy as np
import pytest

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.montages import EEG_CHANNELS
from hvf.data.sensor_positions import positions_in, positions_of
from hvf.data.trials.reading import read_trials
from hvf.data.trials.trials import Trials

RNG = np.random.default_rng(0)
IDS = ["none", " a b", "001", "cat/cat_1.JPG", "nan", "001", "7.0"]  # which tables of others would be read otherwise
CONCEPTS = ["n/a", "x", "1", "cat", "x", "1", "2.0"]


def made(kind: str = "eeg", ch_names=("Fp1", "HEOG", "Oz", "photo"), **more) -> Trials:
    """Four channels, two of whose names are of no brain in a recording of others."""
    x_NCT = (1e-6 * RNG.normal(size=(len(IDS), len(ch_names), 12))).astype(np.float32)
    fields = {
        "image_ids": IDS, "subject": "sub-03", "sfreq": 250.0, "tmin": -0.2, "ch_names": ch_names, "kind": kind,
        "simulated": True, "concepts": CONCEPTS, "splits": ["train", "test"] * 3 + ["train"],
        "sessions": [1, 2, 3, 1, 2, 3, 11], "history": {"recipe": "nice", "n": np.int64(3)},
    }  # fmt: skip
    return Trials(x_NCT, **fields | more)


def assert_same(one: Trials, other: Trials) -> None:
    np.testing.assert_array_equal(one.load_array(), other.load_array())
    for name in ("image_ids", "concepts", "splits", "sessions"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert (mine is None) == (theirs is None)
        assert mine is None or mine.tolist() == theirs.tolist()
    for name in ("subject", "sfreq", "tmin", "ch_names", "kind", "simulated"):
        assert getattr(one, name) == getattr(other, name), name


MEG = ("MLC11", "MEG0113", "MEG 0111", "EEG 001")


@pytest.mark.parametrize(
    "trials",
    [
        made(),
        made("meg", MEG),
        made("features", ("000", "001", "STI 014")),
        made(concepts=None, splits=None, sessions=None, history=None, simulated=False),
        made(sfreq=1000 / 3, tmin=3 / (1000 / 3)),
        made(tmin=0.1 + 3 / 250),
        made().average().select([2, 0]).pick(["Oz", "HEOG"]).crop(-0.2, -0.18),
        Trials(made().load_array().astype(np.float16), IDS, "s", 100.0, 0.0, "abcd", "eeg"),
        Trials(np.ones((7, 4, 1), np.float32), IDS, "s", 1.0, 0.1, "abcd", "features"),
    ],
    ids=["eeg", "meg", "features", "bare", "thirds", "sums", "selected", "half", "no time"],
)
def test_epochs_give_the_same_trials_back(trials: Trials, tmp_path) -> None:
    epochs = trials.to_epochs()
    np.testing.assert_array_equal(epochs.get_data(), trials.load_array().astype(np.float64))
    assert_same(Trials.from_epochs(epochs), trials)
    epochs.save(tmp_path / "s-epo.fif", verbose="error")
    assert_same(Trials.from_epochs(mne.read_epochs(tmp_path / "s-epo.fif", verbose="error")), trials)


def test_epochs_say_what_they_are() -> None:
    trials = made("eeg", ("Fp1", "Oz", "lab 1"))
    epochs = trials.to_epochs()
    assert list(epochs.metadata) == ["image", "concept", "split", "session"]
    assert len(epochs['concept == "x" and session == 2']) == 2
    np.testing.assert_allclose(epochs.times, trials.times)
    assert (epochs.tmin, epochs.baseline, epochs.info["bads"]) == (-0.2, None, [])
    known = epochs.copy().pick(["Fp1", "Oz"])
    np.testing.assert_allclose(positions_in(known.info, ["Fp1", "Oz"]), positions_of(["Fp1", "Oz"]), atol=0.03)
    assert not np.isfinite(epochs.info["chs"][2]["loc"][:3]).any()
    assert made("meg", MEG).to_epochs().get_channel_types() == ["mag", "grad", "mag", "eeg"]
    assert len(Trials(RNG.normal(size=(2, 63, 3)), ["a", "b"], "s", 100.0, 0.0, EEG_CHANNELS, "eeg").to_epochs()
               .average().info.get_montage().ch_names) == 63  # fmt: skip
    back = Trials.from_epochs(epochs)
    assert back.history == {"notes": ['7 epochs of 6 images, paired by metadata["image"]'],
                            "trials": {"recipe": "nice", "n": 3}}  # fmt: skip


def test_what_was_done_to_epochs_counts() -> None:
    """What MNE changed is not undone by what the trials had been."""
    trials = made()
    epochs = trials.to_epochs().crop(-0.192, -0.18).pick(["Oz", "Fp1"])[[4, 1]]
    assert_same(Trials.from_epochs(epochs), trials.select([4, 1]).pick(["Oz", "Fp1"]).crop(-0.192, -0.176))
    slower = trials.to_epochs().decimate(2, verbose="error")
    back = Trials.from_epochs(slower)
    assert (back.sfreq, back.shape) == (125.0, (7, 4, 6))
    np.testing.assert_array_equal(back.load_array(), trials.load_array()[:, :, ::2])
    marked = trials.to_epochs()
    marked.info["bads"] = ["Oz"]
    assert Trials.from_epochs(marked).ch_names == ("Fp1", "HEOG", "photo")
    others = trials.to_epochs()
    others.info["description"] = "somebody's"  # the control: read as a recording of others
    with pytest.raises(HvfError, match="names no image for epoch 0"):
        Trials.from_epochs(others)


def test_epochs_are_paired_with_images(tmp_path) -> None:
    pictures = np.zeros((4, 8, 8, 3), np.uint8)
    images = ImageSet.from_arrays(pictures, ["1", "2", "3", "stimulus"], "abca")  # names that an event might have
    trials = Trials(RNG.normal(size=(3, 2, 5)), ["3", "stimulus", "1"], "sub-01", 100.0, 0.0, ["Oz", "O1"], "eeg")
    back = Trials.from_epochs(trials.to_epochs(), images)
    assert_same(back, trials.replace(concepts=["c", "a", "a"]))
    trials.to_epochs().save(tmp_path / "s-epo.fif", verbose="error")
    assert read_trials(tmp_path / "s-epo.fif", images).image_ids.tolist() == ["3", "stimulus", "1"]


@pytest.mark.parametrize(
    ("trials", "message"),
    [
        (made().select([]), "are empty"),
        (made(ch_names=("Oz", "Oz", "O1", "O2")), "several channels of sub-03 are called Oz"),
        (made(tmin=0.001), "at 0.001 s, between two samples of 250 Hz"),
    ],
)
def test_what_epochs_cannot_be_is_refused(trials: Trials, message: str) -> None:
    with pytest.raises(HvfError, match=message):
        trials.to_epochs()


def test_xarray_has_labels_along_its_axes(tmp_path) -> None:
    xarray = pytest.importorskip("xarray")
    trials = made()
    array = trials.to_xarray()
    assert array.dims == ("trial", "channel", "time")
    np.testing.assert_array_equal(array.values, trials.load_array())
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array.sel(channel="Oz").values, trials.pick(["Oz"]).load_array()[:, 0])
    np.testing.assert_array_equal(array.time, trials.times)
    assert {name: array[name].values.tolist() for name in ("image", "concept", "split", "session")} == {
        "image": IDS, "concept": CONCEPTS, "split": trials.splits.tolist(), "session": [1, 2, 3, 1, 2, 3, 11],
    }  # fmt: skip
    assert {name: array.attrs[name] for name in ("sfreq", "subject", "kind", "simulated")} == {
        "sfreq": 250.0, "subject": "sub-03", "kind": "eeg", "simulated": 1,
    }  # fmt: skip
    by_image = array.groupby("image").mean("trial")
    np.testing.assert_allclose(by_image.sel(image="001").values, trials.load_array()[[2, 5]].mean(axis=0), rtol=1e-4)
    array.to_netcdf(tmp_path / "trials.nc", engine="scipy")
    with xarray.open_dataarray(tmp_path / "trials.nc", engine="scipy") as read:
        np.testing.assert_array_equal(read.values, trials.load_array())
        assert read.image.values.tolist() == IDS
    bare = made(concepts=None, splits=None, sessions=None).to_xarray()
    assert set(bare.coords) == {"image", "channel", "time"}


def test_without_xarray_it_says_what_to_install(monkeypatch) -> None:
    original = builtins.__import__

    def without(name, *args, **more):
        if name == "xarray":
            raise ImportError("No module named 'xarray'")
        return original(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(HvfError, match=r"to_xarray needs xarray .*: pip install 'hvf\[xarray\]'"):
        made().to_xarray()
