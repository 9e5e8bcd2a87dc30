"""torchvision's classification networks, up to their last feature map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvf.registry import BACKBONES, HvfError
from hvf.vision.backbones.base import Backbone
from hvf.vision.weights import nearest, read_state, reading

if TYPE_CHECKING:
    import torch

    from hvf.vision.encoder import Tower
    from hvf.vision.specs import FeatureSpec

CAFFE_SIZE, CAFFE_MEAN_BGR = 227, (104.0, 117.0, 123.0)
LAST_MAPS = ("features", "layer4", "encoder")  # the last map or tokens before the head, in torchvision's families


@BACKBONES.register("torchvision")
class Torchvision(Backbone):
    """The last feature map, pooled by ``mean``, or any submodule's output.

    ``torchvision:squeezenet1_0/FILE.npz``    a torchvision name and a weights file (.npz: the Caffe conversion)
    ``torchvision:.../FILE@features.9:grid2``  any submodule by its name; a bare number N stands for features.N
    """

    @classmethod
    def check(cls, spec: FeatureSpec) -> FeatureSpec:
        return replace(spec, layer=f"features.{spec.layer}") if spec.layer and spec.layer.isdigit() else spec

    @classmethod
    def load(cls, spec: FeatureSpec) -> Tower:
        import torchvision

        from hvf.vision.encoder import Tower

        known = torchvision.models.list_models(torchvision.models)
        if spec.name not in known:
            raise HvfError(f"{spec}: torchvision knows no {spec.name!r}{nearest(spec.name, known)}")
        weights: Any = torchvision.models.get_model_weights(spec.name)
        published = weights.DEFAULT
        path = Path(spec.weights).expanduser() if spec.weights else None
        if path is None or not path.is_file():
            problem = f"{path} is missing" if path else "name the weights file after a slash"
            raise HvfError(f"{spec}: {problem}; fetch one with: curl -LO {published.url}")
        caffe = path.suffix == ".npz"
        if caffe and spec.name != "squeezenet1_0":
            raise HvfError(f"{path}: .npz is for the Caffe conversion of squeezenet1_0 alone, not for {spec.name}")
        network = torchvision.models.get_model(spec.name, weights=None)
        with reading(path, f"torchvision {spec.name} weights"):
            network.load_state_dict(read_state(path))
        final = next((name for name, _ in network.named_children() if name in LAST_MAPS), None)
        layers = {name: module for name, module in network.named_modules() if name}
        if (spec.layer or final) not in layers:
            raise HvfError(f"{spec}: no layer {spec.layer!r}{nearest(spec.layer or '', list(layers))}")
        prepare = _caffe if caffe else published.transforms()
        preprocessing = f"caffe {CAFFE_SIZE} {CAFFE_MEAN_BGR}" if caffe else repr(prepare)
        swin = spec.name.startswith("swin")
        state = network.state_dict()
        return Tower(network, prepare, network, state, preprocessing, 1, layers, final, channels_last=swin)


def _caffe(images_N3HW: torch.Tensor) -> torch.Tensor:
    """BGR on 0..255 minus the training set's mean, not scaled: the input of networks converted from Caffe."""
    import torch

    from hvf.vision.encoder import resized

    frame = resized(images_N3HW, (CAFFE_SIZE, CAFFE_SIZE)) * 255
    return frame.flip(1) - torch.tensor(CAFFE_MEAN_BGR, device=frame.device).view(1, 3, 1, 1)
