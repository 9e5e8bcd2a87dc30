"""New trials made like those that a decoder was trained on: its channels, rate, window and units.

What can be matched is matched, and said in a line: channels are picked and ordered by name, epochs are resampled by MNE
and cropped. What cannot be is refused by name.

Letters: N trials, C channels, T samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import mne
import numpy as np

from hvf.alignment import RecordingInfo
from hvf.config import HvfError
from hvf.data.images.columns import is_image_column, texts_of
from hvf.data.images.image_set import ImageSet
from hvf.data.images.order import check_order
from hvf.data.indexing import spread_rows
from hvf.data.trials.epochs import epochs_values, open_epochs, shown_images
from hvf.data.trials.provenance import modality
from hvf.data.trials.reading import RECORDINGS
from hvf.data.trials.store import is_prepared
from hvf.data.trials.trials import Trials
from hvf.files.npy import read_npy
from hvf.registry import did_you_mean, listed, span

FOREIGN_UNITS = 50.0  # a mean over 100 trials is a tenth as large as one of them, a factor of 1000 is another unit
FOREIGN_OFFSET = 50.0  # standard deviations that a channel's mean may be off
FOREIGN_CHANNEL = 1000.0  # times as far off its mean as in training: one channel in another unit
MOST_SAMPLES = 10_000  # that an epoch is made longer by, so that its length is whole at both rates
FEW = 20  # trials of one sample, among which a channel may well have one value


@dataclass(frozen=True, eq=False)
class NewTrials:
    """Trials to decode, and what is known of them."""

    trials: Trials
    image_ids: tuple[str, ...]  # the image that each is known to answer; "" where it is not
    repeats: tuple[int, ...]  # how many rows of the file each is a mean of
    names: tuple[str, ...]  # what each is called: its number in the file, or what its rows share
    notes: tuple[str, ...]  # what was done


def open_new_trials(
    path: str | Path, recording: RecordingInfo, same_image: str | None = None, images: ImageSet | None = None
) -> NewTrials:
    """Read trials, without answers or with the images that they answer, and match them to a decoder's recording.

    Parameters
    ----------
    path : path
        MNE epochs (`-epo.fif`), prepared trials (`Trials.save`), or a `.npy` (N, C, T) or (N, C), whose channels are
        taken to be the decoder's, in their order, which a note says.
    recording : RecordingInfo
        What the decoder was trained on.
    same_image : str, optional
        Column of the epochs' metadata, or "image" of prepared trials: rows of one value are averaged.
    images : ImageSet, optional
        The images that they answer: every trial must name one, or lie in their order in a `.npy`.

    Raises
    ------
    HvfError
        If the file cannot be read, lacks channels, samples or the column, or has another rate and no epochs to
        resample, or rows of one value are known to answer different images.
    """
    path = Path(path)
    if not path.is_file():
        raise HvfError(f"there is no file of trials at {path}")
    if is_prepared(path):
        trials = Trials.load(path)
        ids, columns = trials.image_ids.tolist(), {"image": trials.image_ids.tolist()}
        trials, notes = matched(trials, recording, path.name)
    elif path.name.lower().endswith((".fif", ".fif.gz")):
        epochs = open_epochs(path)
        table = epochs.metadata
        columns = {} if table is None else {str(name): texts_of(table[name]) for name in table.columns}
        shown = None if images is None else shown_images(epochs, images)
        ids, unclear = _known_images(epochs) if shown is None else (list(shown.names), [])
        trials, notes = of_epochs(epochs, recording, path.name)
        notes += unclear
        if shown is not None:
            trials = trials.replace(**shown.labels)
            notes.append(f"paired with their images by {shown.how}")
    elif path.suffix.lower() == ".npy":
        trials, notes = _of_array(path, recording)
        ids, columns = [""] * len(trials) if images is None else _in_order(trials, images, path), {}
    else:
        raise HvfError(f"cannot read trials from {path}: give an MNE -epo.fif, prepared trials, or a .npy{RECORDINGS}")
    if not len(trials):
        raise HvfError(f"{path} holds no trial")
    new = NewTrials(trials, tuple(ids), (1,) * len(trials), tuple(map(str, range(len(trials)))), tuple(notes))
    return new if same_image is None else _averaged(new, columns, same_image, path)


def _in_order(trials: Trials, images: ImageSet, path: Path) -> list[str]:
    """The images themselves, whose order the rows of an array are in. HvfError if they cannot be."""
    if len(trials) != len(images):
        raise HvfError(
            f"{path} has {len(trials)} trials and there are {len(images)} images: an array names none, and "
            "needs one trial per image, in their order; or give epochs or prepared trials, which name them"
        )
    check_order(images)
    return list(images.ids)


def _known_images(epochs: mne.BaseEpochs) -> tuple[list[str], list[str]]:
    """The image that each epoch's metadata or event names, "" of all where nothing does; why, if columns do."""
    try:
        return list(shown_images(epochs, None).names), []
    except HvfError as error:
        columns = () if epochs.metadata is None else map(str, epochs.metadata.columns)
        unclear = [f"which images were seen is not clear: {error}"] if any(map(is_image_column, columns)) else []
        return [""] * len(epochs), unclear


