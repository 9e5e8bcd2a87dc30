"""`hvf decode --stream`: trials are answered as they come, and evidence adds up over presentations of an image.

Letters: N stimuli, K answers of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from hvf.config import HvfError
from hvf.data.trials.trials import Trials
from hvf.decoding.confidence import mean_over
from hvf.decoding.live import LiveTrial
from hvf.decoding.ranking import Answers, Calibrated, answer
from hvf.decoding.recording import NewTrials
from hvf.experiments.decoding import Decoded, Opened
from hvf.progress import say
from hvf.registry import span


class State(NamedTuple):
    """After a presentation: whose, how many of it there were, and what the mean over them is answered with."""

    stimulus: str
    presentations: int
    answers: Answers  # of this one stimulus
    picture_HWC: np.ndarray | None


def decode_live(opened: Opened, live: Iterable[LiveTrial], shown: Callable[[State], None]) -> Decoded:
    """Answer the trials of a stream, `shown` after each; when it ends all of them, as `decode` gives those of a file.

    The answers are those of the file with ``--same-image`` and the column of the codes. Once one was
    answered, a trial that does not fit, as with samples that are lost (NaN), is named and left out. Raises HvfError if
    no trial comes, or the first does not fit the decoder.
    """
    groups: dict[str, list[Trials]] = {}
    notes: dict[str, None] = {}
    calibrated: dict[int, Calibrated] = {}
    question, decoder = opened.question, opened.decoder
    try:
        for stimulus, trial, said in live:
            try:
                opened.check(trial, "the stream")
            except HvfError as error:
                if not groups:
                    raise
                notes[f"a trial of {stimulus} is left out: {error}"] = None
                say("the stream", [f"a trial of {stimulus} is left out: {error}"])
                continue
            notes |= dict.fromkeys(said)
            group = groups.setdefault(stimulus, [])
            group.append(trial)
            mean = _mean({stimulus: group})
            z_b_ND = decoder.embed_trials(mean)
            repeats = [question.presentations * len(group)]
            found = answer(
                z_b_ND, opened.gallery, decoder.confidence, repeats, level=question.level, calibrated=calibrated
            )
            shown(State(stimulus, len(group), found, decoder.reconstruct(mean)[0] if question.draw else None))
    except KeyboardInterrupt:  # what was heard so far is kept
        notes["interrupted"] = None
    if not groups:
        raise HvfError("the stream ended, and no marker with a whole trial behind it came")
    repeats = tuple(len(group) for group in groups.values())
    note = f"{sum(repeats)} trials averaged to {len(groups)} by their markers, {span(repeats)} each"
    new = NewTrials(_mean(groups), ("",) * len(groups), repeats, tuple(groups), (*notes, note))
    return opened.answered(new)


def _mean(groups: dict[str, list[Trials]]) -> Trials:
    """One row per stimulus, the mean over its presentations."""
    trials = [trial for group in groups.values() for trial in group]
    names = [name for name, group in groups.items() for _ in group]
    joined = Trials.concatenate(trials).replace(image_ids=names)
    ends = np.cumsum([len(group) for group in groups.values()])
    return mean_over(joined, np.split(np.arange(len(joined)), ends[:-1]))
