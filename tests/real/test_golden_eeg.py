"""THINGS-EEG2 preprocessing equals what the field's own code made of the same raw files, and only so.

The tolerances, and the wrong choices that must be outside of them, are those of the golden sets' READMEs.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache

import mne
import numpy as np
import pytest
import scipy.signal

from hvf.data.things_eeg2 import prepare as things_eeg
from hvf.data.things_eeg2 import preprocessing, third_party
from hvf.data.things_eeg2.prepare import fill_session, plan, read_epochs
from hvf.data.things_eeg2.preprocessing import PARTS, POSTERIOR, RECIPES, workers
from hvf.data.things_eeg2.raw import session_files
from hvf.data.trials.trials import Trials
from hvf.pickles import loading

RAW = {"official": "float64", "nice": "float64", "neurobridge": "float32", "neurobridge-zscore": "float32"}
TOLERANCE = {"float64": 1e-9, "float32": 1e-6}  # of the largest magnitude
FOLDERS = {
    "official": "things_eeg2_raw/preprocessed_data",
    "nice": "nice_250hz/Preprocessed_data_250Hz",
    "ubp": "ubp_whiten/Preprocessed_data_250Hz_whiten",
    "neurobridge": "neurobridge/mvnn",
    "neurobridge-zscore": "neurobridge/zscore",
}


@pytest.fixture(scope="module")
def golden(shared_data):
    return shared_data / "golden"


@pytest.fixture(scope="module")
def golden_plan(golden):
    stimuli = third_party.read_metadata(golden / "things_eeg2_raw")
    files = session_files(golden / "things_eeg2_raw" / "raw_data" / "sub-01")
    return lambda recipe: plan(files, recipe, stimuli)


@pytest.fixture(scope="module")
def made(golden_plan):
    """What a recipe makes of the raw files, float64: training (I, R, C, T) and test."""

    def run(recipe, change=lambda work: work):
        work = change(golden_plan(RECIPES[recipe] if isinstance(recipe, str) else recipe))
        out_NCT = np.full(work.shape, np.nan)
        with workers(2) as pool:
            for pair in work.recordings:
                fill_session(work, pair, out_NCT, pool)
        assert np.isfinite(out_NCT).all()
        shapes = [(len(np.unique(work.images[work.splits == part])), -1, *out_NCT.shape[1:]) for part in PARTS]
        return [out_NCT[work.splits == part].reshape(shape) for part, shape in zip(PARTS, shapes, strict=True)]

    return run


def expected(golden, recipe):
    folder = golden / FOLDERS[recipe] / "sub-01"
    if recipe == "ubp":
        return [loading.load(folder / name)["eeg"] for name in ("train.pt", "test.pt")]
    if recipe.startswith("neurobridge"):
        parts = [np.load(folder / name) for name in ("train.npy", "test.npy")]
        return [x.reshape(-1, *x.shape[2:]) for x in parts]
    return [loading.load(folder / f"preprocessed_eeg_{part}.npy")["preprocessed_eeg_data"] for part in PARTS]


def error(ours, theirs):
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("recipe", RAW)
def test_recipe_equals_the_published_code(golden, made, recipe):
    for ours, theirs in zip(made(recipe), expected(golden, recipe), strict=True):
        assert theirs.dtype == RAW[recipe]
        assert error(ours, theirs) <= TOLERANCE[RAW[recipe]]


def test_ubp_and_hvf_equal_ubp_in_float16(golden, made):
    channels = [preprocessing.FRONT_TO_BACK.index(name) for name in POSTERIOR]
    for whole, posterior, theirs in zip(made("ubp"), made("hvf"), expected(golden, "ubp"), strict=True):
        assert theirs.dtype == np.float16
        for ours, part in ((whole, theirs), (posterior, theirs[:, :, channels])):
            ours = ours.astype(np.float16)
            step = np.spacing(np.maximum(np.abs(ours), np.abs(part)))
            assert (np.abs(ours.astype(float) - part.astype(float)) <= step).all()
            assert (ours == part).mean() > 0.999


def test_steps_of_the_official_code(golden, golden_plan):
    intermediate = np.load(golden / "things_eeg2_raw" / "intermediate.npz")
    work = golden_plan(RECIPES["official"])
    with workers(1) as pool:
        for pair in work.recordings:
            epochs = {recording.part: read_epochs(work, recording, pool) for recording in pair}
            matrix_CC, _ = preprocessing.normaliser(work.recipe, epochs.values(), work.fitted, pool)
            for recording in pair:
                key = f"{recording.part}_ses-{recording.session:02d}"
                assert (recording.codes_I == intermediate[f"img_conditions_{key}"]).all()
                x_IRCT = epochs[recording.part]
                assert error(x_IRCT, intermediate[f"epoched_{key}"]) <= 1e-6
                assert error(matrix_CC @ x_IRCT, intermediate[f"whitened_{key}"]) <= 1e-6


def test_names_and_times_of_the_official_code(golden, golden_plan):
    held = loading.load(golden / FOLDERS["official"] / "sub-01" / "preprocessed_eeg_test.npy")
    work = golden_plan(RECIPES["official"])
    assert list(work.ch_names) == held["ch_names"]
    assert work.shape[2] == len(held["times"])
    held = loading.load(golden / FOLDERS["nice"] / "sub-01" / "preprocessed_eeg_test.npy")
    assert list(golden_plan(RECIPES["nice"]).ch_names) == held["ch_names"]
    assert np.allclose(held["times"][-250:], np.arange(250) / 250)


# --- what must not pass -----------------------------------------------------------------------------------------------


def unstandardised(x_BCN):
    """Ledoit-Wolf as above, of features as they are."""
    from sklearn.covariance import ledoit_wolf

    return np.stack([ledoit_wolf(x.T)[0] for x in x_BCN])


@cache
def unpadded(recipe, sfreq):
    start, stop = preprocessing.window(recipe, sfreq)
    baseline = (np.arange(start, stop) <= 0) / (1 - start)
    cut = np.eye(stop - start) - np.outer(baseline, np.ones(stop - start))
    n_times = round((stop - start) * recipe.sfreq / sfreq)
    first = round((recipe.tmin_kept - recipe.tmin) * recipe.sfreq)
    return np.ascontiguousarray(scipy.signal.resample(cut, n_times, axis=1)[:, first:])


@cache
def short_baseline(recipe, sfreq):
    """The baseline ends before the sample at 0 s."""
    start, stop = preprocessing.window(recipe, sfreq)
    settings = {"npad": "auto", "window": "auto", "pad": "edge", "verbose": "error"}
    operator = mne.filter.resample(np.eye(stop - start), recipe.sfreq, sfreq, **settings)
    operator = operator - np.outer((np.arange(start, stop) < 0) / -start, operator.sum(axis=0))
    return np.ascontiguousarray(operator[:, round((recipe.tmin_kept - recipe.tmin) * recipe.sfreq) :])


@pytest.mark.parametrize("recipe", ["official", "nice"])
@pytest.mark.parametrize(
    ("name", "wrong", "least"),
    [
        ("shrunk_covariances", unstandardised, 1e-2),
        ("epoch_operator", unpadded, 1e-2),
        ("epoch_operator", short_baseline, 1e-4),
    ],
)
def test_a_wrong_step_is_outside_the_tolerance(golden, made, monkeypatch, recipe, name, wrong, least):
    for module in (preprocessing, things_eeg):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, wrong)
    assert error(made(recipe)[1], expected(golden, recipe)[1]) > least


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("official", {"fitted_on": ("training",)}),
        ("official", {"shuffled": False}),
        ("official", {"normalisation": "epochs"}),
        ("nice", {"fitted_on": PARTS}),
        ("nice", {"shuffled": False}),
        ("nice", {"normalisation": "zscore"}),
        ("neurobridge", {"shuffled": True}),
        ("neurobridge-zscore", {"normalisation": "epochs"}),
    ],
)
def test_a_wrong_recipe_is_outside_the_tolerance(golden, made, recipe, changes):
    ours = made(replace(RECIPES[recipe], **changes))
    assert max(error(a, b) for a, b in zip(ours, expected(golden, recipe), strict=True)) > 1e-2


def test_shuffled_events_are_outside_the_tolerance(golden, made):
    def swap(work):
        pair = work.recordings[0]
        first_IR = np.random.default_rng(0).permutation(pair[0].first_IR)
        return replace(work, recordings=((replace(pair[0], first_IR=first_IR), pair[1]), *work.recordings[1:]))

    assert error(made("nice", swap)[0], expected(golden, "nice")[0]) > 0.1


# --- as a user gets them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_prepare_writes_the_same_trials(golden, made, tmp_path, recipe):
    root = golden / "things_eeg2_raw"
    (path,) = things_eeg.prepare(root, tmp_path, recipe, jobs=2)
    trials = Trials.load(path)
    assert (trials.subject, trials.kind, trials.simulated) == ("sub-01", "eeg", False)
    assert trials.sfreq == RECIPES[recipe].sfreq
    stimuli = third_party.read_metadata(root)
    for split, part, x_IRCT in zip(("train", "test"), PARTS, made(recipe), strict=True):
        own = trials.split(split)
        x_NCT = x_IRCT.reshape(-1, *x_IRCT.shape[2:])
        assert error(own.load_array(), x_NCT) < (1e-3 if RECIPES[recipe].dtype == "float16" else 1e-6)
        assert list(dict.fromkeys(own.image_ids)) == stimuli[part].image_ids.tolist()
        assert set(own.repeats().values()) == {x_IRCT.shape[1]}
    assert trials.history["repeats"] == {"training": 4, "test": 6}
    assert len(trials.history["sources"]) == 5
    late = {} if recipe == "official" else {"raw_data/sub-01/ses-01/raw_eeg_training.npy": 1}
    assert trials.history["too_short"] == late
    before = path.stat().st_mtime_ns
    assert things_eeg.prepare(root, tmp_path, recipe) == [path]
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("recipe", FOLDERS)
def test_what_peers_made_is_read(golden, tmp_path, recipe):
    folder = tmp_path / "peer"
    shutil.copytree(golden / FOLDERS[recipe], folder)
    shutil.copy(golden / "things_eeg2_raw" / "image_metadata.npy", tmp_path)
    read = third_party.read_prepared(folder / "sub-01")
    (path,) = things_eeg.prepare(golden / "things_eeg2_raw", tmp_path / "raw", recipe)
    ours = Trials.load(path)
    for name in ("ch_names", "sfreq", "tmin", "subject", "kind"):
        assert getattr(read, name) == getattr(ours, name), name
    for name in ("image_ids", "concepts", "splits"):
        assert (getattr(read, name) == getattr(ours, name)).all(), name
    if recipe == "ubp":
        assert (read.sessions == ours.sessions).all()
    assert error(read.load_array(), ours.load_array()) < 1e-3
    (path,) = things_eeg.prepare(folder, tmp_path / "converted", recipe)
    converted = Trials.load(path)
    assert (converted.load_array() == read.load_array()).all() or RECIPES[recipe].dtype == "float16"
    assert converted.history["recipe"] == recipe
    beside = {"ubp": 0, "neurobridge": 2, "neurobridge-zscore": 2}  # arrays; beside them a list of images, info.json
    assert len(converted.history["sources"]) == 2 + beside.get(recipe, 1)


def test_ubp_files_serve_the_recipe_hvf(golden, tmp_path):
    ours = Trials.load(things_eeg.prepare(golden / "things_eeg2_raw", tmp_path / "raw", "hvf")[0])
    read = Trials.load(things_eeg.prepare(golden / "ubp_whiten", tmp_path / "peer", "hvf")[0])
    assert read.ch_names == ours.ch_names == POSTERIOR
    assert np.abs(read.load_array() - ours.load_array()).max() <= 2**-8  # a step of float16 at this size


def test_official_files_do_not_serve_the_recipe_hvf(golden, tmp_path):
    with pytest.raises(things_eeg.HvfError, match="official"):
        things_eeg.prepare(golden / "things_eeg2_raw" / "preprocessed_data", tmp_path, "hvf")
    assert not list(tmp_path.iterdir())
