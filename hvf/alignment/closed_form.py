"""Regression in closed form, its penalties chosen on validation images or by leaving training images out.

Letters: N trials, M images, P flat samples of a trial, D embedding.
"""

from __future__ import annotations

import math
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


def solve(training: Training, *, refit: bool = True) -> None:
    """Choose the penalties on the training rows, and fit all rows with them, or with `refit` off these alone.

    Ridge takes the penalty that finds validation images best; in the history a penalty stands where an epoch would. The
    encoding model weighs its bands by leaving out training images, of which there are more, and is only validated.
    """
    training.fusion.eval()
    last_N = torch.cat([training.train_N, training.val_N]) if refit else training.train_N
    if training.config.brain.encoder == "ridge":
        take = ridge_of(training, training.train_N)
        for epoch, penalty in enumerate(PENALTIES):
            loss = take(penalty)
            entry = {"epoch": epoch, "loss": loss, "penalty": penalty, **training.validate()}
            kept_length = training.config.fusion.kind == "plain"
            training.history.append(entry | ({"validation_spread": spread(training)} if kept_length else {}))
        best = best_of(training.history)
        training.history = [{**entry, "best": entry is best} for entry in training.history]
        ridge_of(training, last_N)(best["penalty"])
    else:
        model = encoding_of(training, training.train_N)
        chosen = model.choose()
        put(training, model, chosen)
        training.history = [{"epoch": 0, **chosen.entry(), **training.validate(), "best": True}]
        put(training, encoding_of(training, last_N), chosen)
    training.keep()


def ridge_of(training: Training, rows_N: Tensor) -> Callable[[float], float]:
    """From flat trials to the images' features."""
    x_NP, y_ND = training.x_NCT[rows_N], training.images(training.image_N[rows_N])
    project = cast("torch.nn.Linear", training.brain.project)
    return partial(take_ridge, project, *(x.flatten(1).cpu().numpy() for x in (x_NP, y_ND)))


@torch.no_grad()
def spread(training: Training) -> float:
    """The sd of what is predicted for validation trials, in sds of the training images' features.

    Below 1: a mean over all that a trial may answer varies less than images do.
    """
    z_b_ND, _ = training.embedded()
    return float(z_b_ND.square().mean().sqrt())


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


def encoding_of(training: Training, rows_N: Tensor) -> encoding.Encoding:
    """The encoding model of the mean responses to the images of these rows."""
    x_NP = training.x_NCT[rows_N].flatten(1).cpu().double().numpy()
    image_M, x_MP = encoding.mean_by_image(x_NP, training.image_N[rows_N].cpu().numpy())
    parts = training.standardised(training.features(torch.from_numpy(image_M).to(training.x_NCT.device)))
    return encoding.Encoding.of(x_MP, parts, training.shown_M[image_M], training.fusion.width - 1)


@torch.no_grad()
def put(training: Training, model: encoding.Encoding, chosen: encoding.Choice) -> None:
    """Write what was chosen into the training's brain encoder, fusion and temperature."""
    encoding.put(model, chosen, cast("torch.nn.Linear", training.brain.project), cast("Linear", training.fusion))
    training.log_scale.fill_(math.log(chosen.scale))
