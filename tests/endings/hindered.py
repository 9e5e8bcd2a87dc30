"""Disks and file systems that refuse, as a forked job meets them: what hvf writes has a temporary name first."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hvf import runs


def _hook(before: Callable[[Path], Path | None]) -> None:
    """Call `before` with every temporary name that is given out; what it returns is used instead."""
    given_out = runs.temporary_beside

    def temporary_beside(path: Path) -> Path:
        tmp = given_out(path)
        return before(tmp) or tmp

    for module in [module for name, module in sys.modules.items() if name.startswith("hvf")]:
        if getattr(module, "temporary_beside", None) is given_out:
            module.temporary_beside = temporary_beside


def counted(told: Path) -> Callable[[], None]:
    """Write into `told` a byte for each file that is being written."""

    def note(tmp: Path) -> None:
        with open(told, "ab") as file:
            file.write(b".")

    return lambda: _hook(note)


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[Path]:
    """A file system of 64 KiB without a free byte at `folder`; skips the test where nobody may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=100", "tmpfs", str(folder)]
    mount = shutil.which("mount")
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a full disk is a file system that only root may mount")
    try:
        with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def full_from(number: int, full: Path) -> Callable[[], None]:
    """The disk is full from the `number`-th file on: what is written goes to the folder `full`."""
    count = itertools.count(1)

    def fill(tmp: Path) -> Path | None:
        return full / tmp.name if next(count) >= number else None

    return lambda: _hook(fill)


def without(name: str, number: int) -> Callable[[], None]:
    """A file system that refuses one of os's functions, rename only where a file is there already."""
    real = getattr(os, name)

    def refused(*args: object, **more: object) -> object:
        if name == "replace" and not os.path.lexists(str(args[1])):
            return real(*args, **more)
        raise OSError(number, os.strerror(number), str(args[0]))

    return lambda: setattr(os, name, refused)


REFUSALS = {
    "rename over a file (SMB)": ("replace", errno.EEXIST),
    "rename over a file (FUSE)": ("replace", errno.EPERM),
    "fsync": ("fsync", errno.EINVAL),
    "fsync at all": ("fsync", errno.ENOSYS),
}
HARMLESS = {
    "permissions": ("chmod", errno.EPERM),
    "links": ("link", errno.EPERM),
    "symbolic links": ("symlink", errno.EPERM),
}
