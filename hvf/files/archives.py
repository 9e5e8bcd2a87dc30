"""Zips from others: their directory is checked before it is trusted, and no member is unpacked beyond its budget.

A zip says how large its members are, where they lie and how many there are; each may be false. Several members may lie
at one place, so that a small file unpacks to petabytes.
"""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from hvf.files.budgets import MEMBERS, RATIO, Budget, array_limit, megabytes
from hvf.registry import HvfError

# What zipfile raises of a damaged or encrypted member, the decompressors' own errors included.
MEMBER_ERRORS = (
    OSError, KeyError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, OverflowError, zlib.error,
    lzma.LZMAError, struct.error,
)  # fmt: skip
_BLOCK = 2**24
_ENTRY = b"PK\x01\x02"  # begins a member's entry in the directory
_SIZE = 5  # where zipfile holds the bytes of the directory
_ZIP64 = 76  # bytes between the directory and its end record


def open_zip(file: str | Path | BinaryIO) -> zipfile.ZipFile:
    """An open zip whose members are not too many and lie beside each other.

    Raises zipfile.BadZipFile, whatever is wrong with it, or OSError if it cannot be read.
    """
    try:
        if isinstance(file, (str, Path)):
            with open(file, "rb") as opened:
                _check_count(opened)
        else:
            _check_count(file)
        archive = zipfile.ZipFile(file)
    # zipfile knows no zip of a later version, and stumbles over sizes and names that cannot be
    except (NotImplementedError, ValueError, OverflowError, IndexError, EOFError, struct.error) as error:
        raise zipfile.BadZipFile(f"{error or type(error).__name__}") from error
    try:
        _check_places(archive)
    except zipfile.BadZipFile:
        archive.close()
        raise
    return archive


def read_member(archive: zipfile.ZipFile, name: str, most: Budget) -> bytes:
    """The content of a member, at most as large as `most` by what it says and by what it holds.

    Raises zipfile.BadZipFile if it is larger, and what zipfile raises of a damaged one (`MEMBER_ERRORS`).
    """
    limit = int(most())
    declared = archive.getinfo(name).file_size
    if declared <= limit:
        with archive.open(name) as file:
            data = file.read(limit + 1)
        if len(data) <= limit:
            return data
        declared = len(data)
    raise zipfile.BadZipFile(f"it unpacks to {megabytes(declared)}, more than {megabytes(limit)}; {most.advice}")


def check_arrays(path: Path) -> None:
    """Raise HvfError for a zip of arrays (.npz, a torch file) that unpacks to far more than lies in it."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with open_zip(path) as archive:
            total = sum(info.file_size for info in archive.infolist())
    except zipfile.BadZipFile as error:
        raise HvfError(f"{path} cannot be read: {error}") from error
    on_disk = path.stat().st_size
    if total > array_limit(on_disk):
        raise HvfError(f"{path} unpacks from {megabytes(on_disk)} to {megabytes(total)}; {RATIO.advice}")


def _check_count(file: BinaryIO) -> None:
    """Count the entries of the directory before zipfile makes an object of each."""
    directory = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if not directory:
        return  # no zip, which zipfile says
    limit, size = MEMBERS(), directory[_SIZE]
    if size > 46 * limit:  # bytes of an entry without its name
        n, size = 0, size + _ZIP64
        file.seek(max(0, directory[-1] - size))
        while size > 0 and (block := file.read(min(size, _BLOCK))):
            n, size = n + block.count(_ENTRY), size - len(block)
        if n > limit:
            raise zipfile.BadZipFile(f"it holds {n:,} files, more than {limit:,.0f}; {MEMBERS.advice}")
    file.seek(0)


def _check_places(archive: zipfile.ZipFile) -> None:
    end = archive.start_dir
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset, reverse=True):
        if info.header_offset < 0 or info.header_offset + 30 + info.compress_size > end:  # bytes of a local header
            raise zipfile.BadZipFile(f"its member {info.filename} reaches into what follows it")
        end = info.header_offset
