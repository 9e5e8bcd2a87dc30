"""Our models against stored outputs of the public code: Brain-HIVE (HVF, MBP, prior) and tencent's IP-Adapter.

Tolerances are those of the golden sets. Only the mapping of names stands here; the functions are ours.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, safe_open
from torch.nn import functional as F

from hvf.config import HvfError
from hvf.models.brain import build_brain
from hvf.models.brain.atm import ATM
from hvf.models.brain.eegproject import EEGProject
from hvf.models.brain.tsconv import TSConv
from hvf.models.fusions.hvf import HVF
from hvf.prior.adapter import adapter_layers, detach, export_ip_adapter
from hvf.prior.model import FusionPrior
from hvf.prior.published import ENCODERS, brain_hive_state, start_from_ip_adapter
from hvf.prior.reconstruction import load_prior


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


def rule_weights(shapes: dict[str, dict], seed: int) -> dict[str, torch.Tensor]:
    """The golden sets' rule that stands for stored full-size weights."""
    state = {}
    for i, (key, entry) in enumerate(shapes.items()):
        a = np.random.RandomState(seed + i).standard_normal(entry["shape"]) if entry["shape"] else 0.0
        a = np.asarray(a, dtype=np.float32)
        if a.ndim >= 2:
            a = a / np.float32(np.sqrt(np.prod(a.shape[1:])))
        elif key.endswith("running_var"):
            a = np.exp(np.float32(0.25) * a)
        else:
            a = np.float32(1) + np.float32(0.1) * a if key.endswith("weight") else np.float32(0.1) * a
        state[key] = torch.from_numpy(np.ascontiguousarray(a))
    return state


def embeddings(tensors: dict[str, torch.Tensor], specs) -> dict[str, torch.Tensor]:
    return {spec: tensors[f"emb.{spec}"] for spec in specs}


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def pipeline(folder: Path, unet, scheduler) -> StableDiffusionXLPipeline:
    """The tiny SDXL of a golden set; it has no text encoder, prompts are given as embeddings."""
    pipe = StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae"), text_encoder=None, text_encoder_2=None, tokenizer=None,
        tokenizer_2=None, unet=unet, scheduler=scheduler, add_watermarker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


# --- Brain-HIVE's Fusion Prior


@pytest.fixture(scope="module")
def golden_prior(shared_data):
    folder = shared_data / "golden" / "brain_hive_prior"
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").requires_grad_(False)
    prior = load_prior(str(folder / "checkpoint"))
    inputs, outputs = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "outputs"))
    inputs = {f"emb.{ENCODERS.get(k[4:], k[4:])}" if k.startswith("emb.") else k: x for k, x in inputs.items()}
    return folder, prior, unet, inputs, outputs


def test_prior_embeddings_and_tokens(golden_prior):
    _, prior, _, inputs, outputs = golden_prior
    with torch.no_grad():
        z_f = prior.encode(embeddings(inputs, prior.specs))
        z_c = prior.project(z_f)
        close(z_f, outputs["z_f"], 1e-5)
        close(z_c, outputs["z_c"], 1e-5)
        close(prior.image_tokens(z_c), outputs["tokens_of_z_c"], 1e-5)
        close(prior.image_tokens(z_f), outputs["tokens_of_z_f"], 1e-5)
        close(prior.image_tokens(torch.zeros(1, 24)), outputs["tokens_of_zeros"], 1e-5)


def test_prior_noise_predictions_and_loss(golden_prior):
    folder, prior, unet, inputs, outputs = golden_prior
    n = len(inputs["latents"])
    features = {spec: x[:n] for spec, x in embeddings(inputs, prior.specs).items()}
    conditions = [inputs[key] for key in ("prompt_embeds", "pooled_prompt_embeds", "time_ids")]
    prior.attach(unet)
    with torch.no_grad():
        noise_pred = prior(unet, inputs["latents"], inputs["timesteps"], *conditions, features)
        close(noise_pred, outputs["noise_pred"], 1e-5)
        dropped = prior(unet, inputs["latents"], inputs["timesteps"], *conditions, features, inputs["drop_mask"])
        close(dropped, outputs["noise_pred_dropped"], 1e-5)
        detach(unet)
        added = {"text_embeds": conditions[1].expand(n, -1), "time_ids": conditions[2]}
        bare = unet(inputs["latents"], inputs["timesteps"], conditions[0].expand(n, -1, -1), added_cond_kwargs=added)
        close(bare.sample, outputs["noise_pred_without_adapter"], 1e-5)
    loss = json.loads((folder / "expected.json").read_text())["loss_noise_pred_vs_noise"]
    assert F.mse_loss(noise_pred, inputs["noise"]).item() == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("loaded_by", ["attach", "stock load_ip_adapter"])
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
        close(prior.image_tokens(z_c), expected["tokens_of_z_c"], 2e-5)


