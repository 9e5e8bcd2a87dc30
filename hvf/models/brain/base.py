"""What every brain encoder is: (N, C, T) to (N, D), with a file that carries its settings.

Shape suffixes: N items, C channels, T samples, D embedding.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hvf.config import BrainConfig, HvfError
from hvf.runs import write_atomic

BRAIN_ENCODERS: dict[str, type[BrainEncoder]] = {}  # by name; a subclass enters itself


class BrainEncoder(nn.Module):
    """x (N, C, T) -> z_b (N, D), not L2-normalised. Base of all encoders; keeps what is needed to build one again.

    ``name`` is the word for it in `BrainConfig.encoder`, ``reads`` the fields of BrainConfig that it takes.
    """

    name = ""
    reads: tuple[str, ...] = ("width", "dropout")

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.name:
            BRAIN_ENCODERS[cls.name] = cls

    def __init__(self, n_chans: int, n_times: int, width: int, **settings: Any) -> None:
        super().__init__()
        self.settings = {"n_chans": n_chans, "n_times": n_times, "width": width, **settings}
        self.n_chans, self.n_times, self.width = n_chans, n_times, width

    def checked(self, x_NCT: Tensor) -> Tensor:
        """The trials as they are. Raises HvfError when C or T is not the one trained for."""
        expected = (self.n_chans, self.n_times)
        if tuple(x_NCT.shape[1:]) != expected:
            raise HvfError(
                f"The brain encoder was made for {expected[0]} channels x {expected[1]} samples; "
                f"the trials have {' x '.join(map(str, x_NCT.shape[1:]))}."
            )
        return x_NCT

    def flat(self, x_NCT: Tensor) -> Tensor:
        """(N, C, T) -> (N, C·T), time fastest; checked."""
        return self.checked(x_NCT).flatten(1)

    def save(self, path: str | Path) -> None:
        """Weights and settings into one safetensors file, atomically."""
        metadata = {"encoder": self.name, "settings": json.dumps(self.settings)}
        state = {key: value.detach().contiguous() for key, value in self.state_dict().items()}
        write_atomic(Path(path), lambda temporary: save_file(state, str(temporary), metadata=metadata))

    @staticmethod
    def load(path: str | Path) -> BrainEncoder:
        """The encoder that ``save`` wrote, in eval mode, on the CPU. Raises HvfError if the file is not one."""
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        except (OSError, SafetensorError) as error:
            raise HvfError(f"{path} is not a readable brain encoder: {error}") from error
        if "settings" not in metadata:
            raise HvfError(f"{path} is not a brain encoder: the file carries no encoder settings.")
        encoder = encoder_class(metadata["encoder"])(**json.loads(metadata["settings"]))
        try:
            encoder.load_state_dict(state)
        except RuntimeError as error:
            raise HvfError(f"{path}: the weights do not fit the settings stored with them.") from error
        return encoder.eval()


class ProjectionHead(nn.Sequential):
    """h = W f + b;  z_b = LayerNorm(h + Dropout(V gelu(h) + c)): features (N, F) -> (N, D).

    The head that NICE put behind its network and that ATM, UBP and NeuroBridge kept.
    """

    def __init__(self, features: int, width: int, dropout: float) -> None:
        super().__init__(nn.Linear(features, width), _Residual(width, dropout), nn.LayerNorm(width))


class _Residual(nn.Sequential):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__(nn.GELU(), nn.Linear(width, width), nn.Dropout(dropout))

    def forward(self, h_ND: Tensor) -> Tensor:
        return h_ND + super().forward(h_ND)


def encoder_class(name: str) -> type[BrainEncoder]:
    """The encoder of that name. Raises HvfError, with the nearest name, if there is none."""
    if name not in BRAIN_ENCODERS:
        near = difflib.get_close_matches(name, BRAIN_ENCODERS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise HvfError(f"There is no brain encoder {name}.{hint} Known: {', '.join(sorted(BRAIN_ENCODERS))}.")
    return BRAIN_ENCODERS[name]


def build_brain(config: BrainConfig | Mapping[str, Any], n_chans: int, n_times: int) -> BrainEncoder:
    """The encoder that ``config.encoder`` names, for trials of C = ``n_chans`` and T = ``n_times``.

    Weights are drawn from torch's global generator. Raises HvfError, with the nearest name, for an unknown encoder.
    """
    values = dict(config) if isinstance(config, Mapping) else vars(config)
    encoder = encoder_class(values["encoder"])
    return encoder(n_chans, n_times, **{field: values[field] for field in encoder.reads})
