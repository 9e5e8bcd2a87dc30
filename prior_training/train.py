"""Train a Fusion Prior on images alone: no brain is needed here.

    accelerate launch prior_training/train.py [--preset mini|sdxl] [--max-steps N] [--out DIR] [--resume]

HVF, projector, image projection and adapter learn the ε loss of `hvf.models.denoising` through a frozen SDXL UNet. A
run killed at any moment and started again with --resume ends with the same weights. OUT gets checkpoints, metrics.jsonl
and metrics.json, and at the end prior/: the weights, averaged over training, and their card.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from accelerate import Accelerator
from diffusers import StableDiffusionXLPipeline
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError

from hvf import presets
from hvf.config import HvfError
from hvf.data.pretraining import pretraining_images
from hvf.data.stimuli import open_images
from hvf.data.trials import concept_split
from hvf.models import FusionPrior
from hvf.models.denoising import Material, Objective
from hvf.models.published import start_from_ip_adapter
from hvf.reconstruction import load_pipeline, load_prior
from hvf.runs import check_writable, code_version, track, write_atomic
from hvf.vision.cache import embed

EXECUTION_ONLY = {"out", "resume", "checkpoint_every", "validate_every", "shipped"}  # change no weight


@dataclass(frozen=True)
class Training:
    """Train a Fusion Prior through a frozen SDXL UNet."""

    preset: Literal["mini", "sdxl"] = "mini"  # where the other defaults come from
    pipeline: str = "mini"  # SDXL pipeline: "mini" (package data), a local folder or a Hub id
    latents: str = "vae:mini"  # FeatureSpec of the pipeline's own VAE at the size to train at
    targets: tuple[str, ...] = ()  # FeatureSpecs of the encoders to fuse
    init: str | None = (
        None  # weights to begin with: a Fusion Prior (folder) or an IP-Adapter (file); none: the UNet's own
    )
    images: str | None = None  # folder or zip of training images; none: rendered pictures, none of them in a study
    width: int = 256  # D, the width of z_f
    intermediate: int = 256  # hidden width of HVF's block
    projector_intermediate: int = 1024  # hidden width of the projector φ_c
    dropout: float = 0.1  # inside both blocks
    embedding_dropout: float = 0.1  # share of embeddings zeroed, for classifier-free guidance
    batch_size: int = 64  # images per step, over all processes
    max_steps: int = 2600  # length of the training
    learning_rate: float = 1e-3  # AdamW's peak
    schedule: Literal["cosine", "constant_with_warmup"] = "cosine"  # of the learning rate, after the warm-up
    warmup_steps: int = 200  # linear warm-up
    weight_decay: float = 0.01  # AdamW's
    clip_norm: float = 1.0  # largest gradient norm
    ema_decay: float = 0.999  # of the averaged weights, which are the ones kept
    validation_fraction: float = 0.05  # share of concepts held out
    seed: int = 0  # of everything drawn
    validate_every: int = 500  # steps between entries of metrics.jsonl
    checkpoint_every: int = 1000  # steps between checkpoints
    shipped: Literal["float16", "float32"] = "float16"  # number type of the weights in OUT/prior
    out: Path | None = None  # output folder; none: runs/prior-PRESET
    resume: bool = False  # go on from the last checkpoint in OUT


def mini() -> Training:
    """The embedded prior: rendered pictures, 8 x 8 latents; about half an hour on one CPU core."""
    config = presets.mini()
    return Training(targets=config.targets.specs, width=config.fusion.width, intermediate=config.fusion.intermediate)


def sdxl() -> Training:
    """The paper's prior: SDXL base at 512 px, 100k steps of 32 images; needs --images and a GPU (about 15 h on two)."""
    config = presets.things_eeg()
    return Training(
        preset="sdxl",
        pipeline="stabilityai/stable-diffusion-xl-base-1.0",
        latents="vae:sdxl@512",
        targets=config.targets.specs,
        width=config.fusion.width,
        intermediate=config.fusion.intermediate,
        projector_intermediate=4096,
        batch_size=32,
        max_steps=100_000,
        learning_rate=1e-4,
        schedule="constant_with_warmup",
        warmup_steps=1000,
        ema_decay=0.9999,
    )


