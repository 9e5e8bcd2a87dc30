"""Weights in half precision stay so, are shared with the file, and are hashed once; the arithmetic is float32's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from hvf.config import HvfError
from hvf.vision import encoder as encoding
from hvf.vision.filling import fill, half_type, without_values
from hvf.vision.loading import load_encoder
from hvf.vision.precision import compute_in_float32, input_type
from hvf.vision.weights import MINI_WEIGHTS


def sharded(state, folder, stem, count=3):
    """Write tensors as the shards of an index."""
    places = {}
    for k in range(count):
        part = dict(list(state.items())[k::count])
        file = f"{stem}-{k + 1:05d}-of-{count:05d}.safetensors"
        places |= dict.fromkeys(part, file)
        save_file(part, folder / file)
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.fixture
def vit(tmp_path):
    """A tiny timm ViT whose values fit float16, as float32 and float16 files."""
    import timm

    torch.manual_seed(0)
    state = timm.create_model("test_vit", pretrained=False).state_dict()
    half = {name: x.half() for name, x in state.items()}
    save_file(half, tmp_path / "half.safetensors")
    save_file({name: x.float() for name, x in half.items()}, tmp_path / "whole.safetensors")
    sharded(half, tmp_path, "model")
    return tmp_path


@pytest.mark.slow(part=7)
def test_half_weights_compute_as_their_float32_values(vit, images_N3HW):
    specs = {name: f"timm:test_vit/{vit}/{name}" for name in ("half.safetensors", "whole.safetensors")}
    specs["shards"] = f"timm:test_vit/{vit}/model.safetensors.index.json"
    for rest in ("", "@1:mean", "@0:flat", "@blocks.1.mlp:mean"):
        encoders = {name: load_encoder(spec + rest) for name, spec in specs.items()}
        expected = encoders["whole.safetensors"](images_N3HW)
        for encoder in encoders.values():
            assert torch.equal(encoder(images_N3HW), expected)
            assert torch.equal(encoder(images_N3HW), expected)  # the copies of a pass leave nothing behind
            assert encoder.weights_hash == encoders["shards"].weights_hash
    network = encoders["half.safetensors"]._tower.network
    assert {x.dtype for x in network.blocks.parameters()} == {torch.float16}
    assert input_type(network) is torch.float32


def test_a_pass_that_fails_leaves_halves(vit):
    network = load_encoder(f"timm:test_vit/{vit}/half.safetensors")._tower.network
    with pytest.raises(RuntimeError):
        network.blocks[0](torch.zeros(1, 3, 5))
    assert {x.dtype for x in network.blocks.parameters()} == {torch.float16}


def test_what_overflows_in_float16_is_computed_in_float32(vit, images_N3HW, monkeypatch):
    state = load_file(vit / "half.safetensors")
    state["blocks.0.mlp.fc1.weight"] = 6e4 * state["blocks.0.mlp.fc1.weight"].sign()
    save_file(state, vit / "large.safetensors")
    expected = load_encoder(f"timm:test_vit/{vit}/large.safetensors@0:mean")(images_N3HW)
    monkeypatch.setattr(encoding, "place", lambda network, device: None)  # as on a GPU: in its own precision
    own = load_encoder(f"timm:test_vit/{vit}/large.safetensors@0:mean")
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(own(images_N3HW), expected)
    half = load_encoder(f"timm:test_vit/{vit}/half.safetensors@0:mean")
    assert input_type(half._tower.network) is torch.float16


def test_a_clip_in_shards_is_the_clip_in_one_file(models, tmp_path, images_N3HW):
    whole = models[0] / "clip-vit"
    state = load_file(whole / "open_clip_model.safetensors")
    config = (whole / "open_clip_config.json").read_text()
    for stem in ("open_clip_model", "model"):
        folder = tmp_path / stem
        folder.mkdir()
        (folder / "open_clip_config.json").write_text(config)
        sharded(state, folder, stem)
        for rest in ("", "@1:mean"):
            one, many = load_encoder(f"openclip:{whole}{rest}"), load_encoder(f"openclip:{folder}{rest}")
            assert torch.equal(one(images_N3HW), many(images_N3HW))
            assert one.weights_hash == many.weights_hash
    (folder / "model-00003-of-00003.safetensors").unlink()
    (tmp_path / "open_clip_model" / "open_clip_model-00001-of-00003.safetensors").unlink()
    for stem, missing in (("model", "model-00003-of-00003"), ("open_clip_model", "open_clip_model-00001-of-00003")):
        said = f"lacks {missing}.safetensors of the 3 shards .* fetch it with: hf download ORG/REPOSITORY {missing}"
        with pytest.raises(HvfError, match=said):
            load_encoder(f"openclip:{tmp_path / stem}")


def test_indices_that_name_no_files_or_other_tensors_are_refused(vit):
    index = vit / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    for content, said in (
        (
            {"weight_map": {**places, "blocks.7.more": places["cls_token"]}},
            "lists blocks.7.more, which its shards do not",
        ),
        ({"weight_map": {"cls_token": "../half.safetensors"}}, "does not hold an index of shards"),
        ({"weight_map": {}}, "does not hold an index of shards"),
        ([], "does not hold an index of shards"),
    ):
        index.write_text(json.dumps(content))
        with pytest.raises(HvfError, match=said) as refusal:
            load_encoder(f"timm:test_vit/{index}")
        assert "\n" not in str(refusal.value)


def test_only_halves_throughout_count_as_half():
    half, whole = torch.zeros(2).half(), torch.zeros(2)
    assert half_type([half, torch.zeros(1, dtype=torch.long)]) is torch.float16
    assert half_type([half, whole]) is half_type([half, half.bfloat16()]) is half_type([whole.double()]) is None
    with without_values():
        network = torch.nn.Linear(2, 2)
    fill(network, {"weight": torch.eye(2).half(), "bias": torch.zeros(2).double()}, "file")
    assert network.weight.dtype is network.bias.dtype is torch.float32
    built = torch.nn.Linear(2, 2)
    assert not built.weight.is_meta
    compute_in_float32(built)


def test_weights_are_hashed_once(vit, images_N3HW, monkeypatch, tmp_path):
    monkeypatch.setenv("HVF_CACHE", str(tmp_path / "cache"))
    calls, hashing = [], encoding.weights_hash
    monkeypatch.setattr(encoding, "weights_hash", lambda *given: calls.append(1) or hashing(*given))
    passes, width = [], encoding.FrozenEncoder._width
    monkeypatch.setattr(encoding.FrozenEncoder, "_width", lambda self: passes.append(1) or width(self))
    path = vit / "half.safetensors"
    spec = f"timm:test_vit/{path}"
    time.sleep(0.2)  # nothing is remembered of a file that was written just now
    first = load_encoder(spec)
    again = load_encoder(spec)
    assert (len(calls), len(passes)) == (1, 1)
    assert (again.weights_hash, again.dim) == (first.weights_hash, first.dim)
    assert not again._placed  # nothing was read or moved for it
    torch.testing.assert_close(again(images_N3HW), first(images_N3HW))
    assert load_encoder(f"{spec}@1:mean").weights_hash == first.weights_hash
    assert (len(calls), len(passes)) == (1, 2)

    state = load_file(path)
    state = {name: x.clone() for name, x in state.items()}
    state["cls_token"] += 1
    times = path.stat()
    save_file(state, vit / "other")
    os.replace(vit / "other", path)  # the same size and time, another inode
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    changed = load_encoder(spec)
    assert changed.weights_hash != first.weights_hash
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert load_encoder(spec).weights_hash == changed.weights_hash
    assert len(calls) == 3
    for damaged in (tmp_path / "cache" / "weights").iterdir():
        damaged.write_text("{")
    assert load_encoder(spec).weights_hash == changed.weights_hash
    assert len(calls) == 4
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HVF_CACHE", str(tmp_path / "file" / "cache"))  # cannot be written: hashed each time
    assert load_encoder(spec).weights_hash == changed.weights_hash


def test_a_vae_too_is_hashed_once_and_again_when_its_weights_change(monkeypatch, tmp_path):
    monkeypatch.setenv("HVF_CACHE", str(tmp_path / "cache"))
    passes, width = [], encoding.FrozenEncoder._width
    monkeypatch.setattr(encoding.FrozenEncoder, "_width", lambda self: passes.append(1) or width(self))
    folder = shutil.copytree(MINI_WEIGHTS / "sdxl" / "vae", tmp_path / "vae")
    time.sleep(0.2)  # nothing is remembered of a file that was written just now
    first = load_encoder(f"vae:{folder}@64")
    again = load_encoder(f"vae:{folder}@64")
    assert (again.weights_hash, again.dim, len(passes)) == (first.weights_hash, 256, 1)
    assert load_encoder(f"vae:{folder}@128").weights_hash != first.weights_hash
    weights = folder / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state["encoder.conv_in.bias"] += 1
    save_file(state, weights)
    assert load_encoder(f"vae:{folder}@64").weights_hash != first.weights_hash


MEASURE = """
import sys, torch
from hvf.vision.loading import load_encoder
from hvf.vision.weights import read_state
import transformers.models.internvl.modeling_internvl, transformers.models.dinov2.modeling_dinov2
import timm, open_clip

