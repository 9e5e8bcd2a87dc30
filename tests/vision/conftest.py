"""Tiny random models in the file formats that real ones come in."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
VISION = {
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8},
    "vit": {"image_size": 64, "layers": 3, "width": 24, "head_width": 8, "patch_size": 16},
}
PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.1], "interpolation": "bicubic", "resize_mode": "shortest"}


def save_clip(folder, kind, seed=0, preprocess=PREPROCESS):
    import open_clip

    torch.manual_seed(seed)
    config = {"embed_dim": 12, "vision_cfg": VISION[kind], "text_cfg": TEXT}
    model = open_clip.CLIP(**config).eval()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file({name: t.clone() for name, t in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return model


def save_kl(folder, seed=0):
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        scaling_factor=0.25,
        sample_size=64,
    ).eval()
    vae.save_pretrained(folder)
    return vae


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with ``clip-resnet``, ``clip-vit``, ``sdxl/vae`` in it, as the package has them; and those models."""
    root = tmp_path_factory.mktemp("models")
    loaded = {kind: save_clip(root / f"clip-{kind}", kind) for kind in ("resnet", "vit")}
    return root, {**loaded, "vae": save_kl(root / "sdxl" / "vae")}


@pytest.fixture
def packaged(models, monkeypatch):
    """The same models, in the place of the package's own."""
    from hvf.vision import weights

    monkeypatch.setattr(weights, "MINI_WEIGHTS", models[0])
    return models[1]


@pytest.fixture
def clip_folder():
    """The function that saves a tiny random CLIP in open_clip's folder format."""
    return save_clip


@pytest.fixture
def images_N3HW():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
