"""timm's models: DINOv2, EVA-02, SynCLR and many others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvf.registry import BACKBONES, HvfError
from hvf.vision.backbones.base import Backbone
from hvf.vision.backbones.hub import named_layers, preprocessing
from hvf.vision.weights import cached_from_hub, nearest, read_state, reading

if TYPE_CHECKING:
    from hvf.vision.encoder import Tower
    from hvf.vision.specs import FeatureSpec


@BACKBONES.register("timm")
class Timm(Backbone):
    """The pooled output, or a layer.

    ``timm:vit_base_patch14_dinov2.lvd142m``   a timm name and tag, weights from the Hub's cache
    ``timm:vit_base_patch16_224/FILE@5:mean``  a timm name and a local file; output of block 5, or of a submodule
    """

    @classmethod
    def load(cls, spec: FeatureSpec) -> Tower:
        import timm
        from timm.data import resolve_model_data_config

        from hvf.vision.encoder import Tower

        known = timm.list_models(pretrained=True) + timm.list_models()
        if spec.name not in known:
            raise HvfError(f"{spec}: timm knows no {spec.name!r}{nearest(spec.name, known)}")
        network: Any = timm.create_model(spec.name, pretrained=False, num_classes=0)
        path = Path(spec.weights).expanduser() if spec.weights else None
        if path is None:
            repository = network.pretrained_cfg.get("hf_hub_id")
            if not repository:
                raise HvfError(f"{spec}: name the weights file after a slash, as timm:{spec.name}/FILE")
            path = cached_from_hub(spec, repository, ("model.safetensors",))[0]
        elif not path.is_file():
            raise HvfError(f"{spec}: there is no file {path}")
        with reading(path, f"timm {spec.name} weights"):
            missing, _ = network.load_state_dict(read_state(path), strict=False)  # an unused classifier may be there
            if missing:
                raise HvfError(
                    f"{path} does not hold timm {spec.name} weights: no {missing[0]} ({len(missing)} missing)"
                )
        config = resolve_model_data_config(network)
        scaling = config["mean"], config["std"], config["interpolation"], config.get("crop_pct", 1.0)
        prepare, words = preprocessing(config["input_size"][1:], *scaling)
        prefix = getattr(network, "num_prefix_tokens", 0)
        return Tower(network, prepare, network, network.state_dict(), words, prefix, named_layers(spec, network))
