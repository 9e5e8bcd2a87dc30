"""Kind of object: whether a small network reads from a picture the kind that was seen.

For the simulated world alone, whose pictures each show one of 60 kinds of object: photographs have no kinds. The reader
is shown rendered pictures of other concepts, and had no part in making any model that draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hvf.evaluation.metrics.base import LabelMetric, Network
from hvf.registry import METRICS, NETWORKS
from hvf.vision.weights import MINI_WEIGHTS

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

WIDTHS = (24, 32, 64, 96)  # channels of the stem and of the three blocks after it
KINDS = (
    "airplane", "apple", "ball", "balloon", "banana", "bicycle", "bird", "boot", "bottle", "bus", "butterfly",
    "cactus", "candle", "car", "carrot", "castle", "cat", "chair", "cherries", "clock", "cup", "drum", "duck",
    "elephant", "fish", "flower", "gift", "grapes", "guitar", "hammer", "hat", "house", "key", "kite", "ladybird",
    "lamp", "lighthouse", "mushroom", "pear", "pencil", "penguin", "rabbit", "robot", "rocket", "sailboat",
    "scissors", "shirt", "snail", "spade", "strawberry", "teapot", "teddy", "tent", "train", "tree", "truck",
    "turtle", "umbrella", "whale", "windmill",
)  # fmt: skip


def kinds_of(concepts: Sequence[str]) -> list[str] | None:
    """The kind of each concept of the simulated world, TEXTURE_PALETTE_KIND; None where one is no such name."""
    kinds = [concept.rpartition("_")[2] for concept in concepts]
    return kinds if set(kinds) <= set(KINDS) else None


def reader() -> nn.Module:
    """A ResNet of three blocks, from pictures (N, 3, 64, 64) to a score of each kind (N, 60)."""
    from torch import nn
    from torchvision.models.resnet import BasicBlock

    def block(before: int, width: int) -> nn.Module:
        shorter = nn.Sequential(nn.Conv2d(before, width, 1, stride=2, bias=False), nn.BatchNorm2d(width))
        return BasicBlock(before, width, stride=2, downsample=shorter)

    first, *_, last = WIDTHS
    return nn.Sequential(
        nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        *(block(before, width) for before, width in zip(WIDTHS, WIDTHS[1:], strict=False)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(last, len(KINDS)),
    )


def _places() -> list[Path]:
    return [MINI_WEIGHTS / "kind-reader" / "kind-reader.safetensors"]


NETWORKS.register("kind-reader")(
    Network(
        title="kind reader, trained on rendered pictures of other concepts",
        size=64,
        build=reader,
        files=("kind-reader.safetensors",),
        url="",
        normal=((0.5,) * 3, (0.5,) * 3),
        places=_places,
    )
)
METRICS.register("kind_top1")(
    LabelMetric(label="right kind of object", network="kind-reader", labels=KINDS, share=True, chance=1 / len(KINDS))
)
