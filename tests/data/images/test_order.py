from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.images.order import check_order
from hvf.data.trials.reading import read_trials


def files(root, names) -> ImageSet:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (i, 0, 0)).save(root / name)
    return open_images(root)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["img1.png", "img2.png", "img10.png"],
            "number 2 is img10.png as text and img2.png by number.*pad the numbers",
        ),
        (
            ["ice/a.png", "ice-cream/a.png"],
            "number 1 is ice-cream/a.png as text and ice/a.png folder by folder .torchv",
        ),
        (
            ["cat/z.png", "cat/more/a.png", "dog/b.png"],
            "number 1 is cat/more/a.png as text and cat/z.png with the files",
        ),
        (["Zebra.png", "apple.png"], "number 1 is Zebra.png as text and apple.png in a file manager"),
        (["éclair.png", "zebra.png", "a.png"], "number 2 is zebra.png as text and éclair.png in a file manager"),
        (["img_1.png", "img1.png"], "number 1 is img1.png as text and img_1.png in a file manager"),
        (["cat.png", "cat-2.png"], "number 1 is cat-2.png as text and cat.png in a file manager"),
    ],
)
def test_files_with_two_orders_are_refused(tmp_path, names, message):
    images = files(tmp_path / "images", names)
    with pytest.raises(HvfError, match=f"two usual orders: {message}.*epochs.metadata"):
        check_order(images)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(len(names), 3)))
    with pytest.raises(HvfError, match="two usual orders"):
        read_trials(tmp_path / "x.npy", images)
    order = np.random.default_rng(1).permutation(len(names))
    if order.tolist() != sorted(order):
        check_order(images.select(order))  # an order that was given
    check_order(ImageSet.from_arrays(images.array(), names, names))  # no files


@pytest.mark.parametrize(
    "names",
    [
        [f"img{i:03d}.png" for i in range(12)],
        [f"{i:05d}_{c}/{c}_0{k}s.jpg" for i, c in enumerate(["aardvark", "air_pump", "airbag"]) for k in (1, 2)],
        ["cat.png", "cat_2.png", "cats.png"],
        ["a/x.png", "b/x.png", "b/y.png"],
        ["air_conditioner/1.png", "air_pump/1.png", "airbag/1.png", "bat1/1.png", "bat2/1.png", "baton/1.png"],
    ],
)  # fmt: skip
def test_usual_names_have_one_order(tmp_path, names):
    images = files(tmp_path, names)
    assert list(images.files) == sorted(names)
    check_order(images)
