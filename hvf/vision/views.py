"""Views: images blurred, coarsened or made noisy before they are encoded.

Widths are in pixels of an image of 224, whatever its own size. Sources: HaitaoWuTJU/Uncertainty-aware-Blur-Prior,
FoveaBlur and UniformBlur, with OpenCV's rule for the deviation that belongs to a kernel's width; feroooooo/NeuroBridge,
GaussianBlur (15), GaussianNoise (25), LowResolution (a tenth: 22 pixels a side), Mosaic (blocks of 5: 44 a side).
"""

from __future__ import annotations

import zlib

import torch
from torch.nn import functional

from hvf.vision.encoder import resized

SIZE = 224
SHARPNESS, DECLINE = 0.5, 3.0  # share of the sharp image at the centre; how fast it falls towards the corner


def apply_view(images_N3HW: torch.Tensor, view: str) -> torch.Tensor:
    """Images (N, 3, H, W) in 0..1 under a view of `hvf.vision.specs`, (N, 3, 224, 224)."""
    kind, k = view.rstrip("0123456789"), int(view.lstrip("abcdefghijklmnopqrstuvwxyz"))
    images_N3HW = resized(images_N3HW, (SIZE, SIZE))
    if kind == "noise":
        return (images_N3HW + k / 255 * _noise(images_N3HW)).clamp(0, 1)
    if kind == "coarse":
        return resized(resized(images_N3HW, (k, k), "squash", "bilinear"), (SIZE, SIZE), "squash", "bilinear")
    if kind == "mosaic":
        small_N3KK = functional.interpolate(images_N3HW, (k, k), mode="bilinear", align_corners=False)
        return functional.interpolate(small_N3KK, (SIZE, SIZE), mode="nearest")
    soft_N3HW = gaussian(images_N3HW, k)
    if kind == "blur":
        return soft_N3HW
    sharp_HW = SHARPNESS * torch.exp(-DECLINE * _eccentricity(SIZE, images_N3HW.device))
    return sharp_HW * images_N3HW + (1 - sharp_HW) * soft_N3HW


def gaussian(images_N3HW: torch.Tensor, kernel: int) -> torch.Tensor:
    """Blurred with a Gaussian of ``kernel`` pixels and deviation 0.3 ((K - 1)/2 - 1) + 0.8, mirrored at the edges."""
    sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    offsets = torch.arange(kernel, device=images_N3HW.device, dtype=torch.float32) - (kernel - 1) / 2
    weights = torch.exp(-offsets.square() / (2 * sigma**2))
    weights = (weights / weights.sum()).expand(3, 1, 1, kernel)
    edge = kernel // 2
    x = functional.pad(images_N3HW, (edge, edge, edge, edge), mode="reflect")
    x = functional.conv2d(x, weights, groups=3)
    return functional.conv2d(x, weights.transpose(2, 3), groups=3)


def _noise(images_N3HW: torch.Tensor) -> torch.Tensor:
    """Standard normal noise seeded by each image's pixels, so that its features are the same every time."""
    levels = (images_N3HW * 255).round().to(torch.uint8).cpu().numpy()
    seeds = [zlib.crc32(image.tobytes()) for image in levels]
    noise = [torch.randn(images_N3HW.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(noise).to(images_N3HW.device)


def _eccentricity(size: int, device: torch.device) -> torch.Tensor:
    """Distance from the centre (H, W), 1 in the far corner."""
    offset = torch.arange(size, device=device, dtype=torch.float32) - size // 2
    distance_HW = (offset[:, None].square() + offset[None, :].square()).sqrt()
    return (distance_HW / (2**0.5 * (size - size // 2 - 1))).clamp(max=1)
