"""Pictures of a recording, of epochs or of prepared trials, to be looked at before anything is decoded.

Of trials: the mean response of every channel to each condition, how much each channel varies, what was shown when, and
how well two halves of the repeats agree at each channel and time. Of a continuous recording: its channels, its events,
its spectrum.

Letters: C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hvf.data.doctor.files import files_below, is_epochs, is_raw, raw_below
from hvf.data.images.image_set import open_images
from hvf.data.recordings.channels import mend_channel_types
from hvf.data.recordings.events import triggers_of
from hvf.data.recordings.raw import data_channels, open_recording
from hvf.data.recordings.single import read_recording
from hvf.data.recordings.tables import read_table, table_beside
from hvf.data.sensor_positions import positions_in, positions_of
from hvf.data.trials.epochs import epochs_values, open_epochs
from hvf.data.trials.plots import title_of, units_of
from hvf.data.trials.reading import read_trials
from hvf.data.trials.store import is_prepared
from hvf.data.trials.trials import Trials
from hvf.registry import HvfError, listed
from hvf.report.trial_pictures import NAMED, channels, evoked, order_of_images, reliability, spread
from hvf.runs import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_FILES = 20
EVENT_NAMES = ("trial_type", "value", "event", "code")  # columns of a table of events that say what it was
UNITS = {"eeg": (1e6, "µV"), "mag": (1e15, "fT"), "grad": (1e13, "fT/cm")}  # of V, T and T/m
SAME_S = 5e-4  # intervals between events that differ by less are drawn as one
SPECTRUM_S = 300.0  # of the recording, from its middle


def draw(
    path: str | Path, out: str | Path, images: str | Path | None = None, events: str | Path | None = None
) -> list[Path]:
    """Draw what `path` holds, a file or folder of recordings, epochs or prepared trials; the pictures' paths in `out`.

    Parameters
    ----------
    path : path-like
    out : path-like
        Folder of the pictures, NAME_WHAT.png.
    images : path-like, optional
        Those that trials without names answer in order.
    events : path-like, optional
        Table of events of a recording (default: the one beside it of its name).

    Raises
    ------
    HvfError
        There is nothing of the kind at `path`, or it cannot be read.
    """
    path, out = Path(path), Path(out)
    files = _files(path)
    if not files:
        raise HvfError(f"{path} holds no recording, epochs or prepared trials to draw (--plot)")
    if len(files) > MOST_FILES:
        raise HvfError(f"{path} holds {len(files)} files to draw, at most {MOST_FILES} are (--plot): name some of them")
    written = []
    for file in files:
        name = file.name if file == path else file.relative_to(path).with_suffix("").as_posix().replace("/", "_")
        for what, figure in _pictures(file, images, events):
            target = out / f"{name.partition('.')[0]}_{what}.png"
            write_atomic(target, lambda tmp, figure=figure: figure.savefig(tmp, dpi=130, format="png"))
            written.append(target)
    return written


def _files(path: Path) -> list[Path]:
    if path.is_dir() and path.suffix.lower() not in (".ds", ".mff"):
        stores = [file for file in files_below(path, ".npy") if is_prepared(file)]
        return [*stores, *(f for f in files_below(path, ".fif", ".fif.gz") if is_epochs(f)), *raw_below(path)]
    known = is_prepared(path) or is_epochs(path) or is_raw(path) or path.suffix.lower() == ".npy"
    return [path] if known else []


def _pictures(path: Path, images: str | Path | None, events: str | Path | None) -> Iterator[tuple[str, Figure]]:
    if is_raw(path) and not is_epochs(path):
        yield from of_recording(path, events)
        return
    trials = _trials(path, images, events)
    yield "evoked", evoked(trials)
    places = positions_of(trials.ch_names)
    yield "channels", channels(spread(trials), trials.ch_names, places, title_of(trials), *units_of(trials))
    yield "events", order_of_images(trials)
    agreement = reliability(trials)
    if agreement is not None:
        yield "reliability", agreement


def _trials(path: Path, images: str | Path | None, events: str | Path | None) -> Trials:
    """Prepared trials and epochs as they are; events of epochs stand for images where nothing names these."""
    if is_prepared(path):
        return Trials.load(path)
    if events is not None and is_epochs(path):
        return read_recording(path, events, images=images)
    if images is not None:
        return read_trials(path, open_images(images))
    if not is_epochs(path):
        raise HvfError(f"{path} does not say what its rows answer: give --images, too")
    epochs = open_epochs(path)
    try:
        return Trials.from_epochs(epochs, subject=path.stem)
    except HvfError:
        names = {code: name for name, code in epochs.event_id.items()}
        values, _ = epochs_values(epochs)
        return Trials(image_ids=[names[code] for code in epochs.events[:, 2]], subject=path.stem, **values)


# --- continuous recordings --------------------------------------------------------------------------------------------


def of_recording(path: Path, events: str | Path | None = None) -> Iterator[tuple[str, Figure]]:
    """Channels, events and spectrum of a continuous recording."""
    raw = open_recording(path)
    mend_channel_types(raw)
    names, _ = data_channels(raw, None, path.name)
    title = f"{path.name}, {raw.n_times / raw.info['sfreq'] / 60:.1f} min at {raw.info['sfreq']:g} Hz"
    of_type: dict[str, list[str]] = {}
    for name, kind in zip(names, raw.get_channel_types(names), strict=True):
        of_type.setdefault(kind, []).append(name)
    for kind, own in of_type.items():  # magnetometers and gradiometers have other units
        positions = positions_in(raw.info, own)
        positions = positions_of(own) if positions is None else positions
        what = "channels" if len(of_type) == 1 else f"channels-{kind}"
        yield what, channels(_spread_of(raw, own), own, positions, title, *UNITS.get(kind, (1.0, "")))
    table = events if events is not None else table_beside(path)
    shown = timeline(_events_of(raw, table), title)
    if shown is not None:
        yield "events", shown
    yield "spectrum", _spectrum(raw, of_type, title)


def _spread_of(raw: Any, names: Sequence[str]) -> np.ndarray:
    """Standard deviation within seconds, (C,), the median of at most 200 of them: slow drifts are left out."""
    length = max(2, round(raw.info["sfreq"]))
    starts = np.unique(np.linspace(0, max(0, raw.n_times - length), 200).astype(int))
    rows = [raw.ch_names.index(name) for name in names]
    return np.nan_to_num(np.median([raw[rows, s : s + length][0].std(axis=1) for s in starts], axis=0))


def _events_of(raw: Any, table: str | Path | None) -> list[tuple[float, str]]:
    """(onset in s, name) of what a table, annotations and triggers say, in that order of preference."""
    if table is not None:
        rows = read_table(table)
        onset = next((name for name in rows.columns if str(name).strip().lower() == "onset"), None)
        named = next((name for name in rows.columns if str(name).strip().lower() in EVENT_NAMES), None)
        if onset is not None:
            names = ["event"] * len(rows) if named is None else rows[named].astype(str).tolist()
            times = [_number(text) for text in rows[onset]]
            return [(t, name) for t, name in zip(times, names, strict=True) if np.isfinite(t)]
    if len(raw.annotations):
        return [(float(a["onset"]) - raw.first_time, str(a["description"])) for a in raw.annotations]
    return [(sample / raw.info["sfreq"], str(code)) for sample, _, code in triggers_of(raw)]


def _number(text: Any) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def timeline(events: Iterable[tuple[float, str]], title: str) -> Figure | None:
    """Events against time, the most frequent names apart, and the time between neighbours; None without events."""
    from matplotlib.figure import Figure

    events = sorted(events)
    if not events:
        return None
    onsets, names = np.array([onset for onset, _ in events]), [name for _, name in events]
    counted = sorted(set(names), key=lambda name: (-names.count(name), name)) if len(set(names)) <= 1000 else []
    shown = counted if len(counted) <= NAMED else counted[: NAMED - 1]
    place = {name: i for i, name in enumerate(shown)}
    y = np.array([place.get(name, len(shown)) for name in names])
    labels = [*shown, "others"] if (y == len(shown)).any() else shown
    figure = Figure(figsize=(10, 1.6 + 0.18 * max(8, len(labels))), layout="constrained")
    figure.suptitle(f"{title}: {len(events)} events", fontsize=10)
    left, right = figure.subplots(1, 2, width_ratios=[3, 1.3])
    left.plot(onsets / 60, y, "|", color="C0", markersize=6)
    left.set_yticks(range(len(labels)), [label[:30] for label in labels], fontsize=7)
    left.set(xlabel="time (min)", ylim=(-0.7, len(labels) - 0.3))
    left.invert_yaxis()
    gaps = np.diff(onsets)
    if len(gaps):
        usual = gaps[gaps <= np.quantile(gaps, 0.98)]
        right.hist(usual, bins=40, range=(usual.min() - SAME_S, usual.max() + SAME_S), color="0.5")
    right.set(xlabel="time to the next event (s)", ylabel="events")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _spectrum(raw: Any, of_type: Mapping[str, Sequence[str]], title: str) -> Figure:
    """Power spectral density of every channel, by Welch over 2 s, of minutes from the middle of the recording."""
    import mne
    from matplotlib.figure import Figure

    sfreq = raw.info["sfreq"]
    duration = raw.n_times / sfreq
    start = max(0.0, duration / 2 - SPECTRUM_S / 2)
    figure = Figure(figsize=(10, 0.8 + 2.8 * len(of_type)), layout="constrained")
    bads = f"; bad: {listed(raw.info['bads'])}" if raw.info["bads"] else ""
    figure.suptitle(f"{title}: spectrum{bads}", fontsize=10)
    for axes, (kind, names) in zip(figure.subplots(len(of_type), squeeze=False)[:, 0], of_type.items(), strict=True):
        part = raw.copy().pick(list(names)).crop(start, min(duration - 1 / sfreq, start + SPECTRUM_S))
        with mne.use_log_level("error"):
            x_Cn = part.load_data().get_data()
            power_CF, f = mne.time_frequency.psd_array_welch(x_Cn, sfreq, n_fft=min(round(2 * sfreq), x_Cn.shape[1]))
        factor, unit = UNITS.get(kind, (1.0, ""))
        axes.semilogy(f[1:], factor**2 * power_CF[:, 1:].T, linewidth=0.6)
        axes.set(xlabel="frequency (Hz)", ylabel=f"power ({unit}²/Hz)", xlim=(f[1], f[-1]))
        axes.spines[["top", "right"]].set_visible(False)
    return figure
