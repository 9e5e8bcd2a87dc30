"""Vision models of transformers, as InternViT (its `InternVLVisionModel`), with their image processor's sizes.

A repository's own modelling code is never run: convert it to the library's format first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvf.registry import BACKBONES
from hvf.vision.backbones.base import Backbone
from hvf.vision.backbones.hub import named_layers, preprocessing
from hvf.vision.weights import cached_from_hub, reading

if TYPE_CHECKING:
    import torch

    from hvf.vision.encoder import Tower
    from hvf.vision.specs import FeatureSpec


@BACKBONES.register("transformers")
class Transformers(Backbone):
    """The model's own pooled output (``attn``, the default) if it has one, or a layer.

    ``transformers:ORG/REPO@27:mean``  a vision model that transformers knows, from the Hub's cache or a folder
    """

    @classmethod
    def name_and_weights(cls, text: str) -> tuple[str, str | None]:
        return text.rstrip("/"), None  # a Hub id has a slash of its own

    @classmethod
    def load(cls, spec: FeatureSpec) -> Tower:
        import torch
        from transformers import AutoConfig, AutoModel

        from hvf.vision.encoder import Tower

        folder = Path(spec.name).expanduser()
        if not folder.is_dir():
            files = ("config.json", "preprocessor_config.json", "model.safetensors")
            folder = cached_from_hub(spec, spec.name, files)[0].parent
        with reading(folder, "a vision model that transformers knows"):
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            config = getattr(config, "vision_config", config)
            loaded: Any = AutoModel.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32
            )
            processor = json.loads((folder / "preprocessor_config.json").read_text())
        network = getattr(loaded, "vision_model", loaded)
        size = processor.get("crop_size") or processor.get("size") or config.image_size
        if isinstance(size, dict):
            size = (size["height"], size["width"]) if "height" in size else (size["shortest_edge"],) * 2
        size = (size, size) if isinstance(size, int) else tuple(size)
        prepare, words = preprocessing(size, processor["image_mean"], processor["image_std"])

        def final(x: torch.Tensor) -> torch.Tensor:
            out = network(x)
            if spec.pool in (None, "attn") and getattr(out, "pooler_output", None) is not None:
                return out.pooler_output.flatten(1)
            return out.last_hidden_state

        return Tower(network, prepare, final, network.state_dict(), words, 1, named_layers(spec, network))
