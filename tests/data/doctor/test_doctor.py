"""Each check of the doctor on a good case and on one with a fault planted, and whole folders with a fault in a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hvf.config import HvfError
from hvf.data.doctor import checks, reliability
from hvf.data.doctor import tables as examine_tables
from hvf.data.doctor.checks import NICE_CHANNELS, Finding
from hvf.data.doctor.examination import examine
from hvf.data.doctor.signals import signals
from hvf.data.images.image_set import ImageSet
from hvf.data.montages import EEG_CHANNELS
from hvf.data.trials.trials import Trials

POSTERIOR = ["P7", "P5", "P3", "P1", "Pz", "P2", "P4", "P6", "P8", "PO7", "PO3", "POz", "PO4", "PO8", "O1", "Oz", "O2"]


def worst(found) -> str:
    return next(s for s in checks.SEVERITIES if any(item.severity == s for item in found))


def only(found, severity: str, check: str, *words: str) -> Finding:
    """The one finding that is not ok, which must be this."""
    wrong = [item for item in found if item.severity != "ok"]
    assert [(item.severity, item.check) for item in wrong] == [(severity, check)], wrong
    assert all(word in wrong[0].message for word in words), wrong[0]
    return wrong[0]


def has(found, severity: str, check: str, *words: str) -> Finding:
    assert not [f for f in found if "looking at it failed" in f.message]
    hits = [f for f in found if (f.severity, f.check) == (severity, check) and all(w in f.message for w in words)]
    assert hits, "\n".join(map(str, found))
    assert hits[0].advice
    return hits[0]


# --- channels ---------------------------------------------------------------------------------------------------------


def test_names_in_the_published_orders_are_fine():
    for good in (EEG_CHANNELS, NICE_CHANNELS, POSTERIOR, ["my1", "my2"]):
        assert worst(checks.names(good, "x")) == "ok"
    assert worst(checks.names([*EEG_CHANNELS, "stim"], "x", published=[*EEG_CHANNELS, "stim"])) == "ok"
    assert set(NICE_CHANNELS) == set(EEG_CHANNELS)


def test_the_published_slip_oz_twice_and_no_poz():
    slip = ["Oz" if name == "POz" else name for name in POSTERIOR]
    only(checks.names(slip, "x"), "error", "channels", "Oz is named twice", "probably POz")
    slip = ["Cz" if name == "Pz" else name for name in EEG_CHANNELS]
    only(checks.names(slip, "x", published=EEG_CHANNELS), "error", "channels", "Cz is named twice", "probably Pz")


def test_names_in_another_order():
    swapped = list(EEG_CHANNELS)
    swapped[3], swapped[20] = swapped[20], swapped[3]
    only(checks.names(swapped, "x", published=EEG_CHANNELS), "error", "order", "channel 3 is CP6", "has FT9")
    only(checks.names(swapped, "x"), "warning", "order", "neither")
    only(checks.names(["", *POSTERIOR], "x"), "error", "channels", "no name")
    wrong = ["Po7" if name == "PO7" else name for name in EEG_CHANNELS]
    only(checks.names(wrong, "x", published=EEG_CHANNELS), "error", "channels", "lacks PO7", "did you mean 'PO7'")
    ctf = [f"ML{region}1{i}-1609" for region in "CFO" for i in range(1, 5)]
    assert worst(checks.names(ctf, "x")) == "ok"
    only(checks.names(ctf[::-1], "x"), "warning", "order", "CTF")


def test_montage():
    assert worst(checks.montage(POSTERIOR, "eeg", "x")) == "ok"
    assert worst(checks.montage(["MLC11-1609", "MZO02"], "meg", "x")) == "ok"
    assert worst(checks.montage(["MEG 0113"], "meg", "x")) == "ok"
    only(checks.montage(["Oz", "Ozz"], "eeg", "x"), "warning", "montage", "Ozz", "did you mean 'Oz'")
    only(checks.montage(["OZ", "Pz"], "eeg", "x"), "warning", "montage", "OZ is written Oz")
    only(checks.montage(["Oz", "HEOG"], "eeg", "x"), "warning", "montage", "HEOG is typed EEG")
    only(checks.montage(["A1x", "A2x"], "eeg", "x"), "warning", "montage", "2 of 2")
    assert worst(checks.montage(["A1x", "A2x"], "eeg", "x", located=True)) == "ok"
    only(checks.montage(["E1"], "meg", "x"), "warning", "montage", "CTF or Neuromag")


def test_sampling_rate():
    assert worst(checks.sampling_rate(1000, "x", published=(1000,))) == "ok"
    only(checks.sampling_rate(512, "x", published=(1000,)), "error", "sampling rate", "512 Hz where 1000 Hz")
    only(checks.sampling_rate(float("nan"), "x"), "error", "sampling rate")


def test_meg_sensors_typed_other():
    types = {"BG1-1609": "MEGREFMAG", "MLC11-1609": "MEGGRADAXIAL", "UPPT001": "TRIG"}
    assert worst(checks.sensor_types(types, "x")) == "ok"
    only(checks.sensor_types(types | {"MLC11-1609": "OTHER"}, "x"), "warning", "channels", "typed OTHER: MLC11")
    only(checks.sensor_types({"a": "MISC"}, "x"), "error", "channels", "no channel is typed")


# --- signals ----------------------------------------------------------------------------------------------------------


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 1e-5).astype(np.float32)


def scanned(x_Cn: np.ndarray, **other) -> list[Finding]:
    cut = x_Cn.shape[1] // 3
    names = [f"E{i}" for i in range(len(x_Cn))]
    return signals(lambda: (x_Cn[:, :cut], x_Cn[:, cut:]), names, "x", **other)


def test_good_signals():
    assert worst(scanned(noise(4, 3000), volts=True)) == "ok"
    sine = np.round(150 * np.sin(np.arange(3000) / 7)) * np.ones((2, 1))  # quantised: long at its extremes, not clipped
    assert worst(scanned(sine)) == "ok"
    assert worst(scanned(np.random.default_rng(0).integers(0, 2, (12, 3000)))) == "ok"  # two levels say nothing
    assert worst(scanned(noise(4, 3000).astype(np.float16) * 1000)) == "ok"


def test_nonfinite_flat_and_frozen():
    x = noise(4, 3000)
    x[1, 2500] = np.nan
    x[2, 100] = np.inf
    only(scanned(x), "error", "signal", "2 channels, E1, E2", "NaN")
    x = noise(4, 3000)
    x[3] = 2e-6
    only(scanned(x), "error", "signal", "channel E3: the same value")
    only(scanned(x, flat="warning"), "warning", "signal", "channel E3")
    x = noise(4, 3000)
    x[:, 1000:1500] = x[:, 1000:1001]
    only(scanned(x), "warning", "signal", "stand still")
    x = noise(4, 3000)
    x[0] = np.nan
    only(scanned(x), "error", "signal", "channel E0: NaN")
    only(scanned(noise(4, 0)), "error", "signal", "no samples")


def test_clipped_and_in_microvolts():
    x = noise(4, 3000)
    x[2] = np.clip(x[2], -2e-5, 2e-5)
    only(scanned(x), "warning", "signal", "channel E2: clipped")
    x[1] = np.minimum(x[1], 0.2e-5)
    has(scanned(x), "error", "signal", "2 channels, E1, E2: clipped")
    x = noise(4, 3000)
    x[3, 500:600] = 1e-3  # a rail far away
    only(scanned(x), "warning", "signal", "channel E3: clipped")
    only(scanned(noise(4, 3000) * 1e6, volts=True), "warning", "units", "volts")


# --- events and labels ------------------------------------------------------------------------------------------------


def test_codes():
    assert worst(checks.codes(np.array([1.0, 6.0, 3.0]), 6, "x")) == "ok"
    only(checks.codes(np.array([1.0, 7.0]), 6, "x"), "error", "events", "outside 1..6: 7")
    only(checks.codes(np.array([0.0, 5.0]), 6, "x"), "error", "events", "count from 0")
    only(checks.codes(np.array([1.0, 2.5]), 6, "x"), "error", "events", "no whole numbers")
    only(checks.codes(np.array([]), 6, "x"), "error", "events", "no event")


def test_counts():
    listed = range(1, 31)
    full = list(listed) * 4
    assert worst(checks.counts([*full, 3, 3, 7], listed, 4, "x")) == "ok"  # surplus is normal
    only(checks.counts([i for i in full if i != 9], listed, 4, "x"), "error", "events", "never shown: 9")
    only(checks.counts(full[:-1], listed, 4, "x"), "error", "events", "less than 4 times: 30")
    only(checks.counts(full[:60], listed, 4, "x"), "warning", "events", "was shown 2 times, where 4")
    has(checks.counts([i for i in full if i < 9], listed, 4, "x", complete=False), "warning", "events", "22 of 30")


def test_leaks_and_lists():
    assert worst(checks.leak(["a", "b"], ["c"], "x")) == "ok"
    only(checks.leak(["a", "b"], ["b", "c"], "x"), "error", "leak", "1 of 2 test concepts", "b")
    files = ["cat_01b.jpg", "cat_02s.jpg", "dog_01b.jpg"]
    held = [f"1_x/{name[:-4]}" for name in files]
    assert worst(checks.listed_as(files, held, "x", "the folder")) == "ok"
    only(checks.listed_as(files[::-1], held, "x", "the folder"), "error", "pairing", "number 1 is dog_01b")
    only(checks.listed_as(files, held[:2], "x", "the folder"), "error", "pairing", "lacks 1: dog_01b")
    only(checks.listed_as(files[:2], held, "x", "the folder"), "warning", "pairing", "not listed: dog_01b")


def pictures(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)


def test_a_test_image_that_is_a_training_image(tmp_path):
    def images(x, stem):
        return ImageSet.from_arrays(x, [f"{stem}{i}" for i in range(len(x))], [stem] * len(x))

    train, test = pictures(5), pictures(3, seed=1)
    assert worst(checks.contents(images(train, "train"), images(test, "test"), "x")) == "ok"
    test[1] = train[4]
    only(checks.contents(images(train, "train"), images(test, "test"), "x"), "error", "leak", "test1 is train4")
    Image.fromarray(train[2]).resize((100, 100)).save(tmp_path / "a.jpg", quality=60)  # smaller, compressed, renamed
    test[1] = np.asarray(Image.open(tmp_path / "a.jpg").resize((64, 64)))
    only(checks.contents(images(train, "train"), images(test, "test"), "x"), "error", "leak", "test1 is train2")


# --- repeats ----------------------------------------------------------------------------------------------------------


def responses(n_images: int = 40, n_repeats: int = 8, gain: float = 0.5, seed: int = 0):
    """Trials (N, C, B) in a shuffled order of images, and their images."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.repeat(np.arange(n_images), n_repeats))
    pattern = rng.standard_normal((n_images, 12, 6))
    return (gain * pattern[ids] + rng.standard_normal((len(ids), 12, 6))).astype(np.float32), ids


