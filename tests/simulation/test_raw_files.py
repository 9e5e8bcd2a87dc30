"""The simulated study on disk: laid out as the published files are, fixed by its seed, with the responses in it."""

from __future__ import annotations

import errno
import re
from functools import cache
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest

from hvf.config import DataConfig, HvfError
from hvf.data.images.image_set import open_images
from hvf.data.trials.provenance import is_simulated
from hvf.simulation import continuous, raw_files, things_eeg, things_meg
from hvf.simulation.brain import simulated_brain
from hvf.simulation.study import simulated_stimuli
from hvf.simulation.things_eeg import write_things_eeg
from hvf.simulation.things_meg import write_things_meg

EEG = {"train_concepts": 5, "images_per_concept": 2, "test_concepts": 3, "test_repeats": 8}
MEG = {"train_concepts": 2, "images_per_concept": 2, "test_concepts": 2, "test_repeats": 12, "sessions": 3}

MEG_STUDY = DataConfig(study="simulated-meg", subject=1, train_concepts=2, images_per_concept=2, test_concepts=2)


@pytest.fixture(scope="module")
def eeg(tmp_path_factory) -> Path:
    return write_things_eeg(tmp_path_factory.mktemp("layouts") / "things-eeg", (8,), **EEG)


@pytest.fixture(scope="module")
def meg(tmp_path_factory) -> Path:
    return write_things_meg(tmp_path_factory.mktemp("layouts") / "things-meg", (1,), split_size="5MB", **MEG)


@cache
def unpickled(path: Path) -> dict:
    """A 0-d object array that holds a dict; these files are our own."""
    array = np.load(path, allow_pickle=True)
    assert (array.shape, array.dtype) == ((), np.dtype(object))
    return array.item()


def eeg_file(root: Path, session: int, part: str) -> dict:
    return unpickled(root / "raw_data" / "sub-08" / f"ses-{session:02d}" / f"raw_eeg_{part}.npy")


def codes(recording: dict) -> np.ndarray:
    stim = recording["raw_eeg_data"][-1]
    return stim[stim != 0].astype(int)


def read_epochs(root: Path) -> mne.Epochs:
    return mne.read_epochs(root / "derivatives" / "preprocessed" / "preprocessed_P1-epo.fif", verbose="error")


# --- THINGS-EEG2 ------------------------------------------------------------------------------------------------------


def structure(recording: dict) -> list[tuple]:
    """Keys in their order, types of the values and, but for the number of samples, their contents."""
    data = recording["raw_eeg_data"]
    rest = [(key, type(value), value) for key, value in recording.items() if key != "raw_eeg_data"]
    return [(next(iter(recording)), type(data), len(data)), *rest]


@pytest.mark.slow(part=7)
def test_eeg_files_have_the_published_structure(eeg):
    parts = [f"raw_eeg_{part}.npy" for part in ("test", "training")]
    expected = [f"raw_data/sub-08/ses-{session:02d}/{part}" for session in range(1, 5) for part in parts]
    assert sorted(p.relative_to(eeg).as_posix() for p in eeg.rglob("*.npy")) == ["image_metadata.npy", *expected]
    recording = eeg_file(eeg, 1, "training")
    assert list(recording) == ["raw_eeg_data", "ch_names", "ch_types", "sfreq", "highpass", "lowpass"]
    assert recording["raw_eeg_data"].dtype == np.float64
    assert recording["ch_types"] == ["eeg"] * 63 + ["stim"]
    assert (recording["sfreq"], recording["highpass"], recording["lowpass"]) == (1000, 0.01, 100)


@pytest.mark.slow(part=7)
def test_eeg_files_are_like_the_golden_ones(eeg, shared_data):
    golden = shared_data / "golden" / "things_eeg2_raw"
    for part in ("training", "test"):
        theirs = unpickled(golden / "raw_data" / "sub-01" / "ses-01" / f"raw_eeg_{part}.npy")
        assert structure(eeg_file(eeg, 1, part)) == structure(theirs)
    ours, theirs = unpickled(eeg / "image_metadata.npy"), unpickled(golden / "image_metadata.npy")
    assert [(key, type(value), type(value[0])) for key, value in ours.items()] == [
        (key, type(value), type(value[0])) for key, value in theirs.items()
    ]
    for key, values in theirs.items():  # 00001_aardvark, aardvark_01b.jpg
        pattern = r"[\w-]+_\d\d[a-z]\.jpg" if key.endswith("files") else r"\d{5}_[\w-]+"
        assert all(re.fullmatch(pattern, value) for value in (*values, *ours[key])), key


