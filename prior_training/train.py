"""Train a Fusion Prior on images alone: no brain is needed here.

    accelerate launch prior_training/train.py [--preset mini|sdxl] [--max-steps N] [--out DIR] [--resume]

HVF, projector, image projection and adapter learn the ε loss of `hvf.prior.objective` through a frozen SDXL UNet. A
run killed at any moment and started again with --resume ends with the same weights. OUT gets checkpoints, metrics.jsonl
and metrics.json, and at the end prior/: the weights, averaged over training, and their card.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from diffusers import StableDiffusionXLPipeline
from diffusers.optimization import get_scheduler
from PIL import Image

from hvf import presets
from hvf.cli.options import parse_preset, script
from hvf.config import HvfError, SamplingConfig, TargetConfig
from hvf.prior.attention import check_attached, choose_attention
from hvf.prior.card import DRAWING, HEAD
from hvf.prior.embedding_noise import EmbeddingNoise
from hvf.prior.loading import load_pipeline, load_prior
from hvf.prior.made_from import fingerprint, kept_fingerprint, refuse_other_content
from hvf.prior.model import FusionPrior
from hvf.prior.objective import Objective, TrainingImages
from hvf.prior.published import start_from_ip_adapter
from hvf.prior.reconstruction import held_out_pictures
from hvf.prior.sources import SourceSettings, open_training_images
from hvf.runs import check_writable, code_version, track, write_atomic, write_json
from hvf.schema.bounds import Count, Inner, NotNegative, Number, Part, Positive, Seed, check_options
from hvf.schema.reading import read_as
from hvf.training.long_runs import (
    TERMINATED,
    EmaWeights,
    Log,
    Termination,
    folder_in_place,
    load_checkpoint,
    read_history,
    save_checkpoint,
    say,
    scalar_norm,
    trackers,
    whole_state,
    write_history,
)
from hvf.vision.processes import several_on_cpus
from hvf.vision.specs import check_targets, parse_spec

# These change no weight, but for the last bits of some.
EXECUTION_ONLY = {
    "out", "resume", "checkpoint_every", "validate_every", "shipped", "workers", "gradient_checkpointing", "attention",
    "tracker", "pictures", "picture_steps", "picture_guidance",
}  # fmt: skip


@dataclass(frozen=True)
class Training:
    """Train a Fusion Prior through a frozen SDXL UNet."""

    preset: Literal["mini", "sdxl"] = "mini"  # where the other defaults come from
    pipeline: str = "mini"  # SDXL pipeline: "mini" (package data), a local folder or a Hub id
    latents: str = "vae:mini"  # FeatureSpec of the pipeline's own VAE at the size to train at
    targets: tuple[str, ...] = ()  # FeatureSpecs of the encoders to fuse
    init: str | None = None  # weights to start from: a Fusion Prior (folder) or IP-Adapter (file); none: the UNet's own
    images: str | None = None  # folder or zip of training images; none: rendered pictures, none of them in a study
    width: Count = 256  # D, the width of z_f
    intermediate: Count = 256  # hidden width of HVF's block
    projector_intermediate: Count = 1024  # hidden width of the projector φ_c
    dropout: Part = 0.1  # inside both blocks
    embedding_dropout: Part = 0.1  # share of embeddings zeroed, for classifier-free guidance
    vagueness: NotNegative = 0.0  # strongest embedding noise, in sd of an embedding's mean component; 0: none
    shards: Path | None = None  # folder that prior_training/prepare.py wrote, read as needed; in place of --images
    from_pixels: bool = False  # encode the images in every step, instead of once into memory and the cache
    workers: Number = 0  # processes that read shards or images ahead of the steps
    batch_size: Count = 64  # images per step, over all processes and parts
    gradient_accumulation: Count = 1  # parts that a step's batch is computed in, one after the other
    gradient_checkpointing: bool = False  # less memory, a third more time
    mixed_precision: Literal["no", "bf16"] = "no"  # of the frozen UNet; what is trained stays float32
    attention: Literal["sdpa", "xformers", "compiled"] = "sdpa"  # of the UNet; falls back to sdpa, and says so
    max_steps: Count = 2600  # length of the training
    learning_rate: Positive = 1e-3  # AdamW's peak
    schedule: Literal["cosine", "constant_with_warmup"] = "cosine"  # of the learning rate, after the warm-up
    warmup_steps: Number = 200  # linear warm-up
    weight_decay: NotNegative = 0.01  # AdamW's
    clip_norm: Positive = 1.0  # largest gradient norm
    ema_decay: Part = 0.999  # of the averaged weights, which are the ones kept
    validation_fraction: Inner = 0.05  # share of concepts held out
    seed: Seed = 0  # of everything drawn
    validate_every: Count = 500  # steps between entries of metrics.jsonl
    checkpoint_every: Count = 1000  # steps between checkpoints
    tracker: Literal["tensorboard", "wandb", "none"] = "tensorboard"  # figures and pictures while it trains
    pictures: Number = 8  # held-out images drawn beside every entry of metrics.jsonl
    picture_steps: Count = 10  # of their sampler
    picture_guidance: float = 2.0  # classifier-free guidance
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
        mixed_precision="bf16",
        workers=4,
        picture_steps=30,
        picture_guidance=5.0,
    )


PRESETS = {"mini": mini, "sdxl": sdxl}


def train(options: Training) -> Path:
    """Run the whole training; returns the output folder. Raises HvfError before anything is written."""
    out = options.out or Path("runs") / f"prior-{options.preset}"
    options = with_launchers_precision(options)
    accelerator = Accelerator(
        cpu=several_on_cpus(),
        mixed_precision="no",  # the prior's own forward runs the UNet in the UNet's precision, alike everywhere
        gradient_accumulation_steps=options.gradient_accumulation,
        log_with=trackers(options.tracker),
        project_config=ProjectConfiguration(str(out), logging_dir=str(out / "logs")),
    )
    process, processes, parts = accelerator.process_index, accelerator.num_processes, options.gradient_accumulation
    check(out, options, processes)
    before = kept_fingerprint(out / "training.json")
    dtype = torch.bfloat16 if options.mixed_precision == "bf16" else torch.float32
    pipeline = load_pipeline(options.pipeline, device=str(accelerator.device), dtype=dtype)
    pipeline.unet.requires_grad_(False)
    sampling = SamplingConfig(steps=options.picture_steps, guidance=options.picture_guidance, seed=options.seed)
    most = pipeline.scheduler.config.num_train_timesteps
    if options.pictures and sampling.steps > most:
        raise HvfError(
            f"--picture-steps must be at most {most}, those of the pipeline's schedule, not {sampling.steps}"
        )
    source = SourceSettings(
        options.latents, options.targets, options.images, options.shards, options.from_pixels, options.workers
    )
    with accelerator.main_process_first():  # the others then find the features in the cache
        images = open_training_images(source, pipeline, accelerator.device, options.validation_fraction, options.seed)
    if len(images.train) < options.batch_size:
        raise HvfError(f"There are {len(images.train)} training images, fewer than --batch-size {options.batch_size}.")
    made_from = fingerprint(images, pipeline, options.init)
    if before:
        refuse_other_content(out, before, made_from)
    elif before is not None:
        say(accelerator, f"{out} was begun by an earlier version, which kept no hash of its images and weights.")
    pipeline.unet.register_to_config(sample_size=images.source.latent_shape[1])  # pictures are drawn as trained
    refused = choose_attention(pipeline.unet, options.attention)
    if refused:
        say(accelerator, refused)
    if options.gradient_checkpointing:
        pipeline.unet.enable_gradient_checkpointing()
    noise = EmbeddingNoise(options.width, options.vagueness, accelerator.device) if options.vagueness else None
    objective = Objective(images, pipeline, options.batch_size, options.embedding_dropout, options.seed, noise)

    torch.manual_seed(options.seed)
    bare = new_prior(options, pipeline, images).to(accelerator.device).train()
    bare.attach(pipeline.unet)
    check_attached(pipeline.unet, bare)
    objective.fit_embedding_noise(bare)  # before a checkpoint is read: a resumed training has the same noise
    if process:  # the first draws what a single one would; dropout differs between them
        torch.manual_seed(options.seed + process)
    optimizer = torch.optim.AdamW(bare.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    lengths = {"num_warmup_steps": options.warmup_steps, "num_training_steps": options.max_steps}
    schedule = get_scheduler(options.schedule, optimizer, **lengths)
    if accelerator.state.deepspeed_plugin is not None:  # it wants to know beforehand
        share = options.batch_size // (processes * parts)
        engine = {"train_micro_batch_size_per_gpu": share, "gradient_clipping": options.clip_norm}
        accelerator.state.deepspeed_plugin.deepspeed_config.update(engine)
    prior, optimizer = accelerator.prepare(bare, optimizer)
    parameters = list(prior.parameters())  # a generator would be used up by its first reader and leave none to clip
    averaged = EmaWeights(accelerator, prior, options.ema_decay)
    accelerator.register_for_checkpointing(schedule)
    first = load_checkpoint(accelerator, averaged, out)
    history = read_history(out / "metrics.jsonl", first)
    if accelerator.is_main_process:
        write_json(out / "training.json", settings_of(options) | {"fingerprint": made_from})
    log = Log(accelerator, out.name)
    objective.announce(range(first, options.max_steps), process, processes, parts)

    def validate(step: int | None = None) -> dict[str, float]:
        """The averaged weights' losses on held-out images; with a step, pictures too."""
        with averaged.applied():
            losses = {
                "validation_loss": objective.validation_loss(prior),
                "validation_loss_without_image": objective.validation_loss(prior, without_image=True),
            }
            check_finite(losses["validation_loss"], options, step or options.max_steps)
            if step is not None and options.pictures:
                state = whole_state(accelerator, prior)
                if accelerator.is_main_process:
                    drawn = held_out_pictures(
                        bare.with_weights(state).to(accelerator.device), objective, pipeline, sampling, options.pictures
                    )
                    bare.attach(pipeline.unet)
                    check_attached(pipeline.unet, bare)
                    grid = np.concatenate([np.concatenate(list(row), axis=1) for row in drawn])
                    path = out / "validation" / f"step-{step:07d}.png"
                    write_atomic(path, lambda temporary: Image.fromarray(grid).save(temporary))
                    log.pictures("validation", np.concatenate(drawn), step)
        return losses

    since, recent = time.perf_counter(), []
    with Termination(accelerator) as termination:
        for step in track(range(first, options.max_steps), "training the prior"):
            losses, norm = [], None
            for part in range(parts):
                with accelerator.accumulate(prior):
                    loss = objective.training_loss(prior, step, part * processes + process, processes * parts)
                    accelerator.backward(loss)
                    losses.append(loss.detach())
                    if accelerator.sync_gradients:
                        norm = accelerator.clip_grad_norm_(parameters, options.clip_norm)
                    optimizer.step()
                    optimizer.zero_grad()
            schedule.step()
            averaged.step()
            recent.append(torch.stack([torch.stack(losses).mean(), scalar_norm(norm, loss)]))
            done, last = step + 1, step + 1 == options.max_steps
            stop, validated = termination.asked() and not last, done % options.validate_every == 0 or last
            kept = done % options.checkpoint_every == 0 or last or stop
            if validated or kept:
                mean_loss, mean_norm = accelerator.reduce(torch.stack(recent).mean(0), "mean").tolist()
                check_finite(mean_loss, options, done)  # before a checkpoint takes the place of a sound one
            if validated:
                speed = len(recent) * options.batch_size / (time.perf_counter() - since)
                entry = {"step": done, "loss": mean_loss, "gradient_norm": mean_norm, **validate(done)}
                entry |= {"learning_rate": schedule.get_last_lr()[0], "images_per_second": round(speed, 2)}
                history.append(entry)
                log.figures({name: value for name, value in entry.items() if name != "step"}, done)
                if accelerator.is_main_process:
                    write_history(out / "metrics.jsonl", history)
                since, recent = time.perf_counter(), []
            if kept:
                save_checkpoint(accelerator, averaged, out, done)
            if stop:
                say(accelerator, f"stopped by SIGTERM after step {done}; go on with --resume")
                accelerator.end_training()
                raise SystemExit(TERMINATED)

    losses = validate()
    with averaged.applied():
        state = whole_state(accelerator, prior)
        with folder_in_place(accelerator, out / "prior") as folder:
            if accelerator.is_main_process:
                whole = bare.with_weights({name: x.cpu() for name, x in state.items()})
                whole.to(dtype=getattr(torch, options.shipped))
                if not all(torch.isfinite(tensor).all() for tensor in whole.state_dict().values()):
                    raise HvfError(f"weights are too large for {options.shipped}: --resume with --shipped float32")
                whole.save_pretrained(folder)
                (folder / "README.md").write_text(model_card(options, losses, images, whole))
    if accelerator.is_main_process:
        n = len(images.validation_rows)
        write_json(out / "metrics.json", {f"prior/{k}": {"value": v, "ci95": None, "n": n} for k, v in losses.items()})
        print(f"prior written to {out / 'prior'}")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return out


