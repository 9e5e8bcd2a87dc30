"""Images of data sets that `datasets` saved: each with its own label."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from PIL import Image

from hvf.data.images.sources import open_image_source


@pytest.mark.parametrize(
    ("labels", "concepts"),
    [
        ([1, 0, 1], ("dog", "cat", "dog")),
        ([-1, -1, -1], ("00000000", "00000001", "00000002")),  # a test part whose labels are kept back
        ([1, None, -1], ("dog", "00000001", "00000002")),
    ],
)
def test_an_image_without_a_label_is_a_concept_of_its_own(tmp_path, labels, concepts):
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    pictures = [Image.fromarray(np.full((4, 4, 3), 20 * i, np.uint8)) for i in range(3)]
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=kinds)
    rows.save_to_disk(tmp_path / "saved")
    images, _ = open_image_source(tmp_path / "saved")
    assert images.concepts == concepts
    assert [image.getpixel((0, 0))[0] for image in images] == [0, 20, 40]
