"""The decoder among scikit-learn's tools: parameters, clone, pickle, cross-validation, search."""

from __future__ import annotations

import copy
import pickle
from io import BytesIO

import joblib
import numpy as np
import pytest
import torch
from scipy.stats import binom
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_score
from sklearn.utils import estimator_checks
from sklearn.utils.validation import check_is_fitted

from hvf import presets
from hvf.config import Config, HvfError, with_settings
from hvf.decoder import Decoder
from hvf.prior.loading import load_prior
from hvf.study import Study, open_study
from tests.small_run import small_config

LATENTS = {"sampling.start": "latents", "sampling.steps": 5, "align.epochs": 2}
QUICK = {
    "align.mode": "retrieval", "brain.encoder": "ridge", "fusion.kind": "concatenated",
    "targets.specs": ("openclip:mini-resnet", "vae:mini"),
}  # fmt: skip
CHECKS = (
    "check_set_params", "check_no_attributes_set_in_init", "check_parameters_default_constructible",
    "check_estimator_cloneable", "check_get_params_invariance", "check_estimator_repr",
)  # fmt: skip


@pytest.fixture(scope="module")
def study() -> Study:
    return open_study(small_config().data)


def quick() -> Decoder:
    return Decoder(with_settings(small_config(), QUICK))


@pytest.fixture(scope="module")
def fitted(study: Study) -> Decoder:
    return quick().fit(study.train, study.train_images)


@pytest.fixture(scope="module")
def drawing(study: Study) -> Decoder:
    """One that draws, from latents: with all that a fit can learn."""
    return Decoder(with_settings(small_config(), LATENTS)).fit(study.train, study.train_images)


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("decoder", [Decoder(), Decoder(small_config(), "cpu")], ids=["default", "given"])
def test_scikit_learns_own_checks(name: str, decoder: Decoder) -> None:
    if not hasattr(estimator_checks, name):
        pytest.skip("another scikit-learn")
    getattr(estimator_checks, name)("Decoder", decoder)


def test_parameters_by_keyword_and_by_setting() -> None:
    decoder = Decoder(config=small_config(), device="cpu")
    params = decoder.get_params()
    assert (params["config"], params["device"], params["align__epochs"]) == (small_config(), "cpu", 6)
    assert decoder.set_params(align__epochs=3, **{"brain.encoder": "linear"}) is decoder
    assert decoder.config == with_settings(small_config(), {"align.epochs": 3, "brain.encoder": "linear"})
    decoder.set_params(config=presets.mini(), brain__width=64, fusion__width=64)  # which fit only together
    assert decoder.config == with_settings(presets.mini(), {"brain.width": 64, "fusion.width": 64})
    assert Decoder().set_params(align__epochs=3).config == with_settings(Decoder().config, {"align.epochs": 3})
    assert Decoder().config == presets.in_mode(presets.mini(), "reconstruction")
    with pytest.raises(HvfError, match=r"unknown setting 'align.epoch'; did you mean 'epochs'"):
        decoder.set_params(align__epoch=3)
    with pytest.raises(HvfError, match=r"align\.epochs must be at least 1"):
        decoder.set_params(align__epochs=0)


def test_bad_parameters_are_refused_by_fit(study: Study) -> None:
    with pytest.raises(HvfError, match=r"config must be a Config, such as hvf\.presets\.mini\(\), not str"):
        Decoder("mini").fit(study.train, study.train_images)  # pyright: ignore[reportArgumentType]
    for device in ("gpu", "cuda:99", 3.5):
        with pytest.raises(HvfError, match="cannot be used here"):
            Decoder(device=device).fit(study.train, study.train_images)  # pyright: ignore[reportArgumentType]


