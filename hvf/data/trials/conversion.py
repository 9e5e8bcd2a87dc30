"""Trials as MNE epochs and as an xarray array, for other people's tools.

Epochs made of trials say so in `info["description"]`: kind, simulation, history, and the exact rate and first sample,
so that `Trials.from_epochs` gives the very trials back.

Letters: N trials, C channels, T samples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import mne
import numpy as np
import pandas as pd
from annotated_types import Gt
from typing_extensions import TypedDict

from hvf.data.montages import montage_1005
from hvf.data.recordings.channels import NEUROMAG_SENSOR
from hvf.registry import HvfError, listed
from hvf.schema.reading import parse_as
from hvf.schema.run_folder import MORE, Number

if TYPE_CHECKING:
    import xarray

MARK = "hvf trials "  # the description begins so; JSON follows
# {column of metadata: label}
LABELS = {
    "image": "image_ids",
    "concept": "concepts",
    "split": "splits",
    "session": "sessions",
    "position": "positions",
}
EVENT = "image onset"  # which image it is, metadata say


class About(TypedDict):
    """What the description of epochs says of the trials that they were made of; sfreq in Hz, tmin in s."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    kind: str
    simulated: bool
    sfreq: Annotated[Number, Gt(0)]
    tmin: Number
    history: dict[str, Any] | None


class Responses(Protocol):
    """What is converted and drawn: `Trials`, of which this room knows no more."""

    subject: str
    sfreq: float
    tmin: float
    ch_names: tuple[str, ...]
    kind: str
    simulated: bool
    history: dict[str, Any] | None
    sessions: np.ndarray | None
    positions: np.ndarray | None

    @property
    def image_ids(self) -> np.ndarray: ...
    @property
    def concepts(self) -> np.ndarray | None: ...
    @property
    def splits(self) -> np.ndarray | None: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def times(self) -> np.ndarray: ...
    def __len__(self) -> int: ...
    def load_array(self) -> np.ndarray: ...
    def batches(self) -> Iterator[tuple[slice, np.ndarray]]: ...


def labels_of(trials: Responses) -> dict[str, np.ndarray]:
    """{"image", "concept", "split", "session", "position": (N,)}, those that are known."""
    return {name: values for name, field in LABELS.items() if (values := getattr(trials, field)) is not None}


def to_epochs(trials: Responses) -> mne.EpochsArray:
    """Trials as MNE epochs, whose metadata name image, concept, split, session and position.

    Electrodes of the 10-05 system get their positions. Raises HvfError for what epochs cannot be: no trial or sample,
    two channels of one name, or a first sample that lies between those of the rate.
    """
    if 0 in trials.shape:
        raise HvfError(f"the trials of {trials.subject} are empty: {trials.shape} (trials, channels, samples)")
    twice = sorted({name for name in trials.ch_names if trials.ch_names.count(name) > 1})
    if twice:
        raise HvfError(f"several channels of {trials.subject} are called {listed(twice)}: MNE needs a name for each")
    first = trials.tmin * trials.sfreq
    if abs(first - round(first)) > 0.01 and trials.shape[2] > 1:
        raise HvfError(
            f"the first sample of {trials.subject} is at {trials.tmin:g} s, between two samples of {trials.sfreq:g} Hz "
            "counted from the onset: MNE's epochs cannot say that"
        )
    types: Any = _types(trials)
    info = mne.create_info(list(trials.ch_names), trials.sfreq, types, verbose="error")
    if "eeg" in info.get_channel_types():
        info.set_montage(montage_1005(), match_case=False, match_alias=True, on_missing="ignore", verbose="error")
    info["subject_info"] = {"his_id": trials.subject}
    about = {name: getattr(trials, name) for name in About.__annotations__}
    info["description"] = MARK + json.dumps(about, default=lambda x: x.tolist() if hasattr(x, "tolist") else str(x))
    n = len(trials)
    return mne.EpochsArray(
        trials.load_array(),
        info,
        events=np.stack([np.arange(n), np.zeros(n, int), np.ones(n, int)], axis=1),
        tmin=trials.tmin,
        event_id={EVENT: 1},
        metadata=pd.DataFrame(labels_of(trials)),
        baseline=None,
        proj=False,
        verbose="error",
    )


def made_of(info: mne.Info) -> dict[str, Any] | None:
    """What `to_epochs` wrote into the description of epochs; None if another program made them.

    Raises HvfError for a damaged one: that data are simulated is said nowhere else.
    """
    text = info.get("description") or ""
    if not text.startswith(MARK):
        return None
    try:
        return dict(parse_as(About, text.removeprefix(MARK)))
    except ValueError as error:
        raise HvfError(f"info['description'], which hvf wrote, is damaged ({error}): write the epochs anew") from error


def own_values(epochs: mne.BaseEpochs, made: dict[str, Any]) -> dict[str, Any]:
    """Kind, rate, first sample and more of epochs made of trials; exact, unless they were resampled or cropped since.

    What the trials had been made by stays apart in the history: the epochs may have been changed.
    """
    sfreq, tmin = float(epochs.info["sfreq"]), float(epochs.tmin)
    as_mne = round(made["tmin"] * made["sfreq"]) / made["sfreq"]  # a file keeps the rate in single precision
    same = np.isclose(sfreq, made["sfreq"], rtol=1e-6, atol=0) and abs(tmin - as_mne) < 1e-3 / sfreq
    values = {"kind": made["kind"], "simulated": bool(made["simulated"]), "history": {"trials": made["history"]}}
    return values | ({name: made[name] for name in ("sfreq", "tmin")} if same else {})


def own_labels(table: pd.DataFrame) -> dict[str, Any]:
    """Concepts, splits, sessions and positions from the metadata of epochs made of trials, as they were."""
    return {field: table[name].tolist() for name, field in LABELS.items() if name in table and name != "image"}


def _types(trials: Responses) -> list[str]:
    if trials.kind == "eeg":
        return ["eeg"] * len(trials.ch_names)
    if trials.kind != "meg":
        return ["misc"] * len(trials.ch_names)
    electrodes = {name.casefold() for name in montage_1005().ch_names}
    return [_type_beside_meg(name, electrodes) for name in trials.ch_names]


def _type_beside_meg(name: str, electrodes: set[str]) -> str:
    if name.casefold() in electrodes or name.upper().startswith("EEG"):
        return "eeg"
    sensor = NEUROMAG_SENSOR.fullmatch(name)
    return "grad" if sensor and sensor[1] != "1" else "mag"


def to_xarray(trials: Responses) -> xarray.DataArray:
    """Trials as an xarray array (trial, channel, time) with image, concept, split, session and position of each trial.

    Attributes: subject, kind, sfreq, simulated (0 or 1), history as JSON; all of them can be written as netCDF. Raises
    HvfError without xarray.
    """
    try:
        import xarray
    except ImportError as error:
        raise HvfError(f"to_xarray needs xarray ({error}): pip install 'hvf[xarray]'") from error
    attributes = {
        "subject": trials.subject,
        "kind": trials.kind,
        "sfreq": float(trials.sfreq),
        "simulated": int(trials.simulated),
        "history": json.dumps(trials.history, default=lambda x: x.tolist() if hasattr(x, "tolist") else str(x)),
    }
    along: dict[str, tuple[str, Sequence[Any] | np.ndarray]] = {
        name: ("trial", values) for name, values in labels_of(trials).items()
    }
    coordinates = along | {"channel": ("channel", list(trials.ch_names)), "time": ("time", trials.times)}
    dims = ("trial", "channel", "time")
    return xarray.DataArray(trials.load_array(), coordinates, dims, name="response", attrs=attributes)