PRESETS = {"mini": mini, "sdxl": sdxl}


def prepare(options: Training, pipeline: StableDiffusionXLPipeline, device: torch.device) -> Material:
    """Features and latents of all images (from the cache when they are there), split by concept."""
    if options.images is None and options.preset != "mini":
        raise HvfError("--images is missing: name a folder or zip of training images, e.g. ImageNet's train folder.")
    images = open_images(options.images) if options.images else pretraining_images()
    train, validation = concept_split(images.concepts, options.validation_fraction, options.seed)
    if len(train) < options.batch_size:
        raise HvfError(f"There are {len(train)} training images, fewer than --batch-size {options.batch_size}.")
    features = {spec: torch.from_numpy(embed(images, spec, device=device)).to(device) for spec in options.targets}
    flat = torch.from_numpy(embed(images, options.latents, device=device)).to(device)
    channels = pipeline.unet.config.in_channels
    side = round((flat.shape[1] / channels) ** 0.5)
    if channels * side**2 != flat.shape[1]:
        raise HvfError(f"{options.latents} gives {flat.shape[1]} numbers, not {channels} square maps for this UNet.")
    # Images are resized to squares before they are encoded, so original size = target size and nothing is cropped.
    pixels = float(side * pipeline.vae_scale_factor)
    time_ids = torch.tensor([[pixels, pixels, 0.0, 0.0, pixels, pixels]], device=device)
    with torch.no_grad():
        prompt_embeds, _, pooled, _ = pipeline.encode_prompt("", device=device, do_classifier_free_guidance=False)
    conditions = (prompt_embeds, pooled, time_ids)
    return Material(flat.reshape(-1, channels, side, side), features, train, validation, conditions)


