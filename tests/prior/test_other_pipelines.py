"""Pipelines and VAEs of other makes, pictures that are not square: drawn as diffusers does, or refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image

from hvf.config import HvfError
from hvf.prior.loading import load_pipeline
from hvf.prior.reconstruction import Reconstructor
from hvf.vision.latents import LatentDecoder
from hvf.vision.loading import load_encoder
from tests.prior.drawing import SAMPLING, WIDTH, altered, make_prior
from tests.tiny_sdxl import tiny_pipeline

Z_ND = np.random.default_rng(0).standard_normal((3, WIDTH)).astype(np.float32)
MEANS = {"latents_mean": [-1.6, 1.1, 0.3, 2.0], "latents_std": [8.4, 6.0, 5.3, 4.3], "scaling_factor": 0.5}


def standardised():
    """A pipeline whose VAE gives each channel's mean and standard deviation, as Playground v2.5's."""
    pipeline = tiny_pipeline()
    pipeline.vae.register_to_config(**MEANS)
    return pipeline


def reconstructor_of(pipeline) -> Reconstructor:
    return Reconstructor(pipeline, make_prior(pipeline.unet))


def a_picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    pixels[:, : width // 4] = 0
    return Image.fromarray(pixels)


def test_latents_are_scaled_by_the_means_that_a_vae_gives():
    """Decoded by the scale alone they gave other colours than the pipeline that drew them."""
    reconstructor = reconstructor_of(standardised())
    latents = reconstructor.draw(Z_ND, SAMPLING, decode=False)
    ours = reconstructor.decode(torch.from_numpy(latents)).astype(int)
    assert np.abs(ours - reconstructor.draw(Z_ND, SAMPLING)).max() <= 1
    encoded, plain = (one.encode([a_picture(16, 16)])[0] for one in (reconstructor, reconstructor_of(tiny_pipeline())))
    mean, sd = (np.array(MEANS[name])[:, None, None] for name in ("latents_mean", "latents_std"))
    raw = plain / tiny_pipeline().vae.config.scaling_factor
    np.testing.assert_allclose(encoded, (raw - mean) * 0.5 / sd, atol=1e-5)
    assert reconstructor.vae_hash != reconstructor_of(tiny_pipeline()).vae_hash


def test_features_of_a_vae_are_scaled_as_its_pipeline_scales_them(tmp_path):
    pipeline = standardised()
    pipeline.vae.save_pretrained(tmp_path)
    picture = a_picture(16, 16)
    x_13HW = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    features = load_encoder(f"vae:{tmp_path}@16", "cpu")(x_13HW).numpy()
    encoded = reconstructor_of(pipeline).encode([picture])
    np.testing.assert_allclose(features, encoded.reshape(1, -1), atol=1e-5)
    ours = LatentDecoder(f"vae:{tmp_path}@16").decode(features).astype(int)
    theirs = reconstructor_of(pipeline).decode(torch.from_numpy(encoded)).astype(int)
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("size", [(24, 16), (16, 24), (40, 8)])
def test_a_picture_that_is_no_square_is_encoded_whole(size):
    """As seen pictures are shown and features are taken: cropped, latents were of the middle alone."""
    reconstructor = reconstructor_of(tiny_pipeline())
    picture = a_picture(*size)
    whole = picture.resize((16, 16), Image.Resampling.LANCZOS)
    np.testing.assert_allclose(reconstructor.encode([picture]), reconstructor.encode([whole]), atol=1e-6)


def test_a_distilled_vae_encodes_and_decodes():
    pipeline = tiny_pipeline()
    torch.manual_seed(0)
    pipeline.vae = AutoencoderTiny().eval()
    reconstructor = reconstructor_of(pipeline)
    latents = reconstructor.encode([a_picture(64, 64)])
    assert latents.shape == (1, 4, 8, 8)
    assert reconstructor.decode(torch.from_numpy(latents)).shape == (1, 64, 64, 3)
    assert reconstructor.draw(Z_ND, SAMPLING).shape == (3, 64, 64, 3)


def with_channels(channels):
    pipeline = tiny_pipeline()
    config = {name: value for name, value in pipeline.vae.config.items() if name[0] != "_"}
    pipeline.vae = AutoencoderKL(**config | {"latent_channels": channels})
    return pipeline


def with_side(side):
    pipeline = tiny_pipeline()
    pipeline.unet.register_to_config(sample_size=side)
    return pipeline


def shifted():
    pipeline = tiny_pipeline()
    pipeline.vae.register_to_config(shift_factor=0.1159)
    return pipeline


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: with_channels(16), "UNet takes 4 channels and gives 4, and its VAE has 16"),
        (lambda: with_side([8, 12]), r"sample_size is \[8, 12\], of 2 pixels each"),
        (lambda: with_side(None), "sample_size is None"),
        (lambda: with_side(7), "sample_size is 7, of 2 pixels each: pictures are squares of a multiple of 8"),
        (shifted, "shift_factor is 0.1159, which diffusers' SDXL pipeline leaves out"),
    ],
)
def test_a_pipeline_that_cannot_draw_is_refused_as_it_is_loaded(make, said):
    with pytest.raises(HvfError, match=said):
        reconstructor_of(make())


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            ("text_encoder_2", "tokenizer_2"),
            "is no pipeline of Stable Diffusion XL: it has no text_encoder_2, tokenizer_2",
        ),
        (("text_encoder", "tokenizer"), "its text encoders are 16 wide, and its UNet takes 32"),
    ],
    ids=["sd15", "half"],
)
def test_a_pipeline_of_another_kind_is_refused_by_name(tmp_path, parts, said):
    """As SDXL's, diffusers opens one of Stable Diffusion 1.5, whose missing parts are None."""
    tiny_pipeline().save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    for part in parts:
        index[part] = [None, None]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(HvfError, match=said):
        load_pipeline(str(tmp_path))


@pytest.mark.parametrize("decode", [True, False])
def test_pictures_of_nan_are_refused_and_not_drawn_black(decode):
    reconstructor = reconstructor_of(tiny_pipeline())
    with torch.no_grad():
        reconstructor.prior.projector.up.weight.fill_(float("nan"))
    with pytest.raises(
        HvfError, match="3 of 3 pictures came out as NaN or infinity: the weights that draw are damaged"
    ):
        reconstructor.draw(Z_ND, SAMPLING, decode=decode)


def test_latents_that_decode_to_nan_are_refused():
    reconstructor = reconstructor_of(tiny_pipeline())
    with torch.no_grad():
        reconstructor.pipeline.vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(HvfError, match="1 of 1 pictures came out as NaN"):
        reconstructor.decode(torch.zeros(1, 4, 8, 8))
    with pytest.raises(HvfError, match="3 of 3 pictures came out as NaN"):
        reconstructor.draw(Z_ND, altered(batch_size=8))
