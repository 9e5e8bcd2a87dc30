"""Reconstruction through a tiny random SDXL: seeds, batches, guidance, schedulers, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionXLImg2ImgPipeline

from hvf.config import HvfError, SamplingConfig
from hvf.prior import loading, reconstruction
from hvf.prior.loading import load_pipeline, load_prior
from hvf.prior.model import FusionPrior
from hvf.prior.reconstruction import Reconstructor
from tests.tiny_sdxl import tiny_pipeline

WIDTH = 12
SAMPLING = SamplingConfig(steps=3, batch_size=4, scheduler="ddim")


def make_prior(unet) -> FusionPrior:
    torch.manual_seed(1)
    prior = FusionPrior.for_unet(unet, {"a": 6, "b": 5}, WIDTH, intermediate=8, projector_intermediate=8).eval()
    for parameter in prior.adapter.parameters():  # loud enough for the embedding to be seen in 16 x 16 pixels
        torch.nn.init.normal_(parameter, std=0.3)
    return prior


@pytest.fixture
def z_ND():
    return np.random.default_rng(0).normal(size=(5, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def reconstructor():
    pipeline = tiny_pipeline()
    return Reconstructor(pipeline, make_prior(pipeline.unet))


def undecoded(reconstructor: Reconstructor, *arguments, **settings) -> np.ndarray:
    return reconstructor.draw(*arguments, **settings, decode=False)


def altered(**settings) -> SamplingConfig:
    return dataclasses.replace(SAMPLING, **settings)


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
        generator = reconstruction._generator(0, 0, i)
        latents.append(stock(**prompts, **own, **settings, generator=generator).images[0].numpy())
    return np.stack(latents)


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


@pytest.fixture(scope="module")
def seen():
    """60 pictures, mixtures of three patterns whose weights their embeddings hold."""
    rng = np.random.default_rng(1)
    z_ND = rng.normal(size=(60, WIDTH)).astype(np.float32)
    patterns = rng.normal(size=(3, 16, 16, 3))
    return np.clip(128 + 25 * np.einsum("nk,khwc->nhwc", z_ND[:, :3], patterns), 0, 255).astype(np.uint8), z_ND


def test_the_start_is_learnt_from_training_images(seen):
    images, z_ND = seen
    pipeline = tiny_pipeline()
    reconstructor = Reconstructor(pipeline, make_prior(pipeline.unet))
    latents = reconstructor.encode(images)
    x = torch.from_numpy(images[:3]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        own = pipeline.vae.encode(x).latent_dist.mean * pipeline.vae.config.scaling_factor
    np.testing.assert_allclose(latents[:3], own.numpy(), atol=1e-5)
    with pytest.raises(HvfError, match="call fit_initial_latents with training images"):
        reconstructor.draw(z_ND[:2], altered(start="latents"))
    rng = np.random.default_rng(2)
    told = (z_ND @ rng.normal(size=(WIDTH, 256)) + 0.1 * rng.normal(size=(60, 256))).reshape(60, 4, 8, 8)
    reconstructor.fit_initial_latents(told[:50], z_ND[:50])
    predicted = reconstructor.initial_latents(z_ND[50:])
    assert (predicted.shape, predicted.dtype) == ((10, 4, 8, 8), np.float32)
    assert np.square(predicted - told[50:]).mean() < 0.05 * told.var()
    noisy = z_ND[40:50] + 2 * rng.normal(size=(10, WIDTH)).astype(np.float32)  # what a brain tells
    strict = reconstructor.fit_initial_latents(told[:50], z_ND[:50], dict(zip(range(40, 50), noisy, strict=True)))
    assert strict > reconstructor.fit_initial_latents(told[:50], z_ND[:50])
    reconstructor.fit_initial_latents(told[:50], z_ND[:50][::-1].copy())  # embeddings of other images tell nothing
    assert np.square(reconstructor.initial_latents(z_ND[50:]) - told[50:]).mean() > 0.8 * told.var()


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "ancestral", "dpm", "pipeline"])
@pytest.mark.slow(part=5)
def test_starting_from_latents_stays_near_them(seen, scheduler):
    images, z_ND = seen
    pipeline = tiny_pipeline()
    reconstructor = Reconstructor(pipeline, make_prior(pipeline.unet))
    reconstructor.fit_initial_latents(reconstructor.encode(images), z_ND)
    sampling = altered(start="latents", scheduler=scheduler, steps=10, strength=0.1, batch_size=3)
    begin = reconstructor.initial_latents(z_ND[:5])
    near = undecoded(reconstructor, z_ND[:5], sampling)
    noise = dataclasses.replace(sampling, start="noise")
    assert np.abs(near - begin).mean() < 0.5 * np.abs(undecoded(reconstructor, z_ND[:5], noise) - begin).mean()
    np.testing.assert_array_equal(near, undecoded(reconstructor, z_ND[:5], sampling))
    whole = dataclasses.replace(sampling, batch_size=5, strength=0.6)
    one_by_one = dataclasses.replace(whole, batch_size=1)
    np.testing.assert_allclose(
        undecoded(reconstructor, z_ND[:5], whole), undecoded(reconstructor, z_ND[:5], one_by_one), rtol=0, atol=1e-4
    )
    again = undecoded(reconstructor, z_ND[[4, 1]], whole, indices=[4, 1])
    np.testing.assert_allclose(again, undecoded(reconstructor, z_ND[:5], whole)[[4, 1]], rtol=0, atol=1e-4)
    other = undecoded(reconstructor, z_ND[:5], whole, round_index=1)
    assert np.abs(other - again[:1]).max() > 1e-3


@pytest.fixture(scope="module")
def unsure():
    """One that has learnt where to start from, and embeddings from its mean, which says nothing, to an image's own."""
    pipeline = tiny_pipeline()
    reconstructor = Reconstructor(pipeline, make_prior(pipeline.unet))
    rng = np.random.default_rng(3)
    z_ND = rng.normal(size=(60, WIDTH)).astype(np.float32)
    latents = z_ND @ rng.normal(size=(WIDTH, 256)) / np.sqrt(WIDTH) + 0.3 * rng.normal(size=(60, 256))
    reconstructor.fit_initial_latents(latents.reshape(60, 4, 8, 8), z_ND)
    initial = reconstructor.latents_of_z
    assert initial.explained > 0.8
    share_N = np.array([1.0, 0.2, 0.0, 0.6, 0.2, 1.5])
    direction = np.ones(WIDTH) * np.sqrt(initial.variance / WIDTH)
    return reconstructor, (initial.mean_D + np.sqrt(share_N)[:, None] * direction).astype(np.float32)