def test_a_clone_is_unfitted_with_the_same_parameters(fitted: Decoder, study: Study) -> None:
    again = clone(fitted)
    assert again.get_params() == fitted.get_params()
    check_is_fitted(fitted)
    with pytest.raises(NotFittedError):
        check_is_fitted(again)
    with pytest.raises(HvfError, match="call fit") as error:
        again.embed_trials(study.test)
    assert isinstance(error.value, NotFittedError)
    assert "not fitted" in repr(again)
    assert "fitted to 63 eeg channels x 80 samples at 100 Hz" in repr(fitted)
    assert all(words in fitted._repr_html_() for words in ("brain.encoder", "ridge", "fitted to 63 eeg channels"))
    assert (
        "<"
        not in Decoder(with_settings(small_config(), {"name": "<b>"}))
        ._repr_html_()
        .split("preset</th><td>")[1]
        .split("</td>")[0]
    )


def copies(decoder: Decoder) -> list[Decoder]:
    buffer = BytesIO()
    joblib.dump(decoder, buffer)
    buffer.seek(0)
    return [pickle.loads(pickle.dumps(decoder)), joblib.load(buffer), copy.deepcopy(decoder)]


def test_pickles_answer_alike(fitted: Decoder, study: Study, tmp_path) -> None:
    for one in copies(Decoder(small_config())):
        assert one.alignment is None
        assert one.get_params() == Decoder(small_config()).get_params()
    found = fitted.retrieve(study.test, study.test_images)
    fitted.save(tmp_path)
    for one in (*copies(fitted), *copies(Decoder.load(tmp_path))):
        np.testing.assert_array_equal(one.embed_trials(study.test), fitted.embed_trials(study.test))
        np.testing.assert_array_equal(one.retrieve(study.test, study.test_images).scores_NM, found.scores_NM)
    assert str(pickle.loads(pickle.dumps(found))) == str(found)


@pytest.mark.slow(part=8)
def test_pickles_draw_alike_and_hold_no_pipeline(drawing: Decoder, study: Study) -> None:
    seen = study.test.select([0, 5])
    before = len(pickle.dumps(pickle.loads(pickle.dumps(drawing))))
    pictures = drawing.reconstruct(seen)  # loads prior and pipeline
    fresh = pickle.loads(pickle.dumps(drawing))
    assert fresh._prior is None
    assert fresh._reconstructor is None
    assert abs(len(pickle.dumps(drawing)) - before) < 1000
    np.testing.assert_array_equal(fresh.reconstruct(seen), pictures)  # what it starts from was kept


@pytest.mark.slow(part=8)
def test_another_prior_is_loaded_and_another_device_too(drawing: Decoder, study: Study) -> None:
    one = pickle.loads(pickle.dumps(drawing))
    first = one.prior
    one.set_params(sampling__steps=4)
    assert one.prior is first
    assert one._initial_latents is not None
    one.set_params(prior__path="elsewhere")
    with pytest.raises(HvfError, match="elsewhere"):
        _ = one.prior
    assert one._initial_latents is None  # of the prior that it was
    one.set_params(prior__path="mini", device="cuda:99")
    with pytest.raises(HvfError, match="set device to 'cpu'"):
        one.embed_trials(study.test)
    one.set_params(device="cpu")
    np.testing.assert_array_equal(one.embed_trials(study.test), drawing.embed_trials(study.test))


def test_weights_move_with_the_device(fitted: Decoder) -> None:
    trained = fitted.fitted()
    assert trained.on(torch.device("cpu")) is trained
    moved = trained.on(torch.device("meta"))  # stands for a device that is not the CPU
    assert {p.device.type for p in (*moved.brain.parameters(), *moved.hvf.parameters())} == {"meta"}
    assert {mean.device.type for mean, _ in moved.normalisation.values()} == {"meta"}
    assert trained.device.type == "cpu"


def test_a_second_fit_forgets_the_first(study: Study) -> None:
    decoder = Decoder(with_settings(small_config(), QUICK | {"targets.specs": ("vae:mini",)}))
    decoder.fit(study.train, study.train_images)
    decoder.gallery = decoder.gallery_of(study.test_images)
    assert len(decoder.decode(study.test).similarity_NK) == len(study.test)
    decoder.set_params(targets__specs=("vae:mini:grid2",)).fit(study.train, study.train_images)
    assert set(decoder.encoders) == {"vae:mini:grid2"}
    with pytest.raises(HvfError, match="no gallery of its own"):
        decoder.decode(study.test)  # the embeddings of the first would not be comparable


