"""BIDS data sets: what becomes trials, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hvf.config import HvfError
from hvf.data.recordings.prepare import prepare_bids
from hvf.data.trials.trials import Trials
from tests.data.recordings.lab import (
    IMAGES,
    NAMES,
    PLAIN,
    SFREQ,
    cut,
    cut_row,
    names_of,
    order,
    responses,
    seen,
    write_brainvision,
)


def write_run(root, subject, session, run, images, seed, task="look", **columns):
    """One run of a BIDS dataset with a row of another event after each image."""
    x_CN, onsets = responses(images, seed)
    base = root / f"sub-{subject}" / f"ses-{session}" / "eeg" / f"sub-{subject}_ses-{session}_task-{task}_run-{run}"
    write_brainvision(base.with_name(base.name + "_eeg.vhdr"), x_CN)
    rows = {"onset": onsets, "duration": 0.1, "trial_type": "exp", "stim_file": images} | columns
    table = pd.DataFrame(rows)
    button = pd.DataFrame({"onset": onsets + 0.3, "duration": 0.0, "trial_type": "button", "stim_file": "n/a"})
    table = pd.concat([table, button]).sort_values("onset")
    table.to_csv(base.with_name(base.name + "_events.tsv"), sep="\t", index=False, na_rep="n/a")
    channels = pd.DataFrame({"name": NAMES, "type": "EEG", "units": "µV", "status": "good"})
    channels.to_csv(base.with_name(base.name + "_channels.tsv"), sep="\t", index=False)
    base.with_name(base.name + "_eeg.json").write_text(json.dumps({"TaskName": task, "SamplingFrequency": SFREQ}))
    return base


@pytest.fixture
def dataset(tmp_path):
    """Two subjects, two sessions of two runs; "pie" is tested."""
    root = tmp_path / "study"
    root.mkdir()
    (root / "dataset_description.json").write_text(json.dumps({"Name": "a study", "BIDSVersion": "1.8.0"}))
    (root / "participants.tsv").write_text("participant_id\tsex\nsub-01\tF\nsub-02\tM\n")
    for subject, seed in (("01", 0), ("02", 100)):
        for session in ("01", "02"):
            for run in ("1", "2"):
                seed += 1
                images = order(seed, 1)
                kind = ["test" if "pie" in name else "exp" for name in images]
                write_run(root, subject, session, run, images, seed, trial_type=kind)
    return root


def left_in(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file()) if folder.exists() else []


def test_a_bids_dataset(dataset, tmp_path, capsys):
    out = tmp_path / "out"
    paths = prepare_bids(dataset, out, settings=PLAIN)
    assert [p.name for p in paths] == ["sub-01_trials.npy", "sub-02_trials.npy"]
    trials = Trials.load(paths[0])
    images = [name for seed in (1, 2, 3, 4) for name in order(seed, 1)]
    assert trials.shape == (32, len(NAMES), 40)
    assert trials.image_ids.tolist() == names_of(images)
    assert seen(trials) == images
    assert trials.subject == "sub-01"
    assert trials.sessions.tolist() == [1] * 16 + [2] * 16
    assert trials.positions.tolist() == [*range(16), *range(16)]
    assert trials.splits.tolist() == ["test" if "pie" in name else "train" for name in images]
    assert trials.concepts.tolist() == [name.split("/")[1] for name in images]
    assert "32 of 64 events name no image and are left out" in capsys.readouterr().err
    sources = trials.history["sources"]
    base = "sub-01/ses-01/eeg/sub-01_ses-01_task-look_run-1_"
    assert {base + end for end in ("eeg.vhdr", "eeg.eeg", "eeg.vmrk", "events.tsv", "channels.tsv")} <= set(sources)

    before = paths[0].stat().st_mtime_ns
    assert prepare_bids(dataset, out, settings=PLAIN) == paths
    assert paths[0].stat().st_mtime_ns == before  # kept
    with pytest.raises(HvfError, match="made with other settings: choose another --out"):
        prepare_bids(dataset, out, settings=replace(PLAIN, tmax=0.3))
    for changed in sorted(dataset.rglob("*run-1_channels.tsv")):
        changed.write_text(changed.read_text().replace("P3\tEEG\tµV\tgood", "P3\tEEG\tµV\tbad"))
    prepare_bids(dataset, out, settings=PLAIN, subjects=["1"])
    assert paths[0].stat().st_mtime_ns != before  # made again from what changed
    assert "interpolated: P3" in " ".join(Trials.load(paths[0]).history["notes"])


def test_test_concepts_are_unseen(dataset, tmp_path):
    for path in dataset.rglob("*events.tsv"):  # one image of each tested concept also trains
        table = pd.read_csv(path, sep="\t", keep_default_na=False)
        table.loc[table["stim_file"].str.contains("pie_2"), "trial_type"] = "exp"
        table.to_csv(path, sep="\t", index=False)
    (path,) = prepare_bids(dataset, tmp_path / "out", settings=PLAIN, subjects=["sub-02"])
    trials = Trials.load(path)
    assert (len(trials), set(trials.split("test").image_ids)) == (28, {"pie_1"})
    assert "pie" not in trials.split("train").concepts
    (path,) = prepare_bids(dataset, tmp_path / "all", settings=replace(PLAIN, unseen_concepts=False), subjects=["02"])
    assert len(Trials.load(path)) == 32


def test_spellings_of_a_concept_are_one(dataset, tmp_path):
    for path in dataset.rglob("*run-2_events.tsv"):  # "Pie" trains where "pie" is tested
        table = pd.read_csv(path, sep="\t", keep_default_na=False)
        table["concept"] = table["stim_file"].str.extract(r"/(\w+)/")[0].str.capitalize()
        pie = table["concept"] == "Pie"
        table.loc[pie, "trial_type"] = "exp"
        table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    for path in dataset.rglob("*run-1_events.tsv"):
        table = pd.read_csv(path, sep="\t", keep_default_na=False)
        table["concept"] = table["stim_file"].str.extract(r"/(\w+)/")[0]
        table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    (path,) = prepare_bids(dataset, tmp_path / "out", settings=PLAIN, subjects=["01"])
    trials = Trials.load(path)
    assert set(trials.split("test").concepts) == {"pie"}
    assert set(trials.split("train").concepts) == {"cat", "dog", "owl"}
    assert len(trials) == 28
    assert "'pie' and 'Pie' are one concept" in trials.history["notes"]


def test_codes_in_the_events(dataset, tmp_path):
    for path in dataset.rglob("*events.tsv"):
        table = pd.read_csv(path, sep="\t", keep_default_na=False)
        number = {name: f"{i:.1f}" for i, name in enumerate(IMAGES, start=1)} | {"n/a": "n/a"}
        table["value"] = table.pop("stim_file").map(number)
        table.to_csv(path, sep="\t", index=False)
    with pytest.raises(HvfError, match="its columns are onset, duration, trial_type, value: name the one"):
        prepare_bids(dataset, tmp_path / "out", settings=PLAIN)
    paths = prepare_bids(dataset, tmp_path / "codes", settings=PLAIN, image_column="value", subjects=["01"])
    assert set(Trials.load(paths[0]).image_ids) == {str(i) for i in range(1, 9)}
    stimuli = pd.DataFrame({"code": np.arange(1, 8), "image": IMAGES[:7]})  # one is not an image
    paths = prepare_bids(
        dataset, tmp_path / "out", settings=PLAIN, image_column="value", stimuli=stimuli, subjects=["01"]
    )
    trials = Trials.load(paths[0])
    assert set(seen(trials)) == set(IMAGES[:7])
    assert trials.image_ids.tolist() == names_of(seen(trials))


@pytest.mark.parametrize("spelt", ["{:.1f}", "{:03d}", " {} "])
@pytest.mark.parametrize("of_events", ["{:.1f}", "{:03d}"])
def test_codes_spelt_otherwise_are_the_same(dataset, tmp_path, spelt, of_events):
    for path in dataset.rglob("*events.tsv"):
        table = pd.read_csv(path, sep="\t", keep_default_na=False)
        number = {name: of_events.format(i) for i, name in enumerate(IMAGES, start=1)} | {"n/a": "n/a"}
        table["value"] = table.pop("stim_file").map(number)
        table.to_csv(path, sep="\t", index=False)
    codes = [spelt.format(i) for i in range(1, 9)]
    stimuli = pd.DataFrame({"code": codes, "image": IMAGES, "onset": 0.5})  # the events know when
    (path,) = prepare_bids(
        dataset, tmp_path / "out", settings=PLAIN, image_column="value", stimuli=stimuli, subjects=["01"]
    )
    trials = Trials.load(path)
    assert len(trials) == 32
    assert trials.image_ids.tolist() == names_of(seen(trials))


def test_runs_and_sessions_follow_their_numbers(tmp_path):
    root = tmp_path / "study"
    root.mkdir()
    (root / "dataset_description.json").write_text(json.dumps({"Name": "a study", "BIDSVersion": "1.8.0"}))
    shown = []
    for session, run in (("2", "2"), ("2", "10"), ("10", "1")):
        images = order(len(shown), 1)
        write_run(root, "01", session, run, images, len(shown))
        shown += images
    (path,) = prepare_bids(root, tmp_path / "out", settings=PLAIN)
    trials = Trials.load(path)
    assert seen(trials) == shown
    assert trials.image_ids.tolist() == names_of(shown)
    assert trials.positions.tolist() == [*range(16), *range(8)]
    assert trials.sessions.tolist() == [2] * 16 + [10] * 8


@pytest.mark.parametrize("factor", [1e3, 1e-6, 30.0])
def test_a_run_in_another_unit_is_refused(dataset, tmp_path, factor):
    (header,) = dataset.rglob("sub-01_ses-02*run-2_eeg.vhdr")
    values = np.fromfile(header.with_suffix(".eeg"), "<f4")
    (values * factor).astype("<f4").tofile(header.with_suffix(".eeg"))
    if factor == 30.0:  # another gain, or a worse cap
        assert len(Trials.load(prepare_bids(dataset, tmp_path / "out", settings=PLAIN, subjects=["01"])[0])) == 32
        return
    with pytest.raises(HvfError, match=r"values of .*ses-02.*run-2_eeg.vhdr vary .* times as much as those of .*run-1"):
        prepare_bids(dataset, tmp_path / "out", settings=PLAIN, subjects=["01"])
    assert left_in(tmp_path / "out") == []


def test_a_run_without_events_is_named(dataset, tmp_path):
    (lost,) = dataset.rglob("sub-01_ses-02*run-2_events.tsv")
    lost.unlink()
    (path,) = prepare_bids(dataset, tmp_path / "out", settings=PLAIN, subjects=["01"])
    trials = Trials.load(path)
    assert len(trials) == 24
    name = "sub-01_ses-02_task-look_run-2_eeg.vhdr"
    assert f"recordings without an events.tsv are left out: {name}" in trials.history["notes"]


def test_what_a_bids_dataset_must_have(dataset, tmp_path):
    out = tmp_path / "out"
    for arguments, words in (
        ({"subjects": ["03"]}, r"has no subject '03'; there is 01, 02"),
        ({"task": "lok"}, r"has no task 'lok'; did you mean 'look'"),
        ({"image_column": "stimfile"}, r"no column 'stimfile'; .*did you mean 'stim_file'"),
        ({"onset_unit": "min"}, r"--onset-unit must be one of s, ms, samples"),
        ({"stimuli": pd.DataFrame({"code": [1], "image": ["a"]})}, r"holds none of the codes of the events"),
    ):
        with pytest.raises(HvfError, match=words):
            prepare_bids(dataset, out, settings=PLAIN, **arguments)
    with pytest.raises(HvfError, match="holds no folder sub-XX"):
        prepare_bids(tmp_path / "study" / "sub-01", out)
    with pytest.raises(HvfError, match="there is no folder"):
        prepare_bids(tmp_path / "nowhere", out)
    for path in [*dataset.rglob("*.vhdr"), *dataset.rglob("*.eeg"), *dataset.rglob("*.vmrk")]:
        path.unlink()
    with pytest.raises(HvfError, match="no EEG or MEG recording, only tables"):
        prepare_bids(dataset, out, subjects=["01"])
    with pytest.raises(HvfError, match="no EEG or MEG recordings, only tables"):
        prepare_bids(dataset, out)
    assert left_in(out) == []


def test_several_tasks(dataset, tmp_path):
    images = order(9, 1)
    write_run(dataset, "01", "01", "1", images, 9, task="rest", stim_file="n/a")
    assert len(Trials.load(prepare_bids(dataset, tmp_path / "a", settings=PLAIN, subjects=["01"])[0])) == 32
    write_run(dataset, "01", "02", "1", images, 10, task="again")
    with pytest.raises(HvfError, match=r"several tasks \(again, look\): choose one with --task"):
        prepare_bids(dataset, tmp_path / "b", settings=PLAIN, subjects=["01"])
    (path,) = prepare_bids(dataset, tmp_path / "b", settings=PLAIN, subjects=["01"], task="again")
    assert Trials.load(path).image_ids.tolist() == names_of(images)


BASE = "sub-01/ses-02/eeg/sub-01_ses-02_task-look_run-2"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: cut(root / f"{BASE}_eeg.eeg", 0.5), "run-2_eeg.vhdr is damaged: .* its header says"),
        (lambda root: cut_row(root / f"{BASE}_events.tsv"), "run-2_events.tsv is damaged: row 16 has 3 of 4 fields"),
        (lambda root: swap(root / f"{BASE}_channels.tsv", "Oz", "Iz"), "(?i)cannot read .*run-2_eeg.vhdr: .*mismatch"),
        (
            lambda root: [swap(root / f"{BASE}_events.tsv", *pair) for pair in (("stim_file", "seen"), (".jpg", ""))],
            "run-2_events.tsv has no column that",
        ),
        (lambda root: swap(root / f"{BASE}_events.tsv", "onset", "when"), "onset"),
        (
            lambda root: [
                shutil.copy(root / f"{BASE}_eeg.{end}", root / f"{BASE[:-1]}1_eeg.{end}") for end in ("eeg", "vmrk")
            ],
            "run-2_eeg.vhdr is a copy of .*run-1_eeg.vhdr",
        ),
        (lambda root: shift(root / f"{BASE}_events.tsv", 100.0), "16 of 16|8 of 8 image events .* lie beyond it"),
    ],
)
def test_damaged_bids_leaves_nothing_behind(dataset, tmp_path, damage, words):
    damage(dataset)
    with pytest.raises(HvfError, match=words):
        prepare_bids(dataset, tmp_path / "out", settings=PLAIN, subjects=["01"])
    assert left_in(tmp_path / "out") == []


def test_a_fault_found_while_reading_values_leaves_nothing_behind(dataset, tmp_path):
    path = dataset / f"{BASE}_eeg.eeg"
    x = np.fromfile(path, "<f4").reshape(-1, len(NAMES))
    x[500, 2] = np.nan
    x.tofile(path)
    with pytest.raises(HvfError, match="channel Pz of .*run-2_eeg.vhdr holds NaN"):
        prepare_bids(dataset, tmp_path / "out", settings=PLAIN, subjects=["01"])
    assert left_in(tmp_path / "out") == []


def swap(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def shift(path, seconds):
    table = pd.read_csv(path, sep="\t", keep_default_na=False)
    table.assign(onset=table["onset"] + seconds).to_csv(path, sep="\t", index=False)
