"""Brain encoders: shapes, the registry, and a file that carries its settings."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.nn import functional as F

from hvf.config import BrainConfig, HvfError
from hvf.models.brain.base import BrainEncoder, build_brain
from hvf.models.brain.mbp import MBP
from hvf.models.brain.tsconv import temporal_spatial
from hvf.registry import BRAIN_ENCODERS, FOUNDATION

ENCODERS = sorted(set(BRAIN_ENCODERS) - set(FOUNDATION))  # the others: tests/models/test_foundation.py
BRAINDECODE = ("deepnet", "eegconformer", "eegnet", "shallownet")


def built(name: str, n_chans: int = 5, n_times: int = 6) -> BrainEncoder:
    if name in BRAINDECODE:
        pytest.importorskip("braindecode", reason="the extra `encoders` is not installed")
    return build_brain(BrainConfig(encoder=name, width=12, intermediate=8), n_chans, n_times)


def test_mbp_is_the_papers_formula():
    torch.manual_seed(0)
    mbp = MBP(7, 9, width=10, intermediate=12).eval()
    x = torch.randn(4, 7, 9)
    h = F.linear(x.reshape(4, 63), mbp.project.weight, mbp.project.bias)
    residual = F.gelu(h @ mbp.block.up.weight.T) @ mbp.block.down.weight.T
    expected = F.layer_norm(h + residual, (10,), mbp.norm.weight, mbp.norm.bias, eps=1e-6)
    torch.testing.assert_close(mbp(x), expected)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_maps_trials_to_embeddings_and_trains(name):
    brain = built(name)
    z = brain(torch.randn(3, 5, 6))
    assert z.shape == (3, 12)
    z.square().sum().backward()
    assert all(p.grad is not None for p in brain.parameters())


@pytest.mark.parametrize("name", ENCODERS)
def test_saved_and_loaded_is_the_same(name, tmp_path):
    brain = built(name).eval()
    brain.save(tmp_path / "brain.safetensors")
    again = BrainEncoder.load(tmp_path / "brain.safetensors")
    x = torch.randn(3, 5, 6)
    assert type(again) is type(brain)
    assert torch.equal(again(x), brain(x))


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(("n_chans", "n_times"), [(1, 1), (17, 250), (4, 160)])
def test_any_number_of_channels_and_samples(name, n_chans, n_times):
    x_NCT = torch.randn(2, n_chans, n_times)
    z_ND = built(name, n_chans, n_times).eval()(x_NCT)
    assert z_ND.shape == (2, 12)
    assert z_ND.isfinite().all()


def test_braindecode_that_is_missing_is_asked_for_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "braindecode.models", None)
    with pytest.raises(HvfError, match=r"braindecode's, which cannot be imported .*: pip install 'hvf\[encoders\]'"):
        build_brain(BrainConfig(encoder="eegnet", width=12), 5, 6)


def test_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(HvfError, match="brain.encoder is 'mpb'; did you mean 'mbp'"):
        BrainConfig(encoder="mpb")
    with pytest.raises(HvfError, match="5 channels x 6 samples.*4 x 6"):
        build_brain(BrainConfig(width=8), 5, 6)(torch.zeros(1, 4, 6))
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(HvfError, match="torn.safetensors cannot be read"):
        BrainEncoder.load(tmp_path / "torn.safetensors")
    with pytest.raises(HvfError, match="absent.safetensors"):
        BrainEncoder.load(tmp_path / "absent.safetensors")


def test_convolution_and_pooling_are_one():
    torch.manual_seed(0)
    maps = temporal_spatial(5, (7, 11, 3), 0.0)
    pooled, x_N1CT = maps[0], torch.randn(4, 1, 5, 60, requires_grad=True)
    convolved = F.conv2d(x_N1CT, pooled.weight, pooled.bias)
    expected = F.avg_pool2d(convolved, (1, 11), (1, 3))
    torch.testing.assert_close(pooled(x_N1CT), expected)
    ours = torch.autograd.grad(pooled(x_N1CT).square().sum(), [x_N1CT, pooled.weight, pooled.bias])
    theirs = torch.autograd.grad(expected.square().sum(), [x_N1CT, pooled.weight, pooled.bias])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert {name.partition(".")[0] for name in maps.state_dict()} == {
        "0",
        "2",
        "4",
        "5",
        "8",
    }  # as reference code has it
