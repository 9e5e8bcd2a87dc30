"""push_to_hub: what would be uploaded is the whole prior, and reads back bit-equal. The Hub is a stand-in."""

from __future__ import annotations

import json
import shutil
import types
from pathlib import Path

import pytest
import torch
from diffusers.utils import hub_utils

from hvf.prior.loading import load_prior
from hvf.prior.model import FusionPrior, TextConditions
from tests.tiny_sdxl import tiny_unet


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that keeps what is uploaded in a folder, and notes what it was told."""
    calls = []

    def create_repo(repo_id, **told):
        calls.append(("create_repo", repo_id, told))
        return types.SimpleNamespace(repo_id=repo_id)

    def upload_folder(*, repo_id, folder_path, **told):
        calls.append(("upload_folder", repo_id, told))
        shutil.copytree(folder_path, tmp_path / "hub" / repo_id)
        return "https://hub/commit"

    card = types.SimpleNamespace(save=lambda path: Path(path).write_text("card"))
    monkeypatch.setattr(hub_utils, "create_repo", create_repo)
    monkeypatch.setattr(hub_utils, "upload_folder", upload_folder)
    monkeypatch.setattr(hub_utils, "load_or_create_model_card", lambda *args, **told: card)
    monkeypatch.setattr(hub_utils, "populate_model_card", lambda card, **told: card)
    return types.SimpleNamespace(calls=calls, folder=tmp_path / "hub")


def test_what_is_pushed_is_whole_and_reads_back(hub):
    torch.manual_seed(3)
    unet = tiny_unet()
    prior = FusionPrior.for_unet(unet, {"vae:mini": 8, "openclip:mini-vit": 6}, 10, 12, 14).eval()
    prior.attach(unet)  # also while its adapter sits in a UNet
    assert prior.push_to_hub("somebody/prior", private=True) == "https://hub/commit"
    assert [name for name, *_ in hub.calls] == ["create_repo", "upload_folder"]
    assert hub.calls[0][2]["private"] is True
    pushed = hub.folder / "somebody" / "prior"
    assert sorted(p.name for p in pushed.iterdir()) == [
        "README.md",
        "checksums.json",
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    assert json.loads((pushed / "config.json").read_text())["specs"] == ["vae:mini", "openclip:mini-vit"]
    again = load_prior(str(pushed))
    expected, found = prior.state_dict(), again.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert sum(key.startswith("adapter.") for key in found) == 2 * 8  # no layer went missing on the way
    fresh = tiny_unet()
    again.attach(fresh)
    x_t, t, generator = torch.randn(2, 4, 8, 8), torch.tensor([5, 900]), torch.Generator().manual_seed(0)
    embeds, pooled = torch.randn(1, 12, 32, generator=generator), torch.randn(1, 16, generator=generator)
    text = TextConditions(embeds, pooled, torch.ones(1, 6))
    z_c = torch.randn(2, 10, generator=generator)
    with torch.no_grad():
        ours = prior.noise_prediction(unet, x_t, t, text, z_c)
        assert torch.equal(ours, again.noise_prediction(fresh, x_t, t, text, z_c))
