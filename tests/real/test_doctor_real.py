"""The doctor on real recordings and on what the field's code wrote: nothing wrong there, and spoilt copies are told."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
import zipfile
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest

from hvf.config import HvfError
from hvf.data.doctor.examination import examine
from hvf.data.things_eeg2.prepare import prepare
from hvf.data.trials.trials import Trials

RAW, MEG = "golden/things_eeg2_raw", "golden/things_meg"
OFFICIAL_MEG, BIDS = "golden/things_meg_official", "bids/ds004212_THINGS-MEG"
LACKING = {  # excerpts that hold no recordings, and what `prepare` says of them
    "bids/ds004212_THINGS-MEG": "has no recording *_meg.ds or *_meg.fif",
    "bids/ds003825_THINGS-EEG1": "holds no EEG or MEG recordings, only tables",
}
UBP, NICE, NEUROBRIDGE = "golden/ubp_whiten", "golden/nice_250hz", "golden/neurobridge"
TRAINING = "raw_data/sub-01/ses-01/raw_eeg_training.npy"
EPOCHS = "derivatives/preprocessed/preprocessed_P1-epo.fif"
EVENTS = "sub-BIGMEG2/ses-01/meg/sub-BIGMEG2_ses-01_task-main_run-03_events.tsv"
RUN = "sub-BIGMEG1/ses-01/meg/sub-BIGMEG1_ses-01_task-main_run-01_meg.fif"


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        (RAW, "trials of one image correlate"),
        (NICE, "`times` is 50 longer than the data, as published"),
        (UBP, "each row one, in the published order"),
        (NEUROBRIDGE, "trials of one image correlate"),
        (MEG, "each with the event code of its metadata"),
        ("golden/things_meg_271", "their numbers in the order of the concepts"),
        (OFFICIAL_MEG, "as many as events.tsv lists"),
        (BIDS, "10 runs with 1854 exp, 200 test, 200 catch trials, as published"),
        ("bids/ds003825_THINGS-EEG1", "22248 images of 1854 concepts"),
        ("meg", "EEG060: the same value throughout"),
        ("eeg", "left out: EOG1, EOG2 (eye)"),
    ],
)
def test_nothing_is_wrong_with_what_was_published(shared_data, folder, words):
    """With the list of images named beside those that come without it."""
    listed = {"stimuli": shared_data / RAW} if folder in (NICE, NEUROBRIDGE) else {}
    found = examine(shared_data / folder, **listed)
    wrong = [item.message for item in found if item.severity == "error"]
    assert len(wrong) == (folder in LACKING)
    assert all(LACKING[folder] in message for message in wrong), wrong
    assert any(words in item.message for item in found), "\n".join(map(str, found))


@pytest.mark.parametrize("folder", [NICE, NEUROBRIDGE])
def test_trials_without_the_list_of_images_are_refused_as_by_prepare(shared_data, tmp_path, folder):
    (wrong,) = [item.message for item in examine(shared_data / folder) if item.severity == "error"]
    with pytest.raises(HvfError, match="has no image_metadata.npy.* with --stimuli") as refused:
        prepare(shared_data / folder, tmp_path)
    assert wrong == str(refused.value)
    (path,) = prepare(shared_data / folder, tmp_path, stimuli=shared_data / RAW)
    assert len(Trials.load(path).repeats()) == 9


def test_what_is_odd_about_them_is_said(shared_data):
    warned = {item.message for item in examine(shared_data / BIDS) if item.severity == "warning"}
    assert any("272 MEG sensors are typed OTHER" in message for message in warned)
    warned = {item.message for item in examine(shared_data / "bids/ds003825_THINGS-EEG1") if item.severity == "warning"}
    assert any("cannot be seconds" in message for message in warned)


@pytest.fixture
def copy(shared_data, tmp_path):
    def make(folder: str) -> Path:
        out = tmp_path / "copy"
        shutil.copytree(shared_data / folder, out, copy_function=shutil.copyfile)
        for path in (out, *out.rglob("*")):
            path.chmod(0o755)
        return out

    return make


def told(root: Path, check: str, words: str, severity: str = "error") -> None:
    found = examine(root)
    hits = [f for f in found if (f.severity, f.check) == (severity, check) and words in f.message]
    assert not [item for item in found if "looking at it failed" in item.message]
    assert hits, "\n".join(f"{f.severity} {f.check} {f.where}: {f.message}" for f in found)
    assert all(item.advice for item in found if item.severity != "ok")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (RAW, TRAINING),
        (RAW, "image_metadata.npy"),
        (RAW, "preprocessed_data/sub-01/preprocessed_eeg_test.npy"),
        (NICE, "Preprocessed_data_250Hz/sub-01/preprocessed_eeg_training.npy"),
        (UBP, "Preprocessed_data_250Hz_whiten/sub-01/train.pt"),
        (NEUROBRIDGE, "mvnn/sub-01/test.npy"),
        (NEUROBRIDGE, "zscore/info.json"),
        (MEG, EPOCHS),
        (MEG, EPOCHS.replace("-epo", "-epo-1")),
        (OFFICIAL_MEG, RUN),
        (OFFICIAL_MEG, "sourcedata/sample_attributes_P1.csv"),
        (BIDS, EVENTS),
        ("meg/fif", "sample_audvis_trunc_raw_sss.fif"),
        ("meg/CTF", "testdata_ctf_short_discontinuous.ds/testdata_ctf_short_discontinuous.meg4"),
        ("eeg/brainvision", "bv_dig_test.eeg"),
        ("eeg/brainvision", "testbva.dat"),
        ("eeg/eeglab", "eeglab_data.fdt"),
        ("eeg/eeglab", "eeglab_data.set"),
    ],
)
def test_truncated(copy, folder, name):
    root = copy(folder)
    path = root / name
    data = path.read_bytes()
    for kept in (0.999, 0.6):
        path.write_bytes(data[: int(kept * len(data)) // 2 * 2 - 1])  # where a sample ends, some formats could not tell
        wrong = [item for item in examine(root) if item.severity == "error"]
        assert wrong, kept
        assert not [item for item in wrong if "looking at it failed" in item.message], wrong
        stem = path.name.split(".")[0].removesuffix("_events")
        run = {
            "info": "t",
            "preprocessed_P1-epo-1": "preprocessed_P1-epo",
            "sub-BIGMEG2_ses-01_task-main_run-03": "ses-01",
        }
        assert any(run.get(stem, stem) in item.where + item.message for item in wrong), wrong


def change(path: Path, edit) -> None:
    x = np.load(path, allow_pickle=True)
    x = x.item() if isinstance(x, np.ndarray) else x
    edit(x)
    np.save(path, np.array(x, dtype=object))


@pytest.mark.parametrize(
    ("edit", "check", "words"),
    [
        (lambda d: d["ch_names"].__setitem__(47, "Oz"), "channels", "probably POz"),
        (lambda d: d["ch_names"].insert(0, d["ch_names"].pop(30)), "order", "channel 0 is Fp2"),
        (lambda d: d.update(sfreq=512), "sampling rate", "512 Hz"),
        (lambda d: d["raw_eeg_data"].__setitem__((5, 100), np.nan), "signal", "FC1: NaN"),
        (lambda d: d["raw_eeg_data"].__setitem__(5, 0), "signal", "FC1: the same value"),
        (lambda d: d["raw_eeg_data"][-1].__setitem__(250, 16541), "events", "outside 1..6: 16541"),
        (lambda d: d.update(raw_eeg_data=d["raw_eeg_data"][:, :2200]), "events", "less often"),
    ],
)
def test_mislabelled_raw_eeg(copy, edit, check, words):
    root = copy(RAW)
    change(root / TRAINING, edit)
    told(root, check, words, "warning" if check == "order" else "error")


@pytest.mark.parametrize(
    ("edit", "check", "words"),
    [
        (lambda d: [v.reverse() for k, v in d.items() if "train" in k], "stimulus list", "sorted"),
        (lambda d: d["train_img_files"].reverse(), "stimulus list", "another concept"),
        (lambda d: d["test_img_concepts_THINGS"].__setitem__(0, "00001_aardvark"), "leak", "aardvark"),
    ],
)
def test_misordered_stimulus_list(copy, edit, check, words):
    root = copy(RAW)
    change(root / "image_metadata.npy", edit)
    told(root, check, words)


def test_files_in_each_others_place(copy):
    root = copy(RAW)
    test = TRAINING.replace("training", "test")
    shutil.copy(root / TRAINING, root / test)
    told(root, "events", "outside 1..3")
    told(root, "events", "the same events in the same order")
    shutil.copy(root / TRAINING, root / TRAINING.replace("ses-01", "ses-02"))
    told(root, "events", "the same events in the same order")
    (root / test).unlink()
    told(root, "file", "the file is missing")


def repack(path: Path, edit) -> None:
    """Change the dict in a torch archive, whatever names its pickle needs."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in entries if name.endswith("data.pkl"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the pickle names numpy.core
        x = pickle.loads(entries[name])
    edit(x)
    entries[name] = pickle.dumps(x, protocol=5)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("edit", "check", "words"),
    [
        (lambda d: d.update(img=d["img"][::-1].copy()), "pairing", "do not belong to the concept"),
        (
            lambda d: d.update(img=d["img"][::-1].copy(), text=d["text"][::-1].copy()),
            "pairing",
            "order of the event codes",
        ),
        (lambda d: d["ch_names"].__setitem__(57, "Oz"), "channels", "probably POz"),
        (lambda d: d["ch_names"].pop(), "channels", "62 names"),
        (lambda d: d["eeg"].__setitem__((0, 1), d["eeg"][0, 0]), "repeats", "exact copies"),
        (lambda d: d["eeg"].__setitem__((2, 1, 0, 3), np.inf), "signal", "Fp1: NaN or infinite"),
        (lambda d: d["eeg"].__setitem__((2, 1, 62, 3), np.inf), "signal", "O2: NaN or infinite"),
    ],
)
def test_mislabelled_ubp(copy, edit, check, words):
    root = copy(UBP)
    repack(root / "Preprocessed_data_250Hz_whiten/sub-01/train.pt", edit)
    taken = "Fp1" in words or "order" in words  # by the posterior channels and by the names of the rows
    told(root, check, words, "warning" if taken else "error")


