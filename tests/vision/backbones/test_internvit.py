"""InternViT as published: its keys, in shards and in half precision, give what the published definition gives."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from hvf.config import HvfError
from hvf.vision.backbones.internvit import build, renamed
from hvf.vision.loading import load_encoder
from hvf.vision.precision import blocks_of

MEAN, SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TINY = {
    "model_type": "intern_vit_6b",
    "auto_map": {"AutoModel": "modeling_intern_vit.InternVisionModel"},
    "architectures": ["InternVisionModel"],
    "hidden_size": 24,
    "num_hidden_layers": 5,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 28,
    "patch_size": 7,
    "hidden_act": "gelu",
    "norm_type": "rms_norm",
    "layer_norm_eps": 1e-3,
    "qk_normalization": True,
    "qkv_bias": False,
    "torch_dtype": "bfloat16",
    "_name_or_path": "OpenGVLab/InternViT-tiny",
}
SIX_B = TINY | {
    "hidden_size": 3200, "num_hidden_layers": 45, "num_attention_heads": 25, "intermediate_size": 12800,
    "image_size": 448, "patch_size": 14, "layer_norm_eps": 1e-6,
}  # fmt: skip


def shapes(config):
    """The published tensors and their shapes."""
    d, m, p = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    out = {
        "embeddings.class_embedding": (1, 1, d),
        "embeddings.position_embedding": (1, (config["image_size"] // p) ** 2 + 1, d),
        "embeddings.patch_embedding.weight": (d, 3, p, p),
        "embeddings.patch_embedding.bias": (d,),
    }
    for i in range(config["num_hidden_layers"]):
        block = {"attn.qkv.weight": (3 * d, d), "attn.proj.weight": (d, d), "attn.proj.bias": (d,), "ls1": (d,)}
        block |= {"mlp.fc1.weight": (m, d), "mlp.fc1.bias": (m,), "mlp.fc2.weight": (d, m), "mlp.fc2.bias": (d,)}
        block |= {"norm1.weight": (d,), "norm2.weight": (d,), "ls2": (d,)}
        if config["norm_type"] == "layer_norm":
            block |= {"norm1.bias": (d,), "norm2.bias": (d,)}
        if config["qkv_bias"]:
            block |= {"attn.qkv.bias": (3 * d,)}
        if config["qk_normalization"]:
            block |= {"attn.q_norm.weight": (d,), "attn.k_norm.weight": (d,)}
        out |= {f"encoder.layers.{i}.{name}": shape for name, shape in block.items()}
    return out


def published(config, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = {name: torch.randn(shape, generator=generator) for name, shape in shapes(config).items()}
    return {name: (1 + 0.3 * x if x.ndim == 1 else 0.2 * x).bfloat16() for name, x in draw.items()}


def save(folder, config, state, shards=3):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    size = config["image_size"]
    processor = {"image_mean": MEAN, "image_std": SD, "crop_size": size, "size": size, "do_center_crop": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    names, places = list(state), {}
    for k in range(shards):
        file = f"model-{k + 1:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors"
        part = {name: state[name] for name in names[k::shards]}
        places |= dict.fromkeys(part, file)
        save_file(part, folder / file, {"format": "pt"})
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def hidden_states(state, config, images_N3HW):
    """Tokens after the embeddings and after every block, as the published definition says it, in float32."""
    state = {name: x.float() for name, x in state.items()}
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]
    mean, sd = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, SD))

    def norm(x, name):
        weight = state[f"{name}.weight"]
        if config["norm_type"] == "layer_norm" and "attn" not in name:  # q and k always have the other
            return functional.layer_norm(x, x.shape[-1:], weight, state[f"{name}.bias"], eps)
        return weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()

    weight = state["embeddings.patch_embedding.weight"]
    patches = functional.conv2d(
        (images_N3HW - mean) / sd, weight, state["embeddings.patch_embedding.bias"], stride=weight.shape[-1]
    )
    n, d, h, w = patches.shape
    positions = state["embeddings.position_embedding"]
    side = int((positions.shape[1] - 1) ** 0.5)
    grid = positions[:, 1:].reshape(1, side, side, d).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, (h, w), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    x = torch.cat([state["embeddings.class_embedding"].expand(n, 1, d), patches.flatten(2).transpose(1, 2)], 1)
    x = x + torch.cat([positions[:, :1], grid], 1)
    states = [x]
    for i in range(config["num_hidden_layers"]):
        name = f"encoder.layers.{i}"
        y = norm(x, f"{name}.norm1")
        qkv = y @ state[f"{name}.attn.qkv.weight"].T + state.get(f"{name}.attn.qkv.bias", torch.zeros(3 * d))
        q, k, v = qkv.reshape(n, -1, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        if config["qk_normalization"]:  # over all heads together
            q, k = (
                norm(z.transpose(1, 2).flatten(2), f"{name}.attn.{letter}_norm")
                .unflatten(2, (heads, -1))
                .transpose(1, 2)
                for letter, z in (("q", q), ("k", k))
            )
        attention = ((q * (d // heads) ** -0.5) @ k.transpose(2, 3)).softmax(-1)
        y = (attention @ v).transpose(1, 2).flatten(2)
        x = x + state[f"{name}.ls1"] * (y @ state[f"{name}.attn.proj.weight"].T + state[f"{name}.attn.proj.bias"])
        y = norm(x, f"{name}.norm2") @ state[f"{name}.mlp.fc1.weight"].T + state[f"{name}.mlp.fc1.bias"]
        y = functional.gelu(y) @ state[f"{name}.mlp.fc2.weight"].T + state[f"{name}.mlp.fc2.bias"]
        x = x + state[f"{name}.ls2"] * y
        states.append(x)
    return states


def own_format(folder, config, state):
    """The same network as transformers itself writes it, built without the package."""
    from transformers import InternVLVisionConfig, InternVLVisionModel

    network = InternVLVisionModel(
        InternVLVisionConfig(
            hidden_size=config["hidden_size"], num_hidden_layers=config["num_hidden_layers"],
            num_attention_heads=config["num_attention_heads"], intermediate_size=config["intermediate_size"],
            image_size=config["image_size"], patch_size=config["patch_size"], norm_type=config["norm_type"],
            layer_norm_eps=config["layer_norm_eps"], use_qk_norm=config["qk_normalization"],
            attention_bias=config["qkv_bias"], use_mean_pooling=True,
        )
    ).bfloat16()  # fmt: skip
    own = {"cls_token": "class_embedding", "position_embeddings": "position_embedding"}
    with torch.no_grad():
        for ours, theirs in own.items():
            getattr(network.embeddings, ours).copy_(state[f"embeddings.{theirs}"])
        for kind in ("weight", "bias"):
            getattr(network.embeddings.patch_embeddings.projection, kind).copy_(
                state[f"embeddings.patch_embedding.{kind}"]
            )
        for i, block in enumerate(network.encoder.layer):
            name, attention = f"encoder.layers.{i}", block.attention
            linear = [attention.q_proj, attention.k_proj, attention.v_proj]
            for kind in ("weight", "bias"):
                if f"{name}.attn.qkv.{kind}" in state:
                    for module, part in zip(linear, state[f"{name}.attn.qkv.{kind}"].chunk(3), strict=True):
                        getattr(module, kind).copy_(part)
                places = {"attn.proj": attention.projection_layer, "mlp.fc1": block.mlp.fc1, "mlp.fc2": block.mlp.fc2}
                places |= {"norm1": block.layernorm_before, "norm2": block.layernorm_after}
                places |= {"attn.q_norm": attention.q_norm, "attn.k_norm": attention.k_norm}
                for place, module in places.items():
                    if f"{name}.{place}.{kind}" in state:
                        getattr(module, kind).copy_(state[f"{name}.{place}.{kind}"])
            block.lambda_1.copy_(state[f"{name}.ls1"])
            block.lambda_2.copy_(state[f"{name}.ls2"])
    network.save_pretrained(folder, max_shard_size="12KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    processor = {"image_mean": MEAN, "image_std": SD, "crop_size": config["image_size"]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


VARIANTS = {
    "6B": TINY,
    "300M": TINY | {"norm_type": "layer_norm", "qk_normalization": False, "qkv_bias": True},
    "mixed": TINY | {"qkv_bias": True},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_published_keys_give_the_features_of_the_published_definition(name, tmp_path):
    config = VARIANTS[name]
    state = published(config)
    folder = save(tmp_path / "published", config, state)
    images = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    states = hidden_states(state, config, images)
    for layer in range(config["num_hidden_layers"]):  # @N is what the literature calls layer N + 1
        got = load_encoder(f"transformers:{folder}@{layer}:mean")(images)
        torch.testing.assert_close(got, states[layer + 1][:, 1:].mean(1), atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(load_encoder(f"transformers:{folder}")(images), states[-1][:, 0], atol=2e-4, rtol=1e-4)
    whole = save(tmp_path / "one-file", config, state, shards=1)
    encoder, one = load_encoder(f"transformers:{folder}@2:flat"), load_encoder(f"transformers:{whole}@2:flat")
    assert torch.equal(encoder(images), one(images))
    assert encoder.weights_hash == one.weights_hash
    moved = {**state, "encoder.layers.0.attn.qkv.weight": state["encoder.layers.0.attn.qkv.weight"].roll(1, 0)}
    other = load_encoder(f"transformers:{save(tmp_path / 'other', config, moved)}@2:flat")
    assert not torch.allclose(other(images), one(images), atol=1e-2)


def test_both_formats_give_the_same_features(tmp_path):
    config = TINY | {"layer_norm_eps": 1e-6}  # transformers' own format has no other for q and k
    state = published(config)
    theirs = own_format(tmp_path / "transformers", config, state)
    ours = save(tmp_path / "published", config, state)
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    for rest in ("", "@0", "@3:mean", "@4:flat"):
        encoders = [load_encoder(f"transformers:{folder}{rest}") for folder in (ours, theirs)]
        assert torch.equal(encoders[0](images), encoders[1](images))
        assert encoders[0].weights_hash == encoders[1].weights_hash


def test_the_network_of_6_billion_has_the_published_tensors():
    with torch.device("meta"):
        network = build(SIX_B, "config.json")
        tensors = {name: torch.empty(shape) for name, shape in shapes(SIX_B).items()}
    given = renamed(tensors, "model.safetensors")
    own = network.state_dict()
    assert {name: x.shape for name, x in given.items()} == {name: x.shape for name, x in own.items()}
    assert sum(x.numel() for x in own.values()) == sum(x.numel() for x in tensors.values()) == 5_536_496_000
    assert len(blocks_of(network)) == 45


def test_what_does_not_fit_is_named(tmp_path):
    state = published(TINY)
    block = "encoder.layers.3."
    without = {name: x for name, x in state.items() if name != f"{block}attn.q_norm.weight"}
    folder = save(tmp_path / "whole", TINY, state)
    (folder / "model-00002-of-00003.safetensors").unlink()
    (save(tmp_path / "no-processor", TINY, state) / "preprocessor_config.json").unlink()
    for name, config, tensors, said in (
        ("lacks", TINY, without, "no encoder.layer.3.attention.q_norm.weight"),
        ("more", TINY, state | {"head.weight": torch.zeros(2)}, "it has head.weight, which InternViT has not"),
        ("bias", TINY, published(VARIANTS["mixed"]), "attention.q_proj.bias has no place in it"),
        ("wide", TINY | {"intermediate_size": 48}, state, r"mlp.fc1.bias is \(40,\), not \(48,\)"),
        ("norm", TINY | {"norm_type": "batch_norm"}, state, "norm_type is 'batch_norm', not 'rms_norm'"),
        ("heads", TINY | {"num_attention_heads": 7}, state, "is no configuration of InternViT: embed_dim"),
        ("none", {k: v for k, v in TINY.items() if k != "qkv_bias"}, state, "it has no qkv_bias"),
        ("whole", None, None, "lacks model-00002-of-00003.safetensors of the 3 shards .* hf download "
         "OpenGVLab/InternViT-tiny model-00002-of-00003.safetensors --local-dir"),
        ("no-processor", None, None, "preprocessor_config.json is missing; fetch it with: hf download OpenGVLab/"),
    ):  # fmt: skip
        place = tmp_path / name if config is None else save(tmp_path / name, config, tensors)
        with pytest.raises(HvfError, match=said) as refusal:
            load_encoder(f"transformers:{place}@2")
        assert "\n" not in str(refusal.value)


def test_its_own_code_is_never_run(tmp_path):
    folder = save(tmp_path / "folder", TINY, published(TINY))
    (folder / "modeling_intern_vit.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    load_encoder(f"transformers:{folder}@1")
    assert not (tmp_path / "ran").exists()
