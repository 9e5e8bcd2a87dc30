"""hvf.data.things_meg.prepare on small raw recordings: the official pipeline, and what is refused."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
import pytest

from hvf.data.things_meg.prepare import prepare
from hvf.data.trials.trials import Trials
from hvf.simulation.things_meg import write_things_meg
from tests.data.things_meg.published_layout import refuse, sample_attributes, write_csv

RAW_NAMES = ("BG1-1609", "MLC11-1609", "MLO12-1609", "MRO11-1609", "MZF02-1609", "UPPT001")


RAW_TYPES: Any = ["ref_meg", "mag", "mag", "mag", "mag", "stim"]


def write_raw(root: Path, table: pd.DataFrame, *, first_samp: int = 0, seed: int = 0) -> None:
    """One recording per session: noise, triggers (64) 30 samples before the photodiode, and one to be ignored (32)."""
    rng = np.random.default_rng(seed)
    for session, rows in table.groupby("session_nr"):
        onset = 1800 + np.arange(len(rows)) * 1900 + rng.integers(0, 120, len(rows))
        x = 1e-13 * rng.standard_normal((len(RAW_NAMES), 40800)).cumsum(axis=1)  # just longer than the filter
        x[-1] = 0
        for sample in onset:
            x[-1, sample - 30 : sample - 10] = 64
        x[-1, 100:110] = 32
        info = mne.create_info(list(RAW_NAMES), 1200.0, RAW_TYPES, verbose="error")
        folder = root / f"sub-BIGMEG1/ses-{session:02d}/meg"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"sub-BIGMEG1_ses-{session:02d}_task-main_run-01"
        raw = mne.io.RawArray(x, info, first_samp=first_samp, verbose="error")
        raw.save(folder / f"{name}_meg.fif", overwrite=True, verbose="error")
        events = pd.DataFrame({
            "onset": onset / 1200, "duration": 0.5, "trial_type": rows.trial_type.to_numpy(),
            "things_category_nr": rows.things_category_nr.to_numpy(), "value": rows.things_image_nr.to_numpy(),
            "sample": onset,
        })  # fmt: skip
        events.to_csv(folder / f"{name}_events.tsv", sep="\t", index=False, na_rep="N/A")


@pytest.fixture(scope="session")
def recorded(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ctf") / "root"
    table = sample_attributes().query("session_nr < 3")
    write_raw(root, table)
    write_csv(root, table)
    return root


@pytest.fixture(scope="session")
def plain(recorded, tmp_path_factory) -> Trials:
    """What the official recipe makes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # there is nothing to remark on
        return Trials.load(prepare(recorded, tmp_path_factory.mktemp("plain"), "official")[0])


@pytest.fixture
def raw_root(recorded, tmp_path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "root"))


def of_session(root: Path, session: int, what: str) -> Path:
    return root / f"sub-BIGMEG1/ses-{session:02d}/meg/sub-BIGMEG1_ses-{session:02d}_task-main_run-01_{what}"


def first_session(root: Path) -> None:
    """Leave session 1 alone, as if there were no other."""
    shutil.rmtree(root / "sub-BIGMEG1/ses-02")
    write_csv(root, sample_attributes().query("session_nr == 1"))


