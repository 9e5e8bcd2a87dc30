"""Named, versioned suites of `eval/benchmark.py`: data, recipe, split, subjects, seeds and methods under one name.

A suite is a command line with a name. Whoever runs it gives where the data are, and may run a part of its methods,
subjects and seeds; whatever else a suite decides is refused, so that two tables of one suite compare. A suite that
changes gets another version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hvf.data.trials.trials import Trials
from hvf.registry import HvfError, did_you_mean, listed
from hvf.study import subjects

FREE = ("suite", "trials", "images", "out")  # options that say where things are
NARROWED = ("methods", "subjects", "seeds")  # options of which a part may be asked for
EVERY = ("hvf", "neurobridge", "ubp", "shallow", "atm", "nice", "ridge", "encoding")


@dataclass(frozen=True)
class Suite:
    """What a suite decides."""

    about: str
    subjects: tuple[int, ...]
    methods: tuple[str, ...] = EVERY
    seeds: tuple[int, ...] = (0, 1, 2)
    options: Mapping[str, str] = field(default_factory=dict[str, str])  # further options of the command, by name
    recipe: str | None = None  # that prepared trials must have been made by; None: the study is simulated
    images: Mapping[str, int] = field(default_factory=dict[str, int])  # {"train", "test": how many images}

    def words(self) -> list[str]:
        """The options of the command that the suite stands for."""
        every = {name: " ".join(map(str, getattr(self, name))) for name in NARROWED} | dict(self.options)
        return [word for name, value in every.items() for word in (f"--{name}", *value.split())]


_PUBLISHED = {"encoders": "published"}
SUITES: dict[str, Suite] = {
    "things-eeg2-intra-v1": Suite(
        "THINGS-EEG2, each subject by itself; 16,540 training and 200 test images, 17 posterior channels at 250 Hz.",
        tuple(range(1, 11)),
        options={"preset": "things-eeg", **_PUBLISHED},
        recipe="hvf",
        images={"train": 16540, "test": 200},
    ),
    "things-eeg2-loso-v1": Suite(
        "THINGS-EEG2, each subject from the nine others.",
        tuple(range(1, 11)),
        options={"preset": "things-eeg", "protocol": "loso", **_PUBLISHED},
        recipe="hvf",
        images={"train": 16540, "test": 200},
    ),
    "things-meg-intra-v1": Suite(
        "THINGS-MEG, each subject by itself; 19,848 training and 200 test images, 271 channels at 200 Hz.",
        (1, 2, 3, 4),
        options={"preset": "things-meg", **_PUBLISHED},
        recipe="hvf",
        images={"train": 19848, "test": 200},
    ),
    "simulated-eeg-v1": Suite(
        "The embedded study, with mini encoders in the papers' place: clear responses, made for the demonstration.",
        (8,),
        options={"study": "simulated-eeg", "encoders": "mini"},
    ),
    "simulated-eeg-hard-v1": Suite(
        "The same people through more noise, of which subject 7 is the average one; 20 epochs of every method.",
        (7,),
        options={"study": "simulated-eeg-hard", "encoders": "mini", "epochs": "20"},
    ),
}


def get(name: str) -> Suite:
    """The suite of that name; HvfError naming the nearest if there is none."""
    if name not in SUITES:
        raise HvfError(f"there is no suite {name!r}{did_you_mean(name, SUITES)}")
    return SUITES[name]


def expanded(words: Sequence[str]) -> list[str]:
    """A command line with the options of the suite that it names, before its own; without ``--suite``, as it is.

    Raises HvfError for an option that the suite decides.
    """
    name = _value(words, "--suite")
    if name is None:
        return list(words)
    suite = get(name)
    given = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--") and word != "--help"]
    decided = [option for option in given if option.removeprefix("--") not in (*FREE, *NARROWED)]
    if decided:
        free = ", ".join(f"--{option}" for option in (*FREE[1:], *NARROWED))
        which = listed(list(dict.fromkeys(decided)))
        raise HvfError(f"the suite {name} decides {which}: leave it out, or --suite; beside a suite go {free}")
    return [*suite.words(), *words]


def _value(words: Sequence[str], option: str) -> str | None:
    """The word after the last `option`; None without one."""
    value = None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, text = word.partition("=")
        if name == option:
            value = text if equals else following
    return value


def check(name: str, asked: Mapping[str, Sequence[Any]], trials: Path | None) -> str:
    """What part of a suite is run, in words, "" for the whole.

    Parameters
    ----------
    name : str
    asked : dict
        {"methods", "subjects", "seeds": those that are asked for}.
    trials : path, optional
        The folder of prepared subjects.

    Raises
    ------
    HvfError
        More is asked for than the suite holds, the trials are missing, or they were made by another recipe, of other
        images, or without a split.
    """
    suite = get(name)
    parts = []
    for option, values in asked.items():
        known = getattr(suite, option)
        beyond = [value for value in values if value not in known]
        if beyond:
            raise HvfError(
                f"the suite {name} has the {option} {', '.join(map(str, known))}, not {listed(map(str, beyond))}"
            )
        if set(values) < set(known):
            parts.append(f"{option} {', '.join(map(str, values))}")
    if suite.recipe is None:
        if trials is not None:
            raise HvfError(f"the suite {name} is of a simulated study: leave out --trials and --images")
        return "; ".join(parts)
    if trials is None or not trials.is_dir():
        raise HvfError(f"the suite {name} needs --trials DIR, a folder of subjects that `hvf data prepare` made")
    there = subjects(trials)
    missing = [subject for subject in asked["subjects"] if subject not in there]
    if missing:
        raise HvfError(
            f"{trials} holds no prepared trials of subjects {listed(map(str, missing))}, which the suite {name} tests"
        )
    for subject, path in there.items():
        if subject in asked["subjects"] or suite.options.get("protocol") == "loso":
            _check_store(name, suite, path)
    return "; ".join(parts)


def _check_store(name: str, suite: Suite, path: Path) -> None:
    """Refuse trials of another recipe, or of other numbers of images."""
    trials = Trials.load(path)
    made_by = (trials.history or {}).get("recipe")
    if made_by != suite.recipe:
        raise HvfError(
            f"the suite {name} is defined on the recipe {suite.recipe!r}, and {path} was made by {made_by!r}: prepare "
            f"it by hvf data prepare ... --recipe {suite.recipe}"
        )
    splits = trials.splits
    shown = {} if splits is None else {p: len(set(trials.image_ids[splits == p].tolist())) for p in ("train", "test")}
    if shown != dict(suite.images):
        raise HvfError(f"the suite {name} is of {dict(suite.images)} images, and {path} has {shown or 'no split'}")
