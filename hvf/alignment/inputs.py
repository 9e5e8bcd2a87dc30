"""What goes into an alignment: trials and features checked, standardised, and put where the modules are.

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
from hvf.data.images.image_set import ImageSet
from hvf.data.trials.trials import Trials
from hvf.models.brain import BrainEncoder, build_brain
from hvf.models.fusions.hvf import HVF
from hvf.vision.cache import embed_all
from hvf.vision.specs import versions
from hvf.vision.texts import embed_captions

SMOOTHED = 5  # samples that a smoothed channel is averaged over, as NeuroBridge does


def new_brain(config: Config, width: int, n_chans: int, n_times: int) -> BrainEncoder:
    """As wide as the fusion; what is solved is, once fitted, the linear encoder."""
    encoder = "linear" if config.brain.encoder in SOLVED else config.brain.encoder
    return build_brain(replace(config.brain, encoder=encoder, width=width), n_chans, n_times)


def move(module: nn.Module, device) -> None:
    """`module.to(device)`, in place; taken from torch, because diffusers' own `to` has lost its types."""
    nn.Module.to(module, device)


def standard(trials: Trials, device) -> tuple[Tensor, Tensor]:
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


def centred(x: np.ndarray, images: np.ndarray, device) -> tuple[Tensor, Tensor]:
    """Mean of each feature over `images` and one sd for the encoder, read part by part.

    An sd for each feature would blow up those that hardly vary.
    """
    x_Md = x.reshape(len(x), -1)
    parts = np.array_split(images, math.ceil(len(images) / 1024))
    mean_1d = sum(x_Md[part].sum(axis=0, keepdims=True, dtype=np.float64) for part in parts) / len(images)
    variance = sum(np.square(x_Md[part] - mean_1d).sum() for part in parts) / (len(images) * x_Md.shape[1])
    sd_11 = np.full((1, 1), math.sqrt(variance) if variance > 0 else 1.0)
    return tensor(np.asarray(mean_1d), device), tensor(sd_11, device)


def tensor(x: np.ndarray, device) -> Tensor:
    return torch.from_numpy(x.astype(np.float32)).to(device)


def standardised(x: np.ndarray, statistics: tuple[Tensor, Tensor], device) -> Tensor:
    mean, sd = statistics
    return (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(device) - mean).div_(sd)


def augmented(x_NCT: Tensor, brain: BrainConfig) -> Tensor:
    """Standardised trials (N, C, T) as a training step sees them: some channels smoothed, noise added.

    Smoothing is a moving average over SMOOTHED samples, fewer at the ends (NeuroBridge, feroooooo/NeuroBridge).
    """
    if brain.input_smooth:
        smooth_NCT = functional.avg_pool1d(x_NCT, SMOOTHED, 1, SMOOTHED // 2, count_include_pad=False)
        chosen_NC1 = torch.rand((*x_NCT.shape[:2], 1), device=x_NCT.device) < brain.input_smooth
        x_NCT = torch.where(chosen_NC1, smooth_NCT, x_NCT)
    if brain.input_noise:
        x_NCT = x_NCT + brain.input_noise * torch.randn_like(x_NCT)
    return x_NCT


def visual(features: Mapping[str, np.ndarray], specs: Sequence[str], normalisation, device) -> dict[str, Tensor]:
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


def image_rows(trials: Trials, concepts: Sequence[str], image_N: Sequence[int] | np.ndarray | None) -> np.ndarray:
    """Which image each trial answers, (N,). Raises HvfError if there is no such image."""
    if image_N is None:
        if len(concepts) != len(trials):
            raise HvfError(f"{len(trials)} trials but {len(concepts)} concepts: image_N must tell what each shows")
        image_N = np.arange(len(trials))
    image_N = np.asarray(image_N)
    if image_N.shape != (len(trials),) or image_N.dtype.kind not in "iu":
        raise HvfError(f"image_N must give the image of each of {len(trials)} trials, a whole number")
    if len(image_N) and not (image_N.min() >= 0 and image_N.max() < len(concepts)):
        raise HvfError(f"image_N names image {image_N.max()} (from 0), but there are {len(concepts)} images")
    return image_N


def needed(config: Config, hvf: HVF | None = None) -> list[str]:
    """All that features must be given of: encoders, their views, the captions' encoder; of the prior's HVF, its own.

    Raises HvfError for views or captions beside the prior's HVF, which is frozen to whole images, and is not learnt.
    """
    targets = config.targets
    if hvf is not None and (targets.views or targets.text):
        name = "targets.views" if targets.views else "targets.text"
        raise HvfError(f"{name} is for align.mode 'retrieval': the prior's fusion is frozen")
    if hvf is not None:
        return list(hvf.specs)
    views = [view for group in versions(targets.specs, targets.views).values() for view in group]
    return [*targets.specs, *views, *([targets.text] if targets.text else [])]


def training_features(images: ImageSet, config: Config, hvf: HVF | None = None, device="cpu") -> dict[str, np.ndarray]:
    """{name: (M, d)} of training images, all that `fit` takes: their encoders, views of them, their captions.

    From the cache where they are there. Raises HvfError as `needed`, `embed_all` and `embed_captions` do.
    """
    names, text = needed(config, hvf), config.targets.text
    features = embed_all(images, [name for name in names if name != text], device)
    return features | ({text: embed_captions(images, text, device)} if text else {})


def check_inputs(trials: Trials, features, config: Config, concepts: Sequence[str], hvf: HVF | None) -> None:
    if (config.align.mode == "reconstruction") != (hvf is not None):
        need = "needs the prior's frozen HVF" if hvf is None else "trains its own HVF and takes none"
        raise HvfError(f"align.mode {config.align.mode!r} {need}")
    if config.brain.encoder == "ridge" and hvf is None and config.fusion.kind != "concatenated":
        raise HvfError(f"ridge learns no fusion: set fusion.kind to 'concatenated', not {config.fusion.kind!r}")
    if config.brain.encoder == "encoding" and hvf is not None:
        raise HvfError("encoding predicts responses from features, of which the prior's fusion has none: use retrieval")
    if config.brain.encoder == "encoding" and config.fusion.kind != "linear":
        raise HvfError(f"encoding solves a linear fusion: set fusion.kind to 'linear', not {config.fusion.kind!r}")
    if hvf is not None and hvf.config["width"] != config.brain.width:
        raise HvfError(f"the prior's embedding is {hvf.config['width']} wide, brain.width is {config.brain.width}")
    for spec in needed(config, hvf):
        if spec not in features:
            raise HvfError(f"no features of {spec} were given: compute them with hvf embed --targets {spec}")
        if len(features[spec]) != len(concepts):
            raise HvfError(f"concepts of {len(concepts)} images but features of {len(features[spec])} by {spec}")
        if not np.isfinite(features[spec]).all():
            raise HvfError(f"features by {spec} hold NaN or infinite values")
    if trials.splits is not None and (trials.splits == "test").any():
        raise HvfError(f"{(trials.splits == 'test').sum()} of the trials to be trained on are test trials")
    trials.check()
