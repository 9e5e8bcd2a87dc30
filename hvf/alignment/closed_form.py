"""Regression in closed form, its penalty chosen on validation images.

Letters: N trials, M images, P flat samples of a trial, D embedding.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from hvf.alignment import encoding
from hvf.alignment.epochs import best_of
from hvf.alignment.training import Training
from hvf.models.fusions.linear import Linear

PENALTIES = tuple(10.0**e for e in range(7))  # ridge, for standardised trials


def solve(training: Training) -> None:
    """Try every penalty on the training rows, and fit the one that finds validation images best to all rows.

    In the history a penalty stands where an epoch would.
    """
    training.fusion.eval()
    ridge = training.config.brain.encoder == "ridge"
    solver, penalties = (ridge_of, PENALTIES) if ridge else (encoding_of, encoding.PENALTIES)
    take = solver(training, training.train_N)
    for epoch, penalty in enumerate(penalties):
        loss = take(penalty)
        training.history.append({"epoch": epoch, "loss": loss, "penalty": penalty, **training.validate()})
    best = best_of(training.history)
    training.history = [{**entry, "best": entry is best} for entry in training.history]
    solver(training, torch.cat([training.train_N, training.val_N]))(best["penalty"])
    training.keep()


def ridge_of(training: Training, rows_N: Tensor) -> Callable[[float], float]:
    """From flat trials to the images' features."""
    x_NP, y_ND = training.x_NCT[rows_N], training.images(training.image_N[rows_N])
    project = cast("torch.nn.Linear", training.brain.project)
    return partial(take_ridge, project, *(x.flatten(1).cpu().numpy() for x in (x_NP, y_ND)))


def take_ridge(project: torch.nn.Linear, x_NP: np.ndarray, y_ND: np.ndarray, penalty: float) -> float:
    """Put the solution into the linear encoder; returns the mean squared residual."""
    from scipy.linalg import LinAlgWarning
    from sklearn.linear_model import Ridge

    with warnings.catch_warnings():  # the weakest penalties are tried as well, and lose on validation
        warnings.simplefilter("ignore", LinAlgWarning)
        ridge = Ridge(alpha=penalty).fit(x_NP, y_ND)
    for ours, theirs in ((project.weight, ridge.coef_), (project.bias, ridge.intercept_)):
        ours.data.copy_(torch.from_numpy(np.asarray(theirs, dtype=np.float32)))
    return float(np.square(ridge.predict(x_NP) - y_ND).mean())


def encoding_of(training: Training, rows_N: Tensor) -> Callable[[float], float]:
    """From the images' features to the mean responses to them."""
    x_NP = training.x_NCT[rows_N].flatten(1).cpu().double().numpy()
    image_M, x_MP = encoding.mean_by_image(x_NP, training.image_N[rows_N].cpu().numpy())
    parts = training.standardised(training.features(torch.from_numpy(image_M).to(training.x_NCT.device)))
    solved = encoding.Encoding.of(x_MP, encoding.features_together(parts), training.fusion.width)
    project, fusion = cast("torch.nn.Linear", training.brain.project), cast("Linear", training.fusion)
    return lambda penalty: encoding.put(solved, penalty, project, fusion)
