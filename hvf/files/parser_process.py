"""The process in which foreign parsers try files first (`hvf.files.guard`): run by its path, it imports nothing of hvf.

One JSON object a line comes in, the job, and one goes out. The first line that comes in is the path for imports, the
first that goes out says that the parsers are imported.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import warnings
from contextlib import suppress
from typing import Any

SMALL = 2**23  # values: of a recording with fewer all are read, of others as many at its begin, middle and end


def main() -> None:
    jobs, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0), os.dup2(nothing, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this
    sys.path[:] = json.loads(jobs.readline())
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    opened: list[str] = []
    import mne
    from scipy.io import loadmat  # noqa: F401

    _ = mne.io.read_raw, mne.read_epochs  # imported when they are named: that is no job's time
    mne.set_log_level("error")
    warnings.simplefilter("ignore")
    sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" else None)
    print("{}", file=answers)
    for line in jobs:
        job = json.loads(line)
        opened.clear()
        limited(job["memory"], job["seconds"])
        answer: dict[str, Any] = {"bytes": 0}
        try:
            answer["bytes"] = int(PARSERS[job["parser"]](job["path"], job["most"]))
        except BaseException as error:  # which the same parser raises again where it is dealt with
            answer |= {"failed": True, "memory": out_of_memory(error)}
        answer["files"] = sorted({os.path.abspath(os.fsdecode(x)) for x in opened if isinstance(x, (str, bytes))})
        print(json.dumps(answer), file=answers)


def end_with(parent: int) -> None:
    """End when the parent has ended, also in the middle of a job."""
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)


def limited(memory: int, seconds: float) -> None:
    """Let this process take so many bytes more than now; where the system cannot, the parent looks at it.

    The parent looks at the processor time, too: a limit beyond that ends this process when there is no parent any more.
    """
    with suppress(ImportError, OSError, ValueError):
        import resource

        used, hard = resource.getrusage(resource.RUSAGE_SELF), resource.getrlimit(resource.RLIMIT_CPU)[1]
        most = int(used.ru_utime + used.ru_stime + seconds) + 5
        resource.setrlimit(resource.RLIMIT_CPU, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        with open("/proc/self/statm") as file:
            space = int(file.read().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = space + memory if hard == resource.RLIM_INFINITY else min(space + memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says so: Python's own, the system's, or in words a library's."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, MemoryError) or "memory" in str(error).lower():
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False


def recording(path: str, most: int) -> int:
    """A continuous recording; the bytes of its values in memory."""
    import mne

    raw = mne.io.read_raw(path, verbose="error")
    n, n_chans = raw.n_times, len(raw.ch_names)
    if 8 * n * n_chans > most:
        return 8 * n * n_chans
    step = max(1, SMALL // max(n_chans, 1))
    for start in range(0, n, step) if n <= 3 * step else (0, (n - step) // 2, n - step):
        raw[:, start : start + step]
    return 8 * n * n_chans


def epochs(path: str, most: int) -> int:
    """MNE epochs; the bytes of their values in memory."""
    import mne

    held = mne.read_epochs(path, preload=False, verbose="error")
    n, size = len(held), len(held.ch_names) * len(held.times)
    if 8 * n * size > most:
        return 8 * n * size
    step = max(1, SMALL // max(size, 1))
    for start in (0,) if n <= step else (0, (n - step) // 2, n - step):
        (held if n <= step else held[start : start + step]).get_data(verbose="error")
    return 8 * n * size


def kind(path: str, most: int) -> int:
    """What a FIFF file holds."""
    import mne

    mne.what(path)
    return 0


def matlab(path: str, most: int) -> int:
    """A .mat of before version 7.3, which is HDF5."""
    from scipy.io import loadmat

    loadmat(path)
    return 0


def hdf5(path: str, most: int) -> int:
    """The bytes that the arrays of an HDF5 file take in memory; they are read if that is at most `most`."""
    import h5py

    arrays: list[Any] = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda _, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None)
        total = sum(item.nbytes for item in arrays)
        if total <= most:
            for item in arrays:
                step = max(1, SMALL * max(item.shape[0], 1) // max(item.nbytes, 1)) if item.shape else 1
                for part in (slice(i, i + step) for i in range(0, item.shape[0], step)) if item.shape else [()]:
                    item[part]
    return total


def parquet(path: str, most: int) -> int:
    """The bytes that a table, or three groups of its rows, take in memory; read until they are more than `most`."""
    import pyarrow.parquet as pq

    total, file = 0, pq.ParquetFile(path)
    n = file.num_row_groups
    some = range(n) if os.path.getsize(path) <= 8 * SMALL else sorted({0, n // 2, n - 1})
    for batch in file.iter_batches(row_groups=list(some), use_threads=False):
        total += batch.nbytes
        if total > most:
            break
    return total


PARSERS = {
    "recording": recording, "epochs": epochs, "kind": kind, "matlab": matlab, "hdf5": hdf5, "parquet": parquet,
}  # fmt: skip

if __name__ == "__main__":
    main()
