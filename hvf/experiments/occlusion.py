"""Occlusion and retraining: which sensors and latencies a decoder uses, and which hold information.

Occlusion measures what a trained decoder uses: a part of every trial is replaced by the mean response of the training
trials, and the images are ranked again. Retraining measures what a part holds: a new decoder gets that part alone.
Sensors share sources, so that each is occluded together with its neighbours as well: what one loses another still
carries (Haufe et al. 2014 on interpreting the weights of decoders).

Letters: N test trials, row i answering image i of the gallery; C channels, T samples, O occlusions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from hvf.alignment import Alignment
from hvf.alignment.inputs import standardised
from hvf.config import Config, HvfError, with_settings
from hvf.data.trials.trials import Trials
from hvf.evaluation import retrieval, statistics
from hvf.experiments.protocols import HeldOut, Split, choose
from hvf.experiments.results import Entry, Row

FIGURES = {"top1": "top-1", "mrr": "mean reciprocal rank", "percentile": "mean rank percentile"}
Window = tuple[float, float]  # [tmin, tmax), s


def scores(ranks_N: np.ndarray, n_gallery: int) -> dict[str, np.ndarray]:
    """Top-1, reciprocal rank, and rank percentile (1 for the first of the gallery, 0 for the last) of each image."""
    if n_gallery < 2:
        raise HvfError(f"ranks mean something among two images or more, not {n_gallery}")
    ranks_N = np.asarray(ranks_N, dtype=float)
    return {"top1": (ranks_N <= 1) * 1.0, "mrr": 1 / ranks_N, "percentile": (n_gallery - ranks_N) / (n_gallery - 1)}


@dataclass(frozen=True, eq=False)
class Occlusion:
    """Ranks of N images from intact trials, (N,), and after each of O occlusions, (O, N)."""

    image_ids: tuple[str, ...]
    intact_N: np.ndarray
    occluded_ON: np.ndarray

    def lost(self, figure: str) -> np.ndarray:
        """Loss of each image's score by each occlusion, (O, N): positive where the decoder used the part."""
        n = len(self.intact_N)
        return scores(self.intact_N, n)[figure] - scores(self.occluded_ON, n)[figure]

    def figures(self, figure: str) -> list[Entry]:
        """The mean loss of each occlusion, {"value", "ci95", "n"}, bootstrapped over images."""
        return [statistics.interval(lost_N, self.image_ids) for lost_N in self.lost(figure)]

    def threshold(self, figure: str, level: float = 0.95, flips: int = 2000, seed: int = 0) -> float:
        """Mean loss above which a part is significant, at a family-wise error rate of 1 − `level` over all O.

        A permutation test: the signs of each image's losses are flipped together at random, and the distribution of the
        largest mean gives the threshold, whatever the correlation between sensors (max statistic, step-down: Nichols
        and Holmes 2002).
        """
        lost_ON = self.lost(figure)
        signs_NF = np.random.default_rng(seed).choice((-1.0, 1.0), size=(lost_ON.shape[1], flips))
        mean_O, chance_OF = lost_ON.mean(axis=1), lost_ON @ signs_NF / lost_ON.shape[1]
        limit, left_O = np.inf, np.ones(len(mean_O), bool)
        while left_O.any():
            limit = float(np.quantile(chance_OF[left_O].max(axis=0), level))
            if not (mean_O[left_O] > limit).any():
                break
            left_O &= mean_O <= limit
        return limit


def mean_response(trials: Trials) -> np.ndarray:
    """Mean over trials, float32 (C, T), read batch by batch."""
    total_CT = np.zeros(trials.shape[1:])
    for _, x_NCT in trials.batches():
        total_CT += x_NCT.sum(axis=0, dtype=np.float64)
    return (total_CT / len(trials)).astype(np.float32)


