"""Noise schedules of other pipelines: followed as they are, or refused; never replaced by another one."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from hvf.config import HvfError, with_settings
from hvf.decoder import Decoder
from hvf.prior.objective import Objective, Resident, TrainingImages
from hvf.prior.reconstruction import Reconstructor
from hvf.prior.schedules import noise_shares, sampler_of
from tests.prior.drawing import WIDTH, altered, make_prior
from tests.small_run import small_config
from tests.tiny_sdxl import tiny_pipeline

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
UNKNOWN = {  # to a sampler of betas
    "edm": lambda: diffusers.EDMEulerScheduler(),
    "edm-dpm": lambda: diffusers.EDMDPMSolverMultistepScheduler(),
    "flow": lambda: diffusers.FlowMatchEulerDiscreteScheduler(),
    "dpm-flow": lambda: diffusers.DPMSolverMultistepScheduler(**BETAS, **FLOW),
}
Z_ND = np.random.default_rng(0).standard_normal((2, WIDTH)).astype(np.float32)


def drawn(scheduler, sampling):
    pipeline = tiny_pipeline()
    pipeline.scheduler = scheduler
    return Reconstructor(pipeline, make_prior(pipeline.unet)).draw(Z_ND, sampling)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "ancestral", "dpm"])
@pytest.mark.parametrize("own", UNKNOWN)
def test_a_schedule_of_no_betas_is_not_replaced_by_betas(own, sampler):
    """DDIM on EDM's schedule took DDPM's betas, 0.0001 to 0.02, and drew without a word."""
    with pytest.raises(
        HvfError, match="the pipeline's scheduler is a Flow|is not one of betas: set sampling.scheduler"
    ):
        drawn(UNKNOWN[own](), altered(scheduler=sampler))


@pytest.mark.parametrize("own", UNKNOWN)
def test_no_prior_is_trained_on_betas_in_place_of_another_schedule(own):
    pipeline = tiny_pipeline()
    pipeline.scheduler = UNKNOWN[own]()
    images = TrainingImages(
        Resident(torch.zeros(4, 4, 8, 8), {"a": torch.zeros(4, 6)}), np.arange(2), np.arange(2, 4), None
    )
    with pytest.raises(HvfError, match="not one of betas: a prior can be trained on none but betas"):
        Objective(images, pipeline, batch_size=2)


@pytest.mark.parametrize("own", ["edm", "edm-dpm", "dpm-flow"])
def test_the_pipelines_own_sampler_follows_it(own):
    assert np.ptp(drawn(UNKNOWN[own](), altered(scheduler="pipeline"))) > 0


def test_flow_matching_is_refused_where_the_stock_pipeline_cannot_draw_by_it():
    with pytest.raises(
        HvfError, match="is a FlowMatchEulerDiscreteScheduler, by which diffusers' SDXL pipeline cannot"
    ):
        drawn(UNKNOWN["flow"](), altered(scheduler="pipeline"))


def test_the_share_of_noise_along_a_flow():
    """x_t = (1 - σ) x + σ ε, as the scheduler adds it."""
    scheduler = UNKNOWN["dpm-flow"]()
    shares = noise_shares(scheduler, 5)
    for share, time in zip(shares, scheduler.timesteps, strict=True):
        of_image, of_noise = (
            float(scheduler.add_noise(torch.full((1, 1), x), torch.full((1, 1), 1 - x), time[None])) for x in (1.0, 0.0)
        )
        assert share == pytest.approx(of_noise**2 / (of_image**2 + of_noise**2), abs=1e-5)


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 1001), ("pipeline", 51)])
def test_more_steps_than_the_schedule_has(sampler, steps):
    own = diffusers.LCMScheduler(**BETAS)
    with pytest.raises(
        HvfError, match=f"sampling.scheduler '{sampler}' cannot take {steps} steps on the schedule of the"
    ):
        sampler_of(own, sampler, steps)
    assert sampler_of(own, sampler, steps - 1).num_inference_steps is None


def test_settings_that_contradict_each_other():
    with pytest.raises(
        HvfError, match="'dpm' cannot take 4 steps on the schedule of the pipeline's DEIS.*final_sigmas_type"
    ):
        sampler_of(diffusers.DEISMultistepScheduler(**BETAS), "dpm", 4)


def test_it_is_refused_as_the_models_are_loaded():
    decoder = Decoder(with_settings(small_config(), {"sampling.steps": 1001, "sampling.scheduler": "ddim"}))
    with pytest.raises(HvfError, match="'ddim' cannot take 1001 steps"):
        _ = decoder.drawing_models
