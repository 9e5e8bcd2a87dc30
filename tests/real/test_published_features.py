"""Features and embeddings as the field publishes them: Brain-HIVE's parquet, ATM-S embeddings, CLIP of THINGS."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from hvf.cli import main
from hvf.data.trials.trials import Trials
from hvf.evaluation import retrieval
from hvf.evaluation.others import rank_embeddings, rank_scores
from hvf.registry import HvfError
from hvf.vision.embeddings import load_embeddings, read_embeddings
from hvf.vision.feature_images import open_gallery_features, open_image_set

ENCODERS = ("CLIP-ViT-B-32-laion2B-s34B-b79K", "RN50", "vae")


@pytest.fixture
def brain_hive(shared_data):
    """Embeddings in the published layout, in another order than the images'; and what the authors' code pairs."""
    folder = shared_data / "golden" / "brain_hive_brain" / "brain_hive" / "loader"
    return folder / "embeddings", load_file(folder / "loaded.safetensors")


@pytest.fixture
def named(shared_data, tmp_path):
    """ATM-S embeddings of subject 8 and CLIP features of the images, each beside a list of the images' names."""
    folder, paths = shared_data / "things_eeg2", []
    for name in ("ATM_S_eeg_features_sub-08_test.pt", "ViT-H-14_features_test.pt"):
        paths.append(shutil.copyfile(folder / name, tmp_path / name))
        shutil.copyfile(folder / "test_image_names_200.json", tmp_path / name.replace(".pt", ".json"))
    return paths


def test_published_parquet_is_matched_by_name(brain_hive):
    folder, loaded = brain_hive
    ids = [f"test_{i:05d}" for i in range(10)]  # the order of the authors' trials
    for encoder in ENCODERS:
        table = read_embeddings(folder, encoder)
        assert list(table.names) != ids
        np.testing.assert_array_equal(table.rows_of(ids), loaded[f"emb_{encoder}"])
        assert not np.array_equal(table.x_ND, loaded[f"emb_{encoder}"])  # by order it would be wrong
    gallery = open_gallery_features(f"features:{folder}")
    assert set(gallery.features) == set(ENCODERS)
    rows = [gallery.ids.index(name) for name in ids]
    for encoder in ENCODERS:
        np.testing.assert_array_equal(gallery.features[encoder][rows], loaded[f"emb_{encoder}"])


def test_parts_of_a_published_parquet(shared_data):
    folder = shared_data / "golden" / "brain_hive_prior" / "embeddings"
    for encoder in ("CLIP-ViT-H-14-laion2B-s32B-b79K", "vae"):
        part = folder / f"imagenet-1k_train_{encoder}-part-00000-of-00001.parquet"
        assert read_embeddings(part).names == tuple(f"img_{i:03d}" for i in range(6))
        np.testing.assert_array_equal(load_embeddings(part), load_embeddings(folder, encoder))


def test_published_parquet_as_targets_without_photographs(brain_hive, tmp_path, monkeypatch):
    folder, loaded = brain_hive
    monkeypatch.chdir(tmp_path)
    ids = [f"test_{i:05d}" for i in range(10)]
    channels = [f"EEG{i:03d}" for i in range(17)]
    trials = Trials(loaded["eeg"], ids, "sub-01", 20.0, 0.0, channels, "eeg", splits=["train"] * 7 + ["test"] * 3)
    trials.save(tmp_path / "sub-01_trials.npy")
    specs = [f"features:{folder}#{encoder}" for encoder in ENCODERS]
    command = ["retrieve", "--trials", "sub-01_trials.npy", "--images", specs[0], "--targets", *specs]
    command += ["--epochs", "2", "--align.validation-fraction", "0.3", "--out", "run"]
    assert main(command) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["targets"]["specs"] == specs
    assert open_image_set(specs[0]).ids == tuple(ids)


def test_atm_s_embeddings_are_matched_by_name(named):
    eeg, image = named
    figures = rank_embeddings(eeg, f"{image}#img_features").figures
    assert (figures["retrieval/brain/top1"]["value"], figures["retrieval/brain/top5"]["value"]) == (0.36, 0.725)
    assert figures["retrieval/brain/one_to_one"]["value"] == 0.7  # Hungarian, data/README.md
    # In another order than the gallery's it is the same; under each other's names it finds nothing.
    z_ND, names = load_embeddings(eeg), [one["path"] for one in json.loads(eeg.with_suffix(".json").read_text())]
    order = np.random.default_rng(0).permutation(200)
    np.save(eeg.with_name("shuffled.npy"), z_ND[order])
    eeg.with_name("shuffled.txt").write_text("\n".join(names[i].rpartition("/")[2] for i in order))
    shuffled = rank_embeddings(eeg.with_name("shuffled.npy"), f"{image}#img_features").figures
    assert shuffled["retrieval/brain/top1"]["value"] == 0.36
    assert shuffled["retrieval/brain/one_to_one"]["value"] == 0.7
    eeg.with_name("shuffled.txt").write_text("\n".join(names))
    wrong = rank_embeddings(eeg.with_name("shuffled.npy"), f"{image}#img_features").figures
    low, high = wrong["chance/retrieval/top1"]["ci95"]
    assert low <= wrong["retrieval/brain/top1"]["value"] <= high


def test_scores_of_atm_s_embeddings(named, tmp_path):
    eeg, image = named
    z_MD = load_embeddings(f"{image}#img_features")
    scores_NM = retrieval.similarity(load_embeddings(eeg), z_MD)
    order = np.random.default_rng(1).permutation(200)
    np.save(tmp_path / "scores.npy", scores_NM[:, order])  # column k is image order[k]
    np.save(tmp_path / "columns.npy", np.argsort(order))
    figures = rank_scores(tmp_path / "scores.npy", tmp_path / "columns.npy").figures
    assert (figures["retrieval/brain/top1"]["value"], figures["retrieval/brain/one_to_one"]["value"]) == (0.36, 0.7)
    control = rank_scores(tmp_path / "scores.npy").figures  # without labels row i is column i, which is wrong here
    assert control["retrieval/brain/top1"]["value"] < 0.05


def test_things_images_as_an_image_set(named):
    _, image = named
    images = open_image_set(f"{image}#img_features")
    assert images.ids[0] == "00001_aircraft_carrier/aircraft_carrier_06s"
    assert (len(images), images.concepts[0], images.has_pictures) == (200, "00001_aircraft_carrier", False)
    assert len(set(images.content_hashes())) == 200
    with pytest.raises(HvfError, match="holds no pictures"):
        images[0]
