"""AlexNet: two-way identification in its second and fifth layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hvf.evaluation.metrics.base import TORCHVISION_URL, Network, TwoWayMetric
from hvf.registry import METRICS, NETWORKS

if TYPE_CHECKING:
    from torch import nn

LAYERS = ("features.1", "features.4", "features.7", "features.9", "features.11")  # after each ReLU


def convolutions() -> nn.Module:
    """AlexNet's convolutions, giving {layer: (N, C, h, w)} after each ReLU."""
    import torch
    import torchvision
    from torch import nn

    class AlexNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole: Any = torchvision.models.alexnet(weights=None)
            self.features = nn.ModuleList(whole.features[:12])

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            outputs = {}
            for number, layer in enumerate(self.features):
                x = layer(x)
                if f"features.{number}" in LAYERS:
                    outputs[f"features.{number}"] = x
            return outputs

    return AlexNet()


NETWORKS.register("alexnet")(
    Network(
        title="AlexNet, torchvision IMAGENET1K_V1",
        size=256,
        build=convolutions,
        files=("alexnet-owt-7be5be79.pth",),
        url=TORCHVISION_URL + "alexnet-owt-7be5be79.pth",
        sha256="7be5be79",
    )
)
METRICS.register("alexnet2")(TwoWayMetric(label="AlexNet(2)", network="alexnet", layer="features.4"))
METRICS.register("alexnet5")(TwoWayMetric(label="AlexNet(5)", network="alexnet", layer="features.11"))