def test_repeats_that_are_repeats():
    x, ids = responses()
    (found,) = reliability.repeats(x, ids, "x")
    assert (found.severity, found.check) == ("ok", "repeats")
    assert "by chance" in found.message


@pytest.mark.parametrize("seed", range(3))
def test_repeats_that_are_not(seed):
    x, ids = responses(seed=seed)
    shuffled = np.random.default_rng(9).permutation(ids)
    only(reliability.repeats(x, shuffled, "x"), "warning", "repeats", "no better than chance")
    only(reliability.repeats(responses(gain=0, seed=seed)[0], ids, "x"), "warning", "repeats", "no better than chance")


def test_what_a_session_shares_is_not_taken_for_a_repeat():
    rng = np.random.default_rng(0)
    sessions = np.repeat([0, 1], 200)
    ids = np.concatenate([rng.permutation(np.repeat(np.arange(25) + 25 * s, 8)) for s in (0, 1)])
    x = noise(400, 12, 6) * 1e5 + np.array([-2, 2])[sessions, None, None] * np.arange(12)[:, None]
    assert worst(reliability.repeats(x, ids, "x", sessions_N=sessions)) == "warning"


@pytest.mark.parametrize("shift", [1, -1, 2])
def test_labels_shifted_along_the_recording(shift):
    x, ids = responses()
    finding = only(reliability.repeats(x, np.roll(ids, shift), "x"), "error", "pairing", f"shifted by {abs(shift)}")
    assert "lost or counted twice" in finding.advice


