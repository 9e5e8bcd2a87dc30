"""Vague embeddings: the posterior mean that they claim to be."""

from __future__ import annotations

import pytest
import torch

from hvf.prior.embedding_noise import CLEAR, LEAST, Vague

N, D = 20_000, 6
SPREAD_D = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2, 0.1])


@pytest.fixture(scope="module")
def z_ND() -> torch.Tensor:
    """Gaussian embeddings with a mean, turned so that no component lies on an axis."""
    generator = torch.Generator().manual_seed(0)
    turn_DD = torch.linalg.qr(torch.randn(D, D, generator=generator))[0]
    return 5 + (torch.randn(N, D, generator=generator) * SPREAD_D) @ turn_DD


def measured(z_ND: torch.Tensor, most: float = 4.0) -> Vague:
    vague = Vague(D, most)
    vague.measure(z_ND)
    return vague


def told(vague: Vague, z_ND: torch.Tensor, strength: float, shape: float) -> torch.Tensor:
    noise_ND = torch.randn(z_ND.shape, generator=torch.Generator().manual_seed(1))
    return vague(z_ND, noise_ND, torch.tensor([[strength, shape]]).expand(len(z_ND), 2))


@pytest.mark.parametrize("shape", [0.0, 0.5, 1.0])
def test_a_vague_embedding_is_the_best_guess_and_explains_what_it_should(z_ND, shape):
    vague = measured(z_ND)
    heard_ND = told(vague, z_ND, 1.5, shape)
    error_ND = (heard_ND - z_ND) @ vague.axes_DD
    power_D = vague.power_D
    noise_D = 1.5**2 * power_D.mean() * (power_D / power_D.mean()) ** shape
    explained_D = 1 - error_ND.square().mean(0) / power_D
    torch.testing.assert_close(explained_D, power_D / (power_D + noise_D), atol=0.03, rtol=0)
    # A posterior mean cannot be bettered by scaling it.
    kept_ND = (heard_ND - vague.mean_D) @ vague.axes_DD
    slope_D = (kept_ND * ((z_ND - vague.mean_D) @ vague.axes_DD)).mean(0) / kept_ND.square().mean(0)
    torch.testing.assert_close(slope_D[-3:], torch.ones(3), atol=0.05, rtol=0)


def test_other_directions_than_those_of_the_embeddings_make_worse_guesses(z_ND):
    """The control: unmeasured, every direction is filtered alike, and around 0."""
    error, unmeasured = (
        (told(v, z_ND, 1.5, 0.0) - z_ND).square().mean().item() for v in (measured(z_ND), Vague(D, 4.0))
    )
    assert unmeasured > 2 * error


def test_without_noise_nothing_changes_and_stronger_noise_leaves_less(z_ND):
    vague = measured(z_ND)
    assert torch.equal(told(vague, z_ND, 0.0, 0.3), z_ND)
    lengths = [(told(vague, z_ND, s, 0.3) - vague.mean_D).norm(dim=1).mean() for s in (0.5, 1.0, 2.0, 8.0)]
    assert lengths == sorted(lengths, reverse=True)


def test_levels_leave_a_share_clear_and_stay_in_their_bounds():
    drawn_N2 = torch.rand(N, 2, generator=torch.Generator().manual_seed(2))
    strength_N, shape_N = Vague(D, 4.0).levels(drawn_N2).T
    assert (strength_N == 0).float().mean() == pytest.approx(CLEAR, abs=0.02)
    assert strength_N[strength_N > 0].min() >= LEAST - 1e-6
    assert strength_N.max() <= 4.0 + 1e-5
    assert torch.equal(shape_N, drawn_N2[:, 1])


def test_measuring_again_changes_what_a_recorded_step_reads(z_ND):
    vague = Vague(D, 4.0)
    places = [x.data_ptr() for x in (vague.mean_D, vague.power_D, vague.axes_DD)]
    vague.measure(z_ND)
    assert [x.data_ptr() for x in (vague.mean_D, vague.power_D, vague.axes_DD)] == places
    assert vague.mean_D.mean() == pytest.approx(5, abs=0.1)
