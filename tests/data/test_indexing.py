"""Rows of trials and of images: the same indices choose the same rows of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.indexing import chosen_rows
from hvf.data.trials.trials import Trials

N = 6
X = np.random.default_rng(0).integers(0, 255, (N, 4, 4, 3)).astype(np.uint8)
IMAGES = ImageSet.from_arrays(X, "abcdef", "uvwuvw", "ABCDEF")
TRIALS = Trials(X[..., 0].astype(np.float32), [*"abcdef"], "sub-01", 100.0, 0.0, "1234", "eeg", concepts=[*"uvwuvw"])
MASK = np.array([True, False, False, True, False, True])


@pytest.mark.parametrize(
    ("indices", "rows"),
    [
        ([4, 1], [4, 1]),
        ((4, 1), [4, 1]),
        (range(1, 6, 2), [1, 3, 5]),
        (slice(3, 10), [3, 4, 5]),
        (slice(None, None, -2), [5, 3, 1]),
        (np.array([5, 0], np.uint8), [5, 0]),
        (np.array([-1, -6], np.int8), [5, 0]),
        (MASK, [0, 3, 5]),
        (MASK.tolist(), [0, 3, 5]),
        (pd.Series(MASK), [0, 3, 5]),
        ([], []),
        (np.zeros(N, bool), []),
        ((i for i in (2, 3)), [2, 3]),
    ],
)
def test_the_same_rows_of_both(indices: Any, rows: list[int]) -> None:
    if not hasattr(indices, "send"):  # a generator is spent after one use, and a tuple in brackets means axes
        at = list(indices) if isinstance(indices, tuple) else indices
        assert TRIALS[at].image_ids.tolist() == list(IMAGES[at].ids) == [IMAGES.ids[i] for i in rows]
        images, trials = IMAGES.select(indices), TRIALS.select(indices)
        np.testing.assert_array_equal(trials.load_array(), TRIALS.load_array()[rows])
        np.testing.assert_array_equal(TRIALS.batch(indices), TRIALS.load_array()[rows])
        np.testing.assert_array_equal(IMAGES.array(indices, size=4), X[rows])
        assert trials.image_ids.tolist() == list(images.ids)
        assert trials.concepts.tolist() == list(images.concepts)
        np.testing.assert_array_equal(images.array(size=4), X[rows])
    else:
        assert IMAGES.select(indices).ids == ("c", "d")


def test_one_index_is_one_trial_or_picture() -> None:
    for index in (2, np.int64(2), np.array(2), -4):
        np.testing.assert_array_equal(TRIALS[index], TRIALS.load_array()[2])
        np.testing.assert_array_equal(np.asarray(IMAGES[index]), X[2])
    assert [x.shape for x in TRIALS] == [(4, 4)] * N  # iteration ends where the rows do
    assert len(list(IMAGES)) == N
    assert (TRIALS.shape, IMAGES.shape) == ((N, 4, 4), (N,))


def test_scikit_learn_takes_rows_of_both() -> None:
    from sklearn.utils import _safe_indexing, indexable

    rows = np.array([4, 0])
    assert _safe_indexing(TRIALS, rows).image_ids.tolist() == list(_safe_indexing(IMAGES, rows).ids) == ["e", "a"]
    assert len(_safe_indexing(TRIALS, MASK)) == len(_safe_indexing(IMAGES, MASK)) == 3
    assert indexable(TRIALS, IMAGES, list("uvwuvw"))[0] is TRIALS


@pytest.mark.parametrize("what", [TRIALS.select, IMAGES.select, TRIALS.__getitem__, IMAGES.__getitem__, TRIALS.batch])
@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (MASK[:4], "a mask of 4 values cannot choose among 6"),
        ([0, 6], "there is no 6 among the .*: they are 6, counted from 0"),
        ([-7], "there is no -7"),
        ([1.0, 2.0], "not by float64"),
        (["a", "b"], "by whole numbers, a mask or a slice, not by <U1"),
        ("ab", "by whole numbers, a mask or a slice, not by 'ab'"),
        (np.zeros((2, 2), int), r"int64 of shape \(2, 2\)"),
        (1.5, "not by 1.5"),
        (None, "not by None"),
    ],
)
def test_what_chooses_no_rows_is_refused(what: Callable[[Any], Any], indices: Any, message: str) -> None:
    with pytest.raises(HvfError, match=message):
        what(indices)


def test_brackets_refuse_axes_and_truth_values() -> None:
    for one in (TRIALS, IMAGES):
        with pytest.raises(HvfError, match="one axis to choose along"):
            one[1, 2]
        with pytest.raises(HvfError, match="True chooses no"):
            one[True]
        with pytest.raises(IndexError, match="there is no 6"):
            one[6]
    with pytest.raises(HvfError, match="'c' stands for more than one image"):
        IMAGES.select([2, 2])  # of trials, a row may be taken twice
    assert TRIALS.select([2, 2]).image_ids.tolist() == ["c", "c"]
    assert chosen_rows(slice(1, 2), 3, "trials") == slice(1, 2)
