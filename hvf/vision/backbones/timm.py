"""timm's models: DINOv2, EVA-02, SynCLR and many others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvf.registry import BACKBONES, HvfError
from hvf.vision.backbones.base import Backbone
from hvf.vision.backbones.hub import check_size, named_layers, preprocessing
from hvf.vision.weights import cached_from_hub, nearest, read_state, reading, weight_files

if TYPE_CHECKING:
    from hvf.vision.encoder import Tower
    from hvf.vision.specs import FeatureSpec


@BACKBONES.register("timm")
class Timm(Backbone):
    """The pooled output, or a layer.

    ``timm:vit_base_patch14_dinov2.lvd142m``   a timm name and tag, weights from the Hub's cache
    ``timm:vit_base_patch16_224/FILE@5:mean``  a timm name and a local file (or an index of shards); output of block 5,
                                               or of a submodule
    ``timm:vit_small_patch14_dinov2/FILE@5@168px:grid4``  at 168 px instead of the network's own 518
    """

    has_sizes = True

    @classmethod
    def load(cls, spec: FeatureSpec) -> Tower:
        import timm
        from timm.data import resolve_model_data_config

        from hvf.vision.encoder import Tower
        from hvf.vision.filling import fill, fit_positions, hashed_state, without_values

        known = timm.list_models(pretrained=True) + timm.list_models()
        if spec.name not in known:
            raise HvfError(f"{spec}: timm knows no {spec.name!r}{nearest(spec.name, known)}")
        with without_values():
            network = _network(spec)
        check_size(spec, getattr(getattr(network, "patch_embed", None), "patch_size", None))
        path = Path(spec.weights).expanduser() if spec.weights else None
        if path is None:
            repository = network.pretrained_cfg.get("hf_hub_id")
            if not repository:
                raise HvfError(f"{spec}: name the weights file after a slash, as timm:{spec.name}/FILE")
            path = cached_from_hub(spec, repository, (), weights=("model.safetensors",))[-1]
        elif not path.is_file():
            raise HvfError(f"{spec}: there is no file {path}")
        what = f"timm {spec.name} weights" + (f" that fit {spec.size} px" if spec.size else "")
        with reading(path, what):
            state = read_state(path)
            fitted = fit_positions(network, state) if spec.size else state
            fill(network, fitted, f"{path} does not hold {what}", others=True)  # an unused classifier may be there
        config = resolve_model_data_config(network)
        size = (spec.size, spec.size) if spec.size else config["input_size"][1:]
        whole = [math.floor(side / config.get("crop_pct", 1.0)) for side in size]
        how = "squash" if config.get("crop_mode") == "squash" else "shortest"
        prepare, words = preprocessing(size, config["mean"], config["std"], config["interpolation"], whole, how)
        prefix, layers = getattr(network, "num_prefix_tokens", 0), named_layers(spec, network)
        hashed = hashed_state(network, state, fitted)
        return Tower(network, prepare, network, hashed, words, prefix, layers, files=tuple(weight_files(path)))


def _network(spec: FeatureSpec) -> Any:
    """timm's network of that name, for images of the spec's size."""
    import timm

    try:
        size: dict[str, Any] = {"img_size": spec.size} if spec.size else {}
        return timm.create_model(spec.name, pretrained=False, num_classes=0, **size)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
    except (AssertionError, ValueError, RuntimeError) as error:
        raise HvfError(f"{spec}: this network cannot have {spec.size} px: {' '.join(str(error).split())}") from error
    return timm.create_model(spec.name, pretrained=False, num_classes=0)  # convolutions take any size
