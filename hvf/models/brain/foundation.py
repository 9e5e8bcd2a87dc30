"""Foundation encoders: networks that others trained on many EEG recordings, with a head that learns the way to images.

A trial is brought to what the network was trained on: its channels by name, in the network's order; its sampling rate;
whole patches; its units. Trials arrive with mean 0 and sd 1 in each channel, so an sd is taken for `AMPLITUDE`.
The weights are a file on this machine, or drawn at random (`brain.weights`). The network is fine-tuned, or frozen:
then only the head learns. What is saved holds all weights, and is loaded without the file.

Letters: N trials, C channels of the recording, K channels of the network, S samples before resampling, T after it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hvf.config import HvfError
from hvf.models.brain.base import BrainEncoder, ProjectionHead
from hvf.registry import BRAIN_ENCODERS, listed

AMPLITUDE = 10.0  # µV that the sd of a standardised trial stands for
PART = 256  # trials that go through a network at once: its tokens are many times larger than the trials
# Sites of the 10-20 system that the 10-10 system calls otherwise.
ALSO = {"T7": "T3", "T8": "T4", "P7": "T5", "P8": "T6", "T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}


class Foundation(BrainEncoder):
    """z_b = head(network(trial)); the network's tokens are flattened, so that the head knows channel and time.

    Parameters
    ----------
    n_chans, n_times : int
        Shape of a trial (C, S).
    width, dropout : int, float
        The head's: D, and its dropout. The network keeps the dropout it was published with.
    frozen : bool
        Whether the network stays as it is, in eval mode.
    kind, ch_names, sfreq
        Of the recording, as `Trials` has them.

    Raises
    ------
    HvfError
        If the recording is no EEG, or has no channel that the network knows.
    """

    reads = ("width", "dropout", "frozen")
    takes = ("kind", "ch_names", "sfreq")
    replayable = False  # some of the networks move tensors between devices in a step

    fetch = ""  # the command that fetches the published weights
    rate = 200.0  # Hz, of the recordings that it was trained on
    patch, step = 200, 200  # samples of the shortest trial, and what longer ones grow by
    scale = 1.0  # what it was trained on, per µV
    sizes: Mapping[str, Any] = {}  # of the network, where they are not braindecode's own
    left: tuple[str, ...] = ("final_layer.",)  # keys of a file, by their beginning, of what only its training used
    any_name = False  # whether channels of other names are taken too, after those of `known`

    rows_K: Tensor
    resampling_ST: Tensor | None

    def __init__(
        self,
        n_chans: int,
        n_times: int,
        width: int = 1024,
        dropout: float = 0.1,
        frozen: bool = False,
        kind: str = "eeg",
        ch_names: Sequence[str] = (),
        sfreq: float = 0.0,
    ) -> None:
        recording = {"kind": kind, "ch_names": list(ch_names), "sfreq": sfreq}
        super().__init__(n_chans, n_times, width, dropout=dropout, frozen=frozen, **recording)
        self.name, self.frozen = BRAIN_ENCODERS.name_of(type(self)), frozen
        found, self.left_out = self.match(kind, ch_names)
        self.places = list(found)  # the network's names of the K channels
        self.register_buffer("rows_K", torch.tensor(list(found.values())))
        resampling_ST = None if sfreq == self.rate else _resampling(n_times, sfreq, self.rate)
        self.register_buffer("resampling_ST", resampling_ST)
        samples = n_times if resampling_ST is None else resampling_ST.shape[1]
        whole = self.patch + max(-(-(samples - self.patch) // self.step), 0) * self.step
        self.padding = whole - samples
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's advice to the networks' authors
            self.network = self.build(len(self.places), whole).eval()
            features = self.tokens(torch.zeros(1, len(self.places), whole)).numel()
        self.network.requires_grad_(not frozen)
        self.head = ProjectionHead(features, width, dropout)
        self.train()

    @classmethod
    def known(cls) -> list[str]:
        """Names of the channels that the network knows, in capitals and in its order."""
        raise NotImplementedError

    def build(self, n_chans: int, n_times: int) -> nn.Module:
        """braindecode's network for trials (K, T), its weights drawn at random."""
        raise NotImplementedError

    def tokens(self, x_NKT: Tensor) -> Tensor:
        """What the network makes of trials, (N, ...)."""
        raise NotImplementedError

    def scaled(self, x_NKT: Tensor) -> Tensor:
        """Standardised trials in the units that the network was trained on."""
        return x_NKT * (AMPLITUDE * self.scale)

    def picked(self, x_NCS: Tensor) -> Tensor:
        """The channels that the network takes, in its order, (N, K, S)."""
        return x_NCS[:, self.rows_K]

    @classmethod
    def match(cls, kind: str, ch_names: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """{the network's name of a channel: its row in the recording}, in the network's order; and names left out.

        Raises HvfError if the recording is no EEG, or has no channel that the network knows.
        """
        name = BRAIN_ENCODERS.name_of(cls)
        if kind != "eeg":
            raise HvfError(
                f"brain encoder {name} was trained on EEG, and these responses are of kind {kind!r}: take one that "
                "learns from nothing, such as --brain.encoder mbp"
            )
        found, others = cls.matched(rows_by_name(ch_names))
        if not found:
            raise HvfError(
                f"brain encoder {name} knows none of the channels {listed(ch_names)}: it was trained on "
                f"{listed(cls.known())}; name the channels so, or take another encoder"
            )
        return found, [ch_names[row] for row in others]

    @classmethod
    def matched(cls, row_of: Mapping[str, int]) -> tuple[dict[str, Any], list[int]]:
        """{the network's name of a channel: its row in the recording}, in the network's order; and rows left out."""
        known = cls.known()
        found = {name: row for name in known if (row := row_of_site(name, row_of, known)) is not None}
        others = {name: row for name, row in row_of.items() if row not in found.values()}
        return (found | others, []) if cls.any_name else (found, list(others.values()))

    def train(self, mode: bool = True) -> Foundation:
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def forward(self, x_NCS: Tensor) -> Tensor:
        """(N, C, S) -> z_b (N, D)."""
        x_NKT = self.picked(self.checked(x_NCS))
        if self.resampling_ST is not None:
            x_NKT = x_NKT @ self.resampling_ST
        x_NKT = functional.pad(self.scaled(x_NKT), (0, self.padding))
        return self.head(torch.cat([self.tokens(part).flatten(1) for part in x_NKT.split(PART)]))

    def published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a file under the names, and in the shapes, that this network has."""
        return dict(state)

    def fill(self, state: Mapping[str, Any], path: str | Path) -> None:
        """Put the weights of a file into the network.

        Every parameter of the network must be there; of what else is there, only what `left` names may be. Raises
        HvfError naming the first key that is missing, unknown, of another shape or not finite.
        """
        own = self.network.state_dict()
        state = {key: value for key, value in self.published(_inner(state)).items() if not key.startswith(self.left)}
        missing = [key for key, _ in self.network.named_parameters() if key not in state]
        unknown = [key for key in state if key not in own]
        for keys, words in ((missing, "lacks"), (unknown, "holds, and this network has not,")):
            if keys:
                raise HvfError(f"{path} does not hold the weights of {self.name}: it {words} {listed(keys, 3)}")
        for key, value in state.items():
            mine, theirs = tuple(own[key].shape), tuple(getattr(value, "shape", ()))
            if not isinstance(value, Tensor) or mine != theirs:
                raise HvfError(f"{path}: {key} has shape {theirs}, and that of {self.name} has {mine}")
            if not value.isfinite().all():
                raise HvfError(f"{path}: {key} holds NaN or infinite values")
        self.network.load_state_dict(own | state)


def rows_by_name(ch_names: Iterable[str]) -> dict[str, int]:
    """{name in capitals: row}. Raises HvfError for a name that two channels have."""
    rows: dict[str, int] = {}
    for row, name in enumerate(ch_names):
        if rows.setdefault(name.upper(), row) != row:
            raise HvfError(f"two channels are called {name}: a network that tells channels by name cannot tell them")
    return rows


def row_of_site(name: str, row_of: Mapping[str, int], known: Iterable[str] = ()) -> int | None:
    """The row of the channel at this site: of this name, or of its other name unless that is known by itself."""
    other = ALSO.get(name, name)
    return row_of.get(name, row_of.get(other) if other not in known else None)


@cache
def places_1005() -> dict[str, np.ndarray]:
    """{name in capitals: place on the head, (3,) in m} of the 10-05 system."""
    import mne

    known = mne.channels.get_builtin_montages()
    montage = mne.channels.make_standard_montage("colin27_1005" if "colin27_1005" in known else "standard_1005")
    return {name.upper(): place for name, place in montage.get_positions()["ch_pos"].items()}


def _resampling(n_times: int, sfreq: float, rate: float) -> Tensor:
    """The matrix (S, T) that resamples a trial: MNE's resampling, which is linear, of the unit vectors."""
    import mne

    # The rate is exact where the padded trial, too, has a whole number of samples at the new one.
    exact = (n for n in range(n_times, n_times + 1000) if ((n_times + 2 * n) * rate / sfreq).is_integer())
    padding: Any = next(exact, "auto")
    x_ST = mne.filter.resample(np.eye(n_times), rate, sfreq, pad="edge", npad=padding, verbose="error")
    return torch.from_numpy(x_ST.astype(np.float32))


def _inner(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The weights in a checkpoint that holds more than these."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state.get(key), Mapping):
            return state[key]
    return state
