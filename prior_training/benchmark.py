"""Time and memory of training a Fusion Prior and of drawing with it, random weights at SDXL's shape: no download.

    python prior_training/benchmark.py [--size sdxl|tiny] [--batch-size 16] [--out FOLDER]

Our training step is compared with the straightforward loop on the same device and batch: the public IP-Adapter recipe,
with pixels as input, VAE and image encoder in the loop, and eager attention. FLOPs are counted by torch; the share of
the device is that of the rate of a large bf16 matrix product measured in the same run. Without a GPU the tiny size
runs, and the figures of the real size are given as not measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDPMScheduler, EulerDiscreteScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, IPAdapterAttnProcessor
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from hvf.cli.options import parse_settings, run_script
from hvf.config import HvfError
from hvf.experiments.timing import Clock, environment, goal, markdown_table
from hvf.prior.adapter import adapter_layers
from hvf.prior.model import FusionPrior, TextConditions
from hvf.runs import check_writable, write_atomic, write_json

PAPER_STEPS, PAPER_BATCH, PAPER_HOURS, PAPER_GPUS = 100_000, 32, 15.0, 2
DRAWN, ROUNDS, STEPS = 200, 10, 4  # the reconstruction that is timed: SDXL-Turbo's four steps
GOAL_SPEED, GOAL_SHARE, GOAL_GB, GOAL_SECONDS = 2.5, 0.5, 40.0, 90.0

# The configurations of stabilityai/stable-diffusion-xl-base-1.0, as published.
SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "layers_per_block": 2,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "cross_attention_dim": 2048,
}
SDXL_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
}
VIT_H: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
    "projection_dim": 1024,
}


@dataclass(frozen=True)
class Size:
    """One row of the size table: shapes of everything that takes part."""

    name: str
    unet: dict[str, Any]
    vae: dict[str, Any]
    vision: dict[str, Any]
    pixels: int  # of a training picture
    dims: dict[str, int]  # FeatureSpec -> width
    widths: tuple[int, int, int]  # D, hidden widths of HVF and of the projector
    tokens: int  # of the empty prompt
    matrix: int  # side of the matrix product that measures the device


SDXL = Size(
    "sdxl",
    SDXL_UNET,
    SDXL_VAE,
    VIT_H,
    pixels=512,
    dims={"ViT-H-14": 1024, "ViT-B-32": 512, "vae": 1024},
    widths=(1024, 4096, 4096),
    tokens=77,
    matrix=8192,
)
TINY_UNET = {"sample_size": 8, "block_out_channels": (16, 32, 32), "attention_head_dim": (2, 2, 4)}
TINY_UNET |= {"transformer_layers_per_block": (1, 1, 2), "layers_per_block": 1, "norm_num_groups": 8}
TINY_UNET |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 16}
TINY_VIT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY = Size(
    "tiny",
    SDXL_UNET | TINY_UNET | {"cross_attention_dim": 32},
    SDXL_VAE | {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4},
    VIT_H | TINY_VIT | {"image_size": 28, "projection_dim": 24},
    pixels=64,
    dims={"ViT-H-14": 24, "vae": 16},
    widths=(24, 32, 32),
    tokens=7,
    matrix=512,
)
SIZES = {"sdxl": SDXL, "tiny": TINY}


@dataclass(frozen=True)
class Benchmark:
    """Measure training and drawing with random weights."""

    size: Literal["auto", "sdxl", "tiny"] = "auto"  # auto: sdxl where there is a GPU, else tiny
    batch_size: int = 16  # images per step
    steps: int = 10  # timed steps, after as many warm-up steps as --warmup
    warmup: int = 3  # steps that are not timed
    draw_batch: int = 40  # pictures drawn at once
    compiled: bool = False  # also time our step with torch.compile around the UNet
    out: Path | None = None  # folder for benchmark.json and benchmark.md


class Trainer:
    """Ours: cached latents and features in; only the prior learns; SDPA attention; the UNet in bf16, frozen."""

    name = "ours"

    def __init__(self, size: Size, batch: int, device: torch.device, compiled: bool = False) -> None:
        self.size, self.batch, self.device = size, batch, device
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.unet = UNet2DConditionModel(**size.unet).to(device, self.dtype).requires_grad_(False)
        self.prior = FusionPrior.for_unet(self.unet, size.dims, *size.widths).to(device).train()
        self.prior.attach(self.unet)
        self.optimizer = torch.optim.AdamW(list(self.prior.parameters()), lr=1e-4, fused=device.type == "cuda")
        self.noising: Any = DDPMScheduler()
        self.run: Callable = torch.compile(self.unet) if compiled else self.unet
        if compiled:
            self.name = "ours, compiled"
        side = size.pixels // 8
        self.latents = torch.randn(batch, 4, side, side, device=device)
        self.features = {spec: torch.randn(batch, dim, device=device) for spec, dim in size.dims.items()}
        self.text = make_conditions(size, device, self.dtype)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.prior.parameters())

    def loss(self) -> Tensor:
        noise = torch.randn_like(self.latents)
        t = torch.randint(0, self.noising.config.num_train_timesteps, (self.batch,), device=self.device)
        x_t = self.noising.add_noise(self.latents, noise, t)
        dropped = torch.rand(self.batch, device=self.device) < 0.1
        predicted = self.prior(self.run, x_t, t, self.text, self.features, dropped)
        return nn.functional.mse_loss(predicted.float(), noise)

    def step(self) -> None:
        self.loss().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Straightforward(Trainer):
    """The public IP-Adapter recipe: pixels in, VAE and image encoder in the loop, eager attention, autocast."""

    name = "straightforward loop"

    def __init__(self, size: Size, batch: int, device: torch.device) -> None:
        super().__init__(size, batch, device)
        self.vae = AutoencoderKL(**size.vae).to(device).requires_grad_(False)  # float32, as SDXL's has to be there
        vision = CLIPVisionConfig(**size.vision)
        self.encoder = CLIPVisionModelWithProjection(vision).to(device, self.dtype).requires_grad_(False)
        processors: dict[str, Any] = {}
        for name, processor in self.unet.attn_processors.items():
            if hasattr(processor, "to_k_ip"):
                eager: Any = IPAdapterAttnProcessor(processor.hidden_size, processor.cross_attention_dim, (4,))
                eager.to_k_ip, eager.to_v_ip = processor.to_k_ip, processor.to_v_ip
                processors[name] = eager
            else:
                processors[name] = AttnProcessor()
        self.unet.set_attn_processor(processors)
        self.pixels = torch.rand(batch, 3, size.pixels, size.pixels, device=device) * 2 - 1
        side = size.vision["image_size"]
        self.small = torch.randn(batch, 3, side, side, device=device, dtype=self.dtype)

    def loss(self) -> Tensor:
        with torch.no_grad():
            vae: Any = self.vae
            self.latents = vae.encode(self.pixels).latent_dist.sample() * vae.config.scaling_factor
            self.encoder(self.small)  # its embedding takes the place of one feature; random weights have no meaning
        return super().loss()


def make_conditions(size: Size, device: torch.device, dtype: torch.dtype) -> TextConditions:
    """The empty prompt, as random numbers of its shapes."""
    pooled = size.unet["projection_class_embeddings_input_dim"] - 6 * size.unet["addition_time_embed_dim"]
    prompt = torch.randn(1, size.tokens, size.unet["cross_attention_dim"], device=device, dtype=dtype)
    side = float(size.pixels)
    time_ids = torch.tensor([[side, side, 0.0, 0.0, side, side]], device=device)
    return TextConditions(prompt, torch.randn(1, pooled, device=device, dtype=dtype), time_ids)


def on_meta(size: Size = SDXL, batch: int = 2) -> dict[str, Any]:
    """Forward and backward pass on the meta device, without memory or time: shapes, counts, FLOPs of an image.

    Raises HvfError when a trainable parameter gets no gradient, or a frozen one does.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel(**size.unet).requires_grad_(False)
        prior = FusionPrior.for_unet(unet, size.dims, *size.widths).train()
        prior.attach(unet)
        side = size.pixels // 8
        x_t, t = torch.empty(batch, 4, side, side), torch.zeros(batch, dtype=torch.long)
        features = {spec: torch.empty(batch, dim) for spec, dim in size.dims.items()}
        text = make_conditions(size, torch.device("meta"), torch.float32)
        counter = FlopCounterMode(display=False)
        with counter:
            z_c_ND = prior.project(prior.encode(features))  # `forward` itself asks for autocast, which meta has not
            predicted = prior.noise_prediction(unet, x_t, t, text, z_c_ND)
            forward = counter.get_total_flops()
            predicted.square().mean().backward()
    without = [name for name, p in prior.named_parameters() if p.grad is None or p.grad.shape != p.shape]
    shared = {id(p) for p in prior.parameters()}
    moved = [name for name, p in unet.named_parameters() if id(p) not in shared and p.grad is not None]
    if without or moved:
        raise HvfError(f"the backward pass misses {without[:3]} or reaches frozen {moved[:3]}")
    frozen = sum(p.numel() for p in unet.parameters() if id(p) not in shared)
    return {
        "output": tuple(predicted.shape),
        "processors": len(unet.attn_processors),
        "adapters": len(adapter_layers(unet)),
        "parameters_unet": frozen,
        "parameters_adapter": sum(p.numel() for p in prior.adapter.parameters()),
        "parameters_trained": sum(p.numel() for p in prior.parameters()),
        "flops_forward_per_image": forward // batch,
        "flops_step_per_image": counter.get_total_flops() // batch,
    }


