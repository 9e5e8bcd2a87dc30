"""The doctor on what MNE reads, on tables of events, and on what it does not know."""

from __future__ import annotations

import json
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest

from hvf.config import HvfError
from hvf.data.doctor import tables as examine_tables
from hvf.data.doctor.examination import examine
from tests.data.doctor.findings import POSTERIOR, has, only, recording, worst


def test_a_recording(tmp_path):
    path = recording(tmp_path / "my_raw.fif")
    only(examine(path), "error", "prepare", "which images were shown when?", "--events", "--images")
    only(examine(tmp_path), "warning", "prepare", "which images were shown when?")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    has(examine(path), "error", "file", "truncated")

    def spoil(x):
        x[2], x[4, 5], x[6] = 0, np.nan, np.clip(x[6], -1e-5, 1e-5)

    found = examine(recording(tmp_path / "bad_raw.fif", spoil))
    has(found, "error", "signal", "P3: the same value")
    has(found, "error", "signal", "Pz: NaN")
    has(found, "warning", "signal", "P4: clipped")
    others = ",".join(name for name in POSTERIOR if name not in ("P3", "Pz"))
    found = examine(tmp_path / "bad_raw.fif", picks=others)
    has(found, "warning", "signal", "P3: the same value")
    has(found, "warning", "signal", "Pz: NaN")
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
    x = np.random.default_rng(0).standard_normal((len(codes), 12, 281))
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
    has(examine(path, images), "error", "train", "eel_01b")
    mne.EpochsArray(x, info, verbose="error").save(path, overwrite=True, verbose="error")
    has(examine(path), "error", "prepare", "which images were shown")
    has(examine(tmp_path), "warning", "prepare", "which images were shown")


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
    has(found, "error", "prepare", "holds no EEG or MEG recordings, only tables")


def test_a_session_of_things_meg():
    full = pd.DataFrame({"trial_type": ["exp"] * 1854 + ["test"] * 200 + ["catch"] * 200})
    parts = np.array_split(np.arange(len(full)), 10)
    runs = [full.iloc[rows] for rows in parts]
    assert examine_tables.examine_session(runs, "x").severity == "ok"
    assert examine_tables.examine_session(runs[:9], "x").severity == "warning"
    cut = examine_tables.examine_session([*runs[:9], runs[9][:-3]], "x")
    assert cut.severity == "error"
    assert "197 of 200 catch" in cut.message


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
