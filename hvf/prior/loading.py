"""SDXL pipelines and Fusion Priors by name: package data, local folders, or the Hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import snapshot_download
from torch import nn
from transformers.utils import logging as transformers_logging

from hvf.prior.hub_weights import BRAIN_HIVE_PARTS, HUB_ID, PIPELINE_FILES, PRIOR_FILES, folder_of
from hvf.prior.model import FusionPrior
from hvf.prior.published import is_brain_hive, read_brain_hive
from hvf.registry import HvfError, listed
from hvf.vision.weights import MINI_WEIGHTS

logger = logging.getLogger(__name__)

Model = TypeVar("Model", StableDiffusionXLPipeline, FusionPrior)


def load_pipeline(name: str, device: str = "cpu", dtype: torch.dtype | None = None) -> StableDiffusionXLPipeline:
    """The SDXL pipeline called "mini" (package data), in a local folder, or on the Hub, moved to `device`.

    `dtype` is float32 on a CPU, bfloat16 elsewhere, in which SDXL's VAE decodes too (in float16 it overflows).
    Raises HvfError naming the missing file, the Hub id and the command that fetches it, or what is not SDXL's.
    """
    dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
    kept = folder_of(name, PIPELINE_FILES)
    local = str(kept or name)
    source = _source(local, "sdxl", "model_index.json", "SDXL pipeline", "prior_training/train_mini.py")
    pipeline = _read(StableDiffusionXLPipeline, source, "SDXL pipeline", dtype=dtype, add_watermarker=False)
    _check_parts(pipeline, name)
    return pipeline.to(device)


def _check_parts(pipeline: StableDiffusionXLPipeline, name: str) -> None:
    """HvfError for a pipeline of another kind, which diffusers opens as SDXL's with parts that are None."""
    optional = ("text_encoder", "tokenizer", "image_encoder", "feature_extractor")
    if lacking := [part for part, one in pipeline.components.items() if one is None and part not in optional]:
        raise HvfError(f"{name} is no pipeline of Stable Diffusion XL: it has no {listed(lacking)}")
    encoders = filter(None, (pipeline.text_encoder, pipeline.text_encoder_2))
    text, unet = sum(int(one.config.hidden_size) for one in encoders), pipeline.unet.config.cross_attention_dim
    if text != unet:
        raise HvfError(
            f"{name} is no whole SDXL pipeline: its text encoders are {text} wide, and its UNet takes {unet}"
        )


def load_prior(name: str, device: str = "cpu", fusion_hash: str = "") -> FusionPrior:
    """The Fusion Prior called "mini" (package data), in a local folder, or on the Hub; float32, in evaluation mode.

    Ours or one in Brain-HIVE's format. Raises HvfError as `load_pipeline` does, and if its fusion is not the one of
    `fusion_hash`, where that is given: what was trained towards that one is no embedding of this one.
    """
    folder = Path(name).expanduser()
    if name != "mini" and not folder.exists() and re.fullmatch(HUB_ID, name):
        folder = folder_of(name, PRIOR_FILES) or _fetched(name)
    if is_brain_hive(folder):
        prior = read_brain_hive(folder)
    else:
        local = name if name == "mini" else str(folder)
        source = _source(local, "prior", "config.json", "Fusion Prior", "prior_training/train.py --preset mini")
        prior = _read(FusionPrior, source, "Fusion Prior", dtype=torch.float32)
    if fusion_hash not in ("", prior.fusion_hash):
        raise HvfError(
            f"the Fusion Prior {name} has other weights than the one that this decoder was trained with: put those "
            "back, or train again in another folder"
        )
    prior.to(device=device)  # pyright: ignore[reportCallIssue]  (diffusers wraps it without a type)
    return prior.eval()


def _fetched(name: str) -> Path:
    """A prior's folder in the Hub client's cache, all of it: file names differ between formats."""
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(PRIOR_FILES)))
    except Exception as error:  # the client's errors share no base class with those of its transport
        raise _unavailable(name, "Fusion Prior", error) from error
    if folder_of(name, PRIOR_FILES) is None:  # offline the client gives what there is
        raise HvfError(
            f"Fusion Prior {name} is not whole on this machine: fetch it with `hf download {name}` (there should be a "
            f"config.json with weights, or folders {listed(BRAIN_HIVE_PARTS)})"
        )
    return folder


def _source(name: str, mini_folder: str, marker: str, what: str, remade_by: str) -> str:
    """A local folder that holds `marker`, or a Hub id; HvfError when it can be neither."""
    folder = MINI_WEIGHTS / mini_folder if name == "mini" else Path(name).expanduser()
    if (folder / marker).is_file():
        return str(folder)
    if name == "mini":
        raise HvfError(f"the mini {what} is not in this installation: no {folder / marker}; remake it with {remade_by}")
    if folder.is_dir():
        raise HvfError(f"no {what} in {folder}: it has no {marker}")
    if not re.fullmatch(HUB_ID, name):
        raise HvfError(f"no {what} at {name}: no such folder, and not the name of one on the Hub (owner/name)")
    return name


def _read(cls: type[Model], source: str, what: str, **settings: Any) -> Model:
    """`cls.from_pretrained`; every failure becomes an HvfError of one line."""
    try:
        with _without_progress_bars():
            model: Any = cls.from_pretrained(source, **settings)
    except HvfError:
        raise
    except Exception as error:  # diffusers, safetensors and the Hub client share no base class narrower than this
        logger.debug("loading %s failed", source, exc_info=True)
        if Path(source).is_dir():
            reason = " ".join(str(error).split())[:200]
            raise HvfError(f"the {what} in {source} cannot be read: {reason}") from error
        raise _unavailable(source, what, error) from error
    parts = getattr(model, "components", {"": model}).items()
    for part, module in parts:
        state = module.state_dict() if isinstance(module, nn.Module) else {}
        if absent := [name for name, tensor in state.items() if tensor.is_meta]:  # a tensor of another name, perhaps
            raise HvfError(f"the {what} in {source} lacks {listed(absent)}{part and f' of its {part}'}: copy it again")
    return model


def _unavailable(source: str, what: str, error: Exception) -> HvfError:
    reason = " ".join(str(error).split())[:200]
    return HvfError(
        f"{what} {source} is not on this machine and the Hub did not give it; "
        f"fetch it with `hf download {source}` (the Hub said: {reason})"
    )


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Hide the bars of diffusers and transformers while local files are read; bars that were off stay off."""
    shown = [log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()]
    for log in shown:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log in shown:
            log.enable_progress_bar()
