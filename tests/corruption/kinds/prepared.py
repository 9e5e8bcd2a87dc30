"""Kind 8 in trials of THINGS-EEG2 that other code prepared, and in THINGS-MEG: halves missing, swapped, cut."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd

from tests.corruption.case import case
from tests.corruption.kinds.data_sets import COPY, apple_doubles, cut_file
from tests.corruption.makers import eeg2, meg
from tests.corruption.makers.eeg2 import eeg2_prepared_input
from tests.corruption.makers.meg import meg_input


def file_of(name: str) -> Callable[[Path], Path]:
    return lambda root: root / "sub-01" / name


def copy_half(one: str, two: str) -> Callable[[Path], None]:
    return lambda root: shutil.copy(file_of(one)(root), file_of(two)(root))


def list_moved(root: Path) -> None:
    (root.parent / "stimuli").mkdir()
    (root / "image_metadata.npy").rename(root.parent / "stimuli" / "list.npy")


def other_list(root: Path) -> None:
    held = np.load(root / "image_metadata.npy", allow_pickle=True).item()
    fewer = {name: values[:-1] for name, values in held.items()}
    np.save(root.parent / "list.npy", np.array(fewer, dtype=object))


def flat(held: dict[str, Any]) -> None:
    held["preprocessed_eeg_data"][:, :, held["ch_names"].index("P3")] = 0


def frontal_nan(held: dict[str, Any]) -> None:
    held["eeg"][1, 0, held["ch_names"].index("Fp1"), 3] = np.nan


def posterior_nan(held: dict[str, Any]) -> None:
    held["eeg"][1, 0, held["ch_names"].index("Pz"), 3] = np.nan


def rows_reversed(held: dict[str, Any]) -> None:
    held.update({name: held[name][::-1].copy() for name in ("eeg", "img", "session")})


def without_part(held: dict[str, Any]) -> None:
    held["img"] = np.char.replace(held["img"], "training_images/", "")


PREPARED: dict[str, tuple[str, Callable[[Path], Any], dict[str, Any]]] = {
    "AppleDoubles beside": ("official", apple_doubles, {}),
    "a half missing": (
        "official",
        lambda root: file_of("preprocessed_eeg_test.npy")(root).unlink(),
        {"refused": r"preprocessed_eeg_test"},
    ),
    "training copied over the test": (
        "official",
        copy_half("preprocessed_eeg_training.npy", "preprocessed_eeg_test.npy"),
        {"refused": r"8.*4|4.*8|" + COPY},
    ),
    "a file cut": (
        "official",
        cut_file(file_of("preprocessed_eeg_training.npy")),
        {"refused": r"(?i)damaged|cut|truncat|end|whole"},
    ),
    "ubp, training copied over the test": (
        "ubp",
        copy_half("train.pt", "test.pt"),
        {"refused": r"(?i)training|both|" + COPY},
    ),
    "ubp, halves swapped": (
        "ubp",
        lambda root: (
            file_of("train.pt")(root).rename(root / "x"),
            file_of("test.pt")(root).rename(file_of("train.pt")(root)),
            (root / "x").rename(file_of("test.pt")(root)),
        ),
        {"refused": r"(?i)test|training|swapped|folder"},
    ),
    "ubp, a file cut": ("ubp", cut_file(file_of("train.pt")), {"refused": r"(?i)damaged|cut|truncat|end|whole|zip"}),
    "neurobridge without info.json": (
        "neurobridge",
        lambda root: file_of("info.json")(root).unlink(),
        {"refused": r"(?i)info\.json|preprocessed"},
    ),
    "neurobridge, info.json above": (
        "neurobridge",
        lambda root: file_of("info.json")(root).rename(root / "info.json"),
        {},
    ),
    "channels in another order in the test": (
        "official",
        eeg2.edit_dict(lambda held: held.update(ch_names=held["ch_names"][::-1]), "test"),
        {"refused": r"(?i)ch_names|channel|order"},
    ),
    "times of another rate in the test": (
        "official",
        eeg2.edit_dict(lambda held: held.update(times=held["times"] * 2), "test"),
        {"refused": r"(?i)sfreq|rate|times|tmin"},
    ),
    "a channel name more": (
        "official",
        eeg2.edit_dict(lambda held: held.update(ch_names=[*held["ch_names"], "Iz"])),
        {"refused": r"(?i)channel"},
    ),
    "channels reordered alike": (
        "official",
        lambda root: [eeg2.edit_dict(reordered, part)(root) for part in eeg2.R],
        {},
    ),
    "ubp, channels reordered alike": (
        "ubp",
        lambda root: [eeg2.edit_ubp(reordered_ubp, part)(root) for part in ("train", "test")],
        {},
    ),
    "the list missing, not needed": ("ubp", lambda root: (root / "image_metadata.npy").unlink(), {}),
    "the list missing": (
        "official",
        lambda root: (root / "image_metadata.npy").unlink(),
        {"refused": r"image_metadata\.npy.*--stimuli"},
    ),
    "neurobridge, the list missing": (
        "neurobridge",
        lambda root: (root / "image_metadata.npy").unlink(),
        {"refused": r"image_metadata\.npy.*--stimuli"},
    ),
    "the list elsewhere, said": ("official", list_moved, {"stimuli": "stimuli/list.npy"}),
    "neurobridge, the list elsewhere, said": ("neurobridge", list_moved, {"stimuli": "stimuli/list.npy"}),
    "the list of another study, said": (
        "official",
        other_list,
        {"stimuli": "list.npy", "refused": r"list\.npy|images"},
    ),
    "no such list": (
        "official",
        lambda root: None,
        {"stimuli": "list.npy", "refused": r"no list of images.*list\.npy"},
    ),
    "a flat channel": (
        "official",
        lambda root: [eeg2.edit_dict(flat, part)(root) for part in eeg2.R],
        {"refused": r"channel P3 .*same value"},
    ),
    "ubp, NaN in a channel that is not kept": ("ubp", eeg2.edit_ubp(frontal_nan), {}),
    "ubp, NaN in a channel": ("ubp", eeg2.edit_ubp(posterior_nan), {"refused": r"NaN"}),
    "ubp, rows in another order": ("ubp", eeg2.edit_ubp(rows_reversed), {}),
    "ubp, no folder of the part in the names": ("ubp", eeg2.edit_ubp(without_part), {}),
}
for what, (by, change, outcome) in PREPARED.items():
    case(8, "eeg2-prepared", what, eeg2_prepared_input, by=by, change=change, **outcome)


def reordered(held: dict[str, Any]) -> None:
    place = np.random.default_rng(0).permutation(len(held["ch_names"]))
    held["preprocessed_eeg_data"] = held["preprocessed_eeg_data"][:, :, place]
    held["ch_names"] = [held["ch_names"][i] for i in place]


def reordered_ubp(held: dict[str, Any]) -> None:
    place = np.random.default_rng(0).permutation(len(held["ch_names"]))
    held["eeg"] = held["eeg"][:, :, place]
    held["ch_names"] = [held["ch_names"][i] for i in place]


# --- THINGS-MEG -------------------------------------------------------------------------------------------------------

case(8, "meg", "AppleDoubles beside", meg_input, change=apple_doubles)
case(
    8,
    "meg",
    "epochs cut",
    meg_input,
    change=cut_file(meg.epochs_file),
    refused=r"(?i)truncat|fetch|cut|whole",
)


def not_fetched(root: Path) -> None:
    meg.epochs_file(root).unlink()
    meg.epochs_file(root).symlink_to("../../.git/annex/objects/x.fif")


case(
    8,
    "meg",
    "epochs not fetched",
    meg_input,
    change=not_fetched,
    refused=r"(?i)datalad get|git annex|fetch",
)
case(
    8,
    "meg",
    "no table at all",
    meg_input,
    metadata=lambda t: None,
    csv=lambda t: None,
    refused=r"sample_attributes",
)


def other_subject(table: pd.DataFrame) -> pd.DataFrame:
    return meg.attributes(meg.shown_numbers(seed=3))


case(
    8,
    "meg",
    "csv of another subject",
    meg_input,
    csv=other_subject,
    refused=r"(?i)differ|misordered|different",
)


def edit_epochs(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        epochs = mne.read_epochs(meg.epochs_file(root), verbose="error")
        change(epochs)
        epochs.save(meg.epochs_file(root), overwrite=True, verbose="error")

    return edit


def catch_nan(epochs: Any) -> None:
    epochs._data[epochs.events[:, 2] == meg.CATCH, 3] = np.nan


def flat_sensor(epochs: Any) -> None:
    epochs._data[:, 3] = 1.0


case(8, "meg", "NaN in a catch trial", meg_input, change=edit_epochs(catch_nan))
case(8, "meg", "a flat sensor", meg_input, change=edit_epochs(flat_sensor), refused=r"same value")
case(8, "meg", "csv of another numbering of sessions", meg_input, csv=lambda table: table.assign(session_nr=2))
