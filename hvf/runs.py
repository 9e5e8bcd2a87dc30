"""The run folder and the disk: what is written is whole, or not there at all.

Also what every stage shares: where features are cached, which code ran, and progress bars (`track`).
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import errno
import hashlib
import io
import json
import math
import os
import platform
import re
import secrets
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hvf import __version__
from hvf.config import Config, HvfError, check_files, first_difference, from_dict, to_dict
from hvf.progress import say, track
from hvf.registry import listed
from hvf.schema.reading import read_as, read_json
from hvf.schema.run_folder import Figures

__all__ = [
    "NO_CONFIG", "Run", "cache_dir", "check_writable", "clear_leftovers", "code_version", "padded", "say", "settle",
    "temporary_beside", "track", "usable_cores", "why_no_run", "write_atomic", "write_csv", "write_json",
]  # fmt: skip

NO_CONFIG = "it has no config.json"
_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EEXIST: "a part of this path is a file, not a folder",
    errno.EISDIR: "a folder of this name is in the way",
    errno.EFBIG: "the file is larger than this file system, or ulimit -f, allows",
    errno.ENODEV: "this file system cannot map files into memory",
    errno.ENAMETOOLONG: "the name is too long",
}


# `.STEM.hvf-MACHINE-PID-START-TOKEN.ENDING` is being written. A process of this machine is asked for by its number and
# its start, since numbers come again; those of other machines on a shared disk cannot be: their names go after a week.
NAME = re.compile(r"\..*\.hvf-([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{8}(\.[^.]*)?")
WEEK = 7 * 86400.0  # s
STEM = 100  # characters of the name that the temporary one keeps: file systems take 255
# What a file system says of a function that it lacks.
LACKING = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EEXIST)
_looked_through: set[tuple[int, Path]] = set()  # (process, folder)
_changing_umask = threading.Lock()  # two threads at once would leave the process with a mask of neither


class Run:
    """A run folder `path` with the settings `config` that its results belong to, and what each stage left there."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path, self.config = path, config
        self._made: list[Path] = []

    @classmethod
    def create(cls, path: str | Path, config: Config) -> Run:
        """Make the folder, or enter it again when it holds a run with the same settings.

        Raises HvfError, and writes nothing, if the settings cannot work, the folder cannot be written to, holds
        something else than a run, or a run whose settings give other results (naming the first that differs).
        """
        path = Path(path)
        check_files(config, trained=(path / "checkpoint").is_dir())
        check_writable(path)
        if (path / "config.json").exists():
            difference = first_difference(cls.open(path).config, config)
            if difference:
                name, there, here = difference
                raise HvfError(f"{path} holds a run with {name} {there!r}, not {here!r}: choose another --out")
            return cls(path, config)
        if path.exists() and (not path.is_dir() or any(not p.name.startswith(".") for p in path.iterdir())):
            raise HvfError(f"{path} exists and is not a run folder: choose another --out")
        run = cls(path, config)
        run._made = _make_folders(path)
        run.write_json("config.json", to_dict(config))
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run folder; HvfError if it is none."""
        path = Path(path)
        if not (path / "config.json").is_file():
            raise HvfError(f"{path} is not a run folder: {why_no_run(path)}")
        return cls(path, from_dict(Config, read_json(path / "config.json")))

    def has(self, name: str) -> bool:
        """Whether the file or folder `name` was left here."""
        return (self.path / name).exists()

    def write_json(self, name: str, obj: Any) -> None:
        """Write `obj` (numpy scalars and arrays included) to the file `name`, atomically."""
        write_json(self.path / name, obj)

    def read_json(self, name: str) -> Any:
        """What `write_json` wrote; HvfError if it is missing or broken."""
        return read_json(self.path / name)

    def write_metrics(self, metrics: Mapping[str, Mapping[str, Any]], merge: bool = True) -> None:
        """Put `{"retrieval/brain/top1": {"value", "ci95", "n"}, ...}` into metrics.json; `merge` keeps what is there.

        Raises HvfError if an entry lacks one of the three, or its value is not a finite number.
        """
        for name, entry in metrics.items():
            if set(entry) != {"value", "ci95", "n"}:
                raise HvfError(f"metric {name!r} must have value, ci95 and n, not {', '.join(entry) or 'nothing'}")
            if not math.isfinite(entry["value"]):
                raise HvfError(f"metric {name!r} is {entry['value']}, not a finite number")
        self.write_json("metrics.json", {**(self.metrics() if merge else {}), **metrics})

    def metrics(self) -> Figures:
        """The figures of metrics.json; empty before any was written."""
        return read_as(Figures, self.path / "metrics.json") if self.has("metrics.json") else {}

    def discard_if_unused(self) -> None:
        """Take back a folder that this object made and that holds nothing but its settings."""
        if self._made and [p.name for p in self.path.iterdir()] == ["config.json"]:
            (self.path / "config.json").unlink()
            _remove_folders(self._made)


def why_no_run(path: Path) -> str:
    """Why there is no run at `path`, with the runs nearby that may have been meant."""
    if not path.exists():
        near = {run.name: run for run in _runs_in(path.parent)}
        close = difflib.get_close_matches(path.name, near, n=1)
        return "there is no such folder" + (f"; did you mean {str(near[close[0]])!r}?" if close else "")
    inside = _runs_in(path)
    return f"it holds runs, so name them: {listed(map(str, inside), 3)}" if inside else NO_CONFIG


def _runs_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/config.json"))


def write_json(path: str | Path, obj: Any) -> None:
    """Write `obj` (numpy scalars and arrays included) as JSON, atomically.

    Bytes of file names that are no UTF-8 (of Latin-1, say) are written as JSON escapes them.
    """
    text = json.dumps(obj, indent=2, default=plain, ensure_ascii=False) + "\n"
    write_atomic(path, lambda tmp: tmp.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table of comma-separated values in UTF-8, atomically; names may hold commas, quotes and any line end."""
    text = io.StringIO()
    plainly = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)  # alone a "\r" would not be quoted
    for row in (header, *rows):
        (quoted if any("\r" in str(value) for value in row) else plainly).writerow(row)
    write_atomic(path, lambda tmp: tmp.write_text(text.getvalue(), encoding="utf-8", newline=""))


