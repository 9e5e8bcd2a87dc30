"""The interface of a brain encoder: trials (N, C, T) to embeddings (N, D), saved together with its settings.

Shape suffixes: N items, C channels, T samples, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from hvf.config import BrainConfig, HvfError
from hvf.files.tensors import read_tensors, write_tensors
from hvf.registry import BRAIN_ENCODERS
from hvf.schema.reading import parse_json


class Recording(Protocol):
    """What a brain encoder may need to know of a recording: `Trials` are one, and what a checkpoint keeps of them."""

    @property
    def kind(self) -> str: ...
    @property
    def ch_names(self) -> Sequence[str]: ...
    @property
    def sfreq(self) -> float: ...


class BrainEncoder(nn.Module):
    """Base of all brain encoders: x (N, C, T) -> z_b (N, D), not L2-normalised, saved with its settings.

    ``settings`` are the subclass's own arguments, which `load` builds it with again.
    """

    reads: tuple[str, ...] = ("width", "dropout")  # fields of `BrainConfig` that the subclass's constructor takes
    takes: tuple[str, ...] = ()  # fields of the `Recording` that it takes too
    replayable = True  # whether a GPU may record its step and replay it (`hvf.training.cuda_graphs`)

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
        about = {"encoder": BRAIN_ENCODERS.name_of(type(self)), "settings": self.settings}
        state = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        write_tensors(Path(path), state, about)

    @staticmethod
    def load(path: str | Path) -> BrainEncoder:
        """The encoder that ``save`` wrote, in eval mode, on the CPU. Raises HvfError if the file is not one."""
        try:
            state, about = read_tensors(Path(path), "pt")
            settings = about["settings"]
            settings = parse_json(settings) if isinstance(settings, str) else settings  # of an earlier version
            encoder = BRAIN_ENCODERS[about["encoder"]](**settings)
            encoder.load_state_dict(state)
        except OSError as error:
            raise HvfError(f"{path} is not a readable brain encoder: {error}") from error
        except KeyError:
            raise HvfError(f"{path} is not a brain encoder: the file carries no encoder settings.") from None
        except (RuntimeError, TypeError, ValueError) as error:
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


def build_brain(
    config: BrainConfig | Mapping[str, Any], n_chans: int, n_times: int, recording: Recording | None = None
) -> BrainEncoder:
    """A new brain encoder for trials of C channels and T samples, its weights drawn from torch's global generator.

    Parameters
    ----------
    config : BrainConfig or mapping
        Which encoder, and its settings.
    n_chans, n_times : int
        C and T.
    recording : Recording, optional
        Whose channels and rate an encoder matches that was trained on other recordings.

    Raises
    ------
    HvfError
        For an encoder that `BRAIN_ENCODERS` has not, with the nearest name; for one that needs the recording, and
        cannot use this one.

    Examples
    --------
    >>> import torch
    >>> from hvf.config import BrainConfig
    >>> brain = build_brain(BrainConfig(encoder="mbp", width=16), n_chans=17, n_times=80)
    >>> brain(torch.zeros(2, 17, 80)).shape
    torch.Size([2, 16])
    """
    values = dict(config) if isinstance(config, Mapping) else vars(config)
    encoder = BRAIN_ENCODERS[values["encoder"]]
    if encoder.takes and recording is None:
        raise HvfError(f"brain encoder {values['encoder']} needs the recording's {', '.join(encoder.takes)}")
    of_recording = {field: getattr(recording, field) for field in encoder.takes}
    return encoder(n_chans, n_times, **{field: values[field] for field in encoder.reads}, **of_recording)
