"""Your own recordings: single files and epochs, and what is refused of them."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hvf.config import HvfError
from hvf.data.doctor.files import raw_below
from hvf.data.images.image_set import open_images
from hvf.data.recordings.channels import mend_channel_types
from hvf.data.recordings.epoching import Preprocessing
from hvf.data.recordings.events import image_ids
from hvf.data.recordings.raw import attempt, give_positions
from hvf.data.recordings.single import read_recording
from hvf.data.trials.trials import Trials
from tests.data.recordings.lab import (
    IMAGES,
    NAMES,
    PLAIN,
    SFREQ,
    cut,
    cut_row,
    names_of,
    order,
    responses,
    seen,
    write_brainvision,
)


@pytest.fixture
def recording(tmp_path):
    images = order(0)
    x_CN, onsets = responses(images, 0)
    path = write_brainvision(tmp_path / "me.vhdr", x_CN)
    table = pd.DataFrame({"onset": onsets, "duration": 0.1, "image": images})
    table.to_csv(tmp_path / "events.tsv", sep="\t", index=False)
    return path, tmp_path / "events.tsv", images


def test_a_file_and_its_events(recording):
    path, events, images = recording
    trials = read_recording(path, events, settings=PLAIN)
    assert trials.shape == (16, len(NAMES), 40)
    assert (trials.sfreq, trials.tmin, trials.ch_names, trials.kind) == (100.0, 0.0, NAMES, "eeg")
    assert trials.image_ids.tolist() == names_of(images)
    assert seen(trials) == images  # each trial is the response to its image, at its time
    assert trials.concepts is not None
    assert trials.concepts.tolist() == [name.split("/")[1] for name in images]
    assert trials.splits is None
    assert trials.history is not None
    assert trials.history["units"] == "V"
    assert set(trials.history["sources"]) == {"me.vhdr", "me.eeg", "events.tsv"}
    assert "10-05" in " ".join(trials.history["notes"])  # the electrodes' positions
    trials.save(path.with_name("me_trials.npy"))
    assert np.array_equal(Trials.load(path.with_name("me_trials.npy")).load_array(), trials.load_array())


def test_the_values_are_those_of_mne_step_by_step(recording):
    path, events, _ = recording
    settings = Preprocessing(l_freq=1.0, h_freq=30.0, tmin=-0.05, tmax=0.4, sfreq=100.0, baseline=(-0.1, 0.0))
    trials = read_recording(path, events, settings=replace(settings, whiten=False))
    raw = mne.io.read_raw(path, preload=True, verbose="error").filter(1.0, 30.0, verbose="error")
    onsets = pd.read_csv(events, sep="\t")["onset"].to_numpy()
    rows = np.stack([np.rint(onsets * SFREQ).astype(int), np.zeros(16, int), np.ones(16, int)], axis=1)
    epochs = mne.Epochs(raw, rows, tmin=-0.1, tmax=0.4, baseline=(-0.1, 0.0), preload=True, verbose="error")
    expected = epochs.resample(100.0, verbose="error").get_data(tmin=-0.05, tmax=0.4)[..., :45]
    assert trials.shape == expected.shape
    assert trials.tmin == -0.05
    np.testing.assert_allclose(trials.load_array(), expected, rtol=1e-5, atol=1e-12)
    for other in ({"baseline": None}, {"l_freq": 2.0}, {"tmin": 0.0}):  # what must not be equal
        x_NCT = read_recording(path, events, settings=replace(settings, whiten=False, **other)).load_array()
        assert x_NCT.shape != expected.shape or not np.allclose(x_NCT, expected, rtol=1e-2, atol=1e-8)


def test_whitening_is_fitted_on_training_trials(recording):
    path, events, images = recording
    table = pd.read_csv(events, sep="\t").assign(split=["test" if "pie" in name else "train" for name in images])
    settings = replace(PLAIN, whiten=True)
    white = read_recording(path, table, settings=settings)
    assert white.history is not None
    assert "whitened" in white.history["units"]
    plain = read_recording(path, table, settings=PLAIN)
    train = plain.split("train").load_array().astype(float)
    matrix = np.linalg.lstsq(  # the one linear map between the two
        np.moveaxis(plain.load_array().astype(float), 1, 2).reshape(-1, len(NAMES)) * 1e6,
        np.moveaxis(white.load_array().astype(float), 1, 2).reshape(-1, len(NAMES)),
        rcond=None,
    )[0]
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-3)
    from sklearn.discriminant_analysis import _cov

    covariance = np.mean([_cov(x_CT.T * 1e6, shrinkage="auto") for x_CT in train], axis=0)
    np.testing.assert_allclose(matrix @ covariance @ matrix, np.eye(len(NAMES)), atol=1e-3)


@pytest.mark.parametrize(
    ("raw_sfreq", "sfreq"),
    [(128.0, 250.0), (200.0, 120.0), (300.307, 100.0), (300.307, 250.0), (1000.0, 250.0), (1024.0, 50.0)],
)
def test_any_rate_gives_the_window_asked_for(tmp_path, raw_sfreq, sfreq):
    n = round(4 * raw_sfreq)
    raw = mne.io.RawArray(np.zeros((2, n)) + 1e-6 * np.arange(n) / raw_sfreq, mne.create_info(2, raw_sfreq, "eeg"))
    raw.save(tmp_path / "ramp_raw.fif", verbose="error")
    table = pd.DataFrame({"onset": [1.0, 1.503, 2.4], "image": ["a", "b", "a"]})
    settings = replace(PLAIN, tmin=-0.1, tmax=0.5, baseline=None, sfreq=sfreq)
    trials = read_recording(tmp_path / "ramp_raw.fif", table, settings=settings)
    rate = min(sfreq, raw.info["sfreq"])
    assert (trials.sfreq, trials.shape[2]) == (pytest.approx(rate), round(0.6 * rate))
    slower = [note for note in trials.history["notes"] if "no rate is raised" in note]
    assert slower == ["128 Hz as recorded, for no rate is raised to 250"] * (rate < sfreq)
    assert abs(trials.tmin - -0.1) <= 0.5 / rate + 0.5 / raw_sfreq
    middle = slice(trials.shape[2] // 4, -trials.shape[2] // 4)  # resampling bends a ramp at its ends
    onsets_N1 = np.rint(table["onset"].to_numpy()[:, None] * raw_sfreq) / raw_sfreq
    tolerance = 1e-12 if rate == raw.info["sfreq"] else 2e-8
    np.testing.assert_allclose(
        trials.load_array()[:, 0, middle], 1e-6 * (onsets_N1 + trials.times[middle]), atol=tolerance
    )


def test_codes_of_a_trigger_channel(tmp_path):
    images = order(3)
    x_CN, onsets = responses(images, 3)
    stim = np.zeros((1, x_CN.shape[1]))
    codes = {name: 10 + i for i, name in enumerate(IMAGES)}
    for onset, name in zip(onsets, images, strict=True):
        stim[0, round(onset * SFREQ) : round(onset * SFREQ) + 5] = codes[name]
    stim[0, -20:-15] = 99  # a button
    info = mne.create_info([*NAMES, "STI 014"], SFREQ, ["eeg"] * len(NAMES) + ["stim"])
    raw = mne.io.RawArray(np.concatenate([x_CN, stim]), info, first_samp=1000, verbose="error")
    raw.save(tmp_path / "mine_raw.fif", verbose="error")
    table = pd.DataFrame({"code": codes.values(), "image": codes.keys()})
    trials = read_recording(tmp_path / "mine_raw.fif", table, settings=PLAIN)
    assert seen(trials) == images
    assert trials.image_ids.tolist() == names_of(images)
    assert trials.history is not None
    assert any("99" in note for note in trials.history["notes"])
    with pytest.raises(HvfError, match=r"holds none of the 8 codes .* it holds 1[0-7]"):
        read_recording(tmp_path / "mine_raw.fif", table.assign(code=np.arange(200, 208)), settings=PLAIN)
    with pytest.raises(HvfError, match="code '10' stands for more than one image"):
        read_recording(tmp_path / "mine_raw.fif", table.assign(code=10), settings=PLAIN)
    late = pd.DataFrame({"sample": 1000 + np.rint(onsets * SFREQ).astype(int), "image": images})
    with pytest.raises(HvfError, match="subtract its first sample, 1000"):
        read_recording(tmp_path / "mine_raw.fif", late[late["sample"] > 5000 - 3000], settings=PLAIN)
    early = late.assign(sample=late["sample"] - 1000)
    assert seen(read_recording(tmp_path / "mine_raw.fif", early, settings=PLAIN)) == images


def test_annotations(tmp_path):
    images = order(4)
    x_CN, onsets = responses(images, 4)
    number = {name: i for i, name in enumerate(IMAGES, start=1)}
    marks = [(f"S{number[name]:3d}", round(t * SFREQ) + 1) for name, t in zip(images, onsets, strict=True)]
    path = write_brainvision(tmp_path / "me.vhdr", x_CN, markers=marks)
    by_text = pd.DataFrame({"description": [f"Stimulus/S{i:3d}" for i in number.values()], "image": list(number)})
    by_code = pd.DataFrame({"code": list(number.values()), "image": list(number), "concept": "thing"})
    for table in (by_text, by_code):
        trials = read_recording(path, table, settings=PLAIN)
        assert (seen(trials), trials.image_ids.tolist()) == (images, names_of(images))
    assert set(trials.concepts.tolist()) == {"thing"}
    marks = [*marks, ("X  3", 400)]
    path = write_brainvision(tmp_path / "me.vhdr", x_CN, markers=marks)
    with pytest.raises(HvfError, match=r"code 3 .* may be 'Stimulus/S  3' or 'Stimulus/X  3'.*description"):
        read_recording(path, by_code, settings=PLAIN)
    with pytest.raises(HvfError, match="has no column onset, sample, code or description; its columns are image"):
        read_recording(path, by_text[["image"]], settings=PLAIN)


def test_epochs_with_metadata(recording, tmp_path):
    path, events, images = recording
    raw = mne.io.read_raw(path, preload=True, verbose="error")
    rows = np.stack([100 + 120 * np.arange(16), np.zeros(16, int), np.ones(16, int)], axis=1)
    metadata = pd.DataFrame({"image": images})
    epochs = mne.Epochs(raw, rows, tmin=0, tmax=0.4, baseline=None, metadata=metadata, preload=True, verbose="error")
    epochs.save(tmp_path / "me-epo.fif", verbose="error")
    trials = read_recording(tmp_path / "me-epo.fif")
    assert seen(trials) == images
    epochs.metadata = None
    epochs.save(tmp_path / "me-epo.fif", overwrite=True, verbose="error")
    with pytest.raises(HvfError, match=r"me-epo.fif: which images were shown"):
        read_recording(tmp_path / "me-epo.fif")
    assert read_recording(tmp_path / "me-epo.fif", events).image_ids.tolist() == names_of(images)
    with pytest.raises(HvfError, match="16 epochs but 15 images"):
        read_recording(tmp_path / "me-epo.fif", pd.DataFrame({"image": images[:15]}))
    data = (tmp_path / "me-epo.fif").read_bytes()
    (tmp_path / "me-epo.fif").write_bytes(data[: len(data) // 2])
    with pytest.raises(HvfError, match=r"me-epo.fif"):
        read_recording(tmp_path / "me-epo.fif", events)


@pytest.fixture
def epochs(recording, tmp_path):
    """(epochs without metadata on disk, the table of their events in order)."""
    path, events, images = recording
    raw = mne.io.read_raw(path, preload=True, verbose="error")
    rows = np.stack([100 + 120 * np.arange(16), np.zeros(16, int), [1 + IMAGES.index(name) for name in images]], axis=1)
    mne.Epochs(raw, rows, tmin=0, tmax=0.4, baseline=None, preload=True, verbose="error").save(
        tmp_path / "me-epo.fif", verbose="error"
    )
    return tmp_path / "me-epo.fif", pd.read_csv(events, sep="\t").assign(code=rows[:, 2])


@pytest.mark.parametrize("by", ["image", "onset falling", "two rows exchanged"])
@pytest.mark.parametrize("known_by", ["onset", "sample", "code"])
def test_rows_in_another_order_than_the_epochs_are_refused(epochs, by, known_by):
    path, table = epochs
    table = table.assign(sample=100 + 120 * np.arange(16))[["image", known_by]]
    assert seen(read_recording(path, table)) == table["image"].tolist()
    order = {
        "image": np.argsort(table["image"].to_numpy(str), kind="stable"),
        "onset falling": np.arange(16)[::-1],
        "two rows exchanged": np.r_[np.arange(14), 15, 14],
    }[by]
    with pytest.raises(HvfError, match=rf"the rows of .* are not in the order of the epochs: .*column {known_by}"):
        read_recording(path, table.iloc[order])


def test_a_table_that_lacks_another_row_than_the_epochs_is_refused(epochs, tmp_path):
    path, table = epochs
    fewer = mne.read_epochs(path, verbose="error").drop([3], verbose="error")
    fewer.save(tmp_path / "fewer-epo.fif", verbose="error")
    table = table[["onset", "image"]]
    assert seen(read_recording(tmp_path / "fewer-epo.fif", table.drop(3))) == table["image"].drop(3).tolist()
    with pytest.raises(HvfError, match="the rows of .* are not in the order of the epochs: onset"):
        read_recording(tmp_path / "fewer-epo.fif", table.drop(10))
    joined = mne.concatenate_epochs([fewer[:9], fewer[9:]], verbose="error")
    joined.save(tmp_path / "joined-epo.fif", verbose="error")
    assert seen(read_recording(tmp_path / "joined-epo.fif", table.drop(3))) == table["image"].drop(3).tolist()


def test_times_of_a_table_may_begin_anew_and_be_in_another_unit(epochs):
    path, table = epochs
    onset = table["onset"].to_numpy()
    for times in (np.r_[onset[:6], onset[:10]], onset * 1000 + 77, onset + np.linspace(0, 0.3, 16), np.full(16, 0.5)):
        table["onset"] = times
        assert seen(read_recording(path, table)) == table["image"].tolist()


def test_a_row_without_an_image_is_refused_for_epochs(epochs):
    path, table = epochs
    table.loc[2, "image"] = None
    with pytest.raises(HvfError, match="row 3 of the table of events names no image"):
        read_recording(path, table)


def test_images_that_are_not_in_the_set(recording, tmp_path):
    path, events, images = recording
    folder = tmp_path / "pictures"
    for name in IMAGES:
        concept, file = name.split("/")[1:]
        (folder / concept).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / concept / file)
    trials = read_recording(path, events, settings=PLAIN, images=folder)
    assert set(trials.image_ids.tolist()) == set(open_images(folder).ids)
    (folder / "cat" / "cat_1.jpg").unlink()
    with pytest.raises(HvfError, match="1 of the 8 images named in the events is not in the image set: .*cat_1.jpg"):
        read_recording(path, events, settings=PLAIN, images=folder)


def test_events_that_cannot_be_placed(recording):
    path, events, _ = recording
    table = pd.read_csv(events, sep="\t")
    for change, words in (
        (
            {"onset": table["onset"] + 8.0},
            r"12 of 16 image events of me.vhdr lie beyond it: row 5 is at 10.9, but it lasts 10.50 s",
        ),
        ({"onset": table["onset"] - 1.0}, r"1 of 16 .* row 1 is at -0.5"),
        ({"onset": table["onset"] * 1000}, r"--onset-unit ms"),
        ({"onset": ["soon", *table["onset"][1:]]}, r"row 1 .* its onset is 'soon'"),
        ({"onset": [1.1, *table["onset"][1:]]}, r"rows 1 and 2 .* two images at the same time"),
        ({"image": "n/a"}, r"no event of .* names an image"),
    ):
        with pytest.raises(HvfError, match=words):
            read_recording(path, table.assign(**change), settings=PLAIN)
    for columns, words in (
        (["onset", "duration"], r"no column that names the images .*its columns are onset, duration"),
        (["duration", "image"], r"no column onset, sample, code or description; its columns are duration, image"),
    ):
        with pytest.raises(HvfError, match=words):
            read_recording(path, table[columns], settings=PLAIN)
    with pytest.raises(
        HvfError, match=r"no column 'imag'; its columns are onset, duration, image; did you mean 'image'"
    ):
        read_recording(path, events, settings=PLAIN, image_column="imag")


def test_a_window_that_the_recording_does_not_hold_is_left_out_with_a_word(recording, capsys):
    path, events, images = recording
    table = pd.read_csv(events, sep="\t")
    settings = replace(PLAIN, tmax=0.9)
    table.loc[len(table)] = {"onset": 10.3, "duration": 0.1, "image": IMAGES[0]}
    trials = read_recording(path, table, settings=settings)
    assert trials.image_ids.tolist() == names_of(images)
    assert "1 events of me.vhdr have no whole window in it" in capsys.readouterr().err


def test_segments_marked_bad_are_left_out(recording):
    path, events, images = recording
    raw = mne.io.read_raw(path, verbose="error")
    raw.set_annotations(mne.Annotations([1.2], [0.1], ["BAD_blink"]))  # in the second image's window
    raw.save(path.with_name("me_raw.fif"), verbose="error")
    trials = read_recording(path.with_name("me_raw.fif"), events, settings=PLAIN)
    assert seen(trials) == [images[0], *images[2:]]


@pytest.mark.parametrize("first_samp", [0, 700])
@pytest.mark.parametrize("dated", [False, True])
def test_segments_are_bad_as_in_mne(recording, first_samp, dated):
    path, events, images = recording
    onsets = pd.read_csv(events, sep="\t")["onset"].to_numpy()
    raw = mne.io.read_raw(path, preload=True, verbose="error")
    raw = mne.io.RawArray(raw.get_data(), raw.info, first_samp=first_samp, verbose="error")
    raw.set_meas_date(1e9 if dated else None)
    marks = {"BAD_ACQ_SKIP": (onsets[1] + 0.2, 0.1), "EDGE boundary": (onsets[3] + 0.1, 0.0), "bad x": (onsets[6], 0.0)}
    marks |= {"BAD boundary": (onsets[5] + 0.1, 0.0), "blink bad": (onsets[7], 0.2), "Bad": (onsets[9] - 0.12, 0.01)}
    start = raw.first_time if dated else 0.0
    on, lasts = np.array(list(marks.values())).T
    raw.set_annotations(mne.Annotations(on + start, lasts, list(marks), orig_time=raw.info["meas_date"]))
    raw.save(path.with_name("me_raw.fif"), verbose="error")
    samples = np.rint(onsets * SFREQ).astype(int) + first_samp
    expected = mne.Epochs(
        raw, np.stack([samples, 0 * samples, 1 + 0 * samples], 1), tmin=-0.1, tmax=0.4, preload=True, verbose="error"
    ).selection
    trials = read_recording(path.with_name("me_raw.fif"), events, settings=PLAIN)
    assert seen(trials) == [images[i] for i in expected]
    assert set(range(16)) - set(expected) == {1, 5, 6}


@pytest.mark.parametrize(("text", "lasts"), [("boundary", 1.0), ("New Segment/", 0.005), ("Comment/note", 0.0)])
def test_a_cut_spoils_the_window_that_it_lies_in_alone(recording, text, lasts):
    path, events, images = recording
    raw = mne.io.read_raw(path, verbose="error")
    onset = pd.read_csv(events, sep="\t")["onset"][4]
    raw.set_annotations(mne.Annotations([0.0, onset + 0.2], [0.0, lasts], [text, text]))
    raw.save(path.with_name("me_raw.fif"), verbose="error")
    trials = read_recording(path.with_name("me_raw.fif"), events, settings=PLAIN)
    assert seen(trials) == (images if text == "Comment/note" else [*images[:4], *images[5:]])


@pytest.mark.parametrize("fault", ["flat", "nan", "bad"])
def test_broken_channels(recording, fault):
    path, events, images = recording
    x_CN, _ = responses(images, 0)
    x_CN[3] = {"flat": 2e-6, "nan": np.nan, "bad": 0.0}[fault]
    path = write_brainvision(path, x_CN)
    if fault != "bad":
        words = {"flat": "never changes", "nan": "NaN or infinite"}[fault]
        with pytest.raises(HvfError, match=f"channel P3 of me.vhdr .*{words}"):
            read_recording(path, events, settings=PLAIN)
        rest = tuple(name for name in NAMES if name != "P3")
        assert read_recording(path, events, settings=replace(PLAIN, picks=rest)).ch_names == rest
        return
    raw = mne.io.read_raw(path, verbose="error")
    give_positions(raw)
    raw.info["bads"] = ["P3"]
    raw.save(path.with_name("me_raw.fif"), verbose="error")
    trials = read_recording(path.with_name("me_raw.fif"), events, settings=PLAIN)
    assert trials.ch_names == NAMES
    assert np.ptp(trials.load_array()[:, 3]) > 1e-5  # interpolated from its neighbours
    assert "interpolated: P3" in " ".join(trials.history["notes"])


def test_no_channel_to_decode_from(tmp_path):
    raw = mne.io.RawArray(np.random.default_rng(0).standard_normal((2, 1000)), mne.create_info(2, 100.0, "misc"))
    raw.save(tmp_path / "misc_raw.fif", verbose="error")
    table = pd.DataFrame({"onset": [2.0, 4.0], "image": ["a", "b"]})
    with pytest.raises(HvfError, match="misc_raw.fif has no EEG or MEG channel; it has 2 misc"):
        read_recording(tmp_path / "misc_raw.fif", table, settings=PLAIN)
    with pytest.raises(HvfError, match="has no channel O9"):
        read_recording(tmp_path / "misc_raw.fif", table, settings=replace(PLAIN, picks=("O9",)))
    with pytest.raises(HvfError, match=r"there is none; did you mean 'misc_raw.fif'"):
        read_recording(tmp_path / "misc_rw.fif", table, settings=PLAIN)


def test_a_recording_too_short_for_the_filter(recording):
    path, events, _ = recording
    with pytest.raises(HvfError, match=r"lasts 10.5 s, too short for a high-pass at 0.1 Hz, which needs 33 s"):
        read_recording(path, events)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tmin": 1.0},
        {"baseline": (0.0, -0.2)},
        {"baseline": (0.0, 2.0)},
        {"sfreq": 0},
        {"l_freq": -1.0},
        {"l_freq": 50.0, "h_freq": 40.0},
        {"picks": "ecog"},
    ],
)
def test_impossible_settings(wrong):
    with pytest.raises(HvfError):
        Preprocessing(**wrong)


@pytest.mark.parametrize("wrong", [{"tmin": 0.399}, {"sfreq": 1e-6}])
def test_a_window_of_no_sample_is_refused(recording, wrong):
    path, events, _ = recording
    with pytest.raises(HvfError, match=r"the window from 0.* to 0.4 s holds no sample at .* Hz"):
        read_recording(path, events, settings=replace(PLAIN, **wrong))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: cut(p.with_suffix(".eeg"), 0.5), "is damaged: me.eeg holds 1050 samples, its header says 2100"),
        (lambda p: cut(p.with_suffix(".eeg"), 0.4999), "is damaged: me.eeg ends within a sample"),
        (lambda p: cut(p, 0.8), "me.vhdr"),
        (lambda p: p.write_bytes(b"\x00\x80" * 300), "cannot read the recording .*me.vhdr"),
        (lambda p: p.with_suffix(".eeg").unlink(), "me.vhdr.*me.eeg"),
        (lambda p: p.with_suffix(".vmrk").unlink(), "its file of markers me.vmrk is missing"),
        (lambda p: p.with_suffix(".vmrk").write_text("Mk2=Stimulus,S  1,9999,1,0\n"), "me.vmrk|me.vhdr"),
        (lambda p: cut_row(p.with_name("events.tsv")), "events.tsv is damaged: row 16 has 2 of 3 fields"),
        (lambda p: p.with_name("events.tsv").write_bytes(b"\xff\xfe\x00" * 9), "cannot read the table .*events.tsv"),
        (lambda p: p.with_name("events.tsv").write_bytes(b""), "the table .*events.tsv holds no events"),
    ],
)
def test_damaged_files(recording, damage, words):
    path, events, _ = recording
    damage(path)
    with pytest.raises(HvfError, match=words):
        read_recording(path, events, settings=PLAIN)


def test_mend_channel_types():
    names = ["MLC11-1609", "MRO11-1609", "MZF01", "MEG 0111", "MEG 0112", "UPPT001"]
    raw = mne.io.RawArray(
        np.zeros((9, 10)), mne.create_info([*names, "Fz", "VEOG", "ECG"], 100.0, ["misc"] * 6 + ["eeg"] * 3)
    )
    notes = mend_channel_types(raw)
    assert raw.get_channel_types() == ["mag", "mag", "mag", "mag", "grad", "misc", "eeg", "eog", "ecg"]
    assert "5 channels typed misc (OTHER in channels.tsv) are MEG sensors" in notes[0]
    assert notes[1] == "2 channels record no brain by their names and are left out: VEOG, ECG (eye, heart)"
    assert mend_channel_types(raw) == []


def test_a_folder_called_corrupt_is_no_damage(tmp_path):
    def read(text):
        warnings.warn(text, RuntimeWarning, stacklevel=1)
        return mne.io.RawArray(np.ones((1, 10)), mne.create_info(1, 100.0, "eeg"), verbose="error")

    path = tmp_path / "truncated and corrupt" / "a.set"
    assert attempt(path, lambda: read(f"participants.tsv file not found for {path}")) is not None
    with pytest.raises(HvfError, match="is damaged"):
        attempt(path, lambda: read(f"{path} is truncated"))


def test_a_further_part_of_a_split_recording_is_no_recording(tmp_path):
    x_CN, _ = responses(order(5, repeats=1), 5)
    raw = mne.io.RawArray(np.tile(x_CN, 70), mne.create_info(list(NAMES), SFREQ, "eeg"), verbose="error")
    raw.save(tmp_path / "a_raw.fif", split_size="2MB", verbose="error")
    raw.crop(0, 5).save(tmp_path / "b_raw-1.fif", verbose="error")  # of a name like a part's
    parts = sorted(path.name for path in tmp_path.glob("a_raw-*.fif"))
    assert len(parts) > 1
    for name, before in zip(parts, ["a_raw.fif", *parts], strict=False):
        with pytest.raises(HvfError, match=rf"{name} is a further part of .* {before} comes before it: give the first"):
            read_recording(tmp_path / name, pd.DataFrame({"onset": [1.0], "image": ["a.png"]}), settings=PLAIN)
    assert [path.name for path in raw_below(tmp_path)] == ["a_raw.fif", "b_raw-1.fif"]
    trials = read_recording(tmp_path / "a_raw.fif", pd.DataFrame({"onset": [1.0], "image": ["a.png"]}), settings=PLAIN)
    assert len(trials) == 1


def test_renamed_files_that_name_another_recording(recording):
    path, events, images = recording
    x_CN, _ = responses(images, 0)
    other = write_brainvision(path.with_name("other.vhdr"), x_CN[:, ::-1])
    for ending in (".eeg", ".vmrk"):
        path.with_suffix(ending).rename(path.with_name(f"new{ending}"))
    new = path.with_name("new.vhdr")
    new.write_text(other.read_text())  # as another was called when it was recorded
    with pytest.raises(HvfError, match=r"new.vhdr names other.eeg as its data, but new.eeg lies beside it"):
        read_recording(new, events, settings=PLAIN)
    new.with_suffix(".eeg").unlink()
    new.write_text(path.read_text().replace("me.", "other."))
    assert len(read_recording(new, events, settings=PLAIN)) == len(images)


@pytest.mark.parametrize("spelt", ["{:.1f}", "{:d}", " {:03d}", "Stimulus/S{:3d}", "img_{:03d}"])
def test_numbers_of_annotations(recording, spelt):
    path, _, images = recording
    raw = mne.io.read_raw(path, preload=True, verbose="error")
    onsets = responses(images, 0)[1]
    texts = [spelt.format(1 + IMAGES.index(name)) for name in images]
    negative = mne.Annotations([0.2, 0.3], 0.0, ["-1", "1.5"])  # other codes than 1 and 5
    raw.set_annotations(mne.Annotations(onsets, 0.0, texts) + negative)
    raw.save(path.with_name("me_raw.fif"), verbose="error")
    table = pd.DataFrame({"code": range(1, 9), "image": IMAGES})
    assert seen(read_recording(path.with_name("me_raw.fif"), table, settings=PLAIN)) == images


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["cat_1.JPG", "cat_1.jpg", "dog_1.png"], ["cat_1", "cat_1", "dog_1"]),
        (["caf\u00e9.png", "cafe\u0301.png"], ["caf\u00e9", "caf\u00e9"]),
        (["a/x.png", "a\\x.png", " ./a/x.PNG", "b/x.png"], ["a/x", "a/x", "a/x", "b/x"]),
        (["stimuli/a/x.png", "stimuli/b/x.png"], ["a/x", "b/x"]),
        (["x.png", "x.jpg", "X.png"], ["x.png", "x.jpg", "X.png"]),
    ],
)
def test_one_image_has_one_id_however_it_is_spelt(names, ids):
    assert image_ids(names) == ids


def test_spaces_around_the_text_of_an_annotation(recording):
    path, _, images = recording
    raw = mne.io.read_raw(path, preload=True, verbose="error")
    onsets = responses(images, 0)[1]
    raw.set_annotations(mne.Annotations(onsets, 0.0, [f"{Path(name).stem}  " for name in images]))
    raw.save(path.with_name("me_raw.fif"), verbose="error")
    table = pd.DataFrame({"description": [f" {Path(name).stem}" for name in IMAGES], "image": IMAGES})
    assert seen(read_recording(path.with_name("me_raw.fif"), table, settings=PLAIN)) == images