OWN_STRENGTH = altered(start="latents", steps=8, scheduler="ancestral", batch_size=3)


def test_each_picture_is_denoised_as_far_as_its_embedding_leaves_it_open(unsure):
    """From the noisiest step whose noise, as a share of the variance, is no more than what is open."""
    reconstructor, z_ND = unsure
    explained = reconstructor.latents_of_z.explained
    scheduler = EulerAncestralDiscreteScheduler.from_config(reconstructor.pipeline.scheduler.config)
    scheduler.set_timesteps(8)
    noise = [1 - float(scheduler.alphas_cumprod[int(time)]) for time in scheduler.timesteps]
    expected = [sum(n <= 1 - explained * share for n in noise) for share in (1, 0.2, 0, 0.6, 0.2, 1)]
    done_N = reconstructor.steps_done(z_ND, OWN_STRENGTH)
    assert done_N.tolist() == expected
    assert done_N[2] == 8 > done_N[1] > done_N[3] > done_N[0] == done_N[5] >= 0
    calls = []
    hook = reconstructor.pipeline.unet.register_forward_pre_hook(lambda unet, args: calls.append(len(args[0])))
    try:
        for i, n in enumerate(expected):
            calls.clear()
            undecoded(reconstructor, z_ND[[i]], OWN_STRENGTH)
            assert calls == [1] * n
        calls.clear()
        undecoded(reconstructor, z_ND, OWN_STRENGTH)
        assert sum(calls) == sum(expected)
        assert len(calls) == sum(set(expected))  # those of one number of steps together
    finally:
        hook.remove()
    single = altered(
        start="latents", steps=1, scheduler="dpm"
    )  # of noise alone, which only an embedding that says nothing is given
    assert reconstructor.steps_done(z_ND, single).tolist() == [0, 0, 1, 0, 0, 0]
    assert undecoded(reconstructor, z_ND, single).shape == (6, 4, 8, 8)


def test_what_leaves_less_open_than_the_last_step_has_noise_is_decoded_as_it_is(unsure):
    reconstructor, z_ND = unsure
    few = altered(start="latents", steps=8, guidance=3.0, scheduler="dpm", batch_size=2)
    rows = np.flatnonzero(reconstructor.steps_done(z_ND, few) == 0)
    assert 0 < len(rows) < 6
    starts = reconstructor.initial_latents(z_ND)
    np.testing.assert_array_equal(undecoded(reconstructor, z_ND, few)[rows], starts[rows])
    vae, pictures = reconstructor.pipeline.vae, reconstructor.draw(z_ND, few)
    with torch.no_grad():
        theirs = vae.decode(torch.from_numpy(starts[rows]) / vae.config.scaling_factor).sample
    theirs = reconstructor.pipeline.image_processor.postprocess(theirs, output_type="np")
    np.testing.assert_allclose(pictures[rows], 255 * theirs, rtol=0, atol=0.51)
    (open_row,) = np.flatnonzero(reconstructor.steps_done(z_ND, few) == 8)
    assert np.abs(undecoded(reconstructor, z_ND, few)[open_row] - starts[open_row]).max() > 0.1


