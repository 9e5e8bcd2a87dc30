"""Pictures of recordings and trials: which are left, what they show, and what cannot be drawn."""

from __future__ import annotations

import mne
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hvf.cli import main
from hvf.data.trials.trials import Trials
from hvf.registry import HvfError
from hvf.report.recording_pictures import _events_of, draw, timeline
from hvf.report.trial_pictures import conditions, halves, outlying, split_half

NAMES = ["Fz", "Cz", "Pz", "Oz", "O1", "O2"]


def trials(repeats: int = 4, images: int = 30, noise: float = 1.0) -> Trials:
    """Every image has a response of its own at Oz, from 100 ms on; elsewhere there is noise."""
    rng = np.random.default_rng(0)
    own = rng.normal(size=images)
    x_NCT = noise * rng.normal(size=(images * repeats, len(NAMES), 40))
    x_NCT[:, 3, 10:] += np.tile(own, repeats)[:, None]
    ids = [f"im{i:02d}" for _ in range(repeats) for i in range(images)]
    return Trials(1e-6 * x_NCT, ids, "one", 100.0, 0.0, NAMES, "eeg")


def recording(path, sd=(1, 1, 1, 1, 1, 50)):
    rng = np.random.default_rng(0)
    data = 1e-5 * np.array(sd)[:, None] * rng.normal(size=(len(NAMES), 2000))
    raw = mne.io.RawArray(data, mne.create_info(NAMES, 200.0, "eeg"), verbose="error")
    raw.set_annotations(mne.Annotations(np.arange(1, 9), 0.0, ["cat", "dog"] * 4))
    raw.save(path, verbose="error")
    return path


@pytest.mark.slow(part=7)
def test_prepared_trials_leave_four_pictures(tmp_path):
    trials().save(tmp_path / "p.npy")
    written = draw(tmp_path / "p.npy", tmp_path / "out")
    assert [path.name for path in written] == ["p_evoked.png", "p_channels.png", "p_events.png", "p_reliability.png"]
    for path in written:
        assert np.ptp(np.asarray(Image.open(path).convert("L"))) > 200
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in written)


@pytest.mark.slow(part=7)
def test_trials_without_repeats_have_no_reliability(tmp_path):
    trials(repeats=1).save(tmp_path / "p.npy")
    assert [path.name for path in draw(tmp_path, tmp_path / "out")] == [
        "p_evoked.png",
        "p_channels.png",
        "p_events.png",
    ]


@pytest.mark.slow(part=7)
def test_a_recording_is_drawn_by_the_command(tmp_path, capsys):
    main(["data", "doctor", str(recording(tmp_path / "a_raw.fif")), "--plot", str(tmp_path / "out")])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a_raw_channels.png", "a_raw_events.png", "a_raw_spectrum.png"]
    shown = capsys.readouterr().out.replace("\n", "")
    assert all(name in shown for name in names)
    assert "Reading" not in shown  # MNE's own talk


def test_epochs_whose_events_name_no_image_are_drawn_by_event(tmp_path):
    raw = mne.io.read_raw_fif(recording(tmp_path / "a_raw.fif"), verbose="error")
    epochs = mne.Epochs(raw, tmin=0.0, tmax=0.3, baseline=None, preload=True, verbose="error")
    epochs.save(tmp_path / "b-epo.fif", verbose="error")
    written = draw(tmp_path / "b-epo.fif", tmp_path / "out")
    assert {path.name.rpartition("_")[2] for path in written} >= {"evoked.png", "channels.png", "events.png"}


