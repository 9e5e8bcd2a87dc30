"""The foundation encoders that braindecode has: what each was trained on, and where its weights are published.

They need the extra `encoders` (`pip install 'hvf[encoders]'`). Channels, rates and units are those of the papers and of
the authors' code.

Letters: N trials, C channels of the recording, K channels of the network, S samples before resampling, T after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hvf.models.brain.braindecode_networks import braindecode_models
from hvf.models.brain.foundation import Foundation, places_1005, row_of_site
from hvf.registry import BRAIN_ENCODERS, FOUNDATION


@BRAIN_ENCODERS.register("labram")
@FOUNDATION.register("labram")
class Labram(Foundation):
    """LaBraM (Jiang et al., 2024): 2,500 hours of EEG, 128 sites, 0.1 to 75 Hz, in 100 µV; tokens of 1 s a channel."""

    fetch = "hf download braindecode/labram-pretrained"
    scale = 1 / 100
    chans: Tensor

    @classmethod
    def known(cls) -> list[str]:
        return [name.upper() for name in braindecode_models().labram.LABRAM_CHANNEL_ORDER]

    def build(self, n_chans: int, n_times: int) -> nn.Module:
        order = self.known()
        chans = [0, *(1 + order.index(name) for name in self.places)]  # 0 is the token of the whole trial
        self.register_buffer("chans", torch.tensor(chans), persistent=False)
        return _headless(
            braindecode_models().Labram(n_chans=n_chans, n_times=n_times, n_outputs=2, sfreq=self.rate, **self.sizes)
        )

    def tokens(self, x_NKT: Tensor) -> Tensor:
        network: Any = self.network
        return network.forward_features(x_NKT, input_chans=self.chans, return_patch_tokens=True)

    def published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The table of time is cut to the trial's patches."""
        network, name = self.network, "temporal_embedding"
        table = state.get(name)
        n_rows = network.get_parameter(name).shape[1]
        return {**state, name: table[:, :n_rows]} if isinstance(table, Tensor) and table.ndim == 3 else dict(state)


@BRAIN_ENCODERS.register("cbramod")
@FOUNDATION.register("cbramod")
class CBraMod(Foundation):
    """CBraMod (Wang et al., 2025): TUEG's 19 channels, 0.3 to 75 Hz, in 100 µV; tokens of 1 s a channel.

    It knows no names: a convolution over neighbouring channels says where each is. They are put into the order of the
    10-05 system, from front to back; channels of other names follow as they come.
    """

    fetch = "hf download braindecode/cbramod-pretrained"
    scale = 1 / 100
    any_name = True

    @classmethod
    def known(cls) -> list[str]:
        return list(places_1005())

    def build(self, n_chans: int, n_times: int) -> nn.Module:
        shape = {"n_chans": n_chans, "n_times": n_times, "n_outputs": 2, "sfreq": self.rate}
        return braindecode_models().CBraMod(return_encoder_output=True, **shape, **self.sizes)

    def tokens(self, x_NKT: Tensor) -> Tensor:
        return self.network(x_NKT)


@BRAIN_ENCODERS.register("eegpt")
@FOUNDATION.register("eegpt")
class EEGPT(Foundation):
    """EEGPT (Wang et al., 2024): 58 sites, average reference, in mV; four summary tokens every 125 ms."""

    fetch = "hf download braindecode/eegpt-pretrained"
    rate = 256.0
    patch, step = 64, 32
    scale = 1 / 1000
    left = ("final_layer.", "chan_proj.", "chans_id", "encoder.", "predictor.", "reconstructor.")

    @classmethod
    def known(cls) -> list[str]:
        return list(braindecode_models().eegpt.EEGPT_CHANNELS)

    def build(self, n_chans: int, n_times: int) -> nn.Module:
        shape = {"n_chans": n_chans, "n_times": n_times, "n_outputs": 2, "sfreq": self.rate}
        sites = [{"ch_name": name} for name in self.places]
        return braindecode_models().EEGPT(
            chs_info=sites, chan_proj_type="none", return_encoder_output=True, **shape, **self.sizes
        )

    def scaled(self, x_NKT: Tensor) -> Tensor:
        return super().scaled(x_NKT - x_NKT.mean(dim=1, keepdim=True))

    def tokens(self, x_NKT: Tensor) -> Tensor:
        return self.network(x_NKT)


