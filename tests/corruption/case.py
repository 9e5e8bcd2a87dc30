"""A corruption as a case: an input that is written into an empty folder, how it is read, and what should come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hvf.data.images.image_set import ImageSet
from hvf.data.trials.trials import Trials
from hvf.study import Study

READERS = ("array", "epochs", "raw", "bids", "eeg2-raw", "eeg2-prepared", "meg")
KINDS = {
    1: "pairing", 2: "concepts", 3: "triggers", 4: "pictures", 5: "channels", 6: "order", 7: "texts", 8: "files",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Reading:
    """What a reader made of an input: trials, and the image of each where there are images."""

    parts: tuple[tuple[Trials, ImageSet | None], ...]  # of a study: training and test

    @classmethod
    def of_study(cls, study: Study) -> Reading:
        return cls(((study.train, study.train_images), (study.test, study.test_images)))

    @classmethod
    def of_trials(cls, trials: Trials, images: ImageSet | None = None) -> Reading:
        return cls(((trials, images),))


def in_microvolts(trials: Trials) -> np.ndarray:
    """The number that Oz carries in each trial, (N,)."""
    return 1e6 * trials.load_array()[:, trials.ch_names.index("Oz")].mean(axis=1)


def in_last_channel(trials: Trials) -> np.ndarray:
    """The number that the last channel carries in each trial, (N,)."""
    return trials.load_array()[:, -1].mean(axis=1)


@dataclass(frozen=True, eq=False)
class Input:
    """A written input.

    Parameters
    ----------
    read : callable
        Reads it as a user would; raises HvfError where it refuses.
    shown : sequence of int
        The number of the image of each trial that may come, repeats averaged where the reader averages them.
    path, images, events : Path, optional
        What the doctor is asked about, after it was read; without `path` it is not asked.
    options : mapping
        What else the reader was told, as the doctor's options.
    also : sequence of callable
        Other ways to read it, of which the same must come.
    carried : callable
        The number that each trial carries.
    may_lack : sequence of int
        Images whose trials may also be left out.
    concepts : mapping, optional
        The concept of each number: none may be trained on and tested.
    channels : sequence of str, optional
        All channels that may be decoded from.
    pictures : mapping, optional
        The pixels (H, W, 3) of each number's picture; default: `draw`.
    tolerance : int
        How far pixels may be apart.
    """

    read: Callable[[], Reading]
    shown: Sequence[int]
    path: Path | None
    images: Path | None = None
    carried: Callable[[Trials], np.ndarray] = in_microvolts
    may_lack: Sequence[int] = ()
    concepts: Mapping[int, str] | None = None
    channels: Sequence[str] | None = None
    pictures: Mapping[int, np.ndarray] | None = None
    tolerance: int = 0
    events: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    also: Sequence[Callable[[], Reading]] = ()


@dataclass(frozen=True)
class Case:
    kind: int
    reader: str
    name: str
    write: Callable[[Path], Input]
    refused: str | None  # the cause that a refusal must name; None: it must be read
    readable: bool  # whether reading it rightly is right

    @property
    def id(self) -> str:
        return f"{KINDS[self.kind]}-{self.reader}-{self.name}".replace(" ", "_")


CASES: dict[str, Case] = {}


def case(
    kind: int,
    reader: str,
    name: str,
    write: Callable[..., Input],
    /,
    *args: Any,
    refused: str = "",
    either: str = "",
    **more: Any,
) -> None:
    """Add a case; `write(folder, *args, **more)` writes its input.

    By default it must be read rightly. `refused` is a pattern of the cause that an HvfError must name; with `either`,
    reading it rightly is as good as a refusal that names this cause.
    """
    new = Case(kind, reader, name, lambda folder: write(folder, *args, **more), refused or either or None, not refused)
    if kind not in KINDS or reader not in READERS or new.id in CASES:
        raise ValueError(f"the case {new.id} is of an unknown kind or reader, or there already")
    CASES[new.id] = new
