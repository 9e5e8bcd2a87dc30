"""Which epoch is kept: the validation loss against the formula, and ties in the mean reciprocal rank."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hvf.alignment.epochs import Epochs, best_of, retrieves_better
from hvf.config import Config

ANGLES = (0.7, 0.2, 0.5)  # between each trial and its image: less than 45 degrees, so that both are found
SCALE = 3.0


class Scripted(Epochs):
    """Two orthogonal images; in each epoch both trials stand at a given angle to their image, towards the other."""

    def __init__(self, *angles: float) -> None:
        super().__init__(Config(), torch.arange(4), np.array([0, 1]))
        self.angles, self.kept, self.log_scale = list(angles), [], torch.tensor(math.log(SCALE))

    def embedded(self) -> tuple[Tensor, Tensor]:
        a = self.angles[len(self.history)]
        return torch.tensor([[math.cos(a), math.sin(a)], [math.sin(a), math.cos(a)]]), torch.eye(2)

    def keep(self) -> None:
        self.kept.append(len(self.history))


def test_validation_loss_is_the_cross_entropy_of_each_trial_among_the_images():
    training = Scripted(0.3)
    own, other = math.exp(SCALE * math.cos(0.3)), math.exp(SCALE * math.sin(0.3))
    assert training.validate()["validation_loss"] == pytest.approx(-math.log(own / (own + other)), abs=1e-6)


def test_of_epochs_with_equal_ranks_the_one_of_lowest_validation_loss_is_kept():
    training = Scripted(*ANGLES)
    for epoch in range(3):
        training.judge(epoch, 1.0)
    assert [entry["validation_mrr"] for entry in training.history] == [1.0, 1.0, 1.0]
    assert [entry["best"] for entry in training.history] == [False, True, False]
    assert training.kept == [0, 1]
    assert max(training.history, key=lambda entry: entry["validation_mrr"])["epoch"] == 0  # ranks alone: the earliest
    assert best_of(training.history)["epoch"] == 1


def test_a_higher_rank_wins_whatever_the_loss_and_ties_in_both_are_the_first():
    training = Scripted(1.2, 0.7, 0.7)  # at 1.2 both trials are nearer to the other's image
    for epoch in range(3):
        training.judge(epoch, 1.0)
    assert [entry["best"] for entry in training.history] == [False, True, False]
    sure, right = {"validation_mrr": 0.4, "validation_loss": 0.1}, {"validation_mrr": 0.5, "validation_loss": 9.0}
    assert retrieves_better(right, sure)
    assert not retrieves_better(sure, right)
    rounded = {"validation_mrr": 0.5 + 1e-16, "validation_loss": 9.5}  # the same ranks, summed in another order
    assert not retrieves_better(rounded, right)
