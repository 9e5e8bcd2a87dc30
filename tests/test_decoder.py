"""The whole way, small: simulated trials, the shipped mini models, every stage as a user calls it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from hvf import decoder as decoder_module
from hvf import methods, presets
from hvf.config import Config, HvfError, with_settings
from hvf.data.trials import lazy
from hvf.data.trials.splitting import concept_split
from hvf.data.trials.trials import Trials
from hvf.decoder import Decoder
from hvf.decoding import artefact
from hvf.decoding.ranked import rank
from hvf.experiments.decoding import Question, open_decoder
from hvf.experiments.protocols import choose, open_split
from hvf.experiments.stages import made_ready
from hvf.prior.initial_latents import InitialLatents
from hvf.prior.loading import load_prior
from hvf.schema.reading import read_json
from hvf.study import Study, open_study
from tests.small_run import small_config


@pytest.fixture(scope="module")
def config() -> Config:
    return small_config()


@pytest.fixture(scope="module")
def study(config: Config) -> Study:
    return open_study(config.data)


@pytest.fixture(scope="module")
def fitted(config: Config, study: Study) -> Decoder:
    return Decoder(config).fit(study.train, study.train_images)


def test_python_way_finds_and_draws(fitted: Decoder, study: Study) -> None:
    found = fitted.retrieve(study.test, study.test_images)
    assert found.scores_NM.shape == (12, 12)
    assert found.top_NK.shape == (12, 5)
    assert np.array_equal(found.ranks_N == 1, found.top_NK[:, 0] == np.arange(12))
    pictures = fitted.reconstruct(study.test.select(range(3)))
    assert pictures.shape == (3, 64, 64, 3)
    assert pictures.dtype == np.uint8


def test_saved_and_loaded_decoder_says_the_same(fitted: Decoder, study: Study, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    again = Decoder.load(tmp_path)
    assert np.array_equal(fitted.embed_trials(study.test), again.embed_trials(study.test))
    assert np.array_equal(fitted.embed_images(study.test_images), again.embed_images(study.test_images))
    seen = study.test.select(range(2))
    assert fitted.config.sampling.posterior_mean > 0
    assert np.array_equal(again.reconstruct(seen), fitted.reconstruct(seen))  # at once: nothing is to be learnt again


def test_a_prior_that_was_replaced_is_refused(fitted: Decoder, study: Study, tmp_path: Path) -> None:
    """Its weights and their checksums behind the same path: brain embeddings would mean nothing to it."""
    fitted.save(tmp_path / "it")
    prior = load_prior("mini")
    prior.save_pretrained(tmp_path / "prior")
    again = Decoder.load(tmp_path / "it").set_params(prior__path=str(tmp_path / "prior"))
    assert again.prior.specs == prior.specs
    with torch.no_grad():
        next(prior.hvf.parameters()).add_(0.1)
    prior.save_pretrained(tmp_path / "prior")
    again = Decoder.load(tmp_path / "it").set_params(prior__path=str(tmp_path / "prior"))
    with pytest.raises(HvfError, match=f"Fusion Prior {tmp_path / 'prior'} has other weights than the one that"):
        again.reconstruct(study.test.select([0]))
    moved = Decoder.load(tmp_path / "it").adapt(study.train)
    moved.save(tmp_path / "moved")
    assert read_json(tmp_path / "moved" / "decoder.json")["fusion"] == fitted.fusion_hash != ""
    again.fusion_hash = ""  # as of an earlier version, which kept none
    assert again.prior.specs == prior.specs


@pytest.fixture(scope="module")
def from_latents(config: Config, study: Study) -> Decoder:
    """One whose pictures start from latents, each at a share of the noise of its own."""
    settings = {"sampling.start": "latents", "sampling.steps": 6, "align.epochs": 2}
    return Decoder(with_settings(config, settings)).fit(study.train, study.train_images)


def test_what_pictures_start_from_is_saved_and_moves_to_a_new_person(
    from_latents: Decoder, study: Study, tmp_path: Path
) -> None:
    from_latents.save(tmp_path / "it")
    again = Decoder.load(tmp_path / "it")
    assert again.ready_to_draw
    seen = study.test.select(range(4))
    assert np.array_equal(again.reconstruct(seen), from_latents.reconstruct(seen))
    for images in (None, study.train_images):
        few = with_settings(again.config, {"adapt.epochs": 1, "adapt.method": "all"})
        moved = Decoder(few)._take(artefact.read(tmp_path / "it")).adapt(study.train, images)
        assert moved.ready_to_draw
        moved.save(tmp_path / "moved")
        read = Decoder.load(tmp_path / "moved")
        assert np.array_equal(read.draw(read.embed_trials(seen)), moved.draw(moved.embed_trials(seen)))
    (tmp_path / "it" / "decoder.json").unlink()  # as earlier versions left it, without what pictures start from
    for name in ("confidence", "initial_latents"):
        (tmp_path / "it" / f"{name}.safetensors").unlink()
    older = Decoder.load(tmp_path / "it")
    assert not older.ready_to_draw
    with pytest.raises(HvfError, match="not learnt yet"):
        older.reconstruct(seen)
    with pytest.raises(HvfError, match="of an earlier version.*leave out --draw"):
        open_decoder(Question(str(tmp_path / "it"), tmp_path / "new-epo.fif", draw=True))
    older.fit_drawing(study.train, study.train_images)
    assert older.ready_to_draw
    assert np.array_equal(older.reconstruct(seen), from_latents.reconstruct(seen))


def test_a_start_fitted_to_the_latents_of_another_vae_is_fitted_again(
    from_latents: Decoder, study: Study, tmp_path: Path, monkeypatch
) -> None:
    """The pipeline's weights were replaced behind the same name."""
    from_latents.save(tmp_path)
    seen = study.test.select(range(2))
    honest = decoder_module.load_pipeline

    def updated(*given):
        pipeline = honest(*given)
        pipeline.vae.encoder.conv_out.weight.data *= -1
        return pipeline

    monkeypatch.setattr(decoder_module, "load_pipeline", updated)
    again = Decoder.load(tmp_path)
    assert not again.ready_to_draw
    with pytest.raises(HvfError, match="not learnt yet"):
        again.reconstruct(seen)
    with pytest.raises(HvfError, match="the VAE of mini has changed since.*leave out --draw"):
        open_decoder(Question(str(tmp_path), tmp_path / "new-epo.fif", draw=True))
    assert made_ready(again, study) is again
    z_ND = again.to_draw(again.embed_trials(seen))
    fresh = Decoder.load(tmp_path)
    fresh._initial_latents = None
    fresh.fit_drawing(study.train, study.train_images)
    assert np.array_equal(again.reconstructor.initial_latents(z_ND), fresh.reconstructor.initial_latents(z_ND))
    assert not np.allclose(again.reconstructor.initial_latents(z_ND), from_latents.reconstructor.initial_latents(z_ND))
    again.save(tmp_path)
    assert Decoder.load(tmp_path).ready_to_draw