class _AtPlaces(Foundation):
    """A network that knows channels by their places on the head."""

    places_K3: Tensor

    @classmethod
    def known(cls) -> list[str]:
        return list(places_1005())

    def build(self, n_chans: int, n_times: int) -> nn.Module:
        place_of = places_1005()
        places_K3 = torch.from_numpy(np.stack([place_of[name] for name in self.places]).astype(np.float32))
        self.register_buffer("places_K3", places_K3)
        shape = {"n_chans": n_chans, "n_times": n_times, "n_outputs": 2, "sfreq": self.rate}
        return _headless(self.at_places(**shape, **self.sizes))

    def at_places(self, **shape: Any) -> nn.Module:
        """braindecode's network."""
        raise NotImplementedError


@BRAIN_ENCODERS.register("reve")
@FOUNDATION.register("reve")
class REVE(_AtPlaces):
    """REVE, base (El Ouahidi et al., 2025): 60,000 hours, any sites, sd 1, cut at 15 sd; tokens of 1 s a channel.

    Its bank of places is that of the 10-05 system in m, which is taken from MNE: nothing is fetched.
    """

    fetch = "hf download brain-bzh/reve-base (its terms must be accepted first)"
    step = 180  # its patches overlap by 20 samples
    left = ("final_layer.", "cls_query_token")

    def at_places(self, **shape: Any) -> nn.Module:
        module = braindecode_models().reve
        bank, module.RevePositionBank = module.RevePositionBank, nn.Identity  # which would be fetched when it is built
        try:
            return module.REVE(**shape)
        finally:
            module.RevePositionBank = bank

    def scaled(self, x_NKT: Tensor) -> Tensor:
        return x_NKT.clamp(-15, 15)

    def tokens(self, x_NKT: Tensor) -> Tensor:
        places_NK3 = self.places_K3.expand(len(x_NKT), -1, -1)
        return self.network(x_NKT, pos=places_NK3, return_features=True)["features"]


@BRAIN_ENCODERS.register("luna")
@FOUNDATION.register("luna")
class LUNA(_AtPlaces):
    """LUNA, base (Döner et al., 2025): 21,000 hours, any sites, 0.1 to 75 Hz, sd 1 in each trial; 4 queries a patch."""

    fetch = "hf download PulpBio/LUNA Base/LUNA_base.safetensors"
    rate = 256.0
    patch, step = 40, 40
    left = ("final_layer.", "decoder_head.", "channel_emb.")

    def at_places(self, **shape: Any) -> nn.Module:
        return braindecode_models().LUNA(**shape)

    def scaled(self, x_NKT: Tensor) -> Tensor:
        x_NKT = x_NKT - x_NKT.mean(dim=2, keepdim=True)
        return x_NKT / (x_NKT.std(dim=2, correction=0, keepdim=True) + 1e-8)

    def tokens(self, x_NKT: Tensor) -> Tensor:
        return self.network(x_NKT, channel_locations=self.places_K3.expand(len(x_NKT), -1, -1))

    def published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        network: Any = self.network
        constant = {key: value for key, value in network.state_dict().items() if key.endswith("rotary_emb.freqs")}
        return constant | {network.mapping.get(key, key): value for key, value in state.items()}


@BRAIN_ENCODERS.register("luna-large")
@FOUNDATION.register("luna-large")
class LUNALarge(LUNA):
    """LUNA, large: 6 queries of 96, 10 layers."""

    fetch = "hf download PulpBio/LUNA Large/LUNA_large.safetensors"
    sizes: Mapping[str, Any] = {"embed_dim": 96, "num_queries": 6, "depth": 10}


