"""Which reconstruction belongs to which seen picture, and to which round: anybody's folders, or a refusal.

Rounds (several reconstructions of every picture) are sub-folders, `round_0/NAME.png`, or suffixes, `NAME_0.png`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.images.matching import normalized, without_ending
from hvf.data.images.order import by_number, check_order

_WORD = r"(?:rounds?|rep|repeat|repetition|sample|seed|trial|r)"
_FOLDER = re.compile(rf"{_WORD}?[_-]?(\d+)", re.IGNORECASE)
_SUFFIX = re.compile(rf"(.+?)[_-]{_WORD}?[_-]?(\d{{1,3}})", re.IGNORECASE)
NAMED = 3  # files named in a refusal

# {round: {key of a picture: its index}}
_Layout = dict[str, dict[str, int]]


class Paired(NamedTuple):
    """Seen pictures (N), and R rounds of their reconstructions in the same order.

    ``how`` says in words what they were matched by; ``names`` is what each round is called.
    """

    seen: ImageSet
    rounds: tuple[ImageSet, ...]
    names: tuple[str, ...]
    how: str


def pair(images: str | Path, recons: str | Path) -> Paired:
    """Pair a folder or zip of seen pictures with one of reconstructions.

    By name (file name without its ending) where names agree; where not one name agrees and the numbers do, in the order
    of their sorted names, numbers by their value. Raises HvfError, naming files, when a picture is missing, has no
    counterpart, or stands there twice, when a round is incomplete, when the numbers differ, or when the order has to
    tell and the seen pictures have two usual ones.
    """
    seen, drawn = open_images(images), open_images(recons)
    keys = _keys(seen.ids, images)
    layouts = _layouts(drawn.ids)
    for layout in layouts:
        if all(one.keys() == keys.keys() for one in layout.values()):
            order: list[list[int]] = [[one[key] for key in keys] for one in layout.values()]
            return _paired(seen, drawn, list(keys.values()), order, layout, "name")
    known = [layout for layout in layouts if any(one.keys() & keys.keys() for one in layout.values())]
    if known:  # some names agree: the layout under which most do says what is wrong
        best = max(known, key=lambda layout: sum(len(one.keys() & keys.keys()) for one in layout.values()))
        raise HvfError(f"{recons} does not pair with {images}: {_difference(keys, best)}")
    if not layouts:
        _keys(drawn.ids, recons)  # names the two files that share a name
    for layout in layouts:
        if all(len(one) == len(keys) for one in layout.values()):
            check_order(seen)
            order = [[one[key] for key in sorted(one, key=by_number)] for one in layout.values()]
            how = "order of the sorted names: no name occurs on both sides"
            return _paired(seen, drawn, [keys[key] for key in sorted(keys, key=by_number)], order, layout, how)
    raise HvfError(
        f"{recons} holds {len(drawn)} pictures and {images} {len(seen)}, and their names do not agree "
        f"({_named(layouts[0][next(iter(layouts[0]))])} against {_named(keys)}): give the reconstructions the names of "
        "the images they are of"
    )


def _paired(
    seen: ImageSet, drawn: ImageSet, order: list[int], rounds: list[list[int]], layout: _Layout, how: str
) -> Paired:
    return Paired(seen.select(order), tuple(drawn.select(indices) for indices in rounds), tuple(layout), how)


def _keys(ids: Iterable[str], where: str | Path) -> dict[str, int]:
    """{key: index}: the file name without folder and ending where that is unique, else with its folders."""
    paths = [_without_ending(name) for name in ids]
    for keys in ([path.name for path in paths], [str(path) for path in paths]):
        if len(set(keys)) == len(keys):
            return {key: index for index, key in enumerate(keys)}
    twice = next(str(path) for path in paths if paths.count(path) > 1)
    same = [name for name, path in zip(ids, paths, strict=True) if str(path) == twice]
    raise HvfError(f"{where} holds {' and '.join(same)}, which share one name: keep one of them")


def _without_ending(name: str) -> PurePosixPath:
    return PurePosixPath(without_ending(normalized(name)))


def _layouts(ids: tuple[str, ...]) -> list[_Layout]:
    """The ways to read names as rounds of pictures: one round, sub-folders, suffixes; those that are possible."""
    layouts: list[_Layout] = []
    paths = [_without_ending(name) for name in ids]
    if len(set(paths)) < len(paths):
        return []
    if all(len(path.parts) > 1 and _FOLDER.fullmatch(path.parts[0]) for path in paths):
        folders: dict[str, list[int]] = {}
        for index, path in enumerate(paths):
            folders.setdefault(path.parts[0], []).append(index)
        inside = {}
        for folder in sorted(folders, key=by_number):
            names = [paths[index].relative_to(folder) for index in folders[folder]]
            unique = len({name.name for name in names}) == len(names)
            keys = [name.name if unique else str(name) for name in names]
            inside[folder] = dict(zip(keys, folders[folder], strict=True))
        layouts.append(inside)
    if len({path.name for path in paths}) == len(paths):
        layouts.append({"": {path.name: index for index, path in enumerate(paths)}})
        ends = [_SUFFIX.fullmatch(path.name) for path in paths]
        suffixes: _Layout = {}
        for index, end in enumerate(ends):
            if end:
                suffixes.setdefault(end[2], {})[end[1]] = index
        even = len({frozenset(keys) for keys in suffixes.values()}) == 1
        if all(ends) and sum(map(len, suffixes.values())) == len(paths) and (even or len(suffixes) > 1):
            layouts.append({key: suffixes[key] for key in sorted(suffixes, key=by_number)})
    else:
        layouts.append({"": {str(path): index for index, path in enumerate(paths)}})
    return layouts


def _difference(keys: Mapping[str, int], layout: _Layout) -> str:
    """What the first incomplete round lacks and has too much, in words."""
    for name, indices in layout.items():
        lacks, more = [k for k in keys if k not in indices], [k for k in indices if k not in keys]
        faults = [f"lacks {len(lacks)} of {len(keys)} ({_named(lacks)})"] if lacks else []
        faults += [f"holds {len(more)} that are no image there ({_named(more)})"] if more else []
        if faults:
            return (f"round {name} " if len(layout) > 1 else "it ") + " and ".join(faults)
    raise AssertionError("a layout without a difference is a pairing")


def _named(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
