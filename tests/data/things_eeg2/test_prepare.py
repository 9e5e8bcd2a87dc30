"""Raw THINGS-EEG2 on disk: whole files become trials, damaged ones are refused with the reason."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from hvf.config import HvfError
from hvf.data.montages import EEG_CHANNELS
from hvf.data.things_eeg2 import prepare as things_eeg
from hvf.data.things_eeg2 import third_party
from hvf.data.things_eeg2.preprocessing import POSTERIOR
from hvf.data.trials.trials import Trials

TRAIN, TEST = 4, 3  # images
NAMES = [*EEG_CHANNELS, "stim"]


def write_raw(path, codes, seed, **changes):
    """A recording in the published format: float64 volts, one sample of `stim` per event."""
    rng = np.random.default_rng(seed)
    x = np.empty((64, 600 + 150 * len(codes) + 1100))
    x[:63] = rng.standard_normal((63, x.shape[1])) * 1e-5
    x[63] = 0
    x[63, 600 + 150 * np.arange(len(codes))] = codes
    raw = {"raw_eeg_data": x, "ch_names": NAMES, "ch_types": ["eeg"] * 63 + ["stim"], "sfreq": 1000}
    raw |= {"highpass": 0.01, "lowpass": 100} | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array(raw, dtype=object))


def edit(path, change):
    raw = np.load(path, allow_pickle=True).item()
    raw = change(raw) or raw
    np.save(path, np.array(raw, dtype=object))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two sessions that each show half of the training images, twice, and all test images, twice."""
    root = tmp_path_factory.mktemp("things")
    rng = np.random.default_rng(0)
    for session, half in ((1, [1, 4]), (2, [3, 2])):
        folder = root / "raw_data" / "sub-03" / f"ses-{session:02d}"
        write_raw(folder / "raw_eeg_training.npy", rng.permutation([*half, *half, half[0], 99999]), session)
        write_raw(folder / "raw_eeg_test.npy", rng.permutation([1, 2, 3, 1, 2, 3, 99999]), session + 10)
    metadata = {
        "train_img_files": [f"{name}_{k}.jpg" for name in ("ant", "bee") for k in ("01b", "02s")],
        "train_img_concepts": ["00001_ant", "00001_ant", "00002_bee", "00002_bee"],
        "test_img_files": ["cow_01b.jpg", "dog_04s.jpg", "elk_02n.jpg"],
        "test_img_concepts": ["00001_cow", "00002_dog", "00003_elk"],
    }
    (root / "image_set").mkdir()
    np.save(root / "image_set" / "image_metadata.npy", np.array(metadata, dtype=object))
    return root


@pytest.fixture
def root(written, tmp_path):
    return shutil.copytree(written, tmp_path / "root")


def session(root, number=1, part="training"):
    return root / "raw_data" / "sub-03" / f"ses-{number:02d}" / f"raw_eeg_{part}.npy"


def refused(root, tmp_path, match, recipe="hvf"):
    out = tmp_path / "out"
    with pytest.raises(HvfError, match=match) as caught:
        things_eeg.prepare(root, out, recipe, jobs=1)
    assert "\n" not in str(caught.value)
    assert not out.exists() or not list(out.iterdir())


def test_trials_and_their_labels(root, tmp_path):
    (path,) = things_eeg.prepare(root, tmp_path / "out", jobs=2)
    assert path == tmp_path / "out" / "sub-03_trials.npy"
    trials = Trials.load(path)
    assert trials.shape == (TRAIN * 2 + TEST * 4, 17, 250)
    assert trials.ch_names == POSTERIOR
    assert (trials.sfreq, trials.tmin, trials.subject, trials.simulated) == (250.0, 0.0, "sub-03", False)
    train, test = trials.split("train"), trials.split("test")
    assert train.image_ids.tolist() == [f"{n}_{k}" for n in ("ant", "bee") for k in ("01b", "02s") for _ in range(2)]
    assert train.concepts.tolist() == ["ant"] * 4 + ["bee"] * 4
    assert train.sessions.tolist() == [1, 1, 2, 2, 2, 2, 1, 1]  # the session that showed each image
    assert test.repeats() == {"cow_01b": 4, "dog_04s": 4, "elk_02n": 4}
    assert test.sessions.tolist() == [1, 1, 2, 2] * 3
    history = trials.history
    assert history["recipe"] == "hvf"
    assert history["repeats"] == {"training": 2, "test": 4}
    assert set(history["sources"]) == {
        "image_metadata.npy",
        *(f"raw_data/sub-03/ses-0{s}/raw_eeg_{p}.npy" for s in (1, 2) for p in ("training", "test")),
    }
    assert sorted(p.name for p in path.parent.iterdir()) == ["sub-03_trials.json", "sub-03_trials.npy"]