def test_the_start_is_chosen_by_what_is_drawn_from(from_latents: Decoder, study: Study, monkeypatch) -> None:
    """Of means the map is that of z_f; else the penalty is that which suits validation trials as they are drawn."""
    images, before = study.train_images, from_latents._initial_latents
    assert before is not None
    told = []
    fit = InitialLatents.fit
    monkeypatch.setattr(InitialLatents, "fit", lambda *given: (told.append(given), fit(*given))[1])
    from_latents.fit_drawing(study.train, images)
    (((_, z_f_ND, held_out),), again) = told, from_latents._initial_latents
    align = from_latents.config.align
    _, rows = concept_split(images.concepts, align.validation_fraction, align.seed, at_least=2)
    assert list(held_out) == rows.tolist()
    assert np.array_equal(list(held_out.values()), z_f_ND[rows])
    halfway = copy.copy(from_latents)
    halfway.config = config = with_settings(from_latents.config, {"sampling.posterior_mean": 0.5})
    halfway.fit_drawing(study.train, images)
    held_out = told[1][2]
    assert list(held_out) == rows.tolist()
    z_b_ND = halfway.embed_trials(study.train.aligned_to(images))[rows]
    assert np.array_equal(list(held_out.values()), halfway.to_draw(z_b_ND))
    assert not np.array_equal(list(held_out.values()), z_b_ND)
    assert np.array_equal(again.predict(z_f_ND), before.predict(z_f_ND))
    assert before.explained > 0.3
    of_image_N = from_latents.reconstructor.steps_done(z_f_ND, config.sampling)
    of_brain_N = from_latents.reconstructor.steps_done(
        halfway.to_draw(halfway.embed_trials(study.test)), config.sampling
    )
    assert of_image_N.mean() < of_brain_N.mean() < 6


