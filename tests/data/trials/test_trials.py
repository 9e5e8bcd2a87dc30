from __future__ import annotations

import mne
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.trials.lazy import LazyArray
from hvf.data.trials.reading import read_trials
from hvf.data.trials.splitting import concept_split
from hvf.data.trials.trials import Trials


def image_set(n: int) -> ImageSet:
    return ImageSet.from_arrays(np.zeros((n, 2, 2, 3), np.uint8), [f"im{i}" for i in range(n)], ["thing"] * n)


def trials(x_NCT, ids, **other) -> Trials:
    x_NCT = np.asarray(x_NCT, dtype=np.float32)
    names = tuple(f"E{i}" for i in range(x_NCT.shape[1]))
    return Trials(**{"x_NCT": x_NCT, "image_ids": ids, "subject": "sub-01", "sfreq": 100.0, "tmin": -0.1,
                     "ch_names": names, "kind": "eeg"} | other)  # fmt: skip


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def test_average_of_a_worked_example():
    mean = trials([[[1.0]], [[10.0]], [[3.0]], [[5.0]]], ["b", "a", "b", "b"]).average()
    assert mean.image_ids.tolist() == ["b", "a"]
    assert mean.load_array().ravel().tolist() == [3.0, 10.0]
    assert mean.average() is mean


def test_average_sums_in_double_precision():
    # In float32 the thousand small ones would vanish beside the large one.
    x = np.full((1001, 1, 1), 1.0)
    x[0] = 2.0**25
    assert trials(x, ["a"] * 1001).average().load_array().item() == np.float32((2.0**25 + 1000) / 1001)


def test_select_pick_crop():
    data = trials(noise(4, 3, 50), list("abcd"))
    assert data.select([2, 0]).image_ids.tolist() == ["c", "a"]
    assert data.select(np.array([True, False, False, True])).image_ids.tolist() == ["a", "d"]
    assert len(data.select([])) == 0
    np.testing.assert_array_equal(data.pick(["E2", "E0"]).load_array(), data.load_array()[:, [2, 0]])
    part = data.crop(0.1, 0.3)
    np.testing.assert_array_equal(part.load_array(), data.load_array()[:, :, 20:40])
    np.testing.assert_allclose(part.times, data.times[20:40])
    with pytest.raises(HvfError, match="no channel E7; it has E0"):
        data.pick(["E0", "E7"])
    with pytest.raises(HvfError, match=r"run over \[-0.1, 0.4\)"):
        data.crop(0.0, 0.5)


def test_aligned_to_follows_the_images():
    data = trials([[[1.0]], [[2.0]], [[3.0]], [[5.0]]], ["im1", "other", "im0", "im1"])
    aligned = data.aligned_to(image_set(2))
    assert aligned.image_ids.tolist() == ["im0", "im1"]
    assert aligned.load_array().ravel().tolist() == [3.0, 3.0]
    with pytest.raises(HvfError, match="1 of 3 images have no trial of sub-01: im2"):
        data.aligned_to(image_set(3))


def test_permuted_breaks_the_pairing_only():
    data = trials(noise(50, 2, 3), [f"im{i}" for i in range(50)])
    shuffled = data.permuted(0)
    assert sorted(shuffled.image_ids) == sorted(data.image_ids)
    assert np.mean(shuffled.image_ids == data.image_ids) < 0.2
    assert shuffled.load_array() is data.load_array()
    assert (data.permuted(0).image_ids == shuffled.image_ids).all()
    assert (data.permuted(1).image_ids != shuffled.image_ids).any()
    assert (shuffled.image_ids == np.random.default_rng(0).permutation(data.image_ids)).all()
    named = trials(noise(3, 1, 2), list("abc"), concepts=list("ABC"), sessions=[1, 2, 3]).permuted(1)
    assert ([name.upper() for name in named.image_ids], named.sessions.tolist()) == (named.concepts.tolist(), [1, 2, 3])


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "channel E1 of sub-01: NaN"), (np.inf, "channel E1 .*infinite"), (-np.inf, "channel E1 .*infinite")],
)
def test_check_names_channels_that_are_not_finite(value, message):
    data = trials(noise(4, 3, 5), list("abcd"))
    data.check()
    data.load_array()[2, 1, 3] = value
    with pytest.raises(HvfError, match=message):
        data.check()