def test_rows_answer_their_images(root, tmp_path):
    """A response put under one image alone is found in that image's rows."""

    def respond(raw):
        x = raw["raw_eeg_data"]
        for onset in np.flatnonzero(x[63] == 4):
            x[NAMES.index("Oz"), onset + 100 : onset + 140] += 1e-3

    edit(session(root), respond)
    trials = Trials.load(things_eeg.prepare(root, tmp_path / "out", "neurobridge-zscore", jobs=1)[0])
    power = np.abs(trials.load_array()[:, trials.ch_names.index("Oz"), 26:34]).mean(axis=1)
    assert set(np.argsort(power)[-2:]) == set(np.flatnonzero(trials.image_ids == "bee_02s"))


def test_a_number_of_threads_changes_nothing(root, tmp_path):
    one, three = (
        Trials.load(things_eeg.prepare(root, tmp_path / str(n), "nice", jobs=n)[0]).load_array() for n in (1, 3)
    )
    assert (one == three).all()


def test_what_is_finished_is_kept(root, tmp_path):
    out = tmp_path / "out"
    (path,) = things_eeg.prepare(root, out, jobs=1)
    made = path.stat().st_mtime_ns
    os.utime(session(root))  # touched, not changed
    things_eeg.prepare(root, out)
    assert path.stat().st_mtime_ns == made
    with pytest.raises(HvfError, match=r"made by the recipe hvf, not ubp"):
        things_eeg.prepare(root, out, "ubp")
    write_raw(session(root), [1, 4, 4, 1, 99999], 77)
    things_eeg.prepare(root, out, jobs=1)
    assert path.stat().st_mtime_ns != made


def test_subjects(root, tmp_path):
    (root / "raw_data").rename(root / "raw")
    (root / "raw" / "sub-03").rename(root / "sub-03")
    assert [p.name for p in things_eeg.prepare(root, tmp_path, subjects=[3], jobs=1)] == ["sub-03_trials.npy"]
    with pytest.raises(HvfError, match=r"no subject 4; there is 3"):
        things_eeg.prepare(root, tmp_path, subjects=[3, 4])


# --- what is refused --------------------------------------------------------------------------------------------------


def test_missing_files(root, tmp_path):
    shutil.move(session(root, 2, "test"), tmp_path / "away")
    refused(root, tmp_path, r"ses-02 has no raw_eeg_test\.npy")
    shutil.rmtree(session(root, 2).parent)
    refused(root, tmp_path, r"2 of 4 training images are shown in fewer sessions .*image 2, 3")
    session(root).parent.rename(root / "raw_data" / "sub-03" / "ses-03")
    refused(root, tmp_path, r"sub-03 lacks session 1, 2")


def test_a_test_concept_in_training_is_refused(root, tmp_path):
    edit(
        root / "image_set" / "image_metadata.npy", lambda metadata: metadata["test_img_concepts"].insert(0, "00001_ant")
    )
    edit(root / "image_set" / "image_metadata.npy", lambda metadata: metadata["test_img_concepts"].pop() and None)
    refused(root, tmp_path, r"1 test concepts in training, too: ant")


