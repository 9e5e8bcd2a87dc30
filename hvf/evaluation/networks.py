"""The networks that reconstruction metrics are defined on: which layer, which input, and where their weights are found.

Weights are read, never downloaded: from a mapping or a folder that is given, from the folder $HVF_WEIGHTS, from torch
hub's cache, or from the Hugging Face cache. A network whose weights are not at hand cannot be had, and no other takes
its place: the figure would be another one under the same name.

Shapes: N pictures, H and W pixels, D features.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hvf.config import HvfError, did_you_mean
from hvf.vision.weights import reading

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
LPIPS_LAYERS = ("features.1", "features.4", "features.7", "features.9", "features.11")
TORCHVISION_URL = "https://download.pytorch.org/models/"

Weights = str | os.PathLike | Mapping[str, str | os.PathLike] | None


@dataclass(frozen=True)
class Network:
    """How a metric sees a picture: ``size`` in pixels, the mean and deviation taken out, and the network itself.

    ``files`` are the names that published weights go by, the first being where ``url`` leads; ``sha256`` is how that
    file's hash begins, where it is known. ``prefix`` is what the keys of the part used begin with.
    """

    title: str
    size: int
    build: Callable[[], nn.Module]
    files: tuple[str, ...]
    url: str
    sha256: str = ""
    normal: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    interpolation: str = "bilinear"
    crop: int | None = None
    prefix: str = ""
    hub: tuple[str, str] | None = None

    def prepare(self, images_N3HW: torch.Tensor) -> torch.Tensor:
        """The network's input: square pictures (N, 3, H, W) in 0..1, resized (antialiased), normalised."""
        x = images_N3HW
        if x.shape[2:] != (self.size, self.size):
            x = functional.interpolate(x, (self.size, self.size), mode=self.interpolation, antialias=True)
        if self.crop:
            edge = (self.size - self.crop) // 2
            x = x[..., edge : edge + self.crop, edge : edge + self.crop]
        mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in self.normal)
        return (x - mean) / std


class _AlexNet(nn.Module):
    """AlexNet's convolutions, giving {layer: (N, C, h, w)} after each ReLU."""

    def __init__(self) -> None:
        super().__init__()
        import torchvision

        whole: Any = torchvision.models.alexnet(weights=None)
        self.features = nn.ModuleList(whole.features[:12])

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        heard = {}
        for number, layer in enumerate(self.features):
            x = layer(x)
            if f"features.{number}" in LPIPS_LAYERS:
                heard[f"features.{number}"] = x
        return heard


def _headless(name: str, head: str, **settings: Any) -> nn.Module:
    """A torchvision network that gives its last average pooling, (N, D)."""
    import torchvision

    network = torchvision.models.get_model(name, weights=None, **settings)
    setattr(network, head, nn.Identity())
    return network


def _clip_tower() -> nn.Module:
    import open_clip

    config = open_clip.get_model_config("ViT-L-14")
    if config is None:
        raise HvfError("this open_clip knows no ViT-L-14")
    parts = {part: config[part] for part in ("embed_dim", "vision_cfg", "text_cfg")}
    return open_clip.CLIP(**parts, quick_gelu=True).visual


def _dino() -> nn.Module:
    import timm

    return timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=0)