def test_check_names_constant_channels():
    data = trials(noise(4, 9, 5), list("abcd"))
    data.load_array()[:, [0, 8]] = 7.0
    with pytest.raises(HvfError, match="2 channels E0, E8 of sub-01: the same value"):
        data.check()
    data.load_array()[:] = 7.0
    with pytest.raises(HvfError, match="9 channels .*E5 and 3 more"):
        data.check()
    with pytest.raises(HvfError, match="empty"):
        data.select([]).check()


def test_views_read_only_what_is_asked_for(monkeypatch):
    x = noise(12, 5, 40)
    data = trials(x.astype(np.float16), [f"im{i % 4}" for i in range(12)], splits=["train"] * 8 + ["test"] * 4,
                  sessions=[1, 1, 1, 2] * 3, concepts=[f"c{i % 2}" for i in range(12)])  # fmt: skip
    x = x.astype(np.float16).astype(np.float32)
    read: list[int] = []
    original = LazyArray._read

    def counted(view: LazyArray) -> np.ndarray:
        read.append(len(view.rows_P))
        return original(view)

    monkeypatch.setattr(LazyArray, "_read", counted)
    part = data.split("train").pick(["E3", "E0"]).crop(0.0, 0.2).session(1)
    mean = part.average().select([2, 0])
    assert (part.shape, mean.shape, read) == ((6, 2, 20), (2, 2, 20), [])
    np.testing.assert_array_equal(part.load_array(), x[[0, 1, 2, 4, 5, 6]][:, [3, 0], 10:30])
    np.testing.assert_array_equal(mean.load_array(), x[[[2, 6], [0, 4]]].mean(1, dtype=np.float64).astype(np.float32)
                                  [:, [3, 0], 10:30])  # fmt: skip
    assert (mean.image_ids.tolist(), mean.concepts.tolist(), mean.sessions) == (["im2", "im0"], ["c0", "c0"], None)
    read.clear()
    np.testing.assert_array_equal(mean[1], mean.load_array()[1])
    np.testing.assert_array_equal(part.batch([-1, 0, 0]), part.load_array()[[-1, 0, 0]])
    np.testing.assert_array_equal(part.batch(slice(1, 3)), part.load_array()[1:3])
    assert read == [2, 4, 3, 6, 2, 6]
    assert part.repeats() == {"im0": 2, "im1": 2, "im2": 2}
    assert [x_CT.shape for x_CT in part] == [(2, 20)] * 6
    with pytest.raises(HvfError, match="no session 3; known are 1, 2"):
        data.session(3)
    with pytest.raises(HvfError, match="no trials of the split 'val', only test, train"):
        data.split("val")
    with pytest.raises(HvfError, match="not split"):
        trials(x, list("abcdefghijkl")).split("train")


def test_whole_float32_arrays_are_not_copied_and_batches_are():
    x = noise(3, 2, 4)
    data = trials(x, list("abc"))
    assert data.load_array() is x
    data.batch(slice(None))[:] = 0
    assert data.load_array() is x
    assert x.any()


@pytest.mark.parametrize("n", [1, 7, 400])
def test_reading_in_blocks_changes_nothing(monkeypatch, n):
    rng = np.random.default_rng(n)
    x = noise(n, 3, 5)
    data = trials(x, [f"im{i}" for i in rng.integers(0, 40, n)])
    whole = {name: x[data.image_ids == name].mean(0, dtype=np.float64).astype(np.float32) for name in data.repeats()}
    monkeypatch.setattr("hvf.data.trials.lazy.BLOCK_BYTES", 700)
    monkeypatch.setattr("hvf.data.trials.trials.BLOCK_BYTES", 700)
    mean = data.average()
    np.testing.assert_array_equal(mean.load_array(), np.stack(list(whole.values())))
    order = rng.permutation(n)
    np.testing.assert_array_equal(data.select(order).load_array(), x[order])
    np.testing.assert_array_equal(np.concatenate([part for _, part in data.batches()]), x)
    low, high = x.min(), x.max()
    data.check()
    assert (low, high) == (x.min(), x.max())


