"""Brain encoders: evoked responses become embeddings in the space of the images.

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
from hvf.models.fusion import ResidualMLP
from hvf.runs import write_atomic


class BrainEncoder(nn.Module):
    """x (N, C, T) -> z_b (N, D), not L2-normalised. Base of all encoders; keeps what is needed to build one again."""

    name = ""

    def __init__(self, n_chans: int, n_times: int, width: int, **settings: Any) -> None:
        super().__init__()
        self.settings = {"n_chans": n_chans, "n_times": n_times, "width": width, **settings}
        self.n_chans, self.n_times, self.width = n_chans, n_times, width

    def flat(self, x_NCT: Tensor) -> Tensor:
        """(N, C, T) -> (N, C·T), time fastest. Raises HvfError when C or T is not the one trained for."""
        expected = (self.n_chans, self.n_times)
        if tuple(x_NCT.shape[1:]) != expected:
            raise HvfError(
                f"The brain encoder was made for {expected[0]} channels x {expected[1]} samples; "
                f"the trials have {' x '.join(map(str, x_NCT.shape[1:]))}."
            )
        return x_NCT.flatten(1)

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
        encoder = _encoder_class(metadata["encoder"])(**json.loads(metadata["settings"]))
        try:
            encoder.load_state_dict(state)
        except RuntimeError as error:
            raise HvfError(f"{path}: the weights do not fit the settings stored with them.") from error
        return encoder.eval()


class MBP(BrainEncoder):
    """z̄_b = flat(x) W_b + b_b, W_b ∈ R^{CT × D};  z_b = LayerNorm(z̄_b + φ_b(z̄_b)): the paper's brain encoder.

    φ_b is HVF's block (biasless, ``intermediate`` wide). Source: arXiv 2602.07495, section 3.
    """

    name = "mbp"

    def __init__(
        self, n_chans: int, n_times: int, width: int = 1024, intermediate: int = 1024, dropout: float = 0.1
    ) -> None:
        super().__init__(n_chans, n_times, width, intermediate=intermediate, dropout=dropout)
        self.project = nn.Linear(n_chans * n_times, width)
        self.block = ResidualMLP(width, intermediate, dropout)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x_NCT: Tensor) -> Tensor:
        return self.norm(self.block(self.project(self.flat(x_NCT))))


class EEGProject(BrainEncoder):
    """h = flat(x) W + b;  z_b = LayerNorm(h + Dropout(V gelu(h) + c)): the projection of UBP and NeuroBridge.

    Source: HaitaoWuTJU/Uncertainty-aware-Blur-Prior, used by its successors as their default for EEG.
    """

    name = "eegproject"

    def __init__(self, n_chans: int, n_times: int, width: int = 1024, dropout: float = 0.3) -> None:
        super().__init__(n_chans, n_times, width, dropout=dropout)
        self.project = nn.Linear(n_chans * n_times, width)
        self.residual = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(width)

    def forward(self, x_NCT: Tensor) -> Tensor:
        h_ND = self.project(self.flat(x_NCT))
        return self.norm(h_ND + self.residual(h_ND))


class LinearBrain(BrainEncoder):
    """z_b = flat(x) W + b: the control that shows what an encoder's non-linearity is worth."""

    name = "linear"

    def __init__(self, n_chans: int, n_times: int, width: int = 1024) -> None:
        super().__init__(n_chans, n_times, width)
        self.project = nn.Linear(n_chans * n_times, width)

    def forward(self, x_NCT: Tensor) -> Tensor:
        return self.project(self.flat(x_NCT))


# name -> (class, the fields of BrainConfig that it reads besides `encoder`)
BRAIN_ENCODERS: dict[str, tuple[type[BrainEncoder], tuple[str, ...]]] = {
    "mbp": (MBP, ("width", "intermediate", "dropout")),
    "eegproject": (EEGProject, ("width", "dropout")),
    "linear": (LinearBrain, ("width",)),
}


def _encoder_class(name: str) -> type[BrainEncoder]:
    if name not in BRAIN_ENCODERS:
        near = difflib.get_close_matches(name, BRAIN_ENCODERS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise HvfError(f"There is no brain encoder {name}.{hint} Known: {', '.join(sorted(BRAIN_ENCODERS))}.")
    return BRAIN_ENCODERS[name][0]


def build_brain(config: BrainConfig | Mapping[str, Any], n_chans: int, n_times: int) -> BrainEncoder:
    """The encoder that ``config.encoder`` names, for trials of C = ``n_chans`` and T = ``n_times``.

    Weights are drawn from torch's global generator. Raises HvfError, with the nearest name, for an unknown encoder.
    """
    values = dict(config) if isinstance(config, Mapping) else vars(config)
    encoder = _encoder_class(values["encoder"])
    fields = BRAIN_ENCODERS[values["encoder"]][1]
    return encoder(n_chans, n_times, **{field: values[field] for field in fields})