# --- Brain-HIVE's brain encoders


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
            close(prior.image_tokens(z_b).float(), expected["tokens_of_z_b"], 1e-5)
            # the stored tensor is φ_c of z_b with its residual, as z_c is of z_f
            close(prior.project(z_b).float(), expected["z_c_of_z_b"], 1e-5)
            close(prior.image_tokens(prior.project(z_b)).float(), expected["tokens_of_z_c_of_z_b"], 1e-5)


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


HEAD = {"head.0": "0", "head.1.1": "1.f.1", "head.2": "2"}  # linear, the residual's linear, norm
CONVOLUTIONS = {f"maps.{i}": f"tsconv.{i}" for i in (0, 2, 4, 5)} | {"maps.8": "projection"}
ATTENTION = {f"attention.{part}": f"attention.{part}_projection" for part in ("query", "key", "value", "out")}
STATISTICS = ("weight", "bias", "running_mean", "running_var")


def renamed(state: dict[str, torch.Tensor], names: dict[str, str]) -> dict[str, torch.Tensor]:
    """Modules under our names; ``names`` maps ours to theirs."""
    pairs = ((f"{ours}.{p}", f"{theirs}.{p}") for ours, theirs in names.items() for p in STATISTICS)
    return {ours: state[theirs] for ours, theirs in pairs if theirs in state}


def prefixed(names: dict[str, str], prefix: str) -> dict[str, str]:
    return {ours: prefix + theirs for ours, theirs in names.items()}


