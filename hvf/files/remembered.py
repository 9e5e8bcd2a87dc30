"""What was found out about files, so that they are not read again for it: an index in the cache folder.

A file counts as the same while its path, size, times of change (in ns) and inode are. Of one that was written just now
nothing is kept: it could be written again within the same tick of the clock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hvf import runs
from hvf.registry import HvfError
from hvf.schema.reading import parse_json

FOLDER = "weights"  # in the cache folder; a file for each set of weights
_FORMAT = "hvf-weights-1"
_TICK = 0.1  # s, that file systems may take to give a change another time


class Remembered:
    """Facts about a set of files, as they are now, and what was made of them; nothing is kept about no files."""

    def __init__(self, files: Sequence[Path], of: str, folder: str = FOLDER) -> None:
        self._files, self._of, self._begun = files, of, time.time()
        self._about = self._now()
        self._facts: dict[str, Any] = {}
        if self._about:
            name = hashlib.sha256(json.dumps([of, *(str(path) for path in files)]).encode()).hexdigest()[:32]
            self._path = runs.cache_dir() / folder / f"{name}.json"
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent, damaged, of another version
                kept = parse_json(self._path.read_bytes())
                if kept["about"] == self._about:
                    self._facts = dict(kept["facts"])

    def get(self, name: str) -> Any:
        """What is known under a name; None if nothing is."""
        return self._facts.get(name)

    def put(self, facts: Mapping[str, Any]) -> None:
        """Keep more facts, unless the files have changed meanwhile or the cache folder cannot be written."""
        if not self._about or facts.items() <= self._facts.items() or self._now() != self._about:
            return
        if any(self._begun - max(times[1:3]) / 1e9 < _TICK for times in self._about["files"].values()):
            return
        self._facts |= facts
        with contextlib.suppress(HvfError, OSError):
            runs.write_json(self._path, {"about": self._about, "facts": self._facts})

    def _now(self) -> dict[str, Any]:
        stats = [path.stat() for path in self._files if path.exists()]
        if len(stats) < len(self._files) or not stats:
            return {}
        files = {
            str(path): [one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_ino]
            for path, one in zip(self._files, stats, strict=True)
        }
        return {"format": _FORMAT, "of": self._of, "files": files}
