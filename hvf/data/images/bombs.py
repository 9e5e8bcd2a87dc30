"""Pictures that would take far more memory or time than they are worth: refused before they are decoded.

A few kilobytes can ask for gigabytes of pixels, for thousands of passes over them, or for one block of metadata tens of
thousands of times.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

from PIL import Image

from hvf.config import HvfError
from hvf.files.budgets import PICTURE, PIXELS, PROFILE, SCANS, TAGS_FREE, TAGS_TIMES, megabytes

_TIMES = {"I": 4, "F": 4, "JPEG2000": 4, "WEBP": 2}  # modes and formats whose pixels take that much more memory
_TYPE_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)  # of the types of TIFF's values
_DIRECTORIES = 4096  # pages of a TIFF


def check_picture_size(n: int, name: str) -> int:
    """`n`, the bytes of a picture's file. Raises HvfError if they are more than HVF_MAX_PICTURE_BYTES."""
    limit = int(PICTURE())
    if not 0 <= n <= limit:
        raise HvfError(f"the image {name} has {megabytes(n)}, more than {megabytes(limit)}; {PICTURE.advice}")
    return n


def picture_bytes(path: Path) -> bytes:
    """The content of a picture's file. Raises HvfError if it is too large or no file, OSError if it cannot be read."""
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise HvfError(f"{path} is no file but a pipe or device, which holds no image")
        return file.read(check_picture_size(found.st_size, str(path)))


def check_content(data: bytes) -> None:
    """Raise HvfError (without the picture's name) for a TIFF whose tags are far larger than it is."""
    _check_tags(data)


def check_opened(image: Image.Image, data: bytes) -> None:
    """Raise HvfError (without the picture's name) for a picture, opened but not decoded, that asks for too much."""
    width, height = image.size
    limit = PIXELS()
    times = max(_TIMES.get(image.mode, 1), _TIMES.get(image.format or "", 1))
    if times * width * height > limit:
        kind = f" (of {image.format}, mode {image.mode})" if times > 1 else ""
        raise HvfError(
            f"is too large: {width} x {height} pixels, more than {limit / times:,.0f}{kind}; make it smaller, or "
            f"{PIXELS.advice}"
        )
    scans = data.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 0
    if scans * width * height > SCANS * limit:
        raise HvfError(f"is made of {scans} scans, more than any encoder writes: save it again")
    if len(image.info.get("icc_profile") or b"") > PROFILE:
        raise HvfError(f"has a colour profile of more than {megabytes(PROFILE)}: save it again without")
    check_exif(image)


def check_exif(image: Image.Image) -> None:
    """Raise HvfError for EXIF, as far as it is read, whose tags are far larger than it is."""
    exif = image.info.get("exif")
    if exif is None and isinstance(text := image.info.get("Raw profile type exif"), str):
        try:
            exif = bytes.fromhex("".join(text.split("\n")[3:]))
        except ValueError:
            exif = None
    if isinstance(exif, bytes):
        _check_tags(exif.removeprefix(b"Exif\0\0"))


def _check_tags(data: bytes) -> None:
    """Add up what the entries of a TIFF's directories say they take; several may name the same bytes."""
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    count, entry, place = ("Q", "HHQQ", "Q") if big else ("H", "HHLL", "L")
    at = struct.unpack_from(order + place, data.ljust(16, b"\0"), 8 if big else 4)[0]
    total, seen = 0, set[int]()
    while at and at not in seen and len(seen) < _DIRECTORIES and at + 8 < len(data):
        seen.add(at)
        n = struct.unpack_from(order + count, data, at)[0]
        at += struct.calcsize(count)
        size = struct.calcsize(order + entry)
        n = min(n, (len(data) - at) // size)
        for _, kind, number, _ in struct.iter_unpack(order + entry, data[at : at + n * size]):
            width = _TYPE_BYTES[kind] if kind < len(_TYPE_BYTES) else 0
            total += min(width * number, len(data))
        if total > TAGS_FREE + TAGS_TIMES * len(data):
            raise HvfError(f"has tags of {megabytes(total)} in {megabytes(len(data))}: save it again without metadata")
        at += n * size
        at = struct.unpack_from(order + place, data, at)[0] if at + struct.calcsize(place) <= len(data) else 0
