"""Views: images blurred before a frozen encoder sees them, as the Uncertainty-aware Blur Prior does.

Widths are in pixels of an image of 224, whatever its own size. Source: HaitaoWuTJU/Uncertainty-aware-Blur-Prior,
FoveaBlur and UniformBlur, with OpenCV's rule for the deviation that belongs to a kernel's width.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from hvf.vision.frozen import resized

SIZE = 224
SHARPNESS, DECLINE = 0.5, 3.0  # share of the sharp image at the centre; how fast it falls towards the corner


def viewed(images_N3HW: torch.Tensor, view: str) -> torch.Tensor:
    """Images (N, 3, H, W) in 0..1 as ``foveaK`` or ``blurK`` shows them, (N, 3, 224, 224)."""
    kind, kernel = view.rstrip("0123456789"), int(view.lstrip("abcdefghijklmnopqrstuvwxyz"))
    images_N3HW = resized(images_N3HW, (SIZE, SIZE))
    soft_N3HW = gaussian(images_N3HW, kernel)
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


def _eccentricity(size: int, device: torch.device) -> torch.Tensor:
    """Distance from the centre (H, W), 1 in the far corner."""
    offset = torch.arange(size, device=device, dtype=torch.float32) - size // 2
    distance_HW = (offset[:, None].square() + offset[None, :].square()).sqrt()
    return (distance_HW / (2**0.5 * (size - size // 2 - 1))).clamp(max=1)