def test_concatenate_joins_views():
    x, y = noise(4, 3, 20), -noise(6, 3, 20).astype(np.float16)
    one = trials(x, ["a", "a", "b", "b"], splits=["train"] * 4, concepts=list("ccdd"))
    two = trials(y, ["a", "b", "a", "b", "e", "e"], subject="sub-02", splits=["train"] * 4 + ["test"] * 2)
    other = two.pick(["E2", "E1", "E0"]).select([5, 0, 1, 2, 3])  # another order of the channels and of the trials
    both = Trials.concatenate([one.average(), other.pick(one.ch_names).split("train")], subject="both")
    assert (both.subject, both.concepts, both.splits.tolist()) == ("both", None, ["train"] * 6)
    expected = np.concatenate([x.reshape(2, 2, 3, 20).mean(1, dtype=np.float64), y[:4]]).astype(np.float32)
    np.testing.assert_array_equal(both.load_array(), expected)
    np.testing.assert_array_equal(both.batch([5, 1, 0]), expected[[5, 1, 0]])
    # Averaged again, each row counts alike, whatever it is the mean of.
    np.testing.assert_allclose(both.average()[0], expected[[0, 2, 4]].mean(0), rtol=1e-6)
    assert Trials.concatenate([one, two]).subject == "sub-01, sub-02"
    for wrong, message in (
        (two.pick(["E1", "E0", "E2"]), "sub-01 and sub-02 have different channels"),
        (two.crop(-0.1, 0.0), r"different windows \(-0.1 s and 20 samples and -0.1 s and 10"),
        (two.crop(-0.1, 0.0), "cannot join"),
        (trials(x, list("abcd"), sfreq=250.0), "sampling rates .100 Hz and 250 Hz"),
        (trials(x, list("abcd"), kind="meg"), "kinds .eeg and meg"),
    ):
        with pytest.raises(HvfError, match=message):
            Trials.concatenate([one, wrong])
    with pytest.raises(HvfError, match="no trials to concatenate"):
        Trials.concatenate([])


def test_averaging_averages_of_equal_weight_stays_a_view():
    x = noise(8, 2, 3)
    halves = trials(x, [f"{i // 2}" for i in range(8)]).average()
    again = halves.replace(x_NCT=halves.values, image_ids=np.array(list("abab"))).average()
    assert again.values.parts[0].array is x
    np.testing.assert_allclose(again.load_array()[0], x[[0, 1, 4, 5]].mean(0), rtol=1e-5)


def test_images_are_known_by_id_or_by_the_name_of_their_file():
    ids = ["training_images/00001_aardvark/aardvark_01b", "training_images/00002_abacus/abacus_03s"]
    things = ImageSet.from_arrays(np.zeros((2, 2, 2, 3), np.uint8), ids, ["00001_aardvark", "00002_abacus"])
    data = trials(noise(4, 1, 3), ["abacus_03s", "catch", "other/aardvark_01b.jpg", "abacus_03s"])
    assert data.paired_with(things).image_ids.tolist() == [ids[1], ids[0], ids[1]]
    np.testing.assert_allclose(data.aligned_to(things).load_array(), [data[2], (data[0] + data[3]) / 2], rtol=1e-6)
    twice = ImageSet.from_arrays(np.zeros((2, 2, 2, 3), np.uint8), ["a/one", "b/one"], ["a", "b"])
    with pytest.raises(HvfError, match="'one' is not clear: a/one and b/one"):
        trials(noise(1, 1, 3), ["one"]).aligned_to(twice)
    assert trials(noise(1, 1, 3), ["b/one"]).paired_with(twice).image_ids.tolist() == ["b/one"]


def test_a_label_for_each_trial():
    x = noise(3, 2, 4)
    for labels in ({"concepts": ["a"]}, {"splits": ["train"] * 4}, {"sessions": [1]}):
        with pytest.raises(HvfError, match="3 trials were given . (concepts|splits|sessions)"):
            trials(x, list("abc"), **labels)


def test_shapes_that_do_not_fit():
    with pytest.raises(HvfError, match="3 trials were given 2 image ids"):
        trials(noise(3, 2, 4), list("ab"))
    with pytest.raises(HvfError, match="2 channels were given 1 names"):
        trials(noise(3, 2, 4), list("abc"), ch_names=("A",))


@pytest.mark.parametrize("dtype", [complex, "complex64", object, "<U4", "M8[s]"])
def test_values_that_are_no_real_numbers(dtype):
    with pytest.raises(HvfError, match="trials are real numbers, not "):
        Trials(np.ones((3, 2, 4)).astype(dtype), list("abc"), "sub-01", 100.0, 0.0, ["O1", "O2"], "eeg")


@pytest.mark.parametrize(("sfreq", "tmin"), [(0, 0.0), (-5.0, 0.0), (float("nan"), 0.0), (100.0, float("inf"))])
def test_rates_and_times_that_cannot_be(sfreq, tmin):
    with pytest.raises(HvfError, match="a rate above 0 Hz and a finite first time, not "):
        Trials(noise(3, 2, 4), list("abc"), "sub-01", sfreq, tmin, ["O1", "O2"], "eeg")


