"""SwAV's ResNet-50: correlation distance of the last average pooling."""

from __future__ import annotations

from hvf.evaluation.metrics.base import FeatureMetric, Network, correlation_distance, without_head
from hvf.registry import METRICS, NETWORKS

NETWORKS.register("swav")(
    Network(
        title="SwAV ResNet-50, 800 epochs",
        size=224,
        build=lambda: without_head("resnet50", "fc"),
        files=("swav_800ep_pretrain.pth.tar",),
        url="https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar",
    )
)
METRICS.register("swav")(
    FeatureMetric(label="SwAV", network="swav", compare=correlation_distance, lower_is_better=True)
)
