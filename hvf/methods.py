"""Published methods: one entry each, with its paper, its settings, its figures and how the paper selected them.

An entry is added by registering it, here or in a file of one's own:

    METHODS.register("my_method")(Method("what meets what", "arXiv ...", specs=(...), encoder="mbp"))

`apply` puts a method's settings into a configuration. Figures are the papers' own, on real recordings (THINGS-EEG2 and
THINGS-MEG) and by their own protocols, averaged over subjects unless a row names one; none was reproduced here.
Sources: arXiv 2602.07495 (HVF), 2601.21948 (SA), and the works they compare with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hvf.config import AlignConfig, BrainConfig, Config, FusionConfig, TargetConfig
from hvf.registry import METHODS, HvfError, did_you_mean

PICTURES = ("pixcorr", "alexnet5", "inception", "clip", "swav")
PROTOCOLS = {"intra": "within subject", "loso": "LOSO"}
DATA = {"things-eeg": "eeg", "things-meg": "meg"}  # preset -> kind of recording
ENCODERS = ("published", "mini", "given")

# The mini network of the same kind for each that the methods name: used where the real one cannot be had, when it is
# asked for (`encoders="mini"`), and printed with every figure.
STAND_INS = {
    "openclip:RN50/openai": "openclip:mini-resnet",
    "openclip:RN50/openai~fovea51": "openclip:mini-resnet~fovea51",
    "openclip:RN50/openai~blur15+noise25+coarse22+mosaic44": "openclip:mini-resnet~blur15+noise25+coarse22+mosaic44",
    "openclip:ViT-B-32/laion2b_s34b_b79k": "openclip:mini-vit",
    "openclip:ViT-L-14/openai": "openclip:mini-vit",
    "openclip:ViT-H-14/laion2b_s32b_b79k": "openclip:mini-vit",
    "transformers:OpenGVLab/InternViT-6B-448px-V2_5@27:mean": "openclip:mini-vit@2:mean",
    "dreamsim:synclr_vitb16": "openclip:mini-vit",
    "vae:sdxl": "vae:mini",
    "text:ViT-H-14/laion2b_s32b_b79k": "text:mini-vit",
}
# Training settings that stay the configuration's own, lest methods differ in them.
PROTOCOL = ("seed", "validation_fraction", "refit")
UNCLIPPED = 1e9  # clip_norm of a loop that does not clip
# UBP and NeuroBridge multiply by softplus(log 1/.07) = log(1 + 1/.07) = 2.73, and leave z_b its length: 32 for a
# LayerNorm of 1,024, so that the cosine is divided by 1/87.
SOFTPLUS = 1 / math.log(1 + 1 / 0.07)
RN50_B32_VAE = ("openclip:RN50/openai", "openclip:ViT-B-32/laion2b_s34b_b79k", "vae:sdxl")


# What is ours in every method, whatever its paper does.
COMMON = (
    "The epoch is chosen on validation concepts, a tenth of those to train on (and with align.refit all are then "
    "trained on); each encoder's features are centred and brought to one sd; batches of an epoch are of equal size; "
    "1/τ stays below 100; weights are decayed, gains and biases are not."
)


@dataclass(frozen=True)
class Published:
    """Figures of a paper: 200-way zero-shot retrieval, and reconstruction on THINGS-EEG2."""

    title: str  # the method as the papers write it
    # {"eeg intra", "eeg loso", "meg intra", "meg loso": (top-1, top-5) in %, None if not reported}
    retrieval: Mapping[str, tuple[float, float | None]] = field(default_factory=dict[str, Any])
    # {averaged over what: `PICTURES`}
    pictures: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, Any])
    gallery: str = ""  # "": the plain test images through the method's own encoders, as ours always are
    # {"intra", "loso": what chose the epoch and settings}
    selected: Mapping[str, str] = field(default_factory=dict[str, Any])

    def summary(self, label: str) -> str:
        """Top-1/top-5 in % of "eeg intra", say, and the gallery where it is not ours; a dash without any."""
        if label not in self.retrieval:
            return "–"
        top1, top5 = self.retrieval[label]
        ranked = f" (ranked against {self.gallery})" if self.gallery else ""
        return f"{top1}/{'–' if top5 is None else top5}{ranked}"

    def selection(self, protocol: str) -> str:
        """By what the figures of a protocol were selected."""
        return self.selected.get(protocol, "not known")


@dataclass(frozen=True)
class Method:
    """A method: all that a configuration says of targets, brain encoder, fusion and training, but for the protocol.

    Study, prior and sampling stay those of the configuration, and of training what `PROTOCOL` names.
    """

    about: str  # what meets what
    paper: str  # where it is published
    specs: tuple[str, ...]  # feature specs of the visual encoders
    encoder: str  # brain encoder
    fusion: str = "concatenated"
    dropout: float = 0.0  # inside the brain encoder
    width: int = 1024  # of the shared embedding, where the fusion learns one
    intermediate: int = 1024  # hidden width of brain encoder and fusion, where they have one
    align: AlignConfig = field(default_factory=AlignConfig)
    views: tuple[str, ...] = ()  # of the training images, chosen by confidence
    text: str | None = None  # text encoder of the images' captions
    input_smooth: float = 0.0  # share of the channels that are smoothed, drawn once
    differs: str = ""  # what is done here in another way than in the paper's own code, but for the gallery and `COMMON`
    published: Published | None = None  # what its paper reports


# Loops without schedule and clipping: UBP's, which NeuroBridge and Shallow Alignment kept, and NICE's.
UBP_LOOP = AlignConfig(
    learning_rate=1e-4, betas=(0.9, 0.999), weight_decay=1e-4, epochs=50, schedule="constant", clip_norm=UNCLIPPED
)
NICE_LOOP = replace(
    UBP_LOOP, learning_rate=2e-4, betas=(0.5, 0.999), weight_decay=0.0, batch_size=1000, epochs=200,
    learn_temperature=False, normal_weights=True,
)  # fmt: skip

METHODS.register("hvf")(
    Method(
        "MBP meets the learnt fusion of RN50, ViT-B/32 and VAE latents.",
        "arXiv 2602.07495 (ICLR 2026)",
        specs=RN50_B32_VAE,
        encoder="mbp",
        fusion="hvf",
        dropout=0.1,
        align=AlignConfig(normal_weights=True),
        differs="In float32 (there: bfloat16).",
        published=Published(
            "HVF",
            {"eeg intra": (75.7, 94.6), "eeg loso": (20.0, 44.1), "meg intra": (33.7, 60.5), "meg loso": (5.4, 15.2)},
            {"within subject": (0.195, 0.905, 0.756, 0.808, 0.554), "subject 8": (0.227, 0.924, 0.796, 0.826, 0.531)},
            selected={"loso": "test top-1 (official code)"},
        ),
    )
)

METHODS.register("shallow")(
    Method(
        "Shallow Alignment: EEGProject meets one intermediate layer (28 of 46 of InternViT) through a linear "
        "projector. The layer of another encoder: brain_training/layers.py.",
        "arXiv 2601.21948",
        specs=("transformers:OpenGVLab/InternViT-6B-448px-V2_5@27:mean",),
        encoder="eegproject",
        fusion="linear",
        dropout=0.3,
        align=UBP_LOOP,
        differs="The paper names no schedule, τ or width of the shared space: here none, learnt from 0.07, and 1,024.",
        published=Published(
            "SA (InternViT)",
            {"eeg intra": (82.6, 97.7), "eeg loso": (21.8, 49.4), "meg intra": (48.0, 74.4), "meg loso": (3.7, 13.0)},
        ),
    )
)

METHODS.register("ubp")(
    Method(
        "Uncertainty-aware Blur Prior: EEGProject meets RN50's features of images blurred towards the edge. The "
        "blur is 51 pixels of 224 wide, and 45 or 57 for images that are retrieved too easily or too hardly while "
        "training. z_b keeps its length, whence an effective τ of 1/87.",
        "Wu et al., CVPR 2025",
        specs=("openclip:RN50/openai~fovea51",),
        encoder="eegproject",
        dropout=0.3,
        align=replace(UBP_LOOP, temperature=SOFTPLUS, unit_length="images"),
        views=("fovea45", "fovea51", "fovea57"),
        differs="The scale is learnt as an exponential (there: softplus); confidence is measured by cosines (logits).",
        published=Published(
            "UBP",
            {"eeg intra": (50.9, 79.7), "eeg loso": (12.4, 33.4), "meg intra": (26.7, 55.2), "meg loso": (2.2, 10.4)},
            gallery="blurred test images",
        ),
    )
)

METHODS.register("neurobridge")(
    Method(
        "EEGProject and augmented RN50 features meet in a space of 512 dimensions, each through a linear projector. "
        "Images: the mean of RN50's features under blur, noise, low resolution and mosaic, in training and gallery; "
        "responses: 30 % of the channels smoothed, once. z_b keeps its length; its scale is fixed.",
        "NeuroBridge (feroooooo/NeuroBridge)",
        specs=("openclip:RN50/openai~blur15+noise25+coarse22+mosaic44",),
        encoder="neurobridge",
        fusion="linear",
        dropout=0.3,
        width=512,
        align=replace(UBP_LOOP, temperature=SOFTPLUS, learn_temperature=False, unit_length="images"),
        input_smooth=0.3,
        differs="EEGProject is 1,024 wide whatever the features are (there: as they, which is 1,024 for RN50).",
        published=Published(
            "NeuroBridge",
            {"eeg intra": (63.2, 89.9), "eeg loso": (19.0, 45.9), "meg intra": (32.2, 60.8), "meg loso": (3.4, 12.8)},
            gallery="features averaged over 4 augmentations",
        ),
    )
)

METHODS.register("nice")(
    Method(
        "TSConv meets CLIP's image embedding as it is.",
        "Song et al., ICLR 2024",
        specs=("openclip:ViT-L-14/openai",),
        encoder="tsconv",
        dropout=0.5,
        align=NICE_LOOP,
        differs="There the epoch is that of the lowest loss on 740 validation images.",
        published=Published(
            "NICE",
            {"eeg intra": (16.1, 43.6), "eeg loso": (6.2, 21.4), "meg intra": (12.8, 36.0)},
            gallery="concept centres of other images",
        ),
    )
)

METHODS.register("atm")(
    Method(
        "ATM-S meets CLIP ViT-H/14's image embedding as it is and, with weight 0.01, that of the image's caption: the "
        'images\' own, or "This picture is CONCEPT" as there. z_b keeps its length, whence an effective τ of 1/85.',
        "Li et al., NeurIPS 2024",
        specs=("openclip:ViT-H-14/laion2b_s32b_b79k",),
        encoder="atm",
        dropout=0.5,
        align=AlignConfig(
            learning_rate=3e-4,
            betas=(0.9, 0.999),
            weight_decay=0.01,
            batch_size=64,
            epochs=40,
            text_weight=0.01,
            schedule="constant",
            clip_norm=UNCLIPPED,
            temperature=1 / math.log(1 / 0.07),
            unit_length="images",
        ),
        differs="The scale is learnt as an exponential (there: as it is, from log 1/0.07); images of one caption are "
        "not contrasted.",
        text="text:ViT-H-14/laion2b_s32b_b79k",
        published=Published(
            "ATM (as in SA)",
            {"eeg intra": (27.1, 58.1), "eeg loso": (11.9, 33.8)},
            {"subject 8": (0.160, 0.866, 0.734, 0.786, 0.582)},
        ),
    )
)

METHODS.register("human_aligned")(
    Method(
        "TSConv meets an encoder that was tuned to people's similarity judgements (DreamSim's SynCLR). The paper "
        "reports up to 21 % more than with the same encoder untuned.",
        "arXiv 2502.03081 (Human-Aligned Image Models Improve Visual Decoding from the Brain)",
        specs=("dreamsim:synclr_vitb16",),
        encoder="tsconv",
        dropout=0.5,
        align=NICE_LOOP,
        differs="The loop is NICE's: the paper's own was not seen.",
    )
)

METHODS.register("ridge")(
    Method(
        "Ridge regression from the flat trial to the features of RN50, ViT-B/32 and VAE; its penalty on validation.",
        "none: the baseline that a network has to beat",
        specs=RN50_B32_VAE,
        encoder="ridge",
    )
)

METHODS.register("encoding")(
    Method(
        "Responses predicted from the features of RN50, ViT-B/32 and VAE, a weight for each, and compared where the "
        "error is white; weights by leaving out training images. With few channels more than any decoder "
        "(docs/methods.md: V4 neurons).",
        "Kay et al., Nature 2008: identification by an encoding model",
        specs=RN50_B32_VAE,
        encoder="encoding",
        fusion="linear",
    )
)


# Works whose figures stand beside ours, but which are not among the methods.
OTHERS = {
    "mb2c/atm": Published("MB2C/ATM (as in HVF)", {"eeg intra": (28.5, 60.4), "eeg loso": (11.8, 33.7)}),
    "neural-mcrl": Published("Neural-MCRL", {"eeg intra": (32.4, 64.1), "eeg loso": (14.0, 34.3)}),
    "cogcap": Published(
        "CogCap (All)", {"eeg intra": (35.6, 80.2)}, {"within subject": (0.150, 0.623, 0.669, 0.715, 0.590)}
    ),
    "hcf": Published("HCF (arXiv 2603.07077)", {"eeg intra": (84.6, None)}),
    "samga": Published(
        "SAMGA (arXiv 2604.17782)",
        {"eeg intra": (91.3, 98.8), "eeg loso": (34.4, 64.8)},
        selected=dict.fromkeys(PROTOCOLS, "test top-1 (a public copy of its code)"),
    ),
    "supa-eeg": Published(
        "SUPA-EEG (SAMGA rebuilt)",
        {"eeg intra": (80.8, 96.6), "eeg loso": (21.2, 45.8)},
        selected=dict.fromkeys(PROTOCOLS, "best test epoch"),
    ),
}


def apply(name: str, config: Config, encoders: str = "published") -> Config:
    """`config` with the settings of a method: targets, brain encoder, fusion, training; study and protocol stay.

    ``encoders`` "published" are those of the paper, "mini" their `STAND_INS`, "given" the targets that `config` names
    as they are, without the method's views of the images and without captions. Raises HvfError if the method or the
    kind of encoders is unknown, naming the nearest, or an encoder has no stand-in.

    Examples
    --------
    >>> from hvf import presets
    >>> apply("nice", presets.mini(), "mini").brain.encoder
    'tsconv'
    """
    method: Method = METHODS[name.replace("-", "_")]
    if encoders not in ENCODERS:
        raise HvfError(f"unknown encoders {encoders!r}{did_you_mean(encoders, ENCODERS)}")
    targets = TargetConfig(method.specs, method.views, "confidence" if method.views else "drawn", method.text)
    if encoders == "mini":
        specs = tuple(dict.fromkeys(_stand_in(spec) for spec in method.specs))
        targets = replace(targets, specs=specs, text=_stand_in(method.text) if method.text else None)
    align = method.align
    if encoders == "given":
        targets, align = config.targets, replace(align, text_weight=config.align.text_weight)
    # Built anew, so that nothing of a preset's own method (its noise, its widths) is left in another's.
    brain = BrainConfig(
        method.encoder, method.width, method.intermediate, method.dropout, input_smooth=method.input_smooth,
        smooth_once=method.input_smooth > 0, people=config.brain.people,
    )  # fmt: skip
    protocol = {name: getattr(config.align, name) for name in PROTOCOL}
    return replace(
        config,
        targets=targets,
        brain=brain,
        fusion=FusionConfig(method.fusion, method.width, method.intermediate),
        align=replace(align, mode="retrieval", **protocol),
    )


def _stand_in(spec: str) -> str:
    if spec not in STAND_INS:
        raise HvfError(f"no mini encoder stands in for {spec}: use the published ones, or give others")
    return STAND_INS[spec]


def works() -> dict[str, Published]:
    """The published figures of every work, methods of ours and others, by name, in the order of EEG's top-1."""
    methods = {name: METHODS[name].published for name in METHODS}
    every = OTHERS | {name: figures for name, figures in methods.items() if figures is not None}
    return dict(sorted(every.items(), key=lambda item: item[1].retrieval.get("eeg intra", (0.0, None))[0]))


