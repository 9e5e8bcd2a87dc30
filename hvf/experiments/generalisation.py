"""Time-resolved decoding and its generalisation over time, by `mne.decoding` (King and Dehaene 2014).

At each time bin a linear decoder learns a target from all channels, and is tested at every bin: ridge regression for
values, a ridge classifier for labels. Folds keep concepts apart or, where concepts are what is decoded, images.

Letters: N images, C channels, B time bins, P values of a target, K components.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from hvf.config import HvfError
from hvf.data.trials.trials import Trials
from hvf.experiments import variance

PENALTIES = np.logspace(-1, 5, 7)  # of ridge; leave-one-out error within the training images decides
PAIRED = 200  # images of a fold that are compared pairwise, at most
SCORES = {"pairwise": "pairwise accuracy", "correlation": "correlation", "accuracy": "balanced accuracy"}


@dataclass(frozen=True)
class Target:
    """What is decoded: values per image, or class labels; and which images stay together in a fold."""

    y_N: np.ndarray  # float (N, P), or str (N,) labels
    groups_N: np.ndarray | None  # None: images apart, each class in every fold
    rows_N: np.ndarray  # images that have the target

    @property
    def is_label(self) -> bool:
        return self.y_N.dtype.kind == "U"


@dataclass(frozen=True)
class Course:
    """Scores of one target: each fold's, trained and tested at the same time, permuted too, and at all other times."""

    chance: float
    score: str  # key of SCORES
    diagonal_FB: np.ndarray  # of each fold
    permuted_FB: np.ndarray
    general_BB: np.ndarray  # mean over folds: trained at the row's time, tested at the column's


def binned(trials: Trials, width: float) -> tuple[np.ndarray, list[float]]:
    """Responses (N, C, B) averaged over time bins of `width` s, the last samples left out; the bins' edges in s."""
    n_times, step = trials.shape[2], max(1, round(width * trials.sfreq))
    n_bins = n_times // step
    if n_bins < 2:
        raise HvfError(
            f"{trials.subject} has {n_times} samples at {trials.sfreq:g} Hz, which bins of {1000 * width:g} ms do not "
            "part: time-resolved decoding needs two bins or more (--step)"
        )
    parts = [
        x_NCT[..., : n_bins * step].reshape(*x_NCT.shape[:2], n_bins, step).mean(axis=3)
        for _, x_NCT in trials.batches()
    ]
    x_NCB = np.concatenate(parts)
    size_C1 = x_NCB.std(axis=(0, 2))[:, None]  # volts are too small for a ridge's tolerances
    return x_NCB / np.where(size_C1 > 0, size_C1, 1.0), [
        float(trials.tmin + i * step / trials.sfreq) for i in range(n_bins + 1)
    ]


def decode(
    x_NCB: np.ndarray,
    permuted_NCB: np.ndarray,
    target: Target,
    folds: int,
    score: str = "pairwise",
    *,
    components: int = 20,
    seed: int = 0,
) -> Course:
    """Cross-validated decoding of a target at each time bin, tested at all bins.

    Parameters
    ----------
    x_NCB, permuted_NCB : ndarray
        Responses to the images, and to others.
    target : Target
    folds : int
        Concepts, or of concepts themselves images, are parted into so many.
    score : "pairwise" or "correlation"
        Of what is no label; labels are scored by balanced accuracy.
    components : int
        Principal components that stand for a target of more values, fitted on the training images of a fold.
    seed : int
        Of the folds of concepts, and of the images that are compared pairwise.
    """
    from mne.decoding import GeneralizingEstimator, SlidingEstimator
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold

    rows, y = target.rows_N, target.y_N
    score = "accuracy" if target.is_label else score
    scorers = {"accuracy": balanced_accuracy, "correlation": correlation, "pairwise": partial(pairwise, seed=seed)}
    if target.groups_N is None:
        parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(rows, y)
    elif target.is_label:
        parts = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(rows, y, target.groups_N)
    else:  # in random order: of groups of one size GroupKFold takes every k-th
        names, group_N = np.unique(target.groups_N, return_inverse=True)
        parts = GroupKFold(folds).split(rows, groups=np.random.default_rng(seed).permutation(len(names))[group_N])
    general, permuted = [], []
    for train, test in parts:
        truth = y if target.is_label else _components(y, train, components)
        linear = LinearDecoder(truth, scorers[score])
        decoder = GeneralizingEstimator(linear, verbose="error").fit(x_NCB[rows[train]], train)
        general.append(decoder.score(x_NCB[rows[test]], test))
        control = SlidingEstimator(linear, verbose="error").fit(permuted_NCB[rows[train]], train)
        permuted.append(control.score(permuted_NCB[rows[test]], test))
    general_FBB = np.array(general)
    chance = {"accuracy": 1 / len(np.unique(y)), "pairwise": 0.5, "correlation": 0.0}[score]
    diagonal_FB = np.diagonal(general_FBB, axis1=1, axis2=2)
    return Course(chance, score, diagonal_FB, np.array(permuted), general_FBB.mean(axis=0))


