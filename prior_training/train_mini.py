"""Train the mini models that ship with hvf: a small SDXL (VAE, UNet, text encoders), two CLIPs, a reader of kinds.

    python prior_training/train_mini.py [--stages vae unet]    # every stage: minutes on a GPU, a day on CPU cores

Pictures and captions are drawn by `hvf.simulation.captioned`, none of a test concept. A stage keeps a checkpoint under
``--work``, goes on from it when started again, and leaves its model, in half precision, in ``--out``. The Fusion Prior
follows from `prior_training/train.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Literal, get_args

import open_clip
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionXLPipeline
from diffusers.training_utils import compute_snr
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTokenizer

from hvf import presets
from hvf.cli.options import parse_settings, script
from hvf.config import HvfError
from hvf.evaluation.metrics.kind import KINDS, reader
from hvf.models.mini import CONTEXT_LENGTH, SIZE, learn_tokenizer, read_prompts, small_clip, small_sdxl, small_vae
from hvf.prior import adapter
from hvf.prior.embedding_noise import EmbeddingNoise
from hvf.prior.model import FusionPrior, TextConditions
from hvf.runs import check_writable, write_atomic
from hvf.schema.bounds import Count, Positive, SomeEachOnce, check_options
from hvf.simulation.captioned import pretraining_images
from hvf.training.small_runs import Hyperparameters, optimise, usable_device
from hvf.vision.cache import embed

Stage = Literal["clip-resnet", "clip-vit", "vae", "unet", "kind-reader"]
CONFIG, WEIGHTS, READER = "open_clip_config.json", "open_clip_model.safetensors", "kind-reader"
PERCEPTUAL_WEIGHT = 0.3  # of the perceptual loss, beside some 0.2 of pixels, in the VAE's loss
LATENTS_DROPPED = 0.2  # share of the pictures that the fusion is shown without their latents
STRONGEST_NOISE = 4.0  # on the embeddings that condition the UNet, in sd of an embedding's mean component
PICTURE_SHARE, CAPTION_SHARE = 0.8, 0.1  # of the UNet's batch, what conditions it; the others have no condition

RECIPES: dict[Stage, Hyperparameters] = {
    "clip-resnet": Hyperparameters(steps=2300, batch_size=256, learning_rate=1.5e-3, weight_decay=0.1, ema=0.99),
    "clip-vit": Hyperparameters(steps=3500, batch_size=256, learning_rate=1e-3, weight_decay=0.1, ema=0.99),
    "vae": Hyperparameters(steps=12_000, batch_size=96, learning_rate=1.2e-3),
    "unet": Hyperparameters(steps=12_000, batch_size=768, learning_rate=1e-3, ema=0.999),
    "kind-reader": Hyperparameters(steps=1500, batch_size=96, learning_rate=3e-3, weight_decay=0.05, ema=0.99),
}


@dataclass(frozen=True)
class Options:
    """Train the mini models that ship with hvf."""

    stages: SomeEachOnce[Stage] = get_args(Stage)  # which, in this order
    out: Path = Path("hvf/weights/mini")  # folder of the models
    work: Path = Path("runs/mini")  # folder of the checkpoints
    exemplars: Count = 18  # pictures of each of 3,760 concepts
    device: str = "cuda" if torch.cuda.is_available() else "cpu"  # where to train
    bf16: bool = torch.cuda.is_available()  # helps hardware that computes in bfloat16 and slows the rest
    go_on: bool = False  # start every stage from the weights in --out, not from chance
    steps: Count | None = None  # of each stage; none: its own number, and so below
    batch_size: Count | None = None  # of each stage
    learning_rate: Positive | None = None  # of each stage


def train(options: Options) -> None:
    """Run the stages, in order. Raises HvfError before anything is written if the options do not allow it."""
    check_options(options)
    named = ("steps", "batch_size", "learning_rate")
    changed = {name: value for name in named if (value := getattr(options, name)) is not None}
    recipes = {stage: replace(RECIPES[stage], **changed) for stage in options.stages}
    training = Training(options, max(recipe.batch_size for recipe in recipes.values()))
    for stage, recipe in recipes.items():
        print(f"{stage}: {recipe} on {len(training.images)} pictures", flush=True)
        (OTHERS[stage] if stage in OTHERS else partial(train_clip, stage))(training, recipe)


class Training:
    """What all stages share: pictures, folders, the device, and whether to go on from what ships."""

    def __init__(self, options: Options, batch_size: int) -> None:
        for folder in (options.out, options.work):
            check_writable(folder)
        self.device, self.bf16, self.go_on = usable_device(options.device), options.bf16, options.go_on
        self.images, self.out, self.work = pretraining_images(options.exemplars, SIZE), options.out, options.work
        if (n := len(self.images)) < batch_size:
            raise HvfError(f"there are {n} pictures, fewer than a batch of {batch_size}: give more --exemplars")
        self.layout = {"memory_format": torch.channels_last}  # where convolutions in half precision are fastest

    def pixels(self) -> Tensor:
        """All pictures as uint8 (N, 3, H, W) on the device."""
        return torch.from_numpy(self.images.array()).to(self.device).permute(0, 3, 1, 2)

    def tokenizer(self) -> CLIPTokenizer:
        """Weights that go on were learnt with the tokenizer in ``out``; other captions may have other merges."""
        if self.go_on:
            return CLIPTokenizer.from_pretrained(self.out / "sdxl" / "tokenizer")
        return learn_tokenizer(self.images.captions or ())

    def tokens(self, texts: list[str], tokenizer: CLIPTokenizer) -> Tensor:
        """Token numbers (N, L) on the device."""
        ids = tokenizer(texts, padding="max_length", max_length=CONTEXT_LENGTH).input_ids
        return torch.tensor(ids, device=self.device)

    def optimise(
        self,
        model: nn.Module,
        loss: Callable[[Tensor], Tensor],
        recipe: Hyperparameters,
        stage: str,
        between: Callable[[], None] | None = None,
    ) -> nn.Module:
        kept = self.work / f"{stage}.pt"
        return optimise(model, loss, len(self.images), recipe, kept, self.device, self.bf16, between)


# --- the small SDXL ---------------------------------------------------------------------------------------------------


def train_vae(training: Training, recipe: Hyperparameters) -> None:
    """An AutoencoderKL from 64 x 64 pixels to 8 x 8 x 4 latents; the scaling factor makes their variance 1."""
    pixels, out = training.pixels(), training.out
    vae = small_vae().to(training.device, **training.layout)
    if training.go_on:
        vae.load_state_dict(AutoencoderKL.from_pretrained(out / "sdxl" / "vae", torch_dtype=torch.float32).state_dict())
    perceptual = PerceptualLoss(load_clip(out / "clip-resnet").visual).to(training.device, **training.layout)

    def loss(indices: Tensor) -> Tensor:
        x = pixels[indices].float().to(**training.layout) / 127.5 - 1
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        rate = posterior.kl().mean() / posterior.mean[0].numel()
        return distance(x, y) + PERCEPTUAL_WEIGHT * perceptual(x, y) + 1e-3 * rate

    vae = training.optimise(vae, loss, recipe, "vae")
    scale = 1 / encode(vae, pixels[:2000]).std().item()
    vae.register_to_config(scaling_factor=round(scale, 4))
    vae.to("cpu", torch.float16).save_pretrained(out / "sdxl" / "vae")


def distance(x: Tensor, y: Tensor) -> Tensor:
    """L1 at three scales and squared error, between pictures (N, 3, H, W)."""
    return sum((functional.avg_pool2d(y - x, k)).abs().mean() for k in (1, 2, 4)) + (y - x).square().mean()


class PerceptualLoss(nn.Module):
    """Perceptual distance of two pictures in a small CLIP's ResNet, after LPIPS (arXiv 1801.03924).

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
            out.append(functional.normalize(x.float(), dim=1))
        return out

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            maps = self.maps(x)
        return sum((a - b).square().sum(1).mean() for a, b in zip(maps, self.maps(y), strict=True))


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Latent means (N, 4, 8, 8), not scaled, of pictures (N, 3, 64, 64)."""
    return torch.cat([vae.encode(batch.float() / 127.5 - 1).latent_dist.mode() for batch in pixels.split(100)])


def train_unet(training: Training, recipe: Hyperparameters) -> None:
    """A UNet that predicts noise, conditioned on time and text, its two text encoders, and a Fusion Prior beside them.

    Of each batch 80 % are conditioned on the picture through the prior, beside the empty prompt; 10 % on their caption,
    the others on nothing. So the cross-attentions learn to use image tokens while the UNet learns to draw; 8 x 8
    latents and a few thousand steps are too little for one after the other. The prior is left in ``work/prior``, from
    where `prior_training/train.py --init` goes on with the UNet frozen.

    Most pictures' embeddings are corrupted as a brain's estimates will be (`hvf.prior.embedding_noise`): so one likely
    picture is drawn, in place of a blur of all that it may be.

    The loss is weighted by clip(SNR, 0.7, 1) / SNR, after min-SNR (arXiv 2303.09556): the error in the picture counts
    about alike at all steps. The least noisy steps hold no shapes; the noisiest, whose error in the noise is tiny,
    decide the layout of the others.
    """
    images, device, out = training.images, training.device, training.out
    vae = AutoencoderKL.from_pretrained(out / "sdxl" / "vae", torch_dtype=torch.float32).eval()
    pipeline = small_sdxl(vae, training.tokenizer())
    unet, encoders = pipeline.unet, ("text_encoder", "text_encoder_2")
    latents = torch.from_numpy(embed(images, "vae:mini", device)).to(device).reshape(-1, 4, SIZE // 8, SIZE // 8)
    config = presets.mini()
    features = {spec: torch.from_numpy(embed(images, spec, device)).to(device) for spec in config.targets.specs}
    widths = config.fusion.width, config.fusion.intermediate, 1024
    if training.go_on:
        shipped = StableDiffusionXLPipeline.from_pretrained(out / "sdxl", torch_dtype=torch.float32)
        for name in ("unet", *encoders):
            getattr(pipeline, name).load_state_dict(getattr(shipped, name).state_dict())
    prior = FusionPrior.for_unet(unet, {spec: x.shape[1] for spec, x in features.items()}, *widths)
    if training.go_on:
        prior.start_from(FusionPrior.from_pretrained(out / "prior", torch_dtype=torch.float32))
    prior.attach(unet)
    learnt = nn.ModuleList([unet, *(getattr(pipeline, name) for name in encoders), prior]).to(device)
    # Euler's own add_noise gives x + σε, which its pipeline scales before the UNet sees it; this is the scaled one.
    noising = DDPMScheduler.from_config(pipeline.scheduler.config)
    snr_T = compute_snr(noising, torch.arange(noising.config.num_train_timesteps)).to(device)
    weights_T = snr_T.clamp(0.7, 1) / snr_T
    time_ids = torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]], dtype=torch.float32, device=device)
    captions_NL = training.tokens(list(images.captions or ()), pipeline.tokenizer)
    empty_1L = training.tokens([""], pipeline.tokenizer)
    noise_on_z = EmbeddingNoise(prior.hvf.width, STRONGEST_NOISE, device)
    latent_specs = [spec for spec in prior.specs if spec.startswith("vae:")]
    n = recipe.batch_size
    pictures, captions = round(PICTURE_SHARE * n), round(CAPTION_SHARE * n)
    dropped_N = torch.arange(n, device=device) >= pictures

    def loss(indices: Tensor) -> Tensor:
        shown_NL = captions_NL[indices[pictures : pictures + captions]]
        prompts, pooled = read_prompts(pipeline, torch.cat([empty_1L, shown_NL]))
        row_N = torch.zeros_like(indices)  # of the prompts: the empty one, but for those who get their caption
        row_N[pictures : pictures + captions] = torch.arange(1, captions + 1, device=device)
        x_0 = latents[indices]
        noise = torch.randn_like(x_0)
        timesteps = torch.randint(0, noising.config.num_train_timesteps, (n,), device=device)
        x_t = noising.add_noise(x_0, noise, timesteps)
        shown = {spec: x[indices] for spec, x in features.items()}
        for spec in latent_specs:
            shown[spec] = shown[spec] * (torch.rand(n, 1, device=device) >= LATENTS_DROPPED)
        white_ND = torch.randn(n, prior.hvf.width, device=device)
        noise_levels = noise_on_z, white_ND, noise_on_z.levels(torch.rand(n, 2, device=device))
        text = TextConditions(prompts[row_N], pooled[row_N], time_ids)
        predicted = prior(unet, x_t, timesteps, text, shown, dropped_N, noise_levels)
        return (weights_T[timesteps] * (predicted.float() - noise).square().mean((1, 2, 3))).mean()

    @torch.no_grad()
    def measure() -> None:
        """The directions in which images differ, as the fusion has learnt to lay them out by now."""
        noise_on_z.fit(prior.encode({spec: x[::4] for spec, x in features.items()}))

    averaged = training.optimise(learnt, loss, recipe, "unet", measure)
    learnt.load_state_dict(averaged.state_dict())
    learnt.to("cpu")
    prior.save_pretrained(training.work / "prior")
    adapter.detach(unet)
    pipeline.to(torch.float16).save_pretrained(out / "sdxl")


# --- the small CLIPs --------------------------------------------------------------------------------------------------


def train_clip(name: Stage, training: Training, recipe: Hyperparameters) -> None:
    """One open_clip model, with the contrastive loss of CLIP between pictures and captions.

    A step reads each caption with some of its words: by all of them a picture is found among 256 from its colours and
    its scene, and the kind of object is not learnt.
    """
    images, device, folder = training.images, training.device, training.out / name
    pixels, tokenizer = training.pixels(), training.tokenizer()
    texts = [text for pair in zip(images.captions or (), images.concepts, strict=True) for text in shortened(*pair)]
    tokens_NVL = training.tokens(texts, tokenizer).reshape(len(images), -1, CONTEXT_LENGTH)
    model, config = small_clip(name, len(tokenizer))
    model = (load_clip(folder) if training.go_on else model).to(device, **training.layout)
    if name == "clip-vit":
        model.visual.patch_dropout = Hidden(model.visual.patch_dropout.prob)
    contrast = open_clip.ClipLoss()

    def loss(indices: Tensor) -> Tensor:
        x = moved(pixels[indices].float() / 127.5 - 1).to(**training.layout)
        version = torch.randint(tokens_NVL.shape[1], (len(indices),), device=device)
        features = model(x, tokens_NVL[indices, version])
        return contrast(features["image_features"].float(), features["text_features"].float(), features["logit_scale"])

    model = training.optimise(model, loss, recipe, name)
    last = model.visual.attnpool.c_proj if name == "clip-resnet" else model.visual
    scale = 1 / encode_images(model, pixels[:2000]).std()
    with torch.no_grad():  # CLIP sees directions alone; a fusion adds features up, so they should be of like size
        for parameter in (last.weight, last.bias) if name == "clip-resnet" else (last.proj,):
            parameter.mul_(scale)
    preprocess = {"size": SIZE, "mean": [0.5] * 3, "std": [0.5] * 3}
    preprocess |= {"interpolation": "bicubic", "resize_mode": "squash"}
    config["text_cfg"]["hf_tokenizer_name"] = "../sdxl/tokenizer"
    card = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=2)
    write_atomic(folder / CONFIG, lambda path: path.write_text(card))
    write_atomic(folder / WEIGHTS, lambda path: save_file(halved(model.state_dict()), path))


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they ship: on the CPU, numbers in half precision."""
    return {key: (x.half() if x.is_floating_point() else x).contiguous().cpu() for key, x in state.items()}