def test_score_is_top1_among_the_images_given(fitted: Decoder, study: Study) -> None:
    decoder = fitted
    found = decoder.retrieve(study.test, study.test_images)
    assert decoder.score(study.test, study.test_images) == (found.ranks_N == 1).mean()
    few = [3, 1]
    z_b, z_f = decoder.embed_trials(study.test[few]), decoder.embed_images(study.test_images[few])
    unit_b, unit_f = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (z_b, z_f))
    expected = ((unit_b @ unit_f.T).argmax(axis=1) == [0, 1]).mean()
    assert decoder.score(study.test[few], study.test_images[few]) == expected
    with pytest.raises(HvfError, match="not in the gallery"):
        decoder.score(study.test, study.test_images[few])


@pytest.mark.slow(part=8)
def test_cross_validation_keeps_concepts_apart_and_shuffled_images_score_by_chance(study: Study, monkeypatch) -> None:
    trials, images = study.train.aligned_to(study.train_images), study.train_images
    parts: list[tuple[set[str], set[str]]] = []
    fit, score = Decoder.fit, Decoder.score
    trained: dict[int, set[str]] = {}

    def watched_fit(self, trials, images):
        assert trials.image_ids.tolist() == list(images.ids)
        trained[id(self)] = set(images.concepts)
        return fit(self, trials, images)

    def watched_score(self, trials, images):
        parts.append((trained[id(self)], set(images.concepts)))
        return score(self, trials, images)

    monkeypatch.setattr(Decoder, "fit", watched_fit)
    monkeypatch.setattr(Decoder, "score", watched_score)
    scores = cross_val_score(quick(), trials, images, groups=images.concepts, cv=GroupKFold(3), error_score="raise")
    assert [len(train & test) for train, test in parts] == [0, 0, 0]
    assert set().union(*(test for _, test in parts)) == set(images.concepts)
    n, gallery = len(images), len(images) // 3
    assert n * scores.mean() > binom.ppf(0.999, n, 1 / gallery)
    shuffled = study.train.permuted(0).aligned_to(images)
    chance = cross_val_score(quick(), shuffled, images, groups=images.concepts, cv=GroupKFold(2), error_score="raise")
    low, high = binom.ppf([0.0005, 0.9995], n, 2 / n)
    assert low <= n * chance.mean() <= high
    concept_N = np.array(images.concepts)  # the control: without groups they are not apart
    for train, test in KFold(3, shuffle=True, random_state=0).split(trials, images):
        assert set(concept_N[train]) & set(concept_N[test])


@pytest.mark.slow(part=8)
def test_a_grid_is_searched_over_settings(study: Study) -> None:
    images = study.train_images
    grid = {"targets__specs": [("vae:mini:grid2",), ("vae:mini",)]}
    search = GridSearchCV(quick(), grid, cv=GroupKFold(2), error_score="raise")
    search.fit(study.train.aligned_to(images), images, groups=images.concepts)
    assert isinstance(search.best_estimator_.config, Config)
    assert search.best_estimator_.config.targets.specs == search.best_params_["targets__specs"]
    again = clone(search.best_estimator_).fit(study.train, images)
    np.testing.assert_array_equal(again.embed_trials(study.test), search.best_estimator_.embed_trials(study.test))


def test_a_notebook_shows_what_a_prior_is() -> None:
    prior = load_prior("mini", "cpu")
    shown = prior._repr_html_()
    assert all(f"{spec} ({dim})" in shown for spec, dim in prior.dims.items())
    assert f"{sum(tensor.numel() for tensor in prior.parameters()):,}" in shown
    assert f"<td>{len(prior.adapter)}</td>" in shown
