"""The doctor on plain arrays and on images: it agrees with what `hvf train` takes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvf.cli import main
from hvf.config import DataConfig, HvfError
from hvf.data.doctor.examination import examine
from hvf.study import open_study
from tests.data.doctor.findings import has, pictures, worst

N = 12


def images(folder: Path, n: int = N) -> Path:
    folder.mkdir(parents=True)
    for i, picture in enumerate(pictures(n)):
        Image.fromarray(picture).save(folder / f"img{i:03d}.png")
    return folder


def responses(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def edited(x: np.ndarray, place: tuple, value: float) -> np.ndarray:
    x[place] = value
    return x


CASES = {
    "a row per image": (responses(N, 8), None),
    "samples besides": (responses(N, 8, 20), None),
    "doubles": (responses(N, 8).astype(float), None),
    "whole numbers": ((100 * responses(N, 8)).astype(np.int16), None),
    "a row too few": (responses(N - 1, 8), f"has {N - 1} trials but there are {N} images"),
    "a row too many": (responses(N + 1, 8), f"has {N + 1} trials but there are {N} images"),
    "channels first": (responses(8, N), "transposed"),
    "channels first, samples": (responses(8, N, 20), "np.moveaxis"),
    "NaN": (edited(responses(N, 8), (3, 2), np.nan), "NaN"),
    "a flat column": (edited(responses(N, 8), (slice(None), 2), 1.0), "the same value"),
    "one axis": (responses(N), "shape"),
    "complex": (responses(N, 8).astype(complex), "real numbers"),
}


@pytest.mark.parametrize("name", CASES)
def test_doctor_and_training_agree(tmp_path, name):
    x, refusal = CASES[name]
    np.save(tmp_path / "x.npy", x)
    seen = images(tmp_path / "images")
    data = DataConfig(study="files", trials=str(tmp_path / "x.npy"), images=str(seen), test_images=3)
    found = examine(tmp_path / "x.npy", seen)
    if refusal is None:
        assert len(open_study(data).train) == N - 3
        assert not [item for item in found if item.severity == "error"], found
    else:
        with pytest.raises(HvfError, match=refusal) as refused:
            open_study(data)
        assert has(found, "error", "train", refusal).message == str(refused.value)


def test_which_axis_is_which(tmp_path):
    path = tmp_path / "x.npy"
    waves = np.sin(np.arange(40) / 6)[None, None] * responses(30, 8, 1) + 0.1 * responses(30, 8, 40)
    np.save(path, waves)
    assert worst(examine(path)) == "ok"
    np.save(path, waves.transpose(0, 2, 1))  # (N, T, C)
    has(examine(path), "warning", "axes", "axis 1 looks like time")
    np.save(path, responses(8, 100))
    has(examine(path), "warning", "axes", "more channels than trials")
    x = responses(30, 8)
    x[4], x[7] = x[3], 0
    np.save(path, x)
    has(examine(path), "warning", "repeats", "1 of 30 rows are exact copies")
    has(examine(path), "warning", "repeats", "1 of 30 rows are zeros")


def test_exit_codes(tmp_path, capsys):
    np.save(tmp_path / "x.npy", responses(N, 8))
    seen = images(tmp_path / "images")
    words = ["data", "doctor", str(tmp_path / "x.npy"), "--images", str(seen)]
    assert main(words) == 0
    (seen / "img003.png").unlink()
    assert main(words) == 1
    assert "1 thing is wrong" in capsys.readouterr().err
    assert main([*words[:3], "--images", str(tmp_path / "absent")]) == 2


def test_a_folder_and_a_zip_of_images(tmp_path):
    seen = images(tmp_path / "images")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in sorted(seen.iterdir()):
            archive.write(path, path.name)
    for path in (seen, tmp_path / "images.zip"):
        found = examine(path)
        assert worst(found) == "ok", found
        assert any(item.message == f"{N} of 64x64" for item in found)
    (seen / "img004.png").write_bytes((seen / "img009.png").read_bytes())
    has(examine(seen), "warning", "duplicates", "img009 is img004")
    (seen / "img004.png").write_bytes(b"no picture")
    has(examine(seen), "error", "images", "1 of 12 images cannot be read", "img004.png")
    (seen / "img004.png").unlink()
    Image.new("RGB", (20, 20), "red").save(seen / "img004.png")
    has(examine(seen), "warning", "sizes", "1 images are smaller", "20x20")
    has(examine(seen), "warning", "images", "of one colour: img004")


def test_images_in_two_orders(tmp_path):
    seen = images(tmp_path / "images")
    (seen / "img003.png").rename(seen / "img2.png")
    (seen / "img004.png").rename(seen / "img10.png")
    has(examine(seen), "warning", "order", "two usual orders", "img2")
    np.save(tmp_path / "x.npy", responses(N, 8))
    has(examine(tmp_path / "x.npy", seen), "error", "train", "two usual orders", "img2")
