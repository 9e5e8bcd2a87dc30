"""Foreign parsers at a distance: a file from outside is opened in a process of its own first.

MNE, scipy, HDF5 and Arrow read dozens of formats, some of them in C, and a file that is damaged or made to harm can
keep them busy for ever, take all memory, or crash the process that they run in. So `guarded` lets a child open each
file before anybody else does, within budgets of processor time and memory. What the child survives is then read here,
by the same call as ever: nothing is changed by it. One child serves all files of a process, and a file that passed is
remembered by its size, time of change and inode, as are the files that were opened with it.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.metadata
import json
import os
import queue
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from hvf.files.budgets import MEMORY, RATIO, SECONDS, array_limit, megabytes
from hvf.files.remembered import Remembered
from hvf.progress import say
from hvf.registry import HvfError

T = TypeVar("T")
Parser = Literal["recording", "epochs", "kind", "matlab", "hdf5", "parquet"]

_LIBRARY = {"recording": "mne", "epochs": "mne", "kind": "mne", "matlab": "scipy", "hdf5": "h5py", "parquet": "pyarrow"}
_START = 300.0  # s that a child may take to import the parsers, on however busy a machine
_POLL = 0.1  # s
_IDLE = 12  # times the processor time that it may take, a parser may wait for a disk
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS")
_SETTINGS = dict.fromkeys(_THREADS, "1") | {"PYTHONWARNINGS": "ignore", "ARROW_DEFAULT_MEMORY_POOL": "system"}
_TOO_LARGE = "{library} takes far more memory for it than a file of its size needs; " + MEMORY.advice
_TOO_LONG = "{{library}} does not get through it in {} seconds of processor time; " + SECONDS.advice
_WAITS = "{{library}} waits for it, {} s without a sign: is it a pipe, or on a disk that does not answer?"
_lock = threading.RLock()
_children: list[_Child] = []  # the one of this process
_inherited: list[_Child] = []  # of the process that this one was forked from
_refused: dict[tuple[Any, ...], str] = {}


def guarded(path: Path, parser: Parser, read: Callable[[], T]) -> T:
    """The result of `read`, which hands the file or folder `path` to a foreign parser, once a child has got through it.

    Parameters
    ----------
    path : Path
    parser : str
        Which one, by the name that `hvf.files.parser_process` gives it.
    read : callable

    Raises
    ------
    HvfError
        The parser crashes, hangs or takes far more memory than the file is large. What `read` raises is its own.
    """
    _try_out(path.absolute(), parser)
    return read()


def _try_out(path: Path, parser: Parser) -> None:
    mark = _mark(path)
    if mark is None:
        return  # there is nothing, which `read` says
    if not (stat.S_ISREG(path.stat().st_mode) or path.is_dir()):
        raise HvfError(f"{path} is no file but a pipe or device, which cannot be read")
    library = _LIBRARY[parser]
    known = Remembered([path], f"{parser} {importlib.metadata.version(library)}")
    files: Mapping[str, Any] = known.get("files") or {}
    if files and all(_mark(Path(name)) == held for name, held in files.items()):
        return
    with _lock:
        beside = _beside(path)
        key = (parser, str(path), *(tuple(held) for held in beside))
        if key not in _refused:
            size = sum(held[0] for held in beside)
            child, most = _child(), array_limit(size)
            job: dict[str, Any] = {"path": str(path), "parser": parser, "most": most}
            job |= {"memory": int(MEMORY() + 16 * size), "seconds": SECONDS() + size / 5e6}
            answer = child.ask(job) if child else {}
            fault = answer.get("fault") or _too_much(answer, most, size)
            if not fault and answer.get("failed"):
                return  # `read` says how, and once it is mended it is new
            if not fault:
                opened = {name: _mark(Path(name)) for name in _outside(answer.get("files", []), path)}
                known.put({"files": {name: held for name, held in opened.items() if held is not None}})
                return
            if not answer.get("passing"):
                _refused[key] = fault
        else:
            fault = _refused[key]
    raise HvfError(f"cannot read {path}: {fault.format(library=library)}; get it again from where it came from")


def _too_much(answer: Mapping[str, Any], most: int, size: int) -> str:
    """What is wrong with what a child says of the memory that a file of `size` bytes takes; "" if nothing is."""
    if answer.get("memory"):
        return _TOO_LARGE
    if answer.get("bytes", 0) > most:
        return f"its values would take {megabytes(answer['bytes'])} and it has {megabytes(size)}; {RATIO.advice}"
    return ""


def _mark(path: Path) -> list[int] | None:
    """Size, time of change (ns) and inode of a file; None if there is none."""
    with contextlib.suppress(OSError, ValueError):
        found = path.stat()
        return [found.st_size, found.st_mtime_ns, found.st_ino]
    return None


def _beside(path: Path) -> list[list[int]]:
    """The marks of a folder's files, or of a file and those beside it that bear its name: headers have data there."""
    files = path.rglob("*") if path.is_dir() else (p for p in path.parent.iterdir() if p.name.startswith(path.stem))
    marks = [_mark(file) for file in sorted(files) if file.is_file()]
    return [mark for mark in marks if mark is not None]


