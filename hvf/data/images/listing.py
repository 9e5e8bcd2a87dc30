"""The files below a folder or in a zip: which are pictures, how they are called, and which are skipped."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from hvf.config import HvfError
from hvf.data.images.decoding import IMAGE_SUFFIXES, why_skipped
from hvf.files.archives import open_zip
from hvf.runs import say


def picture_files(
    names: Iterable[tuple[str, str]], where: str, folder: Path | None = None
) -> tuple[dict[str, str], str]:
    """{name of a picture: what it is called where it lies}, sorted, and a line on those that are skipped.

    Parameters
    ----------
    names : iterable of (str, str)
        All files: how each is to be called, and its name on disk or in an archive.
    where : str
        What holds them, for messages.
    folder : path, optional
        Where files lie, to tell links whose files are missing.

    Raises
    ------
    HvfError
        No picture among them, or two that are called the same.
    """
    files: dict[str, str] = {}
    skipped: list[tuple[str, str]] = []
    for name, place in sorted(names):
        why = why_skipped(name)
        if why is None and folder is not None and not (folder / place).is_file():
            why = "links to no file (datalad get)"
        if why is None and name in files:
            raise HvfError(f"{where} holds two files called {name}: keep one of them")
        if why is None:
            files[name] = place
        elif why:
            skipped.append((name, why))
    line = skipped_line(skipped, where, len(files))
    if not files:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise HvfError(f"{where} holds no image ({known})" + (f"; {line.partition('; ')[2]}" if line else ""))
    return files, line


def skipped_line(skipped: Iterable[tuple[str, str]], where: str, n: int) -> str:
    """The line, logged once, on the pictures that are not taken, (name, why) each, beside the n that are; or ""."""
    by_reason: dict[str, list[str]] = {}
    for name, why in skipped:
        by_reason.setdefault(why, []).append(name)
    if not by_reason:
        return ""
    parts = [f"{len(of)} {why} ({', '.join(of[:3])}{', ...' if len(of) > 3 else ''})" for why, of in by_reason.items()]
    line = f"{n} images; {sum(map(len, by_reason.values()))} other pictures skipped: {'; '.join(parts)}"
    if n:
        say_once(where, line)
    return f"{where}: {line}"


def readable(name: str) -> str:
    r"""A file's name as text: one that is no UTF-8 is read as Windows-1252 or Latin-1.

    >>> readable(b"caf\xe9.png".decode("utf-8", "surrogateescape"))
    'caf\xe9.png'
    """
    data = name.encode("utf-8", "surrogateescape")
    for encoding in ("utf-8", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            pass
    return data.decode("latin-1")


@lru_cache(maxsize=256)
def say_once(where: str, line: str) -> None:
    """Print a note on what was done to images, once however often they are opened."""
    say(where, [line])


def walk(root: Path) -> Iterator[tuple[str, str]]:
    """(name to read, path relative to it) of all files below a folder; links are followed."""

    def enter(folder: Path, above: tuple[Path, ...]) -> Iterator[tuple[str, str]]:
        real = folder.resolve()
        if real in above:
            return  # a link to a folder that it lies in
        with os.scandir(folder) as entries:
            for entry in entries:
                path = folder / entry.name
                if entry.is_dir():
                    yield from enter(path, (*above, real))
                else:
                    place = path.relative_to(root).as_posix()
                    yield readable(place), place

    try:
        yield from enter(root, ())
    except OSError as error:
        raise HvfError(f"cannot list {readable(str(error.filename or root))}: {error.strerror or error}") from error


def members(path: Path) -> list[tuple[str, str]]:
    """(name with slashes, name in the zip) of a zip's files."""
    files: list[tuple[str, str]] = []
    try:
        with open_zip(path) as archive:
            for info in archive.infolist():
                name = info.filename
                if not info.flag_bits & 0x800 and not name.isascii():  # UTF-8 without the mark that says so
                    with contextlib.suppress(UnicodeError):
                        name = name.encode("cp437").decode("utf-8")
                name = name.replace("\\", "/")
                if not name.endswith("/"):
                    files.append(("/".join(part for part in name.split("/") if part not in ("", ".")), info.filename))
    except (zipfile.BadZipFile, OSError) as error:
        raise HvfError(f"{path} is neither a folder nor a readable zip of images: {error}") from error
    return files
