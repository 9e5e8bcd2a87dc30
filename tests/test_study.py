from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hvf import alignment
from hvf.alignment.training_set import TrainingSet
from hvf.config import Config, DataConfig, HvfError, with_settings
from hvf.data.trials.provenance import SIMULATED_TITLE
from hvf.data.trials.splitting import held_out
from hvf.data.trials.trials import Trials
from hvf.runs import cache_dir
from hvf.simulation import stimuli
from hvf.simulation import study as simulated
from hvf.study import open_study

TINY = DataConfig(train_concepts=3, images_per_concept=2, test_concepts=2, train_repeats=2, test_repeats=3)


@pytest.fixture
def files(tmp_path) -> DataConfig:
    """20 images of 5 concepts; the response to image i is i on the first channel."""
    x = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    x[:, 0] = np.arange(20)
    np.save(tmp_path / "spikes.npy", x)
    for i in range(20):
        (tmp_path / "images" / f"c{i // 4}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / "images" / f"c{i // 4}" / f"{i:02d}.png")
    trials, images = str(tmp_path / "spikes.npy"), str(tmp_path / "images")
    return DataConfig(study="files", trials=trials, images=images, test_images=6)


def test_simulated_study(monkeypatch, tmp_path):
    simulated._built_once.cache_clear()  # other tests have built this brain
    monkeypatch.setenv("HVF_CACHE", str(tmp_path / "cache"))
    study = open_study(TINY)
    assert study.simulated
    assert "simulated" in study.note
    assert study.train.simulated
    assert study.train.load_array().shape == (6, 63, 80)
    assert study.test.load_array().shape == (2, 63, 80)
    assert study.train.image_ids.tolist() == list(study.train_images.ids)
    assert study.train.concepts.tolist() == list(study.train_images.concepts)
    single = study.single_trials("train", study.train_images.select([1, 0]))
    named = dict(zip(study.train_images.ids, study.train_images.concepts, strict=True))
    assert single.concepts.tolist() == [named[name] for name in single.image_ids.tolist()]
    assert not set(study.train_images.concepts) & set(study.test_images.concepts)

    calls = []
    monkeypatch.setattr(simulated, "noisy_trials", lambda *a: calls.append(a))
    monkeypatch.setattr(stimuli, "draw", lambda *a: calls.append(a))
    again = open_study(TINY)  # from the cache: nothing is simulated or rendered
    assert not calls
    np.testing.assert_array_equal(again.train.load_array(), study.train.load_array())
    np.testing.assert_array_equal(again.test_images.array(), study.test_images.array())
    monkeypatch.undo()

    monkeypatch.setenv("HVF_CACHE", str(tmp_path / "cache"))
    kept = sorted(p for p in cache_dir().rglob("*") if p.is_file())
    assert len(kept) == 7  # two sets of images, two of trials with a sidecar each, a brain
    for path in kept:  # a damaged cache is made anew
        path.write_bytes(path.read_bytes()[:50])
    simulated._built_once.cache_clear()
    np.testing.assert_array_equal(open_study(TINY).test.load_array(), study.test.load_array())
    picked = open_study(replace(TINY, ch_names=("Oz", "O1")))
    np.testing.assert_array_equal(picked.test.load_array(), study.test.pick(("Oz", "O1")).load_array())


def test_a_cache_that_cannot_be_written_only_costs_time(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HVF_CACHE", str(tmp_path / "file" / "cache"))
    assert len(open_study(TINY).test) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subject": 11}, "subject 11 does not exist: simulated-eeg has subjects 1 to 10"),
        ({"subject": 0}, "1 to 10"),
        ({"study": "simulated-meg", "subject": 8}, "1 to 4"),
        (
            {"study": "things"},
            "data.study is 'things'; there is simulated-eeg, simulated-eeg-hard, simulated-meg, files",
        ),
        ({"study": "files"}, "data.train_concepts is for simulated studies, not for 'files': leave it out"),
        ({"trials": "x.npy"}, "data.trials is for your own files, data.study 'files', not for 'simulated-eeg'"),
        ({"train_sessions": (1,)}, "data.train_sessions is for your own files"),
        ({"neighbours": 1}, "data.neighbours is for your own files"),
        ({"test_concepts": 201}, "test_concepts must lie between 1 and 200"),
        ({"train_concepts": 1655}, "train_concepts must lie between 1 and 1654"),
        ({"tmax": 0.01}, "no two samples"),
        ({"ch_names": ("Oz", "Fz")}, "no channel Fz"),
    ],
)
def test_what_does_not_exist_is_refused(settings, message):
    with pytest.raises(HvfError, match=message):
        open_study(replace(TINY, **settings))


def test_a_study_of_files_needs_both():
    with pytest.raises(HvfError, match="needs both trials"):
        open_study(DataConfig(study="files"))


def test_files_study_pairs_rows_with_images(files):
    study = open_study(files)
    assert not study.simulated
    assert len(study.test) == len(study.test_images) == 6
    assert not set(study.train_images.concepts) & set(study.test_images.concepts)
    for trials, images in ((study.train, study.train_images), (study.test, study.test_images)):
        assert trials.image_ids.tolist() == list(images.ids)
        assert trials.load_array()[:, 0, 0].tolist() == images.array()[:, 0, 0, 0].tolist()
    other = open_study(replace(files, split_seed=1))
    assert other.test_images.ids != study.test_images.ids
    assert open_study(files).test_images.ids == study.test_images.ids


def test_simulated_recordings_are_called_so_without_a_mark_of_their_own(files, tmp_path):
    (tmp_path / "README.md").write_text(f"{SIMULATED_TITLE}\n")
    study = open_study(files)
    assert study.simulated
    assert "simulated" in study.note


def test_files_study_refuses_faults(files, tmp_path):
    with pytest.raises(HvfError, match="hold out 20 of 20"):
        open_study(replace(files, test_images=20))
    with pytest.raises(HvfError, match="leaves no other concept"):
        open_study(replace(files, test_images=17))
    next((tmp_path / "images").rglob("07.png")).write_bytes(b"\x89PNG")
    with pytest.raises(HvfError, match=r"07\.png"):
        open_study(files)
    next((tmp_path / "images").rglob("07.png")).unlink()
    with pytest.raises(HvfError, match="20 trials but there are 19 images"):
        open_study(files)


def test_every_study_marks_what_may_not_be_trained_on(files):
    for data in (TINY, files):
        study = open_study(data)
        assert set(study.train.splits) == {"train"}
        assert set(study.test.splits) == {"test"}
        features = {"a:a": np.random.default_rng(0).normal(size=(len(study.test), 4)).astype(np.float32)}
        config = with_settings(Config(), {"targets.specs": ("a:a",), "align.epochs": 1})
        said = f"{len(study.test)} of the trials to be trained on are test trials"
        with pytest.raises(HvfError, match=said):
            alignment.fit(TrainingSet(study.test, features, study.test_images.concepts), config)
        both = Trials.concatenate([study.train, study.test])
        both_features = {"a:a": np.zeros((len(both), 4), np.float32)}
        concepts = (*study.train_images.concepts, *study.test_images.concepts)
        with pytest.raises(HvfError, match=said):  # among others, and in another order, too
            alignment.fit(TrainingSet(both.select(np.arange(len(both))[::-1]), both_features, concepts), config)


def test_held_out_images_of_single_concepts_are_a_random_draw():
    concepts = tuple(f"c{i}" for i in range(50))
    train, test = held_out(concepts, 10, seed=0)
    assert len(test) == 10
    assert sorted([*train, *test]) == list(range(50))
    counts = np.bincount(np.concatenate([held_out(concepts, 10, seed=s)[1] for s in range(200)]), minlength=50)
    assert counts.min() > 15
    assert counts.max() < 70


def test_held_out_concepts_are_never_split():
    concepts = tuple(f"c{i}" for i in np.random.default_rng(0).integers(0, 12, 90))
    for seed in range(20):
        train, test = held_out(concepts, 25, seed)
        assert len(test) == 25
        assert list(test) == sorted(test)
        assert not {concepts[i] for i in train} & {concepts[i] for i in test}


def test_the_same_picture_twice_is_never_on_both_sides(tmp_path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(40):  # image i + 20 is image i again
        Image.new("RGB", (8, 8), (i % 20 * 10, 0, 0)).save(folder / f"{i:02d}.png")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32))
    data = DataConfig(study="files", trials=str(tmp_path / "x.npy"), images=str(folder), test_images=10)
    study = open_study(data)
    assert set(study.train_images.content_hashes()).isdisjoint(study.test_images.content_hashes())


def test_images_numbered_without_zeros_are_refused(tmp_path) -> None:
    """image10 sorts before image2 as text: pairing by position would shift most of the trials."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in (1, 2, 10):
        Image.new("RGB", (8, 8), (i * 20, 0, 0)).save(folder / f"image{i}.png")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32))
    data = DataConfig(study="files", trials=str(tmp_path / "x.npy"), images=str(folder), test_images=1)
    with pytest.raises(HvfError, match="pad the numbers"):
        open_study(data)
    for i in (1, 2):
        (folder / f"image{i}.png").rename(folder / f"image{i:02d}.png")
    assert len(open_study(data).test) == 1
