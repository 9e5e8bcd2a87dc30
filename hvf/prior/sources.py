"""Sources of a Fusion Prior's training: features in memory, prepared shards on disk, or the images themselves.

Each is a `hvf.prior.objective.Source`; the same rows give the same batch from all (shards are rounded to float16).
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from hvf.config import HvfError, did_you_mean
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.images.sources import open_image_source
from hvf.data.indexing import spread_rows
from hvf.data.trials.splitting import concept_split
from hvf.files.tensors import digest_of
from hvf.prior.model import TextConditions
from hvf.prior.objective import Batch, Resident, Source, TrainingImages
from hvf.study import pretraining_images
from hvf.vision.backbones.vae import encoded
from hvf.vision.cache import content_hashes, embed, weights_hashes
from hvf.vision.loading import load_encoder
from hvf.vision.shards import Shards, open_shards
from hvf.vision.specs import Encoder, parse_spec

ALIKE, SCALED = 0.8, 1.25  # latents of one picture by one VAE, or by its distillation: correlation, ratio of scales
DECODED = 1000  # images that are decoded to tell a set too large for memory from another


@dataclass(frozen=True)
class SourceSettings:
    """Which images are read, and as what."""

    latents: str  # FeatureSpec of the pipeline's own VAE
    targets: tuple[str, ...]  # FeatureSpecs of the encoders
    images: str | None = None  # folder or zip; none: the rendered pictures
    shards: Path | None = None  # a prepared folder, instead of images
    from_pixels: bool = False  # encode images in each step
    workers: int = 0  # processes that read ahead


def open_training_images(
    settings: SourceSettings, pipeline: StableDiffusionXLPipeline, device: torch.device, held_out: float, seed: int
) -> TrainingImages:
    """The training images, split by concept.

    Parameters
    ----------
    settings : SourceSettings
        Which images, and as what.
    pipeline : StableDiffusionXLPipeline
        Its UNet's latents, and its empty prompt.
    device : torch.device
        Where training runs.
    held_out : float
        Share of the concepts that are kept for validation.
    seed : int
        Of the split.

    Raises
    ------
    HvfError
        Images or shards that cannot be read, or latents that are not square maps for this UNet, or of another VAE.
    """
    specs = (settings.latents, *settings.targets)
    channels = int(pipeline.unet.config.in_channels)
    if settings.shards is not None:
        shards = open_shards(settings.shards)
        for spec in specs:
            if str(parse_spec(spec)) not in shards.specs:
                raise HvfError(f"{settings.shards} has no features {spec!r}{did_you_mean(spec, shards.specs)}")
        concepts: Sequence[str] = shards.concepts
        content = {"shards": shards.digest}
        shape = _square(shards.dims[str(parse_spec(settings.latents))], channels, settings.latents)
        source: Source = Sharded(shards, settings.latents, settings.targets, shape, device, settings.workers)
    elif settings.from_pixels:
        images, listed = open_image_source(settings.images) if settings.images else (pretraining_images(), "rendered")
        content = {"images": _sampled_digest(images, listed)}
        encoders = {spec: load_encoder(spec, device) for spec in specs}
        concepts = images.concepts
        content["encoders"] = digest_of({}, [encoder.weights_hash for encoder in encoders.values()])
        shape = _square(encoders[settings.latents].dim, channels, settings.latents)
        source = Pixels(images, encoders, settings.latents, settings.targets, shape, settings.workers)
    else:
        images = open_images(settings.images) if settings.images else pretraining_images()
        features = {spec: torch.from_numpy(embed(images, spec, device=device)).to(device) for spec in settings.targets}
        flat = torch.from_numpy(embed(images, settings.latents, device=device)).to(device)
        concepts = images.concepts
        hashes = [*weights_hashes(specs, device).values(), *content_hashes(specs)]
        content = {"images": images.digest, "encoders": digest_of({}, hashes)}
        source = Resident(flat.reshape(-1, *_square(flat.shape[1], channels, settings.latents)), features)
    _check_latents(settings, source.latent_shape, pipeline, device)
    train, validation = concept_split(concepts, held_out, seed)
    text = _empty_prompt(pipeline, source.latent_shape[1], device)
    return TrainingImages(source, train, validation, text, content)


def _sampled_digest(images: ImageSet, listed: str) -> str:
    """sha256 of what images too many to decode them all are known by, and of the pixels of some spread over them."""
    return digest_of({}, [listed, images.select(spread_rows(len(images), DECODED)).digest])


class ReadAhead:
    """Batches of rows of a Dataset that is indexed by arrays of rows; announced ones are read ahead by workers.

    Any rows may be read in any order: reading ahead changes the time only.
    """

    def __init__(self, read: Dataset, workers: int) -> None:
        self._read, self._workers = read, workers
        self._coming: Iterator[Any] = iter(())
        self._expected: deque[np.ndarray] = deque()

    def announce(self, upcoming: Iterator[np.ndarray]) -> None:
        if not self._workers:
            return
        self._expected.clear()

        def announced() -> Iterator[np.ndarray]:
            for rows in upcoming:
                self._expected.append(rows)
                yield rows

        # A generator of its own: a loader would otherwise draw from the global one, which dropout uses.
        self._coming = iter(
            DataLoader(
                self._read,
                batch_size=None,
                sampler=announced(),  # pyright: ignore[reportArgumentType]  (any iterable is one)
                num_workers=self._workers,
                collate_fn=_as_is,
                worker_init_fn=_outlive_sigterm,
                generator=torch.Generator(),
            )
        )

    def __call__(self, rows_N: np.ndarray) -> Any:
        if self._expected and np.array_equal(self._expected[0], rows_N):
            self._expected.popleft()
            return next(self._coming)
        return self._read[rows_N]


class Sharded:
    """Prepared shards as a Source: rows are read from the memory-mapped files, and moved to ``device``."""

    def __init__(
        self,
        shards: Shards,
        latents: str,
        targets: Sequence[str],
        latent_shape: tuple[int, int, int],
        device: torch.device,
        workers: int = 0,
    ) -> None:
        self.latent_shape, self._device = latent_shape, device
        self._latents = str(parse_spec(latents))
        self._names = {spec: str(parse_spec(spec)) for spec in targets}
        self.dims = {spec: shards.dims[name] for spec, name in self._names.items()}
        self._ahead = ReadAhead(_ShardRows(shards.folder), workers)
        self.announce = self._ahead.announce

    def __call__(self, rows_N: np.ndarray) -> Batch:
        read = self._ahead(rows_N)
        x_0 = self._on_device(read[self._latents]).reshape(-1, *self.latent_shape)
        return x_0, {spec: self._on_device(read[name]) for spec, name in self._names.items()}

    def _on_device(self, x_ND: np.ndarray) -> Tensor:
        return torch.from_numpy(x_ND).to(self._device, non_blocking=True)


class Pixels:
    """Images as a Source: decoded, and encoded by the VAE and the encoders, in each step."""

    def __init__(
        self,
        images: ImageSet,
        encoders: Mapping[str, Encoder],
        latents: str,
        targets: Sequence[str],
        latent_shape: tuple[int, int, int],
        workers: int = 0,
    ) -> None:
        self.latent_shape, self._latents, self._encoders = latent_shape, latents, encoders
        self.dims = {spec: encoders[spec].dim for spec in targets}
        self._ahead = ReadAhead(_ImageRows(images), workers)
        self.announce = self._ahead.announce

    def __call__(self, rows_N: np.ndarray) -> Batch:
        pictures = [torch.from_numpy(pixels_HW3).permute(2, 0, 1) for pixels_HW3 in self._ahead(rows_N)]
        encoded = {spec: encoder.encode_mixed(pictures) for spec, encoder in self._encoders.items()}
        return encoded[self._latents].reshape(-1, *self.latent_shape), {spec: encoded[spec] for spec in self.dims}


class _ShardRows(Dataset):
    """Rows of a prepared folder; every process that reads opens the files for itself."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, rows_N: np.ndarray) -> dict[str, np.ndarray]:
        return _opened(self._folder, os.getpid()).batch(rows_N)


