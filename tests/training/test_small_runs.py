"""The loop for small trainings, and steps that a GPU replays."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional

from hvf.config import HvfError
from hvf.training.cuda_graphs import PLAIN_STEPS, Replayed, fast_products
from hvf.training.small_runs import Hyperparameters, optimise

RECIPE = Hyperparameters(steps=12, batch_size=8, learning_rate=0.05, ema=0.5)
CPU = torch.device("cpu")


class Line(nn.Module):
    """y = 2 x + 1, learnt from noisy items."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map = nn.Linear(1, 1)
        self.x_N1 = torch.linspace(-1, 1, 40)[:, None]

    def loss(self, indices: torch.Tensor) -> torch.Tensor:
        x = self.x_N1.to(indices.device)[indices]
        return functional.mse_loss(self.map(x), 2 * x + 1 + 0.1 * torch.randn_like(x))


def learn(path, recipe=RECIPE, device=CPU, between=None) -> dict[str, torch.Tensor]:
    line = Line()
    return optimise(line, line.loss, 40, recipe, path, device, between=between).state_dict()


def test_a_training_that_goes_on_ends_as_one_that_was_not_interrupted(tmp_path, monkeypatch):
    whole = learn(tmp_path / "whole.pt")
    monkeypatch.setattr("hvf.training.small_runs.SAVE_EVERY", 5)
    seen = []

    def stop() -> None:
        seen.append(1)
        if len(seen) > 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("hvf.training.small_runs.LOG_EVERY", 6)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "cut.pt", between=stop)
    assert torch.load(tmp_path / "cut.pt", weights_only=True)["step"] == 5
    again = learn(tmp_path / "cut.pt")
    for name, x in whole.items():
        torch.testing.assert_close(again[name], x, rtol=0, atol=0)
    assert json.loads((tmp_path / "cut.json").read_text())["settings"]["steps"] == 12


def test_it_learns(tmp_path):
    found = learn(
        tmp_path / "line.pt", Hyperparameters(steps=300, batch_size=16, learning_rate=0.05, weight_decay=0.0, ema=0.9)
    )
    assert found["map.weight"].item() == pytest.approx(2, abs=0.15)
    assert found["map.bias"].item() == pytest.approx(1, abs=0.1)


def test_what_cannot_be_learnt_is_refused(tmp_path):
    with pytest.raises(HvfError, match="40 pictures, fewer than a batch of 64"):
        learn(tmp_path / "x.pt", Hyperparameters(steps=1, batch_size=64, learning_rate=0.1))
    with pytest.raises(HvfError, match="not finite after step 12: lower"):
        learn(tmp_path / "x.pt", Hyperparameters(steps=12, batch_size=8, learning_rate=float("inf")))
    assert not (tmp_path / "x.pt").exists()


def test_precision_is_as_it_was_afterwards():
    before = torch.get_float32_matmul_precision()
    with fast_products("cpu"):
        assert torch.get_float32_matmul_precision() == before
    with fast_products("cuda"):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def test_on_a_cpu_a_step_is_called_as_it_is():
    seen = []

    def step(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x.sum()

    replayed = Replayed(step, "cpu")
    x = torch.ones(3)
    assert [replayed(x).item() for _ in range(PLAIN_STEPS + 2)] == [3.0] * (PLAIN_STEPS + 2)
    assert all(one is x for one in seen)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_replayed_training_equals_a_plain_one(tmp_path):
    graphed = learn(tmp_path / "graph.pt", device=torch.device("cuda"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hvf.training.cuda_graphs.PLAIN_STEPS", 10**9)
        plain = learn(tmp_path / "eager.pt", device=torch.device("cuda"))
    for name, x in plain.items():
        torch.testing.assert_close(graphed[name], x, rtol=1e-5, atol=1e-6)
