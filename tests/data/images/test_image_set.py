from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet, open_images


def pictures(n: int, size: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def write_folder(folder: Path, names: list[str]) -> np.ndarray:
    x_NHWC = pictures(len(names))
    for image, name in zip(x_NHWC, names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return x_NHWC


def zip_folder(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*"), reverse=True):  # the archive's own order must not matter
            archive.write(file, file.relative_to(folder))
    return path


def test_arrays_come_back_as_given():
    x = pictures(3)
    images = ImageSet.from_arrays(x, ["c", "a", "b"], ["x", "y", "x"], ["one", "two", "three"])
    assert len(images) == 3
    assert images.ids == ("c", "a", "b")
    assert images[1].mode == "RGB"
    np.testing.assert_array_equal(np.asarray(images[-1]), x[2])
    np.testing.assert_array_equal(images.array(), x)
    np.testing.assert_array_equal(images.array([2, 0]), x[[2, 0]])
    assert images.array(size=6).shape == (3, 6, 6, 3)
    assert len(list(images)) == 3


def test_subset_keeps_labels_and_pictures_together():
    x = pictures(5)
    images = ImageSet.from_arrays(x, "abcde", "vwxyz", ["A", "B", "C", "D", "E"])
    part = images.select([4, 1, 3]).select([2, 0])
    assert (part.ids, part.concepts, part.captions) == (("d", "e"), ("y", "z"), ("D", "E"))
    np.testing.assert_array_equal(part.array(), x[[3, 4]])
    assert part.content_hashes() == (images.content_hashes()[3], images.content_hashes()[4])


def test_digest_follows_content_ids_and_order():
    x = pictures(2)
    images = ImageSet.from_arrays(x, "ab", "ab")
    changed = x.copy()
    changed[1, 3, 3, 0] ^= 1
    others = [
        ImageSet.from_arrays(changed, "ab", "ab"),
        ImageSet.from_arrays(x, "ac", "ab"),
        images.select([1, 0]),
        ImageSet.from_arrays(x.reshape(2, 6, 24, 3), "ab", "ab"),  # the same bytes in another shape
    ]
    assert len({s.digest for s in [images, *others]}) == 5
    assert ImageSet.from_arrays(x.copy(), "ab", "ab").digest == images.digest


def test_folder_and_zip_are_the_same_set(tmp_path):
    folder = tmp_path / "set"
    x = write_folder(folder, ["cat/cat_02.png", "ape/ape_01.png", "cat/cat_01.png"])
    (folder / "cat" / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_bytes(b"not an image")
    from_folder, from_zip = open_images(folder), open_images(zip_folder(folder, tmp_path / "set.zip"))
    assert from_folder.ids == from_zip.ids == ("ape/ape_01", "cat/cat_01", "cat/cat_02")
    assert from_folder.concepts == from_zip.concepts == ("ape", "cat", "cat")
    assert from_folder.digest == from_zip.digest
    np.testing.assert_array_equal(from_zip.array(), x[[1, 2, 0]])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(from_zip)).array(), x[[1, 2, 0]])  # for data workers


def test_images_side_by_side_are_concepts_of_their_own(tmp_path):
    write_folder(tmp_path / "flat", ["b.png", "a.png"])
    assert open_images(tmp_path / "flat").concepts == ("a", "b")
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        for name in ("a.png", "b.png"):
            archive.write(tmp_path / "flat" / name, f"photos/{name}")
    assert open_images(tmp_path / "one.zip").concepts == ("a", "b")


def test_same_stem_twice_still_has_unique_ids(tmp_path):
    write_folder(tmp_path, ["a.png", "a.bmp"])
    assert open_images(tmp_path).ids == ("a.bmp", "a.png")


@pytest.mark.parametrize("zipped", [False, True])
def test_truncated_image_is_named(tmp_path, zipped):
    folder = tmp_path / "set"
    write_folder(folder, ["a.png", "b.png"])
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    images = open_images(zip_folder(folder, tmp_path / "set.zip") if zipped else folder)
    images.select([0]).check()
    with pytest.raises(HvfError, match=r"b\.png.*truncated or not an image"):
        images.check()


def test_text_named_png_and_damaged_zip_entry_are_named(tmp_path):
    folder = tmp_path / "set"
    write_folder(folder, ["a.png"])
    (folder / "b.png").write_text("hello")
    with pytest.raises(HvfError, match=r"b\.png"):
        open_images(folder).check()
    path = zip_folder(folder, tmp_path / "set.zip")
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(30)  # inside the first entry
    path.write_bytes(data)
    with pytest.raises(HvfError, match=r"\.png"):
        open_images(path).check()


def test_palette_grey_and_alpha_images_become_rgb(tmp_path):
    for mode in ("L", "P", "RGBA", "CMYK"):
        Image.new(mode, (4, 4)).save(tmp_path / f"{mode}.tiff")
    assert open_images(tmp_path).array().shape == (4, 4, 4, 3)


def test_nothing_to_open(tmp_path):
    with pytest.raises(HvfError, match="no folder or zip"):
        open_images(tmp_path / "absent")
    with pytest.raises(HvfError, match="holds no image"):
        open_images(tmp_path)
    (tmp_path / "fake.zip").write_text("no zip")
    with pytest.raises(HvfError, match=r"fake\.zip"):
        open_images(tmp_path / "fake.zip")


def test_sizes_that_differ_are_named_unless_resized(tmp_path):
    Image.new("RGB", (4, 6)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 6)).save(tmp_path / "b.png")
    images = open_images(tmp_path)
    with pytest.raises(HvfError, match="a is 4x6 and b is 8x6"):
        images.array()
    assert images.array(size=5).shape == (2, 5, 5, 3)


@pytest.mark.parametrize(
    ("x", "ids", "concepts", "message"),
    [
        (pictures(2), "abc", "ab", "2 images was given 3 ids"),
        (pictures(2), "ab", "abc", "2 images was given 3 concepts"),
        (pictures(2), "aa", "ab", "'a' stands for more than one"),
        (pictures(2).astype(float), "ab", "ab", "uint8"),
        (pictures(2)[..., 0], "ab", "ab", "uint8"),
    ],
)
def test_labels_and_arrays_that_do_not_fit(x, ids, concepts, message):
    with pytest.raises(HvfError, match=message):
        ImageSet.from_arrays(x, ids, concepts)


def test_images_of_several_sizes_are_no_array():
    several = [np.zeros((8, 8, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)]
    with pytest.raises(HvfError, match=r"must be of one size, not \(4, 6, 3\), \(8, 8, 3\)"):
        ImageSet.from_arrays(several, ["a", "b"], ["x", "y"])  # pyright: ignore[reportArgumentType]
    assert len(ImageSet.from_arrays(several[:1], ["a"], ["x"])) == 1  # pyright: ignore[reportArgumentType]


def test_subset_goes_on_meaning_select_and_says_that_it_goes():
    images = ImageSet.from_arrays(np.zeros((3, 4, 4, 3), np.uint8), "abc", "abc")
    with pytest.warns(DeprecationWarning, match="now ImageSet.select"):
        assert images.subset(range(2)).ids == ("a", "b")
