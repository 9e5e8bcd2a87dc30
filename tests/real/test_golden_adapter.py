"""The IP-Adapter against stored outputs of tencent's code: a prior whose HVF and projector are left aside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, safe_open

from hvf.config import HvfError
from hvf.prior.adapter import adapter_layers, detach, export_ip_adapter
from hvf.prior.loading import load_prior
from hvf.prior.model import FusionPrior, TextConditions
from hvf.prior.published import start_from_ip_adapter
from tests.real.golden import close, pipeline


def golden_adapter(folder: Path, unet, weights: str) -> FusionPrior:
    prior = FusionPrior.for_unet(unet, {"unused": 1}, width=20, intermediate=1, projector_intermediate=1).eval()
    start_from_ip_adapter(prior, folder / weights)
    return prior


@pytest.fixture(scope="module")
def adapter_folder(shared_data):
    return shared_data / "golden" / "ip_adapter"


@pytest.fixture(scope="module")
def adapter_unet(adapter_folder):
    return UNet2DConditionModel.from_pretrained(adapter_folder / "unet").requires_grad_(False)


def test_adapter_layers_and_keys_in_the_released_order(adapter_folder, adapter_unet, tmp_path):
    order = json.loads((adapter_folder / "key_order.json").read_text())["this_unet"]["cross_attention"]
    processors = list(adapter_unet.attn_processors)
    layers = [(processors.index(x.name), x.name, x.width, x.cross_attention_dim) for x in adapter_layers(adapter_unet)]
    assert layers == [(x["index"], x["processor"], x["hidden"], x["cross_attention_dim"]) for x in order]
    exported = export_ip_adapter(golden_adapter(adapter_folder, adapter_unet, "ip-adapter.safetensors"), tmp_path)
    with safe_open(exported, "pt") as ours, safe_open(adapter_folder / "ip-adapter.safetensors", "pt") as theirs:
        assert set(ours.keys()) == set(theirs.keys())
        assert all(torch.equal(ours.get_tensor(key), theirs.get_tensor(key)) for key in ours.keys())  # noqa: SIM118


@pytest.mark.slow(part=7)
def test_adapter_layers_of_the_real_sdxl(adapter_folder, shared_data):
    config = json.loads((shared_data / "golden/brain_hive_prior/unet/config.json").read_text())
    config |= {
        "block_out_channels": [320, 640, 1280], "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048,
        "projection_class_embeddings_input_dim": 2816, "addition_time_embed_dim": 256, "norm_num_groups": 32,
        "sample_size": 128,
    }  # fmt: skip
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    full = json.loads((shared_data / "golden/brain_hive_prior/full_size.json").read_text())
    assert sum(p.numel() for p in unet.parameters()) == full["sdxl_unet_parameters"]
    order = json.loads((adapter_folder / "key_order.json").read_text())["sdxl_base"]
    layers = adapter_layers(unet)
    assert len(unet.attn_processors) == 140 == order["processors"]
    assert len(layers) == 70
    processors = list(unet.attn_processors)
    found = [(processors.index(x.name), x.name, x.width) for x in layers]
    assert found == [(x["index"], x["processor"], x["hidden"]) for x in order["cross_attention"]]


def test_adapter_initialisation_is_bit_equal(adapter_folder, adapter_unet):
    prior = FusionPrior.for_unet(adapter_unet, {"unused": 1}, width=20, intermediate=1, projector_intermediate=1)
    state = load_file(adapter_folder / "ip-adapter_at_init.safetensors")
    for i, processor in enumerate(prior.adapter):
        assert torch.equal(processor.to_k_ip[0].weight, state[f"ip_adapter.{2 * i + 1}.to_k_ip.weight"])
        assert torch.equal(processor.to_v_ip[0].weight, state[f"ip_adapter.{2 * i + 1}.to_v_ip.weight"])


@pytest.mark.parametrize(
    ("weights", "prefix"), [("ip-adapter.safetensors", ""), ("ip-adapter_at_init.safetensors", "init_")]
)
def test_adapter_tokens_and_noise_predictions(adapter_folder, adapter_unet, weights, prefix):
    inputs, expected = (load_file(adapter_folder / f"{name}.safetensors") for name in ("inputs", "outputs"))
    prior = golden_adapter(adapter_folder, adapter_unet, weights)
    prior.attach(adapter_unet)
    text = TextConditions(*(inputs[key] for key in ("prompt_embeds", "pooled_prompt_embeds", "time_ids")))
    arguments = inputs["latents"], inputs["timesteps"], text
    with torch.no_grad():
        close(prior.image_projection(inputs["image_embeds"]), expected[f"{prefix}image_tokens"], 1e-5)
        for scale in (1.0,) if prefix else (1.0, 0.6, 0.0):
            for processor in prior.adapter:
                processor.scale = [scale]
            noise_pred = prior.noise_prediction(adapter_unet, *arguments, inputs["image_embeds"])
            close(noise_pred, expected[f"{prefix}noise_pred_scale_{scale}"], 1e-5)
            if not prefix and scale == 1.0:
                zeros = torch.zeros_like(inputs["image_embeds"])
                noise_pred = prior.noise_prediction(adapter_unet, *arguments, zeros)
                close(noise_pred, expected["noise_pred_scale_1.0_zero_embeds"], 1e-5)
    detach(adapter_unet)


@pytest.mark.parametrize("name", ["cfg_euler", "cfg_euler_scale_0.6", "turbo_ancestral"])
@pytest.mark.slow(part=5)
def test_adapter_in_the_stock_pipeline(adapter_folder, adapter_unet, name, tmp_path):
    run = json.loads((adapter_folder / "expected.json").read_text())["pipeline_runs"][name]
    inputs, expected = (load_file(adapter_folder / f"{name}.safetensors") for name in ("inputs", "outputs"))
    kinds = {
        "schedulers/euler.json": EulerDiscreteScheduler,
        "schedulers/ancestral.json": EulerAncestralDiscreteScheduler,
    }
    scheduler = kinds[run["scheduler"]].from_config(json.loads((adapter_folder / run["scheduler"]).read_text()))
    file = export_ip_adapter(golden_adapter(adapter_folder, adapter_unet, "ip-adapter.safetensors"), tmp_path)
    pipe = pipeline(adapter_folder, adapter_unet, scheduler)
    pipe.load_ip_adapter(str(tmp_path), subfolder="", weight_name=file.name, image_encoder_folder=None)
    pipe.set_ip_adapter_scale(run["ip_adapter_scale"])
    embeds = inputs["image_embeds"][:1, None]
    prompts = {key: inputs[key][:1] for key in ("prompt_embeds", "pooled_prompt_embeds")}
    if run["guidance_scale"] > 1:
        embeds = torch.cat([torch.zeros_like(embeds), embeds])
        prompts |= {key: inputs[key][:1] for key in ("negative_prompt_embeds", "negative_pooled_prompt_embeds")}
    for output_type, output, tolerance in (("latent", "latents", 5e-4), ("np", "image", 1e-4)):
        drawn = pipe(
            **prompts, height=64, width=64, ip_adapter_image_embeds=[embeds], guidance_scale=run["guidance_scale"],
            num_inference_steps=run["num_inference_steps"], generator=torch.Generator().manual_seed(4322),
            output_type=output_type,
        ).images  # fmt: skip
        close(torch.as_tensor(drawn), expected[f"{name}_{output}"], tolerance)
    detach(adapter_unet)


def test_an_adapter_of_another_unet_is_refused(adapter_folder, golden_prior):
    prior = golden_prior[1]
    before = {key: x.clone() for key, x in prior.state_dict().items()}
    with pytest.raises(HvfError, match="does not fit: image_projection.image_embeds.weight is"):
        start_from_ip_adapter(prior, adapter_folder / "ip-adapter.safetensors")
    assert all(torch.equal(x, before[key]) for key, x in prior.state_dict().items())


def test_both_forms_of_an_adapter_file_are_the_same(adapter_folder, adapter_unet):
    flat, nested = (golden_adapter(adapter_folder, adapter_unet, f"ip-adapter.{s}") for s in ("safetensors", "bin"))
    assert all(
        torch.equal(x, nested.state_dict()[key]) for key, x in flat.adapter.state_dict(prefix="adapter.").items()
    )


def test_a_damaged_published_prior_names_what_is_wrong(shared_data, tmp_path):
    checkpoint = shared_data / "golden" / "brain_hive_prior" / "checkpoint"
    for file in checkpoint.rglob("*.*"):
        copy = tmp_path / file.relative_to(checkpoint)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    weights = tmp_path / "proj" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(HvfError, match="proj/diffusion_pytorch_model.safetensors cannot be read"):
        load_prior(str(tmp_path))
