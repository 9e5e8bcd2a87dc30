"""What a Fusion Prior learns: the noise in an image's latents, told through a frozen UNet from the image's features.

‖ε − δ(x_t, t, z_c)‖² with the empty prompt (arXiv 2602.07495, section 3). Whatever is random in a step (order, noise,
timesteps, dropped embeddings) comes from the seed and the step's number alone: a resumed training draws what an
uninterrupted one draws, and several processes share the batch that a single one would have.
Shape suffixes: N items, CHW a latent's channels, height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, StableDiffusionXLPipeline
from torch import Tensor, nn
from torch.nn import functional as F

from hvf.config import HvfError

VALIDATION_IMAGES = 256


@dataclass(frozen=True)
class Material:
    """What steps draw from, resident on one device.

    ``latents_NCHW`` are clean and scaled (x_0); ``features`` maps FeatureSpec to (N, d_k); ``train`` and ``validation``
    are disjoint row numbers; ``conditions`` are the empty prompt's embeddings, its pooled ones, and the time ids.
    """

    latents_NCHW: Tensor
    features: dict[str, Tensor]
    train: np.ndarray
    validation: np.ndarray
    conditions: tuple[Tensor, Tensor, Tensor]

    @property
    def checked(self) -> np.ndarray:
        """The rows that the validation loss uses: at most VALIDATION_IMAGES, spread over the held-out concepts."""
        return self.validation[:: max(1, len(self.validation) // VALIDATION_IMAGES)][:VALIDATION_IMAGES]


class Objective:
    """Losses of a prior that is attached to ``pipeline.unet``; the target is what the scheduler's config says.

    ``embedding_dropout`` is the share of embeddings zeroed in training. Raises HvfError for a prediction type other
    than epsilon and v_prediction.
    """

    def __init__(
        self,
        material: Material,
        pipeline: StableDiffusionXLPipeline,
        batch_size: int,
        embedding_dropout: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.material, self.unet, self.seed = material, pipeline.unet, seed
        self.batch_size, self.embedding_dropout = batch_size, embedding_dropout
        self.noising: Any = DDPMScheduler.from_config(pipeline.scheduler.config)  # diffusers types it as a tuple
        self.kind = self.noising.config.prediction_type
        if self.kind not in ("epsilon", "v_prediction"):
            raise HvfError(f"The scheduler's prediction_type is {self.kind}; epsilon or v_prediction can be trained.")

    def loss(
        self, prior: nn.Module, rows_N: np.ndarray, noise_NCHW: np.ndarray, t_N: np.ndarray, dropped_N: np.ndarray
    ) -> Tensor:
        """Mean squared error of the prediction on given images, noise and timesteps; a scalar."""
        x_0 = self.material.latents_NCHW[rows_N]
        noise, t, dropped = (torch.from_numpy(a).to(x_0.device) for a in (noise_NCHW, t_N, dropped_N))
        x_t = self.noising.add_noise(x_0, noise, t)
        target = noise if self.kind == "epsilon" else self.noising.get_velocity(x_0, noise, t)
        features = {spec: x[rows_N] for spec, x in self.material.features.items()}
        predicted = prior(self.unet, x_t, t, *self.material.conditions, features, dropped)
        return F.mse_loss(predicted.float(), target)

    def training_loss(self, prior: nn.Module, step: int, process: int = 0, processes: int = 1) -> Tensor:
        """The loss of one process's share of step ``step``'s batch; every epoch is a new permutation of the images."""
        size = self.batch_size
        epoch, place = divmod(step, len(self.material.train) // size)
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(self.material.train)
        rng = np.random.default_rng([self.seed, 1, step])
        noise = rng.standard_normal((size, *self.material.latents_NCHW.shape[1:]), dtype=np.float32)
        t = rng.integers(0, self.noising.config.num_train_timesteps, size)
        dropped = rng.random(size) < self.embedding_dropout
        mine = slice(process, size, processes)
        return self.loss(prior, order[place * size :][:size][mine], noise[mine], t[mine], dropped[mine])

    @torch.no_grad()
    def validation_loss(self, prior: nn.Module, *, without_image: bool = False) -> float:
        """Mean loss on images of unseen concepts, at fixed noise and timesteps spread over the whole range."""
        rows = self.material.checked
        rng = np.random.default_rng([self.seed, 2])
        noise = rng.standard_normal((len(rows), *self.material.latents_NCHW.shape[1:]), dtype=np.float32)
        last = self.noising.config.num_train_timesteps - 1
        t = rng.permutation(np.linspace(0, last, len(rows)).round().astype(np.int64))
        dropped = np.full(len(rows), without_image)
        total = 0.0
        for part in np.array_split(np.arange(len(rows)), -(-len(rows) // self.batch_size)):
            total += self.loss(prior, rows[part], noise[part], t[part], dropped[part]).item() * len(part)
        return total / len(rows)