class LinearDecoder(BaseEstimator):
    """Ridge regression to the rows of a table of values (N, P), or a ridge classifier of labels (N,).

    It learns from row numbers and is scored on them: `mne.decoding` takes one value per trial. `scorer` compares truth
    and prediction.
    """

    def __init__(self, truth: np.ndarray, scorer: Callable[[np.ndarray, np.ndarray], float]) -> None:
        self.truth = truth
        self.scorer = scorer

    def fit(self, x_NC: np.ndarray, row_N: np.ndarray) -> LinearDecoder:
        """Standardise the channels, and fit with the penalty of least leave-one-out error."""
        from sklearn.linear_model import RidgeClassifierCV, RidgeCV

        labels = self.truth.ndim == 1
        ridge: Any = RidgeClassifierCV(PENALTIES, class_weight="balanced") if labels else RidgeCV(PENALTIES)
        mean_C, sd_C = x_NC.mean(axis=0), x_NC.std(axis=0)
        sd_C = np.where(sd_C > 0, sd_C, 1.0)
        ridge.fit((x_NC - mean_C) / sd_C, self.truth[row_N])
        self.classes_ = ridge.classes_ if labels else None
        self.weights_CP = np.atleast_2d(ridge.coef_).T / sd_C[:, None]
        self.bias_P = np.atleast_1d(ridge.intercept_) - mean_C @ self.weights_CP
        return self

    def predict(self, x_NC: np.ndarray) -> np.ndarray:
        """Labels (N,), or values (N, P)."""
        y_NP = x_NC @ self.weights_CP + self.bias_P  # scikit-learn's own checks take ten times as long
        if self.classes_ is None:
            return y_NP
        return self.classes_[(y_NP[:, 0] > 0).astype(int) if y_NP.shape[1] == 1 else y_NP.argmax(axis=1)]

    def score(self, x_NC: np.ndarray, row_N: np.ndarray) -> float:
        """The score of the prediction of these rows."""
        return self.scorer(self.truth[row_N], self.predict(x_NC))


def _components(y_NP: np.ndarray, train: np.ndarray, most: int) -> np.ndarray:
    """Values of all images in units of the training images' deviation: one value, or its first principal components."""
    if y_NP.shape[1] > 1:
        _, y_NP = variance.band([y_NP[train]], [y_NP])
        y_NP = y_NP[:, :most]
    return (y_NP - y_NP[train].mean(axis=0)) / (float(y_NP[train].std()) or 1.0)


def pairwise(y_NP: np.ndarray, predicted_NP: np.ndarray, seed: int = 0) -> float:
    """Pairwise accuracy: share of pairs of images whose two predictions fit better as they are than exchanged.

    In squared distance; of a single value, the share of pairs in the right order. Equally good counts as half. Chance
    is .5. At most PAIRED images are compared.

    >>> round(pairwise(np.array([[0.0], [1.0], [2.0]]), np.array([[0.1], [0.9], [0.5]])), 3)
    0.667
    """
    if len(y_NP) > PAIRED:
        chosen = np.random.default_rng(seed).permutation(len(y_NP))[:PAIRED]
        y_NP, predicted_NP = y_NP[chosen], predicted_NP[chosen]
    s_NN = (predicted_NP - predicted_NP.mean(axis=0)) @ (y_NP - y_NP.mean(axis=0)).T
    s_NN = s_NN + s_NN.T
    own_N, n = np.diagonal(s_NN) / 2, len(s_NN)
    gain_NN = own_N[:, None] + own_N - s_NN
    rounding = 1e-12 * float(np.abs(own_N).max())
    better, worse = np.count_nonzero(gain_NN > rounding), np.count_nonzero(gain_NN < -rounding)
    return float(0.5 + 0.5 * (better - worse) / (n * (n - 1)))


def correlation(y_NP: np.ndarray, predicted_NP: np.ndarray) -> float:
    """Pearson's correlation of predicted and true values, of all components together, each centred; 0 if constant."""
    a, b = (x_NP - x_NP.mean(axis=0) for x_NP in (y_NP, predicted_NP))
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum() / size) if size > 0 else 0.0


def balanced_accuracy(y_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """Mean over classes of the share of their images that are recognised."""
    return float(np.mean([(predicted_N[y_N == one] == one).mean() for one in np.unique(y_N)]))
