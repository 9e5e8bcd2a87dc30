"""Splits of images by concept, so that no concept and no picture is in both parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.trials.trials import Trials
from hvf.registry import listed


def concept_split(
    concepts: Sequence[str] | np.ndarray, fraction: float, seed: int, *, at_least: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Split items into two parts that share no concept; return their indices (train, validation), each ascending.

    `fraction` of the concepts, at least `at_least` and never all, go to the second part.
    Raises HvfError if there are too few concepts for that.
    """
    concepts_N = np.asarray(concepts, dtype=str)
    names = np.unique(concepts_N)
    n_val = max(at_least, round(fraction * len(names)))
    if not 0 < n_val < len(names):
        raise HvfError(f"cannot set {n_val} concepts aside for validation: there are {len(names)}")
    chosen = np.random.default_rng(seed).permutation(names)[:n_val]
    held_out = np.isin(concepts_N, chosen)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def held_out(concepts: tuple[str, ...], n_test: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose `n_test` items at random for the test; return the indices (train, test), each ascending.

    Where concepts repeat, whole concepts are drawn until there are enough items; the rest of the last one is dropped,
    so that no test concept is trained on. Raises HvfError if too few items are left to train on.

    Examples
    --------
    >>> train, test = held_out(("cat", "cat", "dog", "dog", "owl"), n_test=1, seed=0)
    >>> len(test), set(train) & set(test)
    (1, set())
    """
    concepts_N = np.asarray(concepts, dtype=str)
    n = len(concepts_N)
    if not 1 <= n_test < n:
        raise HvfError(f"cannot hold out {n_test} of {n} images; --test-images must lie between 1 and {n - 1}")
    names, first = np.unique(concepts_N, return_index=True)
    names = names[np.argsort(first)]  # the images' order, so that the draw does not depend on spelling
    rank = {name: i for i, name in enumerate(np.random.default_rng(seed).permutation(names).tolist())}
    rank_N = np.asarray([rank[name] for name in concepts_N.tolist()])
    drawn = np.argsort(rank_N, kind="stable")
    test = drawn[:n_test]
    train = np.flatnonzero(rank_N > rank_N[test[-1]])
    if len(train) < 2:
        raise HvfError(f"holding out {n_test} of {n} images leaves no other concept to train on; hold out fewer")
    return train, np.sort(test)


def grouped(images: ImageSet) -> tuple[str, ...]:
    """The concept of each image; concepts that share a picture, under whatever names, count as one.

    So no picture is both trained on and tested. Decodes every image: a broken one is an HvfError that names it.
    """
    group = {concept: concept for concept in images.concepts}

    def first(concept: str) -> str:
        while group[concept] != concept:
            concept = group[concept]
        return concept

    seen: dict[str, str] = {}
    for content, concept in zip(images.content_hashes(), images.concepts, strict=True):
        one, other = first(seen.setdefault(content, concept)), first(concept)
        group[other] = one
    return tuple(first(concept) for concept in images.concepts)


def check_apart(train: ImageSet, test: ImageSet, where: str) -> None:
    """Refuse a test concept, or the same picture under another name, among the training images."""
    shared = sorted(set(train.concepts) & set(test.concepts))
    if shared:
        raise HvfError(f"{len(shared)} test concepts of {where} are in training too: {listed(shared)}; split it anew")
    first = dict(zip(train.content_hashes(), train.ids, strict=True))
    for content, name in zip(test.content_hashes(), test.ids, strict=True):
        if content in first:
            same = "are the same picture" if test.has_pictures else "have the same features: they are one picture"
            raise HvfError(f"the test image {name} and the training image {first[content]} {same}")


def without_neighbours(train: Trials, test: Trials, most: int, where: str) -> Trials:
    """The training trials that were shown more than `most` presentations before and after every test trial.

    Noise that is slow is alike in trials that follow one another, so that a test trial may be known by its neighbours.

    Parameters
    ----------
    train, test : Trials
        Of one recording, single trials.
    most : int
        Presentations of one session.
    where : str
        Whose trials they are, for messages.

    Raises
    ------
    HvfError
        If the order of presentation is not known, or no training trial is left.
    """
    if train.positions is None or test.positions is None:
        raise HvfError(
            f"--data.neighbours needs the order in which images were shown, and {where} does not tell it: MNE epochs "
            "whose events are in the order of time do, and what `hvf data prepare recording` makes"
        )
    session_N, session_M = (np.zeros(len(t), int) if t.sessions is None else t.sessions for t in (train, test))
    near_N = np.zeros(len(train), bool)
    for session in np.unique(session_M):
        rows = np.flatnonzero(session_N == session)
        asked_M = np.sort(test.positions[session_M == session])
        place_N = train.positions[rows]
        first, end = np.searchsorted(asked_M, place_N - most, "left"), np.searchsorted(asked_M, place_N + most, "right")
        near_N[rows] = end > first  # test trials within the window
    if near_N.all():
        raise HvfError(f"--data.neighbours {most} leaves no trial to train on: {where} shows test images throughout")
    return train.select(~near_N)
