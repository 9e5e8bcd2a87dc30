"""Loading the networks that reconstruction metrics are defined on (`hvf.registry.NETWORKS`).

Weights are read, never downloaded: from a mapping or a folder that is given, from the folder $HVF_WEIGHTS, from torch
hub's cache, or from the Hugging Face cache. No network stands in for one whose weights are missing: the figure would be
another one under the same name.

Shapes: N pictures, H and W pixels, D features.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hvf.evaluation.metrics.base import PackagedNetwork
from hvf.files.archives import open_zip
from hvf.registry import NETWORKS, HvfError
from hvf.vision.encoder import exact_convolutions
from hvf.vision.weights import read_state, reading

Weights = str | os.PathLike | Mapping[str, str | os.PathLike] | None


@dataclass(frozen=True)
class MetricNetwork:
    """A loaded network as a function of pictures. ``source`` names the file of its weights."""

    name: str
    network: nn.Module
    source: dict[str, str]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __call__(self, images_N3HW: torch.Tensor) -> dict[str, torch.Tensor]:
        """{layer: features (N, ...) float32} of square pictures in 0..1; "" for a network that has but one output."""
        with torch.inference_mode(), exact_convolutions():
            x = NETWORKS[self.name].prepare(images_N3HW.to(self.device, torch.float32))
            out = self.network(x.contiguous(memory_format=torch.channels_last))
        return out if isinstance(out, dict) else {"": out}


def load_network(name: str, weights: Weights = None, device: str | torch.device = "cpu") -> Any:
    """The network of that name in `NETWORKS`, in eval mode, float32: a MetricNetwork, or what its entry wraps it in.

    ``weights`` is a folder of files, or {name: file}. Raises HvfError for weights that are not on this machine (naming
    the file and the command that fetches it), do not fit the network, or are not what their published name promises.
    """
    network = NETWORKS[name]
    if isinstance(network, PackagedNetwork):
        if isinstance(weights, Mapping):
            folders = [weights[name]] if name in weights else [Path(f) / name for f in _folders(None)]
        else:
            folders = [Path(f) / name for f in _folders(weights)]
        return network.load([Path(f).expanduser() for f in folders], torch.device(device))
    path = find_weights(name, weights)
    source = {"network": network.title, "file": path.name, "sha256": _sha256(path, path.stat().st_mtime_ns)}
    if path.name == network.files[0] and not source["sha256"].startswith(network.sha256):
        raise HvfError(
            f"{path} is not the published file of that name (its sha256 should begin with {network.sha256}): "
            f"fetch it again with: {fetch_command(name)}"
        )
    with reading(path, f"weights of {network.title}"):
        state = _state(path, network.prefix)
        if network.wrap is not None:
            return network.wrap(state, source)
        with torch.device("meta"):  # no time and memory for weights that are replaced at once
            module = network.build()
        missing, _ = module.load_state_dict(state, strict=False, assign=True)  # heads that are not used may be there
        if missing:
            raise HvfError(f"{path} does not hold weights of {network.title}: no {missing[0]} ({len(missing)} missing)")
        module = _streamlined(module.float().requires_grad_(False).eval())
    return MetricNetwork(name, module.to(device), source, torch.device(device))


def _streamlined(module: nn.Module) -> nn.Module:
    """The same function in less time: each batch normalisation inside the convolution before it, channels last."""
    for parent in list(module.modules()):
        children = list(parent.named_children())
        for (name, first), (following, second) in zip(children, children[1:], strict=False):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(first, second))
                setattr(parent, following, nn.Identity())
    return module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (torch leaves it untyped)


def find_weights(name: str, weights: Weights = None) -> Path:
    """The file that holds the weights of a network; this module's first lines say where it may be.

    In a folder it goes by a published name, or by ``name`` with .safetensors, .pth or .pt. Raises HvfError.
    """
    network = NETWORKS[name]
    if isinstance(weights, Mapping):
        if name in weights:
            path = Path(weights[name]).expanduser()
            if not path.is_file():
                raise HvfError(f"there is no file {path} for the weights of {network.title}")
            return path
        weights = None
    files = [*network.files, *(f"{name}{suffix}" for suffix in (".safetensors", ".pth", ".pt"))]
    candidates = [Path(folder).expanduser() / file for folder in _folders(weights) for file in files]
    candidates += [Path(torch.hub.get_dir()) / "checkpoints" / file for file in network.files]
    candidates += network.places()
    if network.hub:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(*network.hub)
        candidates += [Path(cached)] if isinstance(cached, str) else []
    for path in candidates:
        if path.is_file():
            return path
    raise HvfError(f"no weights at hand: {network.files[0]} is missing; fetch it with: {fetch_command(name)}")


def fetch_command(name: str) -> str:
    """The command line that puts the weights of a network where they are found."""
    network = NETWORKS[name]
    if network.hub:
        return f"hf download {' '.join(network.hub)}"
    if not network.url:  # it ships with hvf
        return f"install hvf again, or make it: python prior_training/train_mini.py --stages {name}"
    return f"curl -L --create-dirs -o {Path(torch.hub.get_dir()) / 'checkpoints' / network.files[0]} {network.url}"


def _folders(weights: str | os.PathLike | None) -> list[str | os.PathLike]:
    if weights is not None and not Path(weights).expanduser().is_dir():
        raise HvfError(f"there is no folder of weights at {weights}")
    return [folder for folder in (weights, os.environ.get("HVF_WEIGHTS")) if folder]


def _state(path: Path, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with ``prefix``, without it; nothing in the file is executed."""
    if _is_torchscript(path):  # as OpenAI publishes CLIP; its tensors are read, its code is not run
        state: Any = torch.jit.load(path, map_location="cpu").state_dict()
    else:
        state = read_state(path)
    while isinstance(state, Mapping) and (inner := next((k for k in ("state_dict", "model") if k in state), None)):
        state = state[inner]
    state = {re.sub(r"^module\.", "", key): value for key, value in state.items() if torch.is_tensor(value)}
    if prefix and any(key.startswith(prefix) for key in state):
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with open_zip(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


@lru_cache(maxsize=32)
def _sha256(path: Path, _mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()