def test_a_checkpoint_without_the_known_images_says_what_to_do(fitted: Decoder, study: Study, tmp_path: Path) -> None:
    """As they were written before, and as they are where nothing is drawn from the expectation."""
    forgetful(fitted).save(tmp_path)
    with pytest.raises(HvfError, match="call fit_drawing"):
        Decoder.load(tmp_path).reconstruct(study.test)


def forgetful(decoder: Decoder, **settings: object) -> Decoder:
    """The same decoder before `fit_drawing`."""
    other = Decoder(with_settings(decoder.config, {name.replace("__", "."): v for name, v in settings.items()}))
    other.alignment = copy.copy(decoder.alignment)
    other.alignment.train_embeddings_MD = other.alignment.learnt_mean = None
    return other


@pytest.mark.parametrize(
    "changes",
    [{"brain.encoder": "ridge", "fusion.kind": "concatenated"}, {"align.refit": True, "align.epochs": 1}],
    ids=["ridge", "refit"],
)
def test_whoever_learnt_from_the_validation_images_says_nothing_of_how_sure_it_is(config, study, changes) -> None:
    """Answers would be calibrated by trials that were fitted to."""
    decoder = Decoder(with_settings(config, {"align.mode": "retrieval", **changes}))
    decoder.fit(study.train, study.train_images)
    assert decoder.confidence is None
    answers = decoder.decode(study.test, study.test_images)
    assert answers.top_NK.shape[0] == len(study.test)
    assert np.isnan(answers.probability_NK).all()
    assert not answers.set_size_N.any()


def test_own_embeddings_are_found_and_permuted_ones_are_not(fitted: Decoder, study: Study) -> None:
    z = fitted.embed_images(study.test_images)
    assert rank(z, z).top(1) == 1.0
    assert rank(np.roll(z, 1, axis=0), z).top(1) == 0.0


def test_the_expected_embedding_is_the_weighted_mean_of_the_known_ones(fitted: Decoder, study: Study) -> None:
    z_b, z_f = fitted.embed_trials(study.test), fitted.embed_images(study.train_images)
    cosine = (z_b / np.linalg.norm(z_b, axis=1, keepdims=True)) @ (z_f / np.linalg.norm(z_f, axis=1, keepdims=True)).T
    weights = np.exp(cosine * np.exp(fitted.alignment.log_scale))
    expected = (weights / weights.sum(axis=1, keepdims=True)) @ z_f
    np.testing.assert_allclose(fitted.alignment.posterior_mean(z_b, z_f), expected, rtol=1e-3, atol=1e-4)
    certain = fitted.alignment.posterior_mean(z_f[:3], np.concatenate([z_f[:1], -z_f[1:3]]))  # nothing else is possible
    np.testing.assert_allclose(certain[0], z_f[0], rtol=1e-3, atol=1e-2)


