"""MNE epochs: the values of their channels, and the image that each of them is a response to.

Letters: N epochs, C channels, T samples.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import mne
import numpy as np
import pandas as pd

from hvf.config import HvfError
from hvf.data.images.columns import image_column, is_image_column, is_picture_file, texts_of
from hvf.data.images.concepts import concept_key
from hvf.data.images.image_set import ImageSet
from hvf.data.images.matching import ImageNames, normalized, stem
from hvf.data.images.order import by_number, check_order
from hvf.data.recordings.channels import BRAIN_TYPES, brain_channels
from hvf.data.recordings.events import SPLIT_WORDS
from hvf.data.trials.conversion import made_of, own_labels, own_values
from hvf.files.guard import guarded
from hvf.registry import listed

ADVICE = 'name the image of each epoch in epochs.metadata["image"]'
CONCEPT_COLUMNS = ("concept", "object", "category")
NO_FAULT = frozenset({"IGNORED", "USER"})  # why an epoch may be gone without having been bad
NUMBERED = re.compile(r"(?i)^(?!.*(order|onset|time|dur|pos|trial|run|block|sess)).*(image|img|picture|photo|stim)")

SESSION = re.compile(r"(?i)(?:(?:ses|sess|session|day)[-_ .]*)?0*(\d+)")


class Shown(NamedTuple):
    """The image of each epoch (N), by what it is known in words, and further labels of the trials."""

    names: list[str]
    how: str
    labels: dict[str, Any]


def open_epochs(path: Path) -> mne.BaseEpochs:
    """Open an MNE epochs file. Raises HvfError if it cannot be read."""
    try:
        return guarded(path, "epochs", lambda: mne.read_epochs(path, preload=True, verbose="error"))
    except HvfError:  # of who looked at the file first
        raise
    except Exception as error:  # MNE's reader raises many kinds, struct.error among them, on a damaged file
        raise HvfError(f"cannot read {path} as MNE epochs: {error}") from error


def epochs_values(epochs: mne.BaseEpochs) -> tuple[dict[str, Any], list[str]]:
    """The good channels of the brain: x_NCT, ch_names, kind, sfreq, tmin; and notes on those left out.

    Epochs made of trials have the channels of these, whatever their names say. Raises HvfError if there is none.
    """
    made = made_of(epochs.info)
    names, notes = brain_channels(epochs.info)
    if made:
        types = ("misc",) if made["kind"] == "features" else BRAIN_TYPES
        names = [n for n, t in zip(epochs.ch_names, epochs.get_channel_types(), strict=True) if t in types]
        notes = []
    picks = [epochs.ch_names.index(name) for name in names if name not in epochs.info["bads"]]
    if not picks:
        raise HvfError(f"no good EEG or MEG channel; the types are {listed(set(epochs.get_channel_types()))}")
    values = {
        "x_NCT": epochs.get_data(picks=np.array(picks), verbose="error"),
        "ch_names": tuple(epochs.ch_names[i] for i in picks),
        "kind": "eeg" if {mne.channel_type(epochs.info, i) for i in picks} == {"eeg"} else "meg",
        "sfreq": float(epochs.info["sfreq"]),
        "tmin": float(epochs.tmin),
    }
    return values | (own_values(epochs, made) if made else {}), notes


def presentation_order(epochs: mne.BaseEpochs) -> np.ndarray | None:
    """The place of each epoch among all events, those of epochs left out too, (N,); None if their times do not rise.

    Epochs made of trials have lost their times: what these knew stands in the metadata.
    """
    sample_N = epochs.events[:, 0]
    if made_of(epochs.info) or (np.diff(sample_N) <= 0).any():
        return None
    place_N = np.asarray(epochs.selection)
    known = len(place_N) == len(sample_N) and (np.diff(place_N) > 0).all()  # epochs that were joined count anew
    return place_N if known else np.arange(len(sample_N))


def shown_images(epochs: mne.BaseEpochs, images: ImageSet | Sequence[str] | None) -> Shown:
    """The image of each epoch: the names given, or from the metadata, or the names of the events, or else the order.

    Parameters
    ----------
    epochs : mne.BaseEpochs
    images : ImageSet or sequence of str, optional
        The images that may have been shown, or one name per epoch.

    Raises
    ------
    HvfError
        If nothing says which images were shown, or what says so contradicts itself or the images.
    """
    table = _metadata(epochs)
    own = made_of(epochs.info) is not None and "image" in table
    labels = own_labels if own else _labels
    if own and images is None:
        return Shown(table["image"].tolist(), 'metadata["image"]', labels(table))
    if images is not None and not isinstance(images, ImageSet):
        return Shown(_given(epochs, table, texts_of(images)), "the names given", labels(table))
    names = None if images is None else ImageNames(images.ids)
    column = image_column(table, names, "the epochs' metadata")
    of_events = _event_images(epochs, names, strict=column is None)
    if column is not None:
        title, texts = column
        if "" in texts:
            i = texts.index("")
            raise HvfError(
                f'epochs.metadata["{title}"] names no image for epoch {i}: {table[title].tolist()[i]!r}; drop the '
                "epochs that show no image (epochs[epochs.metadata[...].notna()])"
            )
        if names is None:
            _compare([stem(text) for text in texts], of_events and [stem(text) for text in of_events], title)
        else:
            ids = [names.names[i] for i in names.indices(texts, f'epochs.metadata["{title}"]')]
            _compare(ids, of_events, title)
        shown = Shown(texts, f'metadata["{title}"]', labels(table))
    elif of_events is not None:
        shown = Shown(of_events, "the names of their events", labels(table))
    elif names is None or not isinstance(images, ImageSet):
        raise HvfError(
            'which images were shown? give their ids, an image set, or a column epochs.metadata["image"] with the '
            "names of their files"
        )
    else:
        return Shown(_in_order(epochs, table, images), "order, for nothing in the file names them", labels(table))
    if isinstance(images, ImageSet) and names is not None:
        concepts = [images.concepts[i] for i in names.find(shown.names)]
        _compare_concepts(epochs, table.loc[:, [c for c in table.columns if c in CONCEPT_COLUMNS]], concepts, "names")
    return shown


def _metadata(epochs: mne.BaseEpochs) -> pd.DataFrame:
    table = cast("pd.DataFrame | None", getattr(epochs, "metadata", None))
    return pd.DataFrame(index=range(len(epochs))) if table is None else table.reset_index(drop=True).rename(columns=str)


def _labels(table: pd.DataFrame) -> dict[str, Any]:
    """Concepts, splits and sessions (N) from the metadata's columns of these names, however they are capitalised.

    Raises HvfError for a column that says nothing of some of the epochs, and for a split that is neither part.
    """
    columns = {str(name).strip().lower(): name for name in reversed(table.columns)}
    labels: dict[str, Any] = {}
    for name in ("concept", "split", "session"):
        texts = texts_of(table[columns[name]]) if name in columns else []
        if any(texts):
            for i, text in enumerate(texts):
                if not text:
                    value = table[columns[name]].tolist()[i]
                    raise HvfError(
                        f'epochs.metadata["{columns[name]}"] says nothing of epoch {i}: {value!r}; fill it in, or '
                        "leave out the column or the epoch"
                    )
            labels[f"{name}s"] = texts
    if "splits" in labels:
        labels["splits"] = [_part(text, i, columns["split"]) for i, text in enumerate(labels["splits"])]
    if "sessions" in labels:
        labels["sessions"] = _session_numbers(labels["sessions"])
    return labels


def _part(text: str, epoch: int, column: Any) -> str:
    """ "train" or "test" of a word for it."""
    if text.lower() not in SPLIT_WORDS:
        raise HvfError(
            f'epochs.metadata["{column}"] says {text!r} of epoch {epoch}: it takes {listed(SPLIT_WORDS)} (validation '
            "is part of training, and split off inside); rename the column if it means something else"
        )
    return SPLIT_WORDS[text.lower()]


def _session_numbers(texts: list[str]) -> list[int]:
    """The number that each session is named by, 2 of "ses-02"; where names hold none, its place in their order."""
    found = {text: SESSION.fullmatch(text) for text in texts}
    numbers = {text: int(match[1]) for text, match in found.items() if match}
    if len(set(numbers.values())) < len(found):
        numbers = {text: i for i, text in enumerate(sorted(found, key=by_number), start=1)}
    return [numbers[text] for text in texts]


def _given(epochs: mne.BaseEpochs, table: pd.DataFrame, names: list[str]) -> list[str]:
    """The names that were given, one per epoch, unless metadata or event names say otherwise."""
    if len(names) != len(epochs):
        raise HvfError(f"there are {len(epochs)} epochs but {len(names)} images; give one per epoch, in their order")
    if "" in names:
        raise HvfError(f"no image is named for epoch {names.index('')}: drop the epochs that show no image")
    column = image_column(table, None, "the epochs' metadata")
    if column is not None and (_has_files(column[1]) or column[0] == "image"):
        for i, (name, other) in enumerate(zip(names, column[1], strict=True)):
            if other and stem(name) != stem(other):
                raise HvfError(
                    f'epoch {i} was given the image {name!r}, but epochs.metadata["{column[0]}"] says {other!r}'
                )
    of_events = _event_images(epochs, None, strict=False) or names
    for i, (name, other) in enumerate(zip(names, of_events, strict=True)):
        if stem(name) != stem(other):
            raise HvfError(f"epoch {i} was given the image {name!r}, but its event is called {other!r}")
    return names


def _has_files(texts: Sequence[str]) -> bool:
    return any(map(is_picture_file, texts))


def _compare(named: Sequence[str], of_events: Sequence[str] | None, column: str) -> None:
    for i, (one, other) in enumerate(zip(named, of_events or named, strict=True)):
        if one != other:
            raise HvfError(
                f'epoch {i} shows {one!r} by epochs.metadata["{column}"] but {other!r} by the name of its event; '
                "correct the one that is wrong, or rename the events (epochs.event_id)"
            )


def _event_names(epochs: mne.BaseEpochs) -> dict[int, list[str]]:
    """{code: names} of the events that occur."""
    used = set(epochs.events[:, 2].tolist())
    names: dict[int, list[str]] = {}
    for name, code in epochs.event_id.items():
        if int(code) in used:
            names.setdefault(int(code), []).append(str(name))
    return names


def _event_images(epochs: mne.BaseEpochs, names: ImageNames | None, *, strict: bool) -> list[str] | None:
    """The image that each epoch's event is named after (MNE's tags, "img01.png/left", included); None if none is.

    `strict`: nothing else says what was shown. Then raises HvfError if only some events are named after an image, or
    if they are numbers, which may be mere codes, that do not name every image. Else such events tell nothing.
    """
    try:
        return _named_events(epochs, names)
    except HvfError:
        if strict:
            raise
        return None


def _named_events(epochs: mne.BaseEpochs, names: ImageNames | None) -> list[str] | None:
    n, events = len(epochs), _event_names(epochs)
    images: dict[int, str] = {}
    for code, texts in events.items():
        of_code = {image for text in texts for image in [_image_of_event(text, names)] if image is not None}
        if len(of_code) > 1:
            raise HvfError(f"the event {texts[0]!r} is named after several images, {listed(sorted(of_code))}: {ADVICE}")
        if of_code:
            images[code] = of_code.pop()
    if not images:
        return None
    others = [texts[0] for code, texts in events.items() if code not in images]
    numbers = all(text.isdecimal() for code in images for text in events[code])
    many = names is not None and len(names.names) > 1
    fits = names is not None and len(names.names) == n
    if many and len(events) == 1 and (numbers or fits):
        if numbers:
            return None
        raise HvfError(
            f"all {n} epochs are events {next(iter(events.values()))[0]!r}, the name of one image, and there are as "
            f"many images: {ADVICE}"
        )
    if numbers and names is not None and len(set(images.values())) < len(names.names):
        raise HvfError(
            f"the events are numbers ({listed(events[code][0] for code in images)}), which are the names of some of "
            f"the images, too: {ADVICE}"
        )
    if others:
        raise HvfError(
            f"{len(others)} of the {len(events)} events that occur are not named after an image ({listed(others)}), "
            f"the others are: drop the epochs that show no image, or {ADVICE}"
            + (names.nearest(others[0]) if names is not None and is_picture_file(others[0]) else "")
        )
    return [images[code] for code in epochs.events[:, 2].tolist()]


def _image_of_event(text: str, names: ImageNames | None) -> str | None:
    """The image that an event's name names: the whole, or some of its tags."""
    tags = text.split("/")
    for size in range(len(tags), 0, -1):
        parts = ["/".join(tags[i : i + size]) for i in range(len(tags) - size + 1)]
        if names is None:
            images = {part for part in parts if is_picture_file(part)}
        else:
            images = {names.names[i] for i in names.find(parts) if i >= 0}
        if images and size > 1:  # its tags may be other images
            path = {part for image in images for part in normalized(image).split("/")}
            singly = [
                _image_of_event(tag, names) for tag in tags if stem(tag) not in path and normalized(tag) not in path
            ]
            images |= {image for image in singly if image is not None}
        if len(images) > 1:
            raise HvfError(f"the event {text!r} is named after several images, {listed(sorted(images))}: {ADVICE}")
        if images:
            return images.pop()
    return None


