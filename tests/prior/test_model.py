"""The Fusion Prior and its adapter: what is stored, what the UNet shares, and that stock diffusers draws alike."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from safetensors.torch import load_file

from hvf.config import HvfError
from hvf.prior.adapter import adapter_layers, detach, export_ip_adapter, flat_state
from hvf.prior.model import FusionPrior, TextConditions
from tests.tiny_sdxl import tiny_pipeline, tiny_unet

DIMS = {"vae:mini": 8, "openclip:mini-vit": 6}


def new_prior(unet, seed: int = 0) -> FusionPrior:
    torch.manual_seed(seed)
    return FusionPrior.for_unet(unet, DIMS, width=10, intermediate=12, projector_intermediate=14)


def shake(prior: FusionPrior) -> FusionPrior:
    """Move every weight off its initial value, as training would."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return prior.eval()


def batch(n: int = 3) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "x_t_NCHW": draw(n, 4, 8, 8),
        "t_N": torch.tensor([10, 500, 900])[:n],
        "text": TextConditions(draw(1, 12, 32), draw(1, 16), torch.tensor([[16.0, 16, 0, 0, 16, 16]])),
    }


def features(n: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {spec: torch.randn(n, dim, generator=generator) for spec, dim in DIMS.items()}


def draw(pipeline, z_c_ND, guidance: float) -> np.ndarray:
    embeds = z_c_ND[:, None]
    if guidance > 1:
        embeds = torch.cat([torch.zeros_like(embeds), embeds])
    images = pipeline(
        [""] * len(z_c_ND), height=16, width=16, num_inference_steps=3, guidance_scale=guidance, output_type="np",
        ip_adapter_image_embeds=[embeds], generator=[torch.Generator().manual_seed(i) for i in range(len(z_c_ND))],
    ).images  # fmt: skip
    return images


def test_the_adapter_starts_as_each_layers_own_keys_and_values():
    unet = tiny_unet()
    prior = new_prior(unet)
    layers = adapter_layers(unet)
    assert len(layers) == 8 == len(prior.adapter)
    for layer, processor in zip(layers, prior.adapter, strict=True):
        attention = unet.get_submodule(layer.name.removesuffix(".processor"))
        assert torch.equal(processor.to_k_ip[0].weight, attention.to_k.weight)
        assert torch.equal(processor.to_v_ip[0].weight, attention.to_v.weight)


def test_the_whole_prior_is_saved_and_read_back(tmp_path):
    prior = shake(new_prior(tiny_unet()))
    prior.save_pretrained(tmp_path)
    (tmp_path / "mine").write_bytes(b"")
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1  # others of the lab may read it
    again = FusionPrior.from_pretrained(tmp_path)
    assert again.specs == tuple(DIMS)
    assert again.dims == DIMS
    assert dict(again.config)["width"] == 10
    for (name, ours), (_, theirs) in zip(prior.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name
    unet = tiny_unet()
    outputs = []
    for one in (prior, again):
        one.attach(unet)
        outputs.append(one(unet, **batch(), features=features()))
    assert torch.equal(*outputs)


def test_half_precision_weights_come_back_in_single_precision_when_asked(tmp_path):
    prior = shake(new_prior(tiny_unet()))
    copy.deepcopy(prior).half().save_pretrained(tmp_path)
    again = FusionPrior.from_pretrained(tmp_path, torch_dtype=torch.float32)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    torch.testing.assert_close(again.encode(features()), prior.encode(features()), atol=5e-3, rtol=5e-3)


def test_attached_parameters_are_shared_and_train_while_the_unet_stays():
    unet = tiny_unet().requires_grad_(False)
    prior = new_prior(unet)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    prior.attach(unet)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=1e-2)
    prior(unet, **batch(), features=features()).square().mean().backward()
    missing = [name for name, p in prior.named_parameters() if p.grad is None or not p.grad.any()]
    assert not missing
    optimizer.step()
    processors = [p for p in unet.attn_processors.values() if isinstance(p, IPAdapterAttnProcessor2_0)]
    assert all(ours is theirs for ours, theirs in zip(prior.adapter, processors, strict=True))
    after = unet.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_detach_gives_the_bare_unet_back():
    unet = tiny_unet()
    prior = shake(new_prior(unet))
    inputs = batch()
    text = inputs["text"]
    conditions = {"text_embeds": text.pooled.expand(3, -1), "time_ids": text.time_ids.expand(3, -1)}

    def bare():
        return unet(
            inputs["x_t_NCHW"], inputs["t_N"], text.prompt_embeds.expand(3, -1, -1), added_cond_kwargs=conditions
        ).sample

    with torch.no_grad():
        expected = bare()
        prior.attach(unet)
        with_adapter = prior(unet, **inputs, features=features())
        detach(unet)
        assert torch.equal(bare(), expected)
    assert (with_adapter - expected).abs().max() > 1e-3


def test_dropping_zeroes_the_embedding_before_its_projection():
    unet = tiny_unet()
    prior = shake(new_prior(unet))
    prior.attach(unet)
    dropped = torch.tensor([False, True, False])
    with torch.no_grad():
        mixed = prior(unet, **batch(), features=features(), dropped_N=dropped)
        kept = prior(unet, **batch(), features=features())
        zeroed = prior.noise_prediction(unet, **batch(), z_c_ND=torch.zeros(3, 10))
    torch.testing.assert_close(mixed[[0, 2]], kept[[0, 2]], atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed[1], zeroed[1], atol=1e-6, rtol=0)
    assert not torch.allclose(mixed[1], kept[1])


def test_a_prior_for_another_unet_is_refused():
    prior = new_prior(tiny_unet())
    prior.register_to_config(cross_attention_dim=64)
    with pytest.raises(HvfError, match="cross_attention_dim is 64; this UNet's is 32"):
        prior.attach(tiny_unet())
    names = list(prior.config["adapter_names"])
    prior.register_to_config(adapter_names=["mid_block.other", *names[1:]])
    with pytest.raises(HvfError, match="mid_block.other"):
        prior.attach(tiny_unet())
    prior.register_to_config(adapter_names=names[1:], adapter_widths=list(prior.config["adapter_widths"])[1:])
    with pytest.raises(HvfError, match="7 adapter layers; this UNet has 8"):
        prior.attach(tiny_unet())


@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_stock_diffusers_draws_the_same_picture_from_our_export(tmp_path, guidance):
    ours, stock = tiny_pipeline(), tiny_pipeline()
    prior = shake(new_prior(ours.unet))
    file = export_ip_adapter(prior, tmp_path)
    assert file == tmp_path / "ip-adapter.safetensors"
    with torch.no_grad():
        z_c = prior.project(prior.encode(features()))
    prior.attach(ours.unet)
    without = tiny_pipeline()(
        [""] * 3, height=16, width=16, num_inference_steps=3, guidance_scale=guidance, output_type="np",
        generator=[torch.Generator().manual_seed(i) for i in range(3)],
    ).images  # fmt: skip
    stock.load_ip_adapter(str(tmp_path), subfolder="", weight_name=file.name, image_encoder_folder=None)
    pictures = draw(ours, z_c, guidance)
    np.testing.assert_array_equal(pictures, draw(stock, z_c, guidance))
    assert np.abs(pictures - without).max() > 1e-3
    exported = load_file(file)
    assert len(exported) == 4 + 2 * 8
    for unet in (ours.unet, stock.unet):
        processors = [unet.attn_processors[layer.name] for layer in adapter_layers(unet)]
        state = flat_state(unet.encoder_hid_proj.image_projection_layers[0], processors)
        assert set(state) == set(exported)
        assert all(torch.equal(state[key], exported[key]) for key in exported)