def test_the_bar_counts_all_steps(unsure, monkeypatch):
    reconstructor, z_ND = unsure
    counts = []

    class Bar:
        def __init__(self, total, label):
            counts.append(total)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def advance(self):
            counts.append(1)

    monkeypatch.setattr(reconstruction.runs, "track", Bar)
    for batch_size in (1, 2, 6):
        counts.clear()
        undecoded(reconstructor, z_ND, dataclasses.replace(OWN_STRENGTH, batch_size=batch_size))
        assert counts[0] == sum(counts[1:])


@pytest.mark.parametrize("scheduler", ["ancestral", "ddim", "dpm"])
def test_pictures_of_other_numbers_of_steps_do_not_change_one(unsure, scheduler):
    """In whichever batch, order and company it is drawn."""
    reconstructor, z_ND = unsure
    sampling = dataclasses.replace(OWN_STRENGTH, scheduler=scheduler)
    whole = undecoded(reconstructor, z_ND, sampling)
    for batch_size in (1, 6):
        other = undecoded(reconstructor, z_ND, dataclasses.replace(sampling, batch_size=batch_size))
        np.testing.assert_allclose(other, whole, rtol=0, atol=1e-4)
    order = [5, 2, 3, 0, 4, 1]
    shuffled = undecoded(reconstructor, z_ND[order], sampling, indices=order)
    np.testing.assert_allclose(shuffled, whole[order], rtol=0, atol=1e-4)
    for subset in ([3], [4, 2]):
        again = undecoded(reconstructor, z_ND[subset], sampling, indices=subset)
        np.testing.assert_allclose(again, whole[subset], rtol=0, atol=1e-4)
    pictures = reconstructor.draw(z_ND, sampling).astype(int)
    assert np.abs(pictures[order] - reconstructor.draw(z_ND[order], sampling, indices=order).astype(int)).max() <= 1
    other_round = np.abs(undecoded(reconstructor, z_ND, sampling, round_index=1) - whole).max(axis=(1, 2, 3))
    denoised = reconstructor.steps_done(z_ND, sampling) > 0
    assert other_round[denoised].min() > 1e-2
    assert not other_round[~denoised].any()
    assert np.abs(whole[1] - whole[4]).max() > 1e-2  # one embedding, other noise


@pytest.mark.parametrize(("steps", "strength", "done"), [(5, 0.6, 3), (7, 0.5, 3), (10, 0.7, 7), (3, 1.0, 3)])
def test_a_strength_that_is_given_is_that_of_all_pictures(unsure, steps, strength, done):
    """As the pipeline itself takes it, in the very same batches."""
    reconstructor, z_ND = unsure
    sampling = altered(start="latents", steps=steps, strength=strength, batch_size=6, guidance=0.0)
    assert reconstructor.steps_done(z_ND, sampling).tolist() == [done] * 6
    ours = undecoded(reconstructor, z_ND, sampling)
    embeds = reconstructor.prior.project(torch.from_numpy(z_ND))[:, None]
    reconstructor.img2img.scheduler = reconstructor.make_scheduler("ddim")
    with torch.no_grad():
        theirs = reconstructor.img2img(
            image=torch.from_numpy(reconstructor.initial_latents(z_ND)),
            strength=strength,
            prompt_embeds=reconstructor._prompt.expand(6, -1, -1),
            pooled_prompt_embeds=reconstructor._pooled.expand(6, -1),
            ip_adapter_image_embeds=[embeds],
            guidance_scale=0.0,
            num_inference_steps=steps,
            generator=[reconstruction._generator(0, 0, i) for i in range(6)],
            output_type="latent",
        ).images
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 30, 49, 1000])
def test_the_pipeline_does_as_many_steps_as_it_is_asked_for(steps):
    asked = np.unique(np.linspace(1, steps, 60).astype(int))
    assert [int(steps * reconstruction.strength_of(n, steps)) for n in asked.tolist()] == asked.tolist()
    assert reconstruction.strength_of(steps, steps) == 1


def test_stock_img2img_draws_the_same_from_the_exported_adapter(seen, tmp_path):
    images, z_ND = seen
    pipeline = tiny_pipeline()
    reconstructor = Reconstructor(pipeline, make_prior(pipeline.unet))
    reconstructor.fit_initial_latents(reconstructor.encode(images), z_ND)
    sampling = altered(start="latents", scheduler="pipeline", guidance=4.0, steps=5, strength=0.6)
    ours = undecoded(reconstructor, z_ND[:3], sampling)
    stock = StableDiffusionXLImg2ImgPipeline(**tiny_pipeline().components, add_watermarker=False)
    z_ND = z_ND[:3]
    starts = torch.from_numpy(reconstructor.initial_latents(z_ND))
    theirs = stock_latents(stock, reconstructor, z_ND, tmp_path, image=starts, num_inference_steps=5, strength=0.6)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)


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
