"""Events that show an image: from event tables, stimulus codes and annotations to one table.

The tables are those of BIDS (`*_events.tsv`) or of a lab's own; N is the number of events that show an image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from hvf.config import HvfError
from hvf.data.images.columns import ABSENT, EVENT_COLUMNS, IMAGE_COLUMNS, image_column, is_picture_file
from hvf.data.images.concepts import unified
from hvf.data.images.image_set import ImageSet
from hvf.data.images.matching import ImageNames, normalized, stem
from hvf.data.recordings.raw import nearest
from hvf.data.recordings.triggers import annotated, trigger_codes
from hvf.registry import listed

CONCEPT_COLUMNS = ("concept", "object", "category")
SPLIT_COLUMNS = ("split", "partition", "trial_type", "isteststim")
SPLIT_WORDS = {"train": "train", "training": "train", "exp": "train", "test": "test", "testing": "test"}
SPLIT_FLAGS = {"0": "train", "1": "test"}  # of isteststim


def find_image_column(
    table: pd.DataFrame, where: str | Path, asked: str | None = None, known: ImageNames | None = None
) -> str:
    """The column that names the images: `asked`, or that of names that are `known`, or the likeliest.

    Raises HvfError listing the columns if none does, and if two name different images.
    """
    columns = {name.lower(): name for name in table.columns}
    if asked is not None:
        if asked.lower() not in columns:
            raise HvfError(
                f"{where} has no column {asked!r}; its columns are {', '.join(table.columns)}"
                f"{nearest(asked, table.columns)}"
            )
        return columns[asked.lower()]
    found = image_column(table, known, str(where))
    named = found[0] if found is not None else next((columns[name] for name in IMAGE_COLUMNS if name in columns), None)
    if named is None:
        raise HvfError(
            f"{where} has no column that names the images ({', '.join(IMAGE_COLUMNS[:3])}, ...); its columns are "
            f"{', '.join(table.columns)}: name the one with --image-column"
        )
    return named


def image_events(
    tables: Sequence[tuple[str | Path, pd.DataFrame]],
    asked: str | None = None,
    stimuli: pd.DataFrame | None = None,
    images: ImageSet | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Join the event tables of one subject's recordings and keep the rows that show an image; notes on the others.

    `tables` pairs each file's name with its table; `asked` is the column that names the images (default: the
    likeliest); `stimuli` gives for each `code` of that column the `image` (and "concept", "split"). Columns of the
    result: "recording" (int, place in `tables`), "row" (int, from 1), "image", and where known "concept", "split"
    ("train", "test"), "onset", "sample" (text). Raises HvfError if a table names no images.
    """
    joined, notes, columns = [], [], {}
    known = ImageNames(images.ids) if images is not None and stimuli is None else None
    for i, (where, table) in enumerate(tables):
        column = find_image_column(table, where, asked, known)
        shown, columns[column] = table[column], None
        if known is not None and column.lower() in EVENT_COLUMNS:  # other events have names too
            here = [i >= 0 or is_picture_file(name) for name, i in zip(shown, known.find(shown), strict=True)]
            shown = shown.where(here, "n/a") if any(here) else shown
        joined.append(table.assign(_image=shown, _recording=i, _row=np.arange(1, len(table) + 1)))
    where = Path(tables[0][0]).name if len(tables) == 1 else f"{len(tables)} tables"
    notes.append(f"paired by the column {listed(map(repr, columns))} of {where}")
    events: Any = pd.concat(joined, ignore_index=True).fillna("n/a")
    names = events["_image"].str.strip()
    events["_image"] = names.str.replace(r"\.0+$", "", regex=True) if names.map(_is_number_or_absent).all() else names
    named = _named(events["_image"]).to_numpy()
    if not named.any():
        raise HvfError(f"no event of {listed(str(where) for where, _ in tables)} names an image")
    if not named.all():
        notes.append(f"{int((~named).sum())} of {len(events)} events name no image and are left out")
    events = events[named].reset_index(drop=True)
    if stimuli is not None:
        events, more = _looked_up(events, stimuli)
        notes += more
    kept: Any = pd.DataFrame({"recording": events["_recording"], "row": events["_row"], "image": events["_image"]})
    for name in ("onset", "sample"):
        if name in events:
            kept[name] = events[name]
    concepts, splits = _concepts(events), _splits(events)
    if concepts is not None:
        kept["concept"], spellings = unified(concepts.tolist())
        notes += [f"{' and '.join(map(repr, several))} are one concept" for several in spellings.values()]
    if splits is not None:
        kept["split"] = splits
        other = splits.isna().to_numpy()
        if other.any():
            notes.append(f"{int(other.sum())} events are neither of training nor of test and are left out")
            kept = kept[~other].reset_index(drop=True)
    return kept, notes


