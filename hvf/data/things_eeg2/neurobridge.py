"""What NeuroBridge writes beside its arrays: info.json, with the names of channels and the times of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from typing_extensions import TypedDict

from hvf.config import HvfError
from hvf.schema.reading import parse_as
from hvf.schema.run_folder import MORE, Number


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
