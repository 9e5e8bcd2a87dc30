"""The doctor on trials that are prepared, by hvf and by others."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from hvf.data.doctor.examination import examine
from hvf.data.montages import FRONT_TO_BACK
from hvf.data.trials.trials import Trials
from tests.data.doctor.findings import POSTERIOR, has, worst


def store(path: Path, **other) -> Path:
    rng = np.random.default_rng(1)
    ids = np.array([f"{c}_{k:02d}b" for c in ("ant", "bee", "cow", "dog") for k in (1, 2)] * 30)
    pattern = {name: rng.standard_normal((17, 25)) for name in sorted(set(ids))}
    x = np.stack([pattern[name] for name in ids]) * 0.5 + rng.standard_normal((len(ids), 17, 25))
    concepts = np.array([name.split("_")[0] for name in ids])
    splits = np.where(concepts == "dog", "test", "train")
    values = {"x_NCT": x.astype(np.float32), "image_ids": ids, "subject": "sub-01", "sfreq": 50.0, "tmin": 0.0,
              "ch_names": POSTERIOR, "kind": "eeg", "concepts": concepts, "splits": splits}  # fmt: skip
    Trials(**(values | other)).save(path)
    return path


def test_a_good_store(tmp_path):
    found = examine(store(tmp_path / "sub-01_trials.npy"))
    assert worst(found) == "ok", found
    assert any("trials of one image correlate" in item.message for item in found)


def test_faults_in_a_store(tmp_path):
    path = store(tmp_path / "sub-01_trials.npy")
    good = Trials.load(path)
    x, ids = good.load_array().copy(), good.image_ids.copy()
    x[3, 2] = np.nan
    has(examine(store(path, x_NCT=x)), "error", "signal", "channel P3: NaN")
    x = good.load_array().copy()
    x[:, 5] = 0
    has(examine(store(path, x_NCT=x)), "error", "signal", "channel P2: the same value")
    has(examine(store(path, image_ids=np.random.default_rng(0).permutation(ids))), "warning", "repeats", "chance")
    has(examine(store(path, splits=np.roll(good.splits, 1))), "error", "leak", "test concepts are in training")
    slip = ["Oz" if name == "POz" else name for name in POSTERIOR]
    has(examine(store(path, ch_names=slip)), "error", "channels", "probably POz")
    rows = np.flatnonzero(np.arange(len(ids)) != 6)
    rest = {"image_ids": ids[rows], "concepts": good.concepts[rows], "splits": good.splits[rows]}
    has(
        examine(store(path, x_NCT=good.load_array()[rows], **rest)),
        "warning",
        "events",
        "1 of 2 images have fewer trials than the others' 30",
    )


def test_a_store_and_its_sidecar(tmp_path):
    path = store(tmp_path / "sub-01_trials.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    has(examine(path), "error", "sidecar", "sub-01_trials.npy")
    path.write_bytes(whole[:-8] + b"\1" * 8)
    has(examine(path), "error", "sidecar", "sha256 differs")
    path.write_bytes(whole)
    path.with_suffix(".json").unlink()
    has(examine(path), "warning", "sidecar", "sub-01_trials.json is not beside it")


def test_stores_side_by_side(tmp_path):
    store(tmp_path / "sub-01_trials.npy")
    for suffix in (".npy", ".json"):
        shutil.copy(tmp_path / f"sub-01_trials{suffix}", tmp_path / f"sub-02_trials{suffix}")
    has(examine(tmp_path), "error", "file", "the same data as sub-01_trials.npy")
    store(
        tmp_path / "sub-02_trials.npy",
        x_NCT=Trials.load(tmp_path / "sub-01_trials.npy").load_array()[:, ::-1] * 2,
        sfreq=100.0,
    )
    found = examine(tmp_path)
    has(found, "warning", "channels", "differ")
    assert worst(found) == "warning"


def test_a_store_held_to_its_images(good_root, tmp_path):
    path = store(tmp_path / "sub-01_trials.npy")
    images = good_root / "image_set" / "training_images"
    found = examine(path, images)
    assert worst(found) == "ok", found
    assert any("at hand" in item.message for item in found)
    ids = Trials.load(path).image_ids
    has(
        examine(store(path, image_ids=np.char.replace(ids, "dog_02b", "eel_01b")), images),
        "error",
        "pairing",
        "eel_01b",
    )
    swapped = np.char.replace(np.char.replace(np.char.replace(ids, "ant", "xxx"), "bee", "ant"), "xxx", "bee")
    has(examine(store(path, image_ids=swapped), images), "error", "pairing", "another concept")
    copy = Path(shutil.copytree(images, tmp_path / "images"))
    shutil.copy(copy / "00001_ant" / "ant_01b.jpg", copy / "00004_dog" / "dog_02b.jpg")
    has(examine(store(path), copy), "error", "leak", "dog_02b is 00001_ant/ant_01b")


def peers(folder: Path, edit=None) -> Path:
    """UBP's pair of files, as plain pickles of arrays."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for part, concepts in (("train", ["00001_ant", "00002_bee"]), ("test", ["00001_elk"])):
        names = [f"{part}_images/{c}/{c[6:]}_{k:02d}b.jpg" for c in concepts for k in (1, 2, 3)]
        n = len(names)
        told = {"eeg": rng.standard_normal((n, 4, 63, 50)).astype(np.float16), "ch_names": list(FRONT_TO_BACK),
                "img": np.repeat(np.array(names)[:, None], 4, 1), "times": np.arange(-50, 50) / 250,
                "text": np.repeat(np.array([name.split("/")[1][6:] for name in names])[:, None], 4, 1),
                "session": np.zeros((n, 4))}  # fmt: skip
        if edit and part == "train":
            edit(told)
        with open(folder / f"{part}.pt", "wb") as file:
            np.save(file, np.array(told, dtype=object))
    return folder