def train(options: Training) -> Path:
    """Run the whole training; returns the output folder. Raises HvfError before anything is written."""
    out = options.out or Path("runs") / f"prior-{options.preset}"
    accelerator = Accelerator()
    check(out, options, accelerator.num_processes)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision, torch.float32)
    pipeline = load_pipeline(options.pipeline, device=str(accelerator.device), dtype=dtype)
    pipeline.unet.requires_grad_(False)
    with accelerator.main_process_first():  # the others then find the features in the cache
        material = prepare(options, pipeline, accelerator.device)
    objective = Objective(material, pipeline, options.batch_size, options.embedding_dropout, options.seed)

    torch.manual_seed(options.seed)
    dims = {spec: x.shape[1] for spec, x in material.features.items()}
    widths = (options.width, options.intermediate, options.projector_intermediate)
    bare = FusionPrior.for_unet(pipeline.unet, dims, *widths, dropout=options.dropout)
    if options.init:
        begin(bare, options.init)
    bare = bare.to(accelerator.device).train()
    bare.attach(pipeline.unet)
    parameters = list(bare.parameters())  # a generator would be used up by the optimizer and leave none to clip
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=options.weight_decay)
    lengths = {"num_warmup_steps": options.warmup_steps, "num_training_steps": options.max_steps}
    schedule = get_scheduler(options.schedule, optimizer, **lengths)
    ema = EMAModel(parameters, decay=options.ema_decay)
    prior, optimizer = accelerator.prepare(bare, optimizer)
    accelerator.register_for_checkpointing(ema, schedule)

    first, checkpoint = 0, max(out.glob("checkpoint-*"), default=None)
    if checkpoint:
        accelerator.load_state(str(checkpoint))
        ema.to(accelerator.device)
        first = int(checkpoint.name.removeprefix("checkpoint-"))
    history = read_history(out / "metrics.jsonl", first)
    if accelerator.is_main_process:
        write_json(out / "training.json", dataclasses.asdict(options))

    def averaged_losses() -> dict[str, float]:
        ema.store(parameters)
        ema.copy_to(parameters)
        bare.eval()
        with accelerator.autocast():
            losses = {
                "validation_loss": objective.validation_loss(bare),
                "validation_loss_without_image": objective.validation_loss(bare, without_image=True),
            }
        bare.train()
        ema.restore(parameters)
        return losses

    since, recent = time.perf_counter(), []
    for step in track(range(first, options.max_steps), "training the prior"):
        loss = objective.training_loss(prior, step, accelerator.process_index, accelerator.num_processes)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(parameters, options.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        ema.step(parameters)
        recent.append(torch.stack([loss.detach(), norm]))
        done = step + 1
        if done % options.validate_every == 0 or done == options.max_steps:
            mean_loss, mean_norm = accelerator.reduce(torch.stack(recent).mean(0), "mean").tolist()
            speed = len(recent) * options.batch_size / (time.perf_counter() - since)
            entry = {"step": done, "loss": mean_loss, "gradient_norm": mean_norm, **averaged_losses()}
            history.append({**entry, "learning_rate": schedule.get_last_lr()[0], "images_per_second": round(speed, 2)})
            if accelerator.is_main_process:
                write_text(out / "metrics.jsonl", "".join(json.dumps(one) + "\n" for one in history))
            since, recent = time.perf_counter(), []
        if done % options.checkpoint_every == 0 or done == options.max_steps:
            save_checkpoint(accelerator, out, done)

    losses = averaged_losses()
    if accelerator.is_main_process:
        ema.copy_to(parameters)
        deliver(out, accelerator.unwrap_model(prior, keep_fp32_wrapper=False), options, losses, material)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return out


def begin(prior: FusionPrior, init: str) -> None:
    """Fill a new prior from another one of the same shape, or its adapter alone from an IP-Adapter file."""
    if Path(init).is_file():
        start_from_ip_adapter(prior, init)
        return
    other = load_prior(init)
    for name in ("specs", "dims", "width", "cross_attention_dim", "adapter_names", "adapter_widths"):
        if list_of(other.config[name]) != list_of(prior.config[name]):
            raise HvfError(f"--init {init} has {name} {other.config[name]}, not {prior.config[name]}")
    try:
        prior.load_state_dict(other.state_dict())
    except RuntimeError as error:
        raise HvfError(f"--init {init} does not fit: {' '.join(str(error).split())[:200]}") from error


def list_of(value: object) -> object:
    """A tuple as a list, as JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def check(out: Path, options: Training, processes: int) -> None:
    """Refuse impossible settings, a folder that cannot be written, and one that holds another training."""
    check_writable(out)
    if options.max_steps < 1:
        raise HvfError(f"--max-steps is {options.max_steps}; it must be at least 1.")
    if options.batch_size % processes:
        raise HvfError(f"--batch-size {options.batch_size} cannot be shared by {processes} processes evenly.")
    if not options.targets:
        raise HvfError("--targets names no encoder; give at least one, e.g. --targets openclip:mini-vit.")
    if not (out / "training.json").exists():
        return
    if not options.resume:
        raise HvfError(f"{out} holds a training already: add --resume to go on with it, or choose another --out.")
    before = json.loads((out / "training.json").read_text())
    now = json.loads(json.dumps(dataclasses.asdict(options), default=str))
    for name in sorted(set(now) - EXECUTION_ONLY):
        if before.get(name) != now[name]:
            raise HvfError(f"{out} was trained with {name} = {before.get(name)}, not {now[name]}: it cannot go on.")


def save_checkpoint(accelerator: Accelerator, out: Path, step: int) -> None:
    """Everything needed to go on, under its final name only once it is whole; the one before the last is removed."""
    temporary, final = out / f".checkpoint-{step:07d}", out / f"checkpoint-{step:07d}"
    try:
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(temporary))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            for file in temporary.iterdir():
                with open(file, "rb+") as opened:
                    os.fsync(opened.fileno())
            shutil.rmtree(final, ignore_errors=True)
            os.replace(temporary, final)
            for old in sorted(out.glob("checkpoint-*"))[:-2]:
                shutil.rmtree(old)
    except (OSError, RuntimeError, SafetensorError) as error:  # the last two: what torch and safetensors make of it
        shutil.rmtree(temporary, ignore_errors=True)
        raise HvfError(f"Cannot write {final}: {error}. Make room and go on with --resume.") from error


def read_history(path: Path, steps: int) -> list[dict]:
    """The entries up to the step that training goes on from."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [entry for entry in map(json.loads, lines) if entry["step"] <= steps]


def write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda temporary: temporary.write_text(text))


