from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hvf.config import HvfError
from hvf.data.trials import store
from hvf.data.trials.categorical import Categorical, packed
from hvf.data.trials.reading import read_trials
from hvf.data.trials.store import TrialsWriter, is_prepared, verify
from hvf.data.trials.trials import Trials

X = np.random.default_rng(0).standard_normal((6, 2, 5)).astype(np.float16)
TOLD = {
    "image_ids": [f"dog_{i % 3}" for i in range(6)],
    "subject": "sub-08",
    "sfreq": 250.0,
    "tmin": -0.2,
    "ch_names": ["Oz", "Pz"],
    "kind": "eeg",
    "concepts": ["dog"] * 6,
    "splits": ["train", "train", "test"] * 2,
    "sessions": [1, 1, 1, 2, 2, 2],
    "history": {"recipe": "hvf", "sources": {"raw.npy": "ab12"}, "n": np.int64(3), "path": Path("x")},
}


def write(path: Path, x: np.ndarray = X, **other) -> Path:
    with TrialsWriter(path, x.shape, x.dtype, **TOLD | other) as writer:
        writer.x_NCT[:] = x
    return path


def edit(path: Path, **changes) -> None:
    sidecar = path.with_suffix(".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | changes))


def test_written_and_read(tmp_path):
    path = write(tmp_path / "new" / "sub-08_trials.npy")
    assert sorted(p.name for p in path.parent.iterdir()) == ["sub-08_trials.json", "sub-08_trials.npy"]
    assert is_prepared(path)
    np.testing.assert_array_equal(np.load(path), X)  # anybody can read it
    data = Trials.load(path)
    assert isinstance(data.values.parts[0].array.base, np.memmap) or isinstance(data.values.parts[0].array, np.memmap)
    np.testing.assert_array_equal(data.load_array(), X.astype(np.float32))
    assert (data.ch_names, data.sfreq, data.tmin, data.kind, data.subject) == (
        ("Oz", "Pz"),
        250.0,
        -0.2,
        "eeg",
        "sub-08",
    )
    for name in ("image_ids", "concepts", "splits", "sessions"):
        assert getattr(data, name).tolist() == TOLD[name]
    assert data.history["recipe"] == "hvf"
    assert data.history["n"] == 3
    assert data.history["code"]
    verify(path)


def test_views_are_saved_whole(tmp_path):
    data = Trials.load(write(tmp_path / "a.npy")).split("train").average()
    data.save(tmp_path / "b.npy")
    back = Trials.load(tmp_path / "b.npy")
    np.testing.assert_array_equal(back.load_array(), data.load_array())
    assert (back.image_ids.tolist(), back.sessions) == (["dog_0", "dog_1"], None)
    data.select([]).save(tmp_path / "none.npy")
    assert Trials.load(tmp_path / "none.npy").shape == (0, 2, 5)
    data.save(tmp_path / "b.npy", np.float16)  # in place of the first
    assert Trials.load(tmp_path / "b.npy").values.parts[0].array.dtype == np.float16
    verify(tmp_path / "b.npy")


def test_an_error_leaves_nothing_new(tmp_path):
    path = write(tmp_path / "a.npy")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for name in ("a.npy", "other.npy"):
        with pytest.raises(ZeroDivisionError), TrialsWriter(tmp_path / name, X.shape, X.dtype, **TOLD) as writer:
            writer.x_NCT[:3] = 1 // 0
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    verify(path)


def test_a_disk_without_room_is_refused_first(tmp_path, monkeypatch):
    huge = TrialsWriter(tmp_path / "a.npy", (6, 2, 10**12), np.float32, **TOLD)
    with pytest.raises(HvfError, match=r"48000.00 GB are needed and \d+.\d\d GB are free; make room"):
        huge.__enter__()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(HvfError, match="No space left"):
        write(tmp_path / "a.npy")
    (tmp_path / "file").write_text("")
    with pytest.raises(HvfError, match="cannot write"):
        write(tmp_path / "file" / "a.npy")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_ids": ["a"]}, "6 trials have 1 image_ids"),
        ({"sessions": [1]}, "6 trials have 1 sessions"),
        ({"splits": ["train"]}, "6 trials have 1 splits"),
        ({"ch_names": ["Oz"]}, "2 channels have 1 names"),
        ({"x": X.astype(np.float64)}, "float16 or float32, not .* float64"),
    ],
)
def test_what_does_not_fit_is_not_written(tmp_path, change, message):
    with pytest.raises(HvfError, match=message):
        write(tmp_path / "a.npy", **change)
    with pytest.raises(HvfError, match=r"to a \.npy, not to"):
        write(tmp_path / "a.bin")
    assert not list(tmp_path.iterdir())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"a\.npy (and its sidecar .* do not belong together|is damaged)"),
        (lambda p: p.write_bytes(p.read_bytes() + b"more"), "in 124 bytes, the sidecar says .* in 120"),
        (lambda p: p.write_bytes(p.read_bytes()[:20]), r"a\.npy is damaged"),
        (lambda p: p.write_bytes(b""), r"a\.npy is damaged"),
        (lambda p: np.save(p, X.astype(np.float32)), "the array is float32 .* the sidecar says float16"),
        (lambda p: np.save(p, X[:5]), r"float16 \(5, 2, 5\) .* says float16 \(6, 2, 5\)"),
        (lambda p: np.save(p, np.array([None]), allow_pickle=True), r"a\.npy is damaged"),
        (lambda p: p.with_suffix(".json").unlink(), r"has no sidecar a\.json"),
        (lambda p: truncate(p.with_suffix(".json")), r"sidecar .*a\.json is damaged"),
        (lambda p: p.with_suffix(".json").write_text(""), r"sidecar .*a\.json is damaged"),
        (lambda p: p.with_suffix(".json").write_text("[]"), "not written by this version"),
        (lambda p: edit(p, format="hvf trials 99"), "not written by this version"),
        (lambda p: edit(p, ch_names=["Oz"]), "2 channels have 1 names"),
        (lambda p: edit(p, ch_names=None), r"damaged \(ch_names: "),
        (lambda p: edit(p, image_ids=Categorical.of(["a"] * 5).to_json()), "6 trials have 5 image_ids"),
        (lambda p: edit(p, image_ids={"values": ["a"], "codes": packed(np.ones(6))}), "codes without a value"),
        (lambda p: edit(p, image_ids={"values": ["a"], "codes": "!"}), "damaged"),
        (lambda p: edit(p, image_ids=None), "damaged"),
        (lambda p: edit(p, shape="many"), "damaged"),
        (lambda p: p.unlink(), "no file of trials"),
    ],
)
def test_damage_is_refused_in_one_line(tmp_path, damage, message):
    path = write(tmp_path / "a.npy")
    damage(path)
    with pytest.raises(HvfError, match=message) as error:
        Trials.load(path)
    assert "\n" not in str(error.value)


