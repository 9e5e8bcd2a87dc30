"""JSON that others wrote, or that was damaged: read as it is meant, or refused in one line that names the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hvf.config import HvfError
from hvf.data.things_eeg2.neurobridge import read_neurobridge_info
from hvf.data.trials.conversion import to_epochs
from hvf.data.trials.trials import Trials
from hvf.prior.model import FusionPrior
from hvf.prior.published import BRAIN_HIVE_PARTS, read_brain_hive
from hvf.training.long_runs import read_history
from hvf.vision.embeddings import read_names

DEEP = "[" * 100_000
INFO = {"ch_names": ["Oz", "Pz"], "times": [0.0, 0.004], "normalization": "mvnn"}


def changed(content: dict, **more) -> str:
    return json.dumps({**content, **more})


@pytest.mark.parametrize(
    "text",
    [
        DEEP, "", "[]", "null", changed(INFO, ch_names="Oz Pz"), changed(INFO, ch_names=[1, 2]),
        changed(INFO, times={"0": 1}), changed(INFO, times=["0", "4"]), changed(INFO, normalization=["mvnn"]),
        changed(INFO, normalization="MVNN"), '{"ch_names": ["Oz"]}',
    ],
)  # fmt: skip
def test_the_info_of_neurobridge(tmp_path, text):
    path = tmp_path / "info.json"
    path.write_text(changed(INFO, more=1))
    assert read_neurobridge_info(path)["times"] == [0.0, 0.004]
    path.write_text(text)
    with pytest.raises(HvfError, match=r"info.json is damaged or not NeuroBridge's \(.{3,300}\)$"):
        read_neurobridge_info(path)


@pytest.mark.parametrize(
    "change", [{"sfreq": 0}, {"sfreq": "250"}, {"tmin": None}, {"simulated": "no"}, {"history": [1]}, {"kind": 3}]
)
def test_what_epochs_say_of_the_trials_that_they_were_made_of(change):
    """A damaged description is refused: without it simulated trials would pass for recorded ones."""
    trials = Trials(
        np.ones((3, 2, 8), np.float32), ["a", "b", "c"], "sub-01", 100.0, 0.0, ["Oz", "Pz"], "eeg", simulated=True
    )
    epochs = to_epochs(trials)
    assert Trials.from_epochs(epochs).simulated
    mark, _, text = epochs.info["description"].partition("{")
    for damaged in (json.dumps({**json.loads("{" + text), **change}), DEEP, "{"):
        epochs.info["description"] = mark + damaged
        with pytest.raises(HvfError, match=r"info\['description'\], which hvf wrote, is damaged"):
            Trials.from_epochs(epochs)


def brain_hive(folder: Path) -> tuple[dict, dict]:
    """A prior of two encoders and two layers in Brain-HIVE's format; the two configs that are read."""
    prior = FusionPrior(
        ["a", "b"], [3, 5], ["down.attn2.processor", "up.attn2.processor"], [4, 4], width=6, intermediate=8,
        projector_intermediate=8, cross_attention_dim=7,
    )  # fmt: skip
    state, block = prior.state_dict(), "vision_model.block.layers.0."
    fusion = {
        f"{block}ff.w1.weight": state["hvf.block.up.weight"], f"{block}ff.w2.weight": state["hvf.block.down.weight"],
        "adapter.ff.w1.weight": state["projector.up.weight"], "adapter.ff.w2.weight": state["projector.down.weight"],
    }  # fmt: skip
    proj = {}
    for part in ("weight", "bias"):
        fusion[f"{block}norm.{part}"] = state[f"hvf.norm.{part}"]
        proj[f"proj.{part}"] = state[f"image_projection.image_embeds.{part}"]
        proj[f"norm.{part}"] = state[f"image_projection.norm.{part}"]
        for k, name in enumerate("ab"):
            fusion[f"vision_model.proj_maps.{name}.{part}"] = state[f"hvf.projections.{k}.{part}"]
    adapter = {
        f"attn_processors.{2 * i + 1}.{matrix}.weight": state[f"adapter.{i}.{matrix}.0.weight"]
        for i in range(2)
        for matrix in ("to_k_ip", "to_v_ip")
    }
    of_fusion = {"proj_meta": {"a": 3, "b": 5}, "hidden_size": 6}
    keys = ["down.attn1.processor", "down.attn2.processor", "up.attn1.processor", "up.attn2.processor"]
    of_adapter = {"attn_processor_keys": keys, "cross_attention_dim": 7}
    for name, weights, config in zip(
        BRAIN_HIVE_PARTS, (fusion, proj, adapter), (of_fusion, {}, of_adapter), strict=True
    ):
        (folder / name).mkdir(parents=True)
        save_file(
            {k: v.contiguous() for k, v in weights.items()}, folder / name / "diffusion_pytorch_model.safetensors"
        )
        (folder / name / "config.json").write_text(json.dumps(config))
    assert all(torch.equal(found, state[key]) for key, found in read_brain_hive(folder).state_dict().items())
    return of_fusion, of_adapter


@pytest.mark.parametrize(
    ("part", "change"),
    [
        (0, {"proj_meta": ["a", "b"]}), (0, {"proj_meta": {"a": "3"}}), (0, {"proj_meta": {"a": 3, "c": 5}}),
        (0, {"proj_meta": {"a": 10**12, "b": 5}}), (0, {"hidden_size": 10**12}), (0, {"hidden_size": None}),
        (1, {"cross_attention_dim": 10**12}), (1, {"attn_processor_keys": [1, 2]}), (1, {"attn_processor_keys": 3}),
    ],
)  # fmt: skip
def test_the_configs_of_brain_hive(tmp_path, part, change):
    configs = brain_hive(tmp_path)
    path = tmp_path / BRAIN_HIVE_PARTS[2 * part] / "config.json"
    for text in (json.dumps({**configs[part], **change}), DEEP):
        path.write_text(text)
        with pytest.raises(HvfError, match=rf"{tmp_path}.*(Brain-HIVE's format|cannot be read as JSON)"):
            read_brain_hive(tmp_path)


def test_the_history_of_a_training(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 3, "loss": 0.2}\n')
    assert read_history(path, 2) == [{"step": 1, "loss": 0.5}]
    for line in ("{", '{"step": "1"}', "[1]", "{}", DEEP):
        path.write_text(f'{{"step": 1}}\n{line}\n')
        with pytest.raises(HvfError, match=r"metrics.jsonl is damaged \(.*delete it"):
            read_history(path, 2)


def test_names_beside_embeddings(tmp_path):
    path = tmp_path / "names.json"
    path.write_text(DEEP)
    with pytest.raises(HvfError, match=r"names.json cannot be read as JSON"):
        read_names(path)
