"""What the benchmark of a Fusion Prior times: our training step, the public recipe's, and SDXL's shape without weights.

Random weights at SDXL's shape, or at a tiny one that a CPU runs. Shapes: N images, L tokens, H and W pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from hvf.config import HvfError
from hvf.experiments.timing import Clock
from hvf.prior.adapter import adapter_layers
from hvf.prior.model import FusionPrior, TextConditions
from hvf.runs import usable_cores

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
    tokens: int  # of a prompt
    matrix: int  # side of the matrix product that measures the device
    texts: tuple[dict[str, Any], dict[str, Any]]  # the two text encoders
    vocabulary: int = 49_408


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
    texts=(
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
        {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
        | {"projection_dim": 1280},
    ),
)
TINY_UNET = {"sample_size": 8, "block_out_channels": (16, 32, 32), "attention_head_dim": (2, 2, 4)}
TINY_UNET |= {"transformer_layers_per_block": (1, 1, 2), "layers_per_block": 1, "norm_num_groups": 8}
TINY_UNET |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 16}
TINY_VIT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY_TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY_TEXT |= {"max_position_embeddings": 7, "bos_token_id": 0, "eos_token_id": 63, "pad_token_id": 1}
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
    texts=(TINY_TEXT, TINY_TEXT | {"projection_dim": 16}),
    vocabulary=64,
)
SIZES = {"sdxl": SDXL, "tiny": TINY}


class Trainer:
    """Ours: cached latents and features in; only the prior learns; SDPA attention; the UNet in bf16, frozen."""

    name = "ours"

    def __init__(self, size: Size, batch: int, device: torch.device, compiled: bool = False) -> None:
        self.size, self.batch, self.device = size, batch, device
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        with torch.device(device):  # weights are drawn where they stay: on a CPU that alone takes minutes
            unet: Any = UNet2DConditionModel(**size.unet)
            self.unet: UNet2DConditionModel = unet.to(self.dtype).requires_grad_(False)
            self.prior = FusionPrior.for_unet(self.unet, size.dims, *size.widths).train()
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


class Photographs(Dataset):
    """JPEG files in memory, decoded as the public recipe does: to the training's size, and to the image encoder's."""

    def __init__(self, size: Size, n: int = 64) -> None:
        self.size = size
        coarse_N = np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
        self.files: list[bytes] = []
        for coarse in coarse_N:  # smooth, as photographs are
            file = io.BytesIO()
            Image.fromarray(coarse).resize((size.pixels, size.pixels * 3 // 4)).save(file, "JPEG", quality=90)
            self.files.append(file.getvalue())

    def __len__(self) -> int:
        return 1 << 30  # as many as are asked for

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        picture = Image.open(io.BytesIO(self.files[index % len(self.files)])).convert("RGB")
        small = self.size.vision["image_size"]
        pixels, seen = (self._square(picture, side) for side in (self.size.pixels, small))
        words = torch.from_numpy(np.random.default_rng(index).integers(1, self.size.vocabulary - 1, self.size.tokens))
        return pixels, seen, words

    @staticmethod
    def _square(picture: Image.Image, side: int) -> Tensor:
        """(3, side, side), the shorter side resized, the middle cut out, in -1..1."""
        scale = side / min(picture.size)
        width, height = (max(side, round(scale * length)) for length in picture.size)
        left, top = (width - side) // 2, (height - side) // 2
        whole = picture.resize((width, height), Image.Resampling.BILINEAR)
        square = np.asarray(whole.crop((left, top, left + side, top + side)), np.float32)
        return torch.from_numpy(square / 127.5 - 1).permute(2, 0, 1)


class Straightforward(Trainer):
    """The public IP-Adapter recipe for SDXL: photographs in, and all that is frozen in the loop.

    Workers decode JPEG files; VAE (float32), image encoder and both text encoders (half precision) run in each step;
    attention is SDPA, which the recipe takes wherever torch is 2 or later.
    """

    name = "public recipe"

    def __init__(self, size: Size, batch: int, device: torch.device) -> None:
        super().__init__(size, batch, device)
        vision = CLIPVisionConfig(**size.vision)
        first, second = (CLIPTextConfig(**one, vocab_size=size.vocabulary) for one in size.texts)
        with torch.device(device):
            self.vae = AutoencoderKL(**size.vae).requires_grad_(False)  # float32, as SDXL's has to be there
            encoder: Any = CLIPVisionModelWithProjection(vision)
            self.encoder = encoder.to(self.dtype).requires_grad_(False)
            self.texts: tuple[Any, Any] = (CLIPTextModel(first), CLIPTextModelWithProjection(second))
            for text in self.texts:
                text.to(self.dtype).requires_grad_(False)
        workers = min(8, usable_cores() - 1) if device.type == "cuda" else 0
        loader = DataLoader(Photographs(size), batch, num_workers=workers, pin_memory=device.type == "cuda")
        self.batches: Iterator[Any] = iter(loader)

    @torch.no_grad()
    def read(self) -> None:
        """The next batch, through everything that is frozen."""
        pixels, seen, words_NL = (x.to(self.device, non_blocking=True) for x in next(self.batches))
        vae: Any = self.vae
        self.latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
        spec = next(iter(self.features))
        self.features[spec] = self.encoder(seen.to(self.dtype)).image_embeds.float()
        first, second = (text(words_NL, output_hidden_states=True) for text in self.texts)
        prompts_NLD = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        self.text = TextConditions(prompts_NLD, second.text_embeds, self.text.time_ids)

    def loss(self) -> Tensor:
        self.read()
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
