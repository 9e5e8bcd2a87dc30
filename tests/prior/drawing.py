"""A tiny random prior and pipeline that draw, and how to ask them: for tests of drawing."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from hvf.config import SamplingConfig
from hvf.prior.model import FusionPrior
from hvf.prior.reconstruction import Reconstructor, _generator

WIDTH = 12
SAMPLING = SamplingConfig(steps=3, batch_size=4, scheduler="ddim")


def make_prior(unet) -> FusionPrior:
    torch.manual_seed(1)
    prior = FusionPrior.for_unet(unet, {"a": 6, "b": 5}, WIDTH, intermediate=8, projector_intermediate=8).eval()
    for parameter in prior.adapter.parameters():  # loud enough for the embedding to be seen in 16 x 16 pixels
        torch.nn.init.normal_(parameter, std=0.3)
    return prior


def undecoded(reconstructor: Reconstructor, *arguments, **settings) -> np.ndarray:
    return reconstructor.draw(*arguments, **settings, decode=False)


def altered(**settings) -> SamplingConfig:
    return dataclasses.replace(SAMPLING, **settings)


def stock_latents(stock, reconstructor, z_ND, folder, image=None, **settings):
    """What an unmodified diffusers pipeline draws from the exported adapter, one picture at a time."""
    reconstructor.prior.export_ip_adapter(folder)
    stock.load_ip_adapter(str(folder), subfolder="", weight_name="ip-adapter.safetensors", image_encoder_folder=None)
    with torch.no_grad():
        z_c_ND = reconstructor.prior.project(torch.from_numpy(z_ND))
        text, _, pooled, _ = stock.encode_prompt("", do_classifier_free_guidance=False)
    prompts = {"prompt_embeds": text, "pooled_prompt_embeds": pooled, "guidance_scale": 4.0, "output_type": "latent"}
    prompts |= {"negative_prompt_embeds": text, "negative_pooled_prompt_embeds": pooled}
    latents = []
    for i, z_c in enumerate(z_c_ND):
        e = z_c.view(1, 1, WIDTH)
        own = {} if image is None else {"image": image[i : i + 1]}
        own |= {"ip_adapter_image_embeds": [torch.cat([torch.zeros_like(e), e])]}
        generator = _generator(0, 0, i)
        latents.append(stock(**prompts, **own, **settings, generator=generator).images[0].numpy())
    return np.stack(latents)
