"""The files that a store of trials was made from: their digests, and whether it is still what they give."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from hvf.config import HvfError
from hvf.data.trials.store import is_prepared, read_store

SIMULATED_TITLE = "# Simulated recordings: nothing here was measured from a person"


def sha256(path: Path) -> str:
    """Digest of a file, read once from front to back."""
    digest, block = hashlib.sha256(), bytearray(2**20)
    with open(path, "rb", buffering=0) as file:
        while n := file.readinto(block):
            digest.update(memoryview(block)[:n])
    return digest.hexdigest()


def stamps(sources: Mapping[str, Path]) -> dict[str, list[int]]:
    """Size and time of change of each file: what has the same is taken to be the same."""
    return {name: [path.stat().st_size, path.stat().st_mtime_ns] for name, path in sources.items()}


def is_finished(path: Path, recipe: str, sources: Mapping[str, Path]) -> bool:
    """Whether `path` holds what this recipe made of these files as they are now (`history`: recipe, sources, stamps).

    Raises HvfError if it holds what another recipe made: that is not overwritten.
    """
    if not is_prepared(path):
        return False
    try:
        history = read_store(path)[1]["history"]
        made_by, digests, stamped = history["recipe"], history["sources"], history["stamps"]
    except (HvfError, KeyError, TypeError):
        return False  # damaged, or made by something else: made again
    if made_by != recipe:
        raise HvfError(f"{path} was made by the recipe {made_by}, not {recipe}: choose another --out")
    if set(digests) != set(sources):
        return False
    now = stamps(sources)
    return all(stamped.get(name) == now[name] or digests[name] == sha256(source) for name, source in sources.items())


def is_simulated(root: str | Path) -> bool:
    """Whether a folder is one of simulated recordings: the first line of its README.md says so."""
    try:
        with open(Path(root) / "README.md", encoding="utf-8") as file:
            return file.readline().strip() == SIMULATED_TITLE
    except (OSError, UnicodeDecodeError):
        return False
