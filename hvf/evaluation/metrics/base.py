"""What a metric is: of retrieval, of pixels, of a network's features. And the networks that metrics are defined on.

Shapes: N images, M reconstructions, D features, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from hvf.evaluation.picture_metrics import PixelMeter, SeenFeatures

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
TORCHVISION_URL = "https://download.pytorch.org/models/"
Layers = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What every metric has: its name in a table, its direction, and its chance level where that is a constant.

    ``share`` figures are shares of all queries or pictures, shown in per cent.
    """

    label: str
    lower_is_better: bool = False
    chance: float | None = None
    share: bool = False


@dataclass(frozen=True, kw_only=True)
class RetrievalMetric(Metric):
    """A figure of ranks: the mean over queries of ``per_query(ranks (N,))``, or, without it, computed elsewhere."""

    per_query: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True, kw_only=True)
class PictureMetric(Metric):
    """A figure of reconstructions beside the pictures that were seen. ``network`` is a name in `NETWORKS`, or none."""

    network: str = ""


@dataclass(frozen=True, kw_only=True)
class PixelMetric(PictureMetric):
    """A number from the pixels of one pair, both held by a `PixelMeter`."""

    score: Callable[[PixelMeter], float]


@dataclass(frozen=True, kw_only=True)
class FeatureMetric(PictureMetric):
    """A number from the features of one pair: one output, or one ``layer``, of a network, flattened.

    ``compare(seen, features (M, D), which (M,)) -> (M,)``; without ``centre`` the features' mean is not taken out, so
    that correlations are cosines.
    """

    compare: Callable[[SeenFeatures, np.ndarray, np.ndarray], np.ndarray]
    layer: str = ""
    centre: bool = True


@dataclass(frozen=True, kw_only=True)
class TwoWayMetric(PictureMetric):
    """Two-way identification in one output, or one ``layer``, of a network; see `picture_metrics.two_way`."""

    layer: str = ""
    chance: float | None = 0.5


@dataclass(frozen=True, kw_only=True)
class LabelMetric(PictureMetric):
    """Whether the label that a network reads from a reconstruction is that of what was seen: 1 or 0 for each.

    The network gives a score of each of the ``labels``, (N, len(labels)), and sees pictures as they are.
    """

    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LayersMetric(PictureMetric):
    """A number from several layers of a network at once: ``(seen, drawn) -> (N,)``, loaded as the network ``heads``."""

    heads: str


@dataclass(frozen=True)
class Network:
    """A network that metrics are defined on: its input, its architecture, and where its weights are published."""

    title: str  # architecture and weights, as a report names them
    size: int  # side of the input in pixels; pictures are resized to it
    build: Callable[[], nn.Module]  # the untrained network, giving (N, D) or {layer: (N, ...)}
    files: tuple[str, ...]  # names that the file of weights goes by; `url` leads to the first
    url: str
    sha256: str = ""  # how the hash of that file begins, where it is known
    normal: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET  # mean and deviation of the three channels
    interpolation: str = "bilinear"  # of the resizing
    crop: int | None = None  # side of a centre crop, pixels
    prefix: str = ""  # what the keys of the part in use begin with
    hub: tuple[str, str] | None = None  # repository and file of the same weights on the Hub
    places: Callable[[], list[Path]] = list  # other files in which the weights may be
    wrap: Callable[[Mapping[str, torch.Tensor], dict[str, str]], Any] | None = None  # (state, source) -> its stand-in

    def prepare(self, images_N3HW: torch.Tensor) -> torch.Tensor:
        """The network's input: square pictures (N, 3, H, W) in 0..1, resized (antialiased), normalised."""
        from torch.nn import functional

        x = images_N3HW
        if x.shape[2:] != (self.size, self.size):
            x = functional.interpolate(x, (self.size, self.size), mode=self.interpolation, antialias=True)
        if self.crop:
            edge = (self.size - self.crop) // 2
            x = x[..., edge : edge + self.crop, edge : edge + self.crop]
        mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in self.normal)
        return (x - mean) / std


@dataclass(frozen=True)
class PackagedNetwork:
    """A network that comes with a package of its own: ``load(folders, device)``, folders that may hold weights."""

    title: str
    load: Callable[[list[Path], torch.device], Any]


def correlation_distance(seen: SeenFeatures, features_MD: np.ndarray, which_M: np.ndarray) -> np.ndarray:
    """1 - Pearson's r of each reconstruction's features with its own picture's, (M,)."""
    return 1.0 - seen.correlation(features_MD, which_M)


def cosine(seen: SeenFeatures, features_MD: np.ndarray, which_M: np.ndarray) -> np.ndarray:
    """Cosine (features not centred) of each reconstruction's features with its own picture's, (M,)."""
    return seen.correlation(features_MD, which_M)


def without_head(name: str, head: str, **settings: Any) -> nn.Module:
    """A torchvision network that gives its last average pooling, (N, D)."""
    import torchvision
    from torch import nn

    network = torchvision.models.get_model(name, weights=None, **settings)
    setattr(network, head, nn.Identity())
    return network
