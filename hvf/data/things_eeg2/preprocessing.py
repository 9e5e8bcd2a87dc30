"""Published pipelines for THINGS-EEG2, from continuous EEG to normalised epochs: recipes and their arithmetic.

Letters: N samples of a window of the recording, T samples of the resampled epoch, C channels, E epochs, I images,
R repeats of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeVar

import mne
import numpy as np
from sklearn.utils import shuffle
from threadpoolctl import threadpool_limits

from hvf.config import HvfError, did_you_mean
from hvf.data.montages import FRONT_TO_BACK
from hvf.data.recordings.whitening import inverse_root, shrunk_covariances
from hvf.runs import usable_cores

POSTERIOR = FRONT_TO_BACK[-17:]  # the occipital and parietal ones, which published decoders use
SEED = 20200220  # of the choice and the order of repeats, in all of the recipes

Part = Literal["training", "test"]
PARTS: tuple[Part, Part] = ("training", "test")
_BLOCK = 64  # epochs that a thread takes at a time
_TILE = 4  # epochs multiplied at once: they and their result stay in the processor's cache
_T = TypeVar("_T")


@dataclass(frozen=True)
class EegRecipe:
    """A published pipeline from raw THINGS-EEG2 to trials.

    All of them take epochs from -0.2 s, subtract the mean from there to 0 s (included) at the recording's own rate,
    resample with `mne.Epochs.resample`, and keep per session and image a seeded choice of its presentations.

    Normalisation "time" and "epochs" is multivariate noise normalisation (MVNN; Guggenmos et al. 2018) by the inverse
    root of the mean covariance over the repeats at each time point, or over the time points of each epoch, shrunk as
    scikit-learn's discriminant analysis does; "zscore" uses mean and standard deviation of each channel.
    """

    origin: str  # where it was published
    sfreq: float  # Hz
    tmax: float  # end of the epochs, s (included before resampling)
    tmin_kept: float  # from where the resampled epochs are used, s
    channels: tuple[str, ...] | None  # that are normalised; None: all that begin with O or P, in the recording's order
    kept: tuple[str, ...] | None  # of these, the channels that are stored; None: all
    normalisation: Literal["time", "epochs", "zscore"]  # of each session
    fitted_on: tuple[Part, ...]  # parts whose covariance, mean and deviation are used; they count alike
    shuffled: bool  # whether the repeats of all sessions are put in one seeded order, the same for all images
    dtype: Literal["float16", "float32"]  # of the stored trials
    tmin: float = -0.2  # start of the epochs, s


_UBP = EegRecipe(
    origin="HaitaoWuTJU/Uncertainty-aware-Blur-Prior, process_eeg_whiten.py",
    sfreq=250.0,
    tmax=1.0,
    tmin_kept=0.0,
    channels=FRONT_TO_BACK,
    kept=None,
    normalisation="epochs",
    fitted_on=("training",),
    shuffled=False,
    dtype="float16",
)
_NEUROBRIDGE = replace(_UBP, origin="feroooooo/NeuroBridge, preprocess_eeg.py --mvnn", dtype="float32")
RECIPES: dict[str, EegRecipe] = {
    "official": EegRecipe(
        origin="gifale95/eeg_encoding, 02_eeg_preprocessing (Gifford et al. 2022)",
        sfreq=100.0,
        tmax=0.8,
        tmin_kept=-0.2,
        channels=None,
        kept=None,
        normalisation="time",
        fitted_on=PARTS,
        shuffled=True,
        dtype="float32",
    ),
    "nice": replace(_UBP, origin="eeyhsong/NICE-EEG, preprocessing.py", shuffled=True, dtype="float32"),
    "ubp": _UBP,
    "neurobridge": _NEUROBRIDGE,
    "neurobridge-zscore": replace(
        _NEUROBRIDGE, origin="feroooooo/NeuroBridge, preprocess_eeg.py --zscore", normalisation="zscore"
    ),
    # What arXiv 2602.07495 decodes from: UBP's whitened recordings, of which it reads the posterior channels.
    "hvf": replace(_UBP, origin="ssshamiii/Brain-HIVE (arXiv 2602.07495): UBP's, posterior channels", kept=POSTERIOR),
}


def get_recipe(name: str) -> EegRecipe:
    """The recipe of that name (hyphen or underscore); HvfError naming the nearest if there is none."""
    key = name.replace("_", "-")
    if key not in RECIPES:
        raise HvfError(f"unknown recipe {name!r}{did_you_mean(key, RECIPES)}; there are {', '.join(RECIPES)}")
    return RECIPES[key]


def units(recipe: EegRecipe) -> str:
    """Unit of the values after a recipe, in words."""
    return "standard deviations of the " + ("channel" if recipe.normalisation == "zscore" else "whitened noise")


def window(recipe: EegRecipe, sfreq: float) -> tuple[int, int]:
    """First sample and one past the last of an epoch, counted from the onset, at the recording's rate."""
    return round(recipe.tmin * sfreq), round(recipe.tmax * sfreq) + 1


