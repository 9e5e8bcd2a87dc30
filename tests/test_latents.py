"""Pictures from responses without a prior: a ridge to the latents of a VAE, and the VAE's decoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hvf import cli
from hvf.config import Config, HvfError, with_settings
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.trials.trials import Trials
from hvf.decoder import Decoder
from hvf.vision.cache import embed
from hvf.vision.latents import LatentDecoder
from tests.small_run import small_config

SPEC = "vae:mini@32"
CHANNELS, TIMES = 24, 6


@pytest.fixture(scope="module")
def config() -> Config:
    latents = {"align.mode": "latents", "brain.encoder": "ridge", "fusion.kind": "plain", "targets.specs": (SPEC,)}
    return with_settings(small_config(), latents | {"sampling.posterior_mean": 0.0, "sampling.start": "noise"})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Two colours, one left of the other: what they are varies more than how they are textured."""
    folder, rng = tmp_path_factory.mktemp("halves"), np.random.default_rng(0)
    for i in range(60):
        pixels = np.empty((32, 32, 3), np.uint8)
        pixels[:, :16], pixels[:, 16:] = rng.integers(0, 256, (2, 3))
        Image.fromarray(pixels).save(folder / f"image{i:02d}.png")
    return open_images(folder)


def trials_of(images: ImageSet, noise: float = 0.05) -> Trials:
    """Responses that are linear in the image's colours, and noise."""
    rng = np.random.default_rng(1)
    colours_N6 = images.array(size=32)[:, 16, [4, 28]].reshape(len(images), 6) / 255.0 - 0.5
    x_ND = colours_N6 @ rng.standard_normal((6, CHANNELS * TIMES))
    x_ND += noise * rng.standard_normal(x_ND.shape)
    names = [f"E{i}" for i in range(CHANNELS)]
    return Trials(x_ND.reshape(-1, CHANNELS, TIMES), images.ids, "sub-01", 100.0, 0.0, names, "features")


@pytest.fixture(scope="module")
def fitted(config: Config, images: ImageSet) -> Decoder:
    train = images.select(list(range(48)))
    return Decoder(config).fit(trials_of(images).aligned_to(train), train)


def grey_levels(a_NHWC: np.ndarray, b_NHWC: np.ndarray) -> float:
    """The mean difference of two sets of pictures, in grey levels."""
    return float(np.abs(a_NHWC.astype(float) - b_NHWC).mean())


def test_latents_are_decoded_to_the_pictures_that_they_were_made_of(images: ImageSet) -> None:
    decoder, shown = LatentDecoder("vae:mini"), images.select(list(range(8)))
    drawn = decoder.decode(embed(shown, "vae:mini"), batch=3)
    assert drawn.shape == (8, 64, 64, 3)
    seen = shown.array(size=64)
    x_N3HW = torch.from_numpy(seen).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():  # there and back by diffusers alone
        back_N3HW = decoder.vae.decode(decoder.vae.encode(x_N3HW).latent_dist.mode()).sample
    expected = (back_N3HW.permute(0, 2, 3, 1).clamp(-1, 1) + 1) * 127.5
    assert np.abs(drawn - expected.numpy()).mean() < 1  # grey level of 255: images were made larger in other ways
    assert grey_levels(drawn, seen) < 0.4 * grey_levels(np.roll(drawn, 1, axis=0), seen)  # another image's


def test_what_is_seen_is_drawn(fitted: Decoder, images: ImageSet) -> None:
    test = images.select(list(range(48, 60)))
    trials, seen = trials_of(images).aligned_to(test), test.array(size=32)
    drawn = fitted.reconstruct(trials)
    assert drawn.shape == (12, 32, 32, 3)
    permuted = fitted.reconstruct(trials.select(np.roll(np.arange(12), 5)))
    assert grey_levels(drawn, seen) < 0.5 * grey_levels(permuted, seen)
    ceiling = fitted.draw(fitted.embed_images(test))
    own = LatentDecoder(SPEC).decode(embed(test, SPEC))
    np.testing.assert_allclose(ceiling.astype(int), own, atol=1)  # nothing is lost on the way, but for rounding