def coded_events(
    raw: Any, stimuli: pd.DataFrame, where: str | Path, channel: str | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Image events from a recording's own triggers or annotations, as for `image_events` with "sample"; and notes.

    `stimuli` has "image" and a column "code" (values of the trigger channel; without one, the numbers that end the
    annotations, such as BrainVision's "Stimulus/S  4") or "description" (text of the annotations); `channel` is the
    trigger channel, where there are several. Raises HvfError if the recording `where` holds no such event.
    """
    if not {"code", "description"} & set(stimuli.columns):
        columns = ", ".join(stimuli.columns)
        raise HvfError(
            f"the table of events has no column onset, sample, code or description; its columns are {columns}"
        )
    key, notes = "description" if "description" in stimuli else "code", []
    wanted = _codes(stimuli["code"]) if key == "code" else stimuli[key].str.strip()
    if wanted.duplicated().any():
        raise HvfError(f"the {key} {wanted[wanted.duplicated()].iloc[0]!r} stands for more than one image")
    if key == "description":
        samples, codes = annotated(raw)
        codes = np.char.strip(codes)  # as the table's, which some programs pad
    else:
        samples, codes, notes = trigger_codes(raw, set(wanted), where, channel)
    shown = np.isin(codes, wanted.to_numpy(dtype=str))
    if not shown.any():
        held = listed(dict.fromkeys(codes.tolist())) or "none"
        raise HvfError(f"{where} holds none of the {len(wanted)} {key}s of the table; it holds {held}")
    if not shown.all():
        others = listed(dict.fromkeys(codes[~shown].tolist()))
        notes.append(f"{int((~shown).sum())} events of {where} show no image ({others}) and are left out")
    never = [code for code in wanted if code not in set(codes.tolist())]
    if key == "code" and "0" in never:
        raise HvfError(
            f"the code 0 stands for an image, but is what the trigger channel of {where} rests at: when that was shown "
            "cannot be told; give the onsets in a table, or leave out its row"
        )
    if never:
        notes.append(f"{key}s of the table that never occur: {listed(never)}")
    row = {code: i for i, code in enumerate(wanted)}
    table = stimuli.iloc[[row[code] for code in codes[shown].tolist()]].drop(columns=[key, "onset"], errors="ignore")
    return table.assign(sample=samples[shown].astype(str)).reset_index(drop=True), notes


def annotated_images(raw: Any, names: ImageNames, where: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """Image events, as for `image_events` with "sample", of the annotations that name one of the images; and notes.

    Raises HvfError if the recording `where` has none.
    """
    samples, texts = annotated(raw)
    shown = np.array(names.find(texts.tolist()), int) >= 0
    if not shown.any():
        held = listed(dict.fromkeys(texts.tolist())) or "none"
        raise HvfError(
            f"which images were shown when? no annotation of {where} names an image (there is {held}): give a table of "
            "events (--events) with the image and its onset, sample or code"
        )
    notes = [f"{int((~shown).sum())} annotations name no image and are left out"] if not shown.all() else []
    return pd.DataFrame({"image": texts[shown], "sample": samples[shown].astype(str)}), notes


def stimulus_channels(raw: Any) -> list[str]:
    """Names of the channels that hold triggers."""
    return [name for name, kind in zip(raw.ch_names, raw.get_channel_types(), strict=True) if kind == "stim"]


def triggers_of(raw: Any, names: Sequence[str] | None = None) -> np.ndarray:
    """(sample, 0, code) of every change to a value other than 0 in the stimulus channels, or in those named: (E, 3)."""
    triggers_E3 = np.zeros((0, 3), int)
    for name in stimulus_channels(raw) if names is None else names:
        x_n = raw[raw.ch_names.index(name), :][0][0]
        onset = np.flatnonzero((x_n != 0) & (np.append(0, x_n[:-1]) != x_n))
        triggers_E3 = np.concatenate([triggers_E3, np.stack([onset, 0 * onset, x_n[onset].astype(int)], 1)])
    return triggers_E3


def drop_seen_concepts(events: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Leave out training events of concepts that are tested, so that test concepts are unseen."""
    if "split" not in events or "concept" not in events:
        return events, []
    tested = set(events.loc[events["split"] == "test", "concept"])
    of_test_N = ((events["split"] == "train") & events["concept"].isin(tested)).to_numpy()
    if not of_test_N.any() or of_test_N.sum() == (events["split"] == "train").sum():
        return events, []
    note = f"{int(of_test_N.sum())} training events show concepts of the test and are left out"
    kept: Any = events[~of_test_N]
    return kept.reset_index(drop=True), [note]


def image_ids(names: Sequence[str]) -> list[str]:
    """Stems of the image files; where two share one, with the folders that distinguish them.

    Names that `ImageNames` takes for one (`cat.JPG` and `cat.jpg`, NFC and NFD, backslashes) are one image.
    """
    names = [normalized(name) for name in names]
    unique = list(dict.fromkeys(names))
    stems = {name: stem(name) for name in unique}
    if len(set(stems.values())) == len(unique):
        return [stems[name] for name in names]
    paths = {name: PurePosixPath(name) for name in unique}
    shared = 0
    folders = [path.parent.parts for path in paths.values()]
    while all(len(parts) > shared and parts[shared] == folders[0][shared] for parts in folders):
        shared += 1
    ids = {}
    for name, path in paths.items():
        ids[name] = "/".join((*path.parent.parts[shared:], stems[name]))
    if len(set(ids.values())) < len(unique):  # a.png beside a.jpg
        ids = {name: str(path) for name, path in paths.items()}
    return [ids[name] for name in names]


def _looked_up(events: Any, stimuli: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Events whose image is given by a code, with the columns of `stimuli` for it."""
    for name in ("code", "image"):
        if name not in stimuli:
            raise HvfError(f"the table of stimuli has no column {name!r}; its columns are {', '.join(stimuli.columns)}")
    codes = _codes(stimuli["code"])
    if codes.duplicated().any():
        raise HvfError(f"the code {codes[codes.duplicated()].iloc[0]!r} stands for more than one image")
    row = {code: i for i, code in enumerate(codes)}
    of_events = _codes(events["_image"])
    known = of_events.isin(row.keys()).to_numpy()
    if not known.any():
        held = listed(dict.fromkeys(events["_image"]))
        raise HvfError(f"the table of stimuli holds none of the codes of the events; they are {held}")
    notes = []
    if not known.all():
        others = listed(dict.fromkeys(events["_image"][~known]))
        notes.append(f"{int((~known).sum())} events have codes without an image ({others}) and are left out")
    events = events[known].reset_index(drop=True)
    looked_up = stimuli.iloc[[row[code] for code in of_events[known]]].reset_index(drop=True)
    for name in looked_up.columns.difference(["onset", "sample"]):  # when it was shown, the events know
        events["_image" if name == "image" else name] = looked_up[name]
    return events, notes


def _concepts(events: pd.DataFrame) -> pd.Series | None:
    """The concept of each event's image: a column of that name, or the folder that the image lies in."""
    for name in events.columns:
        if name.lower() in CONCEPT_COLUMNS and _named(events[name]).all():
            return events[name].str.strip()
    folders = events["_image"].map(lambda name: PurePosixPath(name.replace("\\", "/")).parent.name)
    concepts = folders.str.replace(r"^\d+_", "", regex=True)  # THINGS: 00001_aardvark
    words = set(concepts.str.lower())
    return concepts if len(words) > 1 and "" not in words and not words & SPLIT_WORDS.keys() else None


def _splits(events: pd.DataFrame) -> pd.Series | None:
    """ "train" or "test" (else NaN) from the first column that has both."""
    columns = {name.lower(): name for name in events.columns}
    for name in SPLIT_COLUMNS:
        if name in columns:
            words = events[columns[name]].str.strip().str.lower().str.replace(r"\.0+$", "", regex=True)
            splits = words.map(SPLIT_FLAGS if name == "isteststim" else SPLIT_WORDS)
            if {"train", "test"} <= set(splits.dropna()):
                return splits
    return None


def _codes(column: Any) -> Any:
    """Codes as they are compared: a whole number has neither decimals nor zeros before it."""
    return column.str.strip().str.replace(r"^(-?)0*(\d+)(\.0+)?$", r"\1\2", regex=True)


def _named(column: pd.Series) -> pd.Series:
    return ~column.str.strip().str.lower().isin(ABSENT)


def _is_number_or_absent(name: str) -> bool:
    return name.lower() in ABSENT or re.fullmatch(r"\d+(\.0+)?", name) is not None
