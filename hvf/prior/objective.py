"""The Fusion Prior's objective: a frozen UNet, conditioned on an image's features, predicts its latents' noise.

‖ε − δ(x_t, t, z_c)‖² with the empty prompt (arXiv 2602.07495, section 3). All random numbers of a step (order, noise,
timesteps, dropped embeddings) follow from the seed and the step's number alone: a resumed training draws what an
uninterrupted one draws, and several processes, or several parts of a step, share the batch that one would have.
Shape suffixes: N items, CHW a latent's channels, height and width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn
from torch.nn import functional as F

from hvf.prior.embedding_noise import EmbeddingNoise
from hvf.prior.model import FusionPrior, TextConditions
from hvf.prior.schedules import training_schedule

VALIDATION_IMAGES = 256
FITTED_ON = 8192  # training images, at least, that embedding noise is fitted to

Batch = tuple[Tensor, dict[str, Tensor]]  # clean, scaled latents (N, C, H, W); FeatureSpec -> features (N, d_k)


class Source(Protocol):
    """Latents and features of numbered images, from memory, from shards on disk, or computed from the images."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        ...

    @property
    def dims(self) -> dict[str, int]:
        """FeatureSpec -> d_k."""
        ...

    def __call__(self, rows_N: np.ndarray) -> Batch:
        """The batch of those images, float32, on the device to train on."""
        ...

    def announce(self, upcoming: Iterator[np.ndarray]) -> None:
        """The rows of the next calls, in order, so that they may be read ahead. Other rows may be read in between."""
        ...


@dataclass(frozen=True)
class Resident:
    """A Source in the memory of the device: latents (N, C, H, W) and FeatureSpec -> (N, d_k)."""

    latents_NCHW: Tensor
    features: dict[str, Tensor]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.latents_NCHW.shape[1:]
        return channels, height, width

    @property
    def dims(self) -> dict[str, int]:
        return {spec: x_Nd.shape[1] for spec, x_Nd in self.features.items()}

    def __call__(self, rows_N: np.ndarray) -> Batch:
        return self.latents_NCHW[rows_N], {spec: x_Nd[rows_N] for spec, x_Nd in self.features.items()}

    def announce(self, upcoming: Iterator[np.ndarray]) -> None:
        """Nothing to do: everything is in memory."""


