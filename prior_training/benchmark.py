"""Time and memory of training a Fusion Prior and of drawing with it, random weights at SDXL's shape: no download.

    python prior_training/benchmark.py [--size sdxl|tiny] [--batch-size 16] [--out FOLDER]
    python prior_training/benchmark.py --report --out FOLDER     # everything, in at most ten minutes on one GPU

Our training step is compared with the public IP-Adapter recipe on the same device and batch: photographs decoded by
workers, VAE, image encoder and both text encoders in the loop, SDPA attention. FLOPs are counted by torch; the share of
the device is that of the rate of a large bf16 matrix product measured in the same run. --report also times what
`prepare.py` does to an image, and the intra-subject table of `brain_training/benchmark.py`. Without a GPU the tiny size
runs, and the figures of the real size are given as not measured.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from hvf.cli.options import parse_settings, script
from hvf.config import HvfError
from hvf.experiments.prior_timing import (
    SDXL,
    SIZES,
    Size,
    Straightforward,
    Trainer,
    make_conditions,
    matrix_rate,
    on_meta,
)
from hvf.experiments.timing import Clock, environment, goal, markdown_table
from hvf.prior.model import FusionPrior
from hvf.runs import check_writable, write_atomic, write_json
from hvf.schema.bounds import Count, Number

BRAIN = Path(__file__).resolve().parents[1] / "brain_training" / "benchmark.py"
IMAGENET = 1_281_167  # images that `prepare.py` is for
PAPER_STEPS, PAPER_BATCH, PAPER_HOURS, PAPER_GPUS = 100_000, 32, 15.0, 2
DRAWN, ROUNDS, STEPS = 200, 10, 4  # the reconstruction that is timed: SDXL-Turbo's four steps
GOAL_SPEED, GOAL_SHARE, GOAL_GB, GOAL_SECONDS, GOAL_TABLE = 2.5, 0.5, 40.0, 90.0, 35.0


@dataclass(frozen=True)
class Benchmark:
    """Measure training and drawing with random weights."""

    size: Literal["auto", "sdxl", "tiny"] = "auto"  # auto: sdxl where there is a GPU, else tiny
    batch_size: Count = 16  # images per step
    steps: Count = 10  # timed steps, after as many warm-up steps as --warmup
    warmup: Number = 3  # steps that are not timed
    draw_batch: Count = 40  # pictures drawn at once
    compiled: bool = False  # also time our step with torch.compile around the UNet
    report: bool = False  # everything: also what prepare.py does, and the brain encoders' table
    budget: Number = 570  # s; a part that is not begun by then is left out, and said to be
    out: Path | None = None  # folder for benchmark.json and benchmark.md


def training_row(trainer: Trainer, options: Benchmark, rate: float) -> dict[str, Any]:
    """Speed, arithmetic and memory of one way to train. FLOPs are those of the prior's own work, without overheads."""
    device, clock = trainer.device, Clock(str(trainer.device))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    clock.repeat("step", trainer.step, options.steps, options.warmup)
    seconds = clock.median("step")
    flops = on_meta(trainer.size)["flops_step_per_image"] * trainer.batch
    return {
        "way": trainer.name,
        "batch": trainer.batch,
        "images_per_second": trainer.batch / seconds,
        "tflop_per_second": flops / seconds / 1e12,
        "share_of_matrix_rate": flops / seconds / rate,
        "peak_gb": torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None,
        "hours": PAPER_STEPS * PAPER_BATCH * seconds / trainer.batch / 3600,
    }


