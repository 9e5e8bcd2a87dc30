"""The doctor on raw files of THINGS-EEG2: every fault that is put into a good root is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from hvf.data.doctor import checks
from hvf.data.doctor.examination import examine
from tests.data.doctor.findings import has, worst


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
    found = has(examine(root), "warning" if what in ("clipped", "microvolts", "reordered") else "error", check, words)
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
