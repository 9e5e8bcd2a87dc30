"""One picture file to the RGB image that it shows: the one decoder, and the one list of what counts as a picture.

Upright (EXIF orientation), over a plain background where it is transparent, in sRGB (colour profiles), with 8 bits.
Grey of 16 bits is divided by the range of 16 bits. Integers of 32 bits and floats have no range that all programs
share: what lies in 0 ... 255 is taken as it is, floats in 0 ... 1 times 255, all others from the picture's least value
(black) to its greatest (white).
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from pathlib import PurePosixPath
from typing import Any, cast

import numpy as np
from PIL import Image, ImageCms, ImageColor

from hvf.config import HvfError
from hvf.data.images.bombs import check_content, check_exif, check_opened
from hvf.files.budgets import PIXELS

_READ = ".png .apng .jpg .jpeg .jpe .jfif .bmp .dib .gif .tif .tiff .webp .avif .jp2 .ppm .pgm .pbm .pnm .pfm"
_NOT_READ = (
    ".heic .heif .hif .jxl .jxr .psd .psb .xcf .svg .svgz .eps .ps .ai .wmf .emf .tga .pcx .ico .icns .exr .hdr .raw "
    ".dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .j2k .j2c .jpx .fits .dds .sgi .qoi .mp4 .mov"
)
_SYSTEM = "@eadir #recycle @recycle #snapshot @recently-snapshot $recycle.bin recycler __macosx lost+found"
IMAGE_SUFFIXES = frozenset(_READ.split())  # endings of files that are taken as pictures
OTHER_PICTURES = frozenset(_NOT_READ.split())  # endings of pictures that cannot be read here
SYSTEM_FOLDERS = frozenset(_SYSTEM.split()) | {"system volume information"}  # thumbnails, deleted files, copies
# Pillow's readers that may open a picture: none hands it to another program.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "AVIF", "JPEG2000")
BACKGROUND = "white"
_ORIENTATION = 0x0112  # EXIF and TIFF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT, _SUBFILE = 258, 262, 339, 254  # tags of TIFF
_PROFILE_TOLERANCE = 3  # levels of 255: a profile that changes colours by less is sRGB under another name
_KINDS = (  # of content that is none of the FORMATS
    (rb"\s*%!PS|\xc5\xd0\xd3\xc6", "EPS, which is drawn by a program"),
    (rb"%PDF", "PDF, which is drawn by a program"),
    (rb"\s*(<\?xml|<svg)", "SVG or XML, which is text"),
    (rb"(?i)\s*<(!doctype )?html", "a web page"),
    (rb"....ftyp(hei|hev|mif|msf)", "HEIC"),
    (rb"....ftypavi", "AVIF, which this Pillow cannot read"),
    (rb"\xff\x0a|....JXL ", "JPEG XL"),
    (rb"8BPS", "a Photoshop document"),
    (rb"\xd7\xcd\xc6\x9a|\x01\x00\x00\x00.{36} EMF", "WMF or EMF, which is drawn by a program"),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the picture: run `git lfs pull`"),
    (rb"(\.\./)*\.git/annex|/annex/objects", "a pointer of git-annex, not the picture: run `datalad get`"),
    (rb"\x00\x05\x16\x07", "an AppleDouble, macOS's notes on a file"),
    (rb"PK\x03\x04", "a zip"),
)


def decode(data: bytes, name: str, background: str = BACKGROUND) -> Image.Image:
    """The image that a picture file shows, RGB with 8 bits; ``image.info["shown"]`` names what was done to it.

    Parameters
    ----------
    data : bytes
        The file's content, which decides, whatever its ending.
    name : str
        The file, for messages.
    background : str
        Colour that lies under transparent pixels, as ``white`` or ``#808080``.

    Raises
    ------
    HvfError
        No picture, one of a format that is not read, truncated, too large, or of several frames or pages.
    """
    ground = colour(background)
    _allow_pixels()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; a picture too large for Pillow is an error of its own
            check_content(data)
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                check_opened(image, data)
                _one_frame(image, name)
                _key_of_high_bytes(image)
                image.load()
                check_exif(image)  # that of a PNG may come behind its pixels
                turn = _orientation(image) if image.format != "TIFF" else None  # Pillow turns TIFF by itself
                return _as_shown(image, turn, ground, background)
    except HvfError as error:
        raise HvfError(f"the image {name} {error}") from error.__cause__
    except Image.UnidentifiedImageError as error:
        raise HvfError(f"the image {name} is truncated or not an image: it holds {_kind(data)}; replace it") from error
    except Image.DecompressionBombError as error:
        raise HvfError(f"the image {name} is too large to be opened: {error} ({PIXELS.advice})") from error
    except MemoryError as error:
        raise HvfError(f"the image {name} takes more memory to open than there is: make it smaller") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise HvfError(f"the image {name} is truncated or not an image: {error}; replace it") from error


def _allow_pixels() -> None:
    """Let Pillow open what HVF_MAX_PIXELS allows where that is more than Pillow's own limit, twice what it warns of."""
    if Image.MAX_IMAGE_PIXELS is not None and PIXELS() > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = int(PIXELS())


