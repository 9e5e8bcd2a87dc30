"""CLIP ViT-L/14: two-way identification in the image projection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hvf.evaluation.metrics.base import OPENAI, Network, TwoWayMetric
from hvf.registry import METRICS, NETWORKS, HvfError

if TYPE_CHECKING:
    from torch import nn


def image_tower() -> nn.Module:
    import open_clip

    config = open_clip.get_model_config("ViT-L-14")
    if config is None:
        raise HvfError("this open_clip knows no ViT-L-14")
    parts = {part: config[part] for part in ("embed_dim", "vision_cfg", "text_cfg")}
    return open_clip.CLIP(**parts, quick_gelu=True).visual


NETWORKS.register("clip")(
    Network(
        title="OpenAI CLIP ViT-L/14",
        size=224,
        build=image_tower,
        files=("ViT-L-14.pt", "open_clip_model.safetensors"),
        url="https://openaipublic.azureedge.net/clip/models/"
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
        sha256="b8cca3fd",
        normal=OPENAI,
        prefix="visual.",
        hub=("timm/vit_large_patch14_clip_224.openai", "open_clip_model.safetensors"),
        places=lambda: [Path("~/.cache/clip/ViT-L-14.pt").expanduser()],  # where OpenAI's own package keeps it
    )
)
METRICS.register("clip")(TwoWayMetric(label="CLIP", network="clip"))
