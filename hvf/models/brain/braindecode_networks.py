"""braindecode's networks as feature extractors, behind the projection head: EEGNet, ShallowNet, Deep4, EEGConformer.

They need the extra `encoders` (`pip install 'hvf[encoders]'`), and are imported when one is built: it takes seconds.
Trials shorter than a network's kernels are padded with zeros (the mean of standardised trials) on both sides.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvf.config import HvfError
from hvf.models.brain.base import BrainEncoder, ProjectionHead
from hvf.registry import BRAIN_ENCODERS


class _Braindecode(BrainEncoder):
    """A network without its classifier, its features flattened, and the head that learns the map to the images."""

    shortest = 1  # samples that the network's kernels and pools need
    fewest = 1  # channels; a single one is shown twice where braindecode's spatial filter fails on it
    dropout = 0.5

    def __init__(self, n_chans: int, n_times: int, width: int = 1024, dropout: float | None = None) -> None:
        dropout = self.dropout if dropout is None else dropout
        super().__init__(n_chans, n_times, width, dropout=dropout)
        samples = max(n_times, self.shortest)
        self.padding = ((samples - n_times) // 2, samples - n_times - (samples - n_times) // 2)
        self.rows = max(n_chans, self.fewest)
        self.network: nn.Module = self.build(n_chans=self.rows, n_times=samples, n_outputs=2, drop_prob=dropout)
        with torch.no_grad():
            features = self.network.eval()(torch.zeros(1, self.rows, samples)).numel()
        self.network.train()
        self.head = ProjectionHead(features, width, dropout)

    def build(self, **shape: Any) -> nn.Module:
        """The braindecode network, giving features."""
        raise NotImplementedError

    def forward(self, x_NCT: Tensor) -> Tensor:
        x_NCT = functional.pad(self.checked(x_NCT), self.padding)
        return self.head(self.network(x_NCT.repeat(1, self.rows // self.n_chans, 1)).flatten(1))


def braindecode_models() -> Any:
    """braindecode's networks. Raises HvfError with the command that installs it."""
    try:
        import braindecode.models as models
    except ImportError as error:
        raise HvfError(
            f"this brain encoder is braindecode's, which cannot be imported ({error}): pip install 'hvf[encoders]'"
        ) from error
    return models


def _headless(network: Any) -> nn.Module:
    network.final_layer = nn.Identity()
    return network


@BRAIN_ENCODERS.register("eegnet")
class EEGNet(_Braindecode):
    """EEGNet (Lawhern et al., 2018): temporal filters, a spatial filter for each, separable convolution."""

    shortest, dropout = 32, 0.25

    def build(self, **shape: Any) -> nn.Module:
        return _headless(braindecode_models().EEGNet(final_layer_with_constraint=True, **shape))


@BRAIN_ENCODERS.register("shallownet")
class ShallowNet(_Braindecode):
    """ShallowFBCSPNet (Schirrmeister et al., 2017): log power in learnt bands and places."""

    shortest, fewest = 99, 2

    def build(self, **shape: Any) -> nn.Module:
        return _headless(braindecode_models().ShallowFBCSPNet(**shape))


@BRAIN_ENCODERS.register("deepnet")
class Deep4(_Braindecode):
    """Deep4Net (Schirrmeister et al., 2017). Its four pools by 3 need 441 samples; shorter trials are pooled by 2."""

    shortest, fewest = 151, 2

    def build(self, **shape: Any) -> nn.Module:
        pool = 3 if shape["n_times"] >= 441 else 2
        return _headless(braindecode_models().Deep4Net(pool_time_length=pool, pool_time_stride=pool, **shape))


@BRAIN_ENCODERS.register("eegconformer")
class EEGConformer(_Braindecode):
    """EEGConformer (Song et al., 2023): NICE's kind of convolutions, then a transformer over time."""

    shortest = 99

    def build(self, **shape: Any) -> nn.Module:
        network = braindecode_models().EEGConformer(return_features=True, **shape)
        network.fc = nn.Identity()  # its own way from features to classes, not ours
        return _headless(network)