def test_epochs_whose_images_a_table_names_are_drawn(tmp_path):
    raw = mne.io.read_raw_fif(recording(tmp_path / "a_raw.fif"), verbose="error")
    events = np.stack([200 * np.arange(1, 9), np.zeros(8, int), np.ones(8, int)], axis=1)
    epochs = mne.Epochs(raw, events, tmin=0.0, tmax=0.3, baseline=None, preload=True, verbose="error")
    epochs.save(tmp_path / "b-epo.fif", verbose="error")
    for name in ("cat", "dog"):
        Image.new("RGB", (40, 40)).save(tmp_path / f"{name}.png")
    pd.DataFrame({"image": ["cat.png", "dog.png"] * 4}).to_csv(tmp_path / "events.csv", index=False)
    written = draw(tmp_path / "b-epo.fif", tmp_path / "out", tmp_path, tmp_path / "events.csv")
    assert {path.name.rpartition("_")[2] for path in written} >= {"evoked.png", "channels.png", "events.png"}


@pytest.mark.parametrize("dated", [None, 1e9])
def test_annotations_are_drawn_at_their_time_from_the_start(tmp_path, dated):
    data = np.random.default_rng(0).normal(size=(len(NAMES), 2000))
    raw = mne.io.RawArray(data, mne.create_info(NAMES, 200.0, "eeg"), first_samp=700, verbose="error")
    raw.set_meas_date(dated)
    raw.set_annotations(mne.Annotations([1.0, 2.5], 0.0, ["cat", "dog"]))
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    events = _events_of(mne.io.read_raw_fif(tmp_path / "a_raw.fif", verbose="error"), None)
    assert events == [(pytest.approx(1.0), "cat"), (pytest.approx(2.5), "dog")]


@pytest.mark.parametrize("apart", [0.1, 0.6, 1.0])
def test_events_that_are_evenly_spaced(apart):
    counted = timeline([(0.5 + apart * i, "a") for i in range(32)], "t").axes[1].patches
    assert sum(patch.get_height() for patch in counted) == pytest.approx(31, abs=1.1)


def test_nothing_to_draw_is_said(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(HvfError, match="holds no recording, epochs or prepared trials to draw"):
        draw(tmp_path, tmp_path / "out")
    np.save(tmp_path / "x.npy", np.zeros((3, 4)))
    with pytest.raises(HvfError, match="give --images"):
        draw(tmp_path / "x.npy", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_outlying_channels_are_those_far_from_the_others():
    sd_C = np.array([1.0, 1.1, 0.9, 1.05, 0.95, 30.0, 0.0])
    assert outlying(sd_C).tolist() == [False] * 5 + [True, True]
    assert not outlying(np.ones(5)).any()
    assert not outlying(1 + 0.05 * np.arange(6)).any()


def test_reliability_is_high_where_images_differ_and_nowhere_else():
    a_ICT, b_ICT = halves(trials())
    r_CT = split_half(a_ICT, b_ICT)
    mean = np.delete(np.arange(6), 3)
    assert r_CT[3, 10:].min() > 0.5 > np.abs(r_CT[mean].mean())
    assert np.abs(r_CT[mean].mean()) < 0.1
    assert abs(r_CT[3, :10].mean()) < 0.3
    shuffled = split_half(a_ICT, np.roll(b_ICT, 1, axis=0))
    assert abs(shuffled[3, 10:].mean()) < 0.5  # the control


def test_halves_are_means_of_every_other_trial():
    few = trials(repeats=3, images=4)
    x_NCT = few.load_array().astype(np.float64)
    a_ICT, b_ICT = halves(few)
    np.testing.assert_allclose(a_ICT[1], (x_NCT[1] + x_NCT[9]) / 2, rtol=1e-5)
    np.testing.assert_allclose(b_ICT[1], x_NCT[5], rtol=1e-5)
    uneven = few.select([0, 4, 1, 5, 2, 6, 3])  # the fourth image was shown once
    assert len(halves(uneven)[0]) == 3
    assert halves(few.select([0, 4, 1, 5, 2])) is None


def test_conditions_are_few():
    assert conditions(trials())[0] == ""
    assert conditions(trials(images=4))[0] == "images"
    split = trials().replace(splits=["train", "test"] * 60)
    assert conditions(split)[0] == "splits"


def test_many_names_of_events_are_put_together():
    axes = timeline([(float(i), f"name {i % 50}") for i in range(200)], "t").axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) == 40
    assert labels[-1] == "others"
    assert timeline([], "t") is None
