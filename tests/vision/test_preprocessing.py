"""Pictures reach a network as its library prepares them: timm, transformers, torchvision; pictures of any shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from hvf.vision.loading import load_encoder

SHAPES = ((300, 300), (300, 421), (64, 64))
LEVELS = 3 / 255 / 0.2  # the libraries round a resized picture to 8 bits, and then divide by the channel's deviation


def picture(shape: tuple[int, int]) -> np.ndarray:
    """A smooth picture, uint8 (H, W, 3): a shift by a pixel changes it by several levels."""
    down, right = np.mgrid[: shape[0], : shape[1]].astype(float)
    waves = [np.sin(2 * np.pi * (a * down / shape[0] + b * right / shape[1])) for a, b in ((9, 3), (2, 11), (6, 7))]
    return np.stack([127.5 + 120 * wave for wave in waves], axis=2).astype(np.uint8)


def check(spec: str, library, shape: tuple[int, int]) -> None:
    """The network's input here, and what the library makes of the same picture."""
    pixels_HW3 = picture(shape)
    prepared = load_encoder(spec)._tower.prepare(torch.from_numpy(pixels_HW3).permute(2, 0, 1)[None].float() / 255)
    expected = library(Image.fromarray(pixels_HW3))
    assert prepared[0].shape == expected.shape
    assert float((prepared[0] - expected).abs().max()) < LEVELS


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18", "convnext_atto"])
def test_timm(name, tmp_path):
    import timm
    from timm.data import create_transform, resolve_model_data_config

    network = timm.create_model(name, pretrained=False, num_classes=0)
    save_file({key: x.clone() for key, x in network.state_dict().items()}, tmp_path / "m.safetensors")
    library = create_transform(**resolve_model_data_config(network), is_training=False)
    for shape in SHAPES:
        check(f"timm:{name}/{tmp_path}/m.safetensors", library, shape)


def test_timm_squashes_where_the_weights_say_so(tmp_path, monkeypatch):
    import timm.data

    network = timm.create_model("test_vit", pretrained=False, num_classes=0)
    save_file({key: x.clone() for key, x in network.state_dict().items()}, tmp_path / "m.safetensors")
    settings = {**timm.data.resolve_model_data_config(network), "crop_mode": "squash", "crop_pct": 1.0}
    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda _: settings)
    library = timm.data.create_transform(**settings, is_training=False)
    check(f"timm:test_vit/{tmp_path}/m.safetensors", library, (300, 421))


@pytest.mark.parametrize("kind", ["dinov2", "vit", "siglip", "convnext", "convnext large"])
def test_transformers(kind, tmp_path):
    import transformers as hf

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 32}
    more = {**small, "intermediate_size": 16}
    convnext = hf.ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1])
    crop = {"height": 224, "width": 224}
    networks = {
        "dinov2": (
            hf.Dinov2Model(hf.Dinov2Config(**small, image_size=224)),
            hf.BitImageProcessor(size={"shortest_edge": 256}, crop_size=crop),
        ),
        "vit": (hf.ViTModel(hf.ViTConfig(**more)), hf.ViTImageProcessor()),
        "siglip": (hf.SiglipVisionModel(hf.SiglipVisionConfig(**more)), hf.SiglipImageProcessor()),
        "convnext": (hf.ConvNextModel(convnext), hf.ConvNextImageProcessor(size={"shortest_edge": 224})),
        "convnext large": (hf.ConvNextModel(convnext), hf.ConvNextImageProcessor(size={"shortest_edge": 384})),
    }
    network, processor = networks[kind]
    network.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for shape in SHAPES:
        check(f"transformers:{tmp_path}", lambda x: processor(x, return_tensors="pt")["pixel_values"][0], shape)


def test_torchvision_knows_its_weights_by_the_name_of_their_file(tmp_path):
    network = torchvision.models.resnet50()
    for weights in torchvision.models.ResNet50_Weights:
        name = weights.url.rpartition("/")[2]
        torch.save(network.state_dict(), tmp_path / name)
        check(f"torchvision:resnet50/{tmp_path}/{name}@layer1", weights.transforms(), (300, 300))
