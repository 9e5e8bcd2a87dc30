"""Every setting of a run, as frozen dataclasses; a misspelt or impossible one is refused in one line.

Standard library only: the command line and the presets read this before anything heavy is imported. The comment
beside a field is its documentation (a test holds that each has one).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from hvf.registry import HvfError, did_you_mean

Cls = TypeVar("Cls")

# How many people each simulated study has; "files" is the user's own recording.
SUBJECTS = {"simulated-eeg": 10, "simulated-meg": 4}
STUDIES = (*SUBJECTS, "files")
MODES = ("retrieval", "reconstruction")
FUSIONS = ("hvf", "linear", "gated", "concatenated")
LOSSES = ("both", "brain-to-image", "image-to-brain")
SOLVED = ("ridge", "encoding")  # brain encoders that are not trained step by step, but solved at once
VIEW_CHOICES = ("drawn", "confidence")
STARTS = ("noise", "latents")

# Settings that only change how a run is named or executed; every other one identifies its results (`digest`).
EXECUTION_ONLY = frozenset({"name", "sampling.batch_size"})

# Settings that count something, hence are at least 1.
COUNTS = (
    "data.train_concepts",
    "data.images_per_concept",
    "data.test_concepts",
    "data.train_repeats",
    "data.test_repeats",
    "data.test_images",
    "brain.width",
    "brain.intermediate",
    "fusion.width",
    "fusion.intermediate",
    "align.batch_size",
    "align.epochs",
    "sampling.steps",
    "sampling.rounds",
    "sampling.batch_size",
)


@dataclass(frozen=True)
class DataConfig:
    """Whose responses, to which images, and which part of them."""

    study: str = "simulated-eeg"  # "simulated-eeg", "simulated-meg", or "files" (your own trials and images)
    subject: int = 8  # which person of a simulated study or of a folder of trials, counted from 1
    trials: str | None = None  # files: prepared trials (file or folder), .npy (N, C) or (N, C, T), or -epo.fif
    images: str | None = None  # files: folder or zip of images, in the order of the trials unless these name them
    ch_names: tuple[str, ...] | None = None  # channels to keep, in this order; None keeps all
    train_concepts: int = 1200  # simulated: how many concepts the training images show
    images_per_concept: int = 5  # simulated: different images of each training concept
    test_concepts: int = 200  # simulated: unseen concepts, one test image each
    train_repeats: int = 4  # simulated: trials per training image
    test_repeats: int = 20  # simulated: trials per test image; THINGS-EEG2 has 80, THINGS-MEG 12
    sfreq: float = 100.0  # sampling rate of the trials, Hz
    tmin: float = 0.0  # start of the window after image onset, s
    tmax: float = 0.8  # end of the window, s, not included: T = round((tmax - tmin) * sfreq)
    test_images: int = 200  # files: how many images are held out for testing
    split_seed: int = 0  # files: which random split into training and test images


@dataclass(frozen=True)
class TargetConfig:
    """The frozen visual encoders whose features are fused."""

    specs: tuple[str, ...] = ("openclip:mini-resnet", "openclip:mini-vit", "vae:mini")  # FeatureSpecs, one per encoder
    views: tuple[str, ...] = ()  # views that training sees instead of the specs' own, one a step, as fovea45 fovea51
    view_choice: str = "drawn"  # "drawn" at random, or by "confidence": easy, usual or hard to find (UBP), of 3 views
    text: str | None = None  # text encoder of the images' captions, as text:mini-vit; for align.text_weight


@dataclass(frozen=True)
class BrainConfig:
    """The brain encoder (arXiv 2602.07495, MBP)."""

    encoder: str = "mbp"  # in hvf.models.brain: "mbp", "eegproject", "tsconv", "atm", ...; solved: "ridge", "encoding"
    width: int = 256  # D, the shared embedding; must equal fusion.width
    intermediate: int = 256  # hidden width of the residual block; mbp alone has one
    dropout: float = 0.1  # dropout inside the encoder
    input_noise: float = 0.0  # sd of Gaussian noise added to standardised trials while training
    input_smooth: float = 0.0  # share of the channels smoothed over 5 samples while training, drawn anew each step


@dataclass(frozen=True)
class FusionConfig:
    """The fusion of visual features (arXiv 2602.07495, HVF)."""

    kind: str = "hvf"  # "hvf"; "linear": one map of all; "gated": a learnt weight each; "concatenated": nothing learnt
    width: int = 256  # D, the shared embedding
    intermediate: int = 256  # hidden width of the residual block
    dropout: float = 0.1  # dropout inside the residual block


@dataclass(frozen=True)
class AlignConfig:
    """Contrastive training of the brain encoder."""

    mode: str = "retrieval"  # "retrieval": the HVF trains too; "reconstruction": the prior's frozen HVF is the target
    learning_rate: float = 5e-4  # AdamW, at the top of the cosine
    betas: tuple[float, float] = (0.9, 0.995)  # AdamW's two moments
    weight_decay: float = 0.05  # AdamW's decoupled decay
    batch_size: int = 1024  # items contrasted with each other in a step
    epochs: int = 25  # passes over the training images
    clip_norm: float = 1.0  # largest gradient norm
    temperature: float = 0.07  # τ, or where it starts
    learn_temperature: bool = True  # whether τ is learnt
    loss: str = "both"  # what is contrasted: "both", trials among images "brain-to-image", or "image-to-brain"
    text_weight: float = 0.0  # share of the loss that contrasts trials with the images' captions (targets.text)
    validation_fraction: float = 0.1  # share of the training concepts kept to choose the epoch
    seed: int = 0  # weights, batches and the validation concepts


@dataclass(frozen=True)
class PriorConfig:
    """What turns an embedding into a picture."""

    path: str = "mini"  # Fusion Prior: "mini" (package data), a local folder or a Hub id
    pipeline: str = "mini"  # SDXL pipeline: "mini" (package data), a local folder or a Hub id


@dataclass(frozen=True)
class SamplingConfig:
    """How pictures are drawn."""

    steps: int = 10  # denoising steps
    guidance: float = 1.0  # classifier-free guidance; 1 or less switches it off
    rounds: int = 1  # pictures drawn per embedding, each from its own seed
    seed: int = 0  # with the round and the image's index, the seed of that image's noise
    batch_size: int = 50  # images drawn at once; does not change them
    scheduler: str = "ddim"  # diffusers sampler: "ddim", "euler", "ancestral", "dpm"; "pipeline": its own
    start: str = "noise"  # what denoising starts from: "noise", or "latents" predicted from the embedding (img2img)
    strength: float = 0.7  # start "latents": the share of the steps that is still done; 1 starts from noise alone
    posterior_mean: float = 0.0  # how far an embedding is moved, before drawing, from z_b (0) to E[z_f | z_b] (1)


@dataclass(frozen=True)
class Config:
    """A whole run."""

    name: str = "mini"  # the preset this started from
    data: DataConfig = field(default_factory=DataConfig)  # responses and images
    targets: TargetConfig = field(default_factory=TargetConfig)  # visual encoders
    brain: BrainConfig = field(default_factory=BrainConfig)  # brain encoder
    fusion: FusionConfig = field(default_factory=FusionConfig)  # fusion of visual features
    align: AlignConfig = field(default_factory=AlignConfig)  # contrastive training
    prior: PriorConfig = field(default_factory=PriorConfig)  # embedding to picture
    sampling: SamplingConfig = field(default_factory=SamplingConfig)  # how pictures are drawn


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass as JSON-ready dicts and lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[Cls], d: Mapping[str, Any], where: str = "") -> Cls:
    """The inverse of `to_dict`; missing keys take their default.

    Raises
    ------
    HvfError
        An unknown key (with the nearest known one), or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    if not isinstance(d, Mapping):
        raise HvfError(f"{where.rstrip('.') or 'configuration'} must be a table of settings, not {d!r}")
    for key in d:
        if key not in hints:
            raise HvfError(f"unknown setting {where + key!r}{did_you_mean(key, hints)}")
    return cls(**{key: _value(hints[key], value, where + key) for key, value in d.items()})


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting as (dotted name, value), in the order of definition."""
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            yield from flatten(value, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, value


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """`config` with some dotted settings replaced, e.g. `{"data.subject": 3}`; raises HvfError as `from_dict` does."""
    d = to_dict(config)
    for dotted, value in settings.items():
        *rooms, leaf = dotted.split(".")
        table = d
        for room in rooms:
            if not isinstance(table.get(room), dict):
                raise HvfError(f"unknown setting {dotted!r}{did_you_mean(dotted, dict(flatten(config)))}")
            table = table[room]
        table[leaf] = list(value) if isinstance(value, tuple) else value
    return from_dict(Config, d)


def digest(config: Config) -> str:
    """Twelve hex digits of the settings that change results; equal digests mean interchangeable runs."""
    exact = from_dict(Config, to_dict(config))  # so that guidance 0 and 0.0 are one setting
    settings = {name: value for name, value in flatten(exact) if name not in EXECUTION_ONLY}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def first_difference(a: Config, b: Config) -> tuple[str, Any, Any] | None:
    """(dotted name, value in a, value in b) of the first setting that makes their results differ."""
    for (name, x), (_, y) in zip(flatten(a), flatten(b), strict=True):
        if x != y and name not in EXECUTION_ONLY:
            return name, x, y
    return None


def check(config: Config) -> None:
    """Refuse settings that cannot work, before anything is read or written.

    Raises
    ------
    HvfError
        Naming the setting, its value, and what is allowed.
    """
    data = config.data
    settings = dict(flatten(config))
    words = {"data.study": STUDIES, "align.mode": MODES, "fusion.kind": FUSIONS, "sampling.start": STARTS}
    words |= {"align.loss": LOSSES, "targets.view_choice": VIEW_CHOICES}
    for name, known in words.items():
        if settings[name] not in known:
            raise HvfError(f"{name} is {settings[name]!r}{did_you_mean(settings[name], known)}")
    if data.study == "files":
        for name, path in (("trials", data.trials), ("images", data.images)):
            if path is None:
                raise HvfError(f"data.{name} is missing: give --trials FILE and --images FOLDER-OR-ZIP")
            if not _exists(path):
                raise HvfError(f"data.{name}: no such file or folder: {path}")
    elif not 1 <= data.subject <= SUBJECTS[data.study]:
        raise HvfError(f"subject {data.subject} does not exist: {data.study} has subjects 1 to {SUBJECTS[data.study]}")
    if config.brain.width != config.fusion.width:
        raise HvfError(f"brain.width {config.brain.width} and fusion.width {config.fusion.width} must be equal")
    if not config.targets.specs:
        raise HvfError("targets.specs is empty: name at least one encoder, e.g. --targets openclip:mini-vit")
    _check_learnt_from(config)
    if data.tmax <= data.tmin:
        raise HvfError(f"data.tmax {data.tmax} must come after data.tmin {data.tmin}")
    for name in COUNTS:
        if settings[name] < 1:
            raise HvfError(f"{name} must be at least 1, not {settings[name]}")
    for name in ("data.split_seed", "align.seed", "sampling.seed"):
        if not 0 <= settings[name] < 2**32:
            raise HvfError(f"{name} must lie between 0 and {2**32 - 1}, not {settings[name]}")
    for name, value in settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise HvfError(f"{name} must be a finite number, not {value}")
    for name in ("data.sfreq", "align.learning_rate", "align.clip_norm", "align.temperature"):
        if settings[name] <= 0:
            raise HvfError(f"{name} must be greater than 0, not {settings[name]}")
    steps, strength = config.sampling.steps, config.sampling.strength
    if not 0 < strength <= 1 or (config.sampling.start == "latents" and int(steps * strength) < 1):
        raise HvfError(f"sampling.strength must be at most 1 and leave one of {steps} steps to do, not {strength}")
    for name in ("brain.dropout", "fusion.dropout", "align.validation_fraction", "align.text_weight"):
        if not 0 <= settings[name] < 1:
            raise HvfError(f"{name} must be at least 0 and less than 1, not {settings[name]}")
    for name in ("brain.input_smooth", "sampling.posterior_mean"):
        if not 0 <= settings[name] <= 1:
            raise HvfError(f"{name} must lie between 0 and 1, not {settings[name]}")


def _check_learnt_from(config: Config) -> None:
    """Refuse views and captions that training cannot use."""
    targets, align = config.targets, config.align
    if targets.views and targets.view_choice == "confidence" and len(targets.views) != 3:
        raise HvfError(
            f"targets.views are {len(targets.views)}: a choice by confidence needs 3, for images found easily, "
            "as usual, and hardly"
        )
    if (targets.text is not None) != (align.text_weight > 0):
        raise HvfError(
            f"targets.text {targets.text} and align.text_weight {align.text_weight} go together: set both or neither"
        )
    for name, there in (("targets.views", targets.views), ("targets.text", targets.text)):
        if there and align.mode == "reconstruction":
            raise HvfError(f"{name} is for align.mode 'retrieval': the prior's fusion is frozen")
        if there and config.brain.encoder in SOLVED:
            solved = f"{config.brain.encoder}, solved at once, takes the images as they are"
            raise HvfError(f"{name} is learnt from step by step: {solved}")


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # a name too long, a folder that may not be searched
        return False


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value`, as JSON gives it, in the type of its field."""
    if is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where + ".")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _value(next(a for a in args if a is not type(None)), value, where)
    if origin is tuple and isinstance(value, (list, tuple)) and (args[-1] is Ellipsis or len(value) == len(args)):
        return tuple(_value(args[0], v, where) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and isinstance(value, hint) and isinstance(value, bool) == (hint is bool):
        return value
    expected = hint.__name__ if origin is None else str(hint).replace("typing.", "")
    raise HvfError(f"setting {where!r} must be {expected}, not {value!r}")