def test_mislabelled_neurobridge(copy):
    root = copy(NEUROBRIDGE)
    path = root / "mvnn" / "info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"ch_names": ["Oz" if name == "POz" else name for name in info["ch_names"]]}))
    told(root, "channels", "probably POz")
    path.write_text(json.dumps(info | {"times": info["times"][::2]}))
    told(root, "sampling rate", "150 times for 250 samples")


def rewritten(root: Path, edit) -> None:
    epochs = mne.read_epochs(root / EPOCHS, verbose="error")
    epochs = edit(epochs)
    for path in (root / EPOCHS).parent.glob("*-epo*.fif"):
        path.unlink()
    epochs.save(root / EPOCHS, overwrite=True, verbose="error")


def swap_rows(epochs):
    table = epochs.metadata.copy()
    order = np.random.default_rng(0).permutation(len(table))
    epochs.metadata = table.iloc[order].set_index(table.index)
    return epochs


def other_concepts(epochs):
    table = epochs.metadata.copy()
    table["things_category_nr"] = table["things_category_nr"].to_numpy()[::-1]
    epochs.metadata = table
    return epochs


@pytest.mark.parametrize(
    ("edit", "check", "words"),
    [
        (swap_rows, "pairing", "another event code than their metadata"),
        (other_concepts, "pairing", "cannot be of concept"),
        (lambda epochs: epochs[:-4], "pairing", "68 rows for 64 epochs"),
        (lambda epochs: epochs.decimate(2, verbose="error"), "sampling rate", "100 Hz where 200 Hz"),
    ],
)
def test_mislabelled_meg(copy, edit, check, words):
    root = copy(MEG)
    rewritten(root, edit)
    told(root, check, words)


