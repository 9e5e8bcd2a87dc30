"""Embeddings to pictures: a Fusion Prior conditions a stock diffusers SDXL pipeline.

z (the image's own z_f, or a brain's z_b) -> prior.project -> z_c -> IP-Adapter -> SDXL with the empty prompt -> pixels.
Denoising starts from noise, or (img2img) from latents that a kernel ridge predicts from z, with as much noise as z
leaves open: where that is less than the noise of the last step, the latents are decoded as they are.
Shapes: N items, D embedding, R rounds, H and W pixels, h and w latent pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from hvf import runs
from hvf.config import HvfError, SamplingConfig
from hvf.data.indexing import spread_rows
from hvf.files.tensors import digest_of
from hvf.prior.initial_latents import InitialLatents
from hvf.prior.model import FusionPrior
from hvf.prior.objective import Objective
from hvf.prior.schedules import noise_shares, sampler_of
from hvf.progress import Track
from hvf.vision.backbones.vae import encoded, statistics, unscaled
from hvf.vision.latents import check_finite, pictures_of

DECODED = 16  # latents that are decoded at once: the maps of more outgrow a processor's cache, and take twice the time


class _Paired:
    """One image embedding per picture of a batch.

    Stock code takes `ip_adapter_image_embeds` for those of one picture and repeats them for each of the batch. Given N
    of them it makes N² and, without complaint, lets every picture attend to all N.
    """

    def prepare_ip_adapter_image_embeds(
        self,
        image: Any,
        embeds: list[Tensor],
        device: torch.device,
        n_per_prompt: int,
        do_classifier_free_guidance: bool,
    ) -> list[Tensor]:
        """`embeds` as they came: [(N, 1, D)], or [(2N, 1, D)] under guidance, the unconditional half first."""
        return [x.to(device) for x in embeds]


class PairedPipeline(_Paired, StableDiffusionXLPipeline):
    """The stock pipeline, embeddings paired. Everything else is inherited."""


class PairedImg2Img(_Paired, StableDiffusionXLImg2ImgPipeline):
    """The stock img2img pipeline, embeddings paired, starting from latents instead of an image."""

    def prepare_latents(
        self,
        image: Tensor,
        timestep: Any,
        batch_size: int,
        n_per_prompt: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: Any = None,
        add_noise: bool = True,
    ) -> Tensor:
        """`image` are clean latents (N, C, h, w); each gets the noise of its own generator, drawn in float32."""
        assert generator is not None, "one generator for each picture"
        return self.scheduler.add_noise(image.to(device, dtype), _noise(generator, image).to(device, dtype), timestep)


class Reconstructor:
    """Draws pictures from embeddings. The prior's adapter is put into the pipeline's UNet and stays there.

    `pipeline` is any StableDiffusionXLPipeline: the prior joins it as an IP-Adapter, through diffusers' own classes,
    and its models are used as they are. All are moved to `device` (None: where the pipeline is). Raises HvfError,
    from `attach`, when the prior was made for another UNet, and for a pipeline that draws no squares, or not of its
    VAE's latents.
    """

    def __init__(self, pipeline: StableDiffusionXLPipeline, prior: FusionPrior, device: str | None = None) -> None:
        _check_shape(pipeline)
        dtype = pipeline.unet.dtype
        prior.attach(pipeline.unet)
        for part in (prior.adapter, prior.image_projection):  # now the UNet's too: they live where and as it does
            part.to(pipeline.device, dtype)
        self.pipeline = PairedPipeline(**pipeline.components, add_watermarker=False)
        if device:
            self.pipeline.to(device)
        self.img2img = PairedImg2Img(**self.pipeline.components, add_watermarker=False)
        for one in (self.pipeline, self.img2img):
            one.set_progress_bar_config(disable=True)  # one bar for the whole job, not one per batch
        self.prior = prior.eval()
        self.prior.projector.to(self.pipeline.device)  # the one part of the prior used here that the UNet does not hold
        self._scheduler = pipeline.scheduler
        self.latents_of_z: InitialLatents | None = None  # what `fit_initial_latents` learns
        with torch.no_grad():
            self._prompt, _, self._pooled, _ = self.pipeline.encode_prompt("", do_classifier_free_guidance=False)

    @property
    def fingerprint(self) -> str:
        """A hash of all that makes a picture of an embedding: the models, the schedule, where denoising starts."""
        begin = digest_of(*self.latents_of_z.tensors()) if self.latents_of_z else "noise"
        return digest_of({}, [self._models_hash, begin])

    @cached_property
    def _models_hash(self) -> str:
        return digest_of_models(self.pipeline.components | {"prior": self.prior}, self._scheduler)

    @cached_property
    def vae_hash(self) -> str:
        """A hash of the VAE that `encode` takes latents of: the same in float32 and in bfloat16."""
        vae: Any = self.pipeline.vae
        halved = {name: tensor.to(torch.bfloat16) for name, tensor in vae.state_dict().items()}
        means = statistics(vae)
        return digest_of(halved, [vae.config.scaling_factor, *means] if means else vae.config.scaling_factor)

    @property
    def size(self) -> int:
        """Height and width of a picture, in pixels: what the UNet was trained on."""
        return self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor

    @torch.no_grad()
    def draw(
        self,
        z_ND: ArrayLike | Tensor,
        sampling: SamplingConfig,
        round_index: int = 0,
        indices: Sequence[int] | None = None,
        *,
        decode: bool = True,
    ) -> np.ndarray:
        """One picture per embedding, uint8 (N, H, W, 3); not decoded, its latents: float32 (N, 4, h, w), scaled.

        The noise of a picture comes from (sampling.seed, round_index, its index) alone, and in how many steps it is
        drawn hangs on its embedding alone (`steps_done`; in none it has no noise, and is alike in all rounds): other
        batch sizes, a subset redrawn with its `indices`, or another device start from the same (arithmetic may still
        differ by one grey level). `indices` are 0..N-1 unless given. Raises HvfError for embeddings of another width,
        or not finite, and for sampling.start "latents" before `fit_initial_latents`.
        """
        z_ND = self._checked(z_ND)
        indices = range(len(z_ND)) if indices is None else indices
        if len(indices) != len(z_ND):
            raise HvfError(f"{len(z_ND)} embeddings but {len(indices)} indices: they should pair")
        self.pipeline.scheduler = self.img2img.scheduler = self.make_scheduler(sampling.scheduler, sampling.steps)
        begin_NCHW = torch.from_numpy(self.initial_latents(z_ND)) if sampling.start == "latents" else None
        steps_N = self.steps_done(z_ND, sampling)
        z_c_ND = self.prior.project(z_ND.to(self.pipeline.device))
        batches = _alike(steps_N, sampling.batch_size)
        drawn = []
        with runs.track(sum(int(steps_N[rows[0]]) or 1 for rows in batches), f"drawing {len(z_ND)} pictures") as bar:
            for rows in batches:
                noise = [_generator(sampling.seed, round_index, int(indices[row])) for row in rows]
                begin = None if begin_NCHW is None else begin_NCHW[rows]
                steps = int(steps_N[rows[0]])
                drawn.append(self._one_batch(z_c_ND[rows], noise, begin, steps, sampling, decode, bar))
        return np.concatenate(drawn)[np.argsort(np.concatenate(batches))]

    @torch.no_grad()
    def encode(self, images: Sequence, batch: int = 16) -> np.ndarray:
        """Latents (N, 4, h, w) float32 of images (PIL or uint8 (H, W, 3)): the mean, scaled as the UNet sees them."""
        vae: Any = self.pipeline.vae
        latents = []
        with self._in_float32():
            for first in runs.track(range(0, len(images), batch), "encoding images"):
                pictures = [images[i] for i in range(first, min(first + batch, len(images)))]
                pictures = [x if isinstance(x, Image.Image) else Image.fromarray(x) for x in pictures]
                # Not cropped: seen pictures, and what priors are trained on, are resized to squares as a whole.
                pixels = self.pipeline.image_processor.preprocess(pictures, self.size, self.size)
                latents.append(encoded(vae, pixels.to(vae.device, vae.dtype)).float().cpu().numpy())
        return np.concatenate(latents)

    @torch.no_grad()
    def decode(self, latents_NCHW: Tensor) -> np.ndarray:
        """Pictures uint8 (N, H, W, 3) of latents scaled as the UNet sees them: the inverse of `encode`."""
        vae = self.pipeline.vae
        with self._in_float32():
            x_NCHW = unscaled(vae, latents_NCHW.to(vae.device, vae.dtype))
            return np.concatenate([pictures_of(vae.decode(x).sample.float()) for x in x_NCHW.split(DECODED)])

    @contextmanager
    def _in_float32(self) -> Iterator[None]:
        """The VAE in float32 where it is in float16 and says that it overflows in that, as SDXL's does."""
        vae: Any = self.pipeline.vae
        upcast = vae.dtype == torch.float16 and vae.config.force_upcast
        if upcast:
            vae.to(torch.float32)
        try:
            yield
        finally:
            if upcast:
                vae.to(torch.float16)

    def fit_initial_latents(
        self, latents_NCHW: np.ndarray, z_ND: np.ndarray, held_out: Mapping[int, np.ndarray] | None = None
    ) -> float:
        """Fit a kernel ridge of an image's latents on its embedding: where sampling.start "latents" starts.

        Returns its penalty; parameters are those of `InitialLatents.fit`.
        """
        fitted = InitialLatents.fit(latents_NCHW, self._checked(z_ND).cpu().numpy(), held_out)
        self.latents_of_z = replace(fitted, vae=self.vae_hash)
        return self.latents_of_z.penalty

    def initial_latents(self, z_ND: ArrayLike | Tensor) -> np.ndarray:
        """The latents (N, 4, h, w) float32 that `fit_initial_latents` learnt to predict; HvfError before that."""
        return self._learnt().predict(self._checked(z_ND).cpu().numpy())

    def steps_done(self, z_ND: ArrayLike | Tensor, sampling: SamplingConfig) -> np.ndarray:
        """How many of sampling.steps each picture is denoised for, (N,): all from noise, fewer from latents.

        `sampling.strength` is their share. Where it is None denoising starts at the noisiest step whose noise is no
        larger a share of the variance than what the embedding leaves open (`InitialLatents.open_share`); at none, so
        that the latents are the picture's, if that is less than the noise of the last step. HvfError as
        `initial_latents`.
        """
        z_ND = self._checked(z_ND)
        if sampling.start == "noise":
            return np.full(len(z_ND), sampling.steps)
        if sampling.strength is not None:
            return np.full(len(z_ND), int(sampling.steps * sampling.strength))
        noise_T = noise_shares(self.make_scheduler(sampling.scheduler, sampling.steps), sampling.steps)
        return (noise_T <= self._learnt().open_share(z_ND.cpu().numpy())[:, None]).sum(axis=1)

    def _learnt(self) -> InitialLatents:
        if self.latents_of_z is None:
            raise HvfError(
                'sampling.start is "latents", which are not learnt yet: call fit_initial_latents with training images'
            )
        return self.latents_of_z

    def _one_batch(
        self,
        z_c_ND: Tensor,
        noise: list[torch.Generator],
        begin_NCHW: Tensor | None,
        steps: int,
        sampling: SamplingConfig,
        decode: bool,
        bar: Track[Any],
    ) -> np.ndarray:
        if begin_NCHW is not None and not steps:
            bar.advance()
            return self.decode(begin_NCHW) if decode else begin_NCHW.numpy()
        n = len(z_c_ND)
        embeds_N1D = z_c_ND[:, None].to(self.pipeline.unet.dtype)
        negative = {}
        if sampling.guidance > 1:  # diffusers' own threshold. Guided away from no image, never from the empty prompt:
            embeds_N1D = torch.cat([torch.zeros_like(embeds_N1D), embeds_N1D])  # zeros, as dropout had it in training
            negative = {
                "negative_prompt_embeds": self._prompt.expand(n, -1, -1),
                "negative_pooled_prompt_embeds": self._pooled.expand(n, -1),
            }

        def advance(pipeline: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            bar.advance()
            return tensors

        # The pipelines' annotations allow neither this callback nor arrays as pictures.
        call: Any = self.pipeline if begin_NCHW is None else self.img2img
        unet = self.pipeline.unet
        if begin_NCHW is None:
            size = unet.config.sample_size
            start_NCHW = _noise(noise, torch.empty(n, unet.config.in_channels, size, size))
            begin = {"latents": start_NCHW.to(unet.device, unet.dtype), "height": self.size, "width": self.size}
        else:
            begin = {"image": begin_NCHW, "strength": strength_of(steps, sampling.steps)}
        latents_NCHW = call(
            **begin,
            prompt_embeds=self._prompt.expand(n, -1, -1),
            pooled_prompt_embeds=self._pooled.expand(n, -1),
            **negative,
            ip_adapter_image_embeds=[embeds_N1D],
            guidance_scale=sampling.guidance,
            num_inference_steps=sampling.steps,
            generator=noise,
            output_type="latent",
            callback_on_step_end=advance,
        ).images
        check_finite(latents_NCHW)
        return self.decode(latents_NCHW) if decode else latents_NCHW.float().cpu().numpy()

    def _checked(self, z_ND: ArrayLike | Tensor) -> Tensor:
        z_ND = torch.as_tensor(np.asarray(z_ND) if not isinstance(z_ND, Tensor) else z_ND).float()
        width = self.prior.config["width"]
        if z_ND.ndim != 2 or z_ND.shape[1] != width or not len(z_ND):
            raise HvfError(f"this prior draws from embeddings (N, {width}), not {tuple(z_ND.shape)}")
        if not torch.isfinite(z_ND).all():
            bad = (~torch.isfinite(z_ND).all(dim=1)).nonzero().flatten().tolist()
            raise HvfError(f"{len(bad)} of {len(z_ND)} embeddings hold NaN or infinity, the first at index {bad[0]}")
        return z_ND

    def make_scheduler(self, name: str, steps: int = 1) -> Any:
        """A fresh scheduler on the pipeline's own noise schedule; see `sampler_of`."""
        return sampler_of(self._scheduler, name, steps)


def _check_shape(pipeline: StableDiffusionXLPipeline) -> None:
    """HvfError unless the UNet denoises squares of the VAE's latents, as diffusers' SDXL pipeline scales them."""
    unet, vae = pipeline.unet.config, pipeline.vae.config
    if not unet.in_channels == unet.out_channels == vae.latent_channels:
        raise HvfError(
            f"the pipeline's UNet takes {unet.in_channels} channels and gives {unet.out_channels}, and its VAE has "
            f"{vae.latent_channels}: it is no text-to-image pipeline of SDXL's kind"
        )
    side, scale = unet.sample_size, pipeline.vae_scale_factor
    if not isinstance(side, int) or side < 1 or side * scale % 8:
        raise HvfError(
            f"the UNet's sample_size is {side}, of {scale} pixels each: pictures are squares of a multiple of 8 pixels"
        )
    if vae.get("shift_factor") and statistics(pipeline.vae) is None:
        raise HvfError(f"the VAE's shift_factor is {vae['shift_factor']}, which diffusers' SDXL pipeline leaves out")


@torch.no_grad()
def held_out_pictures(
    prior: FusionPrior, objective: Objective, pipeline: StableDiffusionXLPipeline, sampling: SamplingConfig, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """At most so many held-out images, decoded from their latents, and pictures drawn from their features.

    Both uint8 (N, H, W, 3); drawn in one batch.
    """
    n = len(objective.images.validation_rows)
    rows = spread_rows(n, most)
    latents, features = objective.held_out(rows)
    reconstructor = Reconstructor(pipeline, prior)
    z_f_ND = prior.eval().encode(features)
    drawn_NHWC = reconstructor.draw(z_f_ND, replace(sampling, batch_size=len(rows)))
    return reconstructor.decode(latents), drawn_NHWC


def digest_of_models(components: Mapping[str, Any], scheduler: Any) -> str:
    """sha256 of the weights of those components that are networks, and of all settings of UNet, VAE and schedule.

    Settings such as the VAE's scaling factor change every picture, and no weight.
    """
    tensors = {
        f"{part}.{name}": tensor
        for part, module in components.items()
        if isinstance(module, torch.nn.Module)
        for name, tensor in module.state_dict().items()
    }
    configs = {"unet": components["unet"].config, "vae": components["vae"].config, "scheduler": scheduler.config}
    settings = {  # without versions and paths, and lists as tuples: a pipeline read back is the one that was written
        part: {name: json.dumps(value, default=str) for name, value in dict(config).items() if name[0] != "_"}
        for part, config in configs.items()
    }
    return digest_of(tensors, [type(scheduler).__name__, settings])


def strength_of(steps_done: int, steps: int) -> float:
    """The strength for which stock img2img does so many of its steps: it rounds steps · strength down."""
    return min(1.0, (steps_done + 0.5) / steps)


def _alike(steps_N: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """The rows of each batch: those of one number of steps, in their order, at most `batch_size` together."""
    alike = [np.flatnonzero(steps_N == steps) for steps in np.unique(steps_N)]
    return [rows[i : i + batch_size] for rows in alike for i in range(0, len(rows), batch_size)]


def _noise(generators: Sequence[torch.Generator], like_NCHW: Tensor) -> Tensor:
    """Each picture's own noise, in float32: half precision would draw other noise from the same generator."""
    return torch.stack([torch.randn(like_NCHW.shape[1:], generator=generator) for generator in generators])


def noise_seed(seed: int, round_index: int, index: int) -> int:
    """The seed of a picture's noise: of the sampling's seed, the round and the image's index."""
    (state,) = np.random.SeedSequence((seed, round_index, index)).generate_state(1, np.uint64)
    return int(state)


def _generator(seed: int, round_index: int, index: int) -> torch.Generator:
    """A CPU generator, so that every device starts from the same noise."""
    return torch.Generator("cpu").manual_seed(noise_seed(seed, round_index, index))
