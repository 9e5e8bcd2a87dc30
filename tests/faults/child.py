"""Jobs in a forked child that is held to processor time and memory: what came of each, whatever it did to the child."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvf.config import HvfError

SPACE = 3 * 2**30  # bytes of addresses above what the process has
MEMORY = 1000  # MB above what the process held, from which a job has blown up


@dataclass(frozen=True)
class Outcome:
    """What came of a job. kind: read, refused, traceback, hang, crash or memory."""

    kind: str
    value: str  # what it returned or said


def outcomes(jobs: Sequence[Callable[[], Any]], seconds: int = 10) -> list[Outcome]:
    """Run every job, each with so many seconds of processor time; one that ends its child is told by how it did."""
    done: list[Outcome] = []
    while len(done) < len(jobs):
        done += _in_a_child(jobs[len(done) :], seconds)
    return done


def _in_a_child(jobs: Sequence[Callable[[], Any]], seconds: int) -> list[Outcome]:
    read, write = os.pipe()
    with tempfile.TemporaryFile() as said:
        pid = os.fork()
        if pid == 0:
            os.close(read)
            _work(jobs, write, said.fileno(), seconds)
        os.close(write)
        lines, late = _lines(read, 6 * seconds)
        if late:
            os.kill(pid, signal.SIGKILL)
        os.close(read)
        status = os.waitpid(pid, 0)[1]
    done = [Outcome(*json.loads(line)) for line in lines]
    if len(done) == len(jobs):
        return done
    ended = signal.Signals(status & 127).name if status & 127 else f"exit {status >> 8}"
    if late or ended == "SIGXCPU":
        return [*done, Outcome("hang", f"not done after {seconds} s")]
    return [*done, Outcome("crash", ended)]


def _lines(read: int, seconds: float) -> tuple[list[bytes], bool]:
    """Whole lines from a pipe, and whether one took longer than that."""
    data, told = b"", time.monotonic()
    while True:
        if not select.select([read], [], [], max(0.0, told + seconds - time.monotonic()))[0]:
            return data.split(b"\n")[:-1], True
        chunk = os.read(read, 2**16)
        if not chunk:
            return data.split(b"\n")[:-1], False
        data, told = data + chunk, time.monotonic()


def _work(jobs: Sequence[Callable[[], Any]], write: int, said: int, seconds: int) -> None:
    """What the child does; it never returns."""
    try:
        faulthandler.disable()  # pytest's writes to a stream of its own
        for stream in (1, 2):
            os.dup2(said, stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
        space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + SPACE
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (space, resource.getrlimit(resource.RLIMIT_AS)[1]))
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        for job in jobs:
            used = resource.getrusage(resource.RUSAGE_SELF)
            limit = int(used.ru_utime + used.ru_stime + 0.5) + seconds
            resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
            os.write(write, json.dumps(_outcome(job)).encode() + b"\n")
    finally:
        os._exit(0)


def _outcome(job: Callable[[], Any]) -> tuple[str, str]:
    before = _peak(reset=True)
    try:
        came = ("read", str(job()))
    except HvfError as error:
        came = ("refused", str(error)) if "\n" not in str(error) else ("traceback", f"several lines: {error}")
    except MemoryError as error:
        came = ("memory", str(error))
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        words = " ".join(str(error).split())[:200]
        came = ("traceback", f"{type(error).__name__}: {words} ({where.filename}:{where.lineno})")
    more = _peak() - before
    return came if more < MEMORY else ("memory", f"{more:.0f} MB; {came[0]}: {came[1][:100]}")


def _peak(reset: bool = False) -> float:
    """The most memory that this process has held, in MB; counted anew from now on if `reset`."""
    if reset:
        with suppress(OSError):  # not everywhere allowed: the peak then is that of all jobs
            Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
