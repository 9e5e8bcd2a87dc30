"""Studies of prepared trials: their images, splits, sessions, neighbours and windows, and folders of several people."""

from __future__ import annotations

from dataclasses import replace

import mne
import numpy as np
import pytest
from PIL import Image

from hvf.cli.options import StudyOptions
from hvf.cli.parser import parse
from hvf.config import DataConfig, HvfError
from hvf.data.trials.trials import Trials
from hvf.presets import things_eeg
from hvf.study import open_study, other_subjects, subjects, trials_of_subjects

# Prepared trials, laid out as THINGS-EEG2: the numbers of test concepts are those of other training concepts.
SHOWN = {f"training_images/{i + 1:05d}_{c}/{c}_{k:02d}s.jpg": c for i, c in enumerate("dab") for k in range(2)}
SHOWN |= {f"test_images/{i + 1:05d}_{c}/{c}_09x.jpg": c for i, c in enumerate("ec")}
STEMS = [name.rsplit("/", 1)[1].removesuffix(".jpg") for name in SHOWN]


def prepared(**changes) -> Trials:
    """Each of the eight images twice, in another order than theirs; the response to image i is i and i + 0.5."""
    order = np.random.default_rng(2).permutation(np.repeat(np.arange(8), 2))
    again = np.array([i in order[:n] for n, i in enumerate(order)])
    x = np.zeros((16, 2, 300)) + np.array([1.0, -1.0])[:, None] * (order + 0.5 * again)[:, None, None]
    settings = {"image_ids": [STEMS[i] for i in order], "subject": "sub-08", "sfreq": 250.0, "tmin": -0.2,
                "ch_names": ["Oz", "Pz"], "kind": "eeg", "concepts": [list(SHOWN.values())[i] for i in order],
                "splits": ["train" if i < 6 else "test" for i in order], "history": {"recipe": "hvf"}}  # fmt: skip
    return Trials(**{"x_NCT": x} | settings | changes)


@pytest.fixture
def things(tmp_path) -> DataConfig:
    for i, name in enumerate(SHOWN):
        path = tmp_path / "image_set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i * 20, 0, 0)).save(path)
    prepared().save(tmp_path / "sub-08_trials.npy")
    return DataConfig(
        study="files", trials=str(tmp_path / "sub-08_trials.npy"), images=str(tmp_path / "image_set"), test_images=2
    )


def test_prepared_trials_bring_their_images_split_and_concepts(things, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "image_set" / "training_images" / "nobody_saw_this.png")
    study = open_study(things)
    assert study.name == "sub-08_trials"
    assert study.note == "sub-08_trials.npy: EEG, sub-08, recipe hvf, 6 training and 2 test images of other concepts " \
        "(split as prepared), 2 channels"  # fmt: skip
    assert study.test_images.concepts == ("e", "c")
    assert study.train_images.concepts == ("d", "d", "a", "a", "b", "b")
    for trials, images in ((study.train, study.train_images), (study.test, study.test_images)):
        assert trials.image_ids.tolist() == list(images.ids)
        shown = [STEMS.index(name.rsplit("/", 1)[1]) for name in images.ids]
        assert trials.load_array()[:, 0, 0].tolist() == [i + 0.25 for i in shown]
        np.testing.assert_allclose(images.array()[:, 0, 0, 0], np.array(shown) * 20, atol=2)
    assert (study.train.shape, study.train.sfreq, study.train.tmin) == ((6, 2, 300), 250.0, -0.2)
    assert not study.simulated
    prepared(simulated=True, kind="meg", history=None).save(tmp_path / "s.npy")
    study = open_study(replace(things, trials=str(tmp_path / "s.npy"), ch_names=("Pz",)))
    assert study.simulated
    assert "s.npy: simulated MEG, sub-08, 6 training" in study.note
    assert study.train.ch_names == ("Pz",)


def test_sessions_to_train_and_to_test_on(things, tmp_path):
    """The control for what a session has of its own: test trials of other sessions than training trials."""
    again = np.round((prepared().load_array()[:, 0, 0] % 1) * 2).astype(int)
    prepared(sessions=1 + again).save(tmp_path / "s.npy")
    data = replace(things, trials=str(tmp_path / "s.npy"))
    across = open_study(replace(data, train_sessions=(1,), test_sessions=(2,)))
    for trials, images, session in ((across.train, across.train_images, 1), (across.test, across.test_images, 2)):
        shown = [STEMS.index(name.rsplit("/", 1)[1]) for name in images.ids]
        assert trials.load_array()[:, 0, 0].tolist() == [i + 0.5 * (session - 1) for i in shown]
    assert "training trials of session 1, test trials of session 2" in across.note
    assert len(across.single_trials("test", across.test_images)) == 2
    both = open_study(replace(data, train_sessions=(2, 1)))
    np.testing.assert_array_equal(both.train.load_array(), open_study(data).train.load_array())

    splits = prepared().splits.tolist()
    first = next(i for i in range(16) if again[i] == 0 and splits[i] == "train")
    prepared(sessions=1 + again).select([i for i in range(16) if i != first]).save(tmp_path / "few.npy")
    few = replace(data, trials=str(tmp_path / "few.npy"))
    assert len(open_study(few).train_images) == 6
    assert len(open_study(replace(few, train_sessions=(1,))).train_images) == 5  # one was shown in session 2 alone

    for changes, reason in (
        ({"train_sessions": (1, 3)}, "train-sessions asks for 3: the train trials are of sessions 1, 2"),
        ({"test_sessions": ()}, "names no session"),
        ({"trials": things.trials, "test_sessions": (1,)}, "without session numbers"),
    ):
        with pytest.raises(HvfError, match=reason):
            open_study(replace(data, **changes))


