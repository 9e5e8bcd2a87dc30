"""hvf.data.things_meg.prepare on small published epochs: what is kept, in which order, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest

from hvf.config import HvfError
from hvf.data.things_meg import ctf
from hvf.data.things_meg.prepare import RECIPES, prepare
from hvf.data.things_meg.table import image_numbers, trial_table, zero_shot
from hvf.data.trials.trials import Trials
from tests.data.things_meg.published_layout import (
    CONCEPTS,
    NAMES,
    SESSIONS,
    TESTED,
    refuse,
    sample_attributes,
    several,
    write_csv,
    write_epochs,
)


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
    np.testing.assert_array_equal(trials.load_array(), source.get_data(verbose="error")[rows].astype(np.float32))
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
    official = made["official"].load_array()
    shapes = {name: (t.shape[2], t.tmin, t.values.parts[0].array.dtype.name) for name, t in made.items()}
    assert shapes == {
        "official": (281, -0.1, "float32"),
        "ubp": (201, 0.0, "float16"),
        "neurobridge": (200, 0.0, "float32"),
        "hvf": (201, 0.0, "float16"),
    }
    np.testing.assert_array_equal(
        made["ubp"].load_array(), official[:, :, 20:221].astype(np.float16).astype(np.float32)
    )
    np.testing.assert_array_equal(made["hvf"].load_array(), made["ubp"].load_array())
    train = np.asarray(made["official"].splits) == "train"
    x = official[:, :, 20:220].astype(np.float64)
    mean, sd = x[train].mean((0, 2), keepdims=True), x[train].std((0, 2), keepdims=True)
    np.testing.assert_allclose(made["neurobridge"].load_array(), (x - mean) / sd, rtol=0, atol=1e-6 * np.abs(x).max())
    with_test = (x - x.mean((0, 2), keepdims=True)) / x.std((0, 2), keepdims=True)
    assert (
        np.abs(made["neurobridge"].load_array() - with_test).max() > 1e-4
    )  # scaled by all trials: test data would leak


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
    np.testing.assert_array_equal(without.load_array(), with_metadata.load_array())
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