def test_verify_finds_a_changed_value(tmp_path):
    path = write(tmp_path / "a.npy")
    x = np.load(path, mmap_mode="r+")
    x[3, 1, 2] += 1
    x.flush()
    trials = Trials.load(path)  # opening reads no data
    for read in (lambda: verify(path), trials.load_array, lambda: trials.select([0]).average().batch([0])):
        with pytest.raises(HvfError, match="changed or damaged after it was written"):
            read()


def test_is_prepared(tmp_path):
    path = write(tmp_path / "a.npy")
    edit(path, subject="edited")  # another layout of the same JSON
    assert is_prepared(path)
    path.with_suffix(".json").write_text(
        '{"format": "hv'
    )  # damaged: loading says so, rather than reading it as numbers
    assert is_prepared(path)
    path.with_suffix(".json").write_text('{"made by": "somebody"}')
    assert not is_prepared(path)
    path.with_suffix(".json").unlink()
    assert not is_prepared(path)
    assert not is_prepared(tmp_path)
    assert not is_prepared(tmp_path / "absent.npy")


def test_nine_subjects_open_and_join_at_once(tmp_path, monkeypatch):
    """Files of the real size, 5 GB in all, with holes instead of data: reading them would take far longer."""
    monkeypatch.setattr(store, "known_sha256", lambda path, begin: store._read_sidecar(path)["sha256"])
    n_images, repeats, c, t = 16540, 4, 17, 250
    n = n_images * repeats
    small = write(
        tmp_path / "small.npy",
        np.zeros((n, 1, 1), np.float16),
        image_ids=[f"a_rather_long_concept_{i // 10:04d}_{i % 10:02d}s" for i in range(n_images)] * repeats,
        concepts=[f"a_rather_long_concept_{i // 10:04d}" for i in range(n_images)] * repeats,
        splits=["train"] * n,
        sessions=[1 + i // n_images for i in range(n)],
        ch_names=["Oz"],
    )
    edit(small, shape=[n, c, t], nbytes=n * c * t * 2, ch_names=[f"E{i}" for i in range(c)])
    with open(tmp_path / "whole.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": (n, c, t)})
        file.truncate(file.tell() + n * c * t * 2)
    paths = [tmp_path / f"sub-{i:02d}_trials.npy" for i in range(1, 10)]
    for path in paths:
        os.link(tmp_path / "whole.npy", path)
        shutil.copy(small.with_suffix(".json"), path.with_suffix(".json"))

    start = time.process_time()  # the machine may be busy with something else
    subjects = [Trials.load(path) for path in paths]
    everyone = Trials.concatenate(subjects)
    assert time.process_time() - start < (1.0 if sys.gettrace() is None else 3.0)  # counting lines takes time
    assert everyone.shape == (9 * n, c, t)
    assert not everyone.batch([0, 5 * n, 9 * n - 1]).any()
    assert everyone.split("train").pick(["E3"]).crop(0.0, 0.5).batch([7]).shape == (1, 1, 125)


