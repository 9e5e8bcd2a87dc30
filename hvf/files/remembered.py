"""What was found out about files, so that they are not read again for it: an index in the cache folder.

A file counts as the same while its path, size, time of change (in ns) and inode are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hvf import runs
from hvf.registry import HvfError

FOLDER = "weights"  # in the cache folder; a file for each set of weights
_FORMAT = "hvf-weights-1"


class Remembered:
    """Facts about a set of files, as they are now, and what was made of them; nothing is kept about no files."""

    def __init__(self, files: Sequence[Path], of: str) -> None:
        self._files, self._of = files, of
        self._about = self._now()
        self._facts: dict[str, Any] = {}
        if self._about:
            name = hashlib.sha256(json.dumps([of, *(str(path) for path in files)]).encode()).hexdigest()[:32]
            self._path = runs.cache_dir() / FOLDER / f"{name}.json"
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent, damaged, of another version
                kept = json.loads(self._path.read_text(encoding="utf-8"))
                if kept["about"] == self._about:
                    self._facts = dict(kept["facts"])

    def get(self, name: str) -> Any:
        """What is known under a name; None if nothing is."""
        return self._facts.get(name)

    def put(self, facts: Mapping[str, Any]) -> None:
        """Keep more facts, unless the files have changed meanwhile or the cache folder cannot be written."""
        if not self._about or facts.items() <= self._facts.items() or self._now() != self._about:
            return
        self._facts |= facts
        with contextlib.suppress(HvfError, OSError):
            runs.write_json(self._path, {"about": self._about, "facts": self._facts})

    def _now(self) -> dict[str, Any]:
        stats = [path.stat() for path in self._files if path.exists()]
        if len(stats) < len(self._files) or not stats:
            return {}
        files = {
            str(path): [one.st_size, one.st_mtime_ns, one.st_ino] for path, one in zip(self._files, stats, strict=True)
        }
        return {"format": _FORMAT, "of": self._of, "files": files}