class Hidden(nn.Module):
    """Tokens (N, 1 + L, D) without a share of the L patches: open_clip's draws on the CPU, and cannot be recorded."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        class_N1D, patches_NLD = x[:, :1], x[:, 1:]
        n, length, width = patches_NLD.shape
        kept_NK = torch.rand(n, length, device=x.device).topk(round((1 - self.share) * length), dim=1).indices
        return torch.cat([class_N1D, patches_NLD.gather(1, kept_NK[:, :, None].expand(-1, -1, width))], dim=1)


def shortened(caption: str, concept: str) -> list[str]:
    """A caption with and without texture, colour and scene, eight in all; the kind of object is always named."""
    texture, colour, kind = concept.split("_")
    colour = colour.partition("-")[0]  # captions name the first alone
    scene = caption.partition(f" {kind} ")[2]
    parts = product((texture if f" {texture} " in caption else "", ""), (colour, ""), (scene, ""))
    return [" ".join(filter(None, ("a", *before, kind, after))) for *before, after in parts]


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
    n, like = len(x), {"device": x.device}
    turn, scale = 0.2 * (2 * torch.rand(n, **like) - 1), torch.empty(n, **like).uniform_(0.85, 1.2)
    mirror = 1 - 2 * torch.randint(0, 2, (n,), **like).float()
    shift_N2 = torch.empty(n, 2, **like).uniform_(-0.15, 0.15)
    across = torch.stack([mirror * scale * turn.cos(), -scale * turn.sin(), shift_N2[:, 0]], dim=1)
    down = torch.stack([mirror * scale * turn.sin(), scale * turn.cos(), shift_N2[:, 1]], dim=1)
    grid = functional.affine_grid(torch.stack([across, down], dim=1), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


# --- the reader of kinds ----------------------------------------------------------------------------------------------


def train_kind_reader(training: Training, recipe: Hyperparameters) -> None:
    """The network that says which kind of object a picture shows; it measures drawn pictures, and makes none.

    It learns from rendered pictures alone, half of them blurred: a kind is missed for its shape, not for a soft edge.
    """
    images, device, file = training.images, training.device, training.out / READER / f"{READER}.safetensors"
    pixels = training.pixels()
    kinds_N = torch.tensor([KINDS.index(concept.split("_")[2]) for concept in images.concepts], device=device)
    torch.manual_seed(0)
    network = reader().to(device, **training.layout)
    if training.go_on:
        network.load_state_dict(load_file(file))

    def loss(indices: Tensor) -> Tensor:
        x = softened(moved(pixels[indices].float() / 127.5 - 1)).to(**training.layout)
        return functional.cross_entropy(network(x), kinds_N[indices], label_smoothing=0.1)

    network = training.optimise(network, loss, recipe, READER)
    write_atomic(file, lambda path: save_file(halved(network.state_dict()), path))


def softened(x: Tensor) -> Tensor:
    """A quarter of the pictures (N, 3, H, W) at half their resolution, a quarter at a fourth of it; all with noise."""
    chosen_N111 = torch.rand(len(x), 1, 1, 1, device=x.device)
    for share, factor in ((0.5, 2), (0.25, 4)):
        coarse = functional.interpolate(functional.avg_pool2d(x, factor), list(x.shape[2:]), mode="bilinear")
        x = torch.where(chosen_N111 < share, coarse, x)
    return x + 0.1 * torch.rand(len(x), 1, 1, 1, device=x.device) * torch.randn_like(x)


OTHERS = {"vae": train_vae, "unet": train_unet, READER: train_kind_reader}


@script
def main(arguments: Sequence[str] | None) -> None:
    train(parse_settings(Options(), arguments))


if __name__ == "__main__":
    sys.exit(main())
