"""Whole configurations as functions: `mini()` is the embedded default, the others the real thing on the same code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

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
    with_settings,
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

    :Paper: the method of arXiv 2602.07495, small; every figure is *simulated*. Beyond the paper, pictures are drawn
        from the mean of z_f given z_b, which is learnt beside the contrast (align.mean_weight), beginning with the
        latents that a kernel ridge predicts from it (sampling.start)
    :Command: hvf reconstruct --subject 8
    :Needs: 2 CPU cores, 4 GB, at most 3 minutes cold
    :Expect: ceiling PixCorr >= 0.5 and two-way >= 0.95; brain two-way >= 0.75, above the floor (docs/LOG.md)
    """
    # Chosen on training concepts of subject 8 that were held out (docs/LOG.md).
    return Config(
        name="mini",
        brain=BrainConfig(input_noise=0.5),
        align=AlignConfig(batch_size=256),
        sampling=SamplingConfig(steps=8, guidance=2.0, scheduler="ancestral", start="latents", posterior_mean=1.0),
    )


def things_eeg() -> Config:
    """THINGS-EEG2 with the published prior: 17 posterior channels, 250 Hz, 0 to 1 s after onset.

    :Paper: arXiv 2602.07495 (ICLR 2026), average over 10 subjects
    :Command: hvf reconstruct --preset things-eeg --trials sub-08-epo.fif --images IMAGES
    :Needs: one GPU; encoder, prior and SDXL-Turbo weights from the Hub (about 12 GB) or local folders
    :Expect: published, not reproduced here: retrieval top-1/top-5 75.7/94.6 % (with RN50 in place of H/14);
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

    :Paper: arXiv 2602.07495 (ICLR 2026), average over 4 subjects
    :Command: hvf reconstruct --preset things-meg --trials sub-01-epo.fif --images IMAGES
    :Needs: as `things_eeg`
    :Expect: published, not reproduced here: retrieval top-1/top-5 33.7/60.5 % (with RN50 in place of H/14)
    """
    data = DataConfig(study="files", sfreq=200.0, tmin=0.0, tmax=1.0)
    return replace(things_eeg(), name="things-meg", data=data)


# What a preset sets where a prior draws. Chosen on training concepts of subject 8 that were held out (docs/LOG.md).
DRAWING: dict[str, dict[str, Any]] = {
    "mini": {"align.mean_weight": 3.0, "align.learning_rate": 3e-3, "align.epochs": 25},
}
PRESETS: dict[str, Callable[[], Config]] = {"mini": mini, "things-eeg": things_eeg, "things-meg": things_meg}


def settings_of(name: str, mode: str) -> dict[str, Any]:
    """What the preset of that name sets besides in a mode (`align.mode`): nothing but where a prior draws."""
    return DRAWING.get(name, {}) if mode == "reconstruction" else {}


def in_mode(preset: Config, mode: str, settings: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """A preset in a mode (`align.mode`), with what it sets for that (`settings_of`) and then the settings given."""
    return with_settings(preset, {**settings_of(preset.name, mode), "align.mode": mode, **settings})


def get(name: str) -> Config:
    """The preset of that name (hyphen or underscore); HvfError naming the nearest if there is none."""
    key = name.replace("_", "-")
    if key not in PRESETS:
        raise HvfError(f"unknown preset {name!r}{did_you_mean(key, PRESETS)}")
    return PRESETS[key]()