@dataclass(frozen=True)
class PublishedRow:
    """A row of a paper's table."""

    method: str  # as the papers write it
    of: str  # what the figures are averaged over
    figures: dict[str, float]  # named and counted as in our own results
    selected: str  # by what the epoch and the settings were selected

    @property
    def label(self) -> str:
        """Method, what is averaged over, and how the figures were selected."""
        return f"{self.method}, {self.of} (selected by: {self.selected})"


def published(preset: str) -> list[PublishedRow]:
    """The papers' rows for a preset, [] where there are none."""
    if preset not in DATA:
        return []
    rows: list[PublishedRow] = []
    kind, every = DATA[preset], works().values()
    for protocol, of in PROTOCOLS.items():
        for work in every:
            if shares := work.retrieval.get(f"{kind} {protocol}"):
                pairs = zip((1, 5), shares, strict=True)
                figures = {f"retrieval/top{k}": round(share / 100, 4) for k, share in pairs if share is not None}
                rows.append(PublishedRow(work.title, of, figures, work.selection(protocol)))
    for work in every if kind == "eeg" else ():
        for of, values in work.pictures.items():
            figures = {f"reconstruction/{name}": value for name, value in zip(PICTURES, values, strict=True)}
            rows.append(PublishedRow(work.title, of, figures, work.selection("")))
    return rows


def preset_with_figures(name: str) -> str:
    """The preset's own name (hyphen or underscore). Raises HvfError, naming the nearest, if it has no figures."""
    key = name.replace("_", "-")
    if key not in DATA:
        raise HvfError(f"there are no published figures of {name!r}{did_you_mean(key, DATA)}")
    return key
