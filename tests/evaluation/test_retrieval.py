"""Ranks against an obvious slow version, worked matrices, intervals, and embedding files that are not to be trusted."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from hvf.config import HvfError
from hvf.evaluation import retrieval


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


def test_k_way_is_what_drawing_distractors_gives():
    rng = np.random.default_rng(0)
    scores_NM = rng.integers(20, size=(60, 60))
    ranks_N = retrieval.ranks(scores_NM)
    hits = []
    for i in np.repeat(np.arange(60), 200):
        others = rng.choice(np.delete(np.arange(60), i), size=3, replace=False)
        hits.append(scores_NM[i, i] > scores_NM[i, others].max())
    assert retrieval.k_way(ranks_N, 60, 4) == pytest.approx(np.mean(hits), abs=0.02)
    assert retrieval.k_way(ranks_N, 60, 60) == retrieval.topk(ranks_N, 1)
    with pytest.raises(HvfError, match="1-way"):
        retrieval.k_way(ranks_N, 60, 1)


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
    once, thrice = retrieval.interval(hits_N, ids), retrieval.interval(np.tile(hits_N, 3), ids * 3)
    assert thrice == once
    assert once["ci95"] == pytest.approx(retrieval.interval(hits_N)["ci95"], abs=0.01)
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


def test_permutation_interval_holds_for_a_hub():
    scores_NN = np.random.default_rng(0).normal(size=(60, 60))
    scores_NN[:, 7] += 100  # one item is everybody's best, so top-1 is 1/60 in every pairing
    assert retrieval.permutation_interval(scores_NN, 1) == (1 / 60, 1 / 60)
    ties = np.zeros((60, 60))
    assert retrieval.permutation_interval(ties, 5) == (0.0, 0.0)


def test_permutation_interval_is_what_shuffling_gives():
    rng = np.random.default_rng(3)
    scores_NN = rng.integers(4, size=(30, 30))
    rates = [retrieval.topk(retrieval.ranks(scores_NN, rng.permutation(30)), 5) for _ in range(1000)]
    low, high = retrieval.permutation_interval(scores_NN, 5)
    assert np.percentile(rates, [2.5, 97.5]) == pytest.approx([low, high], abs=0.04)


@pytest.mark.parametrize("suffix", [".npy", ".pt", ".safetensors"])
def test_embedding_files(tmp_path, suffix):
    z_ND = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    path = tmp_path / f"z{suffix}"
    if suffix == ".npy":
        np.save(path, z_ND)
    elif suffix == ".pt":
        torch.save(torch.from_numpy(z_ND), path)
    else:
        save_file({"z": z_ND}, path)
    np.testing.assert_array_equal(retrieval.load_embeddings(path), z_ND)


def test_a_file_of_several_embeddings_needs_a_key(tmp_path):
    path = tmp_path / "features.pt"
    torch.save({"text": torch.zeros(3, 2), "image": torch.ones(3, 2)}, path)
    with pytest.raises(HvfError, match="holds text, image: say which, as features.pt#KEY"):
        retrieval.load_embeddings(path)
    with pytest.raises(HvfError, match="holds text, image, not imge"):
        retrieval.load_embeddings(path, "imge")
    assert retrieval.load_embeddings(f"{path}#image").tolist() == np.ones((3, 2)).tolist()


class Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('the file was executed')",)


def test_embedding_files_are_never_executed(tmp_path):
    for suffix in (".pt", ".npy"):
        path = tmp_path / f"bad{suffix}"
        path.write_bytes(pickle.dumps(Malicious()))
        with pytest.raises(HvfError, match="cannot be read as plain numbers"):
            retrieval.load_embeddings(path)
    torch.save(Malicious(), tmp_path / "zipped.pt")
    with pytest.raises(HvfError, match="cannot be read as plain numbers"):
        retrieval.load_embeddings(tmp_path / "zipped.pt")


@pytest.mark.parametrize("name", ["absent.pt", "z.csv", "empty.npy", "damaged.safetensors"])
def test_files_that_are_no_embeddings(tmp_path, name):
    if name != "absent.pt":
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(HvfError, match=name):
        retrieval.load_embeddings(tmp_path / name)
