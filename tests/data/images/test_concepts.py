from __future__ import annotations

import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvf.config import DataConfig
from hvf.data.images.concepts import concept_key, ids_and_concepts
from hvf.data.images.image_set import open_images
from hvf.data.trials.trials import Trials
from hvf.study import open_study

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def concepts(*names: str) -> list[str]:
    return ids_and_concepts(names)[1]


def test_the_folder_is_the_concept():
    assert concepts("cat/1.png", "dog/2.png", "3.png") == ["cat", "dog", "3"]
    assert concepts("a.png", "b.png") == concepts("x/a.png", "x/b.png") == ["a", "b"]
    assert concepts("train/cat/1.png", "test/dog/1.png") == ["cat", "dog"]
    assert concepts("cat/train/1.png", "cat/test/2.png", "dog/train/3.png") == ["cat", "cat", "dog"]
    assert concepts("cat/images/1.png", "dog/images/2.png") == ["cat", "dog"]
    assert concepts("training_images/1.png", "test_images/2.png") == ["training_images", "test_images"]
    assert concepts("animals/cat/1.png", "animals/dog/2.png", "tools/saw/3.png") == ["cat", "dog", "saw"]


def test_folders_of_single_exemplars_are_no_concepts():
    assert concepts("cat/cat_01/x.png", "cat/cat_02/x.png", "dog/dog_01/x.png") == ["cat", "cat", "dog"]
    assert concepts("00001_cat/1/x.png", "00001_cat/2/x.png", "00002_dog/1/x.png") == ["00001_cat"] * 2 + ["00002_dog"]


def test_backslashes_part_folders_as_slashes_do():
    back = ["cat\\1.png", "cat\\2.png", "dog\\3.png"]
    assert ids_and_concepts(back) == ids_and_concepts([name.replace("\\", "/") for name in back])
    assert ids_and_concepts(back)[0] == ["cat/1", "cat/2", "dog/3"]


@pytest.mark.parametrize(
    "other", ["Cat fish", "cat_fish", "cat-fish", "CAT_FISH ", "00012_cat fish", "cat  fish", " cat fish"]
)
def test_spellings_of_a_concept_are_one(other):
    _, found, notes = ids_and_concepts(["cat fish/1.png", f"{other}/2.png", "catfish/3.png"])
    assert found == ["cat fish", "cat fish", "catfish"]
    assert len(notes) == 1
    assert repr(other) in notes[0]
    assert concepts(f"{NFC}/1.png", f"{NFD}/2.png") == [NFC, NFC]


def test_numbers_alone_are_told_apart():
    assert concepts("01/1.png", "02/2.png", "1_1/3.png", "1_2/4.png") == ["01", "02", "1_1", "1_2"]
    assert concept_key("shoe_01") != concept_key("shoe_02")


def make(root: Path, folders: list[str], n: int = 4) -> None:
    for i, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for k in range(n):
            Image.fromarray(np.random.default_rng(n * i + k).integers(0, 255, (4, 4, 3), dtype=np.uint8)).save(
                root / folder / f"{i}_{k}.png"
            )


@pytest.mark.parametrize(
    "spelt", [(NFC, NFD), ("Cat", "cat"), ("00001_aardvark", "aardvark"), ("ice cream", "ice_cream")]
)
def test_no_concept_is_trained_on_and_tested_under_another_spelling(tmp_path, capsys, spelt):
    make(tmp_path / "images", [*spelt, "dog", "owl", "saw"])
    images = open_images(tmp_path / "images")
    assert len(images) == 20
    assert "are one concept" in capsys.readouterr().err
    x_NCT = np.random.default_rng(0).normal(size=(20, 2, 3))
    Trials(x_NCT, images.ids, "s", 100.0, 0.0, ["O1", "O2"], "eeg").save(tmp_path / "x.npy")
    where = {"trials": str(tmp_path / "x.npy"), "images": str(tmp_path / "images")}
    for seed in range(6):
        study = open_study(DataConfig(study="files", test_images=4, split_seed=seed, **where))
        parts = [
            {concept_key(name.split("/")[0]) for name in part.ids} for part in (study.train_images, study.test_images)
        ]
        assert not parts[0] & parts[1]


def test_links_to_folders_count_and_circles_end(tmp_path):
    make(tmp_path / "store", ["cat"])
    make(tmp_path / "images", ["dog"])
    (tmp_path / "images" / "cat").symlink_to(tmp_path / "store" / "cat", target_is_directory=True)
    (tmp_path / "images" / "dog" / "again").symlink_to(tmp_path / "images", target_is_directory=True)
    images = open_images(tmp_path / "images")
    assert sorted(images.concepts) == ["cat"] * 4 + ["dog"] * 4


def test_a_zip_with_backslashes_reads_its_members(tmp_path):
    make(tmp_path / "images", ["cat", "dog"])
    with zipfile.ZipFile(tmp_path / "back.zip", "w") as archive:
        for path in (tmp_path / "images").rglob("*.png"):
            member = zipfile.ZipInfo("x")
            member.filename = str(path.relative_to(tmp_path / "images")).replace("/", "\\")
            archive.writestr(member, path.read_bytes())
    one, other = open_images(tmp_path / "images"), open_images(tmp_path / "back.zip")
    assert (one.ids, one.concepts, one.digest) == (other.ids, other.concepts, other.digest)
