"""sha256 of files; that of a large one is taken once, and remembered while the file is the same."""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from pathlib import Path

from hvf.files.remembered import Remembered
from hvf.registry import HvfError

LARGE = 2**22  # bytes, from which remembering is faster than reading
BLOCK = 2**22  # bytes read at a time
FOLDER = "checksums"  # in the cache folder


def sha256_of(path: Path, begin: int = 0) -> str:
    """Digest of a file's bytes from `begin`, read now: its pages are not kept in memory."""
    digest, block = hashlib.sha256(), bytearray(BLOCK)
    with open(path, "rb", buffering=0) as file:
        file.seek(begin)
        while n := file.readinto(block):
            digest.update(memoryview(block)[:n])
    return digest.hexdigest()


def check_zip(path: Path) -> None:
    """Hold the members of a zip archive, as `torch.save` writes one, to their checksums: torch itself does not."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except OSError as error:
        raise HvfError(f"{path} cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise HvfError(f"{path} is damaged: {' '.join(str(error).split())[:160]}") from error
    if damaged:
        raise HvfError(f"{path} is damaged: the checksum of {damaged} in it is wrong")


def known_sha256(path: Path, begin: int = 0) -> str:
    """Digest of a file's bytes from `begin`, as it is known if the file is large and has not changed since."""
    if path.stat().st_size < LARGE:
        return sha256_of(path, begin)
    facts = Remembered([path.resolve()], f"sha256 from byte {begin}", FOLDER)
    digest = facts.get("sha256")
    if not isinstance(digest, str):
        digest = sha256_of(path, begin)
        facts.put({"sha256": digest})
    return digest
