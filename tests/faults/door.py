"""A door: a way by which a file that may be damaged or hostile comes in, and the faults that are found at it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.faults.child import Outcome, outcomes
from tests.faults.damage import damaged

DOORS: dict[str, Door] = {}


@dataclass(frozen=True)
class Door:
    """A way in.

    Parameters
    ----------
    name : str
        By which it is chosen.
    make : callable
        Writes what is read into an empty folder, once.
    files : sequence of str
        Patterns of those that are damaged, one at a time.
    read : callable
        Reads what is in a folder, given the name of the damaged file in it, and returns what was read.
    checked : bool
        Whether checksums tell other content: what is read is what was written, then, or nothing is.
    seconds : int
        Of processor time, after which reading hangs.
    """

    name: str
    make: Callable[[Path], Any]
    files: Sequence[str]
    read: Callable[[Path, str], Any]
    checked: bool = False
    seconds: int = 10

    def __post_init__(self) -> None:
        assert self.name not in DOORS, f"there are two doors {self.name}"
        DOORS[self.name] = self


def digest(value: Any) -> str:
    """Of arrays, tensors, and tables and lists of them and of anything else."""
    if isinstance(value, dict):
        return digest([part for item in value.items() for part in item])
    if isinstance(value, (list, tuple)):
        return hashlib.sha256(" ".join(map(digest, value)).encode()).hexdigest()
    content = np.ascontiguousarray(value).tobytes() if hasattr(value, "__array__") else repr(value).encode()
    return hashlib.sha256(content).hexdigest()


def base_of(door: Door, folder: Path) -> Path:
    """What the door reads, made once in a folder."""
    base = folder / door.name
    if not base.exists():
        base.mkdir(parents=True)
        door.make(base)
    return base


def faults(door: Door, base: Path, scratch: Path, mutants: Sequence[int], seed: int = 0) -> list[str]:
    """What went wrong at a door, a line each: tracebacks, hangs, crashes, memory, and other content read silently."""
    files = sorted({path.relative_to(base) for pattern in door.files for path in base.glob(pattern)})
    assert files, f"there is nothing to damage at {door.name}"
    intact = dict(zip(files, outcomes([partial(_read, door, base, file, scratch) for file in files], 60), strict=True))
    for file, outcome in intact.items():
        assert outcome.kind == "read", f"{door.name}: {file} as it is: {outcome}"
    cases = [(number, *_mutant(door, base, files, seed, number)) for number in mutants]
    jobs = [partial(_read, door, base, file, scratch, data) for _, file, _, data in cases]
    found = []
    for (number, file, stroke, _), outcome in zip(cases, outcomes(jobs, door.seconds), strict=True):
        kind = outcome.kind
        if kind == "read" and door.checked and outcome.value != intact[file].value:
            kind = "silent"
        if kind not in ("read", "refused"):
            found.append(f"{door.name} seed {seed} mutant {number} of {file} ({stroke}): {kind} {outcome.value[:300]}")
    return found


def _mutant(door: Door, base: Path, files: Sequence[Path], seed: int, number: int) -> tuple[Path, str, bytes]:
    """Which file is damaged, how, and its bytes then: the same ones whenever it is asked."""
    rng = Random(f"{door.name}/{seed}/{number}")
    file = rng.choice(files)
    return file, *damaged((base / file).read_bytes(), file.suffix, rng)


def _read(door: Door, base: Path, file: Path, scratch: Path, data: bytes | None = None) -> str:
    """What the door reads in a copy of its folder; the file has other bytes there, if any are given."""
    folder = scratch / f"{door.name}-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)
    if data is not None:
        (folder / file).write_bytes(data)
    return digest(door.read(folder, str(file)))


def outcome_of(door: Door, base: Path, scratch: Path, seed: int, number: int) -> Outcome:
    """What came of one mutant, to look at it."""
    files = sorted({path.relative_to(base) for pattern in door.files for path in base.glob(pattern)})
    file, _, data = _mutant(door, base, files, seed, number)
    return outcomes([partial(_read, door, base, file, scratch, data)], door.seconds)[0]