@pytest.mark.slow(part=7)
def test_eeg_sessions_show_what_the_protocol_says(eeg):
    seen = [codes(eeg_file(eeg, session, "training")) for session in range(1, 5)]
    for shown in seen:
        values, counts = np.unique(shown[shown != 99999], return_counts=True)
        assert set(counts) == {2}
        assert len(values) == 5
        assert 99999 in shown
    for one, other in (seen[:2], seen[2:]):
        assert sorted({*one, *other} - {99999}) == list(range(1, 11))
        assert {*one} & {*other} == {99999}
    assert {*seen[0]} != {*seen[2]}
    for session in range(1, 5):
        shown = codes(eeg_file(eeg, session, "test"))
        assert np.bincount(shown[shown != 99999]).tolist() == [0, 2, 2, 2]
        stim = eeg_file(eeg, session, "test")["raw_eeg_data"][-1]
        assert np.abs(np.diff(np.flatnonzero(stim)) - 200).max() <= 2 * 1000 * things_eeg.JITTER


@pytest.mark.slow(part=7)
def test_eeg_images_lie_in_the_order_of_their_codes(eeg):
    metadata = unpickled(eeg / "image_metadata.npy")
    train, test = simulated_stimuli(DataConfig(study="simulated-eeg", **EEG))
    for part, folder, images in (("train", "training_images", train), ("test", "test_images", test)):
        names = [f"{c}/{f}" for c, f in zip(*(metadata[f"{part}_img_{k}"] for k in ("concepts", "files")), strict=True)]
        found = sorted(p.relative_to(eeg / "image_set" / folder).as_posix() for p in eeg.rglob(f"{folder}/*/*.jpg"))
        assert names == found
        drawn = open_images(eeg / "image_set" / folder)
        order = sorted(range(len(images)), key=lambda i: (images.concepts[i], i))  # noqa: B023
        difference = drawn.array().astype(float) - images.array(order)
        assert np.abs(difference).mean() < 4  # JPEG
        assert np.abs(drawn.array().astype(float) - images.array(order[::-1])).mean() > 20
    things = dict(name.split("_", 1)[::-1] for key in metadata if key.endswith("THINGS") for name in metadata[key])
    assert [things[name] for name in sorted(things)] == [f"{i:05d}" for i in range(1, 9)]
    assert metadata["test_img_concepts"] != metadata["test_img_concepts_THINGS"]  # renumbered


@pytest.mark.slow(part=8)
def test_eeg_follows_from_seed_and_subject_alone(eeg, tmp_path):
    both = write_things_eeg(tmp_path / "both", (1, 8), **EEG)
    for path in sorted(p.relative_to(eeg) for p in eeg.rglob("*.*")):
        assert (eeg / path).read_bytes() == (both / path).read_bytes(), path
    first, eighth = (both / "raw_data" / name / "ses-01" / "raw_eeg_test.npy" for name in ("sub-01", "sub-08"))
    assert not np.array_equal(codes(unpickled(first)), codes(unpickled(eighth)))
    other = write_things_eeg(tmp_path / "other", (8,), **EEG, seed=1, dtype="float32")
    assert eeg_file(other, 1, "test")["raw_eeg_data"].dtype == np.float32
    assert not np.array_equal(codes(eeg_file(other, 1, "test")), codes(unpickled(eighth)))


@pytest.mark.slow(part=5)
def test_eeg_responses_are_recovered_by_averaging(tmp_path):
    sizes = {"train_concepts": 1, "images_per_concept": 2, "test_concepts": 4}
    root = write_things_eeg(tmp_path / "long", (8,), **sizes, train_repeats=1, test_repeats=160, sessions=2)
    x_NCT, shown = [], []
    for session in (1, 2):
        data = eeg_file(root, session, "test")["raw_eeg_data"]
        onset = np.flatnonzero(data[-1])
        x = np.stack([data[:-1, i - 100 : i + 500] for i in onset])
        x_NCT.append(x[:, :, 100:] - x[:, :, :100].mean(2, keepdims=True))
        shown.append(codes({"raw_eeg_data": data}))
    x_NCT, shown = np.concatenate(x_NCT)[:, :, ::5], np.concatenate(shown)
    assert 5e-6 < x_NCT.std() < 3e-5  # V

    def means(codes: np.ndarray) -> np.ndarray:
        x = np.stack([x_NCT[codes == i].mean(0) for i in (1, 2, 3, 4)])
        return (x - x.mean(0)).ravel()  # what neighbours add is the same for all

    images = things_eeg._by_concept(simulated_stimuli(DataConfig(study="simulated-eeg", **sizes))[1])
    brain = simulated_brain("simulated-eeg", 8, 1000.0, 0.0, round(1000 * continuous.RESPONSE))
    truth = (raw_files.image_drive(images) @ raw_files.response_kernel(brain)).reshape(4, 63, -1)[:, :, :500:5]
    truth = (truth - truth.mean(0)).ravel()
    assert np.corrcoef(means(shown), truth)[0, 1] > 0.5
    shuffled = np.random.default_rng(0).permutation(shown)
    assert abs(np.corrcoef(means(shuffled), truth)[0, 1]) < 0.25


