"""Ranks against an obvious slow version, worked matrices, intervals, and embedding files that are not to be trusted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hvf.config import HvfError
from hvf.evaluation import retrieval, statistics


def slow_rank(scores: list[float], own: int) -> int:
    """Walk the gallery in the order that is worst for the own item among its ties."""
    order = sorted(range(len(scores)), key=lambda j: (-scores[j], j == own))
    return order.index(own) + 1


def test_a_worked_matrix():
    scores_NM = np.array([[3, 1, 2], [3, 3, 1], [0, 5, 4]])
    assert retrieval.ranks(scores_NM).tolist() == [1, 2, 2]  # clear; tied with one other; beaten by one
    assert retrieval.ranks(scores_NM, [1, 0, 2]).tolist() == [3, 2, 2]
    assert retrieval.top_items(scores_NM, 2).tolist() == [[0, 2], [0, 1], [1, 2]]


@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize("gallery", [12, 30])
def test_ranks_equal_the_slow_ones(levels, gallery):
    rng = np.random.default_rng(levels)
    scores_NM = rng.integers(levels, size=(25, gallery)).astype(np.float32)
    target_N = rng.integers(gallery, size=25)
    expected = [slow_rank(row, own) for row, own in zip(scores_NM.tolist(), target_N.tolist(), strict=True)]
    assert retrieval.ranks(scores_NM, target_N).tolist() == expected
    assert retrieval.ranks(torch.from_numpy(scores_NM), target_N).tolist() == expected


def test_a_collapsed_encoder_scores_nothing():
    z = np.ones((200, 8))
    ranks_N = retrieval.ranks(retrieval.similarity(z, z))
    assert (ranks_N == 200).all()
    assert retrieval.topk(ranks_N, 5) == 0.0


def test_similarity_is_the_cosine():
    rng = np.random.default_rng(0)
    z_b_ND, z_f_MD = rng.normal(size=(4, 6)), rng.normal(size=(5, 6))
    scores_NM = retrieval.similarity(torch.from_numpy(z_b_ND), z_f_MD * 100)
    for i in range(4):
        for j in range(5):
            cosine = z_b_ND[i] @ z_f_MD[j] / np.linalg.norm(z_b_ND[i]) / np.linalg.norm(z_f_MD[j])
            assert scores_NM[i, j] == pytest.approx(cosine, abs=1e-6)
    assert (retrieval.similarity(np.zeros((1, 6)), z_f_MD) == 0).all()


@pytest.mark.parametrize(
    ("z_b", "z_f", "said"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), "3 wide and image embeddings 4"),
        (np.full((2, 3), np.nan), np.ones((2, 3)), "brain embeddings hold NaN"),
        (np.ones(3), np.ones((2, 3)), "brain embeddings should be an array"),
    ],
)
def test_embeddings_that_cannot_be_compared(z_b, z_f, said):
    with pytest.raises(HvfError, match=said):
        retrieval.similarity(z_b, z_f)


@pytest.mark.parametrize(
    ("scores", "target"),
    [(np.array([[np.nan, 1.0], [0.0, 1.0]]), None), (np.zeros((3, 2)), None), (np.zeros((2, 2)), [0, 2])],
)
def test_scores_that_cannot_be_ranked(scores, target):
    with pytest.raises(HvfError):
        retrieval.ranks(scores, target)


def test_figures():
    ranks_N = np.array([1, 1, 2, 10])
    figures = retrieval.summarise(ranks_N)
    assert figures["top1"]["value"] == 0.5
    assert figures["top5"]["value"] == 0.75
    assert figures["top10"]["value"] == 1.0
    assert figures["mrr"]["value"] == pytest.approx((1 + 1 + 0.5 + 0.1) / 4)
    assert figures["median_rank"]["value"] == 1.5
    for entry in figures.values():
        assert entry["ci95"][0] <= entry["value"] <= entry["ci95"][1]
        assert entry["n"] == 4


def test_one_to_one_matching_on_worked_matrices():
    # Query 1 likes item 0 best, but item 0 is worth more to query 0: matched at once, all three are right.
    scores_NN = np.array([[9, 1, 0], [8, 7, 0], [0, 0, 5]])
    assert retrieval.ranks(scores_NN).tolist() == [1, 2, 1]
    assert retrieval.one_to_one(scores_NN).tolist() == [True, True, True]
    assert retrieval.one_to_one(scores_NN[[1, 0, 2]]).tolist() == [False, False, True]
    with pytest.raises(HvfError, match="as many queries as items"):
        retrieval.one_to_one(scores_NN[:2])
    with pytest.raises(HvfError, match="finite"):
        retrieval.one_to_one(np.full((2, 2), np.nan))


@pytest.mark.parametrize("value", [0.0, 3.0, -1e6])
def test_a_collapsed_encoder_matches_nothing(value):
    assert not retrieval.one_to_one(np.full((7, 7), value)).any()


def test_one_to_one_figures_lie_within_chance_for_random_scores():
    rng = np.random.default_rng(0)
    chance = retrieval.one_to_one_figures(rng.normal(size=(50, 50)))["chance"]
    low, high = chance["ci95"]
    assert (low, chance["value"]) == (0.0, 0.02)
    found = [retrieval.one_to_one(rng.normal(size=(50, 50))).mean() for _ in range(200)]
    assert np.mean([low <= value <= high for value in found]) >= 0.9
    assert np.mean(found) == pytest.approx(0.02, abs=0.006)
    z = rng.normal(size=(30, 8))
    figures = retrieval.figures(retrieval.similarity(z, z))
    assert figures["retrieval/brain/one_to_one"]["value"] == 1.0
    assert figures["chance/retrieval/top10"]["value"] == pytest.approx(1 / 3)


def test_repeating_a_seed_does_not_narrow_the_interval():
    rng = np.random.default_rng(1)
    hits_N = (rng.random(150) < 0.4).astype(float)
    ids = [f"image-{i}" for i in range(150)]
    once, thrice = statistics.interval(hits_N, ids), statistics.interval(np.tile(hits_N, 3), ids * 3)
    assert thrice == once
    assert once["ci95"] == pytest.approx(statistics.interval(hits_N)["ci95"], abs=0.01)
    low, high = once["ci95"]
    assert 0.12 < high - low < 0.20  # 2 · 1.96 · sqrt(.4 · .6 / 150) = 0.157


def test_chance_covers_random_scores():
    chance = retrieval.chance(5, 200, 200)
    assert chance["value"] == 0.025
    rng = np.random.default_rng(0)
    rates = [retrieval.topk(retrieval.ranks(rng.normal(size=(200, 200))), 5) for _ in range(200)]
    low, high = chance["ci95"]
    assert np.mean([low <= rate <= high for rate in rates]) >= 0.93
    assert np.mean(rates) == pytest.approx(0.025, abs=0.003)


def test_repeating_a_seed_does_not_narrow_the_interval_of_the_median_rank():
    ranks_N = np.random.default_rng(2).integers(1, 60, 40)
    ids = [f"image-{i:02d}" for i in range(40)]
    once, often = retrieval.summarise(ranks_N)["median_rank"], retrieval.summarise(np.tile(ranks_N, 20), ids * 20)
    assert often["median_rank"] == once
    assert once["ci95"][1] - once["ci95"][0] > 10