def test_read_trials_takes_prepared_ones_by_name(tmp_path):
    from hvf.data.images.image_set import ImageSet

    images = ImageSet.from_arrays(np.zeros((2, 2, 2, 3), np.uint8), ["x/dog_2", "x/dog_0"], ["dog"] * 2)
    data = read_trials(write(tmp_path / "a.npy"), images)
    assert data.image_ids.tolist() == ["x/dog_0", "x/dog_2"] * 2
    np.testing.assert_array_equal(data.load_array(), X[[0, 2, 3, 5]].astype(np.float32))


@pytest.mark.parametrize(("scale", "held"), [(1.0, True), (1e-6, False), (1e-13, False), (1e5, False)])
def test_float16_holds_what_it_can(tmp_path, scale, held):
    x_NCT = np.random.default_rng(0).normal(size=(4, 2, 30)).astype(np.float32)
    x_NCT[:, 1] *= scale
    data = Trials(x_NCT, list("abcd"), "sub-01", 100.0, 0.0, ["O1", "O2"], "eeg")
    if held:
        data.save(tmp_path / "a.npy", np.float16)
        np.testing.assert_allclose(Trials.load(tmp_path / "a.npy").load_array(), x_NCT, rtol=1e-3, atol=1e-6)
        return
    with pytest.raises(HvfError, match="float16 cannot hold values as large or as small"):
        data.save(tmp_path / "a.npy", np.float16)
    assert not list(tmp_path.iterdir())
    data.save(tmp_path / "a.npy")


def test_endings_in_capitals(tmp_path):
    path = write(tmp_path / "a.npy")
    path = path.rename(tmp_path / "a.NPY")
    assert is_prepared(path)  # or its rows would be taken for the images' in their order
    assert Trials.load(path).image_ids.tolist() == TOLD["image_ids"]