NETWORKS = {
    "alexnet": Network(
        title="AlexNet, torchvision IMAGENET1K_V1",
        size=256,
        build=_AlexNet,
        files=("alexnet-owt-7be5be79.pth",),
        url=TORCHVISION_URL + "alexnet-owt-7be5be79.pth",
        sha256="7be5be79",
    ),
    "inception": Network(
        title="Inception v3, torchvision IMAGENET1K_V1",
        size=342,
        # Pretrained Inception turns ImageNet's normalisation into its own (-1..1) first; aux heads play no part.
        build=lambda: _headless("inception_v3", "fc", aux_logits=False, init_weights=False, transform_input=True),
        files=("inception_v3_google-0cc3c7bd.pth",),
        url=TORCHVISION_URL + "inception_v3_google-0cc3c7bd.pth",
        sha256="0cc3c7bd",
    ),
    "clip": Network(
        title="OpenAI CLIP ViT-L/14",
        size=224,
        build=_clip_tower,
        files=("ViT-L-14.pt", "open_clip_model.safetensors"),
        url="https://openaipublic.azureedge.net/clip/models/"
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
        sha256="b8cca3fd",
        normal=OPENAI,
        prefix="visual.",
        hub=("timm/vit_large_patch14_clip_224.openai", "open_clip_model.safetensors"),
    ),
    "effnet": Network(
        title="EfficientNet-B1, torchvision IMAGENET1K_V2",
        size=255,
        build=lambda: _headless("efficientnet_b1", "classifier"),
        files=("efficientnet_b1-c27df63c.pth",),
        url=TORCHVISION_URL + "efficientnet_b1-c27df63c.pth",
        sha256="c27df63c",
    ),
    "swav": Network(
        title="SwAV ResNet-50, 800 epochs",
        size=224,
        build=lambda: _headless("resnet50", "fc"),
        files=("swav_800ep_pretrain.pth.tar",),
        url="https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar",
    ),
    "dino": Network(
        title="DINO ViT-S/16",
        size=256,
        crop=224,
        interpolation="bicubic",
        build=_dino,
        files=("dino_deitsmall16_pretrain.pth",),
        url="https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
        hub=("timm/vit_small_patch16_224.dino", "model.safetensors"),
    ),
    "lpips": Network(
        title="LPIPS 0.1, heads on AlexNet",
        size=256,
        build=nn.Module,  # the heads alone: five rows of weights, see `Lpips`
        files=("lpips_alex.pth", "lpips_lin_v0.1/alex.pth"),
        url="https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/alex.pth",
    ),
}
NAMES = (*NETWORKS, "dreamsim")


@dataclass(frozen=True)
class MetricNetwork:
    """A loaded network as a function of pictures. ``source`` says which file it came from."""

    name: str
    network: nn.Module
    source: dict[str, str]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __call__(self, images_N3HW: torch.Tensor) -> dict[str, torch.Tensor]:
        """{layer: features (N, ...) float32} of square pictures in 0..1; "" for a network that has but one output."""
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            x = NETWORKS[self.name].prepare(images_N3HW.to(self.device, torch.float32))
            out = self.network(x.contiguous(memory_format=torch.channels_last))
        return out if isinstance(out, dict) else {"": out}