def test_repeats_that_are_copies_or_padding():
    x, ids = responses(gain=1.0)
    copies = x.copy()
    copies[5] = copies[6]
    only(reliability.repeats(copies, ids, "x"), "error", "repeats", "1 of 320 trials are exact copies")
    x[7] = 0
    only(reliability.repeats(x, ids, "x"), "error", "signal", "nothing but zeros")


def test_few_or_single_trials_are_not_judged():
    x, ids = responses(gain=0)
    assert worst(reliability.repeats(x[:20], ids[:20], "x")) == "ok"
    assert worst(reliability.repeats(x, np.arange(len(x)), "x")) == "ok"


# --- raw THINGS-EEG2 --------------------------------------------------------------------------------------------------


def eeg_root(root: Path, sessions: int = 2) -> Path:
    """Two sessions of 8 training and 4 test images as published, with responses that can be told from noise."""
    rng = np.random.default_rng(3)
    train = [f"{c}_{k:02d}b.jpg" for c in ("ant", "bee", "cow", "dog") for k in (1, 2)]
    test = [f"{c}_01b.jpg" for c in ("elk", "fox", "gnu", "hen")]
    numbered = {name.split("_")[0]: i + 1 for i, name in enumerate([*train[::2], *test])}
    told = {}
    for part, files in (("train", train), ("test", test)):
        told[f"{part}_img_files"] = files
        told[f"{part}_img_concepts"] = [f"{i // 2 + 1:05d}_{n.split('_')[0]}" for i, n in enumerate(files)]
        told[f"{part}_img_concepts_THINGS"] = [f"{numbered[n.split('_')[0]]:05d}_{n.split('_')[0]}" for n in files]
    root.mkdir()
    np.save(root / "image_metadata.npy", np.array(told, dtype=object))
    for part, files, repeats in (("training", train, 2), ("test", test, 5)):
        pattern = rng.standard_normal((len(files), 63, 1)) * 2e-5
        for session in range(1, sessions + 1):
            codes = rng.permutation(np.repeat(np.arange(1, len(files) + 1), repeats))
            x = np.concatenate(
                [noise(63, 1500 + 200 * len(codes), seed=session), np.zeros((1, 1500 + 200 * len(codes)))]
            )
            for i, code in enumerate(codes):
                onset = 300 + 200 * i
                x[-1, onset] = code
                x[:63, onset + 80 : onset + 230] += pattern[code - 1]
            x[-1, 300 + 200 * len(codes)] = 99999
            recording = {"raw_eeg_data": x, "ch_names": [*EEG_CHANNELS, "stim"], "ch_types": ["eeg"] * 63 + ["stim"],
                         "sfreq": 1000, "highpass": 0.01, "lowpass": 100}  # fmt: skip
            path = root / "raw_data" / "sub-01" / f"ses-{session:02d}" / f"raw_eeg_{part}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.array(recording, dtype=object))
    for part, files in (("training", train), ("test", test)):
        for i, (name, picture) in enumerate(zip(files, pictures(len(files), seed=len(files)), strict=True)):
            concept = name.split("_")[0]
            folder = f"{(i // 2 if part == 'training' else i) + 1:05d}_{concept}"
            path = root / "image_set" / f"{part}_images" / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    return root


