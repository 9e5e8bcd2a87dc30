from __future__ import annotations

import unicodedata

import pytest

from hvf.config import HvfError
from hvf.data.images.matching import ImageNames, normalized, stem

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    "asked",
    ["cat_2", "cat_2.png", "cat_2.JPG", "cats/cat_2", "stimuli/cats/cat_2.png", r"C:\stimuli\cats\cat_2.Png",
     " cat_2.png ", "./cats/cat_2.jpeg", "cats//cat_2.png", "/stimuli/other/cat_2.png"],
)  # fmt: skip
@pytest.mark.parametrize(
    "names",
    [["cats/cat_1", "cats/cat_2", "dogs/dog_2"], ["cat_1", "cat_2", "dog_2"], ["cat_1.png", "cat_2.PNG", "dog_2.png"],
     ["x/cats/cat_1.png", "x/cats/cat_2.jpg", "x/dogs/dog_2.png"], ["1_cats/cat_1", "1_cats/cat_2", "2_dogs/dog_2"]],
)  # fmt: skip
def test_every_usual_spelling_is_the_image(names, asked):
    assert ImageNames(names).indices([asked, asked]) == [1, 1]


@pytest.mark.parametrize(("there", "asked"), [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
def test_unicode_forms_are_one(there, asked):
    names = ImageNames([f"{there}_1", f"{there}_2", f"{there}s/{there}_3"])
    assert names.indices([f"{asked}_2.png", f"x/{asked}_1", f"{asked}s/{asked}_3.JPG"]) == [1, 0, 2]
    assert stem(f"a/{asked}_1.PNG") == f"{NFC}_1"


def test_folders_decide_between_files_of_one_name():
    names = ImageNames(["cat/1", "dog/1", "dog/2", "old/dog/1", "03_owl/1"])
    assert names.indices(["dog/1.png", "x/cat/1.png", "new/old/dog/1", "old\\dog\\1.png", "y/owl/1"]) == [1, 0, 3, 3, 4]
    assert names.find(["2.png", "x/2.png"]) == [2, 2]
    assert names.find(["2.png", "x/2.png", "cat/2.png"]) == [
        2,
        -1,
        -1,
    ]  # cat is there, without a 2: x is another folder
    part = ImageNames(["a/1", "a/2"])
    assert part.find(["a/1", "b/1", "b/2", "a/2.png"]) == [0, -1, -1, 1]
    assert part.find(["stimuli/1.png", "1", "1.png"]) == [0, 0, 0]
    with pytest.raises(HvfError, match="'x/1.png' and 'y/1.png' are two files, but the image set has 'a/1' alone"):
        part.find(["x/1.png", "y/1.png"])
    with pytest.raises(HvfError, match="'1.png' and '1.jpg' are two files"):
        part.find(["1.png", "1.jpg"])
    for asked in ("1", "1.png", "x/1.png", "bird/1.png"):
        with pytest.raises(HvfError, match=f"'{asked}' is not clear: cat/1 and dog/1"):
            names.find([asked])
    with pytest.raises(HvfError, match="'x/dog/1' is not clear: dog/1 and old/dog/1"):
        names.find(["x/dog/1"])


def test_endings_decide_between_files_of_one_stem():
    names = ImageNames(["a.jpg", "a.png", "photo.tif", "version 1.2"])
    assert names.indices(["x/a.PNG", "a.jpg", "photo.tif.png", "photo.tif", "version 1.2.png"]) == [
        1, 0, 2, 2, 3,
    ]  # fmt: skip
    for asked in ("a", "a.bmp"):
        with pytest.raises(HvfError, match="not clear: a.jpg and a.png"):
            names.find([asked])


@pytest.mark.parametrize("pair", [("a.png", "a.PNG"), (f"{NFC}_1", f"{NFD}_1"), ("x/a", "x\\a"), ("a", "a ")])
def test_two_images_that_are_one_name_are_refused(pair):
    with pytest.raises(HvfError, match="the folder holds two images of one name"):
        ImageNames(["b", *pair], "the folder")


def test_names_of_no_image_are_named_with_the_nearest():
    names = ImageNames([f"img{i:03d}" for i in range(40)], "photos")
    with pytest.raises(HvfError, match=r"1 of the 2 images named in events.tsv is not in photos: img04.png; did "):
        names.indices(["img001", "img04.png", "img001", "img04.png"], "events.tsv")
    with pytest.raises(HvfError, match="IMG004.png; there is 'img004', which differs in upper and lower case"):
        names.indices(["IMG004.png"])
    with pytest.raises(HvfError, match=r"3 of the 3 .* are not .*: 1, 2, 3; its names are img000, img001, img002 and"):
        names.indices(["1", "2", "3"])
    assert names.find(["", " ", "img001/", "."]) == [-1] * 4
    assert ImageNames([]).find(["a"]) == [-1]


def test_normalized_is_normal():
    for name in ("./a/b.PNG", f"{NFD}\\x.Jpg", " a.tif.TIFF ", "a//b", "plain"):
        assert normalized(normalized(name)) == normalized(name)