@pytest.mark.parametrize("absent", [None, float("nan"), pd.NA])
def test_a_trial_without_an_image_is_refused(absent):
    for ids in (["a", absent, "c"], np.array(["a", absent, "c"], dtype=object), pd.Series(["a", absent, "c"])):
        with pytest.raises(HvfError, match=r"trial 1 is given .* as its label"):
            Trials(noise(3, 2, 4), ids, "sub-01", 100.0, 0.0, ["O1", "O2"], "eeg")


def test_complex_epochs_are_refused():
    info = mne.create_info(["Oz", "Pz"], 200.0, "eeg")
    epochs = mne.EpochsArray(noise(3, 2, 4) + 1j, info, verbose="error")
    with pytest.raises(HvfError, match="trials are real numbers, not complex128"):
        Trials.from_epochs(epochs, list("abc"))


def test_endings_in_capitals(tmp_path):
    x = noise(6, 4, 5)
    np.save(tmp_path / "a.npy", x)
    path = (tmp_path / "a.npy").rename(tmp_path / "A.NPY")
    np.testing.assert_array_equal(read_trials(path, image_set(6)).load_array(), x)
    info = mne.create_info(["Oz", "Pz", "P1", "P2"], 200.0, "eeg")
    mne.EpochsArray(x, info, verbose="error").save(tmp_path / "a-epo.fif", verbose="error")
    path = (tmp_path / "a-epo.fif").rename(tmp_path / "A-EPO.FIF")
    np.testing.assert_allclose(read_trials(path, image_set(6)).load_array(), x, rtol=1e-6)


def test_read_numbers(tmp_path):
    x = noise(6, 4, 5)
    np.save(tmp_path / "three.npy", x)
    data = read_trials(tmp_path / "three.npy", image_set(6), sfreq=250.0, tmin=-0.2)
    np.testing.assert_array_equal(data.load_array(), x)
    assert (data.sfreq, data.tmin, data.kind, data.subject) == (250.0, -0.2, "features", "three")
    assert data.image_ids.tolist() == list(image_set(6).ids)
    np.save(tmp_path / "two.npy", (x[:, :, 0] * 100).astype(np.int32))
    data = read_trials(tmp_path / "two.npy", image_set(6))
    assert data.load_array().shape == (6, 4, 1)
    assert data.load_array().dtype == np.float32


def test_a_wrong_count_names_the_pictures_that_are_not_read(tmp_path):
    for i in range(3):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").rename(tmp_path / "2.heic")
    np.save(tmp_path / "x.npy", noise(3, 4))
    with pytest.raises(HvfError, match=r"3 trials but there are 2 images.*\.heic"):
        read_trials(tmp_path / "x.npy", open_images(tmp_path))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (noise(5, 4), "has 5 trials but there are 6 images; give one trial per image"),
        (noise(4, 6), r"transposed.*save x\.T"),
        (noise(4, 5, 6), r"axis 2 has 6: save np\.moveaxis\(x, 2, 0\)"),
        (noise(6), r"has shape \(6,\)"),
        (noise(6, 4).astype(complex), "complex128, not real numbers"),
        (np.array([["a"] * 4] * 6), "not real numbers"),
        (np.where(np.arange(4) == 2, np.nan, noise(6, 4)), "channel 002 .*NaN"),
        (np.where(np.arange(4) == 3, 1.0, noise(6, 4)), "channel 003 .*the same value"),
        (np.array([[None] * 4] * 6), "pickled Python objects"),
    ],
)
def test_read_bad_numbers(tmp_path, x, message):
    np.save(tmp_path / "bad.npy", x, allow_pickle=True)
    with pytest.raises(HvfError, match=message):
        read_trials(tmp_path / "bad.npy", image_set(6))


