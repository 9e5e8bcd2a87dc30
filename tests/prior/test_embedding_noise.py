"""EmbeddingNoise embeddings: the posterior mean that they claim to be."""

from __future__ import annotations

import pytest
import torch

from hvf.prior.embedding_noise import CLEAN_SHARE, WEAKEST, EmbeddingNoise

N, D = 20_000, 6
SPREAD_D = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2, 0.1])


@pytest.fixture(scope="module")
def z_ND() -> torch.Tensor:
    """Gaussian embeddings with a mean, turned so that no component lies on an axis."""
    generator = torch.Generator().manual_seed(0)
    turn_DD = torch.linalg.qr(torch.randn(D, D, generator=generator))[0]
    return 5 + (torch.randn(N, D, generator=generator) * SPREAD_D) @ turn_DD


def fitted(z_ND: torch.Tensor, strongest: float = 4.0) -> EmbeddingNoise:
    noise = EmbeddingNoise(D, strongest)
    noise.fit(z_ND)
    return noise


def filtered(noise: EmbeddingNoise, z_ND: torch.Tensor, strength: float, shape: float) -> torch.Tensor:
    noise_ND = torch.randn(z_ND.shape, generator=torch.Generator().manual_seed(1))
    return noise(z_ND, noise_ND, torch.tensor([[strength, shape]]).expand(len(z_ND), 2))


@pytest.mark.parametrize("shape", [0.0, 0.5, 1.0])
def test_a_filtered_embedding_is_the_best_guess_and_explains_what_it_should(z_ND, shape):
    noise = fitted(z_ND)
    filtered_ND = filtered(noise, z_ND, 1.5, shape)
    error_ND = (filtered_ND - z_ND) @ noise.axes_DD
    power_D = noise.power_D
    noise_D = 1.5**2 * power_D.mean() * (power_D / power_D.mean()) ** shape
    explained_D = 1 - error_ND.square().mean(0) / power_D
    torch.testing.assert_close(explained_D, power_D / (power_D + noise_D), atol=0.03, rtol=0)
    # A posterior mean cannot be bettered by scaling it.
    kept_ND = (filtered_ND - noise.mean_D) @ noise.axes_DD
    slope_D = (kept_ND * ((z_ND - noise.mean_D) @ noise.axes_DD)).mean(0) / kept_ND.square().mean(0)
    torch.testing.assert_close(slope_D[-3:], torch.ones(3), atol=0.05, rtol=0)


def test_other_directions_than_those_of_the_embeddings_make_worse_guesses(z_ND):
    """The control: unfitted, every direction is filtered alike, and around 0."""
    error, unfitted = (
        (filtered(v, z_ND, 1.5, 0.0) - z_ND).square().mean().item() for v in (fitted(z_ND), EmbeddingNoise(D, 4.0))
    )
    assert unfitted > 2 * error


def test_without_noise_nothing_changes_and_stronger_noise_leaves_less(z_ND):
    noise = fitted(z_ND)
    assert torch.equal(filtered(noise, z_ND, 0.0, 0.3), z_ND)
    lengths = [(filtered(noise, z_ND, s, 0.3) - noise.mean_D).norm(dim=1).mean() for s in (0.5, 1.0, 2.0, 8.0)]
    assert lengths == sorted(lengths, reverse=True)


def test_levels_leave_a_share_clear_and_stay_in_their_bounds():
    drawn_N2 = torch.rand(N, 2, generator=torch.Generator().manual_seed(2))
    strength_N, shape_N = EmbeddingNoise(D, 4.0).levels(drawn_N2).T
    assert (strength_N == 0).float().mean() == pytest.approx(CLEAN_SHARE, abs=0.02)
    assert strength_N[strength_N > 0].min() >= WEAKEST - 1e-6
    assert strength_N.max() <= 4.0 + 1e-5
    assert torch.equal(shape_N, drawn_N2[:, 1])


def test_fitting_again_changes_what_a_recorded_step_reads(z_ND):
    noise = EmbeddingNoise(D, 4.0)
    places = [x.data_ptr() for x in (noise.mean_D, noise.power_D, noise.axes_DD)]
    noise.fit(z_ND)
    assert [x.data_ptr() for x in (noise.mean_D, noise.power_D, noise.axes_DD)] == places
    assert noise.mean_D.mean() == pytest.approx(5, abs=0.1)