@pytest.fixture(scope="module")
def good_root(tmp_path_factory):
    return eeg_root(tmp_path_factory.mktemp("eeg") / "root")


@pytest.fixture
def root(good_root, tmp_path):
    return Path(shutil.copytree(good_root, tmp_path / "root"))


def raw_path(root: Path, part: str = "training", session: int = 1) -> Path:
    return root / "raw_data" / "sub-01" / f"ses-{session:02d}" / f"raw_eeg_{part}.npy"


def change(path: Path, edit) -> None:
    told = np.load(path, allow_pickle=True).item()
    edit(told)
    np.save(path, np.array(told, dtype=object))


def test_a_good_raw_root(good_root):
    found = examine(good_root)
    assert worst(found) == "warning"  # a part of the study
    wrong = [item for item in found if item.severity == "warning"]
    assert {item.check for item in wrong} == {"file", "stimulus list", "events"}, wrong
    assert [item.severity for item in found] == sorted((f.severity for f in found), key=checks.SEVERITIES.index)
    for words in ("no test image", "no test concept", "in that order", "trials of one image correlate"):
        assert any(words in item.message for item in found), words


def test_a_raw_file_by_itself(good_root, root):
    assert worst(examine(raw_path(good_root))) != "error"
    change(raw_path(root), lambda told: told.update(sfreq=512))
    has(examine(raw_path(root)), "error", "sampling rate", "512 Hz")