def of_epochs(epochs: mne.BaseEpochs, recording: RecordingInfo, where: str) -> tuple[Trials, list[str]]:
    """Epochs resampled to the decoder's rate and matched to its recording (`matched`); and what was done."""
    notes, n, sfreq = [], len(epochs.times), float(epochs.info["sfreq"])
    if recording.kind == "eeg" and {"eeg"} < set(epochs.get_channel_types()) & {"eeg", "mag", "grad"}:
        epochs = epochs.copy().pick("eeg", exclude=(), verbose="error")
        notes.append("MEG channels are left out: the decoder was trained on EEG")
    near = round(n * recording.sfreq / sfreq) == n  # less than half a sample off at the end
    if not near:
        notes.append(f"resampled from {sfreq:g} to {recording.sfreq:g} Hz")
        epochs = _resampled(epochs, recording.sfreq)
    try:
        values, left_out = epochs_values(epochs)
    except HvfError as error:
        raise HvfError(f"{where}: {error}") from error
    there, bad = ({_plain(name) for name in names} for names in (values["ch_names"], epochs.info["bads"]))
    needed = [name for name in recording.ch_names if _plain(name) in bad - there]
    if needed:
        raise HvfError(
            f"{where}: the decoder needs {listed(needed)}, marked bad there: interpolate first (MNE: "
            "epochs.interpolate_bads())"
        )
    if near:
        values["sfreq"] = recording.sfreq
    unknown = [str(i) for i in range(len(epochs))]
    trials, more = matched(Trials(image_ids=unknown, subject=where, **values), recording, where)
    return trials, [*left_out, *notes, *more]


def _resampled(epochs: mne.BaseEpochs, sfreq: float) -> mne.BaseEpochs:
    """The epochs at another rate, sample k at k / sfreq after their first.

    MNE takes the ratio of the lengths for that of the rates, so that an epoch of a length which is no multiple of both
    is stretched, by up to half a sample at its end: it is made longer before, by its last sample, and cut after. (By
    FFT, MNE's default, padding shifts epochs as well.)
    """
    n, rate = len(epochs.times), float(epochs.info["sfreq"])
    longer = -n % Fraction(sfreq / rate).limit_denominator(MOST_SAMPLES).denominator
    x_NCT = np.pad(epochs.get_data(picks="all", verbose="error"), ((0, 0), (0, 0), (0, longer)), mode="edge")
    whole = mne.EpochsArray(
        x_NCT, epochs.info, tmin=epochs.tmin, metadata=epochs.metadata, proj=False, verbose="error"
    ).resample(sfreq, method="polyphase", verbose="error")
    stop = min(len(whole.times), round(n * sfreq / rate))
    return whole.crop(tmax=float(whole.times[stop - 1]), verbose="error")


