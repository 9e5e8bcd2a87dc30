"""What the JSON files of a run folder hold, as types by which they are read (`hvf.schema.reading`).

More than a type names may stand in a file, from other versions of hvf, and is kept.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le, Len, Predicate
from typing_extensions import NotRequired, TypedDict  # Python's own is no help to pydantic before 3.12

MORE: dict[str, Any] = {"extra": "allow"}
RESULT = "result.json"
MADE_FROM = "made_from"  # what a result, or figures beside it, were made from: {what: digest}
EVIDENCE, EVIDENCE_PICTURES = "repeats.json", "repeats"  # of `hvf evaluate --repeats`: figures, and a folder


def is_no_infinity(x: float) -> bool:
    """A number that a page can print, or NaN: what is undefined."""
    return math.isnan(x) or abs(x) < 1e300


Number = Annotated[float, Predicate(is_no_infinity)]
Count = Annotated[int, Ge(0), Le(2**53)]
Share = Annotated[float, Ge(0), Le(1)]
Interval = Annotated[list[Number], Len(2, 2)]


class Figure(TypedDict):
    """A figure with its interval over n images."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    value: Number
    ci95: NotRequired[Interval | None]
    n: NotRequired[Count | None]


class Bounded(TypedDict):
    """A figure that has an interval."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    value: Number
    ci95: Interval


if TYPE_CHECKING:  # what computes figures gives plain tables
    Entry = dict[str, Any]
else:  # what reads them from a file holds them to this
    Entry = Figure
Figures = dict[str, Figure]  # metrics.json: SECTION/ROW/FIGURE, or chance/SECTION/FIGURE


class PerImage(TypedDict, total=False):
    """per_image.json: scores of every picture, null where undefined."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    ids: list[str] | None
    concepts: list[str] | None
    scores: dict[str, list[Number | None]]
    rounds: dict[str, list[list[Number | None]]]


class Source(TypedDict, total=False):
    """The weights of a network that measures."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    network: str
    file: str
    sha256: str


class EvaluationInfo(TypedDict, total=False):
    """evaluation.json: how pictures were measured, and what was not."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    pairs: Count
    rounds: Count | dict[str, Count]
    first_resize: Count | None
    matched_by: str
    images: str | None
    recons: str | None
    weights: dict[str, Source]
    of_seen: dict[str, Figure]
    versions: dict[str, str]
    not_computed: dict[str, str]


class ResultStudy(TypedDict):
    """Of result.json, the study."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    simulated: bool


class ResultHead(TypedDict):
    """What of result.json is needed to name its figures (all of it: `hvf.experiments.results`)."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    study: ResultStudy


class Epoch(TypedDict, total=False):
    """An entry of history.json."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    loss: Number | None
    validation_loss: Number | None
    validation_top1: Number | None
    best: bool | None


class Window(TypedDict):
    """A time window, in s, and what was found in it."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    tmin: Number
    tmax: Number
    value: Number
    ci95: NotRequired[Interval | None]
    top5: NotRequired[list[list[Count]]]


class TimeCourse(TypedDict):
    """An entry of windows.json."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    title: str
    how: NotRequired[str]
    chance: NotRequired[Number | None]
    windows: list[Window]


class SensorMap(TypedDict):
    """An entry of sensors.json."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    title: str
    how: NotRequired[str]
    ch_names: list[str]
    values: list[Number]
    positions: NotRequired[list[tuple[Number, Number]] | None]
    marked: NotRequired[list[bool] | None]
    limits: NotRequired[Interval | None]


class Repeats(TypedDict):
    """Figures from means over so many trials."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    trials: Annotated[int, Ge(1), Le(2**53)]
    figures: dict[str, Bounded]


class Evidence(TypedDict):
    """repeats.json: figures against the number of trials averaged."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    repeats: Annotated[list[Repeats], Len(1)]
    chance: dict[str, Figure]
    draws: Count
    made_from: NotRequired[dict[str, str]]  # digests of trials, images and decoder; of earlier versions there are none


class Reliable(TypedDict):
    """A bin of the reliability diagram."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    probability: Share
    right: Share
    ci95: Interval
    n: Count


class Sureness(TypedDict):
    """The figures of an interval that answers give."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    coverage: Bounded
    set_size: Bounded
    ece: Bounded


class ConfidenceRow(TypedDict):
    """How sure the answers of a row are."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    figures: Sureness
    reliability: list[Reliable]
    says_nothing: Number


class TrialCounts(TypedDict):
    """The fewest and the most trials of an image."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    brain: tuple[Count, Count]


class ConfidenceInfo(TypedDict):
    """What a result's details say under "confidence"."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    level: Number
    gallery: Count
    trials: TrialCounts
    rows: dict[str, ConfidenceRow]
