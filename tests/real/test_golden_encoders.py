"""Brain encoders against stored outputs of the code of their authors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hvf.models.brain.atm import ATM
from hvf.models.brain.eegproject import EEGProject
from hvf.models.brain.tsconv import TSConv
from tests.real.golden import close, rule_weights

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