def swap(told, key):
    told[key] = told[key][::-1].copy()


@pytest.mark.parametrize(
    ("edit", "check", "words"),
    [
        (lambda d: swap(d, "img"), "pairing", "do not belong to the concept"),
        (lambda d: d["img"].__setitem__(0, d["img"][1]), "pairing", "several rows"),
        (lambda d: d.update(img=np.char.replace(d["img"], "train_", "test_")), "pairing", "not of the training set"),
        (lambda d: d["ch_names"].pop(), "channels", "63 channels of data have 62 names"),
        (lambda d: d["ch_names"].__setitem__(-6, "Oz"), "channels", "POz"),
        (lambda d: d.update(times=d["times"][:-9]), "sampling rate", "91 times for 50 samples"),
        (lambda d: d.update(times=d["times"] * 2), "sampling rate", "125 Hz"),
        (lambda d: d["eeg"].__setitem__((0, 0, -2), np.inf), "signal", "Oz: NaN"),
        (lambda d: d["eeg"].__setitem__((0, 1), d["eeg"][0, 0]), "repeats", "exact copies"),
        (lambda d: d.update(eeg=d["eeg"][0]), "file", "no array"),
        (lambda d: d.update(img=np.char.replace(d["img"], "ant", "elk"), text=np.char.replace(d["text"], "ant", "elk")),
         "leak", "elk"),
    ],
)  # fmt: skip
def test_faults_in_what_others_prepared(tmp_path, edit, check, words):
    has(examine(peers(tmp_path / "sub-01", edit)), "error", check, words)


def test_repeats_of_two_images_in_one_row(tmp_path):
    """UBP's files name the image of each trial, by which `prepare` goes."""
    mixed = peers(tmp_path / "sub-01", lambda d: d["img"].__setitem__((0, 2), d["img"][1, 0]))
    has(examine(mixed), "warning", "pairing", "repeats that name another image")


def test_what_prepare_takes_of_others_is_no_error(tmp_path):
    """Names count, not the order of the rows; the recipe hvf reads the posterior channels alone."""
    reordered = peers(tmp_path / "sub-01", lambda d: (swap(d, "img"), swap(d, "text")))
    has(examine(reordered), "warning", "pairing", "not in the order of the event codes")
    frontal = peers(tmp_path / "sub-02", lambda d: d["eeg"].__setitem__((0, 0, 7), np.inf))
    has(examine(frontal), "warning", "signal", "F7: NaN")
    has(examine(frontal, recipe="ubp"), "error", "signal", "F7: NaN")


def test_what_others_prepared(tmp_path):
    found = examine(peers(tmp_path / "sub-01"))
    assert {(item.severity, item.check) for item in found if item.severity != "ok"} == {("warning", "events")}, found
    whole = (tmp_path / "sub-01" / "train.pt").read_bytes()
    (tmp_path / "sub-01" / "train.pt").write_bytes(whole[:-5000])
    has(examine(tmp_path), "error", "file", "train.pt")