def test_a_saved_decoder_draws_the_same(fitted: Decoder, images: ImageSet, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    again, trials = Decoder.load(tmp_path), trials_of(images).select(range(3))
    assert np.array_equal(again.reconstruct(trials), fitted.reconstruct(trials))
    assert again.drawing_models.fingerprint == fitted.drawing_models.fingerprint
    assert "from latents that a ridge predicts; no prior" in (tmp_path / "README.md").read_text()


def test_variance_is_restored_as_validation_trials_show_it(config: Config, images: ImageSet) -> None:
    """Noise makes a ridge timid: what it predicts of unseen images varies less than images do."""
    train, test = images.select(list(range(48))), images.select(range(48, 60))
    noisy = trials_of(images, noise=3.0)
    restoring = with_settings(config, {"sampling.restore_variance": True})
    timid = Decoder(config).fit(noisy.aligned_to(train), train)
    z_ND, natural = timid.embed_trials(noisy.aligned_to(test)), timid.embed_images(test)
    assert z_ND.std() < 0.8 * natural.std()
    bold = Decoder(restoring).fit(noisy.aligned_to(train), train)
    spread = bold.fitted().best["validation_spread"]
    np.testing.assert_allclose(bold.to_draw(z_ND), z_ND / spread, rtol=1e-6)
    assert np.array_equal(timid.to_draw(z_ND), z_ND)
    assert bold.to_draw(z_ND).std() == pytest.approx(natural.std(), rel=0.35)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("vae:mini:grid2", "from all latents of a VAE"),
        ("vae:mini~blur9", "from all latents of a VAE"),
        ("openclip:mini-vit", "from all latents of a VAE"),
    ],
)
def test_of_what_no_picture_can_be_made(spec: str, said: str) -> None:
    with pytest.raises(HvfError, match=said):
        LatentDecoder(spec)


def test_latents_that_are_none_are_refused() -> None:
    decoder = LatentDecoder("vae:mini")
    with pytest.raises(HvfError, match="no square"):
        decoder.decode(np.zeros((1, 12), np.float32))
    with pytest.raises(HvfError, match="NaN or infinity"):
        decoder.decode(np.full((1, 16), np.nan, np.float32))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"targets.specs": ("openclip:mini-vit",)}, "from one VAE"),
        ({"targets.specs": (SPEC, "vae:mini")}, "from one VAE"),
        ({"brain.encoder": "mbp"}, "brain.encoder is 'ridge' where latents are drawn from"),
        ({"fusion.kind": "concatenated"}, "fusion.kind is 'plain'"),
        ({"sampling.rounds": 2}, "sampling.rounds is 1"),
        ({"sampling.posterior_mean": 0.5}, "sampling.posterior_mean is 0.0"),
    ],
)
def test_settings_of_another_way_of_drawing_are_refused(config: Config, settings: dict, said: str) -> None:
    with pytest.raises(HvfError, match=said):
        with_settings(config, settings)
    with pytest.raises(HvfError, match="restore_variance is for align.mode 'latents'"):
        replace(small_config(), sampling=replace(config.sampling, restore_variance=True))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--draw", "latent"), "--draw is 'latent'; did you mean 'latents'?"),
        (("--draw", "latents", "--steps", "3"), "--steps: leave it out with --draw latents"),
        (("--draw", "latents", "--targets", "openclip:mini-vit"), "latents are drawn from one VAE"),
        (("--draw", "latents", "--targets", "vae:/nowhere/vae"), "there is no file or folder /nowhere/vae"),
        (("--draw", "latents", "--targets", "vae:mini:mean"), "from all latents of a VAE"),
    ],
)
def test_commands_that_cannot_be_followed(words: tuple[str, ...], said: str, capsys, tmp_path: Path) -> None:
    assert cli.main(["reconstruct", *words, "--out", str(tmp_path / "run")]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow(part=7)
def test_the_command_draws_and_measures(images: ImageSet, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, pixels in zip(images.ids, images.array(size=32), strict=True):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    np.save(tmp_path / "x.npy", trials_of(images).batch(slice(None)))
    files = ("--trials", str(tmp_path / "x.npy"), "--images", str(folder), "--test-images", "10")
    words = ("reconstruct", "--draw", "latents", "--targets", SPEC, *files, "--out", str(tmp_path / "run"))
    assert cli.main(list(words)) == 0
    from hvf.runs import Run

    figures = Run.open(tmp_path / "run").metrics()
    ceiling, brain, floor = (figures[f"reconstruction/{row}/pixcorr"] for row in ("ceiling", "brain", "floor"))
    assert ceiling["value"] > brain["value"] > floor["value"]
    assert brain["ci95"][0] > floor["ci95"][1]
    before = (tmp_path / "run/images/brain.json").stat().st_mtime_ns
    assert cli.main(list(words)) == 0  # all is there
    assert (tmp_path / "run/images/brain.json").stat().st_mtime_ns == before