def edit_data(told, what):
    x = told["raw_eeg_data"]
    if what == "nan":
        x[4, 700] = np.nan
    elif what == "flat":
        x[5] = 0
    elif what == "clipped":
        x[6] = np.clip(x[6], -3e-5, 3e-5)
    elif what == "microvolts":
        x[:63] *= 1e6
    elif what == "lost events":
        x[-1, np.flatnonzero(x[-1])[0]] = 0
    elif what == "cut":
        told["raw_eeg_data"] = x[:, : x.shape[1] // 2]
    elif what == "beyond":
        x[-1, np.flatnonzero(x[-1])[0]] = 77
    elif what == "halves":
        x[-1, np.flatnonzero(x[-1])[0]] = 2.5
    elif what == "no stim":
        told["ch_names"][-1] = "Fz"
    elif what == "two names":
        told["ch_names"] = ["Oz" if name == "POz" else name for name in told["ch_names"]]
    elif what == "reordered":
        told["ch_names"][0], told["ch_names"][9] = told["ch_names"][9], told["ch_names"][0]
    elif what == "one name less":
        del told["ch_names"][3]
    elif what == "no rate":
        del told["sfreq"]


@pytest.mark.parametrize(
    ("what", "check", "words"),
    [
        ("nan", "signal", "channel FC5: NaN"),
        ("flat", "signal", "channel FC1: the same value"),
        ("clipped", "signal", "channel C3: clipped"),
        ("microvolts", "units", "volts"),
        ("lost events", "events", "less often than the others' 2 times"),
        ("cut", "events", "before the end"),
        ("beyond", "events", "outside 1..8: 77"),
        ("halves", "events", "no whole numbers, such as 2.5"),
        ("no stim", "channels", "lacks stim"),
        ("two names", "channels", "probably POz"),
        ("reordered", "order", "channel 0 is CP5"),
        ("one name less", "channels", "63 channel names do not fit"),
        ("no rate", "file", "no sfreq"),
    ],
)
def test_faults_in_a_raw_file(root, what, check, words):
    change(raw_path(root), lambda told: edit_data(told, what))
    found = has(examine(root), "warning" if what in ("clipped", "microvolts") else "error", check, words)
    assert "ses-01/raw_eeg_training.npy" in found.where


def test_a_file_that_is_missing_truncated_hostile_or_copied(root):
    whole = raw_path(root).read_bytes()
    raw_path(root).unlink()
    has(examine(root), "error", "file", "missing")
    raw_path(root).write_bytes(whole[: len(whole) // 2])
    has(examine(root), "error", "file", "raw_eeg_training.npy")
    raw_path(root).write_bytes(b"\x80\x04cos\nsystem\n(S'touch /tmp/never'\ntR.")
    has(examine(root), "error", "file", "raw_eeg_training.npy")
    raw_path(root).write_bytes(raw_path(root, session=2).read_bytes())
    has(examine(root), "error", "events", "same events in the same order as sub-01/ses-01")


def test_swapped_partitions_and_shifted_triggers(root):
    a, b = raw_path(root).read_bytes(), raw_path(root, "test").read_bytes()
    raw_path(root).write_bytes(b)
    raw_path(root, "test").write_bytes(a)
    has(examine(root), "error", "events", "outside 1..4")
    raw_path(root).write_bytes(a)
    raw_path(root, "test").write_bytes(b)

    def lose_the_first(told):
        stim = told["raw_eeg_data"][-1]
        at = np.flatnonzero(stim)
        stim[at[:-1]] = stim[at[1:]]  # each event got the code of the next
        stim[at[-1]] = 0

    for session in (1, 2):
        change(raw_path(root, "test", session), lose_the_first)
    has(examine(root), "error", "pairing", "shifted by 1")


@pytest.mark.parametrize(
    ("edit", "check", "words"),
    [
        (
            lambda d: d["train_img_files"].insert(0, d["train_img_files"].pop()),
            "stimulus list",
            "another concept than their name says",
        ),
        (lambda d: d["train_img_files"].__setitem__(0, "ant_02b.jpg"), "stimulus list", "listed twice"),
        (lambda d: [d[k].reverse() for k in d if k.startswith("train")], "stimulus list", "not sorted"),
        (lambda d: d["train_img_files"].pop(), "stimulus list", "7 training images have 8 concepts"),
        (lambda d: d.pop("test_img_files"), "stimulus list", "not the stimulus list"),
        (lambda d: d["test_img_concepts_THINGS"].__setitem__(0, "00001_ant"), "leak", "1 of 4 test concepts"),
    ],
)
def test_faults_in_the_stimulus_list(root, edit, check, words):
    change(root / "image_metadata.npy", edit)
    has(examine(root), "error", check, words)


def test_faults_in_the_images(root):
    train, test = (root / "image_set" / f"{part}_images" for part in ("training", "test"))
    (train / "00002_bee" / "bee_01b.jpg").rename(train / "00002_bee" / "bee_09b.jpg")
    has(examine(root), "error", "pairing", "lacks 1: bee_01b")
    shutil.copy(train / "00001_ant" / "ant_01b.jpg", test / "00001_elk" / "elk_01b.jpg")
    has(examine(root), "error", "leak", "elk_01b is 00001_ant/ant_01b")
    (test / "00002_fox" / "fox_01b.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    has(examine(root), "error", "images", "fox_01b.jpg")
    (root / "image_metadata.npy").unlink()
    has(examine(root), "warning", "stimulus list", "missing")


# --- prepared files ---------------------------------------------------------------------------------------------------


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
    x, ids = good.x_NCT.copy(), good.image_ids.copy()
    x[3, 2] = np.nan
    has(examine(store(path, x_NCT=x)), "error", "signal", "channel P3: NaN")
    x = good.x_NCT.copy()
    x[:, 5] = 0
    has(examine(store(path, x_NCT=x)), "error", "signal", "channel P2: the same value")
    has(examine(store(path, image_ids=np.random.default_rng(0).permutation(ids))), "warning", "repeats", "chance")
    has(examine(store(path, splits=np.roll(good.splits, 1))), "error", "leak", "test concepts are in training")
    slip = ["Oz" if name == "POz" else name for name in POSTERIOR]
    has(examine(store(path, ch_names=slip)), "error", "channels", "probably POz")
    rows = np.flatnonzero(np.arange(len(ids)) != 6)
    rest = {"image_ids": ids[rows], "concepts": good.concepts[rows], "splits": good.splits[rows]}
    has(
        examine(store(path, x_NCT=good.x_NCT[rows], **rest)),
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
    has(examine(path), "error", "file", "nothing that hvf knows")


def test_stores_side_by_side(tmp_path):
    store(tmp_path / "sub-01_trials.npy")
    for suffix in (".npy", ".json"):
        shutil.copy(tmp_path / f"sub-01_trials{suffix}", tmp_path / f"sub-02_trials{suffix}")
    has(examine(tmp_path), "error", "file", "the same data as sub-01_trials.npy")
    store(
        tmp_path / "sub-02_trials.npy",
        x_NCT=Trials.load(tmp_path / "sub-01_trials.npy").x_NCT[:, ::-1] * 2,
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
        told = {"eeg": rng.standard_normal((n, 4, 63, 50)).astype(np.float16), "ch_names": list(NICE_CHANNELS),
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
        (lambda d: (swap(d, "img"), swap(d, "text")), "pairing", "not in the order of the event codes"),
        (lambda d: d["img"].__setitem__((0, 2), d["img"][1, 0]), "pairing", "repeats that name another image"),
        (lambda d: d["img"].__setitem__(0, d["img"][1]), "pairing", "several rows"),
        (lambda d: d.update(img=np.char.replace(d["img"], "train_", "test_")), "pairing", "not of the training set"),
        (lambda d: d["ch_names"].pop(), "channels", "63 channels of data have 62 names"),
        (lambda d: d["ch_names"].__setitem__(-6, "Oz"), "channels", "POz"),
        (lambda d: d.update(times=d["times"][:-9]), "sampling rate", "91 times for 50 samples"),
        (lambda d: d.update(times=d["times"] * 2), "sampling rate", "125 Hz"),
        (lambda d: d["eeg"].__setitem__((0, 0, 7), np.inf), "signal", "F7: NaN"),
        (lambda d: d["eeg"].__setitem__((0, 1), d["eeg"][0, 0]), "repeats", "exact copies"),
        (lambda d: d.update(eeg=d["eeg"][0]), "file", "no array"),
        (lambda d: d.update(img=np.char.replace(d["img"], "ant", "elk"), text=np.char.replace(d["text"], "ant", "elk")),
         "leak", "elk"),
    ],
)  # fmt: skip
def test_faults_in_what_others_prepared(tmp_path, edit, check, words):
    has(examine(peers(tmp_path / "sub-01", edit)), "error", check, words)


def test_what_others_prepared(tmp_path):
    found = examine(peers(tmp_path / "sub-01"))
    assert {(item.severity, item.check) for item in found if item.severity != "ok"} == {("warning", "events")}, found
    whole = (tmp_path / "sub-01" / "train.pt").read_bytes()
    (tmp_path / "sub-01" / "train.pt").write_bytes(whole[:-5000])
    has(examine(tmp_path), "error", "file", "train.pt")


# --- what MNE reads, and tables ---------------------------------------------------------------------------------------


def recording(path: Path, edit=None, types="eeg") -> Path:
    x = noise(17, 4000)
    if edit is not None:
        edit(x)
    raw = mne.io.RawArray(x, mne.create_info(POSTERIOR, 200.0, types), verbose="error")
    raw.set_annotations(mne.Annotations([1.0, 5.0], [0.1, 0.1], ["cat_01b", "dog_01b"]))
    raw.save(path, verbose="error")
    return path


def test_a_recording(tmp_path):
    path = recording(tmp_path / "my_raw.fif")
    assert worst(examine(path)) == "ok"
    assert worst(examine(tmp_path)) == "ok"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    has(examine(path), "error", "file", "truncated")

    def spoil(x):
        x[2], x[4, 5], x[6] = 0, np.nan, np.clip(x[6], -1e-5, 1e-5)

    found = examine(recording(tmp_path / "bad_raw.fif", spoil))
    has(found, "warning", "signal", "P3: the same value")
    has(found, "error", "signal", "Pz: NaN")
    has(found, "error", "signal", "P4: clipped")
    has(examine(recording(tmp_path / "misc_raw.fif", types="misc")), "error", "channels", "no channel is typed")


def meg_epochs(folder: Path, edit=None) -> Path:
    """A miniature of THINGS-MEG: 3 training and 2 test images, 3 sessions, its metadata and sample_attributes."""
    shown = [("exp", 5, 1, "ant_05s"), ("exp", 18, 2, "bee_03s"), ("exp", 30, 3, "cow_02s"),
             ("test", 70, 6, "elk_13n"), ("test", 90, 8, "fox_13n"),
             ("catch", np.nan, np.nan, "catch_001")]  # fmt: skip
    rows = []
    for session in (1, 2, 3):
        rows += [(row[0], session, *row[1:]) for row in shown if row[0] != "exp" or row[2] == session]
    table = pd.DataFrame(
        {
            "trial_type": [r[0] for r in rows],
            "session_nr": [r[1] for r in rows],
            "things_image_nr": [r[2] for r in rows],
            "things_category_nr": [r[3] for r in rows],
            "image_path": [f"images_meg/{r[4].split('_')[0]}/{r[4]}.jpg" for r in rows],
        }
    )
    codes = table["things_image_nr"].fillna(999999).to_numpy(int)
    folder = folder / "derivatives" / "preprocessed"
    folder.mkdir(parents=True)
    (folder.parent.parent / "sourcedata").mkdir()
    table.to_csv(folder.parent.parent / "sourcedata" / "sample_attributes_P1.csv", index=False)
    if edit is not None:
        table = edit(table)
    names = [f"ML{region}1{i}-1609" for region in "CFO" for i in range(1, 5)]
    info = mne.create_info(names, 200.0, "mag")
    x = np.random.default_rng(0).standard_normal((len(codes), 12, 60))
    events = np.stack([np.arange(len(codes)), 0 * codes, codes], 1)
    epochs = mne.EpochsArray(x, info, events, tmin=-0.1, metadata=table, verbose="error")
    epochs.save(folder / "preprocessed_P1-epo.fif", verbose="error")
    return folder.parent.parent


def test_things_meg_epochs(tmp_path):
    root = meg_epochs(tmp_path / "good")
    found = examine(root)
    assert worst(found) == "warning", found
    assert {item.check for item in found if item.severity == "warning"} <= {"channels", "events", "montage"}, found
    csv = root / "sourcedata" / "sample_attributes_P1.csv"
    lines = csv.read_text().splitlines(keepends=True)
    csv.write_text("".join(lines[:-2]))
    has(examine(root), "error", "pairing", "rows for")
    csv.write_text("".join([lines[0], lines[2], lines[1], *lines[3:]]))
    has(examine(root), "error", "pairing", "row 0 has things_image_nr")
    path = root / "derivatives" / "preprocessed" / "preprocessed_P1-epo.fif"
    path.write_bytes(path.read_bytes()[:-5000])
    has(examine(root), "error", "file", "truncated")


@pytest.mark.parametrize(
    ("edit", "check", "words"),
    [
        (lambda t: t.iloc[::-1].reset_index(drop=True), "pairing", "another event code"),
        (lambda t: t.assign(things_category_nr=t["things_category_nr"] % 7), "pairing", "cannot be of concept"),
        (lambda t: t.assign(things_image_nr=t["things_image_nr"] + 30_000), "events", "outside 1..26107"),
        (lambda t: t.assign(trial_type=t["trial_type"].replace("exp", "train")), "events", "train"),
    ],
)
def test_mislabelled_meg_epochs(tmp_path, edit, check, words):
    has(examine(meg_epochs(tmp_path / "bad", edit)), "error", check, words)


def test_your_own_epochs(good_root, tmp_path):
    rng = np.random.default_rng(0)
    ids = np.array(["ant_01b", "bee_01b", "cow_02b", "dog_01b"] * 40)
    pattern = rng.standard_normal((4, 17, 40))
    x = 1e-5 * (0.5 * pattern[np.arange(len(ids)) % 4] + rng.standard_normal((len(ids), 17, 40)))
    order = rng.permutation(len(ids))
    info = mne.create_info(POSTERIOR, 100.0, "eeg")
    table = pd.DataFrame({"image": ids[order]})
    path = tmp_path / "my-epo.fif"
    mne.EpochsArray(x[order], info, metadata=table, verbose="error").save(path, verbose="error")
    images = good_root / "image_set" / "training_images"
    assert worst(examine(path, images)) == "ok"
    table = pd.DataFrame({"image": np.roll(ids[order], 1)})
    mne.EpochsArray(x[order], info, metadata=table, verbose="error").save(path, overwrite=True, verbose="error")
    has(examine(path, images), "error", "pairing", "shifted by 1")
    table = pd.DataFrame({"image": np.char.replace(ids[order], "ant", "eel")})
    mne.EpochsArray(x[order], info, metadata=table, verbose="error").save(path, overwrite=True, verbose="error")
    has(examine(path, images), "error", "pairing", "eel_01b")
    mne.EpochsArray(x, info, verbose="error").save(path, overwrite=True, verbose="error")
    has(examine(path), "warning", "pairing", 'no column "image"')


def bids_run(folder: Path, edit=None) -> Path:
    folder.mkdir(parents=True)
    table = pd.DataFrame({"onset": [1.0, 2.5, 4.0], "duration": 0.5, "trial_type": ["exp", "test", "catch"],
                          "things_category_nr": [3, 9, np.nan], "value": [40, 120, np.nan],
                          "sample": [1200, 3000, 4800]})  # fmt: skip
    if edit is not None:
        table = edit(table)
    table.to_csv(folder / "sub-1_run-01_events.tsv", sep="\t", index=False, na_rep="n/a")
    told = {"RecordingDuration": 6.0, "SamplingFrequency": 1200.0}
    (folder / "sub-1_run-01_meg.json").write_text(json.dumps(told))
    return folder / "sub-1_run-01_events.tsv"


@pytest.mark.parametrize(
    ("edit", "check", "words"),
    [
        (lambda t: t.assign(onset=t["onset"][::-1].to_numpy()), "events", "do not rise"),
        (lambda t: t.assign(onset=t["onset"] + 3), "events", "after the end of the recording"),
        (lambda t: t.assign(onset=t["onset"] * 1000), "events", "cannot be seconds"),
        (lambda t: t.assign(sample=t["sample"] + 5), "events", "are not onset x 1200 Hz"),
        (lambda t: t.assign(onset=["1.0", "2.5", "4.0x"]), "events", "no numbers"),
        (lambda t: t.drop(columns="onset"), "events", "no column `onset`"),
        (lambda t: t.iloc[:0], "events", "no event"),
        (lambda t: t.assign(value=[120, 40, np.nan]), "pairing", "cannot be of concept"),
    ],
)
def test_faults_in_a_table_of_events(tmp_path, edit, check, words):
    assert worst(examine(bids_run(tmp_path / "good"))) == "ok"
    has(examine(bids_run(tmp_path / "bad", edit)), "error", check, words)


def test_a_bids_folder_without_recordings(tmp_path):
    bids_run(tmp_path / "sub-1" / "ses-01" / "meg")
    types = pd.DataFrame({"name": ["MLC11-1609", "MLC12-1609"], "type": ["OTHER", "OTHER"]})
    types.to_csv(tmp_path / "sub-1" / "ses-01" / "meg" / "sub-1_run-01_channels.tsv", sep="\t", index=False)
    found = examine(tmp_path)
    has(found, "warning", "file", "no recording beside them")
    has(found, "warning", "channels", "2 MEG sensors are typed OTHER")
    has(found, "warning", "events", "1 of 10 runs")
    assert worst(found) == "warning"


def test_a_session_of_things_meg():
    full = pd.DataFrame({"trial_type": ["exp"] * 1854 + ["test"] * 200 + ["catch"] * 200})
    parts = np.array_split(np.arange(len(full)), 10)
    runs = [full.iloc[rows] for rows in parts]
    assert examine_tables.examine_session(runs, "x").severity == "ok"
    assert examine_tables.examine_session(runs[:9], "x").severity == "warning"
    cut = examine_tables.examine_session([*runs[:9], runs[9][:-3]], "x")
    assert cut.severity == "error"
    assert "197 of 200 catch" in cut.message


# --- anything else ----------------------------------------------------------------------------------------------------


def test_what_is_not_recognised_and_not_there(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for path in (tmp_path, tmp_path / "notes.txt"):
        finding = only(examine(path), "error", "file", "THINGS-EEG2", "BIDS", "-epo.fif")
        assert finding.advice
    (tmp_path / "a.fdt").write_bytes(b"0")
    assert "the .set" in only(examine(tmp_path / "a.fdt"), "error", "file").advice
    with pytest.raises(HvfError, match="no file or folder"):
        examine(tmp_path / "absent")
    with pytest.raises(HvfError, match="no file or folder"):
        examine(tmp_path, tmp_path / "absent")