@lru_cache(maxsize=8)
def epoch_operator(recipe: EegRecipe, sfreq: float) -> np.ndarray:
    """The matrix (N, T) that maps a window of the recording to its epoch: baseline, resampling and crop in one.

    All three are linear in the samples. The resampling is MNE's own, applied to the unit vectors.
    """
    start, stop = window(recipe, sfreq)
    operator_NT = np.eye(stop - start)
    if recipe.sfreq != sfreq:
        settings: Any = {"npad": "auto", "window": "auto", "pad": "edge"}  # the defaults of Epochs.resample
        operator_NT = mne.filter.resample(operator_NT, recipe.sfreq, sfreq, **settings, verbose="error")
    baseline_N = (np.arange(start, stop) <= 0) / (1 - start)
    operator_NT = operator_NT - np.outer(baseline_N, operator_NT.sum(axis=0))
    first = round((recipe.tmin_kept - recipe.tmin) * recipe.sfreq)
    return np.ascontiguousarray(operator_NT[:, first:])


class Workers:
    """Threads over blocks of epochs, while numpy's own threads are off."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def blocks(self, n: int, work: Callable[[slice], _T], step: int = _BLOCK) -> Iterator[_T]:
        """The results of `work` on consecutive slices of range(n), in their order."""
        return self._pool.map(work, [slice(i, min(i + step, n)) for i in range(0, n, step)])

    def submit(self, work: Callable[..., _T], *arguments: object) -> Future[_T]:
        return self._pool.submit(work, *arguments)


@contextmanager
def workers(jobs: int | None = None) -> Iterator[Workers]:
    """A pool of `jobs` threads, by default one per core that this process may use."""
    pool = ThreadPoolExecutor(usable_cores() if jobs is None else max(1, jobs))
    try:
        with threadpool_limits(1, user_api="blas"):
            yield Workers(pool)
    finally:
        pool.shutdown(cancel_futures=True)


def cut_epochs(
    raw_CN: np.ndarray, channels: np.ndarray, first_E: np.ndarray, operator_NT: np.ndarray, out_ECT: np.ndarray
) -> np.ndarray:
    """Fill `out_ECT` with epochs.

    Parameters
    ----------
    raw_CN : ndarray
        The recording.
    channels : ndarray of int
        Rows of `raw_CN` that are used.
    first_E : ndarray of int
        Samples at which the windows begin.
    operator_NT : ndarray
        `epoch_operator`.
    out_ECT : ndarray

    Returns
    -------
    ndarray
        Largest magnitude of each channel, (C,); NaN or infinite where a value is.
    """
    n, t = operator_NT.shape
    c = len(channels)
    together = (np.diff(channels) == 1).all()  # rows that lie together are cut without copying them twice
    rows = slice(channels[0], channels[-1] + 1) if together else channels
    x_ECN = np.empty((_TILE, c, n))
    peak_C = np.zeros(c)
    for start in range(0, len(first_E), _TILE):
        tile = first_E[start : start + _TILE]
        for x_CN, first in zip(x_ECN, tile, strict=False):
            x_CN[:] = raw_CN[rows, first : first + n]
        out = out_ECT[start : start + len(tile)]
        np.matmul(x_ECN[: len(tile)].reshape(-1, n), operator_NT, out=out.reshape(-1, t))
        np.maximum(peak_C, np.maximum(out.max(axis=(0, 2)), -out.min(axis=(0, 2))), out=peak_C)
    return peak_C


def choose_repeats(codes_E: np.ndarray, repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose the presentations of each image: (image codes (I,), indices of events (I, R), in the order used).

    A seeded permutation of an image's presentations in time order takes the first `repeats`, even if there are no more.
    Every image needs at least so many.
    """
    codes_I, counts_I = np.unique(codes_E, return_counts=True)
    by_code = np.split(np.argsort(codes_E, kind="stable"), np.cumsum(counts_I)[:-1])
    chosen = {n: _permutation(n, repeats) for n in set(counts_I.tolist())}
    return codes_I, np.stack([events[chosen[len(events)]] for events in by_code])