def filters_first(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The head's columns from (filter, time), as NeuroBridge, UBP and ts_conv flatten, to (time, filter)."""
    weight = state["head.0.weight"]
    return state | {"head.0.weight": weight.unflatten(1, (40, -1)).transpose(1, 2).flatten(1)}


def loaded(brain, state: dict[str, torch.Tensor]):
    missing, unexpected = brain.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    return brain.eval()


@pytest.fixture(scope="module")
def golden_encoders(shared_data):
    folder = shared_data / "golden" / "brain_hive_brain" / "encoders"
    return folder, json.loads((folder / "expected.json").read_text())


def full_size(folder: Path, told: dict) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights by the rule, and the stored inputs and outputs."""
    shapes = told["full_size"]["state_dict_in_module_order"]
    rule = rule_weights(shapes, told["full_size"]["rule_seed_model"])
    return rule, load_file(folder / "full_size_outputs.safetensors")


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("brain_hive_brain_projection", {"head.0": "0", "head.1.1": "1.fn.1", "head.2": "2"}),
        ("ubp_eegproject", HEAD),
        ("neurobridge_eegproject", HEAD),
    ],
)
def test_eegproject(golden_encoders, name, names):
    folder, told = golden_encoders[0] / name, golden_encoders[1][name]
    names = prefixed(names, "backbone.model." if name.startswith("brain_hive") else "model.")
    io = load_file(folder / "io.safetensors")
    brain = loaded(EEGProject(7, 30, width=24), renamed(load_file(folder / "model.safetensors"), names))
    with torch.no_grad():
        close(brain(io["a.x"]), io["a.out"], 1e-5)
        if "full_size" in told:
            rule, stored = full_size(folder, told)
            close(loaded(EEGProject(17, 250), renamed(rule, names))(stored["x"]), stored["out"], 2e-5)


@pytest.mark.parametrize(
    ("name", "convolutions", "head", "channels", "width"),
    [
        ("nice_tsconv", prefixed(CONVOLUTIONS, "Enc_eeg.0."), "Proj_eeg.", 63, 768),
        ("brain_hive_nice", prefixed(CONVOLUTIONS, "backbone.enc_eeg.0."), "backbone.proj_eeg.", 17, 1024),
        ("neurobridge_tsconv", CONVOLUTIONS, "proj_eeg.", 17, 1024),
        ("ubp_tsconv", {f"maps.{i}": f"backbone.{i}" for i in (0, 2, 4, 5)}, "project.", 0, 0),
        (
            "brain_hive_ts_conv",
            {f"maps.{i}": f"backbone.backbone.{i}" for i in (0, 2, 4, 5)},
            "backbone.project.",
            0,
            0,
        ),
    ],
)
def test_tsconv(golden_encoders, name, convolutions, head, channels, width):
    folder, told = golden_encoders[0] / name, golden_encoders[1][name]
    residual = "fn" if name.startswith(("nice", "brain_hive")) else "f"
    shift = 1 if head.endswith("project.") else 0  # there the flattening is the first layer
    tail = {"head.0": f"{shift}", "head.1.1": f"{1 + shift}.{residual}.1", "head.2": f"{2 + shift}"}
    names = convolutions | prefixed(tail, head)
    if "Enc_eeg" in str(convolutions) or "enc_eeg" in str(convolutions):
        names["maps.8"] += ".0"

    def ours(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        state = renamed(state, names)
        if "maps.8.weight" not in state:  # no pointwise convolution there: ours does nothing
            state |= {"maps.8.weight": torch.eye(40)[..., None, None], "maps.8.bias": torch.zeros(40)}
        return state if "maps.8" in names and name != "neurobridge_tsconv" else filters_first(state)

    io, state = load_file(folder / "io.safetensors"), load_file(folder / "model.safetensors")
    x = io["a.x"].squeeze(1) if io["a.x"].ndim == 4 else io["a.x"]
    with torch.no_grad():
        close(loaded(TSConv(x.shape[1], 250, width=24), ours(state))(x), io["a.out"], 1e-5)
        if "full_size" in told:
            rule, stored = full_size(folder, told)
            x = stored["x"].squeeze(1) if stored["x"].ndim == 4 else stored["x"]
            close(loaded(TSConv(channels, 250, width=width), ours(rule))(x), stored["out"], 2e-5)


def atm_state(state: dict[str, torch.Tensor], token: torch.Tensor) -> dict[str, torch.Tensor]:
    layer = "encoder.encoder.attn_layers.0."
    names = prefixed(ATTENTION, layer) | {
        "embed": "encoder.enc_embedding.value_embedding",
        "mlp.0": layer + "conv1", "mlp.3": layer + "conv2",
        "norms.0": layer + "norm1", "norms.1": layer + "norm2", "norms.2": "encoder.encoder.norm",
        "head.0": "proj_eeg.0", "head.1.1": "proj_eeg.1.fn.1", "head.2": "proj_eeg.2",
    } | prefixed(CONVOLUTIONS, "enc_eeg.0.")  # fmt: skip
    names["maps.8"] += ".0"
    ours = renamed(state, names) | {"token": token}
    return ours | {f"mlp.{i}.weight": ours[f"mlp.{i}.weight"][..., 0] for i in (0, 3)}


SUBJECTS_THERE = "encoder.enc_embedding.subject_embedding."


def test_atm(golden_encoders):
    folder, told = golden_encoders[0] / "brain_hive_atm", golden_encoders[1]["brain_hive_atm"]
    io, state = load_file(folder / "io.safetensors"), load_file(folder / "model.safetensors")
    tokens, shared = state[SUBJECTS_THERE + "subject_embedding.weight"], state[SUBJECTS_THERE + "shared_embedding"][0]
    brain = ATM(9, 40, width=24, positions=False, depth=100, hidden=48)
    with torch.no_grad():
        for i, subject in enumerate(io["known.subject_ids"].long()):
            loaded(brain, atm_state(state, tokens[subject]))
            close(brain(io["known.x"][i : i + 1])[0], io["known.out"][i], 1e-5)
            within = brain.tokens(io["encoder.x"][i : i + 1])[0]
            close(within, io["encoder.out"][i], 1e-5)
        loaded(brain, atm_state(state, shared))
        close(brain(io["one_unknown.x"]), io["one_unknown.out"], 1e-5)
        rule, stored = full_size(folder, told)
        subject = SUBJECTS_THERE + "subject_embedding.weight"
        brain = ATM(17, 250, positions=False)
        for i, which in enumerate(stored["subject_ids"].long()):
            loaded(brain, atm_state(rule, rule[subject][which]))
            close(brain(stored["x"][i : i + 1])[0], stored["out"][i], 2e-5)


@pytest.mark.parametrize(("name", "positions"), [("atm_upstream_22c84ad", False), ("atm_upstream_61fc9c3", True)])
def test_atm_of_its_authors(golden_encoders, name, positions):
    rule, stored = full_size(golden_encoders[0] / name, golden_encoders[1][name])
    x = np.random.RandomState(golden_encoders[1][name]["full_size"]["rule_seed_inputs"]).standard_normal((3, 63, 250))
    x_NCT = torch.tensor(x, dtype=torch.float32)
    assert torch.equal(x_NCT[:1], stored["x.first_trial"])
    brain = ATM(63, 250, positions=positions)
    with torch.no_grad():
        loaded(brain, atm_state(rule, rule[SUBJECTS_THERE + "subject_embedding.weight"][8]))
        close(brain(x_NCT), stored["out"], 2e-5)
        other = loaded(ATM(63, 250, positions=not positions), brain.state_dict())
        assert (other(x_NCT) - stored["out"]).abs().max() > 1e-2  # the two functions under one set of names differ


# --- tencent's IP-Adapter: a prior whose HVF and projector are left aside


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
    keys = ("latents", "timesteps", "prompt_embeds", "pooled_prompt_embeds", "time_ids")
    arguments = [inputs[key] for key in keys]
    with torch.no_grad():
        close(prior.image_tokens(inputs["image_embeds"]), expected[f"{prefix}image_tokens"], 1e-5)
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
