"""Whole configurations as functions: `mini()` is the embedded default, the others the real thing on the same code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hvf.config import (
    AlignConfig,
    BrainConfig,
    Config,
    DataConfig,
    FusionConfig,
    HvfError,
    PriorConfig,
    SamplingConfig,
    TargetConfig,
    did_you_mean,
)

# Occipital and parietal channels that the peers decode from (arXiv 2602.07495).
POSTERIOR_17 = (
    *("P7", "P5", "P3", "P1", "Pz", "P2", "P4", "P6", "P8"),
    *("PO7", "PO3", "POz", "PO4", "PO8", "O1", "Oz", "O2"),
)

# The three encoders of the published reconstruction prior (arXiv 2602.07495).
H14_B32_VAE = (
    "openclip:ViT-H-14/laion2b_s32b_b79k",
    "openclip:ViT-B-32/laion2b_s34b_b79k",
    "vae:sdxl",
)


def mini() -> Config:
    """The embedded world at a size a laptop runs: simulated EEG of 10 people, mini encoders, prior and pipeline.

    Paper    the method of arXiv 2602.07495, small; every figure is *simulated*. Beyond the paper, pictures are drawn
             from z_b moved half of the way to the mean of z_f given z_b (sampling.posterior_mean)
    Command  hvf reconstruct --subject 8
    Needs    2 CPU cores, 4 GB, at most 3 minutes cold
    Expect   ceiling PixCorr >= 0.5 and two-way >= 0.95; brain two-way >= 0.75, above the floor (docs/LOG.md)
    """
    # Chosen on the validation concepts of subject 8 (docs/LOG.md).
    return Config(
        name="mini",
        brain=BrainConfig(input_noise=0.5),
        align=AlignConfig(batch_size=256),
        sampling=SamplingConfig(steps=7, guidance=2.0, scheduler="ancestral", posterior_mean=0.5),
    )


def things_eeg() -> Config:
    """THINGS-EEG2 with the published prior: 17 posterior channels, 250 Hz, 0 to 1 s after onset.

    Paper    arXiv 2602.07495 (ICLR 2026), average over 10 subjects
    Command  hvf reconstruct --preset things-eeg --trials sub-08-epo.fif --images IMAGES
    Needs    one GPU; encoder, prior and SDXL-Turbo weights from the Hub (about 12 GB) or local folders
    Expect   published, not reproduced here: retrieval top-1/top-5 75.7/94.6 % (with RN50 in place of H/14);
             PixCorr 0.195 on average, 0.227 for subject 8
    """
    return Config(
        name="things-eeg",
        data=DataConfig(study="files", ch_names=POSTERIOR_17, sfreq=250.0, tmin=0.0, tmax=1.0),
        targets=TargetConfig(specs=H14_B32_VAE),
        brain=BrainConfig(width=1024, intermediate=1024),
        fusion=FusionConfig(width=1024, intermediate=4096),
        align=AlignConfig(),
        prior=PriorConfig(path="fakekungfu/Fusion-Prior-H14_B32_VAE", pipeline="stabilityai/sdxl-turbo"),
        # SDXL-Turbo was distilled for few steps without guidance, on its own scheduler.
        sampling=SamplingConfig(steps=4, guidance=0.0, rounds=10, batch_size=4, scheduler="pipeline"),
    )


def things_meg() -> Config:
    """THINGS-MEG with the published prior: all 271 magnetometers, 200 Hz, 0 to 1 s after onset.

    Paper    arXiv 2602.07495 (ICLR 2026), average over 4 subjects
    Command  hvf reconstruct --preset things-meg --trials sub-01-epo.fif --images IMAGES
    Needs    as `things_eeg`
    Expect   published, not reproduced here: retrieval top-1/top-5 33.7/60.5 % (with RN50 in place of H/14)
    """
    eeg = things_eeg()
    return Config(
        name="things-meg",
        data=DataConfig(study="files", sfreq=200.0, tmin=0.0, tmax=1.0),
        targets=eeg.targets,
        brain=eeg.brain,
        fusion=eeg.fusion,
        align=eeg.align,
        prior=eeg.prior,
        sampling=eeg.sampling,
    )


# What the methods below decode towards, by the name each goes by where the real network cannot be had: the mini one of
# the same kind. Asked for by name (`method(..., encoders="mini")`) and told with every figure; never done silently.
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
RN50_B32_VAE = ("openclip:RN50/openai", "openclip:ViT-B-32/laion2b_s34b_b79k", "vae:sdxl")


@dataclass(frozen=True)
class Recipe:
    """What a method sets in a configuration; study, size, prior and sampling stay those of the configuration."""

    specs: tuple[str, ...]
    encoder: str
    fusion: str
    dropout: float
    align: AlignConfig
    views: tuple[str, ...] = ()  # chosen by confidence
    text: str | None = None
    input_smooth: float = 0.0


def hvf() -> Recipe:
    """MBP meets the learnt fusion of RN50, ViT-B/32 and VAE latents.

    Paper    arXiv 2602.07495 (ICLR 2026)
    Command  python eval/benchmark.py --methods hvf
    Expect   published: EEG 75.7/94.6 % within, 20.0/44.1 % across subjects; MEG 33.7/60.5, 5.4/15.2
    """
    return Recipe(RN50_B32_VAE, "mbp", "hvf", 0.1, AlignConfig())


def shallow() -> Recipe:
    """Shallow Alignment: EEGProject meets one intermediate layer of a large encoder through a linear projector.

    Paper    arXiv 2601.21948; layer 28 of 46 of InternViT. Weights must be in the format that transformers itself reads
    Command  python eval/benchmark.py --methods shallow; the layer of another encoder: python brain_training/layers.py
    Expect   published: EEG 82.6/97.7 % within, 21.8/49.4 % across subjects; MEG 48.0/74.4, 3.7/13.0
    """
    specs = ("transformers:OpenGVLab/InternViT-6B-448px-V2_5@27:mean",)
    align = AlignConfig(learning_rate=1e-4, betas=(0.9, 0.999), weight_decay=1e-4, epochs=50)
    return Recipe(specs, "eegproject", "linear", 0.3, align)


def ubp() -> Recipe:
    """Uncertainty-aware Blur Prior: EEGProject meets RN50's features of images blurred towards the edge.

    Paper    Wu et al., CVPR 2025. The blur is 51 pixels of 224 wide, and 45 or 57 for images that are found too easily
             or too hardly while training. The gallery is blurred as the tower is, by 51; the trials' vectors are
             normalised and τ is bounded, which they are not there
    Command  python eval/benchmark.py --methods ubp
    Expect   published: EEG 50.9/79.7 % within, 12.4/33.4 % across subjects; MEG 26.7/55.2, 2.2/10.4
    """
    align = AlignConfig(learning_rate=1e-4, betas=(0.9, 0.999), weight_decay=1e-4, epochs=50)
    specs, views = ("openclip:RN50/openai~fovea51",), ("fovea45", "fovea51", "fovea57")
    return Recipe(specs, "eegproject", "concatenated", 0.3, align, views=views)


def neurobridge() -> Recipe:
    """NeuroBridge: EEGProject and augmented RN50 features meet in a space of their own, through a projector.

    Paper    NeuroBridge (feroooooo/NeuroBridge). Images: the mean of RN50's features under blur, noise, low resolution
             and mosaic, in training and gallery; responses: 30 % of the channels smoothed, anew each step. Not here:
             a projector on the brain's side (its encoder ends in a linear map as it is); τ is learnt, theirs is not
    Command  python eval/benchmark.py --methods neurobridge
    Expect   published: EEG 63.2/89.9 % within, 19.0/45.9 % across subjects; MEG 32.2/60.8, 3.4/12.8
    """
    align = AlignConfig(learning_rate=1e-4, betas=(0.9, 0.999), weight_decay=1e-4, epochs=50)
    specs = ("openclip:RN50/openai~blur15+noise25+coarse22+mosaic44",)
    return Recipe(specs, "eegproject", "linear", 0.3, align, input_smooth=0.3)


def nice() -> Recipe:
    """NICE: TSConv meets CLIP's image embedding as it is.

    Paper    Song et al., ICLR 2024
    Command  python eval/benchmark.py --methods nice
    Expect   published: EEG 16.1/43.6 % within, 6.2/21.4 % across subjects; MEG 12.8/36.0
    """
    align = AlignConfig(learning_rate=2e-4, betas=(0.5, 0.999), weight_decay=0.0, batch_size=1000, epochs=200)
    return Recipe(("openclip:ViT-L-14/openai",), "tsconv", "concatenated", 0.5, align)


def atm() -> Recipe:
    """ATM-S meets CLIP ViT-H/14's image embedding as it is and, with weight 0.01, that of the image's caption.

    Paper    Li et al., NeurIPS 2024. The caption is the images' own, or "This picture is CONCEPT" as there; images
             of one caption are not contrasted here
    Command  python eval/benchmark.py --methods atm
    Expect   published: EEG 27.1/58.1 % (28.5/60.4 in HVF's tables) within, 11.9/33.8 % across subjects
    """
    align = AlignConfig(
        learning_rate=3e-4, betas=(0.9, 0.999), weight_decay=0.01, batch_size=64, epochs=40, text_weight=0.01
    )
    clip = "ViT-H-14/laion2b_s32b_b79k"
    return Recipe((f"openclip:{clip}",), "atm", "concatenated", 0.5, align, text=f"text:{clip}")


def human_aligned() -> Recipe:
    """TSConv meets an encoder that was tuned to people's similarity judgements (DreamSim's SynCLR).

    Paper    arXiv 2502.03081 (Human-Aligned Image Models Improve Visual Decoding from the Brain)
    Command  python eval/benchmark.py --methods human_aligned
    Expect   published: up to 21 % better than the same encoder untuned
    """
    align = AlignConfig(learning_rate=2e-4, betas=(0.5, 0.999), weight_decay=0.0, batch_size=1000, epochs=200)
    return Recipe(("dreamsim:synclr_vitb16",), "tsconv", "concatenated", 0.5, align)


def ridge() -> Recipe:
    """Ridge regression from the flat trial to the features of RN50, ViT-B/32 and VAE; its penalty on validation.

    Paper    none: the baseline that a network has to beat
    Command  python eval/benchmark.py --methods ridge
    Expect   less than a contrastive encoder, in seconds
    """
    return Recipe(RN50_B32_VAE, "ridge", "concatenated", 0.0, AlignConfig())


def encoding() -> Recipe:
    """Responses predicted from the features of RN50, ViT-B/32 and VAE, and compared where the error is white.

    Paper    Kay et al., Nature 2008: identification by an encoding model; its penalty on validation
    Command  python eval/benchmark.py --methods encoding
    Expect   with few channels more than any decoder (docs/methods.md: V4 neurons), in seconds
    """
    return Recipe(RN50_B32_VAE, "encoding", "linear", 0.0, AlignConfig())


METHODS: dict[str, Callable[[], Recipe]] = {
    make.__name__: make for make in (hvf, shallow, ubp, neurobridge, nice, atm, human_aligned, ridge, encoding)
}
ENCODERS = ("published", "mini", "given")


def method(name: str, config: Config, encoders: str = "published") -> Config:
    """`config` with what the method of that name sets: encoders, fusion, training; its study, size and seed stay.

    ``encoders``: "published" those of the paper, "mini" their `STAND_INS`; "given" the targets that `config` names, as
    they are: without a method's views of the images and without captions.
    Raises HvfError for an unknown name, with the nearest.
    """
    key = name.replace("-", "_")
    if key not in METHODS:
        raise HvfError(f"unknown method {name!r}{did_you_mean(key, METHODS)}")
    if encoders not in ENCODERS:
        raise HvfError(f"unknown encoders {encoders!r}{did_you_mean(encoders, ENCODERS)}")
    recipe = METHODS[key]()
    published = TargetConfig(recipe.specs, recipe.views, "confidence" if recipe.views else "drawn", recipe.text)
    mini = tuple(dict.fromkeys(STAND_INS[spec] for spec in recipe.specs))
    targets = {
        "published": published,
        "mini": replace(published, specs=mini, text=STAND_INS[recipe.text] if recipe.text else None),
        "given": config.targets,
    }[encoders]
    return replace(
        config,
        targets=targets,
        brain=replace(config.brain, encoder=recipe.encoder, dropout=recipe.dropout, input_smooth=recipe.input_smooth),
        fusion=replace(config.fusion, kind=recipe.fusion),
        align=replace(
            recipe.align,
            mode="retrieval",
            seed=config.align.seed,
            text_weight=(config if encoders == "given" else recipe).align.text_weight,
        ),
    )


PRESETS: dict[str, Callable[[], Config]] = {"mini": mini, "things-eeg": things_eeg, "things-meg": things_meg}


def get(name: str) -> Config:
    """The preset of that name (hyphen or underscore); HvfError naming the nearest if there is none."""
    key = name.replace("_", "-")
    if key not in PRESETS:
        raise HvfError(f"unknown preset {name!r}{did_you_mean(key, PRESETS)}")
    return PRESETS[key]()
