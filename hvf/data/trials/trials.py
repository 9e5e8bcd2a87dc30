"""Trials: responses of sensors or neurons to images, one row per presentation, with the image of each row.

Letters: N trials, C channels, T samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import mne
import numpy as np

from hvf.config import HvfError
from hvf.data.html import facts
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.images.matching import ImageNames
from hvf.data.indexing import chosen_rows, row_or_rows
from hvf.data.trials import conversion, plots
from hvf.data.trials.categorical import Categorical
from hvf.data.trials.epochs import epochs_values, presentation_order, shown_images
from hvf.data.trials.lazy import BLOCK_BYTES, LazyArray, Once
from hvf.data.trials.store import NUMBERED, TrialsWriter, check_store, read_store
from hvf.registry import listed

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


class Trials:
    """Responses to images: arrays in memory or on disk, read only when values are asked for.

    All that makes other trials of these (select, pick, crop, average, split, concatenate, ...) copies no data.
    `load_array` reads all values, `batch` some of them.

    Parameters
    ----------
    x_NCT : array or LazyArray, (N, C, T)
        Values in V (EEG), T (MEG) or the file's own units (features, or as `history["units"]` says).
    image_ids : sequence of str, (N,)
        The image that each trial is a response to; repeats of an image carry the same id.
    subject : str
    sfreq, tmin : float
        Sampling rate in Hz and time of the first sample after the image's onset in s.
    ch_names : sequence of str, (C,)
    kind : "eeg", "meg" or "features"
    simulated : bool
    concepts, splits : sequence of str, (N,), optional
        The concept of each trial's image; "train" or "test" where that is given from outside.
    sessions, positions : sequence of int, (N,), optional: the session, from 1; the presentation's place in it, by time
    history : dict, optional
        How the trials were made: recipe, whitening, units, sources and their sha256, code version.

    Raises
    ------
    HvfError
        If the array has not three axes, or the numbers of names or labels do not fit it.

    Examples
    --------
    >>> trials = Trials(np.zeros((3, 2, 5)), ["cat", "dog", "cat"], "sub-01", 100.0, 0.0, ["O1", "O2"], "eeg")
    >>> trials.average()
    <Trials: sub-01, 2 trials x 2 eeg channels x 5 samples>
    >>> trials.pick(["O2"]).crop(0.0, 0.02).load_array().shape
    (3, 1, 2)
    """

    def __init__(
        self,
        x_NCT: np.ndarray | LazyArray,
        image_ids: Sequence[str] | np.ndarray | Categorical,
        subject: str,
        sfreq: float,
        tmin: float,
        ch_names: Iterable[str],
        kind: str,
        simulated: bool = False,
        concepts: Sequence[str] | np.ndarray | Categorical | None = None,
        splits: Sequence[str] | np.ndarray | Categorical | None = None,
        sessions: Sequence[int] | np.ndarray | None = None,
        positions: Sequence[int] | np.ndarray | None = None,
        history: dict[str, Any] | None = None,
    ) -> None:
        if not (0 < sfreq < np.inf and np.isfinite(tmin)):
            raise HvfError(f"trials need a rate above 0 Hz and a finite first time, not {sfreq} Hz and {tmin} s")
        self.values = x_NCT if isinstance(x_NCT, LazyArray) else LazyArray.of(x_NCT)
        self.subject, self.sfreq, self.tmin, self.kind, self.simulated = subject, sfreq, tmin, kind, simulated
        self.ch_names, self.history = tuple(str(name) for name in ch_names), history
        self._image_ids = Categorical.of(image_ids)
        self._concepts = None if concepts is None else Categorical.of(concepts)
        self._splits = None if splits is None else Categorical.of(splits)
        self.sessions, self.positions = (None if x is None else np.asarray(x, dtype=int) for x in (sessions, positions))
        n, c, _ = self.shape
        if len(self.ch_names) != c:
            raise HvfError(f"{c} channels were given {len(self.ch_names)} names; give one per channel")
        for name, labels in self._labels().items():
            if labels is not None and len(labels) != n:
                raise HvfError(f"{n} trials were given {len(labels)} {name.replace('_', ' ')}; give one per trial")

    @property
    def image_ids(self) -> np.ndarray:
        """The image that each trial is a response to, str (N,)."""
        return self._image_ids.array

    @property
    def concepts(self) -> np.ndarray | None:
        """The concept of each trial's image, str (N,), if known."""
        return None if self._concepts is None else self._concepts.array

    @property
    def splits(self) -> np.ndarray | None:
        """ "train" or "test" of each trial, str (N,), if given from outside."""
        return None if self._splits is None else self._splits.array

    def _labels(self) -> dict[str, Any]:  # Categorical, an array of numbers, or None
        """The labels that have a value per trial, categorical ones encoded."""
        categorical = {"image_ids": self._image_ids, "concepts": self._concepts, "splits": self._splits}
        return categorical | {name: getattr(self, name) for name in NUMBERED}

    def _fields(self) -> dict[str, Any]:
        """The arguments of the constructor but for the values."""
        names = ("subject", "sfreq", "tmin", "ch_names", "kind", "simulated", "history")
        return self._labels() | {name: getattr(self, name) for name in names}

    def replace(self, **changes: Any) -> Trials:
        """The same trials with some arguments of the constructor changed; reads nothing."""
        return Trials(**{**self._fields(), "x_NCT": self.values, **changes})

    def __len__(self) -> int:
        return self.shape[0]

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: Sequence[int] | np.ndarray | slice) -> Trials: ...
    def __getitem__(self, index: Any) -> Any:
        """Return a single trial, float32 (C, T); or, for ints, a mask or a slice, those trials as by `select`."""
        rows = row_or_rows(index, len(self), "trials")
        return self.batch([rows])[0] if isinstance(rows, int) else self.select(rows)

    def __repr__(self) -> str:
        n, c, t = self.shape
        origin = ", simulated" if self.simulated else ""
        return f"<Trials: {self.subject}, {n} trials x {c} {self.kind} channels x {t} samples{origin}>"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, C, T), without reading."""
        return self.values.shape

    @property
    def times(self) -> np.ndarray:
        """Time of each sample after the image's onset, in s, (T,)."""
        return self.tmin + np.arange(self.shape[2]) / self.sfreq

    @property
    def x_NCT(self) -> np.ndarray:
        """All values, float32 (N, C, T): `load_array`."""
        return self.load_array()

    def load_array(self) -> np.ndarray:
        """Read all values, float32 (N, C, T); an array that lies in memory just so is returned itself."""
        return self.values.gather()

    def batch(self, indices: Sequence[int] | np.ndarray | slice) -> np.ndarray:
        """Read the trials `indices` (ints, a mask or a slice), float32 (n, C, T), in that order."""
        return self.values.select(chosen_rows(indices, len(self), "trials")).gather(copy=True)

    def batches(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Read all trials in order, some at a time: (their places, float32 (n, C, T))."""
        n, c, t = self.shape
        step = max(1, BLOCK_BYTES // max(1, 4 * c * t))
        for start in range(0, n, step):
            rows = slice(start, min(start + step, n))
            yield rows, self.batch(rows)

    def average(self) -> Trials:
        """Return one row per image, the mean of its trials (summed in float64), in order of first appearance."""
        first, group_N = self._image_ids.first()
        if len(first) == len(self):
            return self
        labels = {name: label if label is None else _chosen(label, first) for name, label in self._labels().items()}
        labels |= dict.fromkeys(NUMBERED)  # a mean may span several
        return self.replace(x_NCT=self.values.mean_by(group_N), **labels)

    def repeats(self) -> dict[str, int]:
        """Return how many rows each image has, in order of first appearance."""
        first, group_N = self._image_ids.first()
        return dict(zip(self.image_ids[first].tolist(), np.bincount(group_N).tolist(), strict=True))

    def select(self, indices: Sequence[int] | np.ndarray | slice) -> Trials:
        """Return the trials `indices` (ints, a mask or a slice), in that order."""
        rows = chosen_rows(indices, len(self), "trials")
        labels = {name: label if label is None else _chosen(label, rows) for name, label in self._labels().items()}
        return self.replace(x_NCT=self.values.select(rows), **labels)

    def split(self, name: str) -> Trials:
        """Return the trials of the split "train" or "test". Raises HvfError if there are none."""
        if self.splits is None:
            raise HvfError(f"the trials of {self.subject} are not split into training and test")
        if name not in self.splits:
            raise HvfError(f"{self.subject} has no trials of the split {name!r}, only {listed(np.unique(self.splits))}")
        return self.select(self.splits == name)

    def session(self, number: int) -> Trials:
        """Return the trials of one session, counted from 1. Raises HvfError if there are none."""
        if self.sessions is None or number not in self.sessions:
            known = "none" if self.sessions is None else listed(str(s) for s in np.unique(self.sessions))
            raise HvfError(f"{self.subject} has no session {number}; known are {known}")
        return self.select(self.sessions == number)

    def pick(self, ch_names: Iterable[str]) -> Trials:
        """Return the channels named, in that order. Raises HvfError naming those that are not there."""
        ch_names = tuple(ch_names)
        if ch_names == self.ch_names:
            return self
        if missing := [name for name in ch_names if name not in self.ch_names]:
            raise HvfError(f"{self.subject} has no channel {listed(missing)}; it has {listed(self.ch_names)}")
        return self.replace(x_NCT=self.values.channels([*map(self.ch_names.index, ch_names)]), ch_names=ch_names)

    def crop(self, tmin: float, tmax: float) -> Trials:
        """Return the samples in [tmin, tmax) s. Raises HvfError if the recording does not hold that window."""
        start, stop = (round((t - self.tmin) * self.sfreq) for t in (tmin, tmax))
        if not 0 <= start < stop <= self.shape[2]:
            end = self.tmin + self.shape[2] / self.sfreq
            raise HvfError(f"cannot crop to [{tmin:g}, {tmax:g}) s: the trials run over [{self.tmin:g}, {end:g}) s")
        return self.replace(x_NCT=self.values.samples(start, stop), tmin=self.tmin + start / self.sfreq)

    def image_indices(self, images: ImageSet) -> np.ndarray:
        """Which of `images` each trial answers, (N,), by its id or its file's name; -1 where none.

        Raises HvfError where a name of a trial stands for several of the images.
        """
        names = self._image_ids
        used, rows = np.unique(names.codes, return_inverse=True)
        return np.asarray(ImageNames(images.ids).find(names.values[used].tolist()), dtype=int)[rows]

    def paired_with(self, images: ImageSet) -> Trials:
        """Return the trials under the ids of the `images` they answer (`image_indices`), without all others."""
        image_N = self.image_indices(images)
        kept = self if (image_N >= 0).all() else self.select(image_N >= 0)
        codes = image_N[image_N >= 0].astype(np.int32)
        return kept.replace(image_ids=Categorical(np.asarray(images.ids, dtype=str), codes))

    def aligned_to(self, images: ImageSet) -> Trials:
        """Return one row per image of `images`, in its order and under its ids (see `paired_with`).

        Repeats are averaged, other images' trials dropped. Raises HvfError naming the images that no trial answers.
        """
        averaged = self.paired_with(images).average()
        row = {name: i for i, name in enumerate(averaged.image_ids.tolist())}
        if missing := [name for name in images.ids if name not in row]:
            raise HvfError(f"{len(missing)} of {len(images)} images have no trial of {self.subject}: {listed(missing)}")
        order = [row[name] for name in images.ids]
        return averaged if order == list(range(len(averaged))) else averaged.select(order)

    def permuted(self, seed: int) -> Trials:
        """Return the same trials with the images shuffled among them: what a decoder scores by chance."""
        order = np.random.default_rng(seed).permutation(len(self))
        labels = {name: label for name, label in self._labels().items() if label is not None and name not in NUMBERED}
        return self.replace(**{name: _chosen(label, order) for name, label in labels.items()})

    @classmethod
    def concatenate(cls, trials: Sequence[Trials], subject: str | None = None) -> Trials:
        """Join the trials of several subjects or recordings, one after the other.

        Raises HvfError if they differ in channels (or their order), kind, sampling rate or window, or if there are
        none. `subject` names the whole; by default those that are in it.
        """
        if not trials:
            raise HvfError("there are no trials to concatenate")
        first = trials[0]
        for other in trials[1:]:
            for name, a, b in (
                ("channels", first.ch_names, other.ch_names),
                ("kinds", first.kind, other.kind),
                ("sampling rates", f"{first.sfreq:g} Hz", f"{other.sfreq:g} Hz"),
                ("windows", first._window(), other._window()),
            ):
                if a != b:
                    what = "" if name == "channels" else f" ({a} and {b})"
                    raise HvfError(f"{first.subject} and {other.subject} have different {name}{what}: cannot join them")
        labels: dict[str, Any] = {}
        for name in first._labels():
            parts = [t._labels()[name] for t in trials]
            known = all(part is not None for part in parts)
            labels[name] = (np.concatenate if name in NUMBERED else Categorical.joined)(parts) if known else None
        return first.replace(
            x_NCT=LazyArray.joined([t.values for t in trials]),
            **labels,
            subject=subject or ", ".join(dict.fromkeys(t.subject for t in trials)),
            simulated=any(t.simulated for t in trials),
            history={"concatenated": [t.history for t in trials]},
        )

    def _window(self) -> str:
        return f"{self.tmin:.4g} s and {self.shape[2]} samples"

    def check(self, *, constant: bool = True) -> None:
        """Raise HvfError, naming the channels, if any holds NaN, infinity or, with `constant`, never changes.

        Reads all, part by part.
        """
        if 0 in self.shape:
            raise HvfError(f"the trials of {self.subject} are empty: {self.shape} (trials, channels, samples)")
        low_C, high_C = np.full(self.shape[1], np.inf), np.full(self.shape[1], -np.inf)
        for _, x_NCT in self.batches():  # NaN and infinity show in these
            low_C, high_C = np.minimum(low_C, x_NCT.min(axis=(0, 2))), np.maximum(high_C, x_NCT.max(axis=(0, 2)))
        for bad_C, what in (
            (~(np.isfinite(low_C) & np.isfinite(high_C)), "NaN or infinite values"),
            (constant & (low_C == high_C), "the same value in every trial and sample"),
        ):
            if bad_C.any():
                names = [self.ch_names[i] for i in np.flatnonzero(bad_C)]
                plural = "channel" if len(names) == 1 else f"{len(names)} channels"
                raise HvfError(f"{plural} {listed(names)} of {self.subject}: {what}; repair or drop before decoding")

    def save(self, path: str | Path, dtype: Any = np.float32) -> None:
        """Write the trials to `path`, a `.npy`, and its sidecar (`hvf.data.trials.store`), whole or not at all."""
        with TrialsWriter(path, self.shape, dtype, **self._fields()) as writer:
            for rows, x_NCT in self.batches():
                writer.write(rows, x_NCT)

    @classmethod
    def load(cls, path: str | Path) -> Trials:
        """Open what `save` or `TrialsWriter` wrote; values are read when asked for, and then held to their sha256.

        Raises HvfError if the file or its sidecar is absent, damaged or something else.
        """
        x_NCT, labels = read_store(path)
        return cls(LazyArray.of(x_NCT, Once(check_store, path)), **labels)

    @classmethod
    def from_epochs(
        cls,
        epochs: mne.BaseEpochs,
        images: ImageSet | Sequence[str] | str | Path | None = None,
        *,
        subject: str | None = None,
    ) -> Trials:
        """Take the good EEG and MEG channels of MNE epochs.

        `images` is the image set (or its folder or zip), or one name per epoch. In a set, the image of an epoch is the
        one that its metadata name ("image", "stim_file", "filename", or whichever column holds names of images), else
        the one that its event is named after, else the one in its place, said in `history["notes"]`. `metadata` may
        also name each epoch's "concept", "split" and "session". HvfError if what was shown is unsaid or contradictory.
        """
        images = open_images(images) if isinstance(images, (str, Path)) else images
        epochs = epochs if epochs.preload else epochs.copy().drop_bad(verbose="error")
        shown = shown_images(epochs, images)
        values, notes = epochs_values(epochs)
        values["subject"] = subject or (epochs.info.get("subject_info") or {}).get("his_id") or "epochs"
        values["positions"] = presentation_order(epochs)
        trials = cls(image_ids=shown.names, **(values | shown.labels))
        note = f"{len(trials)} epochs of {len(trials.repeats())} images, paired by {shown.how}"
        if isinstance(images, ImageSet):
            trials = trials.paired_with(images)
            n = len(images) - len(trials.repeats())
            note += f"; {n} of the {len(images)} images were not shown" if n else ""
            if trials.concepts is None:
                concept = dict(zip(images.ids, images.concepts, strict=True))
                trials = trials.replace(concepts=[concept[name] for name in trials.image_ids.tolist()])
        return trials.replace(history={"notes": [note, *notes]} | (trials.history or {}))

    def to_epochs(self) -> mne.EpochsArray:
        """As MNE epochs, with metadata of image, concept, split and session; `from_epochs` gives the same trials back.

        Raises HvfError for what epochs cannot be (`hvf.data.trials.conversion.to_epochs`).
        """
        return conversion.to_epochs(self)

    def to_xarray(self) -> xarray.DataArray:
        """As an xarray array (trial, channel, time) with the labels as coordinates. Raises HvfError without xarray."""
        return conversion.to_xarray(self)

    def plot_evoked(self, concept: str | None = None) -> Figure:
        """Draw the mean response of all channels over time, and its global field power: of all trials, or a concept's.

        Returns the figure, in no window. Raises HvfError if no trial shows that concept.
        """
        return plots.plot_evoked(self, concept)

    def plot_similarity(self, by: Literal["image", "concept"] | None = None) -> Figure:
        """Draw the representational similarity between images or concepts (default: concepts that have several images).

        Returns the figure, in no window. Raises HvfError if there are too few or too many to compare.
        """
        return plots.plot_similarity(self, by)

    def _repr_html_(self) -> str:
        return facts(repr(self), plots.facts_of(self))


def _chosen(label: Categorical | np.ndarray, indices: np.ndarray | slice) -> Categorical | np.ndarray:
    return label.select(indices) if isinstance(label, Categorical) else label[indices]
