"""Options that `hvf data prepare bids` and `recording` share, and the settings that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hvf.data.datasets import Option
from hvf.registry import HvfError

IMAGES = Option("images", "folder or zip of the images that were shown", Path)
EVENTS = (
    Option("image_column", "the column that names the image (default: found by its values)", checked=True),
    Option("onset_unit", "s, ms or samples, where onsets are in another unit than they should", checked=True),
)
# Those of `Preprocessing`, each under the name of its field.
PREPROCESSING = (
    Option("picks", "eeg, meg, or channels separated by commas (default: MEG where there is, else EEG)", checked=True),
    Option("l_freq", "high-pass in Hz, 0 for none (default: 0.1)", float, checked=True),
    Option("h_freq", "low-pass in Hz, 0 for none (default: 100)", float, checked=True),
    Option("tmin", "start of the window in s after the image's onset (default: 0)", float, checked=True),
    Option("tmax", "end of the window in s (default: 1)", float, checked=True),
    Option("baseline", "its start and end in s, a comma between them, or none (default: -0.2,0)", checked=True),
    Option("sfreq", "rate in Hz after resampling (default: 250)", float, checked=True),
    Option("whiten", "yes or no: whether the noise is whitened (default: yes)", checked=True),
)


def with_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, those of `PREPROCESSING` as one "settings"; HvfError where they contradict each other."""
    from hvf.data.recordings.epoching import Preprocessing

    given = {option.name: options[option.name] for option in PREPROCESSING if option.name in options}
    given |= {name: given[name] or None for name in ("l_freq", "h_freq") if name in given}
    if given.get("picks", "eeg") not in ("eeg", "meg"):
        given["picks"] = tuple(name.strip() for name in given["picks"].split(","))
    if "baseline" in given:
        given["baseline"] = _pair(given["baseline"])
    if "whiten" in given:
        if given["whiten"] not in ("yes", "no"):
            raise HvfError(f"--whiten is yes or no, not {given['whiten']!r}")
        given["whiten"] = given["whiten"] == "yes"
    others = {name: value for name, value in options.items() if name not in given}
    return others | ({"settings": Preprocessing(**given)} if given else {})


def _pair(text: str) -> tuple[float, float] | None:
    if text.lower() == "none":
        return None
    try:
        start, end = (float(number) for number in text.split(","))
    except ValueError:
        raise HvfError(f"--baseline is its start and end in s, such as -0.2,0, or none, not {text!r}") from None
    return start, end