@torch.no_grad()
def occlude(
    alignment: Alignment,
    trials: Trials,
    features: Mapping[str, np.ndarray],
    baseline_CT: np.ndarray,
    masks: Sequence[np.ndarray],
) -> Occlusion:
    """Rank the images again after each part of the trials has been replaced by the mean training response.

    Parameters
    ----------
    alignment : Alignment
        The trained decoder.
    trials : Trials
        The N test trials; trial i is the response to image i.
    features : dict
        {spec: (N, d)} features of the images.
    baseline_CT : ndarray
        (C, T) Mean training response.
    masks : sequence of ndarray
        (C, T) bool, one per occlusion: True where trials are replaced.
    """
    z_f_ND = alignment.embed_images(features)
    if len(z_f_ND) != len(trials):
        raise HvfError(f"{len(trials)} trials but {len(z_f_ND)} images: trial i must answer image i")
    intact_N = retrieval.ranks(retrieval.similarity(alignment.embed_brain(trials), z_f_ND))
    both = np.concatenate([trials.load_array(), baseline_CT[None]])
    x_NCT = standardised(both, alignment.normalisation["x"], alignment.device)
    x_NCT, mean_CT = x_NCT[:-1], x_NCT[-1]
    ranks_ON = []
    for mask_CT in masks:
        hidden_CT = torch.from_numpy(np.asarray(mask_CT)).to(x_NCT.device)
        z_b_ND = alignment.brain(torch.where(hidden_CT, mean_CT, x_NCT))
        ranks_ON.append(retrieval.ranks(retrieval.similarity(z_b_ND, z_f_ND)))
    return Occlusion(tuple(trials.image_ids.tolist()), intact_N, np.array(ranks_ON).reshape(-1, len(trials)))


def sensor_masks(
    groups: Sequence[np.ndarray | Sequence[int]], trials: Trials, window: Window | None = None
) -> list[np.ndarray]:
    """Masks (C, T) of groups of channels, in one window (s) or in all of the trial."""
    inside_T = np.ones(trials.shape[2], bool) if window is None else _inside(trials, window)
    return [np.isin(np.arange(trials.shape[1]), np.asarray(group))[:, None] & inside_T for group in groups]


def window_masks(windows: Sequence[Window], trials: Trials) -> list[np.ndarray]:
    """Masks (C, T) of all channels in each window (s)."""
    return [np.broadcast_to(_inside(trials, window), trials.shape[1:]).copy() for window in windows]


def windows_of(trials: Trials, width: float) -> list[Window]:
    """Time windows side by side over the trial, of `width` s, without a last one that is too short.

    Empty without a time axis. Raises HvfError where a window would hold no sample, or there would not be two.
    """
    n_times = trials.shape[2]
    if n_times == 1:
        return []
    step = round(width * trials.sfreq)
    if step < 1 or 2 * step > n_times:
        seconds = n_times / trials.sfreq
        raise HvfError(f"windows of {1000 * width:g} ms do not part {1000 * seconds:g} ms at {trials.sfreq:g} Hz")
    edges = trials.tmin + np.arange(0, n_times + 1, step) / trials.sfreq
    return [(float(a), float(b)) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def neighbours(positions_C2: np.ndarray, radius: float) -> list[np.ndarray]:
    """Indices of the sensors within `radius` m of each sensor in the plane, itself among them."""
    apart_CC = np.linalg.norm(positions_C2[:, None] - positions_C2[None], axis=-1)
    return [np.flatnonzero(apart_C <= radius) for apart_C in apart_CC]


def _inside(trials: Trials, window: Window) -> np.ndarray:
    half = 0.5 / trials.sfreq  # the times of samples are not exact
    return (trials.times > window[0] - half) & (trials.times < window[1] - half)


def retrain(split: Split, test: Trials, features: Mapping[str, np.ndarray], config: Config, window: Window) -> Row:
    """Test a new decoder that is trained on one time window (s) alone; row i of `test` and `features` is image i.

    It learns its own fusion (align.mode "retrieval"), also where the run's was the prior's.
    """
    one = with_settings(config, {"align.mode": "retrieval", "targets.specs": tuple(split.features)})
    choice = choose(replace(split, trials=split.trials.crop(*window)), one)
    return HeldOut(test.crop(*window), features).row(choice)
