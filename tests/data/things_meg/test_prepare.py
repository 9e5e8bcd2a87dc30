"""hvf.data.things_meg.prepare on small files in the published layouts: what is kept, in which order, and what is
refused."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
import pytest

from hvf.config import HvfError
from hvf.data.things_meg import ctf
from hvf.data.things_meg.prepare import RECIPES, prepare
from hvf.data.things_meg.table import image_numbers, trial_table, zero_shot
from hvf.data.trials.trials import Trials
from hvf.simulation.things_meg import write_things_meg

CONCEPTS = ("aardvark", "abacus", "acorn", "camera_lens", "camera1")  # in the order of THINGS
TESTED = {"abacus", "camera_lens"}
EXEMPLARS, REPEATS, SESSIONS = 6, 3, 3
NAMES = tuple(f"ML{region}{row}{column}-1609" for region in "CFOPT" for row in (1, 2) for column in (1, 2, 3))


def sample_attributes(seed: int = 0) -> pd.DataFrame:
    """Per session: some exp trials of every concept, each test image once, a catch trial; in random order."""
    rng = np.random.default_rng(seed)
    sessions = []
    for session in range(1, SESSIONS + 1):
        rows = []
        for category, concept in enumerate(CONCEPTS, 1):
            first = (category - 1) * (EXEMPLARS + 1)
            for exemplar in range(session, EXEMPLARS + 1, SESSIONS):
                path = f"images_meg/{concept}/{concept}_{exemplar:02d}s.jpg"
                rows.append(["exp", first + exemplar, category, path])
            if concept in TESTED:
                last = EXEMPLARS + 1
                rows.append(["test", first + last, category, f"images_test_meg/{concept}_{last:02d}n.jpg"])
        rows.append(["catch", np.nan, np.nan, "images_catch_meg/catch_001.jpg"])
        table = pd.DataFrame(rows, columns=["trial_type", "things_image_nr", "things_category_nr", "image_path"])
        table["session_nr"], table["run_nr"] = session, 1
        sessions.append(table.iloc[rng.permutation(len(table))])
    return pd.concat(sessions, ignore_index=True)


def write_csv(root: Path, table: pd.DataFrame) -> None:
    (root / "sourcedata").mkdir(parents=True, exist_ok=True)
    table.to_csv(root / "sourcedata" / "sample_attributes_P1.csv", index=False)


def write_epochs(root: Path, table: pd.DataFrame, *, told=True, codes=None, sfreq=200.0, spoil=None) -> Path:
    n = len(table)
    x = np.random.default_rng(1).standard_normal((n, len(NAMES), 281)).astype(np.float32)
    if spoil is not None:
        spoil(x)
    codes = table.things_image_nr.fillna(ctf.CATCH).astype(int).to_numpy() if codes is None else codes
    events = np.stack([np.arange(n) * 400 + 100, np.zeros(n, int), codes], axis=1)
    info = mne.create_info(list(NAMES), sfreq, "mag", verbose="error")
    metadata = table if told else None
    epochs = mne.EpochsArray(x, info, events, tmin=-0.1, baseline=None, metadata=metadata, proj=False, verbose="error")
    path = root / "derivatives" / "preprocessed" / "preprocessed_P1-epo.fif"
    path.parent.mkdir(parents=True, exist_ok=True)
    epochs.save(path, split_size="2MB", overwrite=True, verbose="error")
    return path


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """A root with published epochs, three times the table so that there are several parts, and the csv."""
    root = tmp_path_factory.mktemp("meg") / "root"
    write_epochs(root, several(sample_attributes()))
    write_csv(root, several(sample_attributes()))
    assert (root / "derivatives/preprocessed/preprocessed_P1-epo-1.fif").exists()
    return root


def several(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table] * 3, ignore_index=True)


@pytest.fixture
def root(published, tmp_path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "root"))


def test_split_is_by_type_and_concept_and_not_by_counting():
    types = ["exp", "exp", "test", "catch", "exp", "test"]
    concepts = [1, 2, 2, 0, 3, 4]
    assert zero_shot(types, concepts).tolist() == ["train", "", "test", "", "train", "test"]
    with pytest.raises(HvfError, match="unknown trial type 'Exp'; known is exp, test, catch"):
        zero_shot(["Exp"], [1])


def test_images_are_numbered_in_the_order_of_things_and_not_of_a_listing():
    files = [f"{c}/{c}_{i:02d}s.jpg" for c in ("camera1", "camera_lens", "hot-air_balloon", "hot_tub") for i in (2, 1)]
    numbered = image_numbers(files)
    assert [f.split("/")[1] for f in numbered[::2]] == [
        "camera_lens_01s.jpg", "camera1_01s.jpg", "hot_tub_01s.jpg", "hot-air_balloon_01s.jpg",
    ]  # fmt: skip
    assert numbered != sorted(files)


def test_kept_trials_their_order_and_labels(published, tmp_path):
    (path,) = prepare(published, tmp_path / "out", "official")
    trials = Trials.load(path)
    table = several(sample_attributes())
    parts = sorted(p.name for p in (published / "derivatives/preprocessed").iterdir())
    source = mne.read_epochs(published / "derivatives/preprocessed/preprocessed_P1-epo.fif", verbose="error")
    wanted = []
    for split, mine in (("train", (table.trial_type == "exp") & ~table.things_category_nr.isin([2, 4])),
                        ("test", table.trial_type == "test")):  # fmt: skip
        wanted += [(number, row, split) for row, number in table.things_image_nr[mine].items()]
    wanted.sort(key=lambda w: (w[2] == "test", w[0], w[1]))
    rows = [row for _, row, _ in wanted]
    np.testing.assert_array_equal(trials.x_NCT, source.get_data(verbose="error")[rows].astype(np.float32))
    assert np.asarray(trials.splits).tolist() == [split for *_, split in wanted]
    assert np.asarray(trials.sessions).tolist() == table.session_nr.iloc[rows].tolist()
    assert trials.image_ids.tolist() == [Path(p).stem for p in table.image_path.iloc[rows]]
    assert set(trials.split("train").concepts) == {"aardvark", "acorn", "camera1"}
    assert set(trials.split("test").concepts) == TESTED
    assert trials.split("test").repeats() == {"abacus_07n": 3 * SESSIONS, "camera_lens_07n": 3 * SESSIONS}
    assert (trials.ch_names, trials.kind, trials.sfreq, trials.tmin) == (NAMES, "meg", 200.0, -0.1)
    assert (trials.simulated, trials.subject) == (False, "sub-01")
    history = trials.history or {}
    assert history["left_out"] == {"catch": 9, "exp of test concepts": 36}
    assert set(history["sources"]) == {
        "sourcedata/sample_attributes_P1.csv",
        *(f"derivatives/preprocessed/{part}" for part in parts),
    }


def test_recipes_differ_as_published(published, tmp_path):
    made = {name: Trials.load(prepare(published, tmp_path / name, name)[0]) for name in RECIPES}
    official = made["official"].x_NCT
    shapes = {name: (t.shape[2], t.tmin, t.view.parts[0].array.dtype.name) for name, t in made.items()}
    assert shapes == {
        "official": (281, -0.1, "float32"),
        "ubp": (201, 0.0, "float16"),
        "neurobridge": (200, 0.0, "float32"),
        "hvf": (201, 0.0, "float16"),
    }
    np.testing.assert_array_equal(made["ubp"].x_NCT, official[:, :, 20:221].astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(made["hvf"].x_NCT, made["ubp"].x_NCT)
    train = np.asarray(made["official"].splits) == "train"
    x = official[:, :, 20:220].astype(np.float64)
    mean, sd = x[train].mean((0, 2), keepdims=True), x[train].std((0, 2), keepdims=True)
    np.testing.assert_allclose(made["neurobridge"].x_NCT, (x - mean) / sd, rtol=0, atol=1e-6 * np.abs(x).max())
    with_test = (x - x.mean((0, 2), keepdims=True)) / x.std((0, 2), keepdims=True)
    assert np.abs(made["neurobridge"].x_NCT - with_test).max() > 1e-4  # scaled by all trials: test data would leak


def test_what_is_made_is_kept_and_not_overwritten_by_another_recipe(root, tmp_path):
    (path,) = prepare(root, tmp_path / "out", "ubp")
    first = path.stat().st_mtime_ns
    assert prepare(root, tmp_path / "out", "ubp", [1]) == [path]
    assert path.stat().st_mtime_ns == first
    with pytest.raises(HvfError, match="made by the recipe ubp, not official"):
        prepare(root, tmp_path / "out", "official")
    write_epochs(root, several(sample_attributes()), spoil=lambda x: x.__imul__(2))
    prepare(root, tmp_path / "out", "ubp")
    assert path.stat().st_mtime_ns != first


def test_without_metadata_the_csv_says_what_was_seen(root, tmp_path):
    with_metadata = Trials.load(prepare(root, tmp_path / "a")[0])
    write_epochs(root, several(sample_attributes()), told=False)
    without = Trials.load(prepare(root, tmp_path / "b")[0])
    assert without.image_ids.tolist() == with_metadata.image_ids.tolist()
    np.testing.assert_array_equal(without.x_NCT, with_metadata.x_NCT)
    (root / "sourcedata/sample_attributes_P1.csv").unlink()
    refuse(root, tmp_path, r"has no metadata, and .*sample_attributes_P1.csv is missing: fetch it")


def test_without_paths_the_images_are_numbered_by_their_folder(tmp_path):
    table = sample_attributes()
    for path in table.image_path[table.trial_type != "catch"]:
        concept = Path(path).stem.rsplit("_", 1)[0]
        file = tmp_path / "Images" / concept / Path(path).name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    for concept in set(CONCEPTS) - TESTED:  # the image that would be a test image is in THINGS all the same
        (tmp_path / "Images" / concept / f"{concept}_07n.jpg").touch()
    named = trial_table(table, "the table", tmp_path)
    numbered = trial_table(table.drop(columns="image_path"), "the table", tmp_path)
    pd.testing.assert_frame_equal(named, numbered)
    shutil.rmtree(tmp_path / "Images" / "aardvark")
    with pytest.raises(HvfError, match="has 28 images, not all those that are numbered"):
        trial_table(table.drop(columns="image_path"), "the table", tmp_path)


def refuse(root: Path, tmp_path: Path, match: str, recipe: str = "ubp") -> None:
    out = tmp_path / "refused"
    with pytest.raises(HvfError, match=match) as error:
        prepare(root, out, recipe)
    assert "\n" not in str(error.value)
    assert not out.exists() or not any(out.rglob("*")), "something half-written remains"


def test_missing_or_cut_parts_are_refused(root, tmp_path):
    folder = root / "derivatives" / "preprocessed"
    first, second = folder / "preprocessed_P1-epo.fif", folder / "preprocessed_P1-epo-1.fif"
    for file in (first, second):
        whole = file.read_bytes()
        for size in (0, 30, 5000, len(whole) // 2, len(whole) - 100, len(whole) - 4):
            file.write_bytes(whole[:size])
            refuse(root, tmp_path, f"{file.name} is truncated or not a FIF file .*: fetch it again")
        file.write_bytes(whole)
    kept = second.read_bytes()
    second.unlink()
    refuse(root, tmp_path, "the part .*preprocessed_P1-epo-1.fif of preprocessed_P1-epo.fif is missing")
    second.write_bytes(kept)
    first.unlink()
    refuse(root, tmp_path, "preprocessed_P1-epo.fif is missing, though there is preprocessed_P1-epo-1.fif")


def test_damage_inside_a_part_is_refused(root, tmp_path):
    file = root / "derivatives/preprocessed/preprocessed_P1-epo-1.fif"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] + whole[-16:])  # which MNE reads as if there were no more epochs
    refuse(root, tmp_path, r"has 117 rows but preprocessed_P1-epo.fif has \d+ epochs, its parts included")


def test_metadata_that_does_not_fit_is_refused(root, tmp_path):
    table = several(sample_attributes())
    write_csv(root, table.iloc[:-1])
    refuse(root, tmp_path, "has 116 rows but preprocessed_P1-epo.fif has 117 epochs")
    write_csv(root, table.iloc[::-1])
    refuse(root, tmp_path, r"differ in \d+ trials, first in row \d+: .* one is misordered")
    write_csv(root, table.drop(columns="things_image_nr"))
    refuse(root, tmp_path, "has no column things_image_nr")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.replace({"trial_type": {"exp": "training"}}), "unknown trial type 'training'; known is exp, test"),
        (lambda t: t.drop(columns="things_category_nr"), "has no column things_category_nr"),
        (lambda t: t.assign(image_path=t.image_path[::-1].to_numpy()), "contradicts itself: the number"),
        (lambda t: t.assign(things_category_nr=1.0), "contradicts itself: the category 1 goes with the concepts"),
        (lambda t: t.assign(things_category_nr=np.nan), r"row \d has no things_category_nr \(None\)"),
        (lambda t: t.iloc[[i for i, kind in enumerate(t.trial_type) if kind == "catch"]], "no trial of an image"),
    ],
)
def test_tables_that_make_no_sense_are_refused(tmp_path, change, match):
    root = tmp_path / "root"
    table = change(sample_attributes())
    codes = sample_attributes().things_image_nr.fillna(ctf.CATCH).astype(int).to_numpy()
    write_epochs(root, table, codes=codes if len(table) == len(codes) else None)
    refuse(root, tmp_path, match)


def test_shuffled_events_are_refused(tmp_path):
    table = sample_attributes()
    codes = table.things_image_nr.fillna(ctf.CATCH).astype(int).to_numpy()
    write_epochs(tmp_path / "root", table, codes=np.random.default_rng(0).permutation(codes))
    refuse(tmp_path / "root", tmp_path, r"\d+ events of .* are of other images than the metadata .* misordered")


def test_another_window_is_refused(tmp_path):
    root = tmp_path / "root"
    write_epochs(root, sample_attributes(), sfreq=250.0)
    refuse(root, tmp_path, "281 samples from -0.1 s at 250 Hz, not the published 281 from -0.1 s at 200 Hz")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5])
def test_values_that_cannot_be_stored_are_refused(tmp_path, value):
    def spoil(x):
        x[:, 7, 100] = value

    root = tmp_path / "root"
    write_epochs(root, sample_attributes(), spoil=spoil)
    refuse(root, tmp_path, f"channel {NAMES[7]} is flat before the image, not finite or too large")
    if value == 1e5:  # too large for float16 alone
        prepare(root, tmp_path / "out", "official")


def test_what_is_not_there_is_named(root, tmp_path):
    with pytest.raises(HvfError, match="unknown recipe 'upb'; did you mean 'ubp'"):
        prepare(root, tmp_path / "out", "upb")
    with pytest.raises(HvfError, match="has no subject 4; there is 1"):
        prepare(root, tmp_path / "out", subjects=[4])
    with pytest.raises(HvfError, match="is not THINGS-MEG: it has neither"):
        prepare(tmp_path, tmp_path / "out")
    with pytest.raises(HvfError, match="there is no folder"):
        prepare(tmp_path / "nowhere", tmp_path / "out")


# --- raw recordings ---------------------------------------------------------------------------------------------------

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
    np.testing.assert_array_equal(trials.x_NCT, plain.session(1).x_NCT)


def test_sensors_typed_other_are_known_by_name_with_a_word_about_it(raw_root, plain, tmp_path):
    first_session(raw_root)
    types = {name: "OTHER" if kind == "mag" else "MISC" for name, kind in zip(RAW_NAMES, RAW_TYPES, strict=True)}
    table = pd.DataFrame({"name": list(types), "type": list(types.values())})
    table.to_csv(of_session(raw_root, 1, "channels.tsv"), sep="\t", index=False)
    with pytest.warns(UserWarning, match="4 channels typed OTHER in channels.tsv are MEG sensors and taken as such"):
        told = Trials.load(prepare(raw_root, tmp_path / "told", "official")[0])
    np.testing.assert_array_equal(told.x_NCT, plain.session(1).x_NCT)
    assert "typed OTHER" in (told.history or {})["notes"][0]


def test_sensors_written_as_misc_are_known_by_name(raw_root, plain, tmp_path):
    first_session(raw_root)
    path = of_session(raw_root, 1, "meg.fif")
    raw = mne.io.read_raw_fif(path, preload=True, verbose="error")
    raw.set_channel_types({n: "misc" for n in RAW_NAMES if n.startswith("M")}, on_unit_change="ignore", verbose="error")
    raw.save(path, overwrite=True, verbose="error")
    with pytest.warns(UserWarning, match="4 channels typed misc .* are MEG sensors by their names"):
        told = Trials.load(prepare(raw_root, tmp_path / "told", "official")[0])
    np.testing.assert_allclose(told.x_NCT, plain.session(1).x_NCT, rtol=0, atol=1e-5 * np.abs(plain.x_NCT).max())


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