def with_launchers_precision(options: Training) -> Training:
    """`accelerate launch --mixed_precision bf16` means the same as our --mixed-precision bf16."""
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", "bf16"):
        raise HvfError(f"the launcher's mixed precision is {asked}: no and bf16 can be trained")
    return dataclasses.replace(options, mixed_precision="bf16") if asked == "bf16" else options


def new_prior(options: Training, pipeline: StableDiffusionXLPipeline, images: TrainingImages) -> FusionPrior:
    """A prior for the pipeline's UNet, new or with the weights of --init; float32."""
    widths = (options.width, options.intermediate, options.projector_intermediate)
    prior = FusionPrior.for_unet(pipeline.unet, images.source.dims, *widths, dropout=options.dropout)
    if options.init and Path(options.init).is_file():
        start_from_ip_adapter(prior, options.init)
    elif options.init:
        prior.start_from(load_prior(options.init))
    return prior


def check(out: Path, options: Training, processes: int) -> None:
    """Refuse impossible settings, a folder that cannot be written, and one that holds another training."""
    check_options(options)
    check_writable(out)
    shares = processes * options.gradient_accumulation
    if options.batch_size % shares:
        shared = f"{processes} processes" + f" x {options.gradient_accumulation} parts" * (shares > processes)
        raise HvfError(f"--batch-size {options.batch_size} cannot be shared by {shared} evenly.")
    parse_spec(options.latents)
    check_targets(TargetConfig(specs=options.targets))
    if options.vagueness and not options.init:
        raise HvfError("--vagueness needs the directions in which a trained prior's embeddings differ: add --init.")
    if options.shards and (options.images or options.from_pixels):
        raise HvfError("--shards holds latents and features already: leave out --images and --from-pixels.")
    if not (options.images or options.shards) and options.preset != "mini":
        raise HvfError("--images or --shards is missing: name a folder of images, e.g. ImageNet's, or prepared shards.")
    if not (out / "training.json").exists():
        return
    if not options.resume:
        raise HvfError(f"{out} holds a training already: add --resume to go on with it, or choose another --out.")
    before, now = read_as(dict[str, Any], out / "training.json"), settings_of(options)
    for name in sorted(set(now) - EXECUTION_ONLY):
        if before.get(name) != now[name]:
            raise HvfError(f"{out} was trained with {name} = {before.get(name)}, not {now[name]}: it cannot go on.")


