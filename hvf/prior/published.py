"""Weights that others published, as a FusionPrior: Brain-HIVE's three folders, and any IP-Adapter file.

Formats: `ssshamiii/Brain-HIVE` (fusion_encoder/, proj/, attn_adapter/, as its train_prior.py saves them) and
`tencent-ailab/IP-Adapter` (.safetensors flat, or .bin holding two dictionaries).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

from torch import Tensor
from typing_extensions import TypedDict

from hvf.config import HvfError
from hvf.prior.hub_weights import BRAIN_HIVE_ENCODERS, BRAIN_HIVE_PARTS
from hvf.prior.model import FusionPrior
from hvf.schema.reading import read_as
from hvf.schema.run_folder import MORE
from hvf.vision.weights import read_state

_WEIGHTS = "diffusion_pytorch_model.safetensors"

_AGAIN = "copy the folder again"


class _FusionConfig(TypedDict):
    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    proj_meta: dict[str, int]  # {encoder: width of its features}
    hidden_size: int


class _AdapterConfig(TypedDict):
    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    attn_processor_keys: list[str]
    cross_attention_dim: int


def is_brain_hive(folder: Path) -> bool:
    """Whether a folder holds a prior in Brain-HIVE's format."""
    return all((folder / part / "config.json").is_file() for part in BRAIN_HIVE_PARTS)


def read_brain_hive(folder: str | Path) -> FusionPrior:
    """A prior that Brain-HIVE's train_prior.py saved, in evaluation mode, float32.

    Encoders that `BRAIN_HIVE_ENCODERS` knows get their FeatureSpec, others keep the name they have there. Raises
    HvfError naming the part that is missing, damaged or of a size that does not fit the others.
    """
    folder = Path(folder)
    fusion, proj, adapter = (_state(folder / part / _WEIGHTS) for part in BRAIN_HIVE_PARTS)
    of_fusion = read_as(_FusionConfig, folder / BRAIN_HIVE_PARTS[0] / "config.json", _AGAIN)
    of_adapter = read_as(_AdapterConfig, folder / BRAIN_HIVE_PARTS[2] / "config.json", _AGAIN)
    try:
        names = list(of_fusion["proj_meta"])
        layers = [name for name in of_adapter["attn_processor_keys"] if name.endswith("attn2.processor")]
        _check_sizes(of_fusion, of_adapter, fusion, adapter)  # before a model of these sizes is made
        prior = FusionPrior(
            specs=[str(BRAIN_HIVE_ENCODERS.get(name, name)) for name in names],
            dims=list(of_fusion["proj_meta"].values()),
            adapter_names=layers,
            adapter_widths=[_adapter_width(adapter, i) for i in range(len(layers))],
            width=of_fusion["hidden_size"],
            intermediate=fusion["vision_model.block.layers.0.ff.w1.weight"].shape[0],
            projector_intermediate=fusion["adapter.ff.w1.weight"].shape[0],
            cross_attention_dim=of_adapter["cross_attention_dim"],
        )
        prior.load_state_dict(brain_hive_state(fusion, proj, adapter, names))
    except (KeyError, IndexError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise HvfError(f"{folder} is no whole prior in Brain-HIVE's format: {reason}") from error
    return prior.eval()


def _check_sizes(of_fusion: _FusionConfig, of_adapter: _AdapterConfig, fusion: Mapping, adapter: Mapping) -> None:
    """Raise TypeError where a config gives other sizes than the weights have."""
    said, found = dict(of_fusion["proj_meta"]), {}
    for name in said:
        found[name] = fusion[f"vision_model.proj_maps.{name}.weight"].shape[1]
    said |= {"hidden_size": of_fusion["hidden_size"], "cross_attention_dim": of_adapter["cross_attention_dim"]}
    found["hidden_size"] = fusion["vision_model.block.layers.0.norm.weight"].shape[0]
    found["cross_attention_dim"] = _adapter_weight(adapter, 0, "to_k_ip").shape[1]
    for name in said:
        if said[name] != found[name]:
            raise TypeError(f"{name} is {said[name]} in config.json, {found[name]} in the weights")


def start_from_ip_adapter(prior: FusionPrior, path: str | Path) -> None:
    """Copy image projection and adapter of an IP-Adapter file into ``prior``; HVF and projector stay as they are.

    Raises HvfError, changing nothing, for a file that is none, or was made for another UNet or embedding width.
    """
    path = Path(path)
    state = _state(path)
    if "image_proj" in state:  # .bin: two dictionaries
        state = {f"{part}.{key}": value for part in ("image_proj", "ip_adapter") for key, value in state[part].items()}
    ours = {}
    for theirs, name in (("proj", "image_embeds"), ("norm", "norm")):
        for part in ("weight", "bias"):
            ours[f"image_projection.{name}.{part}"] = state.get(f"image_proj.{theirs}.{part}")
    for i in range(len(prior.adapter)):
        for matrix in ("to_k_ip", "to_v_ip"):
            ours[f"adapter.{i}.{matrix}.0.weight"] = state.get(f"ip_adapter.{2 * i + 1}.{matrix}.weight")
    own = prior.state_dict()
    for key, value in ours.items():
        if value is None:
            raise HvfError(f"{path} is no IP-Adapter for this UNet: it has nothing for {key}")
        if value.shape != own[key].shape:
            raise HvfError(f"{path} does not fit: {key} is {tuple(value.shape)} there, {tuple(own[key].shape)} here")
    prior.load_state_dict(ours, strict=False)


def brain_hive_state(fusion: Mapping, proj: Mapping, adapter: Mapping, names: Sequence[str]) -> dict[str, Tensor]:
    """Brain-HIVE's three states under FusionPrior's names; ``names`` are its encoders in the order of the prior's."""
    block = "vision_model.block.layers.0."
    ours = {
        "hvf.block.up.weight": fusion[block + "ff.w1.weight"],
        "hvf.block.down.weight": fusion[block + "ff.w2.weight"],
        "projector.up.weight": fusion["adapter.ff.w1.weight"],
        "projector.down.weight": fusion["adapter.ff.w2.weight"],
    }
    for part in ("weight", "bias"):
        ours[f"hvf.norm.{part}"] = fusion[f"{block}norm.{part}"]
        ours[f"image_projection.image_embeds.{part}"] = proj[f"proj.{part}"]
        ours[f"image_projection.norm.{part}"] = proj[f"norm.{part}"]
        for k, name in enumerate(names):
            ours[f"hvf.projections.{k}.{part}"] = fusion[f"vision_model.proj_maps.{name}.{part}"]
    for i in range(len(adapter) // 2):
        for matrix in ("to_k_ip", "to_v_ip"):
            ours[f"adapter.{i}.{matrix}.0.weight"] = _adapter_weight(adapter, i, matrix)
    return ours


def _adapter_weight(adapter: Mapping, layer: int, matrix: str) -> Tensor:
    return adapter[f"attn_processors.{2 * layer + 1}.{matrix}.weight"]


def _adapter_width(adapter: Mapping, layer: int) -> int:
    return _adapter_weight(adapter, layer, "to_k_ip").shape[0]


def _state(path: Path) -> dict:
    if not path.is_file():
        raise HvfError(f"there are no weights at {path}")
    try:
        return read_state(path)
    except UnpicklingError as error:
        raise HvfError(f"{path} holds more than tensors and is not opened") from error
    except Exception as error:  # damaged files raise whatever their parser raises
        raise HvfError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
