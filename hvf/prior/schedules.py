"""Noise schedules of a pipeline: the samplers that draw on its own, the one to train on, and each step's noise.

A schedule of betas (DDPM's: Stable Diffusion, SDXL, SDXL-Turbo) can be followed by every sampler here. One of sigmas
alone (EDM's) or of flow matching is known to the pipeline's own scheduler only: another one would fall back to betas of
its own, and draw or train on other noise than the UNet knows, without a word.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)

from hvf.config import HvfError

SAMPLERS = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "ancestral": EulerAncestralDiscreteScheduler,
    "dpm": DPMSolverMultistepScheduler,
}
PREDICTIONS = ("epsilon", "v_prediction")  # what all samplers of betas can follow
_OF_FLOWS = ("use_flow_sigmas", "flow_prediction")


def sampler_of(own: Any, name: str, steps: int = 1) -> Any:
    """A fresh sampler on the noise schedule of a pipeline's own scheduler.

    Parameters
    ----------
    own : SchedulerMixin
        The pipeline's.
    name : str
        One of `SAMPLERS`, or "pipeline" for its own kind.
    steps : int
        How many it shall be able to take.

    Raises
    ------
    HvfError
        The schedule is none that this sampler, or an SDXL pipeline at all, can follow, or has fewer steps.
    """
    kind = type(own).__name__
    if not hasattr(own, "init_noise_sigma") or not hasattr(own, "scale_model_input"):
        raise HvfError(f"the pipeline's scheduler is a {kind}, by which diffusers' SDXL pipeline cannot draw")
    if name != "pipeline":
        _check_betas(own, "set sampling.scheduler to 'pipeline'")
    # A config remembers which values were defaults, and forgets it on disk; another sampler would replace those by
    # its own (timestep_spacing, say), so that the same pipeline drew otherwise once saved and read back.
    schedule = {key: value for key, value in own.config.items() if key != "_use_default_values"}
    if name == "ddim":
        schedule["clip_sample"] = False  # its default clips to -1..1, which latents exceed
    sampler = SAMPLERS.get(name, type(own))
    try:
        sampler.from_config(schedule).set_timesteps(steps)
    except (ValueError, NotImplementedError) as error:  # how diffusers refuses settings that contradict each other
        reason = " ".join(str(error).split())[:200]
        raise HvfError(
            f"sampling.scheduler {name!r} cannot take {steps} steps on the schedule of the pipeline's {kind}: {reason}"
        ) from error
    return sampler.from_config(schedule)


def training_schedule(own: Any) -> Any:
    """The pipeline's noise schedule for training, of all its steps; HvfError where it is not one of betas."""
    _check_betas(own, "a prior can be trained on none but betas")
    return DDPMScheduler.from_config(own.config)


def noise_shares(scheduler: Any, steps: int) -> np.ndarray:
    """The share of the variance that is noise, (T,), before each of so many steps."""
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "sigmas"):  # not times: those of some schedules are no steps of training
        sigma_T = scheduler.sigmas[: scheduler.order * steps : scheduler.order].cpu().double()
        kept_T = 1 - sigma_T if _is_flow(scheduler) else scheduler.config.get("sigma_data", 1.0)
        return (sigma_T**2 / (sigma_T**2 + kept_T**2)).numpy()
    times_T = scheduler.timesteps[:: scheduler.order][:steps].cpu()  # PNDM's are one more
    return 1 - scheduler.alphas_cumprod[times_T].numpy()


def _is_flow(scheduler: Any) -> bool:
    return bool(scheduler.config.get(_OF_FLOWS[0])) or scheduler.config.get("prediction_type") == _OF_FLOWS[1]


def _check_betas(own: Any, remedy: str) -> None:
    """HvfError unless a scheduler's noise follows betas, of which its UNet predicts noise or velocity."""
    kind, predicts = type(own).__name__, own.config.get("prediction_type", "nothing")
    if not hasattr(own, "alphas_cumprod") or _is_flow(own):
        raise HvfError(f"the noise schedule of the pipeline's {kind} is not one of betas: {remedy}")
    if predicts not in PREDICTIONS:
        raise HvfError(f"the scheduler's prediction_type is {predicts}, not {' or '.join(PREDICTIONS)}: {remedy}")