class Lpips:
    """LPIPS 0.1 on AlexNet (Zhang et al., 2018): distances of the layers that the `alexnet` network gives anyway.

    Its own scaling of -1..1 is ImageNet's normalisation of 0..1, so that AlexNet runs once for all metrics.
    """

    def __init__(self, heads: Mapping[str, torch.Tensor], source: dict[str, str]) -> None:
        self.source = source
        self._heads = {
            layer: heads[f"lin{i}.model.1.weight"].float().reshape(-1) for i, layer in enumerate(LPIPS_LAYERS)
        }

    def __call__(self, seen: Mapping[str, torch.Tensor], drawn: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(N,) distances, lower is better, of two sets of AlexNet's layers {layer: (N, C, h, w)}."""
        total = torch.zeros(len(drawn[LPIPS_LAYERS[0]]))
        for layer, weight in self._heads.items():
            a, b = (x[layer] / (x[layer].square().sum(dim=1, keepdim=True).sqrt() + 1e-10) for x in (seen, drawn))
            distance_Nhw = torch.einsum("nchw,c->nhw", (a - b).square(), weight.to(a.device))
            total += distance_Nhw.mean(dim=(1, 2)).cpu()
        return total


class DreamSim:
    """DreamSim's ensemble (Fu et al., 2023), by the package `dreamsim`; the metric is 1 - cosine of the embeddings."""

    def __init__(self, model: Any, source: dict[str, str], device: torch.device) -> None:
        self._model, self.source, self.device = model, source, device

    def __call__(self, images_N3HW: torch.Tensor) -> dict[str, torch.Tensor]:
        """{"": embeddings (N, D)} of pictures in 0..1, resized to 224 pixels (bicubic)."""
        with torch.inference_mode():
            x = functional.interpolate(images_N3HW.to(self.device), (224, 224), mode="bicubic", antialias=True)
            return {"": self._model.embed(x.clamp(0, 1)).reshape(len(x), -1).float()}


def load_network(name: str, weights: Weights = None, device: str | torch.device = "cpu"):
    """A MetricNetwork, or the Lpips or DreamSim, called ``name`` (one of NAMES), in eval mode, float32.

    ``weights`` is a folder of files, or {name: file}. Raises HvfError when the weights are not at hand (naming the file
    and the command that fetches it), do not fit the network, or are not what their published name promises.
    """
    if name not in NAMES:
        raise HvfError(f"there is no metric network {name!r}{did_you_mean(name, NAMES)}")
    if name == "dreamsim":
        return _dreamsim(weights, torch.device(device))
    network = NETWORKS[name]
    path = find_weights(name, weights)
    source = {"network": network.title, "file": path.name, "sha256": _sha256(path, path.stat().st_mtime_ns)}
    if path.name == network.files[0] and not source["sha256"].startswith(network.sha256):
        raise HvfError(
            f"{path} is not the published file of that name (its sha256 should begin with {network.sha256}): "
            f"fetch it again with: {fetch_command(name)}"
        )
    with reading(path, f"weights of {network.title}"):
        state = _state(path, network.prefix)
        if name == "lpips":
            return Lpips(state, source)
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
    """The file that holds the weights of a network, searched as the module says.

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
    if name == "clip":
        candidates.append(Path("~/.cache/clip/ViT-L-14.pt").expanduser())  # where OpenAI's own package keeps it
    if name == "lpips" and (package := find_spec("lpips")) and package.origin:
        candidates.append(Path(package.origin).parent / "weights" / "v0.1" / "alex.pth")
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
    return f"curl -L --create-dirs -o {Path(torch.hub.get_dir()) / 'checkpoints' / network.files[0]} {network.url}"


def _folders(weights: str | os.PathLike | None) -> list[str | os.PathLike]:
    given = [weights] if weights is not None else []
    if given and not Path(given[0]).expanduser().is_dir():
        raise HvfError(f"there is no folder of weights at {given[0]}")
    return given + ([os.environ["HVF_WEIGHTS"]] if os.environ.get("HVF_WEIGHTS") else [])


def _state(path: Path, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with ``prefix``, without it; nothing in the file is executed."""
    if path.suffix == ".safetensors":
        state: Any = load_file(path)
    elif _is_torchscript(path):  # as OpenAI publishes CLIP; its tensors are read, its code is not run
        state = torch.jit.load(path, map_location="cpu").state_dict()
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    while isinstance(state, Mapping) and (inner := next((k for k in ("state_dict", "model") if k in state), None)):
        state = state[inner]
    state = {re.sub(r"^module\.", "", key): value for key, value in state.items() if torch.is_tensor(value)}
    if prefix and any(key.startswith(prefix) for key in state):
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


@lru_cache(maxsize=32)
def _sha256(path: Path, _mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def _dreamsim(weights: Weights, device: torch.device) -> DreamSim:
    given = weights.get("dreamsim") if isinstance(weights, Mapping) else None
    parents = _folders(None if isinstance(weights, Mapping) else weights)
    folders = [Path(given)] if given else [Path(parent) / "dreamsim" for parent in parents]
    folder = next((f.expanduser() for f in folders if f.expanduser().is_dir()), None)
    fetch = "from dreamsim import dreamsim; dreamsim(device='cpu', cache_dir='WEIGHTS/dreamsim')"
    how = f'`pip install dreamsim`, then `python -c "{fetch}"`, and set HVF_WEIGHTS=WEIGHTS'
    if find_spec("dreamsim") is None:
        raise HvfError(f"the package dreamsim is not installed: {how}")
    if folder is None or not any(folder.iterdir()):
        raise HvfError(f"no weights at hand: a folder dreamsim in $HVF_WEIGHTS is missing: {how}")
    from dreamsim import dreamsim  # pyright: ignore[reportMissingImports]  (optional)

    with reading(folder, "DreamSim's weights"):
        model, _ = dreamsim(pretrained=True, device=str(device), cache_dir=str(folder))
    return DreamSim(model, {"network": "DreamSim, ensemble", "file": folder.name}, device)
