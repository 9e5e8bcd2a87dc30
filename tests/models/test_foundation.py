"""Foundation encoders: channels by name, rate and units, weights of a file, frozen or fine-tuned; tiny sizes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hvf import alignment, presets
from hvf.__main__ import main
from hvf.alignment import Alignment, TrainingSet
from hvf.alignment.batched import why_not_batched
from hvf.alignment.pretrained import start_from_weights
from hvf.config import BrainConfig, Config, HvfError, check_files, with_settings
from hvf.data.trials.trials import Trials
from hvf.models.brain.base import BrainEncoder, build_brain
from hvf.models.brain.foundation import Foundation
from hvf.registry import FOUNDATION

pytest.importorskip("braindecode", reason="the extra `encoders` is not installed")

TINY = {
    "labram": {"num_layers": 1},
    "cbramod": {"n_layer": 1},
    "eegpt": {"depth": 1, "embed_dim": 64},
    "reve": {"depth": 1, "embed_dim": 64, "heads": 2},
    "luna": {"depth": 1},
    "biot": {"num_layers": 1, "embed_dim": 16, "num_heads": 2},
    "signal-jepa": {"transformer__num_encoder_layers": 1, "transformer__num_decoder_layers": 1},
}
SITES = ("Oz", "O1", "O2", "P7", "T8", "P8", "Fp1", "F7")
SPEC = "vae:a"


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    for name, sizes in TINY.items():
        monkeypatch.setattr(FOUNDATION[name], "sizes", sizes)


def trials_of(ch_names=SITES, n: int = 24, samples: int = 60, sfreq: float = 100.0, kind: str = "eeg") -> Trials:
    x_NCT = np.random.default_rng(0).normal(size=(n, len(ch_names), samples))
    return Trials(x_NCT, [f"image-{i}" for i in range(n)], "toy", sfreq, 0.0, tuple(ch_names), kind, simulated=True)


def built(name: str, trials: Trials | None = None, frozen: bool = False) -> Foundation:
    trials = trials_of() if trials is None else trials
    torch.manual_seed(0)
    config = BrainConfig(encoder=name, width=12, weights="random", frozen=frozen, dropout=0.0)
    brain = build_brain(config, *trials.shape[1:], trials)
    assert isinstance(brain, Foundation)
    return brain.eval()


def tensor(trials: Trials) -> torch.Tensor:
    return torch.from_numpy(trials.load_array().astype(np.float32))


@pytest.mark.parametrize("name", TINY)
def test_channels_are_known_by_name_and_a_saved_encoder_is_the_same(name, tmp_path):
    trials = trials_of()
    brain, x_NCT = built(name, trials), tensor(trials)
    z_ND = brain(x_NCT).detach()
    assert z_ND.shape == (24, 12)
    assert z_ND.isfinite().all()
    order = [5, 2, 7, 0, 1, 6, 4, 3]
    moved = built(name, trials_of([SITES[i] for i in order]))
    assert torch.equal(moved(x_NCT[:, order]), z_ND)
    assert not torch.allclose(brain(x_NCT[:, order]), z_ND, atol=1e-2)  # control: without their names
    brain.save(tmp_path / "brain.safetensors")
    assert torch.equal(BrainEncoder.load(tmp_path / "brain.safetensors")(x_NCT), z_ND)
    brain.train()(x_NCT).square().sum().backward()
    learnt = {key for key, p in brain.named_parameters() if p.grad is not None}
    assert any(key.startswith("network.") for key in learnt)
    assert not built(name, frozen=True).network.training


def test_channels_that_a_network_does_not_know_are_left_out():
    strange = trials_of([*SITES, "EOG", "T3"])
    assert built("eegpt", strange).left_out == ["EOG"]
    assert "T7" in built("eegpt", strange).places  # as the 10-10 system calls T3
    x_NCT = tensor(strange)
    assert torch.equal(built("labram", strange).picked(x_NCT)[:, -1], x_NCT[:, 9])
    assert built("labram", strange).left_out == ["EOG"]
    assert built("cbramod", strange).places[-1] == "EOG"
    with pytest.raises(HvfError, match=r"labram knows none of the channels MEG001, MEG002: it was trained on FP1"):
        built("labram", trials_of(["MEG001", "MEG002"]))
    with pytest.raises(HvfError, match=r"cbramod was trained on EEG, and these responses are of kind 'meg'"):
        built("cbramod", trials_of(kind="meg"))
    with pytest.raises(HvfError, match="two channels are called OZ"):
        built("reve", trials_of(["Oz", "OZ"]))
    with pytest.raises(HvfError, match="labram needs the recording's kind, ch_names, sfreq"):
        build_brain(BrainConfig(encoder="labram", weights="random"), 8, 60)


def test_biot_takes_differences():
    trials = trials_of()
    brain, x_NCT = built("biot", trials), tensor(trials)
    assert brain.places == ["FP1-F7", "P7-O1", "T8-P8", "P8-O2"]
    assert brain.left_out == ["Oz"]
    row = brain.places.index("P7-O1")
    torch.testing.assert_close(brain.picked(x_NCT)[:, row], x_NCT[:, 3] - x_NCT[:, 1])


def test_rate_and_patches_are_those_trained_on():
    """A wave of 10 Hz at 250 Hz is one at 200 Hz, in units of 100 µV, and zeros fill the last patch."""
    brain = built("labram", trials_of(samples=300, sfreq=250.0))
    seen = []
    brain.tokens = lambda x_NKT: seen.append(x_NKT) or torch.zeros(len(x_NKT), 8 * 2 * 200)  # type: ignore[assignment]
    wave, resampled = (
        torch.sin(2 * math.pi * 10 * t) * torch.sin(math.pi * t / 1.2) ** 2
        for t in (torch.arange(300) / 250, torch.arange(240) / 200)
    )
    brain(wave.expand(1, 8, 300))
    assert seen[0].shape == (1, 8, 400)
    torch.testing.assert_close(seen[0][0, 0, :240], 0.1 * resampled, atol=2e-4, rtol=0)
    assert (seen[0][0, :, 240:] == 0).all()
    assert (built("eegpt").scaled(torch.randn(3, 8, 64)).mean(dim=1).abs() < 1e-6).all()  # average reference


@pytest.mark.parametrize(
    ("name", "ending"), [("labram", "pt"), ("luna", "safetensors"), ("biot", "pt"), ("signal-jepa", "safetensors")]
)
def test_weights_of_a_file(name, ending, tmp_path):
    brain = built(name)
    torch.manual_seed(1)
    other = build_brain(BrainConfig(encoder=name, width=12, weights="random"), 8, 60, trials_of())
    state = {key: value.contiguous() for key, value in other.network.state_dict().items()}
    state["final_layer.weight"] = torch.zeros(2, 3)
    if name == "labram":  # published for 15 s
        table = torch.randn(1, 16, 200)
        table[:, :2] = state["temporal_embedding"]
        state["temporal_embedding"] = table
    if name == "luna":
        back = {ours: theirs for theirs, ours in brain.network.mapping.items()}
        state = {back.get(key, key): value for key, value in state.items()}
        assert "cross_attn.temparature" in state
    path = tmp_path / f"weights.{ending}"
    save_file(state, path) if ending == "safetensors" else torch.save({"state_dict": state}, path)
    start_from_weights(brain, str(path))
    read, expected = brain.network.state_dict(), other.network.state_dict()
    assert [key for key, value in read.items() if not torch.equal(value, expected[key])] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("proj_out.0.bias"), r"does not hold the weights of cbramod: it lacks proj_out\.0\.bias$"),
        (lambda s: s.update(other=torch.zeros(1)), "it holds, and this network has not, other$"),
        (lambda s: s.update({"proj_out.0.bias": torch.zeros(3)}), r"bias has shape \(3,\), and .* has \(200,\)"),
        (lambda s: s["proj_out.0.bias"].fill_(torch.nan), "proj_out.0.bias holds NaN"),
    ],
)
def test_a_file_of_other_weights_is_refused(change, said, tmp_path):
    brain = built("cbramod")
    before = {key: value.clone() for key, value in brain.network.state_dict().items()}
    state = {key: value.clone() for key, value in before.items()}
    change(state)
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(HvfError, match=said):
        start_from_weights(brain, str(tmp_path / "weights.pt"))
    assert all(torch.equal(before[key], value) for key, value in brain.network.state_dict().items())


def test_settings_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(HvfError, match="reve needs brain.weights: fetch them with: hf download brain-bzh/reve-base"):
        with_settings(presets.mini(), {"brain.encoder": "reve"})
    with pytest.raises(HvfError, match="brain.weights is for encoders trained by others .labram, .*, not for 'mbp'"):
        with_settings(presets.mini(), {"brain.weights": "random"})
    with pytest.raises(HvfError, match="brain.frozen is for encoders trained by others"):
        with_settings(presets.mini(), {"brain.frozen": True})
    settings = {"brain.encoder": "labram", "brain.weights": str(tmp_path / "labram.pt")}
    config = with_settings(presets.mini(), settings)
    with pytest.raises(HvfError, match="labram.pt is not there; fetch it with: hf download braindecode/labram-pretr"):
        check_files(config)
    with pytest.raises(HvfError, match="is a folder: name a file in it"):
        check_files(with_settings(config, {"brain.weights": str(tmp_path)}))
    check_files(config, trained=True)
    check_files(with_settings(config, {"brain.weights": "random"}))
    assert why_not_batched(config) == "encoder labram is large, and its runs share no step"


def test_a_missing_file_is_named_before_anything_is_computed(tmp_path, capsys):
    command = ["train", "--brain.encoder", "labram", "--brain.weights", str(tmp_path / "labram.pt")]
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    assert "labram.pt is not there; fetch it with" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def fitted(tmp_path: Path, frozen: bool) -> tuple[Alignment, dict[str, torch.Tensor]]:
    """A decoder fitted from a file of weights, and these."""
    trials = trials_of()
    weights = {key: value.contiguous() for key, value in built("signal-jepa", trials).network.state_dict().items()}
    save_file(weights, tmp_path / "weights.safetensors")
    features = {SPEC: np.random.default_rng(1).normal(size=(24, 8)).astype(np.float32)}
    settings = {"targets.specs": (SPEC,), "align.epochs": 2, "align.batch_size": 8, "brain.width": 12}
    settings |= {"fusion.width": 12, "brain.encoder": "signal-jepa", "brain.frozen": frozen}
    settings["align.normal_weights"] = True  # of what is drawn: the head, not what was read
    settings["brain.weights"] = str(tmp_path / "weights.safetensors")
    config = with_settings(Config(), settings)
    concepts = [f"concept-{i}" for i in range(24)]
    return alignment.fit(TrainingSet(trials, features, concepts), config), weights


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_network_stays_and_its_head_learns(frozen, tmp_path):
    decoder, weights = fitted(tmp_path, frozen)
    network = decoder.brain.network.state_dict()
    same = [torch.equal(network[key], value) for key, value in weights.items()]
    assert all(same) if frozen else not all(same)
    torch.manual_seed(0)
    untrained = built("signal-jepa").head.state_dict()
    assert not any(torch.equal(value, untrained[key]) for key, value in decoder.brain.head.state_dict().items())
    (tmp_path / "weights.safetensors").unlink()
    decoder.save(tmp_path)
    again = Alignment.load(tmp_path)
    np.testing.assert_array_equal(again.embed_brain(trials_of()), decoder.embed_brain(trials_of()))
    with pytest.raises(HvfError, match="made for other channels"):
        again.embed_brain(trials_of(SITES[::-1]))


@pytest.mark.slow(part=8)
@pytest.mark.parametrize("name", list(FOUNDATION))
def test_every_published_size_gives_features(name, monkeypatch):
    monkeypatch.undo()
    trials = trials_of(n=2, samples=250, sfreq=250.0)
    z_ND = built(name, trials, frozen=True)(tensor(trials))
    assert z_ND.shape == (2, 12)
    assert z_ND.isfinite().all()


@pytest.mark.slow(part=8)
def test_a_run_with_random_weights(tmp_path):
    small = ["--data.train-concepts", "20", "--data.images-per-concept", "2", "--data.test-concepts", "8"]
    brain = ["--brain.encoder", "cbramod", "--brain.weights", "random", "--brain.frozen"]
    assert main(["retrieve", *small, *brain, "--align.epochs", "1", "--out", str(tmp_path / "run")]) == 0
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["brain"]
    assert (settings["encoder"], settings["weights"], settings["frozen"]) == ("cbramod", "random", True)
