"""Weights that others trained, put into a foundation encoder before it learns from the trials."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from hvf.config import Config
from hvf.data.trials.trials import Trials
from hvf.models.brain import BrainEncoder
from hvf.models.brain.foundation import Foundation
from hvf.models.brain.person_layer import PeopleLayers
from hvf.progress import say
from hvf.registry import FOUNDATION, RANDOM, check_weights_file, listed
from hvf.vision.weights import read_state, reading


def check_recording(config: Config, trials: Trials) -> None:
    """Raise HvfError if a foundation encoder cannot use these trials, or its weights are not there."""
    name = config.brain.encoder
    if name in FOUNDATION:
        check_weights_file(name, config.brain.weights)
        FOUNDATION[name].match(trials.kind, trials.ch_names)


def start_from_weights(brain: BrainEncoder, weights: str | None) -> None:
    """Read the file `weights` into the encoder (None, "random": it stays as drawn), and say which channels it leaves.

    Raises HvfError if the file is missing, unreadable or holds another network.
    """
    brain = brain.encoder if isinstance(brain, PeopleLayers) else brain
    if not isinstance(brain, Foundation):
        return
    if weights is not None and weights != RANDOM:
        with reading(weights, f"weights of brain encoder {brain.name}"):
            brain.fill(read_state(Path(weights)), weights)
    if brain.left_out:
        _say_once(brain.name, tuple(brain.left_out))


@cache
def _say_once(name: str, left_out: tuple[str, ...]) -> None:
    say(f"brain encoder {name}", [f"it does not know {listed(left_out, 10)}, left out"])