def _permutation(n: int, first: int | None = None) -> np.ndarray:
    return np.asarray(shuffle(np.arange(n), random_state=SEED, n_samples=first))


def order_of_repeats(total: int) -> np.ndarray:
    """Place of each repeat, (R,), in the seeded order of the repeats of all sessions."""
    return np.argsort(_permutation(total))


def mean_covariance(x_IRCT: np.ndarray, over: str, pool: Workers) -> np.ndarray:
    """Mean of the covariances of all epochs over their samples, or of all images and samples over repeats, (C, C)."""
    n_images, r, c, t = x_IRCT.shape

    def of_epochs(rows: slice) -> np.ndarray:
        return shrunk_covariances(x_IRCT[rows].reshape(-1, c, t)).sum(axis=0)

    def of_samples(rows: slice) -> np.ndarray:
        x_CIT_R = np.moveaxis(x_IRCT[rows], (2, 0, 3, 1), (0, 1, 2, 3))
        if r == 2:  # both lie as far from their mean: one direction, and nothing to shrink
            half = ((x_CIT_R[..., 0] - x_CIT_R[..., 1]) / 2).reshape(c, -1)
            return half @ half.T
        return shrunk_covariances(np.ascontiguousarray(x_CIT_R.reshape(c, -1, r).swapaxes(0, 1))).sum(axis=0)

    work, count = (of_epochs, n_images * r) if over == "epochs" else (of_samples, n_images * t)
    return sum(pool.blocks(n_images, work, max(1, 32 // r)), start=np.zeros((c, c))) / count


def normaliser(
    recipe: EegRecipe, fitted: Iterable[np.ndarray], ch_names: Sequence[str], pool: Workers
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the normalisation of a session: `matrix @ x_CT - shift` normalises an epoch.

    Parameters
    ----------
    recipe : EegRecipe
    fitted : iterable of ndarray
        Epochs (I, R, C, T) of the parts that the recipe fits.
    ch_names : sequence of str
    pool : Workers

    Returns
    -------
    matrix : ndarray
        (C, C)
    shift : ndarray
        (C, 1)
    """
    fitted = list(fitted)
    if recipe.normalisation != "zscore":
        covariances = [mean_covariance(x_IRCT, recipe.normalisation, pool) for x_IRCT in fitted]
        return inverse_root(np.mean(covariances, axis=0), ch_names), np.zeros((len(ch_names), 1))
    count = sum(x.shape[0] * x.shape[1] * x.shape[3] for x in fitted)

    def total(of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        sums = (s for x in fitted for s in pool.blocks(len(x), lambda rows, x=x: of(x[rows])))
        return sum(sums, start=np.zeros(len(ch_names))) / count

    mean_C = total(lambda x_IRCT: x_IRCT.sum(axis=(0, 1, 3)))
    deviation_C = np.sqrt(total(lambda x_IRCT: ((x_IRCT - mean_C[:, None]) ** 2).sum(axis=(0, 1, 3))))
    return np.diag(1 / deviation_C), (mean_C / deviation_C)[:, None]
