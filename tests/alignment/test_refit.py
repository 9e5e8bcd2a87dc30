"""align.refit: the epoch is chosen on validation images, and then all images are trained on for as many."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hvf import alignment
from hvf.alignment import Alignment, training
from hvf.alignment.batched import fit_together, why_not_batched
from hvf.alignment.training_set import TrainingSet
from hvf.config import HvfError
from hvf.data.trials.splitting import concept_split
from hvf.population.fitting import fit as fit_population
from tests.alignment.test_fitting import settings, toy


def fitted(loud: bool = False, **changes) -> Alignment:
    """Fitted to the toy; `loud`: with other trials of the validation images."""
    trials, features, concepts = toy()
    if loud:
        _, val_N = concept_split(concepts, 0.1, 0, at_least=2)
        x_NCT = trials.load_array().copy()
        x_NCT[val_N] = 3 * x_NCT[val_N][::-1]
        trials = trials.replace(x_NCT=x_NCT)
    few = {"align__epochs": 6, "align__batch_size": 64}
    return alignment.fit(TrainingSet(trials, features, concepts), settings(**few | changes))


def test_every_training_image_is_seen_in_as_many_epochs_as_were_chosen(monkeypatch):
    seen: list[int] = []
    step = training.Training.step

    def watched(self: training.Training, rows: torch.Tensor) -> torch.Tensor:
        seen.extend(rows.tolist())
        return step(self, rows)

    monkeypatch.setattr(training.Training, "step", watched)
    n, plain = len(toy()[2]), fitted()
    without = list(seen)
    assert len(set(without)) < n  # the control: validation images are not trained on
    seen.clear()
    refitted = fitted(align__refit=True)
    assert seen[: len(without)] == without
    assert np.bincount(seen[len(without) :], minlength=n).tolist() == [plain.best["epoch"] + 1] * n
    assert refitted.best | {"refit_loss": 0} == plain.best | {"refit_loss": 0}  # the history is that of the choice
    assert "refit_loss" in refitted.best


@pytest.mark.parametrize("refit", [False, True])
def test_refitted_weights_depend_on_validation_trials_and_others_do_not(refit):
    a, b = (fitted(loud, align__epochs=1, align__refit=refit) for loud in (False, True))
    pairs = [(a.normalisation["x"][0], b.normalisation["x"][0])]
    pairs += list(zip(a.brain.state_dict().values(), b.brain.state_dict().values(), strict=True))
    assert all(torch.equal(p, q) for p, q in pairs) == (not refit)


def test_a_gate_stays_as_validation_chose_it():
    refitted, plain = (fitted(fusion__kind="gated", align__refit=refit) for refit in (True, False))
    assert torch.equal(refitted.hvf.gate, plain.hvf.gate)
    assert not torch.equal(plain.hvf.gate, torch.full((2,), 0.5))


def test_what_cannot_be_refitted_says_so():
    trials, features, concepts = toy()
    data, config = TrainingSet(trials, features, concepts), settings(align__refit=True)
    assert "number of epochs of its own" in (why_not_batched(config) or "")
    with pytest.raises(HvfError, match="trained anew for a number of epochs of its own"):
        fit_together([(data, config), (data, settings(align__refit=True, align__seed=1))])
    flat = TrainingSet(trials.replace(x_NCT=trials.load_array()[:, :, :1]), features, concepts)
    with pytest.raises(HvfError, match="DINA's towers are not refitted"):
        fit_population(flat, config)
