"""Train the mini models that ship with hvf: a small SDXL (VAE, UNet, text encoders) and two small CLIPs.

    python prior_training/train_mini.py                    # every stage, some ten hours on one CPU core
    python prior_training/train_mini.py --stages vae unet  # some of them

Pictures and captions are drawn by `hvf.data.pretraining`; test concepts are never seen. Each stage keeps a checkpoint
under ``--work`` and goes on from it when started again; it then leaves its model, in half precision, in ``--out``.
The Fusion Prior follows from `prior_training/train.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import open_clip
import torch
import tyro
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import compute_snr
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from hvf import presets
from hvf.data.pretraining import pretraining_images
from hvf.data.stimuli import ImageSet
from hvf.models import FusionPrior, ip_adapter
from hvf.runs import write_atomic
from hvf.vision.cache import embed

Stage = Literal["vae", "clip-resnet", "clip-vit", "unet", "decoder"]
CONTEXT_LENGTH = 16  # tokens; the longest caption has 10
TEXT_WIDTH = 64  # of each of the two text encoders
SIZE = 64  # pixels
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
LOOK_WEIGHT = 0.3  # of what the ResNet sees, beside some 0.2 of pixels, when the VAE's decoder learns on


@dataclass(frozen=True)
class Recipe:
    """How long and how fast one stage learns."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 1e-2
    ema: float = 0.998


RECIPES: dict[Stage, Recipe] = {
    "vae": Recipe(steps=4000, batch_size=16, learning_rate=1.2e-3),
    "clip-resnet": Recipe(steps=2300, batch_size=256, learning_rate=1.5e-3, weight_decay=0.1, ema=0.99),
    "clip-vit": Recipe(steps=3500, batch_size=256, learning_rate=1e-3, weight_decay=0.1, ema=0.99),
    "unet": Recipe(steps=13000, batch_size=64, learning_rate=6e-4, ema=0.999),
    "decoder": Recipe(steps=3000, batch_size=16, learning_rate=8e-4),
}


def optimise(
    model: nn.Module, loss: Callable[[Tensor], Tensor], n: int, recipe: Recipe, checkpoint: Path, bf16: bool
) -> nn.Module:
    """Minimise ``loss(indices)`` over ``n`` items with AdamW; return the moving average of the weights.

    Cosine learning rate after a warm-up, clipping at 1, bfloat16 autocast on request. Goes on from ``checkpoint`` if
    there is one.
    """
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98)
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, recipe.steps // 20, recipe.steps)
    states = {"model": model, "ema": ema, "optimizer": optimizer, "schedule": schedule}
    first, recent, began = 0, [], time.time()
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        for name, part in states.items():
            part.load_state_dict(saved[name])
        first = saved["step"]
    model.train()
    for step in range(first, recipe.steps):
        torch.manual_seed(step)
        indices = torch.randperm(n, generator=torch.Generator().manual_seed(step))[: recipe.batch_size]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss(indices)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        ema.update_parameters(model)
        recent.append(value.item())
        if (step + 1) % 50 == 0:
            print(
                f"step {step + 1}/{recipe.steps} loss {np.mean(recent[-50:]):.4f} {time.time() - began:.0f} s",
                flush=True,
            )
        if (step + 1) % 250 == 0 or step + 1 == recipe.steps:
            state = {name: part.state_dict() for name, part in states.items()} | {"step": step + 1}
            write_atomic(checkpoint, lambda path, state=state: torch.save(state, path))
            write_atomic(
                checkpoint.with_suffix(".json"),
                lambda path: path.write_text(json.dumps({"recipe": asdict(recipe), "loss": recent[-50:]})),
            )
    return ema.module.eval()


# --- the small SDXL ---------------------------------------------------------------------------------------------------