# --- THINGS-MEG -------------------------------------------------------------------------------------------------------


@pytest.mark.slow(part=7)
def test_meg_epochs_have_the_published_structure(meg):
    folder = meg / "derivatives" / "preprocessed"
    parts = sorted(p.name for p in folder.iterdir())
    assert parts[:2] == ["preprocessed_P1-epo-1.fif", "preprocessed_P1-epo-2.fif"]
    assert parts[-1] == "preprocessed_P1-epo.fif"
    assert max(p.stat().st_size for p in folder.iterdir()) < 5 * 2**20
    epochs = read_epochs(meg)
    assert len(epochs.ch_names) == 271
    assert epochs.get_channel_types(unique=True) == ["mag"]
    assert (epochs.info["sfreq"], epochs.info["highpass"], epochs.info["lowpass"]) == pytest.approx((200, 0.1, 40))
    assert (epochs.tmin, epochs.tmax, len(epochs.times), epochs.baseline) == (-0.1, 1.3, 281, None)
    assert "imulated" in epochs.info["description"]
    base = epochs.get_data()[:, :, :21]
    np.testing.assert_allclose(base.mean(2), 0, atol=1e-5)
    np.testing.assert_allclose(base.std(2), 1, atol=1e-5)


@pytest.mark.slow(part=7)
def test_meg_files_are_like_the_golden_ones(meg, shared_data):
    ours, theirs = read_epochs(meg), read_epochs(shared_data / "golden" / "things_meg_271")
    assert ours.ch_names == theirs.ch_names
    assert [c["coil_type"] for c in ours.info["chs"]] == [c["coil_type"] for c in theirs.info["chs"]]
    place, real = (np.stack([c["loc"][:3] for c in e.info["chs"]]) for e in (ours, theirs))
    for axis in range(3):  # a name means about the same place, in a helmet of another shape and tilt
        assert np.corrcoef(place[:, axis], real[:, axis])[0, 1] > (0.95, 0.95, 0.7)[axis]
    golden = read_epochs(shared_data / "golden" / "things_meg")
    assert [*ours.metadata.dtypes.items()] == [*golden.metadata.dtypes.items()]
    csv = pd.read_csv(shared_data / "golden" / "things_meg" / "sourcedata" / "sample_attributes_P1.csv")
    assert [*pd.read_csv(meg / "sourcedata" / "sample_attributes_P1.csv").dtypes.items()] == [*csv.dtypes.items()]


@pytest.mark.slow(part=7)
def test_meg_metadata_follow_the_protocol(meg):
    epochs = read_epochs(meg)
    table = epochs.metadata
    assert np.array_equal(epochs.events[:, 2], table.things_image_nr.fillna(999999).astype(int))
    assert (np.diff(epochs.events[:, 0]) > 1200).all()
    exp, test, catch = (table[table.trial_type == kind] for kind in ("exp", "test", "catch"))
    assert (exp.things_image_nr.value_counts() == 1).all()
    assert len(exp) == 4 * 2  # test concepts have exp trials too
    assert set(test.things_category_nr) <= set(exp.things_category_nr)
    assert test.things_image_nr.value_counts().tolist() == [12] * 2
    assert test.groupby(["test_image_nr", "session_nr"]).size().tolist() == [4] * 6
    assert len(catch) >= 3
    assert sorted(table.session_nr.unique()) == [1, 2, 3]
    assert (exp.image_nr == (exp.category_nr - 1) * 2 + exp.exemplar_nr).all()
    assert (test.image_nr == 8 + things_meg.CATCH_IMAGES + test.test_image_nr).all()
    assert (catch.image_nr > 8).all()
    assert (catch.image_nr <= 8 + things_meg.CATCH_IMAGES).all()
    files = sorted((meg / "Images").glob("*/*.jpg"))  # by concept, each one's files sorted
    for row in table[table.trial_type != "catch"].itertuples():
        assert files[int(row.things_image_nr) - 1].name == Path(row.image_path).name
    csv = pd.read_csv(meg / "sourcedata" / "sample_attributes_P1.csv")
    pd.testing.assert_frame_equal(csv, table.reset_index(drop=True))
    tested = {c.rsplit("_", 1)[0] for c in (Path(p).stem for p in test.image_path)}
    assert tested == set(simulated_stimuli(MEG_STUDY)[1].concepts)