def test_neighbours_of_test_trials_are_left_out(things, tmp_path):
    """The control for slow noise, which trials share that follow one another."""
    shuffled = np.random.default_rng(3).permutation(16)  # the order of presentation: prepared trials lie by image
    session_N, position_N = 1 + shuffled // 8, shuffled % 8
    prepared(sessions=session_N, positions=position_N).save(tmp_path / "s.npy")
    data = replace(things, trials=str(tmp_path / "s.npy"))
    saved = Trials.load(tmp_path / "s.npy")
    assert saved.positions.tolist() == position_N.tolist()
    test_N = saved.splits == "test"
    for most in (1, 2):
        study = open_study(replace(data, neighbours=most))
        kept = [
            i
            for i in np.flatnonzero(~test_N)
            if all(
                session_N[i] != session_N[j] or abs(position_N[i] - position_N[j]) > most
                for j in np.flatnonzero(test_N)
            )
        ]
        single = study.single_trials("train", study.train_images)
        expected = {(float(x), int(p)) for x, p in zip(saved.load_array()[kept, 0, 0], position_N[kept], strict=True)}
        found = {(float(x), int(p)) for x, p in zip(single.load_array()[:, 0, 0], single.positions, strict=True)}
        assert found == expected
        assert f"{12 - len(kept)} of 12 training trials left out, at most {most} from a test trial" in study.note
        assert len(study.single_trials("test", study.test_images)) == 4
    with pytest.raises(HvfError, match="leaves no trial to train on"):
        open_study(replace(data, neighbours=8))
    with pytest.raises(HvfError, match="needs the order in which images were shown, and sub-08_trials.npy does not"):
        open_study(replace(things, neighbours=1))


def test_prepared_trials_without_split_or_concepts(things, tmp_path):
    prepared(splits=None, concepts=None).save(tmp_path / "s.npy")
    data = replace(things, trials=str(tmp_path / "s.npy"))
    study = open_study(data)
    assert len(study.test) == 2
    assert (set(study.train.splits), set(study.test.splits)) == ({"train"}, {"test"})
    assert {*study.train_images.concepts, *study.test_images.concepts} == set("abcde")
    assert not set(study.train_images.concepts) & set(study.test_images.concepts)
    assert "split 0" in study.note
    assert open_study(replace(data, split_seed=3)).test_images.ids != study.test_images.ids


def test_the_window_of_a_preset(things, tmp_path):
    asked = replace(things_eeg().data, trials=things.trials, images=things.images, ch_names=None)
    study = open_study(asked)
    assert (study.train.shape, study.train.tmin) == ((6, 2, 250), 0.0)
    with pytest.raises(HvfError, match=r"\[0, 1.2\) s: the trials run over \[-0.2, 1\) s; prepare them"):
        open_study(replace(asked, tmax=1.2))
    with pytest.raises(HvfError, match="have 250 Hz but --data.sfreq asks for 200 Hz: prepare"):
        open_study(replace(asked, sfreq=200.0))

    info = mne.create_info(["Oz", "Pz"], 250.0, "eeg")
    x = np.random.default_rng(0).standard_normal((8, 2, 300)) * 1e-6
    path = tmp_path / "me-epo.fif"
    mne.EpochsArray(x, info, tmin=-0.2, verbose="error").save(path, verbose="error")
    mine = replace(asked, trials=str(path), test_images=2)
    assert open_study(mine).train.shape == (6, 2, 250)
    with pytest.raises(HvfError, match="have 250 Hz but"):
        open_study(replace(mine, sfreq=200.0))
    assert open_study(replace(things, trials=str(path))).train.shape == (6, 2, 300)