def colour(background: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour's name or number; HvfError if it is none."""
    try:
        return ImageColor.getrgb(background)[:3]
    except ValueError as error:
        raise HvfError(f"the background {background!r} is no colour: write white, gray or #808080") from error


def why_skipped(name: str) -> str | None:
    """Why a file below a folder or in a zip is not taken; None for a picture, "" for what is not meant to be one.

    >>> why_skipped("cat/cat_1.JPG"), why_skipped("cat/._cat_1.jpg"), why_skipped("cat/cat_1.heic")
    (None, 'hidden', '.heic is not read')
    >>> why_skipped("notes.txt")
    ''
    """
    path = PurePosixPath(name)
    ending = path.suffix.lower()
    if ending not in IMAGE_SUFFIXES and ending not in OTHER_PICTURES:
        return ""
    folder = next((part for part in path.parts[:-1] if part.lower() in SYSTEM_FOLDERS), None)
    if folder is not None:
        return f"in {folder}"
    if any(part.startswith(".") for part in path.parts):
        return "hidden"
    if ending in OTHER_PICTURES or (ending == ".avif" and "AVIF" not in _formats()):
        return f"{ending} is not read"
    return None


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _one_frame(image: Image.Image, name: str) -> None:
    n = getattr(image, "n_frames", 1)  # of a TIFF: all pages are looked at
    if n == 1 or image.format in ("JPEG", "MPO"):  # what a camera puts behind a JPEG are previews and depths
        return
    if image.format == "TIFF" and _previews(image, n):
        return
    what = "pages" if image.format == "TIFF" else "frames of an animation"
    raise HvfError(
        f"holds {n} {what}, and which frame was shown is not known: save the one that was as "
        f"{PurePosixPath(name.split(' in ')[0]).stem}.png"
    )


def _previews(image: Image.Image, n: int) -> bool:
    """Whether all pages after the first are smaller copies of it (bit 0 of NewSubfileType)."""
    pages = []
    for page in range(1, n):
        image.seek(page)
        pages.append(int(image.tag_v2.get(_SUBFILE, 0)) & 1)  # type: ignore[attr-defined]
    image.seek(0)
    return all(pages)


def _orientation(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF raises anything; the picture is whole all the same
        return None


def _as_shown(
    image: Image.Image, turn: Image.Transpose | None, ground: tuple[int, int, int], background: str
) -> Image.Image:
    done: list[str] = []
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode.startswith("I") or image.mode == "F":
        alpha = _grey_key(image)
        rgb = Image.fromarray(_grey(image, done))
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        alpha, rgb = rgba.getchannel("A"), rgba.convert("RGB")
        if image.mode in ("LA", "La"):
            rgb = rgb.getchannel("R")
    else:
        rgb = image if image.mode in ("L", "CMYK", "RGB", "LAB") else image.convert("RGB")
    rgb = _in_srgb(rgb, profile, done)
    if alpha is not None and np.asarray(alpha).min(initial=255) < 255:
        under = Image.new("RGB", rgb.size, ground)
        under.paste(rgb, mask=alpha)
        rgb = under
        done.append(f"transparent pixels over {background}")
    if turn is not None:
        rgb = rgb.transpose(turn)
        done.append("turned upright")
    if rgb is image:
        rgb = image.copy()
    rgb.info = {"shown": tuple(done)} if done else {}
    return rgb


def _grey(image: Image.Image, done: list[str]) -> np.ndarray:
    """Grey of more than 8 bits as uint8 (H, W)."""
    x_HW = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    bits = int(tags.get(_BITS_PER_SAMPLE, (16,))[0])
    if image.mode.startswith("I;16") or image.format in ("PNG", "PPM", "JPEG2000", "AVIF") and image.mode == "I":
        x_HW = np.clip(x_HW, 0, 65535).astype(np.uint16)
        done.append("16-bit grey to 8 bits")
        grey_HW = (x_HW >> max(0, min(bits, 16) - 8)).astype(np.uint8)
        return 255 - grey_HW if tags.get(_PHOTOMETRIC) == 0 else grey_HW  # 0: white is zero
    if tags.get(_SAMPLE_FORMAT) == (1,) and bits == 32:
        x_HW = x_HW.view(np.uint32)
    if not np.isfinite(x_HW).all():
        raise HvfError("holds values that are not finite")
    low, high = float(x_HW.min(initial=0)), float(x_HW.max(initial=0))
    if image.mode == "F" and low >= 0 and high <= 1:
        done.append("floats in 0 ... 1 times 255")
        return np.rint(x_HW * 255.0).astype(np.uint8)
    if low >= 0 and high <= 255:
        return x_HW.astype(np.uint8)
    low = float(x_HW.min())
    done.append("grey of a wider range from its least to its greatest value")
    return np.rint((x_HW.astype(np.float64) - low) * (255 / ((high - low) or 1))).astype(np.uint8)


def _grey_key(image: Image.Image) -> Image.Image | None:
    """The mask of a grey PNG of 16 bits, one of whose values is transparent."""
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return None
    return Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))