def train_vae(pixels: Tensor, work: Path, out: Path, bf16: bool, go_on: bool) -> None:
    """An AutoencoderKL from 64 x 64 pixels to 8 x 8 x 4 latents; the scaling factor makes their variance 1."""
    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    vae = AutoencoderKL(
        down_block_types=down,
        up_block_types=up,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
        force_upcast=False,
    ).to(memory_format=torch.channels_last)
    if go_on:
        shipped = AutoencoderKL.from_pretrained(out / "sdxl" / "vae", torch_dtype=torch.float32)
        vae.load_state_dict(shipped.state_dict())

    def loss(indices: Tensor) -> Tensor:
        x = pixels[indices].float().to(memory_format=torch.channels_last) / 127.5 - 1
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        return distance(x, y) + 1e-3 * posterior.kl().mean() / posterior.mean[0].numel()

    vae = optimise(vae, loss, len(pixels), RECIPES["vae"], work / "vae.pt", bf16)
    scale = 1 / encode(vae, pixels[:2000]).std().item()
    vae.register_to_config(scaling_factor=round(scale, 4))
    vae.to(torch.float16).save_pretrained(out / "sdxl" / "vae")


def distance(x: Tensor, y: Tensor) -> Tensor:
    """L1 at three scales and squared error, between pictures (N, 3, H, W)."""
    return sum((functional.avg_pool2d(y - x, k)).abs().mean() for k in (1, 2, 4)) + (y - x).square().mean()


class Look(nn.Module):
    """How unlike two pictures look to a small CLIP's ResNet, after LPIPS (arXiv 1801.03924).

    The squared difference of its maps' directions, mean over places and summed over the first three stages. Pixel
    losses alone blur what tells one object from another.
    """

    def __init__(self, resnet: nn.Module) -> None:
        super().__init__()
        self.resnet = resnet.eval().requires_grad_(False)

    def maps(self, x: Tensor) -> list[Tensor]:
        x, out = self.resnet.stem(x), []
        for stage in (self.resnet.layer1, self.resnet.layer2, self.resnet.layer3):
            x = stage(x)
            out.append(functional.normalize(x, dim=1))
        return out

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            seen = self.maps(x)
        return sum((a - b).square().sum(1).mean() for a, b in zip(seen, self.maps(y), strict=True))


def train_decoder(images: ImageSet, pixels: Tensor, work: Path, out: Path, bf16: bool) -> None:
    """The VAE's decoder learns on alone: sharper pictures from the same latents, so that UNet and prior stay valid."""
    vae = AutoencoderKL.from_pretrained(out / "sdxl" / "vae", torch_dtype=torch.float32).eval().requires_grad_(False)
    latents = latents_of(images) / vae.config.scaling_factor
    spread = 0.1 * latents.std()  # a UNet's latents are never quite those of a picture
    learnt = (
        nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True).to(memory_format=torch.channels_last)
    )
    look = Look(load_clip(out / "clip-resnet").visual)

    def loss(indices: Tensor) -> Tensor:
        x = pixels[indices].float().to(memory_format=torch.channels_last) / 127.5 - 1
        z = latents[indices] + spread * torch.randn(len(indices), *latents.shape[1:])
        y = vae.decode(z.to(memory_format=torch.channels_last)).sample
        return distance(x, y) + LOOK_WEIGHT * look(x, y)

    averaged = optimise(learnt, loss, len(pixels), RECIPES["decoder"], work / "decoder.pt", bf16)
    learnt.load_state_dict(averaged.state_dict())
    vae.to(torch.float16).save_pretrained(out / "sdxl" / "vae")


