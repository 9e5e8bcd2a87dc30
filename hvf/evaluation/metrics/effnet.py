"""EfficientNet-B1: correlation distance of the last average pooling."""

from __future__ import annotations

from hvf.evaluation.metrics.base import TORCHVISION_URL, FeatureMetric, Network, correlation_distance, without_head
from hvf.registry import METRICS, NETWORKS

NETWORKS.register("effnet")(
    Network(
        title="EfficientNet-B1, torchvision IMAGENET1K_V2",
        size=255,
        build=lambda: without_head("efficientnet_b1", "classifier"),
        files=("efficientnet_b1-c27df63c.pth",),
        url=TORCHVISION_URL + "efficientnet_b1-c27df63c.pth",
        sha256="c27df63c",
    )
)
METRICS.register("effnet")(
    FeatureMetric(label="EffNet-B", network="effnet", compare=correlation_distance, lower_is_better=True)
)