def _key_of_high_bytes(image: Image.Image) -> None:
    """Of RGB of 16 bits Pillow keeps the high bytes, but the colour that is transparent whole."""
    key, tiles = image.info.get("transparency"), getattr(image, "tile", ())
    if image.mode == "RGB" and isinstance(key, tuple) and any("16" in str(tile[3]) for tile in tiles):
        image.info["transparency"] = tuple(part >> 8 for part in key)


def _in_srgb(image: Image.Image, profile: bytes | None, done: list[str]) -> Image.Image:
    """The picture's colours in sRGB; without a profile, or with that of other channels, as they are."""
    transform = _to_srgb(profile, image.mode) if profile else None
    if transform is None:
        return image.convert("RGB")
    done.append("colour profile to sRGB")
    return ImageCms.applyTransform(image, transform) or image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """How a profile's colours become sRGB's; None where they are its already, or of other channels."""
    space = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab "}.get(mode)
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if cast(Any, source.profile).xcolor_space != space:
            return None
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None  # a damaged profile: every program shows the colours as they are
    if mode in ("RGB", "L"):
        steps = np.linspace(0, 255, 6).astype(np.uint8)
        cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 1, 3)
        probe = Image.fromarray(cube) if mode == "RGB" else Image.fromarray(np.arange(256, dtype=np.uint8)[:, None])
        before = np.asarray(probe.convert("RGB"), int)
        after = np.asarray(ImageCms.applyTransform(probe, transform), int)
        if abs(before - after).max() <= _PROFILE_TOLERANCE:
            return None
    return transform


def _kind(data: bytes) -> str:
    if not data:
        return "nothing (0 bytes)"
    return next((what for magic, what in _KINDS if re.match(magic, data[:200], re.DOTALL)), "no format that is read")