def drawing_seconds(size: Size, options: Benchmark, device: torch.device) -> dict[str, Any]:
    """Seconds for 200 pictures × 10 rounds at 4 steps without guidance, VAE decoding included, from a timed batch."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device(device):
        unet = UNet2DConditionModel(**size.unet).to(dtype).requires_grad_(False).eval()
        prior = FusionPrior.for_unet(unet, size.dims, *size.widths).to(dtype).eval()
        vae: Any = AutoencoderKL(**size.vae).to(dtype).requires_grad_(False).eval()
    prior.attach(unet)
    text = make_conditions(size, device, dtype)
    scheduler = EulerDiscreteScheduler(timestep_spacing="trailing")
    batch, side = options.draw_batch, size.pixels // 8
    z_ND = torch.randn(batch, size.widths[0], device=device, dtype=dtype)

    @torch.no_grad()
    def draw() -> None:
        scheduler.set_timesteps(STEPS, device=device)
        x = torch.randn(batch, 4, side, side, device=device, dtype=dtype) * scheduler.init_noise_sigma
        z_c = prior.project(z_ND)
        for t in scheduler.timesteps:
            noise = prior.noise_prediction(unet, scheduler.scale_model_input(x, t), t, text, z_c)
            x = scheduler.step(noise, t, x).prev_sample
        for part in x.split(8):
            vae.decode(part / vae.config.scaling_factor).sample.float().cpu()

    clock = Clock(str(device))
    clock.repeat("draw", draw, times=3, warmup=1)
    return {"batch": batch, "seconds": clock.median("draw") * DRAWN * ROUNDS / batch, "pictures": DRAWN * ROUNDS}


def encoding_rate(size: Size, options: Benchmark, device: torch.device) -> dict[str, Any]:
    """Images a second through what `prepare.py` runs: the VAE at the training's size and 128 px, an image encoder."""
    with torch.device(device):
        vae: Any = AutoencoderKL(**size.vae).requires_grad_(False).eval()
        encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**size.vision)).requires_grad_(False).eval()
        pixels, small, seen = (
            torch.rand(options.batch_size, 3, side, side)
            for side in (size.pixels, min(128, size.pixels), size.vision["image_size"])
        )
    clock, rates = Clock(str(device)), {}
    for precision in (torch.float32, torch.bfloat16):

        @torch.no_grad()
        def encode(precision: torch.dtype = precision) -> None:
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                latents = [vae.encode(x * 2 - 1).latent_dist.mode() for x in (pixels, small)]
                features = encoder(seen).image_embeds
            for x in (*latents, features):
                x.half().cpu()

        name = str(precision).removeprefix("torch.")
        clock.repeat(name, encode, times=max(1, options.steps // 3), warmup=1)
        rates[name] = options.batch_size / clock.median(name)
    return {"images_per_second": rates, "hours_of_imagenet": {k: IMAGENET / rate / 3600 for k, rate in rates.items()}}


def brain_table(size: Size, left: float) -> dict[str, Any]:
    """The intra-subject table of `brain_training/benchmark.py`, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        which = "paper" if size.name == "sdxl" else "small"
        words = ["--size", which, "--steps", "1", "--repeats", "1", "--table", "--out", folder]
        command = [sys.executable, str(BRAIN), *words]
        subprocess.run(command, check=True, timeout=max(left, 60), capture_output=True)
        return json.loads((Path(folder) / "benchmark.json").read_text())["table"]


def measure(options: Benchmark) -> dict[str, Any]:
    """Everything that can be measured on this device, as far as the budget reaches."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = options.size if options.size != "auto" else "sdxl" if device.type == "cuda" else "tiny"
    if name == "sdxl" and device.type == "cpu":
        raise HvfError("--size sdxl takes hours without a GPU: take --size tiny; shapes and counts are checked anyway")
    size, began, left_out = SIZES[name], time.monotonic(), []

    def part(what: str, work: Callable[[], Any]) -> Any:
        """What a part gives; None if its time is up or it fails, so that the others are not lost with it."""
        elapsed = time.monotonic() - began
        if options.report and elapsed > options.budget:
            left_out.append(f"{what}: no time left")
            return None
        try:
            return work()
        except (RuntimeError, subprocess.SubprocessError) as error:  # out of memory, say
            if not options.report:
                raise
            left_out.append(f"{what}: {' '.join(str(error).split())[:200]}")
            return None
        finally:
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            print(f"{what}: {time.monotonic() - began - elapsed:.0f} s", file=sys.stderr, flush=True)

    rate = matrix_rate(size, device)
    ways = (Straightforward, Trainer) + ((partial(Trainer, compiled=True),) if options.compiled else ())
    names = (Straightforward.name, Trainer.name, f"{Trainer.name}, compiled")
    rows = [
        part(f"training, {what}", lambda make=make: training_row(make(size, options.batch_size, device), options, rate))
        for what, make in zip(names, ways, strict=False)
    ]
    drawing = part("drawing", lambda: drawing_seconds(size, options, device))
    more: dict[str, Any] = {}
    if options.report:
        more["encoding"] = part("what prepare.py does", lambda: encoding_rate(size, options, device))
        left = options.budget - (time.monotonic() - began)
        more["brain_table"] = part("brain table", lambda: brain_table(size, left))
    return {
        "environment": environment(str(device)),
        "size": name,
        "pixels": size.pixels,
        "matrix_tflop_per_second": rate / 1e12,
        "training": [row for row in rows if row],
        "drawing": drawing,
        "meta": on_meta(SDXL),
        "left_out": left_out,
        "seconds": time.monotonic() - began,
    } | more


def _figures(results: dict[str, Any]) -> dict[str, float | None]:
    """What the goals are about, whatever could be measured."""
    rows = {row["way"]: row for row in results["training"]}
    slow = rows.get(Straightforward.name)
    fast = max((row for way, row in rows.items() if row is not slow), key=_speed, default=None)
    ratio = _speed(fast) / _speed(slow) if slow and fast else None
    drawing, table = results["drawing"], results.get("brain_table")
    return {
        "ratio": ratio,
        "seconds": drawing["seconds"] if drawing else None,
        "share": 100 * fast["share_of_matrix_rate"] if fast else None,
        "memory": fast["peak_gb"] if fast and fast["batch"] == 16 else None,
        "table": table["seconds"] if table else None,
    }


def _speed(row: dict[str, Any]) -> float:
    return row["images_per_second"]


def report(results: dict[str, Any]) -> str:
    """The figures as Markdown, beside the goals of the real size."""
    meta = results["meta"]
    columns = {"way": "training", "images_per_second": "images/s", "tflop_per_second": "TFLOP/s"}
    columns |= {
        "share_of_matrix_rate": "of the matrix rate",
        "peak_gb": "peak memory, GB",
        "hours": "hours for 100k of 32",
    }
    rows = [{columns.get(name) or name: figure for name, figure in row.items()} for row in results["training"]]
    rows.append({"training": f"the paper, {PAPER_GPUS} GPUs", columns["hours"]: PAPER_HOURS})
    figures = _figures(results)
    real = figures if results["size"] == "sdxl" else dict.fromkeys(figures)
    pictures = DRAWN * ROUNDS
    said = [] if figures["ratio"] is None else [f"Ours against the public recipe: {figures['ratio']:.2f} ×."]
    said += [] if figures["seconds"] is None else [f"{pictures} pictures in {STEPS} steps: {figures['seconds']:.1f} s."]
    if encoding := results.get("encoding"):
        rates = encoding["images_per_second"]
        hours = encoding["hours_of_imagenet"]
        shown = (f"{k} {rate:.1f} images/s, {hours[k]:.1f} h for ImageNet-1k" for k, rate in rates.items())
        said.append(f"What prepare.py does: {'; '.join(shown)}.")
    if table := results.get("brain_table"):
        said.append("Brain encoders, {subjects} x {seeds} x {epochs} epochs: {seconds:.1f} s.".format(**table))
    goals = [
        goal("ours against the public recipe", real["ratio"], GOAL_SPEED, "×", at_least=True),
        goal(f"{pictures} pictures", real["seconds"], GOAL_SECONDS, "s"),
        goal("of the matrix rate", real["share"], 100 * GOAL_SHARE, "%", at_least=True),
        goal("peak memory at batch 16", real["memory"], GOAL_GB, "GB"),
        *([goal("intra-subject table", real["table"], GOAL_TABLE, "s")] if "brain_table" in results else []),
    ]
    left_out = "".join(f"\nNot measured: {reason}." for reason in results["left_out"])
    listed = "\n".join(f"- {line}" for line in goals)
    return f"""\
Device: {results["environment"]["device"]}; size {results["size"]} at {results["pixels"]} px, random weights; \
matrix product {results["matrix_tflop_per_second"]:.2f} TFLOP/s; all of it {results["seconds"]:.0f} s.

{markdown_table(rows)}

{" ".join(said)} At the size of SDXL on a GPU:

{listed}
{left_out}
SDXL's shape, checked on the meta device: {meta["processors"]} attention processors, {meta["adapters"]} adapters; UNet \
{meta["parameters_unet"]:,} parameters, frozen; trained {meta["parameters_trained"]:,}, of which adapter \
{meta["parameters_adapter"]:,}; {meta["flops_step_per_image"] / 1e12:.2f} TFLOP an image and step, \
{meta["flops_forward_per_image"] / 1e12:.2f} of them forward.
"""


@script
def main(arguments: Sequence[str] | None) -> None:
    options = parse_settings(Benchmark(), arguments)
    if options.out:
        check_writable(options.out)
    results = measure(options)
    text = report(results)
    if options.out:
        write_json(options.out / "benchmark.json", results)
        write_atomic(options.out / "benchmark.md", lambda path: path.write_text(text))
    print(text, end="")


if __name__ == "__main__":
    sys.exit(main())
