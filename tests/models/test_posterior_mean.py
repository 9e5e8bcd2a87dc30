"""The learnt posterior mean against one that is known in closed form."""

from __future__ import annotations

import torch

from hvf.models import posterior_mean
from hvf.models.posterior_mean import PosteriorMean


def two_kinds(n: int, noise: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(z_b, z_f) of two kinds of image, at -1 and 1 along the first of three dimensions, and noise on z_b."""
    torch.manual_seed(seed)
    kind_N = torch.randint(0, 2, (n,)) * 2.0 - 1
    z_f_ND = torch.stack([kind_N, 3 * kind_N + 5, torch.full((n,), 7.0)], dim=1)
    return kind_N[:, None] + noise * torch.randn(n, 3), z_f_ND


def test_it_says_the_mean_of_two_kinds_and_no_linear_map_does(monkeypatch):
    """Of ±1 seen through Gaussian noise of variance s in three dimensions, E is tanh(Σ z / s)."""
    monkeypatch.setattr(posterior_mean, "WIDER", 16)
    monkeypatch.setattr(posterior_mean, "DROPOUT", 0.0)
    noise = 0.6
    z_b_ND, z_f_ND = two_kinds(4096, noise, 0)
    model = PosteriorMean(3)
    model.fit_scale(z_f_ND)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(400):
        optimizer.zero_grad()
        model.loss(z_b_ND, z_f_ND).backward()
        optimizer.step()
    model.eval()
    new_ND, seen_ND = two_kinds(2000, noise, 1)
    expected_N = torch.tanh(new_ND.sum(1) / noise**2)
    with torch.no_grad():
        said_ND = model(new_ND)
        loss = model.loss(new_ND, seen_ND)
    assert (said_ND[:, 0] - expected_N).abs().mean() < 0.06
    torch.testing.assert_close(said_ND[:, 1], 3 * said_ND[:, 0] + 5, atol=0.4, rtol=0)
    assert (said_ND[:, 2] - 7).abs().max() < 0.5  # a dimension that never changes keeps its unit
    design = torch.cat([new_ND, torch.ones(2000, 1)], dim=1)
    linear = (design @ torch.linalg.lstsq(design, seen_ND).solution - seen_ND)[:, :2] / model.sd_D[:2]
    assert loss < 0.8 * linear.square().mean() * 2 / 3  # the third dimension is 0 in one mean and left out of the other


def test_before_it_has_learnt_it_says_the_mean_which_has_a_loss_of_one():
    z_f_MD = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0, 0.1, 3.0]) + 2
    model = PosteriorMean(4).eval()
    model.fit_scale(z_f_MD)
    assert abs(model.loss(torch.randn(500, 4), z_f_MD).item() - 1) < 1e-4
