"""Fit of one run: a training set is prepared, and a brain encoder trained on it or solved in closed form.

Letters: N trials, M images, C channels, T samples, D embedding.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from hvf.alignment.checkpoint import Alignment, RecordingInfo
from hvf.alignment.closed_form import solve
from hvf.alignment.epochs import seeded
from hvf.alignment.inputs import centred, image_tensors, standard
from hvf.alignment.people import People
from hvf.alignment.rows import Rows
from hvf.alignment.training import Prepared
from hvf.alignment.training_set import TrainingSet
from hvf.config import SOLVED, Config
from hvf.runs import track

RESIDENT_BYTES = 2**31  # trials that take more, as float32, are not held in memory but read batch by batch


def fit(
    training_set: TrainingSet,
    config: Config,
    device: str | torch.device = "cpu",
    *,
    seed: int | None = None,
    validation_apart: bool = False,
) -> Alignment:
    """Fit a brain encoder, and in retrieval mode a fusion, to a training set.

    `config.align.mode` "retrieval" trains the brain encoder and a new fusion of the features together;
    "reconstruction" trains the brain encoder against the prior's fusion, frozen, on features as they are. A share of
    the concepts is kept from training; the epoch that retrieves their images best (mean reciprocal rank; of equal
    ones, the lowest loss) is returned. Trials of one image are not contrasted with each other. The same seed gives the
    same numbers. With `config.align.refit` the decoder is then trained anew on all images, for as many epochs.

    `config.targets` names the encoders, and may name views, of which a step takes one instead of the image, and a text
    encoder, whose features of the captions take part in the loss.

    `seed` draws the weights and batches, by default that which draws the validation concepts, `config.align.seed`. What
    is solved at once is then solved for all images, but with `validation_apart`. Raises HvfError if a channel is
    constant or not finite, features are missing, the prior's fusion is missing, unwanted or of another width, or the
    loss is not finite.
    """
    with seeded(config.align.seed if seed is None else seed, device):
        training = prepare(training_set, config, device).start()
        if config.brain.encoder in SOLVED:
            solve(training, refit=not validation_apart)
        else:
            for epoch in track(range(config.align.epochs), "training the brain encoder"):
                training.run(epoch)
    fitted = training.finish()
    if config.align.refit and config.brain.encoder not in SOLVED:
        return _refit(fitted, training_set, device)
    return fitted


def _refit(chosen: Alignment, training_set: TrainingSet, device: str | torch.device) -> Alignment:
    """Training anew on all images, for as many epochs as were best on validation images; its history is the first's.

    Weights are drawn anew by the same seed, and the rate follows the same schedule. What validation losses weighed
    stays as it was chosen.
    """
    config, history = chosen.config, chosen.history
    with seeded(config.align.seed, device):
        training = prepare(training_set, config, device, everything=True).start()
        if training.fusion.weighs_targets:
            training.fusion.load_state_dict(dict(chosen.hvf.named_buffers()), strict=False)
        loss = 0.0
        for epoch in track(range(chosen.best["epoch"] + 1), "training it on all images"):
            loss = training.train_epoch(epoch)
            training.check_loss(epoch, loss)
        training.validate()  # for the temperature alone: these images were trained on
        training.keep()
    training.history = [entry | ({"refit_loss": loss} if entry["best"] else {}) for entry in history]
    return training.finish()


def prepare(
    training_set: TrainingSet,
    config: Config,
    device: str | torch.device = "cpu",
    normalisation: dict[str, tuple[Tensor, Tensor]] | None = None,
    everything: bool = False,
) -> Prepared:
    """Check, split and standardise a training set, and put it on the device; several threads may do so at once.

    Parameters
    ----------
    training_set : TrainingSet
        What is learnt from.
    config : Config
        `config.brain.people` says what is done to each person's trials.
    device : str or torch.device
        Where it is put.
    normalisation : dict, optional
        {"x" | spec: (mean, sd)} of a trained decoder, which is kept; by default that of the rows to train on.
    everything : bool
        Whether validation rows are trained on, too.
    """
    training_set.check(config)
    trials, image_N, fusion = training_set.trials, training_set.image_N, training_set.prior_fusion
    resident = 4 * math.prod(trials.shape) <= RESIDENT_BYTES
    if resident:  # a copy, read once, that is standardised in its place
        trials = trials.replace(x_NCT=trials.batch(slice(None)))
    trials.check()
    train_N, val_N = training_set.validation_split(config.align)
    train_N = np.arange(len(trials)) if everything else train_N
    specs = tuple(config.targets.specs) if fusion is None else fusion.specs
    people, kept = None, normalisation is not None
    if normalisation is None:
        normalisation = {"x": standard(trials.select(train_N), device)}
        if config.brain.people != "alike":
            person_N = training_set.person_N
            person_N = np.zeros(len(trials), int) if person_N is None else person_N
            people = People(trials, person_N, config.brain.people, train_N, device)
    if fusion is None and not kept:  # the prior's was trained on raw features; to a new one all encoders are equals
        trained_M = np.unique(image_N[train_N])
        normalisation |= {spec: centred(training_set.features[spec], trained_M, device) for spec in specs}
    recording = RecordingInfo.of(trials, training_set.digest)
    x_NCT = Rows(trials, normalisation["x"], resident, people)
    features = image_tensors(training_set.features, specs, {}, device)  # standardised when used: on a CPU no copy
    return Prepared(config, training_set, x_NCT, features, normalisation, recording, train_N, val_N)
