"""Every setting of a run, as frozen dataclasses; a bad one is refused in one line.

The type of a field says what it may be (`hvf.schema.bounds`), which is checked whenever a configuration is built, from
Python, JSON or the command line.
Standard library only: the command line and the presets read this before anything heavy is imported. The comment beside
a field is its documentation (a test holds that each has one).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, cast

from hvf import registry
from hvf.registry import BRAIN_ENCODERS, FEATURES, FUSIONS, STUDIES, HvfError, did_you_mean, feature_file
from hvf.schema.bounds import Betas, Count, Named, NotNegative, Number, Part, Positive, Section, Seed, Share, hints

Cls = TypeVar("Cls")

# How many people each simulated study has, and how many trials of a test image unless the settings say.
SUBJECTS = {"simulated-eeg": 10, "simulated-eeg-hard": 10, "simulated-meg": 4}
TEST_REPEATS = {"simulated-eeg": 20, "simulated-eeg-hard": 80, "simulated-meg": 20}
# Settings with which pictures are drawn from the latents of a VAE (align.mode "latents").
LATENTS = {
    "brain.encoder": "ridge",
    "fusion.kind": "plain",
    "members.trainings": 1,
    "sampling.start": "noise",
    "sampling.rounds": 1,
    "sampling.posterior_mean": 0.0,
}
WindowSetting = Literal["sfreq", "tmin", "tmax"]
# Settings of the one kind of study that the other does not read.
OF_SIMULATED = ("train_concepts", "images_per_concept", "test_concepts", "train_repeats", "test_repeats")
OF_FILES = (
    *("trials", "images", "background", "test_images", "split_seed"),
    *("train_sessions", "test_sessions", "neighbours", "asked"),
)
SOLVED = ("ridge", "encoding")  # brain encoders that are not trained step by step, but solved at once

# Settings that only change how a run is named or executed; every other one identifies its results (`digest`).
EXECUTION_ONLY = frozenset({"name", "sampling.batch_size"})


Loss = Literal["both", "brain-to-image", "image-to-brain"]
People = Literal["alike", "standardised", "euclidean"]


@dataclass(frozen=True)
class DataConfig(Section, name="data"):
    """Whose responses, to which images, and which part of them."""

    study: Annotated[str, Named(STUDIES)] = "simulated-eeg"  # a simulated one, or "files": your own trials and images
    subject: int = 8  # which person of a simulated study or of a folder of trials, counted from 1
    trials: str | None = None  # files: prepared trials (file or folder), .npy (N, C) or (N, C, T), or -epo.fif
    images: str | None = None  # files: folder, zip or features of images, in the trials' order unless these name them
    background: str = "white"  # files: colour under transparent pixels of the images, a name or #808080
    ch_names: tuple[str, ...] | None = None  # channels to keep, in this order; None keeps all
    train_concepts: Count = 1200  # simulated: how many concepts the training images show
    images_per_concept: Count = 5  # simulated: different images of each training concept
    test_concepts: Count = 200  # simulated: unseen concepts, one test image each
    train_repeats: Count = 4  # simulated: trials per training image
    test_repeats: Count | None = None  # simulated: trials per test image; None: 20, of simulated-eeg-hard 80
    sfreq: Positive = 100.0  # sampling rate of the trials, Hz
    tmin: float = 0.0  # start of the window after image onset, s
    tmax: float = 0.8  # end of the window, s, not included: T = round((tmax - tmin) * sfreq)
    # Your own files have a rate and a window, which sfreq, tmin and tmax at their defaults leave alone.
    asked: tuple[WindowSetting, ...] = ()  # files: those of the three that hold all the same, as given ones do
    test_images: Count = 200  # files: how many images are held out for testing
    split_seed: Seed = 0  # files: which random split into training and test images
    train_sessions: tuple[int, ...] | None = None  # files: sessions whose trials are trained on; None: all
    test_sessions: tuple[int, ...] | None = None  # files: sessions whose trials are tested on; None: all
    neighbours: Number = 0  # files: presentations before and after each test trial that are not trained on

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tmax <= self.tmin:
            raise HvfError(f"data.tmax {self.tmax} must come after data.tmin {self.tmin}")
        if round((self.tmax - self.tmin) * self.sfreq) < 1:
            raise HvfError(f"data.tmin {self.tmin} to data.tmax {self.tmax} is no sample at data.sfreq {self.sfreq}")
        if self.test_repeats == TEST_REPEATS.get(self.study):  # so that equal settings compare equal
            object.__setattr__(self, "test_repeats", None)
        last = SUBJECTS.get(self.study)
        if self.subject < 1 or (last and self.subject > last):
            known = f"{self.study} has subjects 1 to {last}" if last else "they are counted from 1"
            raise HvfError(f"subject {self.subject} does not exist: {known}")
        others, whose = (
            (OF_FILES, "your own files, data.study 'files'") if last else (OF_SIMULATED, "simulated studies")
        )
        for one in fields(self):
            if one.name in others and getattr(self, one.name) != one.default:
                raise HvfError(f"data.{one.name} is for {whose}, not for {self.study!r}: leave it out")


@dataclass(frozen=True)
class TargetConfig(Section, name="targets"):
    """The frozen visual encoders whose features are fused."""

    specs: tuple[str, ...] = ("openclip:mini-resnet", "openclip:mini-vit", "vae:mini")  # FeatureSpecs, one per encoder
    views: tuple[str, ...] = ()  # views that training sees instead of the specs' own, one a step, as fovea45 fovea51
    view_choice: Literal["drawn", "confidence"] = "drawn"  # at random, or by how well an image is found (UBP)
    text: str | None = None  # text encoder of the images' captions, as text:mini-vit; for align.text_weight

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.specs:
            raise HvfError("targets.specs is empty: name at least one encoder, e.g. --targets openclip:mini-vit")
        if self.views and self.view_choice == "confidence" and len(self.views) != 3:
            raise HvfError(
                f"targets.views are {len(self.views)}: a choice by confidence needs 3, for images found easily, "
                "as usual, and hardly"
            )


@dataclass(frozen=True)
class BrainConfig(Section, name="brain"):
    """The brain encoder (arXiv 2602.07495, MBP)."""

    encoder: Annotated[str, Named(BRAIN_ENCODERS, SOLVED)] = "mbp"  # of hvf/models/brain; solved: "ridge", "encoding"
    width: Count = 256  # D, the shared embedding; must equal fusion.width
    intermediate: Count = 256  # hidden width of the residual block; mbp alone has one
    dropout: Part = 0.1  # dropout inside the encoder
    input_noise: NotNegative = 0.0  # sd of Gaussian noise added to standardised trials while training
    input_smooth: Share = 0.0  # share of each training trial's channels that are smoothed over 5 samples
    smooth_once: bool = False  # whether these channels are drawn once, before training, or anew each step
    person_layer: bool = False  # whether each of several people has a learnt map of the channels in front of it
    people: People = "alike"  # taken alike, or each person's trials "standardised" or "euclidean"ly aligned first
    weights: str | None = None  # of a foundation encoder (docs/methods.md): a file, or "random"
    frozen: bool = False  # whether a foundation encoder stays as it is, and its head alone learns


@dataclass(frozen=True)
class FusionConfig(Section, name="fusion"):
    """The fusion of visual features (arXiv 2602.07495, HVF)."""

    kind: Annotated[str, Named(FUSIONS)] = "hvf"  # "hvf", "linear", "gated", "routed", "concatenated", "plain"
    width: Count = 256  # D, the shared embedding
    intermediate: Count = 256  # hidden width of the residual block
    dropout: Part = 0.1  # dropout inside the residual block


@dataclass(frozen=True)
class AlignConfig(Section, name="align"):
    """Contrastive training of the brain encoder."""

    # What is aligned to: a fusion that trains too, the prior's frozen fusion, or the latents of a VAE.
    mode: Literal["retrieval", "reconstruction", "latents"] = "retrieval"  # of these, the last two are drawn from
    normal_weights: bool = False  # whether weights start normal with sd 0.02 and biases at 0, not as torch draws them
    learning_rate: Positive = 5e-4  # AdamW, at the top of the cosine
    betas: Betas = (0.9, 0.995)  # AdamW's two moments
    weight_decay: NotNegative = 0.05  # AdamW's decoupled decay
    schedule: Literal["cosine", "constant"] = "cosine"  # of the learning rate, over all steps
    batch_size: Count = 1024  # items contrasted with each other in a step
    epochs: Count = 25  # passes over the training images
    clip_norm: Positive = 1.0  # largest gradient norm
    temperature: Positive = 0.07  # τ, or where it starts
    learn_temperature: bool = True  # whether τ is learnt
    unit_length: Literal["both", "images"] = "both"  # what the loss scales to length 1; "images": z_b keeps its own
    loss: Loss = "both"  # what is contrasted: trials among images, images among trials, or both
    text_weight: Part = 0.0  # share of the loss that contrasts trials with the images' captions (targets.text)
    mmd_weight: Share = 0.0  # share of the loss, in the first epochs, that is the MMD of z_b and z_f; 1: no contrast
    mmd_epochs: Count = 5  # how many epochs these are
    mean_weight: NotNegative = 0.0  # of E[z_f | z_b]'s squared error, where trained step by step to a prior's fusion
    validation_fraction: Part = 0.1  # share of the training concepts kept to choose the epoch
    refit: bool = False  # whether, once the epoch is chosen, all images are trained on anew for as many epochs
    seed: Seed = 0  # weights, batches and the validation concepts


@dataclass(frozen=True)
class MembersConfig(Section, name="members"):
    """Several trainings that answer as one, weighed on validation images."""

    trainings: Count = 1  # by other seeds
    encoders: bool = False  # whether each encoder alone is a target, too
    encoding: bool = False  # whether the encoding model, from images to responses, takes part


@dataclass(frozen=True)
class AdaptConfig(Section, name="adapt"):
    """How a trained decoder learns from a new person's trials."""

    method: Literal["chosen", "none", "input", "all"] = "chosen"  # a person's input layer, all weights, or neither
    learning_rate: Positive = 3e-4  # AdamW, at the top of the cosine; an input layer learns at five times it
    batch_size: Count = 128  # items contrasted with each other in a step
    epochs: Count = 25  # passes over the new person's images
    validation_fraction: Part = 0.2  # share of their concepts kept to choose the epoch, and the method


