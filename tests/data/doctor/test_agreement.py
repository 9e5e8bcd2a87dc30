"""Doctor and `hvf data prepare` agree: copies, leftovers, tables beside recordings; false alarms that are none."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hvf.config import HvfError
from hvf.data.doctor import checks
from hvf.data.doctor.examination import examine
from hvf.data.recordings.prepare import prepare_bids
from hvf.data.trials.trials import Trials
from tests.data.doctor.findings import POSTERIOR, has, noise, recording

SFREQ, SHOWN = 200.0, 10


def bids(root: Path, sessions: tuple[str, ...] = ("01",)) -> Path:
    """A data set whose recordings differ, 10 images in each."""
    root.mkdir()
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    for number, session in enumerate(sessions):
        base = root / "sub-01" / f"ses-{session}" / "meg" / f"sub-01_ses-{session}_task-img"
        base.parent.mkdir(parents=True)
        info = mne.create_info([f"MEG{i:02d}11" for i in range(1, 5)], SFREQ, "mag")
        x_CN = np.random.default_rng(number).normal(size=(4, round(SFREQ * (SHOWN + 36)))) * 1e-13
        mne.io.RawArray(x_CN, info, verbose="error").save(f"{base}_meg.fif", verbose="error")
        table = pd.DataFrame({"onset": 1.0 + np.arange(SHOWN), "duration": 0.5})
        table["stim_file"] = [f"img{i:02d}.png" for i in range(SHOWN)]
        table.to_csv(f"{base}_events.tsv", sep="\t", index=False)
        types = pd.DataFrame({"name": info["ch_names"], "type": "MEGMAG", "units": "T"})
        types.to_csv(f"{base}_channels.tsv", sep="\t", index=False)
        Path(f"{base}_meg.json").write_text(f'{{"TaskName": "img", "SamplingFrequency": {SFREQ:g}}}')
    return root


def base_of(root: Path, session: str = "01") -> Path:
    return root / "sub-01" / f"ses-{session}" / "meg" / f"sub-01_ses-{session}_task-img"


def table_edited(root: Path, edit) -> None:
    path = Path(f"{base_of(root)}_events.tsv")
    edit(pd.read_csv(path, sep="\t")).to_csv(path, sep="\t", index=False)


def spoil_values(root: Path, value: float) -> None:
    path = f"{base_of(root)}_meg.fif"
    raw = mne.io.read_raw(path, preload=True, verbose="error")
    raw._data[1] = value
    raw.save(path, overwrite=True, verbose="error")


def leave_apple_doubles(root: Path) -> None:
    for path in [p for p in root.rglob("*") if p.is_file()]:
        (path.parent / f"._{path.name}").write_bytes(bytes.fromhex("0005160700020000") + b"Mac OS X" + bytes(4000))


EDITS = {
    "as it is": lambda root: None,
    "leftovers of macOS": leave_apple_doubles,
    "rows in another order": lambda root: table_edited(root, lambda t: t.iloc[::-1]),
    "events beyond the end": lambda root: table_edited(root, lambda t: t.assign(onset=t["onset"] + 40)),
    "an onset that is no number": lambda root: table_edited(root, lambda t: t.assign(onset=["1s", *t["onset"][1:]])),
    "no column of images": lambda root: table_edited(root, lambda t: t.drop(columns="stim_file")),
    "a copied session": lambda root: shutil.copy(f"{base_of(root)}_meg.fif", f"{base_of(root, '02')}_meg.fif"),
    "no tables of events": lambda root: [p.unlink() for p in root.rglob("*_events.tsv")],
    "endings in capitals": lambda root: [p.rename(p.with_suffix(".FIF")) for p in root.rglob("*_meg.fif")],
    "a flat channel": lambda root: spoil_values(root, 0.0),
    "NaN": lambda root: spoil_values(root, np.nan),
    "a recording cut off": lambda root: Path(f"{base_of(root)}_meg.fif").write_bytes(
        Path(f"{base_of(root)}_meg.fif").read_bytes()[:20000]
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_doctor_and_prepare_agree_on_a_bids_data_set(tmp_path, name):
    root = bids(tmp_path / "ds", ("01", "02"))
    EDITS[name](root)
    errors = [item.message for item in examine(root) if item.severity == "error"]
    refusal = None
    try:
        (path,) = prepare_bids(root, tmp_path / "out")
    except HvfError as error:
        refusal = str(error)
    if refusal is None:
        assert len(Trials.load(path)) == 2 * SHOWN
        assert errors == []
    assert refusal is None or refusal in errors, (refusal, errors)


def test_copies_are_known_by_their_content(tmp_path):
    recording(tmp_path / "a_raw.fif")
    assert not [item for item in examine(tmp_path) if "copy" in item.message]
    shutil.copy(tmp_path / "a_raw.fif", tmp_path / "of_tuesday_raw.fif")
    has(examine(tmp_path), "warning", "file", "copy of a_raw.fif")


def test_a_table_beside_the_recording(tmp_path):
    x_CN = noise(len(POSTERIOR), 8000)
    path = tmp_path / "my_raw.fif"
    mne.io.RawArray(x_CN, mne.create_info(POSTERIOR, 200.0, "eeg"), verbose="error").save(path, verbose="error")
    has(examine(path), "warning", "events", "it holds no events")
    table = pd.DataFrame({"onset": 1.0 + np.arange(30), "image": [f"img{i % 10}.png" for i in range(30)]})
    table.to_csv(tmp_path / "my_events.tsv", sep="\t", index=False)
    found = examine(path)
    assert not [item for item in found if item.severity == "error" or "no events" in item.message]
    assert any("30 trials of 10 images" in item.message for item in found)
    table.drop(columns="image").to_csv(tmp_path / "other.csv", index=False)
    has(examine(path, events=tmp_path / "other.csv"), "error", "prepare", "no column that names the images")


def test_an_ending_in_capitals_is_named(tmp_path):
    root = bids(tmp_path / "ds")
    EDITS["endings in capitals"](root)
    with pytest.raises(HvfError, match=r"_meg\.FIF is in capitals, which BIDS does not know"):
        prepare_bids(root, tmp_path / "out")


def test_epochs_of_any_name_are_known_by_their_content(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(12):
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / "images" / f"img{i:02d}.png")
    info = mne.create_info(["O1", "Oz", "O2"], 100.0, "eeg")
    metadata = pd.DataFrame({"image": [f"img{i:02d}.png" for i in range(12)]})
    x_NCT = 1e-5 * np.random.default_rng(0).normal(size=(12, 3, 50))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MNE would like another name
        mne.EpochsArray(x_NCT, info, metadata=metadata, verbose="error").save(tmp_path / "sub-01.fif", verbose="error")
    found = examine(tmp_path / "sub-01.fif", tmp_path / "images")
    assert not [item for item in found if item.severity == "error"]
    assert any("12 trials" in item.message for item in found)


def test_parts_of_a_cap_in_their_own_order_are_fine():
    for names in (["Oz", "Fz", "Cz"], ["PO7", "PO8", "Oz", "Pz", "P3", "P4"]):
        assert [item.severity for item in checks.names(names, "x")] == ["ok"]


def test_images_that_all_have_another_number_of_trials(tmp_path):
    ids = np.repeat([f"img{i}" for i in range(6)], [3, 4, 5, 6, 7, 8])
    x_NCT = noise(len(ids), 3, 20)
    trials = Trials(x_NCT, ids, subject="s", sfreq=50.0, tmin=0.0, ch_names=["O1", "Oz", "O2"], kind="eeg")
    trials.save(tmp_path / "sub-01_trials.npy")
    found = examine(tmp_path / "sub-01_trials.npy")
    assert not [item for item in found if "fewer trials" in item.message]
    assert any(item.message == "6 images with 3 to 8 trials each" for item in found)