# --- by order ---------------------------------------------------------------------------------------------------------


def _in_order(epochs: mne.BaseEpochs, table: pd.DataFrame, images: ImageSet) -> list[str]:
    """The images in the order of the epochs, if their number fits and nothing in the file speaks against it."""
    places = _places(epochs, len(images))
    _refuse_other_names(table, images)
    events, codes = _event_names(epochs), epochs.events[:, 2].tolist()
    if len(events) > 1 and all(_has_files(texts) for texts in events.values()):
        ImageNames(images.ids).indices([texts[0] for texts in events.values()], "the names of the events")
    if len(events) > max(2, len(epochs) // 2):
        texts = [events[code][0] for code in codes]
        if codes != sorted(codes) and texts != sorted(texts, key=by_number):
            raise HvfError(
                f"which image was shown in which epoch? Their events come in the order {listed(texts, 4)}, which is "
                f"not that of the images ({listed(images.ids, 4)}): {ADVICE}"
            )
    _compare_concepts(epochs, table, [images.concepts[i] for i in places], "order")
    check_order(images)
    return [images.ids[i] for i in places]


def _places(epochs: mne.BaseEpochs, n_images: int) -> list[int]:
    """The place of each epoch among those that were shown."""
    reasons = [set(log) - {"IGNORED"} for log in epochs.drop_log]
    ignored = [log == ("IGNORED",) for log in epochs.drop_log]
    dropped = sorted({reason for log in reasons for reason in log})
    kept = epochs.selection.tolist()
    if dropped and len(epochs.drop_log) - sum(ignored) == n_images and kept == sorted(kept):
        shown = [i for i, left_out in enumerate(ignored) if not left_out]
        place = {row: i for i, row in enumerate(shown)}
        if len(kept) == len(epochs) and place.keys() >= set(kept):
            return [place[row] for row in kept]
    if len(epochs) != n_images:
        raise HvfError(
            f"the file has {len(epochs)} trials but there are {n_images} images, and nothing in it names the images: "
            f"{ADVICE}"
        )
    if set(dropped) - NO_FAULT:
        raise HvfError(
            f"epochs were dropped ({listed(dropped)}), so that there are as many as images may be by chance: {ADVICE}"
        )
    return list(range(n_images))


def _refuse_other_names(table: pd.DataFrame, images: ImageSet) -> None:
    """Refuse metadata that name or number images, but not these in this order."""
    names = ImageNames(images.ids)
    for column in map(str, table.columns):
        texts = texts_of(table[column])
        held, n_values = [text for text in texts if text], len(set(texts))
        many = n_values > max(2, len(texts) // 2)
        numbers = bool(held) and all(map(str.isdecimal, held))
        if (_has_files(held) and n_values > 1) or (many and not numbers and is_image_column(column)):
            names.indices(held, f'epochs.metadata["{column}"]')
        if not (many and numbers and NUMBERED.search(column)) or max(map(int, held)) > len(texts):
            continue
        if [int(text) for text in texts if text] != list(range(int(held[0]), int(held[0]) + len(texts))):
            raise HvfError(
                f'epochs.metadata["{column}"] numbers the images ({listed(texts, 4)}), not in the order of the epochs, '
                f'and from 0 or from 1 cannot be known: put the names of the files in epochs.metadata["image"]'
            )


def _compare_concepts(epochs: mne.BaseEpochs, table: pd.DataFrame, concepts: Sequence[str], by: str) -> None:
    """Refuse columns and events that name the images' concepts, and others than those of the images paired."""
    held = [concept_key(concept) for concept in concepts]
    known = set(held)
    if not 1 < len(known) < len(held):  # else each image stands alone: its concept is its name
        return
    events = _event_names(epochs)
    of_events = [events[code] for code in epochs.events[:, 2].tolist()]
    given = {f'epochs.metadata["{column}"]': texts_of(table[column]) for column in map(str, table.columns)}
    tags = [
        [tag for text in texts for tag in (text, *text.split("/")) if concept_key(tag) in known] for texts in of_events
    ]
    if all(tags):
        given["the names of the events"] = [group[0] for group in tags]
    for where, texts in given.items():
        keys = [concept_key(text) for text in texts]
        if len(set(keys)) > 1 and set(keys) <= known and keys != held:
            i = next(i for i, (a, b) in enumerate(zip(keys, held, strict=True)) if a != b)
            raise HvfError(
                f"paired by their {by}, epoch {i} shows an image of {concepts[i]!r}, but {where} says {texts[i]!r}: "
                f"{ADVICE}, in the order of the epochs"
            )