def check_finite(loss: float, options: Training, step: int) -> None:
    """HvfError where a training diverged: of weights that are not finite nothing can be drawn."""
    if not math.isfinite(loss):
        raise HvfError(
            f"the loss is not finite by step {step}: lower --learning-rate, {options.learning_rate:g}, in another --out"
        )


def settings_of(options: Training) -> dict:
    """All settings as JSON gives them back."""
    return json.loads(json.dumps(dataclasses.asdict(options), default=str))


def model_card(options: Training, losses: dict[str, float], images: TrainingImages, prior: FusionPrior) -> str:
    source = options.images or options.shards or "pictures drawn by code (`hvf.simulation.captioned`), none in a study"
    default = PRESETS[options.preset]()
    changed = {name: value for name, value in vars(options).items() if value != getattr(default, name)}
    flags = {name: value for name, value in changed.items() if name not in EXECUTION_ONLY}
    texts = {name: " ".join(value) if isinstance(value, tuple) else value for name, value in flags.items()}
    arguments = "".join(f" --{name.replace('_', '-')} {text}".removesuffix(" True") for name, text in texts.items())
    return f"""{HEAD}
# Fusion Prior ({options.preset})

HVF, projector and IP-Adapter of arXiv 2602.07495, trained by `prior_training/train.py` (hvf {code_version()}).
Read it with `hvf.FusionPrior.from_pretrained(folder, torch_dtype=torch.float32)`.

| | |
| --- | --- |
| data | {source}; {len(images.train)} images, {len(images.validation)} of other concepts held out |
| encoders | {", ".join(f"`{spec}` ({dim})" for spec, dim in prior.dims.items())} |
| UNet | {options.pipeline}, frozen; latents `{options.latents}` {images.source.latent_shape} |
| parameters | {sum(p.numel() for p in prior.parameters()):,} |
| training | {options.max_steps} steps of {options.batch_size}, AdamW {options.learning_rate}, EMA {options.ema_decay} |
| validation loss | {losses["validation_loss"]:.4f} (without the image: {losses["validation_loss_without_image"]:.4f}) |
| made by | `accelerate launch prior_training/train.py --preset {options.preset}{arguments}` |
{DRAWING}"""


@script
def main(arguments: Sequence[str] | None) -> None:
    train(parse_preset(PRESETS, arguments))


if __name__ == "__main__":
    sys.exit(main())