def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024

load_encoder("openclip:mini-vit@2:mean")  # whatever is loaded and allocated once
images = torch.rand(1, 3, 28, 28)
before = peak()
encoder = load_encoder(sys.argv[1])
loaded = peak()
encoder(images)
print(before, loaded, peak(), encoder.weights_hash)
"""


@pytest.mark.slow(part=6)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_loading_takes_the_memory_of_the_weights_and_a_shard(tmp_path):
    """300 MB of bfloat16 in shards of 50: a float32 copy would be 600 more. Read twice, hashed once."""
    config = {
        "model_type": "intern_vit_6b", "hidden_size": 768, "num_hidden_layers": 22, "num_attention_heads": 12,
        "intermediate_size": 3072, "image_size": 28, "patch_size": 14, "hidden_act": "gelu", "norm_type": "rms_norm",
        "layer_norm_eps": 1e-6, "qk_normalization": True, "qkv_bias": False,
    }  # fmt: skip
    d, m = config["hidden_size"], config["intermediate_size"]
    state = {
        "embeddings.class_embedding": torch.zeros(1, 1, d),
        "embeddings.position_embedding": torch.zeros(1, 5, d),
        "embeddings.patch_embedding.weight": torch.zeros(d, 3, 14, 14),
        "embeddings.patch_embedding.bias": torch.zeros(d),
    }
    for i in range(config["num_hidden_layers"]):
        block = {"attn.qkv.weight": (3 * d, d), "attn.proj.weight": (d, d), "attn.proj.bias": (d,), "ls1": (d,)}
        block |= {"mlp.fc1.weight": (m, d), "mlp.fc1.bias": (m,), "mlp.fc2.weight": (d, m), "mlp.fc2.bias": (d,)}
        block |= {f"{name}.weight": (d,) for name in ("norm1", "norm2", "attn.q_norm", "attn.k_norm")} | {"ls2": (d,)}
        state |= {f"encoder.layers.{i}.{name}": torch.full(shape, 0.01) for name, shape in block.items()}
    state = {name: x.bfloat16() for name, x in state.items()}
    weights = sum(2 * x.numel() for x in state.values()) / 2**20
    sharded(state, tmp_path, "model", 6)
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 28}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert weights > 290
    figures = []
    for _ in range(2):
        environment = {**os.environ, "HVF_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", MEASURE, f"transformers:{tmp_path}@20:mean"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        *numbers, name = done.stdout.split()
        before, loaded, used = map(float, numbers)
        figures.append((loaded - before, used - before, name))
    print(f"weights {weights:.0f} MB; loaded, used: {figures}")
    (first, first_used, name), (again, again_used, same) = figures
    assert name == same
    assert max(first, first_used, again_used) < weights + weights / 6 + 40
    assert again < 40  # neither hashed nor run: nothing is read
