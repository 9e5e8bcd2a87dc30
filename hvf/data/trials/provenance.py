"""Provenance of a store of trials: digests of the files it was made from, and whether they have changed since."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hvf.config import HvfError
from hvf.data.trials.store import check_store, is_prepared, read_store

SIMULATED_TITLE = "# Simulated recordings: nothing here was measured from a person"


def is_whitened(history: Mapping[str, Any] | None) -> bool:
    """Whether the noise of trials with this history was whitened (MVNN), so that each channel is a mixture of all.

    Every way of preparing trials says so in their units; of trials put together, any part counts.
    """
    history = history or {}
    return "whitened" in str(history.get("units")) or any(map(is_whitened, history.get("concatenated", ())))


def sha256(path: Path) -> str:
    """Digest of a file, read once from front to back."""
    digest, block = hashlib.sha256(), bytearray(2**20)
    with open(path, "rb", buffering=0) as file:
        while n := file.readinto(block):
            digest.update(memoryview(block)[:n])
    return digest.hexdigest()


def stamps(sources: Mapping[str, Path]) -> dict[str, list[int]]:
    """Size and time of change of each file; a file with the same stamp counts as unchanged."""
    return {name: [path.stat().st_size, path.stat().st_mtime_ns] for name, path in sources.items()}


def is_finished(
    path: Path, recipe: str, sources: Mapping[str, Path], parameters: Mapping[str, Any] | None = None
) -> bool:
    """Whether a store holds what this recipe made of these files as they are now.

    Parameters
    ----------
    path : Path
        Of the store; its `history` has recipe, sources (sha256 of each file) and stamps (`stamps`).
    recipe : str
    sources : mapping of str to Path
        The files, by their names in the history.
    parameters : mapping, optional
        Of the recipe, as JSON; they must be those of the history. Default: the recipe's name says them.

    Raises
    ------
    HvfError
        The store was made by another recipe or with other parameters: it is not overwritten.
    """
    if not is_prepared(path):
        return False
    try:
        check_store(path)
        history = read_store(path)[1]["history"]
        made_by, digests, stamped = history["recipe"], dict(history["sources"]), dict(history["stamps"])
        made_with = history["parameters"] if parameters is not None else None
    except (HvfError, KeyError, TypeError, ValueError):
        return False  # damaged, or made by something else: made again
    if made_by != recipe:
        raise HvfError(f"{path} was made by the recipe {made_by}, not {recipe}: choose another --out")
    if made_with != parameters:
        raise HvfError(f"{path} was made with other settings: choose another --out")
    if set(digests) != set(sources):
        return False
    now = stamps(sources)
    return all(stamped.get(name) == now[name] or digests[name] == sha256(source) for name, source in sources.items())


def refuse_copies(digests: Mapping[str, str], what: str = "") -> None:
    """Raise HvfError if two files, {name: sha256}, are the same: one of them is mislabelled."""
    first: dict[str, str] = {}
    for name, digest in digests.items():
        other = first.setdefault(digest, name)
        if other != name:
            raise HvfError(f"{what}{name} is a copy of {other}: put the right file in its place")


def modality(kind: str) -> str:
    """What was recorded, as it is said: EEG, MEG, or responses, where nothing but numbers is known."""
    return "responses" if kind == "features" else kind.upper()


def is_simulated(root: str | Path) -> bool:
    """Whether a folder is one of simulated recordings: the first line of its README.md says so."""
    try:
        with open(Path(root) / "README.md", encoding="utf-8") as file:
            return file.readline().strip() == SIMULATED_TITLE
    except (OSError, UnicodeDecodeError):
        return False
