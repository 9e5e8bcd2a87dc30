"""What NeuroBridge writes beside its arrays: info.json, with the names of channels and the times of samples.

There is one for all subjects of a folder, and it says how the one written last was normalised: what it says of each is
held to the values. Letters: N trials, C channels, T samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from typing_extensions import TypedDict

from hvf.config import HvfError
from hvf.schema.reading import parse_as
from hvf.schema.run_folder import MORE, Number

EXACT = 0.01  # by which means and deviations may differ from 0 and 1 at most, where it standardised each channel


class NeurobridgeInfo(TypedDict):
    """info.json beside NeuroBridge's arrays: of channels their names, of samples their times (s)."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    ch_names: list[str]
    times: list[Number]
    normalization: Literal["mvnn", "zscore"]


def neurobridge_info(folder: Path) -> Path | None:
    """NeuroBridge's info.json in a folder or above it."""
    return next((place / "info.json" for place in (folder, folder.parent) if (place / "info.json").is_file()), None)


def read_neurobridge_info(path: Path) -> NeurobridgeInfo:
    """What NeuroBridge's info.json says. HvfError if it is damaged or another program's."""
    try:
        return parse_as(NeurobridgeInfo, path.read_bytes())
    except (OSError, ValueError) as error:
        raise HvfError(f"{path} is damaged or not NeuroBridge's ({error})") from error


class Standardised:
    """Whether each channel has mean 0 and standard deviation 1 over the training trials, which come some at a time."""

    def __init__(self) -> None:
        self._n, self._sums_2C = 0, np.zeros(1)

    def add(self, block_NCT: np.ndarray) -> None:
        """Count more of the training trials."""
        x_NCT = block_NCT.astype(np.float64)
        self._n += x_NCT.shape[0] * x_NCT.shape[2]
        self._sums_2C = self._sums_2C + np.stack([x_NCT.sum(axis=(0, 2)), np.square(x_NCT).sum(axis=(0, 2))])

    def check(self, folder: Path, ch_names: Sequence[str], zscore: bool) -> None:
        """Raise HvfError if they are, or are not, against what the folder's info.json says."""
        mean_C, square_C = self._sums_2C / self._n
        sd_C = np.sqrt(np.maximum(square_C - mean_C**2, 0))
        off_C = np.maximum(np.abs(mean_C), np.abs(sd_C - 1))
        if (off_C.max() <= EXACT) == zscore:
            return
        worst, info = int(off_C.argmax()), neurobridge_info(folder)
        found = (
            f"{ch_names[worst]} has mean {mean_C[worst]:.2f} and standard deviation {sd_C[worst]:.2f}, not 0 and 1"
            if zscore
            else "every channel has mean 0 and standard deviation 1"
        )
        raise HvfError(
            f"{info} says {'zscore' if zscore else 'mvnn'}, but over the training trials of {folder}, {found}: was it "
            f"written for other subjects? Put an info.json that says {'mvnn' if zscore else 'zscore'} into {folder}"
        )