def _of_array(path: Path, recording: RecordingInfo) -> tuple[Trials, list[str]]:
    x = read_npy(path)
    wanted = (len(recording.ch_names), recording.n_times)
    if x.dtype.kind not in "fiu" or x.ndim not in (2, 3):
        raise HvfError(f"{path} holds {x.dtype} {x.shape}; trials are numbers (trials, channels, samples)")
    x_NCT = x[:, :, None] if x.ndim == 2 else x
    if x_NCT.shape[1:] != wanted:
        hint = ""
        if x_NCT.shape[1:] == wanted[::-1]:
            hint = ": it looks like (trials, samples, channels), save x.transpose(0, 2, 1)"
        elif x_NCT.shape[1] == wanted[0]:
            hint = ": an array does not say its rate or window, give epochs (-epo.fif), which can be resampled and cut"
        raise HvfError(
            f"{path} has {x_NCT.shape[1]} channels and {x_NCT.shape[2]} samples, the decoder was trained on "
            f"{wanted[0]} and {wanted[1]}{hint}"
        )
    names = [str(i) for i in range(len(x_NCT))]
    fields = (recording.sfreq, recording.tmin, recording.ch_names, recording.kind)
    named = listed(recording.ch_names, 3)
    note = f"an array names no channels: they are taken to be the decoder's {wanted[0]}, in its order ({named})"
    return Trials(x_NCT, names, path.stem, *fields), [note]


def matched(trials: Trials, recording: RecordingInfo, where: str) -> tuple[Trials, list[str]]:
    """Trials with the decoder's channels, in its order, and its window; and what was done. HvfError if impossible."""
    if trials.kind != recording.kind:
        raise HvfError(f"{where} holds {modality(trials.kind)}, the decoder was trained on {modality(recording.kind)}")
    notes = []
    names = match_channels(trials.ch_names, recording.ch_names, where)
    if len(names) < len(trials.ch_names):
        others = [name for name in trials.ch_names if name not in set(names)]
        notes.append(f"{len(others)} channels that the decoder does not know are left out: {listed(others)}")
    trials = trials.pick(names).replace(ch_names=recording.ch_names)
    if not math.isclose(trials.sfreq, recording.sfreq, rel_tol=1e-6):
        raise HvfError(
            f"{where} has {trials.sfreq:g} Hz, the decoder was trained on {recording.sfreq:g} Hz: prepare the trials "
            "at that rate, or give epochs (-epo.fif), which are resampled"
        )
    return _in_window(trials, recording, where, notes), notes


def _in_window(trials: Trials, recording: RecordingInfo, where: str, notes: list[str]) -> Trials:
    """The trials cut to the decoder's window; a shift below half a sample is no difference."""
    start = round((recording.tmin - trials.tmin) * recording.sfreq)
    stop = start + recording.n_times
    if start < 0 or stop > trials.shape[2]:
        end = trials.tmin + trials.shape[2] / trials.sfreq
        asked = recording.tmin + recording.n_times / recording.sfreq
        raise HvfError(
            f"{where} runs from {trials.tmin:g} to {end:g} s after onset, the decoder needs {recording.tmin:g} to "
            f"{asked:g} s: cut longer epochs"
        )
    if (start, stop) != (0, trials.shape[2]):
        notes.append(f"cut to {recording.n_times} samples from {recording.tmin:g} s")
        trials = trials.replace(x_NCT=trials.values.samples(start, stop))
    return trials.replace(tmin=recording.tmin, sfreq=recording.sfreq)


def match_channels(there: Sequence[str], wanted: Sequence[str], where: str) -> list[str]:
    """The names in `there` of the channels `wanted`, in that order.

    Upper and lower case, spaces, dots at the end and the words "EEG" and "MEG" before a name make no difference where
    the very name is not there. Raises HvfError naming what is missing, or a name that stands for two channels.
    """
    exact = set(there)
    if len(exact) != len(there):
        raise HvfError(f"{where} has two channels called {next(n for n in there if list(there).count(n) > 1)}")
    loose: dict[str, list[str]] = {}
    for name in there:
        loose.setdefault(_plain(name), []).append(name)
    found, missing = [], []
    for name in wanted:
        candidates = [name] if name in exact else loose.get(_plain(name), [])
        if len(candidates) > 1:
            raise HvfError(f"{where}: which channel is {name}? {' and '.join(candidates)} may both be")
        found.extend(candidates)
        missing.extend([] if candidates else [name])
    if missing:
        raise HvfError(
            f"{where} lacks {len(missing)} of the {len(wanted)} channels that the decoder was trained on: "
            f"{listed(missing)}; it has {listed(there)}"
        )
    if len(set(found)) != len(found):
        raise HvfError(f"{where}: one channel stands for two of the decoder's: {listed(found)}")
    return found


