"""push_to_hub: what would be uploaded is the whole prior, and reads back bit-equal. The Hub is a stand-in."""

from __future__ import annotations

import json

import pytest
import torch

from hvf.config import HvfError
from hvf.prior.loading import load_prior
from hvf.prior.model import FusionPrior, TextConditions
from tests.prior.hub_server import SHA, serving
from tests.tiny_sdxl import tiny_unet


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A server that takes uploads as the Hub does, and gives them back; the client talks to it over HTTP."""
    with serving() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        yield server


def a_prior(unet) -> FusionPrior:
    torch.manual_seed(3)
    return FusionPrior.for_unet(unet, {"vae:mini": 8, "openclip:mini-vit": 6}, 10, 12, 14).eval()


def test_what_is_pushed_is_whole_and_reads_back(hub):
    unet = tiny_unet()
    prior = a_prior(unet)
    prior.attach(unet)  # also while its adapter sits in a UNet
    assert prior.push_to_hub("somebody/prior", private=True, token="hf_x").endswith("/somebody/prior/commit/" + SHA)
    assert hub.created == {"somebody/prior": True}
    files = hub.repositories["somebody/prior"]
    assert set(files) == {"README.md", "checksums.json", "config.json", "diffusion_pytorch_model.safetensors"}
    assert json.loads(files["config.json"])["specs"] == ["vae:mini", "openclip:mini-vit"]
    card = files["README.md"].decode()
    assert "`vae:mini` (8), `openclip:mini-vit` (6)" in card
    assert "One picture a call" in card
    again = load_prior("somebody/prior")
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


def test_what_shall_be_private_is_not_pushed_where_all_can_read_it(hub):
    """The repository was there: asking for a private one changed nothing, and said nothing."""
    prior = a_prior(tiny_unet())
    prior.push_to_hub("somebody/prior")
    hub.repositories.clear()
    with pytest.raises(HvfError, match="somebody/prior is public, and private was asked for"):
        prior.push_to_hub("somebody/prior", private=True)
    assert hub.repositories == {}
    prior.push_to_hub("somebody/hidden", private=True)
    assert hub.created == {"somebody/prior": False, "somebody/hidden": True}


def test_the_card_of_a_folder_goes_with_it_and_another_can_be_given(hub, tmp_path):
    prior = a_prior(tiny_unet())
    prior.save_pretrained(tmp_path / "prior")
    (tmp_path / "prior" / "README.md").write_text("# as training wrote it\n")
    again = load_prior(str(tmp_path / "prior"))
    again.push_to_hub("somebody/prior", token="hf_x")
    assert hub.repositories["somebody/prior"]["README.md"] == b"# as training wrote it\n"
    again.push_to_hub("somebody/prior", "# another\n", token="hf_x")
    assert hub.repositories["somebody/prior"]["README.md"] == b"# another\n"


def test_what_the_hub_refuses_is_said_in_one_line(hub):
    hub.refuses = True
    with pytest.raises(HvfError, match="was not uploaded to somebody/prior .*the Hub said: .*403") as error:
        a_prior(tiny_unet()).push_to_hub("somebody/prior", token="hf_x")
    assert "\n" not in str(error.value)
    assert hub.repositories == {}
