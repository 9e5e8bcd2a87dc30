"""The judge: every trial under the image whose number it carries, or a refusal that names the cause; nothing else."""

from __future__ import annotations

import contextlib
import io
import re
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mne
import numpy as np

from hvf.config import HvfError
from hvf.data.doctor.examination import examine
from tests.corruption.case import Case, Input, Reading
from tests.corruption.numbered import number_in, number_of

APART = 0.2  # how far the number that a trial carries may be from a whole one


@dataclass(frozen=True)
class Verdict:
    """`outcome`: "right", "refused", or the fault; `words`: what came."""

    outcome: str
    words: str

    @property
    def is_fault(self) -> bool:
        return self.outcome not in ("right", "refused")


def quietly(call: Callable[[], Any]) -> Any:
    """What `call` gives, without its printed lines, log and warnings."""
    with (
        warnings.catch_warnings(),
        mne.use_log_level("error"),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        return call()


def judge(case: Case, folder: Path) -> Verdict:
    """Write the input of a case into an empty folder, have it read and examined, and judge what came."""
    given = quietly(lambda: case.write(folder))
    verdict = read_and_compare(case, given)
    if verdict.is_fault or given.path is None:
        return verdict
    return _examined(given, verdict)


def read_and_compare(case: Case, given: Input) -> Verdict:
    try:
        faults = [quietly(lambda read=read: mistake(given, read())) for read in (given.read, *given.also)]
    except HvfError as error:
        line = str(error)
        if case.refused is None:
            return Verdict("refused wrongly", line)
        if "\n" in line or not re.search(case.refused, line):
            return Verdict("unhelpful", line)
        return Verdict("refused", line)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return Verdict("traceback", f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})")
    if any(faults):
        return Verdict("mispaired", next(filter(None, faults)))
    if not case.readable:
        return Verdict("not refused", f"it was read, though {case.refused!r} is wrong with it")
    return Verdict("right", f"{len(given.shown)} trials under their images")


def mistake(given: Input, reading: Reading) -> str | None:
    """The first thing wrong with what was read, in words."""
    numbers = []
    for trials, images in reading.parts:
        carried = given.carried(trials)
        place = {} if images is None else {name: i for i, name in enumerate(images.ids)}
        for name, value in zip(trials.image_ids.tolist(), carried.tolist(), strict=True):
            number = number_of(name) if images is None else number_in(images[place[name]])
            if given.pictures is None and images is not None and number is None:
                return f"the picture {name} does not look as it was shown"
            if given.pictures is not None and images is not None:
                number = number_of(name)
                apart = _pixels_apart(np.asarray(images[place[name]]), given.pictures[number])
                if apart is None or apart > given.tolerance:
                    return f"the pixels of {name} are {apart or 'of another size'} apart from what was shown"
            if number is None or abs(value - number) > APART:
                return f"a trial that carries {value:.2f} is under {name}, the picture of {number}"
            numbers.append(number)
        if given.channels is not None and set(trials.ch_names) != set(given.channels):
            return f"decoded from {', '.join(trials.ch_names)}, not {', '.join(given.channels)}"
    shown, came = Counter(given.shown), Counter(numbers)
    lacking = shown - came
    if came - shown or lacking - Counter(given.may_lack):
        return f"the images {sorted(came.elements())} came, {sorted(shown.elements())} were shown"
    return _shared_concepts(given, reading)


def _shared_concepts(given: Input, reading: Reading) -> str | None:
    if given.concepts is None or len(reading.parts) < 2:
        return None
    train, test = ({given.concepts[number_in(image)] for image in images or ()} for _, images in reading.parts)
    return f"the concepts {sorted(train & test)} are trained on and tested" if train & test else None


def _pixels_apart(came: np.ndarray, shown: np.ndarray) -> int | None:
    return None if came.shape != shown.shape else int(np.abs(came.astype(int) - shown).max())


def _examined(given: Input, verdict: Verdict) -> Verdict:
    """The verdict, or the doctor's disagreement with it."""
    try:
        findings = quietly(lambda: examine(given.path, given.images, given.events, **given.options))
    except HvfError as error:
        errors = [str(error)]
    except Exception as error:
        return Verdict("doctor: traceback", f"{type(error).__name__}: {error}")
    else:
        errors = [f"{item.check}: {item.message}" for item in findings if item.severity == "error"]
    if any("looking at it failed" in text for text in errors):
        return Verdict("doctor: traceback", errors[0])
    if verdict.outcome == "right" and errors:
        return Verdict("doctor: false alarm", errors[0])
    if verdict.outcome == "refused" and not errors:
        return Verdict("doctor: nothing wrong", f"refused: {verdict.words}")
    return verdict
