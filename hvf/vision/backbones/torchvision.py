"""torchvision's classification networks, up to their last feature map."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvf.registry import BACKBONES, HvfError
from hvf.vision.backbones.base import Backbone
from hvf.vision.backbones.hub import check_size
from hvf.vision.weights import nearest, read_state, reading, weight_files

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
    ``torchvision:.../FILE@9@448px:grid4``     at 448 px instead of the size that the weights are published for
    """

    has_sizes = True

    @classmethod
    def check(cls, spec: FeatureSpec) -> FeatureSpec:
        return replace(spec, layer=f"features.{spec.layer}") if spec.layer and spec.layer.isdigit() else spec

    @classmethod
    def load(cls, spec: FeatureSpec) -> Tower:
        import torchvision

        from hvf.vision.encoder import Tower
        from hvf.vision.filling import fill, fit_positions, hashed_state, without_values

        known = torchvision.models.list_models(torchvision.models)
        if spec.name not in known:
            raise HvfError(f"{spec}: torchvision knows no {spec.name!r}{nearest(spec.name, known)}")
        weights: Any = torchvision.models.get_model_weights(spec.name)
        path = Path(spec.weights).expanduser() if spec.weights else None
        published = _published(weights, path)
        if path is None or not path.is_file():
            problem = f"{path} is missing" if path else "name the weights file after a slash"
            raise HvfError(f"{spec}: {problem}; fetch one with: curl -LO {published.url}")
        caffe = path.suffix == ".npz"
        if caffe and spec.name != "squeezenet1_0":
            raise HvfError(f"{path}: .npz is for the Caffe conversion of squeezenet1_0 alone, not for {spec.name}")
        sized = {"image_size": spec.size} if spec.size and spec.name.startswith("vit_") else {}
        check_size(spec, int(spec.name.rpartition("_")[2]) if sized else None)  # vit_b_16
        what = f"torchvision {spec.name} weights"
        with without_values():
            network = torchvision.models.get_model(spec.name, weights=None, **sized)
        with reading(path, what):
            state = read_state(path)
            fitted = fit_positions(network, state) if sized else state
            fill(network, fitted, f"{path} does not hold {what}")
        final = next((name for name, _ in network.named_children() if name in LAST_MAPS), None)
        layers = {name: module for name, module in network.named_modules() if name}
        if (spec.layer or final) not in layers:
            raise HvfError(f"{spec}: no layer {spec.layer!r}{nearest(spec.layer or '', list(layers))}")
        size = spec.size or CAFFE_SIZE
        prepare = partial(_caffe, size=size) if caffe else _transforms(published.transforms, spec.size)
        preprocessing = f"caffe {size} {CAFFE_MEAN_BGR}" if caffe else repr(prepare)
        swin, files = spec.name.startswith("swin"), tuple(weight_files(path))
        hashed = hashed_state(network, state, fitted)
        return Tower(
            network, prepare, network, hashed, preprocessing, 1, layers, final, channels_last=swin, files=files
        )


def _published(weights: Any, path: Path | None) -> Any:
    """The published weights of that file name, whose preprocessing they need; the library's default for other names."""
    named = [one for one in weights if path is not None and one.url.rpartition("/")[2] == path.name]
    return named[0] if named else weights.DEFAULT


def _transforms(published: Any, size: int | None) -> Any:
    """The published preprocessing, brought to another size with the same share cropped."""
    whole = published()
    if size is None:
        return whole
    side = max(size, round(whole.resize_size[0] * size / whole.crop_size[0]))
    return published(crop_size=size, resize_size=side)


def _caffe(images_N3HW: torch.Tensor, size: int) -> torch.Tensor:
    """BGR on 0..255 minus the training set's mean, not scaled: the input of networks converted from Caffe."""
    import torch

    from hvf.vision.encoder import resized

    frame = resized(images_N3HW, (size, size)) * 255
    return frame.flip(1) - torch.tensor(CAFFE_MEAN_BGR, device=frame.device).view(1, 3, 1, 1)
