"""DINO ViT-S/16: cosine of the class token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvf.evaluation.metrics.base import FeatureMetric, Network, cosine
from hvf.registry import METRICS, NETWORKS

if TYPE_CHECKING:
    from torch import nn


def vit() -> nn.Module:
    import timm

    return timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=0)


NETWORKS.register("dino")(
    Network(
        title="DINO ViT-S/16",
        size=256,
        crop=224,
        interpolation="bicubic",
        build=vit,
        files=("dino_deitsmall16_pretrain.pth",),
        url="https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
        hub=("timm/vit_small_patch16_224.dino", "model.safetensors"),
    )
)
METRICS.register("dino")(FeatureMetric(label="DINO", network="dino", compare=cosine, centre=False))