def _outside(names: list[str], path: Path) -> list[str]:
    """The files that were opened beside `path`, itself included: not those of Python and its packages."""
    own = tuple(os.path.join(folder, "") for folder in (sys.prefix, sys.base_prefix, "/proc", "/dev"))
    return [str(path), *(name for name in names if not name.startswith(own) and not name.endswith((".py", ".pyc")))]


# --- the child --------------------------------------------------------------------------------------------------------


def _child() -> _Child | None:
    """The child of this process, started if there is none that lives; None where there can be none, as is said once."""
    if not _children and _cannot():
        return None
    if not _children or not _children[0].lives():
        _children[:] = [_Child()]
    return _children[0]


@lru_cache(maxsize=1)
def _cannot() -> str:
    """Why no child can be started here; "" where one can."""
    if getattr(sys, "frozen", False) or not sys.executable:
        why = "Python is a part of another program"
    else:
        try:
            _children[:] = [_Child()]
            return ""
        except (OSError, HvfError) as error:
            why = str(error)
    say("files", [f"files from outside are read without being tried out in a process of their own: {why}"])
    return why


def _after_fork() -> None:
    """A forked process must share neither the child of its parent nor a lock that a thread of it may hold."""
    global _lock
    _lock = threading.RLock()
    _inherited.extend(_children)
    _children.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Child:
    """A process that parsers run in. It ends when this one does: nothing more can be read from its input then."""

    def __init__(self) -> None:
        import psutil

        script = Path(__file__).with_name("parser_process.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=os.environ | _SETTINGS,
        )
        self._owner = os.getpid()
        atexit.register(self.stop)
        self._watched = psutil.Process(self.process.pid)
        self._answers: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        started = self._send(sys.path, 2**40, _START, _START)
        if started:
            why = started["fault"].format(library="Python")
            raise HvfError(f"the process that tries out files from outside does not start ({why})")

    def lives(self) -> bool:
        return self.process.poll() is None

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """What the child says of a file; {"fault": why it could not}."""
        return self._send(job, job["memory"], job["seconds"], _IDLE * job["seconds"])

    def stop(self) -> None:
        """Kill it, if it is this process's own."""
        atexit.unregister(self.stop)
        if self._owner != os.getpid():
            return
        self.process.kill()
        self.process.wait()
        self._listener.join(5)
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError, AttributeError):
                pipe.close()  # type: ignore[union-attr]

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in self.process.stdout:
                self._answers.put(line)
        self._answers.put("")

    def _send(self, message: Any, memory: int, seconds: float, idle: float) -> dict[str, Any]:
        """The answer to a message, or {"fault": why there is none}.

        Parameters
        ----------
        message : JSON
        memory : int
            Bytes that the child may take more than now.
        seconds : float
            Processor seconds that it may take.
        idle : float
            Seconds that may pass without its working.
        """
        import psutil

        try:
            with contextlib.suppress(OSError, psutil.Error):  # it has ended
                return self._answer(json.dumps(message), memory, seconds, idle)
            return self._ended()
        except BaseException:  # Ctrl-C: it would go on, and answer the next question with this one's answer
            self.stop()
            raise

    def _answer(self, message: str, memory: int, seconds: float, idle: float) -> dict[str, Any]:
        assert self.process.stdin is not None
        begin, held = self._used()
        worked, last = begin, time.monotonic()
        self.process.stdin.write(message + "\n")
        self.process.stdin.flush()
        while True:
            with contextlib.suppress(queue.Empty):
                line = self._answers.get(timeout=_POLL)
                return json.loads(line) if line else self._ended()
            now, taken = self._used()
            if now > worked + 0.01:
                worked, last = now, time.monotonic()
            if taken - held > memory:
                return self._killed(_TOO_LARGE)
            if now - begin > seconds:
                return self._killed(_TOO_LONG.format(f"{seconds:.0f}"))
            if time.monotonic() - last > idle:
                return self._killed(_WAITS.format(f"{idle:.0f}")) | {"passing": True}

    def _used(self) -> tuple[float, int]:
        """Processor seconds and bytes that the child has taken."""
        times = self._watched.cpu_times()
        return times.user + times.system, self._watched.memory_info().rss

    def _killed(self, fault: str) -> dict[str, Any]:
        self.stop()
        return {"fault": fault}

    def _ended(self) -> dict[str, Any]:
        """Why the child ended by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        code = self.process.poll()
        self.stop()
        if code is None or code >= 0:
            return {"fault": f"{{library}} crashes on it (exit code {code})"}
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if name == "SIGXCPU":
            return {"fault": _TOO_LONG.format("the")}
        if name == "SIGKILL":
            why = "the system ended {library} while it read it (SIGKILL; is the memory used up?)"
            return {"fault": why, "passing": True}
        return {"fault": f"{{library}} crashes on it ({name})"}