def test_missing_or_wrong_metadata(root, tmp_path):
    path = root / "image_set" / "image_metadata.npy"
    edit(path, lambda metadata: metadata["train_img_files"].pop() and None)
    refused(root, tmp_path, r"3 train files.*4 concepts")
    edit(path, lambda metadata: {"test_img_files": []})
    refused(root, tmp_path, r"train_img_files")
    path.unlink()
    refused(root, tmp_path, r"has no image_metadata\.npy")
    refused(tmp_path / "nothing", tmp_path, r"there is no folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path, r"holds no THINGS-EEG2 recordings")


def test_truncated_file(root, tmp_path):
    path = session(root, 2)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    refused(root, tmp_path, r"ses-02.*raw_eeg_training\.npy")
    path.write_bytes(b"")
    refused(root, tmp_path, r"ses-02.*raw_eeg_training\.npy")


def rename_channel(raw):
    raw["ch_names"] = ["Fz" if name == "Oz" else name for name in raw["ch_names"]]


def double_channel(raw):
    raw["ch_names"] = ["O1" if name == "Oz" else name for name in raw["ch_names"]]


def swap_names(raw):
    raw["ch_names"] = [*NAMES[1::-1], *NAMES[2:]]


def drop_row(raw):
    raw["raw_eeg_data"] = raw["raw_eeg_data"][1:]


def drop_channel(raw):
    drop_row(raw)
    raw |= {"ch_names": NAMES[1:], "ch_types": raw["ch_types"][1:]}


def roll_rows(raw):
    raw["raw_eeg_data"] = np.roll(raw["raw_eeg_data"], 1, axis=0)


def rename_stim(raw):
    raw["ch_names"] = [*NAMES[:-1], "Status"]


def mistype(raw):
    raw["ch_types"] = ["stim", *["eeg"] * 63]


def another_rate(raw):
    raw["sfreq"] = 500


def unknown_code(raw):
    raw["raw_eeg_data"][63, 600] = 5


def half_code(raw):
    raw["raw_eeg_data"][63, 600] = 1.5


def no_event(raw):
    raw["raw_eeg_data"][63] = 0


def lost_event(raw):
    stim = raw["raw_eeg_data"][63]
    stim[np.flatnonzero(stim == 3)[0]] = 0


def cut_end(raw):
    last = np.flatnonzero(raw["raw_eeg_data"][63] % 99999)[-1]
    raw["raw_eeg_data"] = raw["raw_eeg_data"][:, : last + 1000]


def cut_all(raw):
    raw["raw_eeg_data"] = raw["raw_eeg_data"][:, :1500]


def not_finite(raw):
    raw["raw_eeg_data"][NAMES.index("P3"), 900] = np.nan


def flat(raw):
    raw["raw_eeg_data"][NAMES.index("P3")] = 3e-4


def no_data(raw):
    del raw["raw_eeg_data"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (rename_channel, r"ses-02.*has also Fz and lacks Oz beside the channels of .*ses-01"),
        (double_channel, r"ses-02.*names channel O1 twice"),
        (swap_names, r"ses-02.*another order \(channel 1 is F3, not Fp1\) than .*ses-01"),
        (drop_row, r"ses-02.*64 channel names for data float64 \(63, "),
        (drop_channel, r"ses-02.*lacks Fp1"),
        (roll_rows, r"ses-02.*'stim' does not hold whole numbers"),
        (rename_stim, r"ses-02.*no channel 'stim'"),
        (mistype, r"ses-02.*channel types"),
        (another_rate, r"ses-02.*500 Hz, .*ses-01.* at 1000 Hz"),
        (unknown_code, r"ses-02.*has events 5, .*images 1 to 3"),
        (half_code, r"ses-02.*whole numbers"),
        (no_event, r"ses-02.*no image event"),
        (lost_event, r"ses-02.*shows image 3 fewer than 2 times"),
        (cut_end, r"ses-02.*shows image \d fewer than 2 times .*1 events? .*cut off"),
        (cut_all, r"ses-02.*no image event .* with its whole window recorded"),
        (not_finite, r"ses-02.*channel P3 has NaN"),
        (flat, r"ses-02.*channel P3 has the same value"),
        (no_data, r"ses-02.*no raw THINGS-EEG2 recording"),
    ],
)
def test_faults_of_a_file(root, tmp_path, change, match):
    edit(session(root, 2, "test"), change)
    refused(root, tmp_path, match)


def test_channels_that_a_recipe_lacks(root, tmp_path):
    for number in (1, 2):
        for part in ("training", "test"):
            edit(session(root, number, part), rename_channel)
    refused(root, tmp_path, r"lacks channel Oz")
    (path,) = things_eeg.prepare(root, tmp_path / "out", "official", jobs=1)
    assert len(Trials.load(path).ch_names) == 16  # what begins with O or P is what this recipe takes


def test_copies_are_noticed(root, tmp_path):
    shutil.copy(session(root, 1, "test"), session(root, 2, "test"))
    refused(root, tmp_path, r"ses-02/raw_eeg_test\.npy is a copy of .*ses-01/raw_eeg_test\.npy")


def test_images_shown_unequally(root, tmp_path):
    write_raw(session(root, 2, "test"), [1, 2, 3], 5)
    refused(root, tmp_path, r"test images are shown so often: 2 in session 1, 1 in session 2")