def write_json(path: Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")


def deliver(out: Path, prior: FusionPrior, options: Training, losses: dict[str, float], material: Material) -> None:
    """OUT/prior (weights and model card) and metrics.json, from the averaged weights."""
    temporary = out / ".prior"
    shutil.rmtree(temporary, ignore_errors=True)
    copy.deepcopy(prior).to("cpu", getattr(torch, options.shipped)).save_pretrained(temporary)
    (temporary / "README.md").write_text(model_card(options, losses, material, prior))
    shutil.rmtree(out / "prior", ignore_errors=True)
    os.replace(temporary, out / "prior")
    n = len(material.checked)
    write_json(out / "metrics.json", {f"prior/{k}": {"value": v, "ci95": None, "n": n} for k, v in losses.items()})


def model_card(options: Training, losses: dict[str, float], material: Material, prior: FusionPrior) -> str:
    source = options.images or "pictures drawn by code (`hvf.data.pretraining`), none of them in the simulated study"
    default = PRESETS[options.preset]()
    changed = {name: value for name, value in vars(options).items() if value != getattr(default, name)}
    flags = {name: value for name, value in changed.items() if name not in EXECUTION_ONLY}
    texts = {name: " ".join(value) if isinstance(value, tuple) else value for name, value in flags.items()}
    arguments = "".join(f" --{name.replace('_', '-')} {text}" for name, text in texts.items())
    return f"""---
license: apache-2.0
library_name: diffusers
---

# Fusion Prior ({options.preset})

HVF, projector and IP-Adapter of arXiv 2602.07495, trained by `prior_training/train.py` (hvf {code_version()}).
Read it with `hvf.models.FusionPrior.from_pretrained(folder, torch_dtype=torch.float32)`.

| | |
| --- | --- |
| data | {source}; {len(material.train)} images, {len(material.validation)} of other concepts held out |
| encoders | {", ".join(f"`{spec}` ({dim})" for spec, dim in prior.dims.items())} |
| UNet | {options.pipeline}, frozen; latents `{options.latents}` {tuple(material.latents_NCHW.shape[1:])} |
| parameters | {sum(p.numel() for p in prior.parameters()):,} |
| training | {options.max_steps} steps of {options.batch_size}, AdamW {options.learning_rate}, EMA {options.ema_decay} |
| validation loss | {losses["validation_loss"]:.4f} (without the image: {losses["validation_loss_without_image"]:.4f}) |
| made by | `accelerate launch prior_training/train.py --preset {options.preset}{arguments}` |
"""


def parse(arguments: list[str] | None = None) -> Training:
    """The preset named by --preset, with the settings given beside it."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=list(PRESETS), default="mini")
    preset = first.parse_known_args(arguments)[0].preset
    return tyro.cli(Training, default=PRESETS[preset](), args=arguments)


def main(arguments: list[str] | None = None) -> int:
    try:
        out = train(parse(arguments))
    except HvfError as error:
        print(f"hvf: {error}", file=sys.stderr)
        return 2
    print(f"prior written to {out / 'prior'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