def test_drawing_moves_towards_the_expectation_as_far_as_asked(fitted: Decoder, study: Study) -> None:
    z_b = fitted.embed_trials(study.test)
    plain = forgetful(fitted, sampling__posterior_mean=0.0)
    plain.fit_drawing(study.train, study.train_images)
    assert plain.alignment.train_embeddings_MD is None
    assert np.array_equal(plain.to_draw(z_b), z_b)  # the paper's way
    told = forgetful(fitted, sampling__posterior_mean=0.5)
    with pytest.raises(HvfError, match="call fit_drawing"):
        told.to_draw(z_b)
    told.fit_drawing(study.train, study.train_images)
    mean = fitted.alignment.posterior_mean(z_b, fitted.embed_images(study.train_images))
    steered = told.to_draw(z_b)
    np.testing.assert_allclose(steered, (z_b + mean) / 2, rtol=1e-4, atol=1e-4)


def test_the_mean_is_learnt_beside_the_contrast(config: Config, study: Study) -> None:
    """It is nearer to the images seen than z_b and than the mean of all, and what drawing moves to."""
    fitted = Decoder(with_settings(config, {"align.epochs": 60, "align.learning_rate": 2e-3})).fit(
        study.train, study.train_images
    )
    assert fitted.alignment.train_embeddings_MD is None  # nobody needs them
    z_b, z_f = fitted.embed_trials(study.train), fitted.embed_images(study.train_images)
    expected = fitted.alignment.expected(z_b)
    np.testing.assert_allclose(fitted.to_draw(z_b), expected, rtol=1e-4, atol=1e-4)
    error, of_z_b, of_mean = (np.square(x - z_f).mean() for x in (expected, z_b, z_f.mean(0)))
    assert error < min(of_z_b, of_mean)
    half = forgetful(fitted, sampling__posterior_mean=0.25)
    half.alignment.learnt_mean = fitted.alignment.learnt_mean
    np.testing.assert_allclose(half.to_draw(z_b), z_b + (expected - z_b) / 4, rtol=1e-4, atol=1e-4)


def test_what_was_solved_at_once_learns_no_mean(config: Config, study: Study) -> None:
    solved = Decoder(with_settings(config, {"brain.encoder": "ridge"})).fit(study.train, study.train_images)
    assert solved.alignment.learnt_mean is None
    assert solved.ready_to_draw  # over the training images


NO_VIEWS, NO_CAPTIONS = (
    {"targets.views": (), "targets.view_choice": "drawn"},
    {"targets.text": None, "align.text_weight": 0},
)


@pytest.mark.slow(part=8)
@pytest.mark.parametrize(("method", "without"), [("ubp", NO_VIEWS), ("atm", NO_CAPTIONS)])
def test_views_and_captions_are_learnt_from(method: str, without: dict) -> None:
    """As the benchmark trains them: the same seed gives the same numbers, and without them other ones."""
    tiny = {"data.train_concepts": 40, "data.images_per_concept": 1, "data.test_concepts": 6}
    config = methods.apply(method, with_settings(presets.mini(), tiny), "mini")
    config = with_settings(config, {"align.epochs": 2, "align.mode": "retrieval"})
    study = open_study(config.data)
    told = Decoder(config).fit(study.train, study.train_images)
    split, _ = open_split(config, config.targets.specs)
    chosen = choose(split, config).alignment
    assert np.array_equal(told.embed_trials(study.test), chosen.embed_brain(study.test))
    assert told.alignment.history == chosen.history
    assert told.alignment.train_embeddings_MD is None  # nothing is drawn in retrieval mode
    plain = Decoder(with_settings(config, without)).fit(study.train, study.train_images)
    losses, without_losses = ([entry["loss"] for entry in one.alignment.history] for one in (told, plain))
    assert not np.allclose(losses, without_losses, rtol=1e-4)  # the epoch that is kept may be the first, of plain views
    assert set(told.features(study.test_images)) == set(config.targets.specs)  # the gallery is of plain images


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"targets.views": ("blur9",)}, "views"), ({"targets.text": "text:mini-vit", "align.text_weight": 0.5}, "text")],
)
def test_views_and_captions_are_refused_beside_a_frozen_fusion(config, study: Study, settings: dict, name: str) -> None:
    with pytest.raises(HvfError, match=rf"targets\.{name} is for align\.mode 'retrieval'"):
        Decoder(with_settings(config, settings)).fit(study.train, study.train_images)