def latents_of(images: ImageSet) -> Tensor:
    """Latents (N, 4, 8, 8), scaled, of the VAE that ships; from the cache when they are there."""
    return torch.from_numpy(embed(images, "vae:mini")).reshape(len(images), 4, SIZE // 8, SIZE // 8)


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Latent means (N, 4, 8, 8), not scaled, of pictures (N, 3, 64, 64)."""
    return torch.cat([vae.encode(batch.float() / 127.5 - 1).latent_dist.mode() for batch in pixels.split(100)])


def train_unet(images: ImageSet, work: Path, out: Path, bf16: bool, go_on: bool) -> None:
    """A UNet that predicts noise, conditioned on time and text, its two text encoders, and a Fusion Prior beside them.

    Of each batch 80 % are told the picture through the prior, beside the empty prompt; 10 % get their caption, the
    others nothing. So the cross-attentions learn to look at image tokens while they learn to draw, which 8 x 8 latents
    and a few thousand steps do not otherwise afford. The prior is left in ``work/prior``, from where
    `prior_training/train.py --init` goes on with the UNet frozen.

    The loss is weighted by clip(SNR, 0.7, 1) / SNR, after min-SNR (arXiv 2303.09556): the error in the picture counts
    about alike at all steps. The least noisy steps hold no shapes; the noisiest, whose error in the noise is tiny,
    decide the layout of the others.
    """
    captions = list(images.captions or ())
    vae = AutoencoderKL.from_pretrained(out / "sdxl" / "vae", torch_dtype=torch.float32).eval()
    latents = latents_of(images)
    pipeline = small_sdxl(vae, choose_tokenizer(images, out, go_on))
    unet, encoders = pipeline.unet, ("text_encoder", "text_encoder_2")
    # Euler's own add_noise gives x + σε, which its pipeline scales before the UNet sees it; this is the scaled one.
    noising = DDPMScheduler.from_config(pipeline.scheduler.config)
    config = presets.mini()
    features = {spec: torch.from_numpy(embed(images, spec)) for spec in config.targets.specs}
    prior = FusionPrior.for_unet(
        unet, {spec: x.shape[1] for spec, x in features.items()}, config.fusion.width, config.fusion.intermediate, 1024
    )
    if go_on:
        shipped = StableDiffusionXLPipeline.from_pretrained(out / "sdxl", torch_dtype=torch.float32)
        for name in ("unet", *encoders):
            getattr(pipeline, name).load_state_dict(getattr(shipped, name).state_dict())
        prior = FusionPrior.from_pretrained(out / "prior", torch_dtype=torch.float32)
    prior.attach(unet)
    snr_T = compute_snr(noising, torch.arange(noising.config.num_train_timesteps))
    weights_T = snr_T.clamp(0.7, 1) / snr_T
    learnt = nn.ModuleList([unet, *(getattr(pipeline, name) for name in encoders), prior])
    time_ids = torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]], dtype=torch.float32)

    def loss(indices: Tensor) -> Tensor:
        n = len(indices)
        told = torch.rand(n)
        prompts = [captions[i] if 0.8 <= p < 0.9 else "" for i, p in zip(indices.tolist(), told.tolist(), strict=True)]
        prompt_embeds, _, pooled, _ = pipeline.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False)
        x_0, noise = latents[indices], torch.randn(n, *latents.shape[1:])
        timesteps = torch.randint(0, noising.config.num_train_timesteps, (n,))
        x_t = noising.add_noise(x_0, noise, timesteps)
        shown = {spec: x[indices] for spec, x in features.items()}
        predicted = prior(unet, x_t, timesteps, prompt_embeds, pooled, time_ids, shown, told >= 0.8)
        return (weights_T[timesteps] * (predicted.float() - noise).square().mean((1, 2, 3))).mean()

    averaged = optimise(learnt, loss, len(latents), RECIPES["unet"], work / "unet.pt", bf16)
    learnt.load_state_dict(averaged.state_dict())
    prior.save_pretrained(work / "prior")
    ip_adapter.detach(unet)
    pipeline.to(torch.float16).save_pretrained(out / "sdxl")


def small_sdxl(vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionXLPipeline:
    """An untrained StableDiffusionXLPipeline of 7 million parameters around ``vae``."""
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=SIZE // 8,
        block_out_channels=(64, 128),
        layers_per_block=2,
        attention_head_dim=8,  # heads: each mixes the few image tokens in its own way at every place
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        transformer_layers_per_block=1,
        cross_attention_dim=2 * TEXT_WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=TEXT_WIDTH + 6 * 8,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=scheduler,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


def choose_tokenizer(images: ImageSet, out: Path, go_on: bool) -> CLIPTokenizer:
    """CLIP's byte-pair encoding with merges learnt from the captions: a word they hold is one token.

    Weights that go on were learnt with the tokenizer in ``out``; other pictures' captions may have other merges.
    """
    if go_on:
        return CLIPTokenizer.from_pretrained(out / "sdxl" / "tokenizer")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    learner.train_from_iterator(
        sorted(set(images.captions or ())), trainers.BpeTrainer(end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    pieces = dict.fromkeys(letters + [f"{letter}</w>" for letter in letters] + ["".join(pair) for pair in merges])
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT_LENGTH)


# --- the small CLIPs --------------------------------------------------------------------------------------------------

TOWERS: dict[str, dict] = {
    "clip-resnet": {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 24, "head_width": 32},
    # Half of the patches are hidden while it learns, which halves a step's cost (FLIP, arXiv 2212.00794).
    "clip-vit": {
        "image_size": SIZE,
        "layers": 4,
        "width": 128,
        "head_width": 32,
        "patch_size": 8,
        "patch_dropout": 0.5,
    },
}


def train_clip(name: Stage, images: ImageSet, pixels: Tensor, work: Path, out: Path, bf16: bool, go_on: bool) -> None:
    """One open_clip model, with the contrastive loss of CLIP between pictures and captions.

    A step reads each caption with some of its words: told everything, a picture is found among 256 by its colours and
    its scene, and the kind of object is not learnt.
    """
    tokenizer = choose_tokenizer(images, out, go_on)
    said = [text for pair in zip(images.captions or (), images.concepts, strict=True) for text in shortened(*pair)]
    ids = tokenizer(said, padding="max_length", max_length=CONTEXT_LENGTH).input_ids
    tokens_NVL = torch.tensor(ids, dtype=torch.int16).reshape(len(pixels), -1, CONTEXT_LENGTH)
    text = {"context_length": CONTEXT_LENGTH, "vocab_size": len(tokenizer), "width": 96, "heads": 3, "layers": 2}
    config = {"embed_dim": 128, "vision_cfg": TOWERS[name], "text_cfg": text}
    torch.manual_seed(0)
    model = load_clip(out / name) if go_on else open_clip.CLIP(**config, output_dict=True)
    model.to(memory_format=torch.channels_last)
    contrast = open_clip.ClipLoss()

    def loss(indices: Tensor) -> Tensor:
        x = moved(pixels[indices].float() / 127.5 - 1).to(memory_format=torch.channels_last)
        tokens = tokens_NVL[indices, torch.randint(tokens_NVL.shape[1], (len(indices),))].long()
        features = model(x, tokens)
        return contrast(features["image_features"].float(), features["text_features"].float(), features["logit_scale"])

    model = optimise(model, loss, len(pixels), RECIPES[name], work / f"{name}.pt", bf16)
    last = model.visual.attnpool.c_proj if name == "clip-resnet" else model.visual
    scale = 1 / encode_images(model, pixels[:2000]).std()
    with torch.no_grad():  # CLIP sees directions alone; a fusion adds features up, so they should be of like size
        for parameter in (last.weight, last.bias) if name == "clip-resnet" else (last.proj,):
            parameter.mul_(scale)
    half = {
        key: value.half().contiguous() if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    preprocess = {
        "size": SIZE,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    text["hf_tokenizer_name"] = "../sdxl/tokenizer"
    (out / name).mkdir(parents=True, exist_ok=True)
    described = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=2)
    write_atomic(out / name / CONFIG, lambda path: path.write_text(described))
    write_atomic(out / name / WEIGHTS, lambda path: save_file(half, path))


def shortened(caption: str, concept: str) -> list[str]:
    """A caption with and without texture, colour and scene, eight in all; the kind of object is always named."""
    texture, colour, kind = concept.split("_")
    scene = caption.partition(f" {kind} ")[2]
    said = product((texture if f" {texture} " in caption else "", ""), (colour, ""), (scene, ""))
    return [" ".join(filter(None, ("a", *before, kind, after))) for *before, after in said]


def load_clip(folder: Path) -> open_clip.CLIP:
    """The open_clip model that `train_clip` left in a folder, in single precision."""
    config = json.loads((folder / CONFIG).read_text())["model_cfg"]
    config["text_cfg"].pop("hf_tokenizer_name")  # names a tokenizer; the model knows how many tokens there are
    model = open_clip.CLIP(**config, output_dict=True)
    model.load_state_dict({key: x.float() for key, x in load_file(folder / WEIGHTS).items()})
    return model


@torch.no_grad()
def encode_images(model: open_clip.CLIP, pixels: Tensor) -> Tensor:
    """Image embeddings (N, 128), not normalised, of pictures (N, 3, 64, 64)."""
    return torch.cat([model.encode_image(batch.float() / 127.5 - 1) for batch in pixels.split(100)])


def moved(x: Tensor) -> Tensor:
    """Each picture (N, 3, H, W) mirrored or not, turned, scaled and shifted a little, so that place alone is no cue."""
    n = len(x)
    turn, scale = 0.2 * (2 * torch.rand(n) - 1), torch.empty(n).uniform_(0.85, 1.2)
    mirror, shift_N2 = 1 - 2 * torch.randint(0, 2, (n,)).float(), torch.empty(n, 2).uniform_(-0.15, 0.15)
    across = torch.stack([mirror * scale * turn.cos(), -scale * turn.sin(), shift_N2[:, 0]], dim=1)
    down = torch.stack([mirror * scale * turn.sin(), scale * turn.cos(), shift_N2[:, 1]], dim=1)
    grid = functional.affine_grid(torch.stack([across, down], dim=1), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def main(
    stages: tuple[Stage, ...] = ("vae", "clip-resnet", "clip-vit", "unet", "decoder"),
    out: Path = Path("hvf/weights/mini"),
    work: Path = Path("runs/mini"),
    exemplars: int = 6,
    threads: int = 1,
    bf16: bool = False,
    go_on: bool = False,
    steps: int | None = None,
    learning_rate: float | None = None,
) -> None:
    """Train the stages named, in order; ``exemplars`` pictures of each of 3,760 concepts.

    ``bf16`` helps processors that compute in bfloat16 and slows the others; ``go_on`` starts every stage from the
    weights in ``out`` rather than from chance; ``steps`` and ``learning_rate`` replace those of each stage named.
    """
    given = {name: value for name, value in (("steps", steps), ("learning_rate", learning_rate)) if value is not None}
    RECIPES.update({stage: replace(RECIPES[stage], **given) for stage in stages})
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    images = pretraining_images(exemplars, SIZE)
    pixels = load_pixels(images)
    for stage in stages:
        print(f"{stage}: {RECIPES[stage]} on {len(pixels)} pictures", flush=True)
        if stage == "vae":
            train_vae(pixels, work, out, bf16, go_on)
        elif stage == "decoder":
            train_decoder(images, pixels, work, out, bf16)
        elif stage == "unet":
            train_unet(images, work, out, bf16, go_on)
        else:
            train_clip(stage, images, pixels, work, out, bf16, go_on)


def load_pixels(images: ImageSet) -> Tensor:
    """All pictures as uint8 (N, 3, H, W) in memory."""
    return torch.from_numpy(images.array()).permute(0, 3, 1, 2).contiguous()


if __name__ == "__main__":
    tyro.cli(main)