@pytest.mark.slow(part=7)
def test_meg_shows_the_studys_own_test_images(meg):
    _, images = simulated_stimuli(MEG_STUDY)
    for i, concept in enumerate(images.concepts):
        drawn = open_images(meg / "Images" / concept)
        difference = np.abs(drawn.array().astype(float) - images.array([i])).mean((1, 2, 3))
        assert [name for name, d in zip(drawn.ids, difference, strict=True) if d < 5] == [f"{concept}_03n"]


@pytest.mark.slow(part=7)
def test_meg_responses_are_recovered_by_averaging(meg):
    """The common response, in the right sensors: z-scoring scales each channel, not its time course."""
    found_CT = read_epochs(meg).get_data().mean(0)
    brain = simulated_brain("simulated-meg", 1, 200.0, -0.1, 281)
    order = things_meg._ctf_info()[1]

    def alike(truth_CT: np.ndarray) -> float:
        strong = np.argsort(truth_CT.std(1))[-60:]
        return float(np.median([np.corrcoef(found_CT[c], truth_CT[c])[0, 1] for c in strong]))

    assert alike(brain.evoked_CT[order]) > 0.45
    assert alike(brain.evoked_CT) < alike(brain.evoked_CT[order]) - 0.2  # the simulated helmet's own order


@pytest.mark.slow(part=7)
def test_meg_follows_from_its_seed(meg, tmp_path):
    again = write_things_meg(tmp_path / "again", (1,), **MEG)
    np.testing.assert_array_equal(read_epochs(again).get_data(), read_epochs(meg).get_data())
    other = write_things_meg(tmp_path / "other", (1,), **MEG, seed=1)
    assert not np.array_equal(read_epochs(other).events, read_epochs(meg).events)


# --- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow(part=7)
def test_what_is_simulated_says_so(eeg, meg, tmp_path):
    assert is_simulated(eeg)
    assert is_simulated(meg)
    (tmp_path / "README.md").write_text("# THINGS-EEG2\n")
    assert not is_simulated(tmp_path)
    assert not is_simulated(tmp_path / "absent")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subjects": (8, 8)}, "each subject once"),
        ({"subjects": ()}, "at least one"),
        ({"subjects": (11,)}, "subject 11 does not exist: simulated-eeg has subjects 1 to 10"),
        ({"sessions": 3}, "even number of sessions"),
        ({"train_repeats": 3}, "3 training .* do not divide among 4 sessions"),
        ({"test_repeats": 6}, "6 test repeats do not divide"),
        ({"test_concepts": 201}, "test_concepts must lie between 1 and 200"),
        ({"dtype": "int16"}, "float32 or float64, not 'int16'"),
    ],
)
def test_impossible_settings_are_refused(settings, message, tmp_path):
    with pytest.raises(HvfError, match=message):
        write_things_eeg(tmp_path / "out", **settings)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    for write in (write_things_eeg, write_things_meg):
        with pytest.raises(HvfError, match="is not empty: choose another folder"):
            write(tmp_path, (1,), train_concepts=1, images_per_concept=1, test_concepts=1)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow(part=8)
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    out = tmp_path / "deep" / "out"
    with monkeypatch.context() as patch:
        patch.setattr(raw_files.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**6}))
        with pytest.raises(HvfError, match="needs .* GB and the disk has 0.0 GB left"):
            write_things_eeg(out, **EEG)

    def full(*_, **__) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(continuous, "add_noise", full)
        with pytest.raises(HvfError, match=r"cannot write .*out: No space left"):
            write_things_eeg(out, **EEG)
    with monkeypatch.context() as patch:
        patch.setattr(things_meg._SimulatedEpochs, "save", full)
        with pytest.raises(HvfError, match=r"cannot write .*out: No space left"):
            write_things_meg(out, **MEG)
    assert not list(tmp_path.iterdir())
