"""A decoder on disk: whole, checked to the bit, and at home anywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hvf import presets
from hvf.config import HvfError, with_settings
from hvf.data.images.image_set import ImageSet
from hvf.data.trials.trials import Trials
from hvf.decoder import Decoder
from hvf.decoding import artefact
from hvf.prior.initial_latents import InitialLatents

SETTINGS = {"align.epochs": 2, "targets.specs": ("vae:mini",), "align.validation_fraction": 0.3}

BESIDE = ("confidence.safetensors", "gallery.safetensors", "initial_latents.safetensors")


def a_study() -> tuple[Trials, ImageSet]:
    rng = np.random.default_rng(0)
    ids = [f"concept{i // 2}_{i}" for i in range(24)]
    pictures = rng.integers(0, 255, (24, 32, 32, 3), dtype=np.uint8)
    images = ImageSet.from_arrays(pictures, ids, [name.split("_")[0] for name in ids])
    x_NCT = rng.standard_normal((48, 3, 10)).astype(np.float32)
    return Trials(x_NCT, ids * 2, "sub-01", 100.0, 0.0, ["O1", "Oz", "O2"], "eeg", simulated=True), images


@pytest.fixture(scope="module")
def fitted() -> Decoder:
    decoder = Decoder(with_settings(presets.mini(), SETTINGS)).fit(*a_study())
    decoder.gallery = decoder.gallery_of(a_study()[1], "its images")
    rng = np.random.default_rng(1)
    latents_NChw, z_ND = (rng.normal(size=(9, *shape)).astype(np.float32) for shape in ((4, 2, 2), (5,)))
    decoder._initial_latents = InitialLatents.fit(latents_NChw, z_ND)  # as one that draws has them
    return decoder


@pytest.fixture
def saved(fitted: Decoder, tmp_path: Path) -> Path:
    return fitted.save(tmp_path / "decoder")


def test_a_decoder_moved_elsewhere_answers_alike(fitted, saved, tmp_path, monkeypatch):
    trials, _ = a_study()
    here = fitted.decode(trials, image_ids=trials.image_ids.tolist())
    shutil.move(saved, tmp_path / "elsewhere")
    monkeypatch.setenv("HVF_CACHE", str(tmp_path / "empty"))
    again = Decoder.from_pretrained(tmp_path / "elsewhere")
    there = again.decode(trials, image_ids=trials.image_ids.tolist())
    for name in ("top_NK", "similarity_NK", "probability_NK", "in_set_NK", "set_size_N", "nothing_N", "rank_N"):
        assert np.array_equal(getattr(here, name), getattr(there, name)), name
    assert again.encoders == fitted.encoders
    assert again.about["simulated"]
    z_ND = np.random.default_rng(2).normal(size=(3, 5)).astype(np.float32)
    for name in ("predict", "open_share"):
        assert np.array_equal(*(getattr(one._initial_latents, name)(z_ND) for one in (fitted, again))), name
    assert not (tmp_path / "empty").exists()  # its own gallery needs no features


def test_a_linear_map_to_latents_as_of_an_earlier_version_is_left_to_be_fitted_again(fitted, tmp_path, monkeypatch):
    linear = {"coefficients": np.zeros((4, 2, 2, 5)), "intercept": np.zeros((4, 2, 2)), "mean": np.zeros(5)}
    monkeypatch.setattr(
        InitialLatents, "tensors", lambda self: (linear, {"variance": 1, "explained": 0.5, "penalty": 1})
    )
    assert Decoder.load(fitted.save(tmp_path))._initial_latents is None


def test_answers_are_those_of_retrieve(fitted):
    trials, images = a_study()
    found = fitted.retrieve(trials, images)
    answers = fitted.decode(trials, images, image_ids=trials.image_ids.tolist())
    assert np.array_equal(found.ranks_N, answers.rank_N)
    assert np.array_equal(found.top_NK, answers.top_NK[:, :5])


def test_means_over_repeats_are_calibrated_apart(fitted):
    assert sorted(fitted.confidence.z_b) == [1, 2]
    assert sorted(fitted.decode(a_study()[0].select([0, 1]), repeats=[1, 7]).calibrated) == [1, 2]


@pytest.mark.parametrize("name", ["alignment.safetensors", *BESIDE, "README.md", "decoder.json"])
def test_a_flipped_bit_is_noticed_wherever_it_is(saved, name):
    content = bytearray((saved / name).read_bytes())
    for place in np.linspace(0, len(content) - 2, 7).astype(int):
        damaged = content.copy()
        damaged[place] ^= 0x04
        (saved / name).write_bytes(damaged)
        with pytest.raises(HvfError, match="damaged"):
            Decoder.load(saved)
    (saved / name).write_bytes(content)
    Decoder.load(saved)


def test_a_missing_file_is_named(saved):
    (saved / "confidence.safetensors").unlink()
    with pytest.raises(HvfError, match=r"confidence\.safetensors is missing"):
        Decoder.load(saved)


def test_a_newer_version_is_refused(saved):
    content = json.loads((saved / "decoder.json").read_text())
    (saved / "decoder.json").write_text(json.dumps({**content, "version": artefact.VERSION + 1}))
    with pytest.raises(HvfError, match="version 2.*update hvf"):
        Decoder.load(saved)


def test_an_older_folder_has_its_weights_alone(fitted, saved):
    for name in ("decoder.json", *BESIDE):
        (saved / name).unlink()
    older = Decoder.load(saved)
    trials, images = a_study()
    assert np.array_equal(older.embed_trials(trials), fitted.embed_trials(trials))
    assert np.isnan(older.decode(trials, images).probability_NK).all()
    with pytest.raises(HvfError, match="no gallery"):
        older.decode(trials)


def test_a_folder_that_was_not_finished_can_be_resumed_alone(fitted, saved):
    (saved / "decoder.json").unlink()
    with pytest.raises(HvfError, match=r"decoder\.json is missing"):
        Decoder.load(saved)
    again = Decoder(fitted.config).resume(saved, *a_study())
    assert again.confidence is None
    assert np.array_equal(again.embed_trials(a_study()[0]), fitted.embed_trials(a_study()[0]))


def test_what_cannot_be_kept_leaves_the_decoder_as_it_was(saved):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(HvfError, match="cannot be kept"):
        Decoder.load(saved).save(saved, {"notes": object()})
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    Decoder.load(saved).save(saved, {"subject": np.int64(3), "study": Path("here")})
    assert Decoder.load(saved).about["subject"] == 3


def test_a_readme_of_something_else_is_kept(fitted, tmp_path):
    (tmp_path / "README.md").write_text("notes")
    with pytest.raises(HvfError, match=r"README\.md of something else"):
        fitted.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "notes"


def test_a_decoder_fitted_again_forgets_the_gallery_of_before(saved):
    decoder = Decoder.load(saved).fit(*a_study())
    assert decoder.gallery is None
    with pytest.raises(HvfError, match="no gallery"):
        decoder.decode(a_study()[0])


def test_what_is_no_decoder(tmp_path):
    with pytest.raises(HvfError, match="holds no decoder"):
        Decoder.from_pretrained(tmp_path)
    with pytest.raises(HvfError, match="no such folder"):
        Decoder.from_pretrained(tmp_path / "nowhere")


def test_a_decoder_on_the_hub_that_cannot_be_had(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HvfError, match="hf download nobody/nothing"):
        Decoder.from_pretrained("nobody/nothing")


def test_other_encoders_are_refused(saved, monkeypatch):
    decoder = Decoder.load(saved)
    decoder.encoders = {"vae:mini": "0123456789abcdef"}
    with pytest.raises(HvfError, match="vae:mini on this machine has other weights"):
        decoder.decode(*a_study())


def test_the_card_says_what_it_is_and_how_to_use_it(fitted, tmp_path):
    figures = {"retrieval/brain/top1": {"value": 0.25, "ci95": [0.2, 0.3], "n": 24}}
    about = {"study": "a study of 24 images", "protocol": "among 24 images", "figures": figures}
    fitted.save(tmp_path, {**about, "chance": {"top1": {"value": 1 / 24, "ci95": [0, 0.1], "n": 24}}})
    card = (tmp_path / "README.md").read_text()
    for text in ("a study of 24 images", "simulated", "0.250 | 0.200 to 0.300 | 0.042 | 24", "O1, Oz, O2", "100 Hz"):
        assert text in card, text
    fitted.describe(tmp_path, {"study": "described anew"})
    assert "described anew" in (tmp_path / "README.md").read_text()
    assert Decoder.load(tmp_path).about["study"] == "described anew"


def test_pushing_uploads_every_file(fitted, saved, monkeypatch):
    calls = []

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **settings):
            calls.append((repo_id, settings["private"]))

        def model_info(self, repo_id):
            return SimpleNamespace(private=True)

        def upload_folder(self, repo_id, folder_path, allow_patterns):
            calls.append(sorted(p.name for pattern in allow_patterns for p in Path(folder_path).glob(pattern)))
            return "https://example.org/owner/name"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert fitted.push_to_hub("owner/name", saved, private=True).endswith("owner/name")
    assert calls == [("owner/name", True), sorted(p.name for p in saved.iterdir())]


def test_tensors_on_disk_are_readable_by_others(saved):
    from safetensors.torch import load_file

    assert load_file(saved / "gallery.safetensors")["z_f"].dtype == torch.float32
