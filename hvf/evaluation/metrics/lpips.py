"""LPIPS 0.1 on AlexNet (Zhang et al., 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hvf.evaluation.metrics.alexnet import LAYERS, convolutions
from hvf.evaluation.metrics.base import LayersMetric, Network
from hvf.registry import METRICS, NETWORKS

if TYPE_CHECKING:
    import torch


class Lpips:
    """Distances of the layers that the `alexnet` network gives.

    Its own scaling of -1..1 is ImageNet's normalisation of 0..1, so that AlexNet runs once for all metrics.
    """

    def __init__(self, heads: Mapping[str, torch.Tensor], source: dict[str, str]) -> None:
        self.source = source
        self._heads = {layer: heads[f"lin{i}.model.1.weight"].float().reshape(-1) for i, layer in enumerate(LAYERS)}

    def __call__(self, seen: Mapping[str, torch.Tensor], drawn: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(N,) distances, lower is better, of two sets of AlexNet's layers {layer: (N, C, h, w)}."""
        import torch

        total = torch.zeros(len(drawn[LAYERS[0]]))
        for layer, weight in self._heads.items():
            a, b = (x[layer] / (x[layer].square().sum(dim=1, keepdim=True).sqrt() + 1e-10) for x in (seen, drawn))
            distance_Nhw = torch.einsum("nchw,c->nhw", (a - b).square(), weight.to(a.device))
            total += distance_Nhw.mean(dim=(1, 2)).cpu()
        return total


def in_its_package() -> list[Path]:
    """The heads' file in the package `lpips`, if that is installed."""
    package = find_spec("lpips")
    return [Path(package.origin).parent / "weights" / "v0.1" / "alex.pth"] if package and package.origin else []


NETWORKS.register("lpips")(
    Network(
        title="LPIPS 0.1, heads on AlexNet",
        size=256,
        build=convolutions,  # not used: the file holds the heads alone, five rows of weights
        files=("lpips_alex.pth", "lpips_lin_v0.1/alex.pth"),
        url="https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/alex.pth",
        places=in_its_package,
        wrap=Lpips,
    )
)
METRICS.register("lpips")(LayersMetric(label="LPIPS", network="alexnet", heads="lpips", lower_is_better=True))