def test_a_pickle_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.save(tmp_path / "trap.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(HvfError, match="pickled"):
        read_trials(tmp_path / "trap.npy", image_set(1))
    assert not (tmp_path / "sprung").exists()


def test_read_other_files(tmp_path):
    with pytest.raises(HvfError, match="no file of trials"):
        read_trials(tmp_path / "absent.npy", image_set(2))
    (tmp_path / "x.mat").write_bytes(b"")
    with pytest.raises(HvfError, match=r"\.npy.*-epo\.fif"):
        read_trials(tmp_path / "x.mat", image_set(2))
    for name in ("empty.npy", "noise-epo.fif"):
        (tmp_path / name).write_bytes(b"nothing" * (name != "empty.npy"))
        with pytest.raises(HvfError, match=f"cannot read .*{name}"):
            read_trials(tmp_path / name, image_set(2))


def test_read_epochs(tmp_path):
    x = noise(5, 4, 30) * 1e-6
    info = mne.create_info(["Oz", "Pz", "EOG", "Cz"], 200.0, ["eeg", "eeg", "eog", "eeg"])
    info["bads"] = ["Cz"]
    mne.EpochsArray(x, info, tmin=-0.05, verbose="error").save(tmp_path / "s-epo.fif", verbose="error")
    data = read_trials(tmp_path / "s-epo.fif", image_set(5))
    assert (data.ch_names, data.sfreq, data.tmin, data.kind) == (("Oz", "Pz"), 200.0, -0.05, "eeg")
    np.testing.assert_allclose(data.load_array(), x[:, :2], rtol=1e-5)
    with pytest.raises(HvfError, match="5 trials but there are 4 images"):
        read_trials(tmp_path / "s-epo.fif", image_set(4))


def epochs_of(n: int, metadata: dict | None = None) -> mne.EpochsArray:
    info = mne.create_info(["Oz", "Pz", "EOG"], 200.0, ["eeg", "eeg", "eog"])
    table = None if metadata is None else pd.DataFrame(metadata)
    return mne.EpochsArray(noise(n, 3, 8) * 1e-6, info, tmin=-0.01, metadata=table, verbose="error")


def test_from_epochs():
    epochs = epochs_of(3)
    data = Trials.from_epochs(epochs, ["b", "a", "b"], subject="me")
    assert (data.image_ids.tolist(), data.subject, data.ch_names) == (["b", "a", "b"], "me", ("Oz", "Pz"))
    np.testing.assert_allclose(data.load_array(), epochs.get_data()[:, :2], rtol=1e-6)
    assert (data.kind, data.sfreq, data.tmin) == ("eeg", 200.0, -0.01)
    ordered = Trials.from_epochs(epochs, image_set(3))
    assert (ordered.image_ids.tolist(), ordered.concepts.tolist()) == (["im0", "im1", "im2"], ["thing"] * 3)

    told = {"image": ["x/im2.png", "im0", "im2"], "split": ["train", "test", "train"], "session": [1, 1, 2]}
    data = Trials.from_epochs(epochs_of(3, told))
    assert (data.image_ids.tolist(), data.splits.tolist()) == (told["image"], told["split"])
    assert data.sessions.tolist() == [1, 1, 2]
    assert Trials.from_epochs(epochs_of(3, told), image_set(4)).image_ids.tolist() == ["im2", "im0", "im2"]
    assert Trials.from_epochs(epochs_of(3, told), ["im2", "im0", "im2"]).repeats() == {"im2": 2, "im0": 1}


@pytest.mark.parametrize(
    ("metadata", "images", "message"),
    [
        (None, None, 'a column epochs.metadata."image"'),
        (None, ["a", "b"], "3 epochs but 2 images"),
        ({"image": ["a", "b", "c"]}, ["a", "c", "b"], "epoch 1 was given the image 'c', but .* says 'b'"),
        ({"image": ["a", None, "c"]}, None, "names no image for epoch 1"),
        (
            {"image": ["im0", "im7", "im1"]},
            "set",
            "1 of the 3 images named .* is not in the image set: im7",
        ),
    ],
)
def test_from_epochs_that_contradict_themselves(metadata, images, message):
    with pytest.raises(HvfError, match=message):
        Trials.from_epochs(epochs_of(3, metadata), image_set(3) if images == "set" else images)


def test_concept_split_shares_no_concept():
    concepts = [f"c{i // 3}" for i in range(60)]
    train, val = concept_split(concepts, 0.1, seed=0)
    assert sorted([*train, *val]) == list(range(60))
    assert len(val) == 6
    assert not {concepts[i] for i in train} & {concepts[i] for i in val}
    np.testing.assert_array_equal(concept_split(concepts, 0.1, seed=0)[1], val)
    assert any((concept_split(concepts, 0.1, seed=s)[1] != val).any() for s in range(1, 4))
    assert len(concept_split(["a", "b"], 0.01, seed=0)[1]) == 1
    with pytest.raises(HvfError, match="1 concepts aside.*there are 1"):
        concept_split(["a"] * 9, 0.1, seed=0)
