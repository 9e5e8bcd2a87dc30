"""The Fusion Prior and MBP against stored outputs of Brain-HIVE. Only the mapping of names stands here."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
)
from safetensors.torch import load_file
from torch.nn import functional as F

from hvf.models.brain import build_brain
from hvf.models.fusions.hvf import HVF
from hvf.prior.adapter import detach, export_ip_adapter
from hvf.prior.model import FusionPrior, TextConditions
from hvf.prior.published import brain_hive_state
from tests.real.golden import close, pipeline, rule_weights


def hvf_state(state: dict[str, torch.Tensor], specs) -> dict[str, torch.Tensor]:
    """Brain-HIVE's `vision_model` under our names."""
    block = "vision_model.block.layers.0."
    ours = {
        "block.up.weight": state[block + "ff.w1.weight"],
        "block.down.weight": state[block + "ff.w2.weight"],
        "norm.weight": state[block + "norm.weight"],
        "norm.bias": state[block + "norm.bias"],
    }
    for k, spec in enumerate(specs):
        for part in ("weight", "bias"):
            ours[f"projections.{k}.{part}"] = state[f"vision_model.proj_maps.{spec}.{part}"]
    return ours


def mbp_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    root = "brain_model.backbone."
    return {
        "project.weight": state[root + "proj_in.weight"],
        "project.bias": state[root + "proj_in.bias"],
        "block.up.weight": state[root + "block.layers.0.ff.w1.weight"],
        "block.down.weight": state[root + "block.layers.0.ff.w2.weight"],
        "norm.weight": state[root + "block.layers.0.norm.weight"],
        "norm.bias": state[root + "block.layers.0.norm.bias"],
    }


def embeddings(tensors: dict[str, torch.Tensor], specs) -> dict[str, torch.Tensor]:
    return {spec: tensors[f"emb.{spec}"] for spec in specs}


def test_prior_embeddings_and_tokens(golden_prior):
    _, prior, _, inputs, outputs = golden_prior
    with torch.no_grad():
        z_f = prior.encode(embeddings(inputs, prior.specs))
        z_c = prior.project(z_f)
        close(z_f, outputs["z_f"], 1e-5)
        close(z_c, outputs["z_c"], 1e-5)
        close(prior.image_projection(z_c), outputs["tokens_of_z_c"], 1e-5)
        close(prior.image_projection(z_f), outputs["tokens_of_z_f"], 1e-5)
        close(prior.image_projection(torch.zeros(1, 24)), outputs["tokens_of_zeros"], 1e-5)


def test_prior_noise_predictions_and_loss(golden_prior):
    folder, prior, unet, inputs, outputs = golden_prior
    n = len(inputs["latents"])
    features = {spec: x[:n] for spec, x in embeddings(inputs, prior.specs).items()}
    text = TextConditions(*(inputs[key] for key in ("prompt_embeds", "pooled_prompt_embeds", "time_ids")))
    prior.attach(unet)
    with torch.no_grad():
        noise_pred = prior(unet, inputs["latents"], inputs["timesteps"], text, features)
        close(noise_pred, outputs["noise_pred"], 1e-5)
        dropped = prior(unet, inputs["latents"], inputs["timesteps"], text, features, inputs["drop_mask"])
        close(dropped, outputs["noise_pred_dropped"], 1e-5)
        detach(unet)
        added = {"text_embeds": text.pooled.expand(n, -1), "time_ids": text.time_ids}
        bare = unet(
            inputs["latents"], inputs["timesteps"], text.prompt_embeds.expand(n, -1, -1), added_cond_kwargs=added
        )
        close(bare.sample, outputs["noise_pred_without_adapter"], 1e-5)
    loss = json.loads((folder / "expected.json").read_text())["loss_noise_pred_vs_noise"]
    assert F.mse_loss(noise_pred, inputs["noise"]).item() == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("loaded_by", ["attach", pytest.param("stock load_ip_adapter", marks=pytest.mark.slow(part=7))])
@pytest.mark.parametrize("space", ["z_c", "z_f"])
def test_prior_samples(golden_prior, space, loaded_by, tmp_path):
    folder, prior, unet, inputs, outputs = golden_prior
    detach(unet)
    pipe = pipeline(folder, unet, EulerDiscreteScheduler.from_pretrained(folder / "scheduler"))
    if loaded_by == "attach":
        prior.attach(unet)
    else:
        file = export_ip_adapter(prior, tmp_path)
        pipe.load_ip_adapter(str(tmp_path), subfolder="", weight_name=file.name, image_encoder_folder=None)
    for output_type, name in (("latent", "latents"), ("np", "images")):
        drawn = pipe(
            prompt_embeds=inputs["prompt_embeds"], pooled_prompt_embeds=inputs["pooled_prompt_embeds"], height=64,
            width=64, ip_adapter_image_embeds=[outputs[space][:1, None]], num_images_per_prompt=2, guidance_scale=0.0,
            num_inference_steps=4, generator=torch.Generator().manual_seed(1235), output_type=output_type,
        ).images  # fmt: skip
        close(torch.as_tensor(drawn), outputs[f"sample_{space}_{name}"], 1e-4)
    detach(unet)