@dataclass(frozen=True)
class PriorConfig(Section, name="prior"):
    """What turns an embedding into a picture."""

    path: str = "mini"  # Fusion Prior: "mini" (package data), a local folder or a Hub id
    pipeline: str = "mini"  # SDXL pipeline: "mini" (package data), a local folder or a Hub id


@dataclass(frozen=True)
class SamplingConfig(Section, name="sampling"):
    """How pictures are drawn."""

    steps: Count = 10  # denoising steps
    guidance: float = 1.0  # classifier-free guidance; 1 or less switches it off
    rounds: Count = 1  # pictures drawn per embedding, each from its own seed
    seed: Seed = 0  # with the round and the image's index, the seed of that image's noise
    batch_size: Count = 50  # images drawn at once; does not change them
    scheduler: Literal["ddim", "euler", "ancestral", "dpm", "pipeline"] = "ddim"  # or the pipeline's own
    start: Literal["noise", "latents"] = "noise"  # of denoising: latents are predicted from the embedding (img2img)
    # Start "latents": the share of the steps that is still done; 1 starts from noise alone.
    strength: float | None = None  # None: each picture's own, from the noise that its embedding leaves open
    restore_variance: bool = False  # from latents: whether those of the brain get the natural ones' variance again
    posterior_mean: Share = 0.0  # how far an embedding is moved, before drawing, from z_b (0) to E[z_f | z_b] (1)

    def __post_init__(self) -> None:
        super().__post_init__()
        steps, strength = self.steps, self.strength
        if strength is None:
            return
        if self.start == "noise":
            raise HvfError("sampling.strength is for sampling.start 'latents': from noise all steps are done")
        if not 0 < strength <= 1 or int(steps * strength) < 1:
            raise HvfError(f"sampling.strength must be at most 1 and leave one of {steps} steps to do, not {strength}")


