from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hvf.config import DataConfig, HvfError
from hvf.data import simulated
from hvf.data.study import held_out, open_study
from hvf.runs import cache_dir

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
    monkeypatch.setenv("HVF_CACHE", str(tmp_path / "cache"))
    study = open_study(TINY)
    assert study.simulated
    assert "simulated" in study.note
    assert study.train.simulated
    assert study.train.x_NCT.shape == (6, 63, 80)
    assert study.test.x_NCT.shape == (2, 63, 80)
    assert study.train.image_ids.tolist() == list(study.train_images.ids)
    assert not set(study.train_images.concepts) & set(study.test_images.concepts)

    calls = []
    monkeypatch.setattr(simulated, "_noisy", lambda *a: calls.append(a))
    monkeypatch.setattr(simulated, "_render", lambda *a: calls.append(a))
    again = open_study(TINY)  # from the cache: nothing is simulated or rendered
    assert not calls
    np.testing.assert_array_equal(again.train.x_NCT, study.train.x_NCT)
    np.testing.assert_array_equal(again.test_images.array(), study.test_images.array())
    monkeypatch.undo()

    monkeypatch.setenv("HVF_CACHE", str(tmp_path / "cache"))
    kept = sorted(p for p in cache_dir().rglob("*") if p.is_file())
    assert len(kept) == 4
    for path in kept:  # a damaged cache is made anew
        path.write_bytes(path.read_bytes()[:50])
    np.testing.assert_array_equal(open_study(TINY).test.x_NCT, study.test.x_NCT)
    picked = open_study(replace(TINY, ch_names=("Oz", "O1")))
    np.testing.assert_array_equal(picked.test.x_NCT, study.test.pick(("Oz", "O1")).x_NCT)


def test_a_cache_that_cannot_be_written_only_costs_time(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HVF_CACHE", str(tmp_path / "file" / "cache"))
    assert len(open_study(TINY).test) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subject": 11}, "simulated-eeg has no subject 11; choose one of 1 to 10"),
        ({"subject": 0}, "1 to 10"),
        ({"study": "simulated-meg", "subject": 8}, "1 to 4"),
        ({"study": "things"}, "no study 'things'; choose one of simulated-eeg, simulated-meg, files"),
        ({"study": "files"}, "needs both trials"),
        ({"test_concepts": 201}, "test_concepts must lie between 1 and 200"),
        ({"train_concepts": 1655}, "train_concepts must lie between 1 and 1654"),
        ({"tmax": 0.0}, "no two samples"),
        ({"ch_names": ("Oz", "Fz")}, "no channel Fz"),
    ],
)
def test_what_does_not_exist_is_refused(settings, message):
    with pytest.raises(HvfError, match=message):
        open_study(replace(TINY, **settings))


def test_files_study_pairs_rows_with_images(files):
    study = open_study(files)
    assert not study.simulated
    assert len(study.test) == len(study.test_images) == 6
    assert not set(study.train_images.concepts) & set(study.test_images.concepts)
    for trials, images in ((study.train, study.train_images), (study.test, study.test_images)):
        assert trials.image_ids.tolist() == list(images.ids)
        assert trials.x_NCT[:, 0, 0].tolist() == images.array()[:, 0, 0, 0].tolist()
    other = open_study(replace(files, split_seed=1))
    assert other.test_images.ids != study.test_images.ids
    assert open_study(files).test_images.ids == study.test_images.ids


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
