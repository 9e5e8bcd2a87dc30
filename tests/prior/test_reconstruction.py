"""Reconstruction through a tiny random SDXL: seeds, batches, guidance, schedulers, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from hvf.config import HvfError, SamplingConfig
from hvf.prior import loading, reconstruction
from hvf.prior.loading import load_pipeline, load_prior
from hvf.prior.reconstruction import Reconstructor
from tests.prior.drawing import SAMPLING, WIDTH, altered, make_prior, stock_latents, undecoded
from tests.tiny_sdxl import tiny_pipeline


@pytest.fixture
def z_ND():
    return np.random.default_rng(0).normal(size=(5, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def reconstructor():
    pipeline = tiny_pipeline()
    return Reconstructor(pipeline, make_prior(pipeline.unet))


def test_pictures_have_the_size_of_the_unet(reconstructor, z_ND):
    pictures = reconstructor.draw(z_ND, SAMPLING)
    assert pictures.shape == (5, 16, 16, 3)
    assert pictures.dtype == np.uint8
    assert reconstructor.size == 16
    assert pictures.std() > 0
    assert undecoded(reconstructor, z_ND, SAMPLING).shape == (5, 4, 8, 8)


def test_the_same_seed_draws_the_same(reconstructor, z_ND):
    latents = undecoded(reconstructor, z_ND, SAMPLING)
    np.testing.assert_array_equal(latents, undecoded(reconstructor, torch.from_numpy(z_ND), SAMPLING))
    for other in ({"sampling": altered(seed=1)}, {"sampling": SAMPLING, "round_index": 1}):
        assert np.abs(latents - undecoded(reconstructor, z_ND, **other)).max() > 0.1


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm", "pipeline"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_batch_size_does_not_change_pictures(reconstructor, z_ND, scheduler, guidance):
    whole = altered(scheduler=scheduler, guidance=guidance, batch_size=5)
    one_by_one = dataclasses.replace(whole, batch_size=1)
    np.testing.assert_allclose(
        undecoded(reconstructor, z_ND, whole), undecoded(reconstructor, z_ND, one_by_one), rtol=0, atol=1e-4
    )
    pictures = [reconstructor.draw(z_ND, sampling).astype(int) for sampling in (whole, one_by_one)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_a_subset_is_redrawn_as_it_was(reconstructor, z_ND):
    latents = undecoded(reconstructor, z_ND, SAMPLING)
    again = undecoded(reconstructor, z_ND[[3, 1]], SAMPLING, indices=[3, 1])
    np.testing.assert_allclose(again, latents[[3, 1]], rtol=0, atol=1e-4)


def test_the_embedding_decides_and_noise_differs_between_images(reconstructor, z_ND):
    same = undecoded(reconstructor, np.repeat(z_ND[:1], 2, axis=0), SAMPLING)
    assert np.abs(same[0] - same[1]).max() > 0.1  # same embedding, own noise
    noise = [7, 7]
    different = undecoded(reconstructor, z_ND[:2], SAMPLING, indices=noise)
    assert np.abs(different[0] - different[1]).max() > 1e-3  # same noise, own embedding


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder_2", "prior", "scheduler", "settings", "latents"])
def test_the_fingerprint_knows_all_that_makes_a_picture(reconstructor, z_ND, part):
    def made() -> Reconstructor:
        pipeline = tiny_pipeline()
        return Reconstructor(pipeline, make_prior(pipeline.unet))

    other = made()
    assert other.fingerprint == reconstructor.fingerprint
    if part == "scheduler":
        pipeline = tiny_pipeline()
        pipeline.scheduler.register_to_config(beta_end=0.02)
        other = Reconstructor(pipeline, make_prior(pipeline.unet))
    elif part == "settings":
        pipeline = tiny_pipeline()
        pipeline.vae.register_to_config(scaling_factor=2 * pipeline.vae.config.scaling_factor)
        other = Reconstructor(pipeline, make_prior(pipeline.unet))
    elif part == "latents":
        other.fit_initial_latents(np.random.default_rng(1).normal(size=(5, 4, 8, 8)), z_ND)
    else:
        other = made()  # a fingerprint of models is taken once
        last = list((other.prior if part == "prior" else getattr(other.pipeline, part)).parameters())[-1]
        last.data += 0.01
    assert other.fingerprint != reconstructor.fingerprint


def test_a_pipeline_that_is_written_and_read_back_keeps_its_fingerprint(reconstructor, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    pipeline = load_pipeline(str(tmp_path))
    assert Reconstructor(pipeline, make_prior(pipeline.unet)).fingerprint == reconstructor.fingerprint


def test_rounds_are_stacked(reconstructor, z_ND):
    rounds = np.stack([reconstructor.draw(z_ND[:2], altered(rounds=3), r) for r in range(3)])
    assert rounds.shape == (3, 2, 16, 16, 3)
    np.testing.assert_array_equal(rounds[2], reconstructor.draw(z_ND[:2], SAMPLING, round_index=2))
    assert (rounds[0] != rounds[1]).any()


def test_guidance_and_schedulers_change_the_picture(reconstructor, z_ND):
    drawn = [
        undecoded(reconstructor, z_ND[:1], altered(**settings))
        for settings in ({}, {"guidance": 4.0}, {"scheduler": "euler"}, {"scheduler": "dpm"})
    ]
    for i, a in enumerate(drawn):
        assert all(np.abs(a - b).max() > 1e-3 for b in drawn[:i])
    off = undecoded(reconstructor, z_ND[:1], altered(guidance=0.0))
    np.testing.assert_array_equal(off, drawn[0])


def test_a_draw_leaves_the_pipelines_own_scheduler_to_the_next(reconstructor, z_ND):
    before = undecoded(reconstructor, z_ND[:1], altered(scheduler="pipeline"))
    undecoded(reconstructor, z_ND[:1], altered(scheduler="dpm"))
    np.testing.assert_array_equal(before, undecoded(reconstructor, z_ND[:1], altered(scheduler="pipeline")))


def test_stock_diffusers_draws_the_same_from_the_exported_adapter(reconstructor, z_ND, tmp_path):
    sampling = altered(scheduler="pipeline", guidance=4.0)
    ours = undecoded(reconstructor, z_ND, sampling)  # five at once, which stock diffusers would mix
    theirs = stock_latents(tiny_pipeline(), reconstructor, z_ND, tmp_path, num_inference_steps=3, height=16, width=16)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)


def test_latents_are_not_clipped(reconstructor, z_ND):
    for scheduler in ("ddim", "euler", "dpm"):
        assert np.abs(undecoded(reconstructor, z_ND, altered(scheduler=scheduler))).max() > 1.5


def test_the_projector_is_on_the_way(reconstructor, z_ND, monkeypatch):
    drawn = undecoded(reconstructor, z_ND[:1], SAMPLING)
    monkeypatch.setattr(reconstructor.prior, "project", lambda z: z)
    assert np.abs(drawn - undecoded(reconstructor, z_ND[:1], SAMPLING)).max() > 1e-4


def test_embeddings_that_cannot_be_drawn_are_refused(reconstructor, z_ND):
    with pytest.raises(HvfError, match=r"\(N, 12\), not \(5, 11\)"):
        reconstructor.draw(z_ND[:, 1:], SAMPLING)
    z_ND[2, 0] = np.nan
    with pytest.raises(HvfError, match="1 of 5 embeddings hold NaN or infinity, the first at index 2"):
        reconstructor.draw(z_ND, SAMPLING)
    with pytest.raises(HvfError, match="5 embeddings but 2 indices"):
        reconstructor.draw(np.zeros((5, WIDTH)), SAMPLING, indices=[0, 1])
    with pytest.raises(HvfError, match="did you mean 'euler'"):
        reconstructor.draw(np.zeros((5, WIDTH)), altered(scheduler="eular"))


def test_models_are_read_from_local_folders(z_ND, tmp_path):
    pipeline = tiny_pipeline()
    prior = make_prior(pipeline.unet)
    pipeline.save_pretrained(tmp_path / "sdxl")
    prior.save_pretrained(tmp_path / "prior")
    drawn = Reconstructor(pipeline, prior).draw(z_ND, SAMPLING)
    read = Reconstructor(load_pipeline(str(tmp_path / "sdxl")), load_prior(str(tmp_path / "prior")))
    np.testing.assert_array_equal(read.draw(z_ND, SAMPLING), drawn)
    half = load_pipeline(str(tmp_path / "sdxl"), dtype=torch.float16)
    assert half.unet.dtype == torch.float16


def test_a_pipeline_in_half_precision_stays_so(z_ND):
    pipeline = tiny_pipeline().to(torch.bfloat16)
    prior = make_prior(pipeline.unet)
    half = Reconstructor(pipeline, prior)
    assert {p.dtype for p in pipeline.unet.parameters()} == {torch.bfloat16}
    assert prior.projector.up.weight.dtype == torch.float32
    whole = tiny_pipeline()
    drawn = Reconstructor(whole, make_prior(whole.unet)).draw(z_ND, SAMPLING)
    assert np.corrcoef(half.draw(z_ND, SAMPLING).ravel(), drawn.ravel())[0, 1] > 0.9


@pytest.mark.slow(part=5)
@pytest.mark.parametrize(("steps", "guidance"), [(30, 5.0), (4, 0.0)])  # SDXL base, and SDXL-Turbo
def test_base_and_turbo_sampling_in_bfloat16_is_seeded_per_image(z_ND, steps, guidance):
    pipeline = tiny_pipeline().to(torch.bfloat16)
    half = Reconstructor(pipeline, make_prior(pipeline.unet))
    sampling = SamplingConfig(steps=steps, guidance=guidance, rounds=2, batch_size=3, scheduler="pipeline")
    drawn = np.stack([half.draw(z_ND[:3], sampling, r) for r in range(2)]).astype(int)
    assert drawn.shape == (2, 3, 16, 16, 3)
    assert (drawn[0] != drawn[1]).any(axis=(1, 2, 3)).all()
    alone = half.draw(z_ND[2:3], sampling, round_index=1, indices=[2]).astype(int)
    assert np.abs(alone[0] - drawn[1, 2]).mean() < 4  # bfloat16 rounds otherwise in batches of another size
    whole = tiny_pipeline()
    exact = Reconstructor(whole, make_prior(whole.unet))
    exact = np.stack([exact.draw(z_ND[:3], sampling, r) for r in range(2)])
    assert np.corrcoef(drawn.ravel(), exact.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(("load", "marker"), [(load_pipeline, "model_index.json"), (load_prior, "config.json")])
def test_missing_models_are_named(load, marker, tmp_path, monkeypatch):
    with pytest.raises(HvfError, match=f"has no {marker}"):
        load(str(tmp_path))
    with pytest.raises(HvfError, match="no such folder"):
        load(str(tmp_path / "nothing"))
    monkeypatch.setattr(loading, "MINI_WEIGHTS", tmp_path)
    with pytest.raises(HvfError, match=rf"{marker}; remake it with prior_training/"):
        load("mini")


def test_a_broken_folder_is_named(tmp_path):
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(HvfError, match=f"the SDXL pipeline in {tmp_path} cannot be read") as error:
        load_pipeline(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("load", "cls"), [(load_pipeline, "StableDiffusionXLPipeline"), (load_prior, "FusionPrior")])
def test_what_the_hub_does_not_give_comes_with_the_command_that_fetches_it(load, cls, monkeypatch):
    def offline(source, **settings):
        raise OSError(f"cannot reach\nthe Hub for {source}")

    monkeypatch.setattr(getattr(reconstruction, cls), "from_pretrained", offline)
    with pytest.raises(HvfError, match="fetch it with `hf download someone/something`") as error:
        load("someone/something")
    assert "\n" not in str(error.value)
