"""Kind 1: names meet names, and where there are none, order that cannot be misread; counts, repeats, contradictions."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import hvf
from hvf.data.recordings.single import read_recording
from tests.corruption.case import Input, Reading, case
from tests.corruption.makers import raw
from tests.corruption.makers.arrays import array_input
from tests.corruption.makers.bids import bids_input
from tests.corruption.makers.epochs import epochs_input, epochs_of, save
from tests.corruption.makers.raw import annotated, at, codes_table, events_of, raw_input, raw_with
from tests.corruption.numbered import codes_of, png, shown_in_order, write_pictures

Name = Callable[[int], str]
SHARED = r"(?i)share|both|same name|not clear|several|more than one|ambiguous|one name|two"
ABSENT = r"(?i)not in the (image )?set|lacks|no image|absent|missing|not among|not there|unknown"
ORDERED = shown_in_order()
REPEATED = shown_in_order(repeats=2, seed=5)


def in_form(form: str) -> Name:
    return lambda number: unicodedata.normalize(form, f"café{number:02d}.png")


# --- epochs -----------------------------------------------------------------------------------------------------------

for column in ("stim_file", "filename", "image_path", "event_name", "image", "Image", "stimulus"):
    case(1, "epochs", f"column {column}", epochs_input, column=column, table=lambda i: f"s/{png(i)}")
for door in ("read_trials", "read_recording"):
    case(1, "epochs", f"{door} with metadata", epochs_input, door=door)
    case(
        1,
        "epochs",
        f"{door} with repeats",
        epochs_input,
        door=door,
        shown=REPEATED,
    )
case(1, "epochs", "repeats interleaved", epochs_input, shown=REPEATED)
case(1, "epochs", "repeats in blocks", epochs_input, shown=sorted(REPEATED))
case(1, "epochs", "repeats uneven", epochs_input, shown=REPEATED[:-3])
case(
    1,
    "epochs",
    "more pictures than shown",
    epochs_input,
    numbers=range(1, 21),
    either=r"(?i)no trial|without|not shown|lack",
)
EVENT_ID = {png(i): i + 10 for i in range(1, 13)}


def by_event_id(folder: Path, **more: Any) -> Input:
    return epochs_input(folder, column=None, event_id=EVENT_ID, codes=[i + 10 for i in ORDERED], shown=ORDERED, **more)


def named_events(name: Name) -> Callable[[Path], Input]:
    event_id = {name(i): i + 10 for i in range(1, 13)}
    codes = [i + 10 for i in ORDERED]
    return lambda folder: epochs_input(folder, column=None, event_id=event_id, codes=codes, shown=ORDERED)


case(1, "epochs", "event_id names the images", by_event_id)
case(1, "epochs", "event_id names stems", named_events(lambda i: f"img{i:02d}"))
case(1, "epochs", "event_id names folders", named_events(lambda i: f"stim/{png(i)}"))
case(1, "epochs", "event_id in tags", named_events(lambda i: f"stim/train/img{i:02d}.png"))
case(1, "epochs", "event_id of other images", named_events(lambda i: f"photo{i}.png"), refused=ABSENT)
case(1, "epochs", "event_id of one condition", epochs_input, column=None, event_id={"image": 1}, shown=range(1, 13))
case(
    1,
    "epochs",
    "metadata and event_id agree",
    epochs_input,
    event_id=EVENT_ID,
    codes=[i + 10 for i in ORDERED],
    shown=ORDERED,
)
case(
    1,
    "epochs",
    "metadata and event_id contradict",
    epochs_input,
    event_id=EVENT_ID,
    codes=[i + 10 for i in ORDERED[::-1]],
    shown=ORDERED,
    refused=r"(?i)contradict|differ|disagree|but",
)
case(
    1,
    "epochs",
    "metadata without images, event_id with",
    by_event_id,
    metadata=pd.DataFrame({"block": [1] * 12}),
)


def two_columns(other: Name) -> pd.DataFrame:
    return pd.DataFrame({"image": [png(i) for i in ORDERED], "stim_file": [other(i) for i in ORDERED]})


CONTRADICTS = r"(?i)contradict|differ|disagree|stim_file"
case(
    1,
    "epochs",
    "two columns agree",
    epochs_input,
    metadata=two_columns(lambda i: f"s/{png(i)}"),
    shown=ORDERED,
)
case(
    1,
    "epochs",
    "two columns disagree",
    epochs_input,
    metadata=two_columns(lambda i: png(i % 12 + 1)),
    shown=ORDERED,
    refused=CONTRADICTS,
)
case(
    1,
    "epochs",
    "the second column names other things",
    epochs_input,
    metadata=two_columns(lambda i: f"sound{i}.wav"),
    shown=ORDERED,
)


def without_name(value: Any) -> pd.DataFrame:
    names: list[Any] = [png(i) for i in ORDERED]
    names[4] = value
    return pd.DataFrame({"image": names})


for what, value in (("empty", ""), ("NaN", np.nan), ("blank", "  "), ("n/a", "n/a")):
    case(
        1,
        "epochs",
        f"a name is {what}",
        epochs_input,
        metadata=without_name(value),
        shown=ORDERED,
        refused=r"(?i)epoch|no image|row|name",
    )
case(
    1,
    "epochs",
    "the metadata's index is shuffled",
    epochs_input,
    metadata=pd.DataFrame({"image": [png(i) for i in ORDERED]}, index=ORDERED),
    shown=ORDERED,
)
case(
    1,
    "epochs",
    "an epoch was dropped",
    epochs_input,
    shown=ORDERED,
    change=lambda e: e.drop([3]),
    lacking=ORDERED[3:4],
    either=r"(?i)no trial|no epoch|not shown|without",
)
case(1, "epochs", "epochs in another order", epochs_input, shown=ORDERED, change=lambda e: e[::-1])
case(
    1,
    "epochs",
    "a categorical column",
    epochs_input,
    metadata=pd.DataFrame({"image": pd.Categorical([png(i) for i in ORDERED])}),
    shown=ORDERED,
)
case(1, "epochs", "numbers that are stems", epochs_input, disk=lambda i: f"{i:02d}.png", table=lambda i: f"{i:02d}")
case(
    1,
    "epochs",
    "whole numbers for padded stems",
    epochs_input,
    disk=lambda i: f"{i:02d}.png",
    table=lambda i: i,
    either=r"(?i)image|name",
)
case(1, "epochs", "spaces around the names", epochs_input, table=lambda i: f" {png(i)} ", either=ABSENT)

COUNT = r"\b1[0-4]\b.*\b1[0-4]\b"  # both counts
UNNAMED = {"column": None}
case(1, "epochs", "unnamed, as many as pictures", epochs_input, shown=range(1, 13), **UNNAMED)
case(
    1,
    "epochs",
    "unnamed, one picture more",
    epochs_input,
    shown=range(1, 13),
    numbers=range(1, 14),
    **UNNAMED,
    refused=COUNT,
)
case(
    1,
    "epochs",
    "unnamed, one picture less",
    epochs_input,
    shown=range(1, 13),
    numbers=range(1, 12),
    **UNNAMED,
    refused=COUNT,
)


def epochs_with_table(folder: Path, names: list[str], shown: list[int], metadata: pd.DataFrame | None = None) -> Input:
    """Epochs whose images stand in a table beside, a row per epoch."""
    path = save(epochs_of(shown, metadata), folder / "sub-01-epo.fif")
    images = write_pictures(folder / "images", png)
    table = folder / "table.csv"
    pd.DataFrame({"image": names}).to_csv(table, index=False)

    def read() -> Reading:
        opened = hvf.open_images(images)
        return Reading.of_trials(read_recording(path, table, images=opened), opened)

    return Input(read, shown, path, images, events=table)


named = [png(i) for i in ORDERED]
case(1, "epochs", "a table beside", epochs_with_table, named, ORDERED)
case(1, "epochs", "a table one row short", epochs_with_table, named[:-1], ORDERED, refused=r"12.*11|11.*12")
case(1, "epochs", "a table one row long", epochs_with_table, [*named, named[0]], ORDERED, refused=r"12.*13|13.*12")
case(
    1,
    "epochs",
    "a table against the metadata",
    epochs_with_table,
    named[::-1],
    ORDERED,
    pd.DataFrame({"image": named}),
    refused=r"(?i)but|contradict|differ",
)

# --- arrays -----------------------------------------------------------------------------------------------------------

case(1, "array", "a row for each picture", array_input)
case(1, "array", "one row more", array_input, rows=range(1, 14), refused=COUNT)
case(1, "array", "one row less", array_input, rows=range(1, 12), refused=COUNT)
case(1, "array", "one picture more", array_input, rows=range(1, 13), numbers=range(1, 14), refused=COUNT)
case(1, "array", "one picture less", array_input, rows=range(1, 13), numbers=range(1, 12), refused=COUNT)
case(
    1,
    "array",
    "two rows for each picture",
    array_input,
    rows=[i for i in range(1, 13) for _ in "ab"],
    refused=r"24.*12|12.*24",
)
case(
    1, "array", "transposed", array_input, values=lambda x: np.repeat(x, 2, axis=1).T.copy(), refused=r"(?i)transposed"
)
case(
    1,
    "array",
    "images on the last axis",
    array_input,
    values=lambda x: np.repeat(x[:, :, None], 5, 2).transpose(1, 2, 0).copy(),
    refused=r"(?i)moveaxis|axis",
)
case(1, "array", "samples besides", array_input, values=lambda x: np.repeat(x[:, :, None], 5, 2) + 0)
case(1, "array", "NaN in a row", array_input, values=lambda x: np.where(x > 11.5, np.nan, x), refused="NaN")
case(1, "array", "names of two cases of the ending", array_input, name=lambda i: png(i) if i % 2 else f"img{i:02d}.PNG")
case(
    1,
    "array",
    "two endings, one stem",
    array_input,
    name=lambda i: f"img{(i + 1) // 2:02d}.{'jpg' if i % 2 else 'png'}",
    concepts={i: f"{i}" for i in range(1, 13)},
    either=SHARED,
)

# --- tables of events -------------------------------------------------------------------------------------------------

frame = events_of()
repeated = shown_in_order(repeats=2)
case(1, "raw", "rows in another order", raw_input, events=frame.sample(frac=1, random_state=0))
case(1, "bids", "rows in another order", bids_input, table=frame.sample(frac=1, random_state=0))
case(1, "raw", "repeats interleaved", raw_input, shown=repeated, events=events_of(repeated), disk=png)
case(1, "bids", "repeats interleaved", bids_input, shown=repeated, disk=png)
case(
    1,
    "raw",
    "an event less",
    raw_input,
    events=frame.drop(index=4),
    expected=[i for k, i in enumerate(raw.SHOWN) if k != 4],
)
for column in ("stim_file", "filename", "image_path", "event_name", "trial_type", "stimulus"):
    case(
        1,
        "raw",
        f"column {column}",
        raw_input,
        events=events_of(table=lambda i: f"stim/{png(i)}", column=column),
        disk=png,
    )
    case(
        1,
        "bids",
        f"column {column}",
        bids_input,
        table=events_of(table=lambda i: f"stim/{png(i)}", column=column),
        disk=png,
    )


def two_names(other: Name) -> pd.DataFrame:
    return events_of().assign(stim_file=[other(i) for i in raw.SHOWN])


case(1, "raw", "two columns agree", raw_input, events=two_names(lambda i: f"s/{png(i)}"), disk=png)
case(
    1,
    "raw",
    "two columns disagree",
    raw_input,
    events=two_names(lambda i: png(i % 12 + 1)),
    disk=png,
    refused=CONTRADICTS,
)
case(
    1,
    "bids",
    "two columns disagree",
    bids_input,
    table=two_names(lambda i: png(i % 12 + 1)),
    disk=png,
    refused=CONTRADICTS,
)


def annotated_with(name: Name) -> Any:
    return annotated(raw_with(), *[(at(place), 0.2, name(i)) for place, i in enumerate(raw.SHOWN)])


NO_TABLE = r"which images were shown when\?.*--events"
case(1, "raw", "no table", raw_input, events="none", refused=NO_TABLE)
case(1, "raw", "no table, images beside", raw_input, events="none", disk=png, refused=NO_TABLE)
case(1, "raw", "annotations that name the images", raw_input, raw=annotated_with(png), events="none", disk=png)
case(
    1, "raw", "annotations of names, no images", raw_input, raw=annotated_with(png), events="none",
    refused=NO_TABLE + ".*--images",
)  # fmt: skip
case(
    1, "raw", "annotations that name other images", raw_input, raw=annotated_with(lambda i: f"photo{i}.png"),
    events="none", disk=png, refused=NO_TABLE,
)  # fmt: skip


def with_codes() -> Any:
    return raw_with(others=[("STI 014", "stim", codes_of(raw.SHOWN))])


case(1, "raw", "codes of a trigger channel", raw_input, raw=with_codes(), events=codes_table(), disk=png)


def twice_coded() -> pd.DataFrame:
    return pd.concat([codes_table(), pd.DataFrame({"code": [3], "image": ["img09.png"]})], ignore_index=True)


case(
    1,
    "raw",
    "a code for two images",
    raw_input,
    raw=with_codes(),
    events=twice_coded(),
    refused=r"(?i)more than one|twice|two",
)