def test_full_size_prior_with_rule_weights(shared_data):
    folder = shared_data / "golden" / "brain_hive_prior"
    full = json.loads((folder / "full_size.json").read_text())
    expected = load_file(folder / "full_size_outputs.safetensors")
    dims, seeds = full["configuration"], full["rule_weights"]
    fusion = rule_weights(full["fusion_encoder"]["state_dict_in_module_order"], seeds["seed_fusion_encoder"])
    proj = rule_weights(full["proj"]["state_dict_in_module_order"], seeds["seed_proj"])
    prior = FusionPrior(list(dims), list(dims.values()), adapter_names=[], adapter_widths=[]).eval()
    prior.load_state_dict(brain_hive_state(fusion, proj, {}, list(dims)))
    assert (
        sum(p.numel() for p in prior.hvf.parameters()) + sum(p.numel() for p in prior.projector.parameters())
        == (full["fusion_encoder"]["parameters"])
    )
    random = np.random.RandomState(seeds["seed_inputs"])
    features = {spec: torch.tensor(random.standard_normal((3, dim)), dtype=torch.float32) for spec, dim in dims.items()}
    with torch.no_grad():
        z_f = prior.encode(features)
        z_c = prior.project(z_f)
        close(z_f, expected["z_f"], 2e-5)
        close(z_c, expected["z_c"], 2e-5)
        close(prior.image_projection(z_c), expected["tokens_of_z_c"], 2e-5)


@pytest.mark.parametrize("mode", ["retrieval", "reconstruction"])
def test_brain_heads(shared_data, golden_prior, mode):
    folder = shared_data / "golden" / "brain_hive_brain" / "brain_hive" / mode
    config = json.loads((folder / "checkpoint" / "config.json").read_text())
    state = load_file(folder / "checkpoint" / "model.safetensors")
    inputs, expected = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "outputs"))
    dims, width = config["proj_meta"], config["hidden_size"]
    settings = {"encoder": "mbp", "width": width, "intermediate": width, "dropout": 0.1}
    mbp = build_brain(settings, config["brain_channels"], config["brain_sequence_length"]).eval()
    mbp.load_state_dict(mbp_state(state))
    hvf = HVF(dims, width, config["intermediate_size"]).eval()
    hvf.load_state_dict(hvf_state(state, dims))
    with torch.no_grad():
        z_b, z_f = mbp(inputs["brain_signals"]), hvf(embeddings(inputs, dims))
        close(z_b, expected["z_b"], 1e-5)
        close(z_f, expected["z_f"], 1e-5)
        logits = F.normalize(z_b) @ F.normalize(z_f).T * state["logit_scale"].exp()
        close(logits, expected["logits_per_brain"], 1e-5)
        if mode == "reconstruction":
            # In float64, so that the tolerance is spent on the reference's rounding alone, whatever the processor.
            prior, z_b = copy.deepcopy(golden_prior[1]).double(), mbp.double()(inputs["brain_signals"].double())
            close(prior.image_projection(z_b).float(), expected["tokens_of_z_b"], 1e-5)
            # the stored tensor is φ_c of z_b with its residual, as z_c is of z_f
            close(prior.project(z_b).float(), expected["z_c_of_z_b"], 1e-5)
            close(prior.image_projection(prior.project(z_b)).float(), expected["tokens_of_z_c_of_z_b"], 1e-5)


def test_full_size_brain_with_rule_weights(shared_data):
    folder = shared_data / "golden" / "brain_hive_brain" / "brain_hive"
    full = json.loads((folder / "full_size.json").read_text())
    tensors = load_file(folder / "full_size_outputs.safetensors")
    config, state = full["configuration"], rule_weights(full["state_dict_in_module_order"], full["rule_seed_model"])
    settings = {"encoder": "mbp", "width": 1024, "intermediate": 1024, "dropout": 0.1}
    mbp = build_brain(settings, config["brain_channels"], config["brain_sequence_length"]).eval()
    mbp.load_state_dict(mbp_state(state))
    hvf = HVF(config["proj_meta"], 1024, config["intermediate_size"]).eval()
    hvf.load_state_dict(hvf_state(state, config["proj_meta"]))
    with torch.no_grad():
        close(mbp(tensors["brain_signals"]), tensors["z_b"], 2e-5)
        close(hvf(embeddings(tensors, config["proj_meta"])), tensors["z_f"], 2e-5)
