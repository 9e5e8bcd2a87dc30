"""Pictures that ask for too much are refused before they are decoded; those below the budgets are read as ever."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from hvf.config import HvfError
from hvf.data.images.decoding import decode
from hvf.data.images.image_set import open_images
from hvf.data.images.sources import open_image_source


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """A black PNG of one bit a pixel, with chunks before and after its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(((width + 7) // 8 + 1) * height), 9))
    return b"\x89PNG\r\n\x1a\n" + head + before + pixels + after + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **more: object) -> bytes:
    image.save(buffer := io.BytesIO(), kind, **more)
    return buffer.getvalue()


def tags(n: int, size: int, order: str = "<", orientation: int = 1) -> bytes:
    """A TIFF's directory of `n` tags, each of which names the same `size` bytes, and an orientation."""
    entries = [struct.pack(order + "HHLHH", 0x0112, 3, 1, orientation, 0)]
    entries += [struct.pack(order + "HHLL", 1000 + i, 7, size, 8) for i in range(n)]
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "LH", 8, len(entries))
    return start + b"".join(entries) + bytes(4) + bytes(size)


def test_pixels_are_counted_before_they_are_decoded(monkeypatch):
    monkeypatch.setenv("HVF_MAX_PIXELS", "10000")
    assert decode(png(100, 100), "a.png").size == (100, 100)
    with pytest.raises(HvfError, match=r"a\.png is too large: 101 x 100 pixels, more than 10,000.*HVF_MAX_PIXELS"):
        decode(png(101, 100), "a.png")


@pytest.mark.parametrize(("kind", "side"), [("WEBP", 70), ("JPEG2000", 50), ("TIFF", 50), ("GIF", 100), ("BMP", 100)])
def test_pixels_that_take_more_memory_count_more(kind, side, monkeypatch):
    monkeypatch.setenv("HVF_MAX_PIXELS", "10000")
    mode = "F" if kind == "TIFF" else "RGB"
    assert decode(saved(Image.new(mode, (side, side)), kind), "a").size == (side, side)
    with pytest.raises(HvfError, match="too large"):
        decode(saved(Image.new(mode, (side + 1, side + 1)), kind), "a")


def test_more_pixels_than_pillow_itself_opens_can_be_allowed(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setenv("HVF_MAX_PIXELS", "1000")
    with pytest.raises(HvfError, match="too large to be opened"):
        decode(png(50, 50), "a.png")
    monkeypatch.setenv("HVF_MAX_PIXELS", "2500")
    assert decode(png(50, 50), "a.png").size == (50, 50)


@pytest.mark.parametrize("order", ["<", ">"])
def test_tags_that_name_the_same_bytes_again_and_again_are_refused(order):
    block = tags(5000, 100_000, order)  # 500 MB of metadata in 160 kB
    exif = chunk(b"eXIf", block)
    webp = saved(Image.new("RGB", (8, 8)), "WEBP", exif=b"Exif\0\0" + block)
    for data in (block, png(8, 8, exif), png(8, 8, b"", exif), webp):
        with pytest.raises(HvfError, match="tags of 500 MB"):
            decode(data, "a")


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_picture_is_still_turned_by_its_exif(order):
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    data = saved(image, "PNG")
    end = len(data) - 12
    turned = data[:end] + chunk(b"eXIf", tags(2, 100, order, orientation=6)) + data[end:]
    assert decode(data, "a").size == (3, 2)
    assert np.array_equal(np.asarray(decode(turned, "a"))[..., 0], np.rot90(np.asarray(image), -1))


def test_thousands_of_scans_are_refused(monkeypatch):
    data = saved(Image.new("L", (100, 100), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    monkeypatch.setenv("HVF_MAX_PIXELS", "10000")
    assert decode(data, "a").size == (100, 100)
    with pytest.raises(HvfError, match="scans, more than any encoder writes"):
        decode(data[:-2] + data[last:-2] * 64 + data[-2:], "a")


def test_a_colour_profile_of_megabytes_is_refused():
    with pytest.raises(HvfError, match="colour profile of more than 8 MB"):
        decode(saved(Image.new("RGB", (8, 8)), "TIFF", icc_profile=bytes(9_000_000)), "a")


def test_a_file_above_its_budget_is_refused_wherever_it_lies(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    data = saved(Image.new("RGB", (50, 50)), "BMP")
    (tmp_path / "folder" / "a.bmp").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "i.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.bmp", data)
    with tarfile.open(tmp_path / "i.tar", "w") as tar:
        tar.add(tmp_path / "folder" / "a.bmp", "a.bmp")
    for limit in (len(data), len(data) - 1):
        monkeypatch.setenv("HVF_MAX_PICTURE_BYTES", str(limit))
        for name in ("folder", "i.zip", "i.tar"):
            images, _ = open_image_source(tmp_path / name)
            if limit == len(data):
                images.check()
                continue
            with pytest.raises(HvfError, match=r"a\.bmp.*HVF_MAX_PICTURE_BYTES"):
                images.check()


def test_too_many_files_in_tars_and_sparse_ones(tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "i.tar", "w") as tar:
        for i in range(5):
            data = saved(Image.new("RGB", (8, 8), (i, 0, 0)), "PNG")
            info = tarfile.TarInfo(f"c/{i}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert len(open_image_source(tmp_path / "i.tar")[0]) == 5
    monkeypatch.setenv("HVF_MAX_MEMBERS", "4")
    with pytest.raises(HvfError, match=r"more than 4 files.*HVF_MAX_MEMBERS"):
        open_image_source(tmp_path / "i.tar")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_no_picture(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    images = open_images(tmp_path)
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(HvfError, match="pipe"):
        images.check()
