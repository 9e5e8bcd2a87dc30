"""timm and transformers, layers of one network in one pass, and blurred views: random weights, exact values."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from hvf.config import HvfError
from hvf.vision import parse_spec
from hvf.vision.cache import embed_all
from hvf.vision.loading import load_encoder
from hvf.vision.views import apply_view, gaussian


@pytest.fixture(scope="module")
def timm_vit(tmp_path_factory):
    import timm

    torch.manual_seed(0)
    network = timm.create_model("test_vit", pretrained=False).eval()
    path = tmp_path_factory.mktemp("timm") / "vit.safetensors"
    save_file({name: t.clone() for name, t in network.state_dict().items()}, path)
    return path, network


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14)
    network = Dinov2Model(config).eval()
    folder = tmp_path_factory.mktemp("dinov2")
    network.save_pretrained(folder)
    told = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.2, 0.1], "crop_size": {"height": 28, "width": 28}}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return folder, network


def scaled(images_N3HW, mean, std):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return (images_N3HW - mean) / std


def test_timm_gives_blocks_and_the_pooled_output(timm_vit):
    path, network = timm_vit
    size = network.pretrained_cfg["input_size"][1]
    crop = network.pretrained_cfg["crop_pct"]
    images = torch.rand(2, 3, round(size / crop), round(size / crop), generator=torch.Generator().manual_seed(0))
    edge = (images.shape[2] - size) // 2
    x = images[..., edge : edge + size, edge : edge + size]
    x = scaled(x, network.pretrained_cfg["mean"], network.pretrained_cfg["std"])
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(x), pre_logits=True)
        blocks = network.forward_intermediates(x, norm=False, output_fmt="NLC", intermediates_only=True)
    spec = f"timm:test_vit/{path}"
    torch.testing.assert_close(load_encoder(spec)(images), expected, atol=1e-5, rtol=1e-4)
    for layer, tokens_NTD in enumerate(blocks):
        got = load_encoder(f"{spec}@{layer}:mean")(images)
        torch.testing.assert_close(got, tokens_NTD.mean(1), atol=1e-5, rtol=1e-4)


def test_transformers_gives_blocks_class_token_and_patches(dinov2):
    folder, network = dinov2
    images = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = network(scaled(images, [0.5, 0.4, 0.3], [0.3, 0.2, 0.1]), output_hidden_states=True)
    spec = f"transformers:{folder}"
    torch.testing.assert_close(load_encoder(spec)(images), out.pooler_output, atol=1e-5, rtol=1e-4)
    for layer in range(3):
        tokens_NTD = out.hidden_states[layer + 1]
        for pool, expected in (
            (":mean", tokens_NTD[:, 1:].mean(1)),
            (":cls", tokens_NTD[:, 0]),
            ("", tokens_NTD[:, 0]),
        ):
            got = load_encoder(f"{spec}@{layer}{pool}")(images)
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_refusals_name_what_is_wrong(timm_vit, dinov2, tmp_path):
    for spec, said in (
        ("timm:test_vitt", "timm knows no 'test_vitt'; did you mean"),
        ("timm:test_vit//nowhere.safetensors", "there is no file /nowhere.safetensors"),
        (f"timm:test_vit/{timm_vit[0]}@99", "no layer '99'; blocks go from 0 to"),
        (f"timm:test_vit2/{timm_vit[0]}", "does not hold timm test_vit2"),
        (f"transformers:{dinov2[0]}@9", "no layer '9'; blocks go from 0 to 2"),
        (
            f"transformers:{tmp_path}",
            "config.json is missing; fetch it with: hf download ORG/REPOSITORY config.json --local-dir",
        ),
        ("transformers:some/repository", "hf download some/repository --include 'config.json' --include 'preproc"),
        ("dreamsim:synclr_vitb16", "dreamsim"),
    ):
        with pytest.raises(HvfError, match=said) as refusal:
            load_encoder(spec)
        assert "\n" not in str(refusal.value)


def test_layers_of_one_network_are_those_computed_alone(packaged, tmp_path):
    class Pictures:
        ids = ("a", "b", "c")
        digest = "three"

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return np.random.default_rng(index).integers(256, size=(64, 64, 3), dtype=np.uint8)

    specs = ["openclip:mini-vit@0:mean", "openclip:mini-vit", "openclip:mini-vit@2", "vae:mini", "vae:mini@32"]
    together = embed_all(Pictures(), specs, cache=tmp_path / "together")
    assert list(together) == specs
    for spec in specs:
        alone = embed_all(Pictures(), [spec], cache=tmp_path / "alone")[spec]
        np.testing.assert_array_equal(together[spec], alone)
    again = embed_all(Pictures(), specs, cache=tmp_path / "together")
    assert all(np.array_equal(again[spec], together[spec]) for spec in specs)


def test_the_kernel_is_the_one_that_opencv_makes_of_a_width():
    point = torch.zeros(1, 3, 101, 101)
    point[..., 50, 50] = 1.0
    spread = gaussian(point, 51)[0, 0]
    row = spread.sum(0)
    assert spread.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert torch.count_nonzero(row) == 51
    places = torch.arange(101.0) - 50
    taps = torch.exp(-places.square() / (2 * 8.0**2)) * (places.abs() <= 25)  # 0.3 (25 - 1) + 0.8 = 8 pixels
    torch.testing.assert_close(row, taps / taps.sum(), atol=1e-6, rtol=1e-4)


def test_the_fovea_is_half_sharp_at_the_centre_and_soft_in_the_corner():
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    soft, seen = gaussian(images, 51), apply_view(images, "fovea51")
    torch.testing.assert_close(seen[..., 112, 112], (images[..., 112, 112] + soft[..., 112, 112]) / 2)
    share = 0.5 * torch.exp(torch.tensor(-3.0))  # in the corner that is farthest
    torch.testing.assert_close(seen[..., 223, 223], share * images[..., 223, 223] + (1 - share) * soft[..., 223, 223])
    torch.testing.assert_close(apply_view(images, "blur51"), soft)


def test_views_are_part_of_a_spec(packaged, images_N3HW):
    spec = parse_spec("openclip:mini-vit@1:mean~fovea51")
    assert str(spec) == "openclip:mini-vit@1:mean~fovea51"
    assert (spec.layer, spec.pool, spec.view) == ("1", "mean", "fovea51")
    sharp, soft = load_encoder("openclip:mini-vit"), load_encoder("openclip:mini-vit~fovea51")
    assert sharp.weights_hash != soft.weights_hash
    torch.testing.assert_close(soft(images_N3HW), sharp(apply_view(images_N3HW, "fovea51")))
    for wrong in ("~fovea50", "~fog3", "~"):
        with pytest.raises(HvfError):
            parse_spec(f"openclip:mini-vit{wrong}")
    assert functional.mse_loss(soft(images_N3HW), sharp(images_N3HW)) > 0