@BRAIN_ENCODERS.register("luna-huge")
@FOUNDATION.register("luna-huge")
class LUNAHuge(LUNA):
    """LUNA, huge: 8 queries of 128, 24 layers."""

    fetch = "hf download PulpBio/LUNA Huge/LUNA_huge.safetensors"
    sizes: Mapping[str, Any] = {"embed_dim": 128, "num_queries": 8, "depth": 24}


@BRAIN_ENCODERS.register("biot")
@FOUNDATION.register("biot")
class BIOT(Foundation):
    """BIOT (Yang et al., 2023): bipolar derivations, each trial's by its 95th percentile; one vector a trial.

    A derivation is the difference of two channels of the recording, here of standardised ones; those whose channels are
    there are taken. The weights are those with 18 channels (six data sets).
    """

    fetch = "hf download braindecode/biot-pretrained-six-datasets-18chs"
    step = 100

    @classmethod
    def known(cls) -> list[str]:
        return [name.upper() for name in braindecode_models().biot.BIOT_CHANNEL_ORDER]

    @classmethod
    def matched(cls, row_of: Mapping[str, int]) -> tuple[dict[str, Any], list[int]]:
        found: dict[str, tuple[int, int]] = {}
        for derivation in cls.known():
            first, second = (row_of_site(name, row_of) for name in derivation.split("-"))
            if first is not None and second is not None:
                found[derivation] = first, second
        used = {row for pair in found.values() for row in pair}
        return found, [row for row in row_of.values() if row not in used]

    def picked(self, x_NCS: Tensor) -> Tensor:
        return x_NCS[:, self.rows_K[:, 0]] - x_NCS[:, self.rows_K[:, 1]]

    def build(self, n_chans: int, n_times: int) -> nn.Module:
        order = self.known()
        network = _headless(
            braindecode_models().BIOT(
                n_chans=len(order), n_times=n_times, n_outputs=2, sfreq=int(self.rate), **self.sizes
            )
        )
        index = torch.tensor([order.index(name) for name in self.places])  # which of its channels these are
        network.get_submodule("encoder").register_buffer("index", index, persistent=False)
        return network

    def scaled(self, x_NKT: Tensor) -> Tensor:
        return x_NKT / (x_NKT.abs().quantile(0.95, dim=2, keepdim=True) + 1e-8)

    def tokens(self, x_NKT: Tensor) -> Tensor:
        return self.network.get_submodule("encoder")(x_NKT)


@BRAIN_ENCODERS.register("signal-jepa")
@FOUNDATION.register("signal-jepa")
class SignalJEPA(Foundation):
    """S-JEPA (Guetschel et al., 2024): 62 sites, 0.5 to 40 Hz, in µV; tokens of 1.2 s a channel."""

    fetch = "hf download braindecode/signal-jepa"
    rate = 128.0
    patch, step = 152, 128
    left = ("final_layer.", "transformer.decoder.")

    @classmethod
    def known(cls) -> list[str]:
        return [site["ch_name"].upper() for site in braindecode_models().signal_jepa._PRETRAIN_CHS_INFO]

    def build(self, n_chans: int, n_times: int) -> nn.Module:
        models = braindecode_models()
        sites = dict(zip(self.known(), models.signal_jepa._PRETRAIN_CHS_INFO, strict=True))
        network = models.SignalJEPA(
            n_times=n_times,
            sfreq=self.rate,
            chs_info=[{**sites[name], "loc": np.array(sites[name]["loc"])} for name in self.places],
            channel_embedding="pretrain_aligned",
            **self.sizes,
        )
        network.transformer.decoder = nn.Identity()  # of the training alone
        return network

    def tokens(self, x_NKT: Tensor) -> Tensor:
        return self.network(x_NKT)


def _headless(network: Any) -> nn.Module:
    network.final_layer = nn.Identity()
    return network
