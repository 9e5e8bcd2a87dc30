"""Inputs of the modules: trials and features standardised, augmented, and moved to the device.

Letters: N trials, M images, C channels, T samples, d_k width of encoder k.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hvf.config import SOLVED, BrainConfig, Config, HvfError
from hvf.data.trials.trials import Trials
from hvf.models.brain import BrainEncoder, Recording, build_brain

Device = str | torch.device
SMOOTHED = 5  # samples that a smoothed channel is averaged over, as NeuroBridge does


def new_brain(
    config: Config, width: int, n_chans: int, n_times: int, recording: Recording | None = None
) -> BrainEncoder:
    """As wide as the fusion (`build_brain`); what is solved is, once fitted, the linear encoder."""
    encoder = "linear" if config.brain.encoder in SOLVED else config.brain.encoder
    return build_brain(replace(config.brain, encoder=encoder, width=width), n_chans, n_times, recording)


def move(module: nn.Module, device: Device) -> None:
    """`module.to(device)`, in place; taken from torch, because diffusers' own `to` has lost its types."""
    nn.Module.to(module, device)


@torch.no_grad()
def normal_weights(module: nn.Module, sd: float = 0.02) -> None:
    """Draw linear and convolutional weights anew, normal with this sd; biases are 0. As transformers and NICE do."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.weight.normal_(0.0, sd)
            if layer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
                layer.bias.zero_()


def standard(trials: Trials, device: Device) -> tuple[Tensor, Tensor]:
    """Mean and sd of each channel, (1, C, 1), read part by part; a channel that never changes gets sd 1."""
    n, shift, sum_C, square_C = 0, np.zeros((1, 1, 1)), np.zeros(1), np.zeros(1)
    for rows, x_NCT in trials.batches():
        if rows.start == 0:  # near the mean, so that the difference of squares below is exact
            shift = x_NCT.mean(axis=(0, 2), keepdims=True, dtype=np.float64)
        x_NCT = x_NCT - shift
        n += x_NCT.shape[0] * x_NCT.shape[2]
        sum_C = sum_C + x_NCT.sum(axis=(0, 2))
        square_C = square_C + np.square(x_NCT).sum(axis=(0, 2))
    mean = shift + (sum_C / n)[None, :, None]
    sd = np.sqrt(np.maximum(square_C / n - (sum_C / n) ** 2, 0.0))[None, :, None]
    sd = np.where(sd > 1e-6 * np.abs(mean) + np.finfo(np.float32).tiny, sd, 1.0)
    return tensor(mean, device), tensor(sd, device)


def centred(x: np.ndarray, images: np.ndarray, device: Device) -> tuple[Tensor, Tensor]:
    """Mean of each feature over `images` and one sd for the encoder, read part by part.

    An sd for each feature would blow up those that hardly vary.
    """
    x_Md = x.reshape(len(x), -1)
    parts = np.array_split(images, math.ceil(len(images) / 1024))
    mean_1d = sum(x_Md[part].sum(axis=0, keepdims=True, dtype=np.float64) for part in parts) / len(images)
    variance = sum(np.square(x_Md[part] - mean_1d).sum() for part in parts) / (len(images) * x_Md.shape[1])
    sd_11 = np.full((1, 1), math.sqrt(variance) if variance > 0 else 1.0)
    return tensor(np.asarray(mean_1d), device), tensor(sd_11, device)


def tensor(x: np.ndarray, device: Device) -> Tensor:
    """The array as float32 on the device."""
    return torch.from_numpy(x.astype(np.float32)).to(device)


def standardised(x: np.ndarray, statistics: tuple[Tensor, Tensor], device: Device) -> Tensor:
    """(x - mean) / sd as float32 on the device."""
    mean, sd = statistics
    return (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(device) - mean).div_(sd)


def channels_to_smooth(n: int, n_chans: int, share: float, device: Device) -> Tensor:
    """Which channels of N trials are smoothed, (N, C) of bool, drawn from torch's global generator."""
    return torch.rand((n, n_chans), device=device) < share


def augmented(x_NCT: Tensor, brain: BrainConfig, smoothed_NC: Tensor | None = None) -> Tensor:
    """Standardised trials (N, C, T) as a training step sees them: some channels smoothed, noise added.

    Smoothing is a moving average over SMOOTHED samples, fewer at the ends, of the channels `smoothed_NC`, by default
    drawn here. Source: feroooooo/NeuroBridge.
    """
    if brain.input_smooth:
        if smoothed_NC is None:
            n, n_chans = x_NCT.shape[:2]
            smoothed_NC = channels_to_smooth(n, n_chans, brain.input_smooth, x_NCT.device)
        smooth_NCT = functional.avg_pool1d(x_NCT, SMOOTHED, 1, SMOOTHED // 2, count_include_pad=False)
        x_NCT = torch.where(smoothed_NC[:, :, None], smooth_NCT, x_NCT)
    if brain.input_noise:
        noise_NCT = torch.randn_like(x_NCT)
        x_NCT = torch.add(x_NCT, noise_NCT, alpha=brain.input_noise, out=noise_NCT)
    return x_NCT


def image_tensors(
    features: Mapping[str, np.ndarray],
    specs: Sequence[str],
    normalisation: Mapping[str, tuple[Tensor, Tensor]],
    device: Device,
) -> dict[str, Tensor]:
    """{spec: (M, d)} float32 on the device, standardised by the statistics of the specs in `normalisation`.

    Raises HvfError naming features that are missing or of another width.
    """
    missing = [spec for spec in specs if spec not in features]
    if missing:
        raise HvfError(f"no features of {missing[0]} were given: compute them with hvf embed --targets {missing[0]}")
    out = {}
    for spec in specs:
        x_Nd = np.asarray(features[spec], dtype=np.float32).reshape(len(features[spec]), -1)
        if spec in normalisation and x_Nd.shape[1] != normalisation[spec][0].shape[1]:
            raise HvfError(f"features of {spec} have width {x_Nd.shape[1]}, not {normalisation[spec][0].shape[1]}")
        standard = normalisation.get(spec)
        out[spec] = torch.from_numpy(x_Nd).to(device) if standard is None else standardised(x_Nd, standard, device)
    return out
