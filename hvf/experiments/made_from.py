"""What a stored result was made from, in digests, and whether another was made from the same.

A path, and so the settings of a run, stay the same when the file behind them is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hvf.config import HvfError
from hvf.experiments.results import FILE, Result
from hvf.schema.run_folder import MADE_FROM

DECODER = "decoder"  # its weights, beside the data of `hvf.experiments.data_digests`


def stamped(result: Result, digests: Mapping[str, str]) -> Result:
    """The result, saying what it was made from."""
    return result.with_details(**{MADE_FROM: dict(digests)}) if digests else result


def said_by(result: Result | None) -> Mapping[str, str]:
    """What a result says that it was made from: {} of earlier versions, and where the settings say all."""
    return result.details.get(MADE_FROM, {}) if result else {}


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What is another one now, in words; of what only one of both knows nothing is said."""
    return [what for what, digest in before.items() if now.get(what, digest) != digest]


def check_unchanged(folder: Path, digests: Mapping[str, str]) -> None:
    """Raise HvfError if the result in a folder was made from other data than those of these digests."""
    if other := changed(said_by(Result.read(folder)), digests):
        raise HvfError(
            f"{folder / FILE} was made from other {' and '.join(other)} than there are now: choose another --out, or "
            f"remove {folder} to compute it anew"
        )