def _plain(name: str) -> str:
    plain = "".join(name.casefold().split()).rstrip(".")
    return plain.removeprefix("eeg").removeprefix("meg") or plain


def check_values(trials: Trials, mean_C: np.ndarray, sd_C: np.ndarray, where: str, most: int = 500) -> None:
    """Refuse trials that are not finite, flat, in other units, or far off their training mean.

    Parameters
    ----------
    trials : Trials
        Matched to the recording.
    mean_C, sd_C : ndarray
        Of the training trials.
    where : str
        The file, for messages.
    most : int
        How many trials, evenly spread, the units are judged by.
    """
    few = trials.shape[2] == 1 and len(trials) <= FEW
    trials.check(constant=not few)
    rows = spread_rows(len(trials), most)
    x_NCT = trials.batch(rows).astype(np.float64)
    ratio = float(np.median(x_NCT.std(axis=(0, 2)) / sd_C))
    ratio = 1.0 if few and not ratio else ratio  # equal values tell no unit
    if not 1 / FOREIGN_UNITS < ratio < FOREIGN_UNITS:
        power = 10.0 ** round(math.log10(ratio)) if ratio > 0 else 0.0
        raise HvfError(
            f"{where}: the values vary about {power:g} times as much as those that the decoder was trained on: are "
            "they in other units? Convert them (MNE holds EEG in V and MEG in T), or prepare them by the same recipe"
        )
    far_C = np.median(np.abs(x_NCT - mean_C[:, None]), axis=(0, 2)) / sd_C
    odd = [name for name, far in zip(trials.ch_names, far_C, strict=True) if far > FOREIGN_CHANNEL]
    if odd and len(trials) > 1 and len(odd) < len(far_C) / 2:
        raise HvfError(
            f"{where}: {listed(odd)}: values lie {far_C.max():.0g} times as far off as in training, those of other "
            "channels do not: in another unit, or broken? Convert or interpolate it"
        )
    offset = float(np.median(np.abs(x_NCT.mean(axis=(0, 2)) - mean_C) / sd_C))
    if offset > FOREIGN_OFFSET:
        raise HvfError(
            f"{where}: the channels' means are {offset:.0f} standard deviations off those of the training trials: "
            "filter the recording or subtract a baseline, as for training"
        )


def _averaged(new: NewTrials, columns: dict[str, list[str]], column: str, path: Path) -> NewTrials:
    """Means of the rows that have one value in a column."""
    if column not in columns:
        known = list(columns)
        names = f"{did_you_mean(column, known)}" if known else ": it has none"
        raise HvfError(f"{path.name} has no column {column!r} to average trials by{names}")
    values = columns[column]
    if "" in values:
        raise HvfError(f"{path.name}: row {values.index('')} has no value in the column {column!r}")
    groups: dict[str, list[int]] = {}
    for i, value in enumerate(values):
        groups.setdefault(value, []).append(i)
    ids = []
    for value, rows in groups.items():
        images = {new.image_ids[i] for i in rows}
        if len(images) > 1:
            raise HvfError(
                f"{path.name}: trials with {column} {value!r} are known to answer different images: "
                f"{listed(sorted(images), 3)}"
            )
        ids.append(images.pop())
    averaged = new.trials.replace(image_ids=np.asarray(values), concepts=None, splits=None, sessions=None).average()
    repeats = tuple(len(rows) for rows in groups.values())
    note = f"{len(values)} trials averaged to {len(groups)} by {column}, {span(repeats)} each"
    return replace(
        new, trials=averaged, image_ids=tuple(ids), repeats=repeats, names=tuple(groups), notes=(*new.notes, note)
    )