@dataclass(frozen=True)
class Config(Section):
    """A whole run."""

    name: str = "mini"  # the preset this started from
    data: DataConfig = field(default_factory=DataConfig)  # responses and images
    targets: TargetConfig = field(default_factory=TargetConfig)  # visual encoders
    brain: BrainConfig = field(default_factory=BrainConfig)  # brain encoder
    fusion: FusionConfig = field(default_factory=FusionConfig)  # fusion of visual features
    align: AlignConfig = field(default_factory=AlignConfig)  # contrastive training
    members: MembersConfig = field(default_factory=MembersConfig)  # several trainings as one
    adapt: AdaptConfig = field(default_factory=AdaptConfig)  # a decoder moved to a new person
    prior: PriorConfig = field(default_factory=PriorConfig)  # embedding to picture
    sampling: SamplingConfig = field(default_factory=SamplingConfig)  # how pictures are drawn

    def __post_init__(self) -> None:
        super().__post_init__()
        targets, brain, align = self.targets, self.brain, self.align
        registry.check_weights(brain.encoder, brain.weights, brain.frozen)
        if brain.width != self.fusion.width:
            raise HvfError(f"brain.width {brain.width} and fusion.width {self.fusion.width} must be equal")
        if (targets.text is not None) != (align.text_weight > 0):
            raise HvfError(
                f"targets.text {targets.text} and align.text_weight {align.text_weight} go together: "
                "set both or neither"
            )
        if align.mode == "reconstruction" and (self.members.encoders or self.members.encoding):
            raise HvfError("members.encoders and members.encoding are for retrieval: drawing has the prior's one space")
        if align.mode == "latents":
            self._check_latents()
        elif self.sampling.restore_variance:
            raise HvfError("sampling.restore_variance is for align.mode 'latents', where no prior draws")
        if align.mmd_weight and align.mmd_epochs >= align.epochs:
            raise HvfError(f"align.mmd_epochs must be fewer than align.epochs, {align.epochs}, not {align.mmd_epochs}")
        auxiliary = {"targets.views": targets.views, "targets.text": targets.text}
        stepwise = auxiliary | {"align.mmd_weight": align.mmd_weight, "brain.person_layer": brain.person_layer}
        for name, used in stepwise.items():
            if used and name in auxiliary and align.mode == "reconstruction":
                raise HvfError(f"{name} is for align.mode 'retrieval': the prior's fusion is frozen")
            if used and brain.encoder in SOLVED:
                raise HvfError(f"{name} is learnt from step by step: {brain.encoder} is solved at once, without it")

    def _check_latents(self) -> None:
        """Raise HvfError for settings of another way of drawing than by ridge from responses to a VAE's latents."""
        specs = self.targets.specs
        if len(specs) != 1 or not specs[0].startswith("vae:"):
            raise HvfError(f"latents are drawn from one VAE, as --targets vae:FOLDER@128, not {', '.join(specs)}")
        given = dict(flatten(self))
        for name, value in LATENTS.items():
            if given[name] != value:
                raise HvfError(f"{name} is {value!r} where latents are drawn from (align.mode), not {given[name]!r}")


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass as JSON-ready dicts and lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[Cls], d: Mapping[str, Any], where: str = "") -> Cls:
    """The inverse of `to_dict`; missing keys take their default.

    Raises HvfError for an unknown key, naming the nearest, or a value of the wrong type.
    """
    known = hints(cls)
    if not isinstance(d, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  (JSON may hold anything)
        raise HvfError(f"{where.rstrip('.') or 'configuration'} must be a table of settings, not {d!r}")
    for key in d:
        if key not in known:
            raise HvfError(f"unknown setting {where + key!r}{did_you_mean(key, known)}")
    tables = {key: from_dict(known[key], d[key], f"{where}{key}.") for key in d if is_dataclass(known[key])}
    return cls(**{**d, **tables})


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting as (dotted name, value), in the order of definition."""
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            yield from flatten(value, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, value


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """`config` with dotted settings replaced; raises HvfError as `from_dict` does.

    The result is built once, so that settings which only fit together can be changed together.

    Examples
    --------
    >>> from hvf import presets
    >>> with_settings(presets.mini(), {"brain.width": 64, "fusion.width": 64}).brain.width
    64
    """
    d = to_dict(config)
    for dotted, value in settings.items():
        *sections, leaf = dotted.split(".")
        table = d
        for section in sections:
            if not isinstance(table.get(section), dict):
                raise HvfError(f"unknown setting {dotted!r}{did_you_mean(dotted, dict(flatten(config)))}")
            table = table[section]
        table[leaf] = list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value
    return from_dict(Config, d)


def digest(config: Config) -> str:
    """Twelve hex digits of the settings that change results; equal digests mean interchangeable runs."""
    settings = {name: value for name, value in flatten(config) if name not in EXECUTION_ONLY}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def first_difference(a: Config, b: Config) -> tuple[str, Any, Any] | None:
    """(dotted name, value in a, value in b) of the first setting that makes their results differ."""
    for (name, x), (_, y) in zip(flatten(a), flatten(b), strict=True):
        if x != y and name not in EXECUTION_ONLY:
            return name, x, y
    return None


def check_files(config: Config, trained: bool = False) -> None:
    """Refuse files that are not named or not there, before anything is read, computed or written."""
    if not trained:  # else the decoder has them
        registry.check_weights_file(config.brain.encoder, config.brain.weights)
    for name, path in (("trials", config.data.trials), ("images", config.data.images)):
        if path is None and config.data.study == "files":
            raise HvfError(f"data.{name} is missing: give --trials FILE and --images FOLDER-OR-ZIP")
        file = feature_file(path) if path is not None and name == "images" else None
        if path is not None and not os.path.exists(file.path if file else path):
            raise HvfError(f"data.{name}: no such file or folder: {file.path if file else path}")
    in_files = [spec for spec in config.targets.specs if spec.startswith(FEATURES)]
    for spec in in_files:
        file = feature_file(spec)
        if file is not None and not os.path.exists(file.path):
            raise HvfError(f"targets.specs: there is no file of features {file.path}, which {spec} names")
    if config.data.images is None or feature_file(config.data.images) is None:
        return
    if config.align.mode != "retrieval":
        raise HvfError(
            f"{config.data.images} holds features, and drawing needs pictures: give a folder or zip of images"
        )
    if looking := [spec for spec in config.targets.specs if spec not in in_files]:
        raise HvfError(
            f"{looking[0]} looks at pictures and {config.data.images} holds none: name features instead, as "
            "--targets features:FILE#KEY, or give a folder or zip of images"
        )