def matrix_rate(size: Size, device: torch.device) -> float:
    """FLOP/s of a large matrix product in the dtype of training: the device's best rate."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(size.matrix, size.matrix, device=device, dtype=dtype) for _ in range(2))
    clock = Clock(str(device))
    clock.repeat("product", lambda: a @ b, times=10, warmup=3)
    return 2 * size.matrix**3 / clock.median("product")


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
    unet = UNet2DConditionModel(**size.unet).to(device, dtype).requires_grad_(False).eval()
    prior = FusionPrior.for_unet(unet, size.dims, *size.widths).to(device, dtype).eval()
    prior.attach(unet)
    vae: Any = AutoencoderKL(**size.vae).to(device, dtype).requires_grad_(False).eval()
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


def measure(options: Benchmark) -> dict[str, Any]:
    """Everything that can be measured on this device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = options.size if options.size != "auto" else "sdxl" if device.type == "cuda" else "tiny"
    if name == "sdxl" and device.type == "cpu":
        raise HvfError("--size sdxl takes hours without a GPU: take --size tiny; shapes and counts are checked anyway")
    size = SIZES[name]
    rate = matrix_rate(size, device)
    rows = []
    for make in (Straightforward, Trainer) + ((partial(Trainer, compiled=True),) if options.compiled else ()):
        trainer = make(size, options.batch_size, device)
        rows.append(training_row(trainer, options, rate))
        del trainer
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return {
        "environment": environment(str(device)),
        "size": name,
        "pixels": size.pixels,
        "matrix_tflop_per_second": rate / 1e12,
        "training": rows,
        "drawing": drawing_seconds(size, options, device),
        "meta": on_meta(SDXL),
    }


