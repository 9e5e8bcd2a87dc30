"""The prior's objective: which images a step sees, and what is to be predicted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hvf.config import HvfError
from hvf.prior.model import TextConditions
from hvf.prior.objective import Objective, Resident, TrainingImages
from tests.tiny_sdxl import tiny_pipeline


def test_shares_of_a_batch_are_the_batch_and_epochs_are_shuffled(monkeypatch):
    rows: list[np.ndarray] = []
    monkeypatch.setattr(Objective, "loss", lambda self, prior, batch, *rest: rows.append(batch[0][:, 0, 0, 0].numpy()))
    numbered = torch.arange(10.0)[:, None, None, None].expand(10, 4, 8, 8)
    images = TrainingImages(Resident(numbered, {}), np.arange(1, 10), np.array([0]), None)
    objective = Objective(images, tiny_pipeline(), batch_size=4)
    for step in range(4):
        objective.training_loss(None, step)
    assert not np.array_equal(rows[0], rows[2])
    assert len({*rows[0], *rows[1]}) == 8
    assert 0 not in np.concatenate(rows)
    objective.training_loss(None, 3, 0, 2)
    objective.training_loss(None, 3, 1, 2)
    assert sorted([*rows[4], *rows[5]]) == sorted(rows[3])


def test_the_scheduler_says_what_is_predicted():
    pipeline = tiny_pipeline()
    x_0, noise = torch.randn(3, 4, 8, 8), np.ones((3, 4, 8, 8), np.float32)
    images = TrainingImages(Resident(x_0, {}), np.arange(2), np.array([2]), TextConditions(*(torch.zeros(1),) * 3))
    t, dropped = np.array([0, 500, 999]), np.zeros(3, bool)
    for kind in ("epsilon", "v_prediction"):
        pipeline.scheduler = type(pipeline.scheduler)(prediction_type=kind)
        objective = Objective(images, pipeline, batch_size=1)
        kept = objective.noise_scheduler.alphas_cumprod[t][:, None, None, None]
        velocity = kept.sqrt() * torch.from_numpy(noise) - (1 - kept).sqrt() * x_0
        target = torch.from_numpy(noise) if kind == "epsilon" else velocity
        loss = objective.loss(lambda *_, target=target: target, (x_0, {}), noise, t, dropped)
        assert loss.item() == pytest.approx(0, abs=1e-10)
    pipeline.scheduler = type(pipeline.scheduler)(prediction_type="sample")
    with pytest.raises(HvfError, match="prediction_type is sample"):
        Objective(images, pipeline, batch_size=1)
