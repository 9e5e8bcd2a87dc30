"""Trials of several people made alike before one brain encoder learns from all of them.

"standardised": each person's channels get mean 0 and sd 1. "euclidean": these trials are then multiplied by the inverse
square root of their mean covariance (Euclidean alignment, He and Wu 2020, doi 10.1109/TBME.2019.2913914), and by the
square root of the covariance that people have on average, the same for everybody: a network learns from channels as
correlated as they are better than from white ones, whose weakest directions are blown up (docs/LOG.md).
Neither needs to know the images, so a new person's trials are made alike before anything of theirs is learnt from.

Letters: N trials, C channels, T samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hvf.alignment.inputs import Device, standard, tensor
from hvf.data.trials.trials import Trials

SINGULAR = 1e-10  # share of the largest variance below which a direction is empty (an average reference leaves one)


@dataclass(frozen=True, eq=False)
class PersonInput:
    """What makes one person's trials like everybody's: (x - mean) / sd, then a map of the channels where there is one.

    mean and sd are (1, C, 1).
    """

    mean: Tensor
    sd: Tensor
    map_CC: Tensor | None = None

    @classmethod
    def of(
        cls, trials: Trials, people: str, device: Device, average_CC: np.ndarray | Tensor | None = None
    ) -> PersonInput:
        """The input of the person whose trials these are. It does not look at images.

        Parameters
        ----------
        trials : Trials
            All of one person.
        people : str
            As in `BrainConfig`.
        device : str or torch.device
            Where the trials will be.
        average_CC : ndarray, optional
            The covariance that people have on average, which aligned trials get (None: the identity).
        """
        mean, sd = standard(trials, device)
        if people != "euclidean":
            return cls(mean, sd)
        map_CC = power(mean_covariance(trials, mean, sd), -0.5)
        if average_CC is not None:
            map_CC = power(np.asarray(average_CC, np.float64), 0.5) @ map_CC
        return cls(mean, sd, tensor(map_CC, device))

    def __call__(self, x_NCT: Tensor) -> Tensor:
        """Aligned trials (N, C, T)."""
        z_NCT = (x_NCT - self.mean).div_(self.sd)
        return z_NCT if self.map_CC is None else self.map_CC @ z_NCT


def mean_covariance(trials: Trials, mean: Tensor, sd: Tensor) -> np.ndarray:
    """Mean covariance (C, C) of the channels of standardised trials, in float64, read part by part."""
    n, total_CC = 0, np.zeros((trials.shape[1], trials.shape[1]))
    mean_1C1, sd_1C1 = (x.cpu().numpy().astype(np.float64) for x in (mean, sd))
    for _, x_NCT in trials.batches():
        flat_CX = ((x_NCT - mean_1C1) / sd_1C1).swapaxes(0, 1).reshape(trials.shape[1], -1)
        total_CC += flat_CX @ flat_CX.T
        n += flat_CX.shape[1]
    return total_CC / n


def power(cov_CC: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a covariance, symmetric; directions without variance stay without.

    >>> power(np.diag([4.0, 1.0, 0.0]), -0.5).round(3).tolist()
    [[0.5, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    value_C, vector_CC = np.linalg.eigh(cov_CC)
    empty_C = value_C <= SINGULAR * value_C[-1]
    factor_C = np.where(empty_C, 0.0, np.where(empty_C, 1.0, value_C) ** exponent)
    return vector_CC * factor_C @ vector_CC.T


class People:
    """Inputs of several people, and whose each trial is.

    Parameters
    ----------
    trials : Trials
        Of all people (N).
    person_N : ndarray
        The person, from 0, whose each trial is.
    people : str
        "standardised" or "euclidean".
    rows : ndarray
        The trials that inputs are computed from: those that are trained on.
    device : str or torch.device
        Where the trials will be.
    """

    def __init__(self, trials: Trials, person_N: np.ndarray, people: str, rows: np.ndarray, device: Device) -> None:
        self.person_N = person_N
        each = {}
        for i in np.unique(person_N).tolist():
            own = rows[person_N[rows] == i]
            each[i] = trials.select(own if len(own) else np.flatnonzero(person_N == i))  # of validation concepts alone
        self.average_CC: np.ndarray | None = None
        if people == "euclidean":
            covariances = [mean_covariance(own, *standard(own, device)) for own in each.values()]
            self.average_CC = np.mean(covariances, axis=0)
        self.inputs = {i: PersonInput.of(own, people, device, self.average_CC) for i, own in each.items()}

    def aligned(self, x_NCT: Tensor, rows: np.ndarray | None = None) -> Tensor:
        """The trials `rows` (None: all), each aligned by the input of its person; in place."""
        person_N = self.person_N if rows is None else self.person_N[rows]
        for i, to_all in self.inputs.items():
            own = torch.from_numpy(np.flatnonzero(person_N == i)).to(x_NCT.device)
            if len(own):
                x_NCT[own] = to_all(x_NCT[own])
        return x_NCT
