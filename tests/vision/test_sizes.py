"""Sizes in a spec: positions interpolated as the model's own definition has it, and what cannot be resized refused."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch.nn import functional

from hvf.config import HvfError
from hvf.vision.filling import fit_positions
from hvf.vision.loading import load_encoder
from hvf.vision.weights import MINI_WEIGHTS


def on_grid(positions_1TD, prefix, old, new):
    """Position embeddings on another grid, the slow and obvious way: one channel at a time."""
    kept, grid = positions_1TD[:, :prefix], positions_1TD[:, prefix:]
    channels = [
        functional.interpolate(grid[0, :, d].reshape(1, 1, old, old), (new, new), mode="bicubic", align_corners=False)
        for d in range(grid.shape[2])
    ]
    return torch.cat([kept, torch.stack([c.flatten() for c in channels], 1)[None]], 1)


@pytest.fixture(scope="module")
def timm_vit(tmp_path_factory):
    import timm

    torch.manual_seed(0)
    network = timm.create_model("test_vit", pretrained=False).eval()
    torch.nn.init.normal_(network.pos_embed)
    path = tmp_path_factory.mktemp("timm") / "vit.safetensors"
    save_file({name: t.clone() for name, t in network.state_dict().items()}, path)
    return path, network


def test_timm_at_another_size(timm_vit):
    import timm

    path, network = timm_vit
    size, patch = network.pretrained_cfg["input_size"][1], network.patch_embed.patch_size[0]
    new = size - 2 * patch
    state = network.state_dict()
    state["pos_embed"] = on_grid(state["pos_embed"], network.num_prefix_tokens, size // patch, new // patch)
    small = timm.create_model("test_vit", img_size=new, pretrained=False, num_classes=0).eval()
    small.load_state_dict(state, strict=False)
    images = torch.rand(2, 3, new, new, generator=torch.Generator().manual_seed(0))
    own = network.pretrained_cfg
    mean, sd = (torch.tensor(own[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    encoder = load_encoder(f"timm:test_vit/{path}@1@{new}px:flat")
    frame = math.floor(new / own["crop_pct"])
    images = torch.rand(2, 3, frame, frame, generator=torch.Generator().manual_seed(0))
    edge = (frame - new) // 2
    x = (images[..., edge : edge + new, edge : edge + new] - mean) / sd
    with torch.no_grad():
        expected = small.forward_intermediates(x, indices=[1], norm=False, output_fmt="NCHW", intermediates_only=True)
    torch.testing.assert_close(encoder(images), expected[0].flatten(1), atol=1e-4, rtol=1e-4)
    same = load_encoder(f"timm:test_vit/{path}@1@{size}px:flat")(images)
    assert torch.equal(same, load_encoder(f"timm:test_vit/{path}@1:flat")(images))
    assert encoder.weights_hash != load_encoder(f"timm:test_vit/{path}@1:flat").weights_hash


def test_convolutions_take_any_size(tmp_path):
    import timm

    torch.manual_seed(0)
    network = timm.create_model("test_resnet", pretrained=False, num_classes=0).eval()
    save_file({name: t.clone() for name, t in network.state_dict().items()}, tmp_path / "r.safetensors")
    spec = f"timm:test_resnet/{tmp_path}/r.safetensors"
    assert load_encoder(f"{spec}@layer2@64px:flat").dim == 4 * load_encoder(f"{spec}@layer2@32px:flat").dim


def test_torchvision_at_another_size(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_0().eval()
    torch.save(network.state_dict(), tmp_path / "s.pth")
    prepare = torchvision.models.SqueezeNet1_0_Weights.DEFAULT.transforms(crop_size=112, resize_size=128)
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.features[:4](prepare(images)).flatten(1)
    got = load_encoder(f"torchvision:squeezenet1_0/{tmp_path}/s.pth@3@112px:flat")(images)
    torch.testing.assert_close(got, expected)


def test_openclip_at_another_size():
    from open_clip.factory import create_model

    weights = load_file(MINI_WEIGHTS / "clip-vit" / "open_clip_model.safetensors")
    state = {name: x.float() for name, x in weights.items()}  # the file is in half precision
    config = json.loads((MINI_WEIGHTS / "clip-vit" / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]
    patch, size = config["patch_size"], config["image_size"]
    new = size + patch
    positions = on_grid(state["visual.positional_embedding"][None], 1, size // patch, new // patch)[0]
    model = create_model(f"local-dir:{MINI_WEIGHTS / 'clip-vit'}", force_image_size=new, load_weights=False).eval()
    model.load_state_dict({**state, "visual.positional_embedding": positions})
    mean, sd = (torch.tensor(model.visual.preprocess_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    images = torch.rand(2, 3, new, new, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.encode_image((images - mean) / sd)
    torch.testing.assert_close(load_encoder(f"openclip:mini-vit@{new}px")(images), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(HvfError, match=f"{new + 1} px is no multiple of the network's patches of {patch} px; {new} or"):
        load_encoder(f"openclip:mini-vit@{new + 1}px")


def test_transformers_at_another_size(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    networks = {
        "dinov2": Dinov2Model(Dinov2Config(**shape)),
        "clip": CLIPVisionModel(CLIPVisionConfig(intermediate_size=32, **shape)),
    }
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 28}
    images = torch.rand(2, 3, 42, 42, generator=torch.Generator().manual_seed(0))
    for name, network in networks.items():
        network.eval().save_pretrained(tmp_path / name)
        (tmp_path / name / "preprocessor_config.json").write_text(json.dumps(processor))
        options = {"interpolate_pos_encoding": True} if name == "clip" else {}
        with torch.no_grad():
            tokens = network((images - 0.5) / 0.5, output_hidden_states=True, **options).hidden_states[1]
        got = load_encoder(f"transformers:{tmp_path / name}@0@42px:mean")(images)
        torch.testing.assert_close(got, tokens[:, 1:].mean(1), atol=1e-5, rtol=1e-4)
        with pytest.raises(HvfError, match="40 px is no multiple of the network's patches of 14 px; 28 or 42 is"):
            load_encoder(f"transformers:{tmp_path / name}@0@40px:mean")


def test_a_network_that_cannot_be_resized_is_named(tmp_path):
    import timm

    network = timm.create_model("mixer_s32_224", pretrained=False, num_classes=0)
    save_file({name: t.clone() for name, t in network.state_dict().items()}, tmp_path / "m.safetensors")
    said = "does not hold timm mixer_s32_224 weights that fit 256 px: blocks.0.mlp_tokens.fc1.weight is"
    with pytest.raises(HvfError, match=said):
        load_encoder(f"timm:mixer_s32_224/{tmp_path}/m.safetensors@256px")


def test_positions_of_registers_and_without_a_class_token():
    generator = torch.Generator().manual_seed(0)
    for prefix in (0, 1, 5):
        network = torch.nn.Module()
        network.pos_embed = torch.nn.Parameter(torch.zeros(1, prefix + 9, 4))
        positions = torch.randn(1, prefix + 25, 4, generator=generator)
        got = fit_positions(network, {"pos_embed": positions, "x": positions})
        torch.testing.assert_close(got["pos_embed"], on_grid(positions, prefix, 5, 3))
        assert got["x"] is positions


def test_transformers_without_a_class_token_and_with_registers(tmp_path):
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, SiglipVisionConfig, SiglipVisionModel

    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    networks = {
        0: SiglipVisionModel(SiglipVisionConfig(intermediate_size=32, **shape)),
        5: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(num_register_tokens=4, **shape)),
    }
    images = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    for prefix, network in networks.items():
        folder = tmp_path / str(prefix)
        network.eval().save_pretrained(folder)
        processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 28}
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        with torch.no_grad():
            tokens = network((images - 0.5) / 0.5, output_hidden_states=True).hidden_states[1]
        assert tokens.shape[1] == prefix + 4
        got = load_encoder(f"transformers:{folder}@0:mean")(images)
        torch.testing.assert_close(got, tokens[:, prefix:].mean(1), atol=1e-5, rtol=1e-4)