def test_peers_need_both_files_and_the_image_list(root, tmp_path):
    data = {"preprocessed_eeg_data": np.ones((4, 2, 3, 5)), "ch_names": ["a", "b", "c"], "times": np.arange(5) / 100}
    folder = root / "peer" / "sub-01"
    folder.mkdir(parents=True)
    np.save(folder / "preprocessed_eeg_training.npy", np.array(data, dtype=object))
    with pytest.raises(HvfError, match=r"has no preprocessed_eeg_test\.npy"):
        third_party.read_prepared(folder)
    trials = third_party.read_prepared(folder / "preprocessed_eeg_training.npy")
    assert (trials.subject, trials.sfreq, trials.splits[0]) == ("sub-01", 100.0, "train")
    assert trials.image_ids[:3].tolist() == ["ant_01b", "ant_01b", "ant_02s"]
    for change, match in (
        ({"preprocessed_eeg_data": np.ones((3, 2, 3, 5))}, "3 images, image_metadata.npy 4"),
        ({"ch_names": ["a", "b", "b"]}, "2 different channel names for 3 channels"),
        ({"times": np.arange(4) / 100}, "4 times for 5 samples"),
    ):
        np.save(folder / "preprocessed_eeg_training.npy", np.array(data | change, dtype=object))
        with pytest.raises(HvfError, match=match):
            third_party.read_prepared(folder / "preprocessed_eeg_training.npy")


def write_neurobridge(folder, normalization, zscored, ch_names=EEG_CHANNELS):
    """A subject as NeuroBridge's code leaves it, below the info.json of all."""
    rng = np.random.default_rng(0)
    x = rng.normal(0.2, 1.3, size=(2, 2, 3, 63, 250))
    if zscored:
        axes = (0, 1, 2, 4)
        x = (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "train.npy", x.astype(np.float32))
    np.save(folder / "test.npy", rng.normal(size=(3, 1, 4, 63, 250)).astype(np.float32))
    times = (np.arange(-50, 250) / 250).tolist()
    info = {"ch_names": list(ch_names), "times": times, "normalization": normalization}
    (folder.parent / "info.json").write_text(json.dumps(info))


def test_a_corrected_info_json_is_taken(root, tmp_path):
    folder, out = root / "bridge" / "sub-01", tmp_path / "out"
    write_neurobridge(folder, "mvnn", zscored=False, ch_names=EEG_CHANNELS[::-1])
    (path,) = third_party.prepare(root / "bridge", out)
    before = Trials.load(path)
    made = path.stat().st_mtime_ns
    third_party.prepare(root / "bridge", out)
    assert path.stat().st_mtime_ns == made  # nothing has changed
    x_NCT = before.load_array().copy()
    write_neurobridge(folder, "mvnn", zscored=False)
    third_party.prepare(root / "bridge", out)
    after = Trials.load(path)
    assert after.ch_names == before.ch_names == POSTERIOR
    assert not np.array_equal(after.load_array(), x_NCT)
    stored = np.load(folder / "train.npy")[0, 0, 0]
    row = EEG_CHANNELS.index("Oz")
    assert np.array_equal(after.pick(["Oz"]).load_array()[0, 0], stored[row].astype(np.float16).astype(np.float32))


def test_subjects_below_one_info_json_are_each_as_it_says(root, tmp_path):
    """Written by two calls into one folder: the second one's info.json is about both."""
    write_neurobridge(root / "bridge" / "sub-01", "mvnn", zscored=False)
    write_neurobridge(root / "bridge" / "sub-02", "zscore", zscored=True)
    (path,) = third_party.prepare(root / "bridge", tmp_path / "out", subjects=[2])
    assert Trials.load(path).history["recipe"] == "neurobridge-zscore"
    with pytest.raises(
        HvfError, match=r"info.json says zscore, but .*sub-01, \w+ has mean 0\.\d+ and .*says mvnn into"
    ):
        third_party.prepare(root / "bridge", tmp_path / "out", subjects=[1])
    assert not (tmp_path / "out" / "sub-01_trials.npy").exists()
    (root / "bridge" / "info.json").rename(root / "bridge" / "sub-02" / "info.json")
    write_neurobridge(root / "bridge" / "sub-01", "mvnn", zscored=False)
    assert len(third_party.prepare(root / "bridge", tmp_path / "out")) == 2
    write_neurobridge(root / "bridge" / "sub-03", "mvnn", zscored=True)
    with pytest.raises(HvfError, match=r"says mvnn, but .*every channel has mean 0 .*an info.json that says zscore"):
        third_party.prepare(root / "bridge", tmp_path / "out", subjects=[3])
