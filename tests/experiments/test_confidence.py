"""How sure a run says it is, where its test images were replaced, and where an image has several trials."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvf.config import Config, with_settings
from hvf.decoder import Decoder
from hvf.decoding.gallery import Gallery
from hvf.evaluation.calibration import confidence_figures, coverage
from hvf.experiments.confidence import confidence_details, gallery_of_test
from hvf.experiments.results import Result
from hvf.experiments.stages import retrieve_run
from hvf.runs import Run

N = 60


def write_image(i: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(f"images/im{i:02d}.png")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run on files: 48 training and 12 test images, a response to each."""
    monkeypatch.setenv("HVF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    for i in range(N):
        write_image(i, i)
    np.save("t.npy", np.random.default_rng(0).normal(size=(N, 8)).astype(np.float32))
    settings = {"data.study": "files", "data.trials": "t.npy", "data.images": "images", "data.test_images": 12}
    settings |= {"align.mode": "retrieval", "align.epochs": 2, "targets.specs": ("vae:mini",)}
    return Run.create(tmp_path / "run", with_settings(Config(), settings))


def test_replaced_test_images_take_the_place_of_the_old_ones(run):
    before, study = retrieve_run(run)
    assert before.gallery is not None
    then_MD = before.gallery.read(0, 12)
    for name in study.test_images.ids:
        write_image(int(name.removeprefix("im")), 1000 + int(name.removeprefix("im")))
    decoder, study = retrieve_run(Run.create(run.path, run.config))
    now_MD = decoder.embed_images(study.test_images)
    assert np.abs(now_MD - then_MD).max() > 1
    figures = Result.read(run.path).details["confidence"]["rows"]
    kept = Decoder.load(run.path / "checkpoint")  # what hvf decode looks in
    assert kept.gallery is not None
    np.testing.assert_allclose(kept.gallery.read(0, 12), now_MD, atol=1e-4)
    kept.gallery = None
    assert confidence_details(kept, study)["rows"] == figures


def test_replaced_test_images_are_looked_for_by_a_decoder_that_is_never_sure_too(run):
    ridge = with_settings(
        run.config, {"brain.encoder": "ridge", "fusion.kind": "concatenated"}
    )  # which gives no probabilities
    run = Run.create(run.path.with_name("ridge"), ridge)
    _, study = retrieve_run(run)
    for name in study.test_images.ids:
        write_image(int(name.removeprefix("im")), 1000 + int(name.removeprefix("im")))
    decoder, study = retrieve_run(Run.open(run.path))
    kept = Decoder.load(run.path / "checkpoint")
    assert kept.confidence is None  # a ridge gives no probabilities
    assert kept.gallery is not None
    np.testing.assert_allclose(kept.gallery.read(0, 12), decoder.embed_images(study.test_images), atol=1e-4)


def test_the_gallery_holds_all_test_images(run):
    decoder, study = retrieve_run(run)
    assert decoder.gallery is not None
    own = decoder.gallery
    assert gallery_of_test(decoder, study) is own
    decoder.gallery = Gallery.of(own.ids[:3], own.read(0, 3))  # of a study that had fewer
    assert gallery_of_test(decoder, study).ids == own.ids


def test_trials_of_one_image_count_as_one():
    rng = np.random.default_rng(0)
    p_N, right_N, held_N, sizes_N = rng.random(40), rng.random(40) < 0.5, rng.random(40) < 0.8, rng.integers(1, 9, 40)
    ids = [f"image-{i:02d}" for i in range(40)]
    once = confidence_figures(p_N, right_N, held_N, sizes_N)
    assert confidence_figures(p_N, right_N, held_N, sizes_N, ids) == once
    often = confidence_figures(*(np.tile(x, 10) for x in (p_N, right_N, held_N, sizes_N)), ids * 10)
    assert often["coverage"] == once["coverage"]
    assert often["set_size"] == once["set_size"]
    assert often["ece"]["n"] == 40
    assert coverage(np.tile(held_N, 10))["n"] == 400