class _ImageRows(Dataset):
    def __init__(self, images: ImageSet) -> None:
        self._images = images

    def __getitem__(self, rows_N: np.ndarray) -> list[np.ndarray]:
        return [np.array(self._images[int(row)]) for row in rows_N]


@lru_cache(maxsize=2)
def _opened(folder: Path, pid: int) -> Shards:
    return open_shards(folder)


def _as_is(item: Any) -> Any:
    return item


def _outlive_sigterm(_worker: int) -> None:
    """A cluster's scheduler signals every process; the training needs this one until its checkpoint is written."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _square(numbers: int, channels: int, spec: str) -> tuple[int, int, int]:
    """C, H, W of flattened latents of so many numbers."""
    side = round((numbers / channels) ** 0.5)
    if channels * side**2 != numbers:
        raise HvfError(f"{spec} gives {numbers} numbers, not {channels} square maps for this UNet.")
    return channels, side, side


@torch.no_grad()
def _check_latents(
    settings: SourceSettings, shape: tuple[int, int, int], pipeline: StableDiffusionXLPipeline, device: torch.device
) -> None:
    """HvfError unless a picture's latents are those of the pipeline's own VAE, which its UNet knows and which draws.

    A distilled VAE's are near enough. Nothing is said of prepared shards whose VAE is not on this machine.
    """
    try:
        encoder = load_encoder(settings.latents, device)
    except HvfError:
        if settings.shards is not None:
            return
        raise
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    side = shape[1] * pipeline.vae_scale_factor
    picture = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False).clamp(0, 1).to(device)
    vae: Any = pipeline.vae
    ours, theirs = encoder(picture).flatten().float(), encoded(vae, (picture * 2 - 1).to(vae.device, vae.dtype))
    theirs = theirs.flatten().float().to(ours.device)
    if ours.shape == theirs.shape:
        r, scale = float(torch.corrcoef(torch.stack([ours, theirs]))[0, 1]), float(ours.std() / theirs.std())
        if r >= ALIKE and 1 / SCALED <= scale <= SCALED:
            return
        found = f"they correlate by {r:.2f}, at {scale:.2f} times the scale"
    else:
        found = f"{len(ours)} numbers, not {len(theirs)}"
    raise HvfError(
        f"{settings.latents} makes other latents than the pipeline's own VAE, by which pictures are drawn ({found}): "
        "let --latents name that one"
    )


@torch.no_grad()
def _empty_prompt(pipeline: StableDiffusionXLPipeline, side: int, device: torch.device) -> TextConditions:
    """The empty prompt. Images are resized to squares before they are encoded: original and target size are equal."""
    pixels = float(side * pipeline.vae_scale_factor)
    time_ids = torch.tensor([[pixels, pixels, 0.0, 0.0, pixels, pixels]], device=device)
    embeds: Any = pipeline.encode_prompt("", device=device, do_classifier_free_guidance=False)
    return TextConditions(embeds[0], embeds[2], time_ids)