def test_raw_recordings_go_through_the_official_pipeline(recorded, plain):
    assert plain.ch_names == ("MLC11-1609", "MLO12-1609", "MZF02-1609")  # neither the reference nor the broken one
    assert plain.shape == (2 * (2 * 3 + 2), 3, 281)
    table = sample_attributes()
    table = table[table.session_nr == 2].reset_index(drop=True)
    row = int(np.flatnonzero(table.image_path == "images_test_meg/abacus_07n.jpg")[0])
    sample = pd.read_csv(of_session(recorded, 2, "events.tsv"), sep="\t")["sample"][row]
    raw = mne.io.read_raw_fif(of_session(recorded, 2, "meg.fif"), preload=True, verbose="error")
    x_CN = mne.filter.filter_data(raw.get_data(picks=np.asarray(plain.ch_names)), 1200.0, 0.1, 40.0, verbose="error")
    epoch = x_CN[:, sample - 120 : sample + 1561]
    wanted = (epoch - epoch[:, :121].mean(1, keepdims=True)) / epoch[:, :121].std(1, keepdims=True)
    made = plain.session(2).split("test")
    assert made.image_ids[0] == "abacus_07n"
    np.testing.assert_allclose(made[0], wanted[:, ::6], rtol=0, atol=1e-6 * np.abs(wanted).max())
    history = plain.history or {}
    assert (history["route"], history["notes"]) == ("raw recordings", [])
    assert set(history["sources"]) == {
        "sourcedata/sample_attributes_P1.csv",
        *(of_session(Path(), s, what).as_posix() for s in (1, 2) for what in ("meg.fif", "events.tsv")),
    }


def test_samples_count_from_the_beginning_of_the_file(raw_root, plain, tmp_path):
    first_session(raw_root)
    path = of_session(raw_root, 1, "meg.fif")
    raw = mne.io.read_raw_fif(path, preload=True, verbose="error")
    later = mne.io.RawArray(np.asarray(raw.get_data()), raw.info, first_samp=5000, verbose="error")
    later.save(path, overwrite=True, verbose="error")
    trials = Trials.load(prepare(raw_root, tmp_path / "out", "official")[0])
    np.testing.assert_array_equal(trials.load_array(), plain.session(1).load_array())


def test_sensors_typed_other_are_known_by_name_with_a_word_about_it(raw_root, plain, tmp_path):
    first_session(raw_root)
    types = {name: "OTHER" if kind == "mag" else "MISC" for name, kind in zip(RAW_NAMES, RAW_TYPES, strict=True)}
    table = pd.DataFrame({"name": list(types), "type": list(types.values())})
    table.to_csv(of_session(raw_root, 1, "channels.tsv"), sep="\t", index=False)
    with pytest.warns(UserWarning, match="4 channels typed OTHER in channels.tsv are MEG sensors and taken as such"):
        told = Trials.load(prepare(raw_root, tmp_path / "told", "official")[0])
    np.testing.assert_array_equal(told.load_array(), plain.session(1).load_array())
    assert "typed OTHER" in (told.history or {})["notes"][0]


def test_sensors_written_as_misc_are_known_by_name(raw_root, plain, tmp_path):
    first_session(raw_root)
    path = of_session(raw_root, 1, "meg.fif")
    raw = mne.io.read_raw_fif(path, preload=True, verbose="error")
    raw.set_channel_types({n: "misc" for n in RAW_NAMES if n.startswith("M")}, on_unit_change="ignore", verbose="error")
    raw.save(path, overwrite=True, verbose="error")
    with pytest.warns(UserWarning, match="4 channels typed misc .* are MEG sensors by their names"):
        told = Trials.load(prepare(raw_root, tmp_path / "told", "official")[0])
    np.testing.assert_allclose(
        told.load_array(), plain.session(1).load_array(), rtol=0, atol=1e-5 * np.abs(plain.load_array()).max()
    )


def edit_events(root: Path, change) -> None:
    path = of_session(root, 1, "events.tsv")
    change(pd.read_csv(path, sep="\t")).to_csv(path, sep="\t", index=False, na_rep="N/A")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda e: e.iloc[:-1], r"the events of session 1 have 12 rows in 1 recordings but .* has 13"),
        (lambda e: e.assign(sample=e["sample"].to_numpy()[::-1]), "row 2 comes before row 1 in time"),
        (lambda e: e.assign(sample=e["sample"] + 1900), "at sample .* but its trigger at .* of another recording"),
        (lambda e: e.assign(value=e["value"].to_numpy()[::-1]), "first in row 1: .* misordered"),
        (lambda e: e.drop(columns="sample"), "has no column sample"),
        (lambda e: e.assign(value="many"), "something else than numbers"),
    ],
)
def test_events_that_do_not_fit_are_refused(raw_root, tmp_path, change, match):
    edit_events(raw_root, change)
    refuse(raw_root, tmp_path, match)