def padded(i: int, n: int) -> str:
    """The number of one of n files, as long as all of them are, 4 digits at least: their names sort by it."""
    return f"{i:0{max(4, len(str(n - 1)))}d}"


def write_atomic(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file of this name in a temporary folder beside `path`, then put it in place whole.

    The folder holds whatever else a library writes on the way (safetensors has temporary files of its own), so that it
    is cleared with it. Whatever goes wrong, `path` is untouched and the folder is gone. Raises HvfError if the disk is
    full, the folder read-only or the path impossible; anything else that `write` raises passes through.
    """
    path = Path(path)
    folder = temporary_beside(path)
    made: list[Path] = []
    try:
        made = _make_folders(path.parent)
        folder.mkdir()
        write(folder / path.name)
        settle(folder / path.name)
        _needed(lambda: os.replace(folder / path.name, path), "put a file in the place of another (rename)")
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException as error:
        reason = _reason(error, path.parent)
        shutil.rmtree(folder, ignore_errors=True)  # it could not be made either
        _remove_folders(made)
        if reason:
            raise HvfError(f"cannot write {path}: {reason}") from error
        raise


def settle(path: Path) -> None:
    """See a file onto the disk, and give it the permissions of the user's files: safetensors' lets nobody else read."""
    with open(path, "r+b") as file:
        _needed(lambda: os.fsync(file.fileno()), "say when a file is on the disk (fsync)")
    with contextlib.suppress(OSError):  # some file systems have no permissions
        os.chmod(path, 0o666 & ~_umask())


def _needed(step: Callable[[], None], what: str, lacking: tuple[int, ...] = LACKING) -> None:
    """A step of writing without which no file could be promised to be whole; HvfError names it where it is missing."""
    try:
        step()
    except OSError as error:
        if error.errno in lacking:
            raise HvfError(f"this file system cannot {what}, which hvf needs: choose a folder on another") from error
        raise


def _umask() -> int:
    """The permissions that this process's files do not get."""
    with contextlib.suppress(OSError, StopIteration, ValueError):  # Linux: reading it changes nothing
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    with _changing_umask:
        mask = os.umask(0o077)
        os.umask(mask)
    return mask


def temporary_beside(path: Path) -> Path:
    """A new name of this process in the folder of `path`, with its ending.

    The first time in a folder, what dead processes left there is removed.
    """
    folder = path.parent.absolute()
    if (os.getpid(), folder) not in _looked_through:
        _looked_through.add((os.getpid(), folder))
        clear_leftovers(folder)
    owner = f"{_machine()}-{os.getpid()}-{_started(os.getpid()) or 0}"
    return path.with_name(f".{path.stem[:STEM]}.hvf-{owner}-{secrets.token_hex(4)}{path.suffix}")


def clear_leftovers(folder: Path) -> None:
    """Remove what dead processes were writing in a folder; what cannot be looked at or removed stays."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            owner = NAME.fullmatch(entry.name)
            if owner is None or not _is_dead(owner[1], int(owner[2]), int(owner[3]), Path(entry.path)):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _is_dead(machine: str, pid: int, started: int, path: Path) -> bool:
    if machine != _machine():
        return time.time() - path.lstat().st_mtime > WEEK
    now = _started(pid)
    return now is None or abs(now - started) > 2  # s: the clock may be set while a process runs


def _started(pid: int) -> int | None:
    """When a process of this machine started, in s since 1970; None if there is none of that number."""
    import psutil  # here: `hvf --help` writes nothing

    try:
        return int(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


@lru_cache(maxsize=1)
def _machine() -> str:
    """Eight hex digits of this machine, and of the container whose process numbers are meant."""
    with contextlib.suppress(OSError):
        return _digest(platform.node(), str(uuid.getnode()), os.readlink("/proc/self/ns/pid"))
    return _digest(platform.node(), str(uuid.getnode()))


def _digest(*words: str) -> str:
    return hashlib.sha256("/".join(words).encode()).hexdigest()[:8]


def check_writable(path: str | Path) -> None:
    """Refuse early a file or folder that could not be written: HvfError; leaves nothing behind."""
    path = Path(path).absolute()
    folder = path.parent
    try:
        folder = path if path.is_dir() else path.parent
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        # Permission bits do not tell (root, read-only mounts, full disks): only writing does.
        probe, other = temporary_beside(folder / "probe"), temporary_beside(folder / "probe")
        try:
            probe.write_bytes(bytes(65536))
            settle(probe)
            other.write_bytes(bytes(1))
            replaced = (*LACKING, errno.EPERM)  # both files are ours
            _needed(lambda: os.replace(probe, other), "put a file in the place of another (rename)", replaced)
        finally:
            for temporary in (probe, other):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise HvfError(f"cannot write {path}: {_reason(error, folder) or error}") from error


def cache_dir() -> Path:
    """Where features are kept between runs: $HVF_CACHE, else hvf/ in $XDG_CACHE_HOME or ~/.cache; not made here."""
    if os.environ.get("HVF_CACHE"):
        return Path(os.environ["HVF_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hvf"


def usable_cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def code_version() -> str:
    """The package's version, and the commit when it runs from its repository: "0.1.0+g1a2b3c4" (".dirty" if edited)."""
    root = Path(__file__).resolve().parent.parent
    if not ((root / ".git").exists() and (root / "prior_training").is_dir()):
        return __version__
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=.dirty", "--exclude=*"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+g{commit}"


def _reason(error: BaseException, folder: Path) -> str | None:
    """Why the disk refused, in plain words; None when `error` is about something else."""
    if isinstance(error, OSError) and error.errno in _REASONS:
        return _REASONS[error.errno]
    if isinstance(error, OSError) and error.errno is None:  # numpy's short write carries no errno
        try:
            return _REASONS[errno.ENOSPC] if shutil.disk_usage(folder).free < 2**20 else str(error)
        except OSError:
            return str(error)
    if isinstance(error, Exception) and not isinstance(error, HvfError):  # safetensors and torch only quote the system
        return next((reason for code, reason in _REASONS.items() if os.strerror(code) in str(error)), None)
    return None


def _make_folders(path: Path) -> list[Path]:
    """`mkdir -p`; the folders that were made, deepest last."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    path.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _remove_folders(made: list[Path]) -> None:
    for folder in reversed(made):
        try:
            folder.rmdir()
        except OSError:
            return  # somebody put something there


def plain(obj: Any) -> Any:
    """numpy scalars and arrays, paths, tuples inside them: as JSON knows them."""
    if hasattr(obj, "tolist"):
        return obj.tolist()
    if isinstance(obj, Path):
        return str(obj)
    raise TypeError(f"{type(obj).__name__} cannot be written as JSON")
