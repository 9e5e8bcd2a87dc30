"""Kind 1 in THINGS-EEG2 and THINGS-MEG: lists, tables and codes that say which image each trial shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tests.corruption.case import case
from tests.corruption.makers import eeg2
from tests.corruption.makers.eeg2 import eeg2_prepared_input, eeg2_raw_input
from tests.corruption.makers.meg import meg_input

case(1, "eeg2-raw", "as published", eeg2_raw_input)
for by in eeg2.WRITERS:
    case(1, "eeg2-prepared", f"as {by} leaves it", eeg2_prepared_input, by=by, images=True)
case(1, "meg", "as published", meg_input)
case(1, "meg", "without the csv", meg_input, csv=lambda table: None)
case(1, "meg", "without metadata", meg_input, metadata=lambda table: None)


def swap(table: pd.DataFrame) -> pd.DataFrame:
    rows = np.arange(len(table))
    rows[[2, 7]] = rows[[7, 2]]
    return table.iloc[rows].reset_index(drop=True)


MISORDERED = r"(?i)misordered|differ|contradict|do not|not of the same"
case(1, "meg", "csv reordered", meg_input, csv=swap, refused=MISORDERED)
case(1, "meg", "metadata reordered", meg_input, metadata=swap, refused=MISORDERED)
case(1, "meg", "both reordered", meg_input, metadata=swap, csv=swap, refused=MISORDERED)
case(1, "meg", "only the csv, reordered", meg_input, csv=swap, metadata=lambda t: None, refused=MISORDERED)
case(
    1,
    "meg",
    "csv one row short",
    meg_input,
    csv=lambda t: t.iloc[:-1],
    refused=r"\d+ rows.*\d+ epochs|\d+.*\d+",
)
case(
    1,
    "meg",
    "csv one row long",
    meg_input,
    csv=lambda t: pd.concat([t, t.iloc[-1:]]),
    refused=r"\d+ rows.*\d+ epochs|\d+.*\d+",
)


def one_path(table: pd.DataFrame) -> pd.DataFrame:
    other = table.copy()
    exp = np.flatnonzero(other["trial_type"] == "exp")[:2]
    other.loc[exp, "image_path"] = other.loc[exp[::-1], "image_path"].to_numpy()
    return other


case(
    1,
    "meg",
    "paths swapped in both",
    meg_input,
    metadata=one_path,
    csv=one_path,
    refused=r"(?i)contradict|order|misordered|concept|rise",
)


def windows(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(image_path=table["image_path"].str.replace("/", "\\"))


case(1, "meg", "Windows paths", meg_input, metadata=windows, csv=windows)


META = eeg2.metadata_of
case(
    1,
    "eeg2-raw",
    "names without ending",
    eeg2_raw_input,
    metadata=META(lambda i: eeg2.file_of(i)[:-4]),
    images=False,
)
case(
    1,
    "eeg2-raw",
    "names with ending in capitals",
    eeg2_raw_input,
    metadata=META(lambda i: eeg2.file_of(i)[:-4] + ".JPG"),
)
case(
    1,
    "eeg2-raw",
    "a name twice",
    eeg2_raw_input,
    metadata=META(lambda i: eeg2.file_of(2 if i == 3 else i)),
    images=False,
    refused=r"(?i)different|twice|double|fit",
)
case(
    1,
    "eeg2-raw",
    "a name of training in the test",
    eeg2_raw_input,
    metadata=META(lambda i: eeg2.file_of(2 if i == 10 else i)),
    images=False,
    refused=r"(?i)both|training|twice|test",
)


def shorter(held: dict[str, Any]) -> dict[str, Any]:
    return {key: names[:-1] if key.startswith("train") else names for key, names in held.items()}


case(
    1,
    "eeg2-raw",
    "list one name short",
    eeg2_raw_input,
    images=False,
    change=eeg2.edit_metadata(shorter),
    refused=r"(?i)\b8\b|metadata|know",
)
case(
    1,
    "eeg2-raw",
    "list one name long",
    eeg2_raw_input,
    images=False,
    change=eeg2.edit_metadata(
        lambda m: {
            k: [*v, "zoo_99b.jpg" if "files" in k else "00009_zoo"] if k.startswith("train") else v
            for k, v in m.items()
        }
    ),
    refused=r"(?i)fewer|missing|9",
)
for by in ("official", "neurobridge"):
    case(
        1,
        "eeg2-prepared",
        f"{by}, list one name short",
        eeg2_prepared_input,
        by=by,
        change=eeg2.edit_metadata(shorter),
        refused=r"8.*7|7.*8",
    )


def less(held: dict[str, Any]) -> None:
    held["preprocessed_eeg_data"] = held["preprocessed_eeg_data"][:-1]


case(
    1,
    "eeg2-prepared",
    "official, an image less",
    eeg2_prepared_input,
    change=eeg2.edit_dict(less),
    refused=r"7.*8|8.*7",
)


def fewer_names(held: dict[str, Any]) -> None:
    held["img"] = held["img"][:-1]


case(
    1,
    "eeg2-prepared",
    "ubp, an image less",
    eeg2_prepared_input,
    by="ubp",
    change=eeg2.edit_ubp(fewer_names),
    refused=r"(?i)names|\(7",
)


def mixed(held: dict[str, Any]) -> None:
    """Names and trials are in one other order, which no longer has an image's repeats in one row."""
    place = np.random.default_rng(0).permutation(held["img"].size)
    for name in ("img", "session", "eeg"):
        values = held[name].reshape(held["img"].size, -1)
        held[name] = values[place].reshape(held[name].shape)


case(
    1,
    "eeg2-prepared",
    "ubp, repeats of two images in one row",
    eeg2_prepared_input,
    by="ubp",
    change=eeg2.edit_ubp(mixed),
)


def windows_names(held: dict[str, Any]) -> None:
    held["img"] = np.char.replace(held["img"], "/", "\\")


case(1, "eeg2-prepared", "ubp, Windows paths", eeg2_prepared_input, by="ubp", change=eeg2.edit_ubp(windows_names))