@pytest.mark.parametrize(
    ("words", "first", "samples"),
    [
        ("", -0.2, 300), ("--data.tmin 0 --data.tmax 0.8", 0.0, 200), ("--data.tmax 0.8", -0.2, 250),
        ("--data.tmin 0.1", 0.1, 225), ("--data.sfreq 250", -0.2, 300), ("--preset things-eeg", 0.0, 250),
        ("--preset things-eeg --data.tmin 0.1", 0.1, 225), ("--preset things-eeg --data.sfreq 250", 0.0, 250),
    ],
)  # fmt: skip
def test_a_window_that_is_asked_for_holds_even_where_it_is_the_default(things, tmp_path, words, first, samples):
    info = mne.create_info(["Oz", "Pz"], 250.0, "eeg")
    x = np.random.default_rng(0).standard_normal((8, 2, 300)) * 1e-6
    path = tmp_path / "me-epo.fif"
    mne.EpochsArray(x, info, tmin=-0.2, verbose="error").save(path, verbose="error")
    files = f"--trials {path} --images {things.images} --test-images 2"
    study = open_study(replace(parse(StudyOptions, f"{files} {words}".split()).config.data, ch_names=None))
    assert (study.train.shape[2], study.train.tmin) == (samples, pytest.approx(first))
    for sfreq in ("100", "99"):
        refused = parse(StudyOptions, f"{files} {words} --data.sfreq {sfreq}".split()).config.data
        with pytest.raises(HvfError, match=f"have 250 Hz but --data.sfreq asks for {sfreq} Hz"):
            open_study(replace(refused, ch_names=None))


def test_prepared_trials_that_do_not_fit_are_refused(things, tmp_path):
    def refused(message: str, **changes) -> None:
        prepared(**changes).save(tmp_path / "bad.npy")
        with pytest.raises(HvfError, match=message) as error:
            open_study(replace(things, trials=str(tmp_path / "bad.npy")))
        assert "\n" not in str(error.value)

    good = prepared()
    leaked = ["a" if concept == "c" else concept for concept in good.concepts]
    refused("1 test concepts of bad.npy are in training too: a", concepts=leaked)
    refused("3 test concepts .* a, b, d", splits=["train" if i % 2 else "test" for i in range(16)])
    refused("sub-08 has no trials of the split 'test', only train", splits=["train"] * 16)
    refused("1 of the 8 images named in bad.npy is not in .*: wolf_01", image_ids=["wolf_01" if i == "e_09x" else i
            for i in good.image_ids])  # fmt: skip
    folder = tmp_path / "image_set" / "training_images" / "00099_other"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "e_09x.jpg")
    refused("'e_09x' is not clear: test_images/.* and training_images/00099_other/e_09x")
    (folder / "e_09x.jpg").unlink()
    twin = next((tmp_path / "image_set").rglob("a_01s.jpg"))
    twin.write_bytes(next((tmp_path / "image_set").rglob("e_09x.jpg")).read_bytes())
    refused("test image .*e_09x and the training image .*a_01s are the same picture")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(HvfError, match="sidecar .*bad.json is damaged"):
        open_study(replace(things, trials=str(tmp_path / "bad.npy")))


def test_a_folder_of_subjects_and_all_but_one(things, tmp_path):
    folder = replace(things, trials=str(tmp_path))
    assert list(subjects(tmp_path)) == [8]
    with pytest.raises(HvfError, match="no other subject than 8"):
        other_subjects(folder, open_study(folder))
    x = prepared().load_array()
    prepared(x_NCT=x + 100, subject="sub-01").select(slice(None, None, -1)).save(tmp_path / "sub-01_trials.npy")
    prepared(x_NCT=x[:, ::-1] + 200, subject="sub-10", ch_names=["Pz", "Oz"]).save(tmp_path / "sub-10_trials.npy")
    study = open_study(folder)
    assert study.train.subject == "sub-08"
    assert open_study(replace(folder, subject=1)).train.subject == "sub-01"
    with pytest.raises(HvfError, match="no prepared trials of subject 3 .* but of: 1, 8, 10"):
        open_study(replace(folder, subject=3))

    train, person_N, names = other_subjects(folder, study)
    assert names == ("sub-01", "sub-10")
    assert person_N.tolist() == [0] * 6 + [1] * 6
    assert (train.subject, train.shape) == ("all but sub-08", (12, 2, 300))
    assert set(train.image_ids) == set(study.train_images.ids)  # and no test image
    row = {name: i for i, name in enumerate(study.train_images.ids)}
    own = study.train.load_array()[[row[name] for name in train.image_ids]]
    np.testing.assert_allclose(train.load_array() - own, np.repeat([100, 200], 6)[:, None, None] * np.ones(own.shape))
    assert other_subjects(folder, study, (10,))[2] == ("sub-10",)
    whole, person_N, names = trials_of_subjects(folder, study, (8, 1))
    assert (names, person_N.tolist(), whole.subject) == (("sub-01", "sub-08"), [0] * 6 + [1] * 6, "sub-01, sub-08")
    own = whole.select(person_N == 1).aligned_to(study.train_images).load_array()
    np.testing.assert_array_equal(own, study.train.load_array())
    with pytest.raises(HvfError, match="has no subject 3; there are 1, 8, 10"):
        trials_of_subjects(folder, study, (3, 8))
    with pytest.raises(HvfError, match="needs a folder of prepared subjects"):
        other_subjects(things, study)
    prepared(subject="sub-02", sfreq=200.0).save(tmp_path / "sub-02_trials.npy")
    with pytest.raises(HvfError, match="sub-01 and sub-02 have different sampling rates"):
        other_subjects(folder, study)