def test_training_data_are_aligned_and_read_once(config, study: Study, tmp_path: Path, monkeypatch) -> None:
    """In `fit`, which hashes and trains on them, and in `resume`, which only hashes: each stored row once.

    `fit` reads validation trials again, singly and averaged, to say how sure an answer is.
    """
    images = study.train_images.select(range(40))
    study.train.save(tmp_path / "trials.npy")
    stored = Trials.load(tmp_path / "trials.npy")
    trials = stored.select(np.repeat(np.arange(len(stored)), 2))  # two repeats of each image
    counts = {"aligned": 0, "rows": 0}
    align, read = Trials.aligned_to, lazy._Part.read

    def count_alignments(self, images):
        counts["aligned"] += 1
        return align(self, images)

    def count_rows(self, rows):
        counts["rows"] += len(rows) if self.array is stored.values.parts[0].array else 0
        return read(self, rows)

    monkeypatch.setattr(Trials, "aligned_to", count_alignments)
    monkeypatch.setattr(lazy._Part, "read", count_rows)
    rows = sum(trials.repeats()[name] for name in images.ids)
    short = with_settings(config, {"align.epochs": 1})
    fitted = Decoder(short).fit(trials, images)
    assert fitted.confidence is not None
    again = sum(r * len(z_VD) for r, z_VD in fitted.confidence.z_b.items())
    assert counts == {"aligned": 1, "rows": rows + again}
    assert again < rows
    counts.update(aligned=0, rows=0)
    fitted.save(tmp_path)
    Decoder(short).resume(tmp_path, trials, images)
    assert counts == {"aligned": 1, "rows": rows}
    with pytest.raises(HvfError, match="training material"):
        Decoder(short).resume(tmp_path, trials.select(np.arange(len(trials))[::-1]).permuted(0), images)


def test_a_fit_is_calibrated_by_the_trials_of_its_validation_images(config, study: Study) -> None:
    images, align = study.train_images.select(range(40)), config.align
    trials = study.train.select(np.arange(79, -1, -1))  # of other images, too, and in another order
    fitted = Decoder(with_settings(config, {"align.epochs": 1})).fit(trials, images)
    _, held_out = concept_split(images.concepts, align.validation_fraction, align.seed, at_least=2)
    own = trials.aligned_to(images.select(held_out.tolist()))
    assert fitted.confidence is not None
    np.testing.assert_allclose(fitted.confidence.z_b[1], fitted.embed_trials(own), rtol=1e-4, atol=1e-5)


def test_other_captions_are_other_material(study: Study) -> None:
    """A checkpoint that learnt from captions is not taken up for others."""
    images, trials = study.train_images.select(range(8)), study.train.select(range(8))
    captioned = {"targets.text": "text:mini-vit", "align.text_weight": 0.5}
    plain, told = (Decoder(with_settings(presets.mini(), settings)) for settings in ({}, captioned))
    before = [decoder.fingerprint(trials, images) for decoder in (plain, told)]
    images.captions = ("another", *images.captions[1:])
    after = [decoder.fingerprint(trials, images) for decoder in (plain, told)]
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_trials_of_other_channels_are_refused_by_name(fitted: Decoder, study: Study) -> None:
    with pytest.raises(HvfError, match=r"channels.*" + study.test.ch_names[-1]):
        fitted.embed_trials(study.test.pick(study.test.ch_names[:-1]))


def test_unfitted_and_retrieval_decoders_say_what_to_do(study: Study) -> None:
    with pytest.raises(HvfError, match="fit"):
        Decoder().embed_trials(study.test)
    with pytest.raises(HvfError, match=r"align\.mode"):
        Decoder(presets.mini()).draw(np.zeros((1, 256), np.float32))
