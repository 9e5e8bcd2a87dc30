"""Drawing that starts from predicted latents: as much noise as is open, in whatever company; stock img2img the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionXLImg2ImgPipeline,
)

from hvf.config import HvfError
from hvf.prior import reconstruction
from hvf.prior.reconstruction import Reconstructor
from hvf.prior.schedules import noise_shares
from tests.prior.drawing import WIDTH, altered, make_prior, stock_latents, undecoded
from tests.tiny_sdxl import tiny_pipeline


@pytest.fixture(scope="module")
def seen():
    """60 pictures, mixtures of three patterns whose weights their embeddings hold."""
    rng = np.random.default_rng(1)
    z_ND = rng.normal(size=(60, WIDTH)).astype(np.float32)
    patterns = rng.normal(size=(3, 16, 16, 3))
    return np.clip(128 + 25 * np.einsum("nk,khwc->nhwc", z_ND[:, :3], patterns), 0, 255).astype(np.uint8), z_ND


def test_a_vae_is_known_again_in_another_precision_and_by_its_weights():
    pipeline = tiny_pipeline()
    prior = make_prior(pipeline.unet)
    known = Reconstructor(pipeline, prior).vae_hash
    assert Reconstructor(tiny_pipeline(), prior).vae_hash == known
    half = tiny_pipeline()
    half.vae.to(torch.bfloat16)  # as on a GPU
    assert Reconstructor(half, prior).vae_hash == known
    other = tiny_pipeline()
    other.vae.encoder.conv_out.bias.data += 0.1
    assert Reconstructor(other, prior).vae_hash != known


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
    noise = dataclasses.replace(sampling, start="noise", strength=None)
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
    return an_unsure_one()


def an_unsure_one():
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
    # One step is of noise alone, which only an embedding that says nothing is given.
    single = altered(start="latents", steps=1, scheduler="dpm")
    assert reconstructor.steps_done(z_ND, single).tolist() == [0, 0, 1, 0, 0, 0]
    assert undecoded(reconstructor, z_ND, single).shape == (6, 4, 8, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_leaves_less_open_than_the_last_step_has_noise_is_decoded_as_it_is(dtype):
    reconstructor, z_ND = an_unsure_one()
    reconstructor.pipeline.vae.to(dtype)
    few = altered(start="latents", steps=8, guidance=3.0, scheduler="dpm", batch_size=2)
    rows = np.flatnonzero(reconstructor.steps_done(z_ND, few) == 0)
    assert 0 < len(rows) < 6
    starts = reconstructor.initial_latents(z_ND)
    np.testing.assert_array_equal(undecoded(reconstructor, z_ND, few)[rows], starts[rows])
    vae, pictures = reconstructor.pipeline.vae, reconstructor.draw(z_ND[rows], few, indices=rows.tolist())
    assert vae.dtype is dtype
    vae.to(torch.float32)
    with torch.no_grad():
        theirs = vae.decode(torch.from_numpy(starts[rows]) / vae.config.scaling_factor).sample
    theirs = reconstructor.pipeline.image_processor.postprocess(theirs, output_type="np")
    np.testing.assert_allclose(pictures, 255 * theirs, rtol=0, atol=4 if dtype is torch.bfloat16 else 0.51)
    if dtype is torch.float32:
        np.testing.assert_array_equal(reconstructor.draw(z_ND, few)[rows], pictures)
    (open_row,) = np.flatnonzero(reconstructor.steps_done(z_ND, few) == 8)
    assert np.abs(undecoded(reconstructor, z_ND, few)[open_row] - starts[open_row]).max() > 0.1


@pytest.mark.parametrize("settings", [{}, {"timestep_spacing": "leading"}, {"use_karras_sigmas": True},
                                      {"timestep_type": "continuous", "prediction_type": "v_prediction"}])  # fmt: skip
def test_the_share_of_noise_is_that_of_the_schedule(settings):
    """Of times between whole ones, and of such as are no time of training; of EDM, whose data have their own sd."""
    scheduler = EulerDiscreteScheduler(**settings)
    shares = noise_shares(scheduler, 7)
    assert (np.diff(shares) < 0).all()
    np.testing.assert_allclose(shares / (1 - shares), scheduler.sigmas[:-1].numpy() ** 2, rtol=1e-4)
    edm = EDMEulerScheduler()
    noise, data = noise_shares(edm, 7), edm.config.sigma_data
    np.testing.assert_allclose(noise, [float(s**2 / (s**2 + data**2)) for s in edm.sigmas[:-1]], atol=1e-6)


@pytest.mark.parametrize(
    "kind", [DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, PNDMScheduler]
)
def test_the_share_of_each_step_is_what_img2img_adds_before_it(kind):
    """Whatever the sampler: Heun's asks the UNet twice a step, PNDM's once more than it has steps."""
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = kind.from_config(schedule | {"timestep_spacing": "trailing", "skip_prk_steps": True})
    shares = noise_shares(scheduler, 6)
    for done in range(1, 7):
        time = scheduler.timesteps[(6 - done) * scheduler.order :][:1]
        of_image, of_noise = (
            float(scheduler.add_noise(torch.full((1, 1), x), torch.full((1, 1), 1 - x), time)) for x in (1.0, 0.0)
        )
        assert shares[6 - done] == pytest.approx(of_noise**2 / (of_image**2 + of_noise**2), abs=1e-5)


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
