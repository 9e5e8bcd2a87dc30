"""hvf.data.things_meg.prepare against the field's own code on small files, and on real tables and a real CTF recording.

Tolerances are those of the golden sets' READMEs; the repeats of an image, whose order the peers leave to an unstable
sort, are compared as a set.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest

from hvf.config import HvfError
from hvf.data.things_meg import ctf
from hvf.data.things_meg.prepare import prepare
from hvf.data.things_meg.table import NUMBERED, image_numbers, trial_table, zero_shot
from hvf.data.trials.trials import Trials
from hvf.pickles import loading


@pytest.fixture(scope="module")
def golden(shared_data) -> Path:
    return shared_data / "golden"


def made(root: Path, out: Path, recipe: str) -> Trials:
    return Trials.load(prepare(root, out, recipe)[0])


def as_set(x_NCT: np.ndarray) -> list[bytes]:
    return sorted(np.ascontiguousarray(x).tobytes() for x in x_NCT)


# --- the published epochs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["ubp", "hvf"])
def test_ubp_bit_for_bit(golden, tmp_path, recipe):
    trials = made(golden / "things_meg", tmp_path, recipe)
    for split, per_image in (("train", 1), ("test", 12)):
        theirs = loading.load(golden / f"things_meg/ubp/Preprocessed_data/sub-01/{split}.pt")
        assert isinstance(theirs, dict)
        ours = trials.split(split)
        assert ours.shape == (len(theirs["img"]) * per_image, 32, 201)
        assert ours.image_ids.tolist() == [Path(img).stem for img in theirs["img"] for _ in range(per_image)]
        stored = ours.load_array().astype(np.float16).reshape(len(theirs["img"]), per_image, 32, 201)
        for mine, wanted in zip(stored, theirs["eeg"], strict=True):
            assert as_set(mine) == as_set(wanted)


def test_neurobridge(golden, tmp_path):
    trials = made(golden / "things_meg", tmp_path, "neurobridge")
    folder = golden / "things_meg/neurobridge/preprocessed_meg/sub-01"
    train, test = (np.load(folder / f"{split}.npy") for split in ("train", "test"))
    images = json.loads((golden / "things_meg/neurobridge/image_set.json").read_text())
    ours = trials.split("train").load_array().reshape(train.shape)
    assert np.abs(ours - train).max() <= 1e-6 * np.abs(train).max()
    # Each test image's repeats as a set: every one of ours has its like among theirs, and the other way round.
    mine = trials.split("test").load_array().reshape(3, 12, -1)
    apart = np.abs(mine[:, :, None] - test.reshape(3, 1, 12, -1)).max(axis=-1)
    assert apart.min(axis=2).max() <= 1e-6 * np.abs(test).max()
    assert apart.min(axis=1).max() <= 1e-6 * np.abs(test).max()
    told = json.dumps(images)
    assert all(image in told for image in trials.image_ids.tolist())
    # The other number of samples, and scaling by all trials, are something else.
    ubp = (
        made(golden / "things_meg", tmp_path / "ubp", "ubp").split("train").load_array()[:, :, :200].astype(np.float64)
    )
    x = (ubp - ubp.mean((0, 2), keepdims=True)) / ubp.std((0, 2), keepdims=True)
    assert np.abs(x.reshape(train.shape) - train).max() > 1e-5 * np.abs(train).max()  # float16 on the way


def test_all_271_channels_of_two_parts(golden, tmp_path):
    root = golden / "things_meg_271"
    expected = json.loads((root / "expected.json").read_text())
    with pytest.warns(UserWarning, match="there are no test trials"):
        trials = made(root, tmp_path, "official")
    assert list(trials.ch_names) == expected["ch_names"]
    assert len(trials.ch_names) == 271
    source = mne.read_epochs(root / "derivatives/preprocessed/preprocessed_P1-epo.fif", verbose="error")
    shown = np.flatnonzero(source.events[:, 2] != ctf.CATCH)
    rows = shown[np.argsort(source.events[shown, 2], kind="stable")]
    x = trials.crop(0.0, 1.005).load_array().astype(np.float64)
    assert x.shape[2] == 201
    wanted = expected["crop_0_1"]
    assert wanted["shape"] == [5, 271, 201]
    np.testing.assert_allclose(x.mean((1, 2)), np.asarray(wanted["mean_per_epoch"])[rows], rtol=1e-6)
    np.testing.assert_allclose(x.std((1, 2)), np.asarray(wanted["std_per_epoch"])[rows], rtol=1e-6)


# --- the raw recordings -----------------------------------------------------------------------------------------------


@pytest.fixture
def recordings(golden, tmp_path) -> Path:
    """The official set without its result."""
    root = tmp_path / "root"
    shutil.copytree(golden / "things_meg_official", root)
    shutil.rmtree(root / "derivatives")
    return root


def official(golden: Path) -> mne.BaseEpochs:
    return mne.read_epochs(
        golden / "things_meg_official/derivatives/preprocessed/preprocessed_P1-epo.fif", verbose="error"
    )


def every_epoch(root: Path) -> np.ndarray:
    """All trials of the official set, catch trials included, in the order of the recordings."""
    parts = []
    for path in sorted(root.glob("sub-*/ses-*/meg/*_meg.fif")):
        raw = ctf.open_meg(path)
        names = [name for name in ctf.sensors(raw)[0] if name not in ctf.BROKEN]
        samples = ctf.read_events(path.with_name(path.name.replace("_meg.fif", "_events.tsv")))["sample"].to_numpy()
        parts += [x for _, x in ctf.official_epochs(raw, names, samples, path)]
    return np.concatenate(parts)


def test_official_pipeline_from_the_recordings(golden, recordings, tmp_path):
    theirs = official(golden)
    wanted = theirs.get_data(verbose="error")
    ours = every_epoch(recordings).astype(np.float32)
    assert np.abs(ours - wanted).max() <= 1e-6 * np.abs(wanted).max()
    # And as a user prepares it: from the recordings the same as from the published epochs.
    raw = made(recordings, tmp_path / "raw", "official")
    epochs = made(golden / "things_meg_official", tmp_path / "epochs", "official")
    assert raw.ch_names == epochs.ch_names == tuple(theirs.ch_names)
    assert raw.image_ids.tolist() == epochs.image_ids.tolist()
    assert np.asarray(raw.sessions).tolist() == np.asarray(epochs.sessions).tolist()
    assert np.abs(raw.load_array() - epochs.load_array()).max() <= 1e-6 * np.abs(epochs.load_array()).max()
    assert {(t.history or {})["route"] for t in (raw, epochs)} == {"raw recordings", "published epochs"}


def test_official_baseline_and_what_it_is_not(golden):
    step = np.load(golden / "things_meg_official/baseline_step.npz")
    before, after = step["before"], step["after"]
    times = -0.1 + np.arange(before.shape[2]) / 1200
    assert np.abs(ctf.zscore(before, times) - after).max() <= 1e-12 * np.abs(after).max()
    base = before[:, :, :121]
    mean = base.mean(2, keepdims=True)
    ddof_1 = (before - mean) / base.std(2, keepdims=True, ddof=1)
    assert np.abs(ddof_1 - after).max() > 1e-3 * np.abs(after).max()
    late = ctf.zscore(before[:, :, ::6], times[::6])
    assert np.abs(late - after[:, :, ::6]).max() > 1e-2 * np.abs(after).max()
    without_zero = (before - base[:, :, :-1].mean(2, keepdims=True)) / base[:, :, :-1].std(2, keepdims=True)
    assert np.abs(without_zero - after).max() > 1e-4 * np.abs(after).max()


def test_triggers_instead_of_the_photodiode_give_other_epochs(golden, recordings):
    path = sorted(recordings.glob("sub-*/ses-*/meg/*_meg.fif"))[0]
    raw = ctf.open_meg(path)
    found = mne.find_events(raw, "UPPT001", verbose="error")
    samples = found[found[:, 2] == 64, 0]
    names = [name for name in ctf.sensors(raw)[0] if name not in ctf.BROKEN]
    ours = np.concatenate([x for _, x in ctf.official_epochs(raw, names, samples, path)])
    wanted = official(golden)[: len(ours)].get_data(verbose="error")
    assert np.abs(ours - wanted).max() > 1e-2 * np.abs(wanted).max()


# --- the zero-shot split ----------------------------------------------------------------------------------------------


def by_occurrence(numbers: np.ndarray) -> set[int]:
    """What the peers take for test images: events that occur exactly 12 times."""
    return {number for number, count in Counter(numbers.tolist()).items() if count == 12}


def test_the_split_is_not_counted(golden, tmp_path):
    csv = golden / "things_meg/sourcedata/sample_attributes_P1.csv"
    whole = trial_table(pd.read_csv(csv), str(csv), tmp_path)
    test = set(whole.number[whole.trial_type == "test"])
    assert by_occurrence(whole.number[whole.trial_type != "catch"].to_numpy()) == test
    lacking = whole.drop(index=whole.index[whole.trial_type == "test"][0])  # one repeat was not recorded
    splits = zero_shot(lacking.trial_type, lacking.category)
    assert set(lacking.number[splits == "test"]) == test
    assert not set(lacking.concept[splits == "test"]) & set(lacking.concept[splits == "train"])
    assert len(by_occurrence(lacking.number[lacking.trial_type != "catch"].to_numpy())) == len(test) - 1


@pytest.fixture(scope="module")
def real_events(shared_data) -> tuple[pd.DataFrame, list[Path]]:
    folder = shared_data / "bids/ds004212_THINGS-MEG/sub-BIGMEG2/ses-01/meg"
    paths = sorted(folder.glob("*_events.tsv"))
    return pd.concat([ctf.read_events(path) for path in paths], ignore_index=True), paths


def test_zero_shot_on_a_real_session(real_events):
    events, paths = real_events
    assert len(paths) == 10
    assert Counter(events.trial_type) == {"exp": 1854, "test": 200, "catch": 200}
    assert (events.value[events.trial_type == "catch"] == ctf.CATCH).all()
    splits = zero_shot(events.trial_type, events.things_category_nr)
    assert Counter(splits.tolist()) == {"train": 1654, "test": 200, "": 400}
    concepts = {split: set(events.things_category_nr[splits == split]) for split in ("train", "test")}
    assert len(concepts["train"] | concepts["test"]) == 1854
    assert not concepts["train"] & concepts["test"]
    assert by_occurrence(events.value.to_numpy()) == set()  # no image is shown 12 times in one session: counting fails


def test_numbers_of_images_follow_the_concepts_and_not_a_listing(shared_data, real_events):
    names = (shared_data / "things_meta/file_names_THINGS.txt").read_text().split()
    rows = (shared_data / "things_meta/things_concepts.tsv").read_text(encoding="utf-8").splitlines()
    concepts = [row.split("\t")[1] for row in rows[1:]]
    files = [f"{NUMBERED.sub('', Path(name).stem)}/{name}" for name in names]
    numbered = image_numbers(files)
    assert list(dict.fromkeys(file.split("/")[0] for file in numbered)) == concepts
    listing = sorted(files, key=lambda file: file.split("/"))
    moved = [a for a, b in zip(numbered, listing, strict=True) if a != b]
    assert (len(moved), len({file.split("/")[0] for file in moved})) == (285, 20)
    events = real_events[0]
    events = events[events.trial_type != "catch"]
    category = {concept: i for i, concept in enumerate(concepts, 1)}
    told = events.things_category_nr.to_numpy()
    found, of_listing = (
        np.asarray([category[order[value - 1].split("/")[0]] for value in events.value])
        for order in (numbered, listing)
    )
    assert (found == told).all()
    assert (of_listing != told).any()
    exp = events.value[events.trial_type == "exp"]
    assert all(re.search(r"_06[a-z]\.", numbered[value - 1]) for value in exp)


def test_numbers_and_names_of_the_golden_set_agree(golden, shared_data, tmp_path):
    names = (shared_data / "things_meta/file_names_THINGS.txt").read_text().split()
    numbered = image_numbers(f"{NUMBERED.sub('', Path(name).stem)}/{name}" for name in names)
    csv = golden / "things_meg/sourcedata/sample_attributes_P1.csv"
    table = trial_table(pd.read_csv(csv), str(csv), tmp_path)
    shown = table[table.trial_type != "catch"]
    assert [Path(numbered[number - 1]).stem for number in shown.number] == shown.image.tolist()
    listing = sorted(numbered)
    assert [Path(listing[number - 1]).stem for number in shown.number] != shown.image.tolist()


# --- real recordings --------------------------------------------------------------------------------------------------


def test_sensors_of_ds004212_are_known_though_typed_other(real_events):
    types = {"OTHER": "misc", "MISC": "misc", "MEGREFMAG": "ref_meg", "MEGREFGRADAXIAL": "ref_meg"}
    for path in real_events[1]:
        told = ctf.channel_types(path.with_name(path.name.replace("_events", "_channels")))
        as_read = mne.create_info(list(told), 1200.0, [types[kind] for kind in told.values()], verbose="error")  # pyright: ignore[reportArgumentType]
        raw = mne.io.RawArray(np.zeros((len(told), 1)), as_read, verbose="error")
        names, notes = ctf.sensors(raw)
        assert len(names) == 272
        assert sorted(set(names) & ctf.BROKEN) == ["MRO11-1609"]
        assert "272 channels typed misc (OTHER in channels.tsv) are MEG sensors" in notes[0]


@pytest.fixture
def ctf_root(shared_data, tmp_path) -> Path:
    """The real CTF-275 recording as a run of THINGS-MEG, with one trigger put on its (silent) trigger channel."""
    source = shared_data / "meg/CTF/testdata_ctf_short_discontinuous.ds"
    folder = tmp_path / "root/sub-BIGMEG1/ses-01/meg"
    stem = "sub-BIGMEG1_ses-01_task-main_run-01"
    recording = folder / f"{stem}_meg.ds"
    recording.mkdir(parents=True)
    for file in source.iterdir():
        shutil.copyfile(file, recording / file.name.replace(source.stem, recording.stem))
    raw = mne.io.read_raw_ctf(recording, verbose="error")
    # A .meg4 is 8 bytes of header, then int32 per block, channel and sample.
    data = np.memmap(recording / f"{recording.stem}.meg4", ">i4", "r+", 8, (2, len(raw.ch_names), 1201))
    data[0, raw.ch_names.index("UPPT001"), 300:320] = 64
    data.flush()
    trial = {"trial_type": "exp", "things_category_nr": 1, "things_image_nr": 7}
    events = pd.DataFrame([trial | {"onset": 330 / 1200, "duration": 0.5, "value": 7, "sample": 330}])
    events.drop(columns="things_image_nr").to_csv(folder / f"{stem}_events.tsv", sep="\t", index=False)
    types = dict.fromkeys(raw.ch_names, "MISC") | {n: "OTHER" for n in raw.ch_names if n.startswith(("ML", "MR", "MZ"))}
    table = pd.DataFrame({"name": list(types), "type": list(types.values())})
    table.to_csv(folder / f"{stem}_channels.tsv", sep="\t", index=False)
    (tmp_path / "root/sourcedata").mkdir()
    path = "images_meg/aardvark/aardvark_07s.jpg"
    csv = pd.DataFrame([trial | {"image_path": path, "session_nr": 1, "run_nr": 1}])
    csv.to_csv(tmp_path / "root/sourcedata/sample_attributes_P1.csv", index=False)
    return tmp_path / "root"


def test_a_real_ctf_recording_goes_the_whole_way(ctf_root, tmp_path):
    with pytest.warns(UserWarning, match="273 channels typed OTHER in channels.tsv are MEG sensors"):
        trials = made(ctf_root, tmp_path / "out", "official")
    assert any("shorter than the filter" in note for note in (trials.history or {})["notes"])  # it lasts 2 s
    assert trials.shape == (1, 273, 281)
    assert trials.image_ids.tolist() == ["aardvark_07s"]
    base = trials.load_array()[:, :, :21]
    assert np.abs(base.mean(2)).max() < 1.0  # z-scored over 121 samples, of which 21 are left
    assert 0.5 < np.median(base.std(2)) < 1.5


@pytest.mark.parametrize("cut", [4, 100_000, 1_710_224, 3_420_456])
def test_a_cut_ctf_recording_is_refused(ctf_root, tmp_path, cut):
    (data,) = ctf_root.rglob("*.meg4")
    data.write_bytes(data.read_bytes()[:-cut])
    with pytest.raises(HvfError):
        made(ctf_root, tmp_path / "out", "official")
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_a_real_fif_of_another_study_is_refused(ctf_root, shared_data, tmp_path):
    folder = ctf_root / "sub-BIGMEG1/ses-01/meg"
    (recording,) = folder.glob("*.ds")
    shutil.rmtree(recording)
    target = folder / f"{recording.stem}.fif"
    shutil.copyfile(shared_data / "meg/fif/sample_audvis_trunc_raw_sss.fif", target)
    with pytest.raises(HvfError, match="has no channel UPPT001, which carries the triggers; it has "):
        made(ctf_root, tmp_path / "out", "official")
