"""Scaling of scores: worked matrices, an obvious slow version, the controls, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from hvf.config import HvfError
from hvf.evaluation import retrieval, scaling
from hvf.evaluation.scaling import INDUCTIVE, TRANSDUCTIVE, Scaling

D = 24
RNG = np.random.default_rng


def world(seed: int = 0, n: int = 200) -> dict[str, np.ndarray]:
    """Trials and images on a cone each; noise lies in two directions, and images that do, too, are hubs."""
    rng = RNG(seed)
    brain_D, image_D, noisy_2D = rng.standard_normal(D), rng.standard_normal(D), rng.standard_normal((2, D))

    def draw(m: int) -> tuple[np.ndarray, np.ndarray]:
        own_MD = rng.standard_normal((m, D))
        noise_MD = 0.6 * rng.standard_normal((m, D)) + 1.5 * rng.standard_normal((m, 2)) @ noisy_2D
        return own_MD + noise_MD + brain_D, own_MD + image_D

    pairs = {"test": draw(n), "bank": draw(150), "validation": draw(120)}
    return {
        f"{part}_{side}": z.astype(np.float32) for part, two in pairs.items() for side, z in zip("bf", two, strict=True)
    }


def test_csls_on_a_worked_matrix():
    # Image 0 is near to everything: r_g of k = 2 is (9 + 8) / 2 = 8.5, (4 + 2) / 2 = 3 and (7 + 0) / 2 = 3.5.
    scores_NM = np.array([[9.0, 1.0, 0.0], [8.0, 4.0, 0.0], [7.5, 2.0, 7.0]])
    scaled_NM = scaling.csls(scores_NM, scores_NM, k=2)
    assert scaled_NM.tolist() == [[9.5, -1.0, -3.5], [7.5, 5.0, -3.5], [6.5, 1.0, 10.5]]
    assert retrieval.ranks(scores_NM).tolist() == [1, 2, 2]
    assert scaling.transductive_ranks("csls-transductive", scores_NM).tolist() == [1, 2, 1]  # k: all three


def test_csls_equals_the_slow_way():
    z = world()
    fitted = Scaling.of_bank("csls", z["bank_b"], z["validation_f"], k=7)
    queries, gallery, bank, images = (z[name].astype(float) for name in ("test_b", "test_f", "bank_b", "validation_f"))

    def less(rows: np.ndarray, of: np.ndarray) -> np.ndarray:
        mean = np.mean([row / np.linalg.norm(row) for row in of], axis=0)
        return np.array([(v := row / np.linalg.norm(row) - mean) / np.linalg.norm(v) for row in rows])

    q, g, b = less(queries, bank), less(gallery, images), less(bank, bank)
    for i in (0, 57):
        for j in (0, 3, 199):
            r_g = np.mean(sorted(float(one @ g[j]) for one in b)[-7:])
            assert fitted.scores(z["test_b"], z["test_f"])[i, j] == pytest.approx(2 * q[i] @ g[j] - r_g, abs=1e-5)


def test_sinkhorn_is_doubly_stochastic_and_ranks_as_worked():
    scores_NM = RNG(0).normal(size=(30, 20))
    p_NM = np.exp(scaling.sinkhorn(scores_NM, tau=0.5))
    np.testing.assert_allclose(p_NM.sum(axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(p_NM.sum(axis=0), 1.5, atol=1e-3)
    # Adding a number to a row or a column changes nothing.
    shifted_NM = scores_NM + RNG(1).normal(size=(30, 1)) + RNG(2).normal(size=(1, 20))
    np.testing.assert_allclose(np.exp(scaling.sinkhorn(shifted_NM, tau=0.5)), p_NM, atol=2e-3)
    # By hand: [[1, 1], [1, 3]] becomes [[p, 1 - p], [1 - p, p]] with p² / (1 - p)² = 3.
    p = np.sqrt(3) / (1 + np.sqrt(3))
    found_NM = np.exp(scaling.sinkhorn(np.log([[1.0, 1.0], [1.0, 3.0]]), tau=1.0))
    np.testing.assert_allclose(found_NM, [[p, 1 - p], [1 - p, p]], atol=1e-3)


def test_each_scaling_finds_more_where_hubs_are_and_none_where_trials_are_permuted():
    z = world()
    b, f = z["test_b"], z["test_f"]
    cosine = retrieval.topk(retrieval.ranks(retrieval.similarity(b, f)), 1)
    low, high = retrieval.chance(1, 200, 200)["ci95"]
    order = RNG(3).permutation(200)
    found, permuted = {}, {}
    for name in INDUCTIVE:
        fitted = Scaling.fit(name, z["bank_b"], z["validation_b"], z["validation_f"])
        for rates, rows in ((found, b), (permuted, b[order])):
            rates[name] = retrieval.topk(retrieval.ranks(fitted.scores(rows, f)), 1)
    for name in TRANSDUCTIVE:
        for rates, rows in ((found, b), (permuted, b[order])):
            rates[name] = (scaling.transductive_ranks(name, scaling.centred_cosine(rows, f)) == 1).mean()
    assert found["cosine"] == cosine
    assert cosine < found["centred"] < found["csls"] < found["sinkhorn"]
    assert cosine < found["centred-transductive"] < found["csls-transductive"] < found["hungarian"]
    assert {name: rate for name, rate in permuted.items() if not low <= rate <= high} == {}


@pytest.mark.parametrize("name", INDUCTIVE)
def test_an_inductive_score_hangs_on_its_own_trial_alone(name):
    z = world()
    fitted = Scaling.fit(name, z["bank_b"], z["validation_b"], z["validation_f"])
    together_NM = fitted.scores(z["test_b"], z["test_f"])
    order = RNG(0).permutation(200)
    np.testing.assert_allclose(fitted.scores(z["test_b"][order], z["test_f"]), together_NM[order], atol=1e-5)
    for i in (0, 100, 199):
        alone_1M = fitted.scores(z["test_b"][i : i + 1], z["test_f"])
        np.testing.assert_allclose(alone_1M[0], together_NM[i], atol=1e-5)
        assert retrieval.ranks(alone_1M, [i]) == retrieval.ranks(together_NM)[i]


def test_the_cosine_is_what_it_was():
    z = world()
    same_NM = Scaling.of_bank("cosine", z["bank_b"], z["bank_f"]).scores(z["test_b"], z["test_f"])
    assert np.array_equal(same_NM, retrieval.similarity(z["test_b"], z["test_f"]))


def test_k_is_the_one_that_validation_trials_find_most_with():
    z = world()
    fitted = Scaling.fit("csls", z["bank_b"], z["validation_b"], z["validation_f"])
    found = {}
    for k in scaling.KS:
        one = Scaling.of_bank("csls", z["bank_b"], z["validation_f"], k)
        found[k] = (1 / retrieval.ranks(one.scores(z["validation_b"], z["validation_f"]))).mean()
    assert found[fitted.k] == max(found.values())
    clear = np.eye(3, dtype=np.float32)  # all k find all: the field's, or the one nearest to it
    assert Scaling.fit("csls", np.eye(3, dtype=np.float32), clear, clear).k == 2
    assert Scaling.of_bank("csls", np.eye(3, dtype=np.float32), clear).k == 3


def test_a_collapsed_encoder_finds_nothing_under_any_scaling():
    z = world(n=50)
    same_b, same_f = (np.tile(z[f"test_{side}"][:1], (50, 1)) for side in "bf")
    for b, f in ((same_b, z["test_f"]), (z["test_b"], same_f), (same_b, same_f)):
        for name in INDUCTIVE:
            scores_NM = Scaling.of_bank(name, z["bank_b"], z["bank_f"]).scores(b, f)
            assert retrieval.topk(retrieval.ranks(scores_NM), 1) <= 0.02, name
        for name in TRANSDUCTIVE:
            assert (scaling.transductive_ranks(name, scaling.centred_cosine(b, f)) == 1).mean() <= 0.02, name


def test_figures_beside_the_cosines():
    cosine_N, ranks_N = np.array([1, 3, 7, 1]), np.array([1, 1, 5, 2])
    figures = scaling.scaled_figures("csls", ranks_N, cosine_N)
    assert (figures["top1"]["value"], figures["top1_gain"]["value"], figures["top5_gain"]["value"]) == (0.5, 0.0, 0.25)
    assert figures["top5_gain"]["ci95"] == [0.0, 0.75]
    assert "top1_gain" not in scaling.scaled_figures("csls", ranks_N, None)  # of a control
    assert scaling.scaled_figures("hungarian", np.array([1, 4, 4, 1]), cosine_N).keys() == {"top1", "top1_gain"}
    entries = scaling.scaled_entries({"csls": ranks_N, "sinkhorn": ranks_N}, cosine_N, 10)
    rows = {name.rpartition("/")[0] for name in entries}
    assert rows == {"retrieval/csls", "transductive/sinkhorn", "chance/transductive"}
    assert entries["chance/transductive/top5"]["value"] == 0.5
    assert not any(name.startswith("chance/") for name in scaling.scaled_entries({"csls": ranks_N}, cosine_N, 10))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: scaling.check_scalings(["csls", "sinkhorns"]), "--scaling is 'sinkhorns'; did you mean 'sinkhorn'"),
        (lambda: Scaling.of_bank("sinkhorn", np.eye(3), np.eye(3)), "sinkhorn takes all test trials at once"),
        (lambda: Scaling.of_bank("csls", np.eye(3), np.eye(4)), "the bank's trials are 3 wide and its images 4"),
        (lambda: scaling.transductive_ranks("csls", np.eye(3)), "no transductive scaling 'csls'"),
        (lambda: scaling.transductive_ranks("sinkhorn", np.ones((1, 5)), np.array([2])), "and there is 1"),
        (
            lambda: scaling.transductive_ranks("hungarian", np.ones((3, 2)), np.array([0, 1, 1])),
            "3 trials answer 2 of 2",
        ),
    ],
)
def test_what_is_refused(call, said):
    with pytest.raises(HvfError, match=said):
        call()


def test_names_are_taken_once_and_the_cosine_is_always_there():
    assert scaling.check_scalings(["sinkhorn", "cosine", "csls", "sinkhorn"]) == ("sinkhorn", "csls")