def report(results: dict[str, Any]) -> str:
    """The figures as Markdown, beside the goals of the real size."""
    meta, training, drawing = results["meta"], results["training"], results["drawing"]
    columns = {"way": "training", "images_per_second": "images/s", "tflop_per_second": "TFLOP/s"}
    columns |= {
        "share_of_matrix_rate": "of the matrix rate",
        "peak_gb": "peak memory, GB",
        "hours": "hours for 100k of 32",
    }
    rows = [{columns.get(name) or name: figure for name, figure in row.items()} for row in training]
    rows.append({"training": f"the paper, {PAPER_GPUS} GPUs", columns["hours"]: PAPER_HOURS})
    slow, fast = training[0], max(training[1:], key=lambda row: row["images_per_second"])
    ratio = fast["images_per_second"] / slow["images_per_second"]
    figures = (
        ratio,
        drawing["seconds"],
        100 * fast["share_of_matrix_rate"],
        fast["peak_gb"] if fast["batch"] == 16 else None,
    )
    speed_up, seconds, share, memory = figures if results["size"] == "sdxl" else (None,) * 4
    return f"""\
Device: {results["environment"]["device"]}; size {results["size"]} at {results["pixels"]} px, random weights; \
matrix product {results["matrix_tflop_per_second"]:.2f} TFLOP/s.

{markdown_table(rows)}

Ours against the straightforward loop: {ratio:.2f} ×. {drawing["pictures"]} pictures in {STEPS} steps: \
{drawing["seconds"]:.1f} s. At the size of SDXL on a GPU:

- {goal("ours against the straightforward loop", speed_up, GOAL_SPEED, "×", at_least=True)}
- {goal(f"{drawing['pictures']} pictures", seconds, GOAL_SECONDS, "s")}
- {goal("of the matrix rate", share, 100 * GOAL_SHARE, "%", at_least=True)}
- {goal("peak memory at batch 16", memory, GOAL_GB, "GB")}

SDXL's shape, checked on the meta device: {meta["processors"]} attention processors, {meta["adapters"]} adapters; UNet \
{meta["parameters_unet"]:,} parameters, frozen; trained {meta["parameters_trained"]:,}, of which adapter \
{meta["parameters_adapter"]:,}; {meta["flops_step_per_image"] / 1e12:.2f} TFLOP an image and step, \
{meta["flops_forward_per_image"] / 1e12:.2f} of them forward.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_settings(Benchmark(), arguments)
    if min(options.batch_size, options.steps, options.draw_batch) < 1 or options.warmup < 0:
        raise HvfError("--batch-size, --steps and --draw-batch must be at least 1, --warmup at least 0")
    if options.out:
        check_writable(options.out)
    results = measure(options)
    text = report(results)
    if options.out:
        write_json(options.out / "benchmark.json", results)
        write_atomic(options.out / "benchmark.md", lambda path: path.write_text(text))
    print(text, end="")


if __name__ == "__main__":
    sys.exit(run_script(main))