def test_misordered_attributes(copy):
    root = copy(OFFICIAL_MEG)
    path = root / "sourcedata" / "sample_attributes_P1.csv"
    table = pd.read_csv(path)
    table.iloc[::-1].to_csv(path, index=False)
    told(root, "pairing", "the metadata of")


@pytest.mark.parametrize(
    ("edit", "check", "words"),
    [
        (lambda t: t.assign(value=t["value"].to_numpy()[::-1]), "pairing", "cannot be of concept"),
        (lambda t: t.iloc[::-1], "events", "the onsets do not rise"),
        (lambda t: t.assign(sample=t["sample"] + 12), "events", "are not onset x 1200 Hz"),
        (lambda t: t.assign(onset=t["onset"] * 2), "events", "after the end of the recording"),
        (lambda t: t.iloc[:-5], "events", "10 of 10 runs with"),
    ],
)
def test_misordered_events(copy, edit, check, words):
    root = copy(BIDS)
    edit(pd.read_csv(root / EVENTS, sep="\t")).to_csv(root / EVENTS, sep="\t", index=False, na_rep="n/a")
    told(root, check, words)


def test_events_of_another_run(copy):
    root = copy(OFFICIAL_MEG)
    folder = (root / RUN).parent
    runs = [folder / Path(RUN).name.replace("run-01_meg.fif", f"run-0{k}_events.tsv") for k in (1, 2)]
    shutil.copy(runs[1], runs[0])
    told(root, "pairing", "the trigger channel marks 21 images and events.tsv lists 22")
