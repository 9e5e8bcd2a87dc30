"""Disks and file systems that refuse, as a forked job meets them: what hvf writes has a temporary name first."""

from __future__ import annotations

import errno
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

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


def full_from(number: int) -> Callable[[], None]:
    """The disk is full when the `number`-th file is written, and stays so: its name leads to /dev/full."""
    count = itertools.count(1)

    def fill(tmp: Path) -> None:
        if next(count) >= number:
            tmp.parent.mkdir(parents=True, exist_ok=True)
            tmp.symlink_to("/dev/full")

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
