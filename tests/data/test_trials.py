from __future__ import annotations

import mne
import numpy as np
import pytest

from hvf.config import HvfError
from hvf.data.stimuli import ImageSet
from hvf.data.trials import Trials, concept_split, read_trials


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
    assert mean.x_NCT.ravel().tolist() == [3.0, 10.0]
    assert mean.average() is mean


def test_average_sums_in_double_precision():
    # In float32 the thousand small ones would vanish beside the large one.
    x = np.full((1001, 1, 1), 1.0)
    x[0] = 2.0**25
    assert trials(x, ["a"] * 1001).average().x_NCT.item() == np.float32((2.0**25 + 1000) / 1001)


def test_select_pick_crop():
    data = trials(noise(4, 3, 50), list("abcd"))
    assert data.select([2, 0]).image_ids.tolist() == ["c", "a"]
    assert data.select(np.array([True, False, False, True])).image_ids.tolist() == ["a", "d"]
    assert len(data.select([])) == 0
    np.testing.assert_array_equal(data.pick(["E2", "E0"]).x_NCT, data.x_NCT[:, [2, 0]])
    part = data.crop(0.1, 0.3)
    np.testing.assert_array_equal(part.x_NCT, data.x_NCT[:, :, 20:40])
    np.testing.assert_allclose(part.times, data.times[20:40])
    with pytest.raises(HvfError, match="no channel E7; it has E0"):
        data.pick(["E0", "E7"])
    with pytest.raises(HvfError, match=r"run over \[-0.1, 0.4\)"):
        data.crop(0.0, 0.5)


def test_aligned_to_follows_the_images():
    data = trials([[[1.0]], [[2.0]], [[3.0]], [[5.0]]], ["im1", "other", "im0", "im1"])
    aligned = data.aligned_to(image_set(2))
    assert aligned.image_ids.tolist() == ["im0", "im1"]
    assert aligned.x_NCT.ravel().tolist() == [3.0, 3.0]
    with pytest.raises(HvfError, match="1 of 3 images have no trial of sub-01: im2"):
        data.aligned_to(image_set(3))


def test_permuted_breaks_the_pairing_only():
    data = trials(noise(50, 2, 3), [f"im{i}" for i in range(50)])
    shuffled = data.permuted(0)
    assert sorted(shuffled.image_ids) == sorted(data.image_ids)
    assert np.mean(shuffled.image_ids == data.image_ids) < 0.2
    assert shuffled.x_NCT is data.x_NCT
    assert (data.permuted(0).image_ids == shuffled.image_ids).all()
    assert (data.permuted(1).image_ids != shuffled.image_ids).any()


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "channel E1 of sub-01: NaN"), (np.inf, "channel E1 .*infinite"), (-np.inf, "channel E1 .*infinite")],
)
def test_check_names_channels_that_are_not_finite(value, message):
    data = trials(noise(4, 3, 5), list("abcd"))
    data.check()
    data.x_NCT[2, 1, 3] = value
    with pytest.raises(HvfError, match=message):
        data.check()


def test_check_names_constant_channels():
    data = trials(noise(4, 9, 5), list("abcd"))
    data.x_NCT[:, [0, 8]] = 7.0
    with pytest.raises(HvfError, match="2 channels E0, E8 of sub-01: the same value"):
        data.check()
    data.x_NCT[:] = 7.0
    with pytest.raises(HvfError, match="9 channels .*E5 and 3 more"):
        data.check()
    with pytest.raises(HvfError, match="empty"):
        data.select([]).check()


def test_save_and_load(tmp_path):
    data = trials(noise(3, 2, 4), list("abc"), kind="meg", simulated=True)
    data.save(tmp_path / "x.safetensors")
    back = Trials.load(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(back.x_NCT, data.x_NCT)
    assert back.image_ids.tolist() == list("abc")
    for name in ("subject", "sfreq", "tmin", "ch_names", "kind", "simulated"):
        assert getattr(back, name) == getattr(data, name)
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    whole = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(whole[:-8])
    with pytest.raises(HvfError, match="not a file of trials"):
        Trials.load(tmp_path / "x.safetensors")


def test_shapes_that_do_not_fit():
    with pytest.raises(HvfError, match="3 trials were given 2 image ids"):
        trials(noise(3, 2, 4), list("ab"))
    with pytest.raises(HvfError, match="2 channels were given 1 names"):
        trials(noise(3, 2, 4), list("abc"), ch_names=("A",))


def test_read_numbers(tmp_path):
    x = noise(6, 4, 5)
    np.save(tmp_path / "three.npy", x)
    data = read_trials(tmp_path / "three.npy", image_set(6), sfreq=250.0, tmin=-0.2)
    np.testing.assert_array_equal(data.x_NCT, x)
    assert (data.sfreq, data.tmin, data.kind, data.subject) == (250.0, -0.2, "features", "three")
    assert data.image_ids.tolist() == list(image_set(6).ids)
    np.save(tmp_path / "two.npy", (x[:, :, 0] * 100).astype(np.int32))
    data = read_trials(tmp_path / "two.npy", image_set(6))
    assert data.x_NCT.shape == (6, 4, 1)
    assert data.x_NCT.dtype == np.float32


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
    np.testing.assert_allclose(data.x_NCT, x[:, :2], rtol=1e-5)
    with pytest.raises(HvfError, match="5 trials but there are 4 images"):
        read_trials(tmp_path / "s-epo.fif", image_set(4))


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
