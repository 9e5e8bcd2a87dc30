"""Inception v3: two-way identification in its last average pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvf.evaluation.metrics.base import TORCHVISION_URL, Network, TwoWayMetric, without_head
from hvf.registry import METRICS, NETWORKS

if TYPE_CHECKING:
    from torch import nn


def inception() -> nn.Module:
    """Pretrained Inception turns ImageNet's normalisation into its own (-1..1) first; aux heads play no part."""
    return without_head("inception_v3", "fc", aux_logits=False, init_weights=False, transform_input=True)


NETWORKS.register("inception")(
    Network(
        title="Inception v3, torchvision IMAGENET1K_V1",
        size=342,
        build=inception,
        files=("inception_v3_google-0cc3c7bd.pth",),
        url=TORCHVISION_URL + "inception_v3_google-0cc3c7bd.pth",
        sha256="0cc3c7bd",
    )
)
METRICS.register("inception")(TwoWayMetric(label="Inception", network="inception"))