@dataclass(frozen=True)
class TrainingImages:
    """The images of a training, and the prompt that they share."""

    source: Source  # latents and features by row
    train: np.ndarray  # rows of `source`
    validation: np.ndarray  # other rows
    text: TextConditions  # the empty prompt, on the device to train on
    content: Mapping[str, str] = field(default_factory=dict)  # {images, encoders or shards: a hash of what is in them}

    @property
    def validation_rows(self) -> np.ndarray:
        """The rows of the validation loss: at most VALIDATION_IMAGES, spread over the held-out concepts."""
        return self.validation[:: max(1, len(self.validation) // VALIDATION_IMAGES)][:VALIDATION_IMAGES]


class Objective:
    """Losses of a prior that is attached to ``pipeline.unet``; the scheduler's config says what is predicted.

    Parameters
    ----------
    images : TrainingImages
        What steps draw from.
    pipeline : StableDiffusionXLPipeline
        Its UNet and its scheduler.
    batch_size : int
        Images of a step, over all processes and parts.
    embedding_dropout : float
        Share of the embeddings that are zeroed in training.
    seed : int
        Of everything random.
    embedding_noise : EmbeddingNoise, optional
        Corrupts the other embeddings, once it is fitted (`fit_embedding_noise`).

    Raises
    ------
    HvfError
        The scheduler predicts neither epsilon nor v, or its noise follows no betas: EDM's, or one of flow matching.
    """

    def __init__(
        self,
        images: TrainingImages,
        pipeline: StableDiffusionXLPipeline,
        batch_size: int,
        embedding_dropout: float = 0.1,
        seed: int = 0,
        embedding_noise: EmbeddingNoise | None = None,
    ) -> None:
        self.images, self.unet, self.seed, self.embedding_noise = images, pipeline.unet, seed, embedding_noise
        self.batch_size, self.embedding_dropout = batch_size, embedding_dropout
        self.noise_scheduler: Any = training_schedule(pipeline.scheduler)
        self.kind = self.noise_scheduler.config.prediction_type
        self._orders: dict[int, np.ndarray] = {}  # of two epochs: reading ahead comes to the next one first

    def loss(
        self,
        prior: nn.Module,
        batch: Batch,
        noise_NCHW: np.ndarray,
        t_N: np.ndarray,
        dropped_N: np.ndarray,
        embedding_noise: tuple[EmbeddingNoise, Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Mean squared error of the prediction on given images, noise and timesteps; a scalar."""
        x_0, features = batch
        noise, t, dropped = (torch.from_numpy(a).to(x_0.device) for a in (noise_NCHW, t_N, dropped_N))
        x_t = self.noise_scheduler.add_noise(x_0, noise, t)
        target = noise if self.kind == "epsilon" else self.noise_scheduler.get_velocity(x_0, noise, t)
        predicted = prior(self.unet, x_t, t, self.images.text, features, dropped, embedding_noise)
        return F.mse_loss(predicted.float(), target)

    def rows(self, step: int) -> np.ndarray:
        """The images of step ``step``; every epoch is a new permutation of all."""
        epoch, place = divmod(step, len(self.images.train) // self.batch_size)
        if epoch not in self._orders:
            rng = np.random.default_rng([self.seed, 0, epoch])
            kept = {other: order for other, order in self._orders.items() if abs(other - epoch) == 1}
            self._orders = {**kept, epoch: rng.permutation(self.images.train)}
        return self._orders[epoch][place * self.batch_size :][: self.batch_size]

    def announce(self, steps: Iterable[int], process: int = 0, processes: int = 1, parts: int = 1) -> None:
        """Let the source read ahead for these steps: the rows of ``process`` of ``processes``, each in ``parts``."""
        shares = processes * parts

        def upcoming() -> Iterator[np.ndarray]:
            for step in steps:
                for part in range(parts):
                    yield self.rows(step)[part * processes + process :: shares]

        self.images.source.announce(upcoming())

    def training_loss(self, prior: nn.Module, step: int, share: int = 0, shares: int = 1) -> Tensor:
        """The loss of one of the equal shares of step ``step``'s batch; their mean is the loss of the step."""
        size = self.batch_size
        rng = np.random.default_rng([self.seed, 1, step])
        noise = rng.standard_normal((size, *self.images.source.latent_shape), dtype=np.float32)
        t = rng.integers(0, self.noise_scheduler.config.num_train_timesteps, size)
        dropped = rng.random(size) < self.embedding_dropout
        mine = slice(share, size, shares)
        batch = self.images.source(self.rows(step)[mine])
        return self.loss(prior, batch, noise[mine], t[mine], dropped[mine], self._noise(rng, mine, batch[0].device))

    def _noise(
        self, rng: np.random.Generator, mine: slice, device: torch.device
    ) -> tuple[EmbeddingNoise, Tensor, Tensor] | None:
        """The noise on this share's embeddings, and its levels."""
        if self.embedding_noise is None:
            return None
        uniform_N2 = torch.from_numpy(rng.random((self.batch_size, 2), np.float32)[mine]).to(device)
        noise_ND = rng.standard_normal((self.batch_size, len(self.embedding_noise.mean_D)), dtype=np.float32)[mine]
        return self.embedding_noise, torch.from_numpy(noise_ND).to(device), self.embedding_noise.levels(uniform_N2)

    @cached_property
    def held_out(self) -> Resident:
        """The images of the validation loss, read once and kept."""
        rows = self.images.validation_rows
        read = [self.images.source(part) for part in np.array_split(rows, -(-len(rows) // self.batch_size))]
        features = {spec: torch.cat([one[spec] for _, one in read]) for spec in self.images.source.dims}
        return Resident(torch.cat([latents for latents, _ in read]), features)

    @torch.no_grad()
    def fit_embedding_noise(self, prior: FusionPrior) -> None:
        """Fit the embedding noise to z_f of training images, as ``prior`` fuses them now."""
        if self.embedding_noise is not None:
            rows = self.images.train[:: max(1, len(self.images.train) // FITTED_ON)]
            parts = np.array_split(rows, -(-len(rows) // self.batch_size))
            fusion = prior.hvf.eval()
            self.embedding_noise.fit(torch.cat([fusion(self.images.source(part)[1]) for part in parts]))
            fusion.train(prior.training)

    @torch.no_grad()
    def validation_loss(self, prior: nn.Module, *, without_image: bool = False) -> float:
        """Mean loss on images of unseen concepts, at fixed noise and timesteps spread over the whole range."""
        n = len(self.images.validation_rows)
        rng = np.random.default_rng([self.seed, 2])
        noise = rng.standard_normal((n, *self.images.source.latent_shape), dtype=np.float32)
        last = self.noise_scheduler.config.num_train_timesteps - 1
        t = rng.permutation(np.linspace(0, last, n).round().astype(np.int64))
        dropped = np.full(n, without_image)
        total = 0.0
        for part in np.array_split(np.arange(n), -(-n // self.batch_size)):
            total += self.loss(prior, self.held_out(part), noise[part], t[part], dropped[part]).item() * len(part)
        return total / n