def test_triggers_must_be_as_many_as_events(raw_root, tmp_path):
    edit_events(raw_root, lambda events: events.iloc[:-1])
    table = pd.read_csv(raw_root / "sourcedata/sample_attributes_P1.csv")
    write_csv(raw_root, table.drop(index=int(np.flatnonzero(table.session_nr == 1)[-1])))
    refuse(raw_root, tmp_path, r"has 13 triggers of value 64 but its events.tsv has 12 rows")


def test_missing_tables_and_recordings_are_refused(raw_root, tmp_path):
    csv = raw_root / "sourcedata/sample_attributes_P1.csv"
    kept = csv.read_bytes()
    csv.unlink()
    refuse(raw_root, tmp_path, "sample_attributes_P1.csv is missing: fetch it, it says which images were seen")
    csv.write_bytes(kept)
    of_session(raw_root, 1, "events.tsv").unlink()
    refuse(raw_root, tmp_path, "run-01_events.tsv is missing")
    shutil.rmtree(raw_root / "sub-BIGMEG1/ses-01")
    with pytest.warns(UserWarning, match="there is no recording of session 1"):
        trials = Trials.load(prepare(raw_root, tmp_path / "out")[0])
    assert set(np.asarray(trials.sessions)) == {2}


def test_recordings_that_differ_or_are_cut_are_refused(raw_root, tmp_path):
    path = of_session(raw_root, 2, "meg.fif")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refuse(raw_root, tmp_path, "_meg.fif is truncated or not a FIF file")
    path.write_bytes(whole)
    raw = mne.io.read_raw_fif(path, preload=True, verbose="error")
    raw.copy().drop_channels("MZF02-1609").save(path, overwrite=True, verbose="error")
    refuse(raw_root, tmp_path, "has 2 sensors, not the 3 of .* they differ in MZF02-1609")
    raw.copy().reorder_channels(RAW_NAMES[::-1]).save(path, overwrite=True, verbose="error")
    refuse(raw_root, tmp_path, "not the 3 of .* in their order; they differ in MZF02-1609, MLC11-1609")


def test_recordings_that_cannot_be_used_are_refused(raw_root, tmp_path):
    first_session(raw_root)
    path = of_session(raw_root, 1, "meg.fif")
    last = pd.read_csv(of_session(raw_root, 1, "events.tsv"), sep="\t")["sample"].iloc[-1]
    raw = mne.io.read_raw_fif(path, preload=True, verbose="error")
    raw.copy().drop_channels("UPPT001").save(path, overwrite=True, verbose="error")
    refuse(raw_root, tmp_path, "has no channel UPPT001")
    raw.copy().crop(tmax=(last + 900) / 1200).save(path, overwrite=True, verbose="error")
    with pytest.warns(UserWarning, match="shorter than the filter"):
        refuse(raw_root, tmp_path, "the epoch of event 13 cannot be cut whole")
    raw.apply_function(lambda x: 0 * x, picks=np.asarray(["MLO12-1609"]))
    raw.save(path, overwrite=True, verbose="error")
    refuse(raw_root, tmp_path, "channel MLO12-1609 is flat before the image")


@pytest.mark.slow(part=6)
def test_the_simulated_layout(tmp_path):
    root = write_things_meg(
        tmp_path / "root", train_concepts=6, images_per_concept=2, test_concepts=3, test_repeats=4, sessions=2
    )
    trials = Trials.load(prepare(root, tmp_path / "out")[0])
    assert (trials.simulated, trials.shape) == (True, (6 * 2 + 3 * 4, 271, 201))
    assert set(trials.split("test").repeats().values()) == {4}
    assert not set(trials.split("test").concepts) & set(trials.split("train").concepts)
