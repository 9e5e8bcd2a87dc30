"""Encoders give what the models behind them give, and refuse files that are absent, broken or another model's."""

from __future__ import annotations

import json
import shutil

import huggingface_hub
import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from hvf.config import HvfError
from hvf.vision.loading import load_encoder

PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.1]}  # as the tiny models in conftest.py have it


def normalised(images_N3HW):
    mean, std = (torch.tensor(PREPROCESS[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (images_N3HW - mean) / std


def refusal(spec, match):
    with pytest.raises(HvfError, match=match) as caught:
        load_encoder(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_0().eval()
    folder = tmp_path_factory.mktemp("squeezenet")
    np.savez(folder / "s.npz", **{name: t.numpy() for name, t in network.state_dict().items()})
    torch.save(network.state_dict(), folder / "s.pth")
    return folder, network


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_openclip_gives_the_image_projection(kind, packaged, images_N3HW):
    encoder = load_encoder(f"openclip:mini-{kind}")
    got = encoder(images_N3HW)
    assert got.dtype == torch.float32
    assert not got.requires_grad
    assert encoder.dim == 12
    torch.testing.assert_close(got, packaged[kind].encode_image(normalised(images_N3HW)).detach())
    assert torch.equal(got, encoder(images_N3HW))


def test_openclip_folder_is_the_packaged_model(models, packaged, images_N3HW):
    by_path, by_name = load_encoder(f"openclip:{models[0]}/clip-vit"), load_encoder("openclip:mini-vit")
    assert by_path.weights_hash == by_name.weights_hash
    assert torch.equal(by_path(images_N3HW), by_name(images_N3HW))


def test_transformer_blocks_and_their_pools(packaged, images_N3HW):
    tokens_NTD = {}
    for number, block in enumerate(packaged["vit"].visual.transformer.resblocks):
        block.register_forward_hook(lambda _m, _i, out, number=number: tokens_NTD.update({number: out.detach()}))
    packaged["vit"].encode_image(normalised(images_N3HW))
    for number, out_NTD in tokens_NTD.items():
        get = lambda pool, n=number: load_encoder(f"openclip:mini-vit@{n}{pool}")(images_N3HW)  # noqa: E731
        torch.testing.assert_close(get(""), out_NTD[:, 0])
        torch.testing.assert_close(get(":cls"), out_NTD[:, 0])
        torch.testing.assert_close(get(":mean"), out_NTD[:, 1:].mean(1))
        patches = out_NTD[:, 1:].reshape(3, 2, 2, 2, 2, 24)  # grid row, row in it, grid column, column in it
        torch.testing.assert_close(get(":grid2"), patches.mean((2, 4)).permute(0, 3, 1, 2).flatten(1))
        torch.testing.assert_close(get(":flat"), out_NTD[:, 1:].transpose(1, 2).flatten(1))


def test_resnet_stages_and_their_pools(packaged, images_N3HW):
    x = packaged["resnet"].visual.stem(normalised(images_N3HW))
    visual = packaged["resnet"].visual
    for name in ("layer1", "layer2", "layer3", "layer4"):
        x = getattr(visual, name)(x).detach()
        torch.testing.assert_close(load_encoder(f"openclip:mini-resnet@{name}")(images_N3HW), x.mean((2, 3)))
        torch.testing.assert_close(load_encoder(f"openclip:mini-resnet@{name}:flat")(images_N3HW), x.flatten(1))
    refusal("openclip:mini-resnet@layer2:cls", "no class token")
    refusal("openclip:mini-resnet@layer4:grid9", "too small")
    refusal("openclip:mini-resnet@layer9", "layer1, layer2")
    refusal("openclip:mini-vit@3", "there is 0, 1, 2")


def test_images_are_resized_as_open_clip_resizes_them(packaged):
    from open_clip import image_transform

    rng = np.random.default_rng(0)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(rng.random((1, 3, 9, 12))), (90, 120), mode="bicubic")
    pixels_HW3 = (smooth[0].permute(1, 2, 0).clamp(0, 1) * 255).byte().numpy()
    transform = image_transform(64, is_train=False, mean=tuple(PREPROCESS["mean"]), std=tuple(PREPROCESS["std"]))
    expected = packaged["vit"].encode_image(transform(torchvision.transforms.ToPILImage()(pixels_HW3))[None])
    ours = load_encoder("openclip:mini-vit")(torch.from_numpy(pixels_HW3).permute(2, 0, 1)[None] / 255)
    assert torch.nn.functional.cosine_similarity(ours, expected).item() > 0.999  # PIL rounds to 8 bits, tensors do not


def test_hash_follows_weights_and_preprocessing(clip_folder, tmp_path):
    clip_folder(tmp_path / "a", "vit")
    clip_folder(tmp_path / "same", "vit")
    clip_folder(tmp_path / "weights", "vit", seed=1)
    clip_folder(tmp_path / "mean", "vit", preprocess={**PREPROCESS, "mean": [0.5, 0.5, 0.5]})
    hashes = {f.name: load_encoder(f"openclip:{f}").weights_hash for f in tmp_path.iterdir()}
    assert hashes["a"] == hashes["same"]
    assert len({hashes["a"], hashes["weights"], hashes["mean"]}) == 3


def test_vae_gives_scaled_modes_in_channel_row_column_order(models, packaged, images_N3HW):
    latents = packaged["vae"].encode(images_N3HW * 2 - 1).latent_dist.mode().detach() * 0.25
    encoder = load_encoder("vae:mini")
    assert encoder.dim == 4 * 8 * 8
    torch.testing.assert_close(encoder(images_N3HW), latents.flatten(1))
    torch.testing.assert_close(load_encoder("vae:mini:mean")(images_N3HW), latents.mean((2, 3)))
    pooled = latents.reshape(3, 4, 2, 4, 2, 4).mean((3, 5)).flatten(1)
    torch.testing.assert_close(load_encoder("vae:mini:grid2")(images_N3HW), pooled)
    assert load_encoder("vae:mini@32").dim == 4 * 4 * 4
    assert load_encoder(f"vae:{models[0]}/sdxl/vae").dim == 1024  # 128 px unless told: SDXL's 1024 latents
    assert load_encoder(f"vae:{models[0]}/sdxl@64")(images_N3HW).equal(encoder(images_N3HW))  # a pipeline's folder


def test_taesd_files_give_their_latents(tmp_path, images_N3HW):
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    vae = AutoencoderTiny().eval()
    save_file(vae.encoder.layers.state_dict(), tmp_path / "taesdxl_encoder.safetensors")
    expected = vae.encode(images_N3HW * 2 - 1).latents.detach().flatten(1)
    for name in (tmp_path, tmp_path / "taesdxl_encoder.safetensors"):
        torch.testing.assert_close(load_encoder(f"vae:{name}@64")(images_N3HW), expected)


def test_squeezenet_from_caffe_sees_bgr_minus_the_mean(squeezenet):
    folder, network = squeezenet
    images_N3HW = torch.rand(2, 3, 227, 227, generator=torch.Generator().manual_seed(0))
    bgr = images_N3HW[:, [2, 1, 0]] * 255 - torch.tensor([104.0, 117.0, 123.0]).view(1, 3, 1, 1)
    final = network.features(bgr).detach()
    encoder = load_encoder(f"torchvision:squeezenet1_0/{folder}/s.npz")
    assert encoder.dim == 512
    torch.testing.assert_close(encoder(images_N3HW), final.mean((2, 3)))
    early = load_encoder(f"torchvision:squeezenet1_0/{folder}/s.npz@3:grid2")(images_N3HW)
    torch.testing.assert_close(early, torch.nn.functional.adaptive_avg_pool2d(network.features[:4](bgr), 2).flatten(1))


def test_torchvision_checkpoints_see_torchvision_preprocessing(squeezenet, images_N3HW):
    folder, network = squeezenet
    prepare = torchvision.models.SqueezeNet1_0_Weights.DEFAULT.transforms()
    got = load_encoder(f"torchvision:squeezenet1_0/{folder}/s.pth")(images_N3HW)
    torch.testing.assert_close(got, network.features(prepare(images_N3HW)).mean((2, 3)))


def test_encoders_refuse_what_is_not_a_batch_of_rgb_floats(packaged):
    encoder = load_encoder("vae:mini")
    for bad in (torch.rand(3, 64, 64), torch.rand(1, 1, 64, 64), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)):
        with pytest.raises(HvfError, match="N, 3, H, W"):
            encoder(bad)


def test_missing_weights_name_file_and_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    from hvf.vision import weights

    monkeypatch.setattr(weights, "MINI_WEIGHTS", tmp_path)
    says = refusal("openclip:ViT-H-14/laion2b_s32b_b79k", "open_clip_model.safetensors")
    assert "hf download laion/CLIP-ViT-H-14-laion2B-s32B-b79K open_clip_model.safetensors" in says
    says = refusal("vae:sdxl", "vae/config.json")
    fetch = "hf download stabilityai/stable-diffusion-xl-base-1.0"
    assert f"{fetch} vae/config.json vae/diffusion_pytorch_model.safetensors" in says
    refusal("vae:some/repository", "hf download some/repository")
    refusal("torchvision:squeezenet1_0", "curl -LO https://download.pytorch.org/models/squeezenet1_0")
    refusal("torchvision:squeezenet1_0//nowhere/s.npz", "/nowhere/s.npz is missing; fetch one with: curl")
    refusal("openclip:mini-vit", "open_clip_config.json is missing from the package.*train_mini")
    refusal("vae:mini", "sdxl/vae/config.json is missing from the package")
    refusal(f"openclip:{tmp_path}/clip", "open_clip_config.json is missing")
    refusal("vae:/nowhere/vae", "no file or folder /nowhere/vae")
    refusal(f"vae:{tmp_path}", "neither a config.json nor one")


def test_unknown_names_get_a_suggestion():
    refusal("openclip:ViT-B32/laion2b_s34b_b79k", "did you mean 'ViT-B-32'")
    refusal("openclip:ViT-B-32/laion2b_s34b_b97k", "did you mean 'laion2b_s34b_b79k'")
    refusal("openclip:ViT-B-32", "name the weights.*openclip:ViT-B-32/")
    refusal("openclip:mini-vat", "did you mean 'mini-vit'")
    refusal("vae:taesdlx", "did you mean 'taesdxl'")
    refusal("torchvision:squeezenet10", "did you mean 'squeezenet1_0'")


def test_unknown_layer_of_a_torchvision_network(squeezenet):
    refusal(f"torchvision:squeezenet1_0/{squeezenet[0]}/s.npz@feature.12", "did you mean 'features.12'")
    refusal(f"torchvision:squeezenet1_0/{squeezenet[0]}/s.npz@99", "no layer 'features.99'")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_broken_and_foreign_weights_are_named(models, squeezenet, tmp_path):
    for kind, name in (("openclip", "clip-vit"), ("vae", "sdxl/vae")):
        copy = tmp_path / name
        shutil.copytree(models[0] / name, copy)
        truncate(next(copy.glob("*.safetensors")))
        refusal(f"{kind}:{copy}", "does not hold")
    other = tmp_path / "clip-other"
    shutil.copytree(models[0] / "clip-vit", other)
    shutil.copy(models[0] / "clip-resnet" / "open_clip_model.safetensors", other)
    refusal(f"openclip:{other}", "clip-other does not hold an open_clip model")
    for name in ("s.npz", "s.pth"):
        shutil.copy(squeezenet[0] / name, tmp_path)
        truncate(tmp_path / name)
        refusal(f"torchvision:squeezenet1_0/{tmp_path}/{name}", f"{name} does not hold torchvision squeezenet1_0")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "foreign.pth")
    refusal(f"torchvision:squeezenet1_0/{tmp_path}/foreign.pth", "foreign.pth does not hold")
    refusal(f"torchvision:alexnet/{squeezenet[0]}/s.npz", "squeezenet1_0 alone")
    save_file({"weight": torch.zeros(1)}, tmp_path / "x_encoder.safetensors")
    refusal(f"vae:{tmp_path}/x_encoder.safetensors", "does not hold a TAESD encoder")


def test_a_vae_folder_of_another_class_or_with_other_tensors_is_refused(models, tmp_path):
    shutil.copytree(models[0] / "sdxl" / "vae", tmp_path / "vae")
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    (tmp_path / "vae" / "config.json").write_text(json.dumps({**config, "layers_per_block": 2}))
    refusal(f"vae:{tmp_path}/vae", "does not (fit|hold)")
    (tmp_path / "vae" / "config.json").write_text(json.dumps({**config, "_class_name": "UNet2DModel"}))
    refusal(f"vae:{tmp_path}/vae", "describes UNet2DModel")
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    refusal(f"vae:{tmp_path}/vae", "no weights")


def test_a_pickle_that_would_run_code_does_not(squeezenet, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"features.0.weight": Trap()}, tmp_path / "trap.pth")
    refusal(f"torchvision:squeezenet1_0/{tmp_path}/trap.pth", "trap.pth does not hold")
    assert not (tmp_path / "ran").exists()
