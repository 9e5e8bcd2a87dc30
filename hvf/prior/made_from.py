"""What a Fusion Prior's training is made from, by content: what lies under a path may have been replaced meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffusers import StableDiffusionXLPipeline
from typing_extensions import TypedDict

from hvf.config import HvfError
from hvf.files.checksums import known_sha256
from hvf.files.tensors import digest_of
from hvf.prior.loading import load_prior
from hvf.prior.objective import TrainingImages
from hvf.prior.reconstruction import digest_of_models
from hvf.schema.reading import read_as
from hvf.schema.run_folder import MORE

GIVEN_BY = {
    "images": "images than those of --images",
    "encoders": "encoders than those of --latents and --targets",
    "shards": "shards than those of --shards",
    "pipeline": "weights of the pipeline than those of --pipeline",
    "init": "first weights than those of --init",
}


class _Kept(TypedDict, total=False):
    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    fingerprint: dict[str, str]


def fingerprint(images: TrainingImages, pipeline: StableDiffusionXLPipeline, init: str | None) -> dict[str, str]:
    """{part of `GIVEN_BY`: a hash of its content}; the pipeline as it was loaded, before a prior is attached to it."""
    found = {**images.content, "pipeline": digest_of_models(pipeline.components, pipeline.scheduler)}
    if init:
        file = Path(init)
        found["init"] = known_sha256(file) if file.is_file() else digest_of(load_prior(init).state_dict(), {})
    return found


def kept_fingerprint(path: Path) -> dict[str, str] | None:
    """The fingerprint in a training.json: empty in one of an earlier version; None where no training has begun."""
    return read_as(_Kept, path).get("fingerprint", {}) if path.exists() else None


def refuse_other_content(out: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise HvfError naming the first part whose content is not the one that the training in `out` began with."""
    for part, given in GIVEN_BY.items():
        if before.get(part) != now.get(part):
            raise HvfError(f"{out} was trained on other {given} now: put those back, or choose another --out.")
