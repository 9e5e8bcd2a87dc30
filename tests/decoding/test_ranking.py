"""Answers among a gallery, in a world whose noise is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hvf.config import HvfError
from hvf.decoding import gallery as galleries
from hvf.decoding import ranking
from hvf.decoding.confidence import Confidence
from hvf.decoding.gallery import Gallery
from hvf.decoding.ranking import answer, calibrate
from hvf.evaluation import retrieval
from hvf.evaluation.scaling import Scaling

D, NOISE = 32, 0.5


def images(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal((n, D)).astype(np.float32)


def trials(rng: np.random.Generator, z_ND: np.ndarray, repeats: int = 1) -> np.ndarray:
    return (z_ND + NOISE * np.sqrt(D / repeats) * rng.standard_normal(z_ND.shape)).astype(np.float32)


def world(seed: int, n: int = 200) -> tuple[np.random.Generator, Confidence]:
    rng = np.random.default_rng(seed)
    own_VD = images(rng, n)
    z_b = {r: trials(rng, own_VD, r) for r in (1, 4, 16)}
    nothing = {r: np.float32(NOISE * np.sqrt(D / r)) * images(rng, n) for r in (1, 4, 16)}
    concepts = tuple(f"concept {i // 3}" for i in range(n))
    return rng, Confidence(own_VD, z_b, nothing, trials(rng, images(rng, 64)), concepts)


def gallery(z_MD: np.ndarray) -> Gallery:
    return Gallery.of([f"image {i}" for i in range(len(z_MD))], z_MD)


@pytest.mark.parametrize(("m", "repeats"), [(50, 1), (200, 1), (1000, 1), (200, 4)])
def test_sets_hold_the_image_as_often_as_promised_among_any_gallery(m, repeats):
    held, sizes = [], []
    for seed in range(3):
        rng, confidence = world(seed)
        z_MD = images(rng, m)
        seen = rng.integers(0, m, 200)
        ids = [f"image {i}" for i in seen]
        answers = answer(trials(rng, z_MD[seen], repeats), gallery(z_MD), confidence, [repeats] * 200, ids)
        held.append(answers.held_N.mean())
        sizes.append(answers.set_size_N.mean())
        assert np.array_equal(answers.rank_N == 1, answers.top_NK[:, 0] == seen)
    assert np.mean(held) == pytest.approx(0.9, abs=0.04)
    assert np.mean(sizes) < m / 3  # and are no mere excuse


def test_permuted_trials_get_nearly_the_whole_gallery():
    rng, confidence = world(0)
    order = rng.permutation(len(confidence.z_f_VD))
    confused = replace(confidence, z_b={r: z[order] for r, z in confidence.z_b.items()})
    z_MD = images(rng, 200)
    answers = answer(trials(rng, z_MD), gallery(z_MD), confused, image_ids=[f"image {i}" for i in rng.permutation(200)])
    assert answers.set_size_N.mean() > 0.8 * 200
    assert answers.held_N.mean() == pytest.approx(0.9, abs=0.06)
    assert answers.probability_NK[:, 0].mean() < 0.05


def test_trials_without_information_are_marked_and_others_are_not():
    rng, confidence = world(1)
    z_MD = images(rng, 100)
    noise_ND = np.float32(NOISE * np.sqrt(D / 16)) * images(rng, 200)
    nothing = answer(noise_ND, gallery(z_MD), confidence, [16] * 200)
    assert nothing.says_nothing_N.mean() > 0.9
    something = answer(trials(rng, z_MD, 16), gallery(z_MD), confidence, [16] * 100)
    assert something.says_nothing_N.mean() < 0.1


def test_blocks_and_parts_change_nothing(monkeypatch):
    rng, confidence = world(2)
    z_MD = images(rng, 333)
    z_b_ND = trials(rng, z_MD[:40])
    whole = answer(z_b_ND, gallery(z_MD), confidence)
    monkeypatch.setattr(galleries, "BLOCK_BYTES", 4 * D * 17)
    monkeypatch.setattr(ranking, "SCORES_BYTES", 4 * 333 * 7)
    parts = answer(z_b_ND, gallery(z_MD), confidence)
    assert np.array_equal(whole.top_NK, parts.top_NK)
    assert np.allclose(whole.probability_NK, parts.probability_NK, rtol=1e-4, atol=1e-9)
    assert np.array_equal(whole.set_size_N, parts.set_size_N)


@pytest.mark.parametrize("name", ["centred", "csls"])
def test_scaled_answers_are_those_of_the_scores_and_sets_hold_as_promised(name, monkeypatch):
    held = []
    for seed in range(3):
        rng, confidence = world(seed)
        z_MD, scaling = images(rng, 333), confidence.scaling(name)
        seen = rng.integers(0, 333, 200)
        z_b_ND, ids = trials(rng, z_MD[seen]), [f"image {i}" for i in seen]
        answers = answer(z_b_ND, gallery(z_MD).scaled(scaling), confidence, None, ids)
        held.append(answers.held_N.mean())
        scores_NM = scaling.scores(z_b_ND, z_MD)
        assert answers.top_NK.tolist() == np.argsort(-scores_NM, axis=1, kind="stable")[:, :10].tolist()
        assert answers.rank_N.tolist() == retrieval.ranks(scores_NM, seen).tolist()
        np.testing.assert_allclose(answers.similarity_NK, np.take_along_axis(scores_NM, answers.top_NK, 1), atol=1e-5)
    assert np.mean(held) == pytest.approx(0.9, abs=0.04)
    assert answers.probability_NK[:, 0].mean() == pytest.approx((answers.rank_N == 1).mean(), abs=0.1)
    # Alone, and in blocks of the gallery, a trial is answered alike.
    monkeypatch.setattr(galleries, "BLOCK_BYTES", 4 * D * 17)
    alone = answer(z_b_ND[7:8], gallery(z_MD).scaled(scaling), confidence)
    assert alone.top_NK[0].tolist() == answers.top_NK[7].tolist()
    assert alone.probability_NK[0] == pytest.approx(answers.probability_NK[7], rel=1e-3)
    assert alone.set_size_N[0] == answers.set_size_N[7]


def test_probabilities_of_another_scaling_are_refused():
    rng, confidence = world(0)
    of_images, calibrated = gallery(images(rng, 50)), {}
    z_b_ND = trials(rng, images(rng, 3))
    answer(z_b_ND, of_images, confidence, calibrated=calibrated)
    assert list(calibrated) == [1]
    with pytest.raises(HvfError, match="fitted to scores scaled by cosine, not by csls as these: fit anew"):
        answer(z_b_ND, of_images.scaled(confidence.scaling("csls")), confidence, calibrated=calibrated)
    wide = Scaling.of_bank("csls", np.eye(5, dtype=np.float32), np.eye(5, dtype=np.float32))
    with pytest.raises(HvfError, match="the gallery is 32 wide and the scaling's bank 5"):
        of_images.scaled(wide)


def test_hubs_are_near_to_the_bank_once(monkeypatch):
    rng, confidence = world(1)
    asked, scaling = [], confidence.scaling("csls")
    inner = Scaling.hubness
    monkeypatch.setattr(Scaling, "hubness", lambda self, z_MD: asked.append(len(z_MD)) or inner(self, z_MD))
    z_MD = images(rng, 90)
    answer(trials(rng, z_MD), gallery(z_MD).scaled(scaling), confidence)
    assert asked == [90]  # read for calibration and for the answers, computed once


def test_probabilities_sum_to_one_and_fall_with_the_rank():
    rng, confidence = world(3)
    z_MD = images(rng, 8)  # fewer images than answers
    answers = answer(trials(rng, z_MD), gallery(z_MD), confidence)
    assert answers.top_NK.shape == (8, 8)
    assert answers.probability_NK.sum(axis=1) == pytest.approx(1.0)
    assert (np.diff(answers.probability_NK, axis=1) <= 1e-12).all()
    assert (answers.in_set_NK.sum(axis=1) == answers.set_size_N).all()


def test_ties_count_as_misses_and_unknown_images_have_no_rank():
    z_MD = np.repeat(np.eye(2, D, dtype=np.float32), 2, axis=0)  # images 0 and 1 are alike
    answers = answer(z_MD[:3], gallery(z_MD), None, image_ids=["image 0", "", "elsewhere"])
    assert answers.rank_N.tolist() == [2, 0, 0]
    assert answers.known_N.tolist() == [True, False, False]
    assert np.isnan(answers.probability_NK).all()
    assert not answers.calibrated


def test_more_trials_than_validation_are_judged_by_the_most_there_are():
    _, confidence = world(4)
    assert [confidence.level(r) for r in (1, 2, 3, 4, 80)] == [1, 1, 1, 4, 16]
    with pytest.raises(HvfError, match="at least one"):
        confidence.level(0)


def test_what_does_not_fit_is_refused():
    rng, confidence = world(5)
    z_MD = images(rng, 20)
    with pytest.raises(HvfError, match="different decoders"):
        answer(z_MD[:, :5], gallery(z_MD), confidence)
    with pytest.raises(HvfError, match="not finite"):
        answer(np.full((1, D), np.nan), gallery(z_MD), confidence)
    with pytest.raises(HvfError, match="level"):
        answer(z_MD, gallery(z_MD), confidence, level=1.5)
    with pytest.raises(HvfError, match="20 trials were given 1 numbers of repeats"):
        answer(z_MD, gallery(z_MD), confidence, [1])
    with pytest.raises(HvfError, match="20 trials were given 21 images"):
        answer(z_MD, gallery(z_MD), confidence, image_ids=["image 0"] * 21)
    with pytest.raises(HvfError, match="search is 'fais'; did you mean 'faiss'?"):
        answer(z_MD, gallery(z_MD), confidence, search="fais")  # the first image would answer every trial
    with pytest.raises(HvfError, match="repeats are whole numbers, not float64"):
        answer(z_MD, gallery(z_MD), confidence, [2.7] * 20)
    z_MD[3, 0] = np.inf
    with pytest.raises(HvfError, match="'image 3' is not finite"):
        calibrate(confidence, gallery(z_MD), 1)
    with pytest.raises(HvfError, match="no image"):
        gallery(z_MD[:0])


@pytest.mark.parametrize("search", ["blocks", "faiss"])
def test_the_nearest_are_those_of_a_whole_table(monkeypatch, search):
    if search == "faiss":
        pytest.importorskip("faiss")
    rng = np.random.default_rng(7)
    z_MD, z_b_ND = images(rng, 333), images(rng, 20)
    monkeypatch.setattr(galleries, "BLOCK_BYTES", 4 * D * 7)  # blocks of fewer images than answers
    top_NK, cosine_NK = ranking.nearest(z_b_ND, gallery(z_MD), 10, search)
    scores_NM = retrieval.unit(z_b_ND) @ retrieval.unit(z_MD).T
    assert np.array_equal(top_NK, np.argsort(-scores_NM, axis=1)[:, :10])
    assert cosine_NK == pytest.approx(np.sort(scores_NM, axis=1)[:, :-11:-1], abs=1e-6)
    found = answer(z_b_ND, gallery(z_MD), None, search=search)
    assert np.array_equal(found.top_NK, top_NK)


def test_faiss_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(HvfError, match=r"pip install 'hvf\[faiss\]'"):
        ranking.nearest(np.eye(3, dtype=np.float32), gallery(np.eye(3, dtype=np.float32)), 1, "faiss")
