from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from hvf.config import HvfError
from hvf.data.images.decoding import decode, why_skipped

RNG = np.random.default_rng(0)
RGB_HW3 = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def written(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def shown(data: bytes, background: str = "white") -> np.ndarray:
    return np.asarray(decode(data, "a.png", background), int)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_plain_pictures_come_bit_by_bit(kind):
    image = decode(written(Image.fromarray(RGB_HW3), kind), "a")
    np.testing.assert_array_equal(image, RGB_HW3)
    assert (image.mode, image.info) == ("RGB", {})


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_pictures_come_as_pillow_reads_them(kind):
    data = written(Image.fromarray(RGB_HW3), kind)
    np.testing.assert_array_equal(decode(data, "a"), Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_turns(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(RGB_HW3)
    data = written(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    turned = shown(data)
    assert turned.shape == ((9, 6, 3) if orientation > 4 else (6, 9, 3))
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(turned, np.asarray(ImageOps.exif_transpose(opened).convert("RGB"), int))


def test_damaged_exif_leaves_the_picture():
    data = written(Image.fromarray(RGB_HW3), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(shown(data), RGB_HW3)


@pytest.mark.parametrize(("background", "under"), [("white", 255), ("black", 0), ("#808080", 128)])
def test_transparent_pixels_show_the_background(background, under):
    alpha_HW = np.full((6, 9), 255, np.uint8)
    alpha_HW[:3] = 0
    data = written(Image.fromarray(np.dstack([RGB_HW3, alpha_HW])), "PNG")
    pixels = shown(data, background)
    assert (pixels[:3] == under).all()
    np.testing.assert_array_equal(pixels[3:], RGB_HW3[3:])
    assert decode(data, "a", background).info["shown"] == (f"transparent pixels over {background}",)


def test_half_transparent_grey_and_palette():
    half = Image.merge("LA", [Image.new("L", (2, 2), 0), Image.new("L", (2, 2), 128)])
    assert (shown(written(half, "PNG")) == 127).all()
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    np.testing.assert_array_equal(shown(written(palette, "PNG", transparency=1)), [[[255, 0, 0], [255, 255, 255]]])
    np.testing.assert_array_equal(shown(written(palette, "PNG")), [[[255, 0, 0], [0, 0, 255]]])
    key = written(Image.fromarray(np.array([[7, 9]], np.uint8)), "PNG", transparency=9)
    np.testing.assert_array_equal(shown(key)[..., 0], [[7, 255]])


def test_an_alpha_of_255_changes_nothing():
    image = decode(written(Image.fromarray(np.dstack([RGB_HW3, np.full((6, 9), 255, np.uint8)])), "PNG"), "a")
    np.testing.assert_array_equal(image, RGB_HW3)
    assert image.info == {}


RAMP_HW = np.linspace(0, 1, 256).reshape(16, 16)


@pytest.mark.parametrize(
    ("x_HW", "kind"),
    [
        ((RAMP_HW * 65535).astype(np.uint16), "PNG"),
        ((RAMP_HW * 65535).astype(np.uint16), "TIFF"),
        ((RAMP_HW * 65535).astype(">u2"), "TIFF"),
        ((RAMP_HW * 65535).astype(np.uint16), "PPM"),
        ((RAMP_HW * 65535).astype(np.int32), "TIFF"),
        ((RAMP_HW * (2**31 - 1)).astype(np.int32), "TIFF"),
        ((RAMP_HW * 255).round().astype(np.int32), "TIFF"),
        ((RAMP_HW * 2000 - 1000).astype(np.int32), "TIFF"),
        (RAMP_HW.astype(np.float32), "TIFF"),
        ((RAMP_HW * 255).astype(np.float32), "TIFF"),
        ((RAMP_HW * 2 - 1).astype(np.float32), "TIFF"),
        ((RAMP_HW * 1e6).astype(np.float32), "TIFF"),
    ],
)
def test_grey_of_many_bits_runs_from_black_to_white(x_HW, kind):
    pixels = shown(written(Image.fromarray(x_HW), kind))
    assert np.ptp(pixels, axis=-1).max() == 0
    np.testing.assert_allclose(pixels[..., 0], RAMP_HW * 255, atol=1)


def test_dark_pictures_of_16_bits_and_of_floats_stay_dark():
    assert shown(written(Image.fromarray(np.full((2, 2), 0x1234, np.uint16)), "PNG")).max() == 0x12
    assert shown(written(Image.fromarray(np.full((2, 2), 0.25, np.float32)), "TIFF")).max() == 64
    assert shown(written(Image.fromarray(np.full((2, 2), 25, np.int32)), "TIFF")).max() == 25


def test_white_is_zero():
    tags = {262: 0}
    data = written(Image.fromarray((RAMP_HW * 65535).astype(np.uint16)), "TIFF", tiffinfo=tags)
    photometric = Image.open(io.BytesIO(data)).tag_v2[262]
    expected = RAMP_HW * 255 if photometric == 1 else 255 - RAMP_HW * 255
    np.testing.assert_allclose(shown(data)[..., 0], expected, atol=1)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(HvfError, match=r"a\.tif.*not finite"):
        decode(written(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"), "a.tif")


def test_lab_and_cmyk_and_one_bit():
    smooth = Image.fromarray(np.repeat(np.linspace(60, 190, 16).astype(np.uint8)[:, None, None], 3, 2).repeat(4, 1))
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    in_lab = ImageCms.applyTransform(smooth, ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    np.testing.assert_allclose(shown(written(in_lab, "TIFF")), np.asarray(smooth, int), atol=3)
    in_lab.info.clear()
    np.testing.assert_allclose(shown(written(in_lab, "TIFF")), np.asarray(smooth, int), atol=3)
    cmyk = Image.fromarray(RGB_HW3).convert("CMYK")
    np.testing.assert_array_equal(shown(written(cmyk, "TIFF")), np.asarray(cmyk.convert("RGB"), int))
    bits = Image.fromarray(np.eye(8, dtype=np.uint8) * 255).convert("1")
    np.testing.assert_array_equal(shown(written(bits, "PNG"))[..., 0], np.eye(8) * 255)


def swapped_profile() -> bytes:
    """sRGB with the primaries of red and blue exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"tmpX", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"tmpX", b"bXYZ", 1)


def test_profiles_become_srgb():
    image = Image.new("RGB", (4, 4), (200, 30, 90))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = decode(written(image, "PNG", icc_profile=srgb), "a")
    assert (same.getpixel((0, 0)), same.info) == ((200, 30, 90), {})
    other = decode(written(image, "PNG", icc_profile=swapped_profile()), "a")
    np.testing.assert_allclose(other.getpixel((0, 0)), (90, 30, 200), atol=3)
    damaged = decode(written(image, "PNG", icc_profile=b"no profile"), "a")
    assert damaged.getpixel((0, 0)) == (200, 30, 90)


@pytest.mark.parametrize(("kind", "word"), [("GIF", "frame"), ("PNG", "frame"), ("WEBP", "frame"), ("TIFF", "page")])
def test_several_frames_are_refused(kind, word):
    frames = [Image.new("RGB", (4, 4), (v, v, v)) for v in (0, 120, 250)]
    data = written(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(HvfError, match=rf"b\.x holds 3 {word}.*which frame"):
        decode(data, "b.x")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
@pytest.mark.parametrize("part", [0.3, 0.7])
def test_truncated_files_are_refused(kind, part):
    data = written(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    with pytest.raises(HvfError, match=r"cat\.png.*truncated or not an image"):
        decode(data[: int(len(data) * part)], "cat.png")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "EPS"),
        (b"%PDF-1.7\n", "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\x05\x16\x07" + bytes(40), "AppleDouble"),
        (b"", "0 bytes"),
    ],
)
def test_content_decides_and_is_named(data, why):
    with pytest.raises(HvfError, match=rf"a\.png is truncated or not an image: it holds .*{why}"):
        decode(data, "a.png")


def test_a_png_called_jpg_is_read():
    np.testing.assert_array_equal(decode(written(Image.fromarray(RGB_HW3), "PNG"), "a.jpg"), RGB_HW3)


def test_too_many_pixels_are_refused():
    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    head = (60000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(HvfError, match=r"a\.png is too large"):
        decode(data, "a.png")


def test_a_background_that_is_no_colour():
    with pytest.raises(HvfError, match="'whit' is no colour"):
        decode(written(Image.fromarray(RGB_HW3), "PNG"), "a.png", "whit")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("cat/a.PNG", None),
        ("a.JFIF", None),
        ("cat/notes.txt", ""),
        ("Thumbs.db", ""),
        (".cat/a.png", "hidden"),
        ("cat/._a.png", "hidden"),
        ("__MACOSX/cat/a.png", "in __MACOSX"),
        ("@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "in @eaDir"),
        ("$RECYCLE.BIN/a.png", "in $RECYCLE.BIN"),
        ("a.HEIC", ".heic is not read"),
    ],
)
def test_what_is_skipped(name, why):
    assert why_skipped(name) == why
