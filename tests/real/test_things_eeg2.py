"""Real THINGS-EEG2: EEG embeddings of subject 8 find the 200 test images' OpenCLIP features; the golden ranks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from hvf.cli import main
from hvf.evaluation import retrieval, scaling
from hvf.vision.embeddings import load_embeddings

EXPECTED = {  # top-1, top-5 (data/README.md); chance is 0.005 and 0.025
    ("eeg", "image"): (0.36, 0.725),
    ("eeg", "text"): (0.12, 0.315),
    ("image", "text"): (0.92, 0.985),
}


@pytest.fixture(scope="module")
def embeddings(shared_data):
    folder = shared_data / "things_eeg2"
    return {
        "eeg": load_embeddings(folder / "ATM_S_eeg_features_sub-08_test.pt"),
        "image": load_embeddings(f"{folder / 'ViT-H-14_features_test.pt'}#img_features"),
        "text": load_embeddings(folder / "ViT-H-14_features_test.pt", "text_features"),
    }


@pytest.mark.parametrize(("query", "gallery"), EXPECTED)
def test_retrieval_figures(embeddings, query, gallery):
    ranks_N = retrieval.ranks(retrieval.similarity(embeddings[query], embeddings[gallery]))
    assert (retrieval.topk(ranks_N, 1), retrieval.topk(ranks_N, 5)) == EXPECTED[query, gallery]


def test_figures_as_a_user_gets_them(shared_data, tmp_path, capsys):
    folder = shared_data / "things_eeg2"
    files = [f"{folder / 'ATM_S_eeg_features_sub-08_test.pt'}", f"{folder / 'ViT-H-14_features_test.pt'}#img_features"]
    assert main(["retrieve", "--embeddings", files[0], "--gallery", files[1], "--out", str(tmp_path / "out")]) == 0
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (figures["retrieval/brain/top1"]["value"], figures["retrieval/brain/top5"]["value"]) == (0.36, 0.725)
    assert "36.0 %" in capsys.readouterr().out
    assert main(["retrieve", "--embeddings", files[0], "--out", str(tmp_path / "other")]) == 2
    assert main(["retrieve", "--embeddings", files[0], "--gallery", files[1].partition("#")[0]]) == 2
    assert not (tmp_path / "other").exists()


TRANSDUCTIVE = {  # top-1, top-5 (data/README.md); a matching has a top-1 alone
    "centred-transductive": (0.405, 0.775),
    "csls-transductive": (0.56, 0.835),
    "sinkhorn": (0.62, 0.855),
    "hungarian": (0.70, None),
}


def written(folder):
    figures = json.loads((folder / "metrics.json").read_text())
    return {name: entry["value"] for name, entry in figures.items()}, figures


def test_scalings_of_embeddings_and_of_scores(shared_data, embeddings, tmp_path, capsys):
    folder = shared_data / "things_eeg2"
    files = [f"{folder / 'ATM_S_eeg_features_sub-08_test.pt'}", f"{folder / 'ViT-H-14_features_test.pt'}#img_features"]
    command = ["retrieve", "--embeddings", files[0], "--gallery", files[1], "--out", str(tmp_path / "embeddings")]
    assert main([*command, "--scaling", *TRANSDUCTIVE]) == 0
    values, entries = written(tmp_path / "embeddings")
    assert (values["retrieval/brain/top1"], values["retrieval/brain/top5"]) == (0.36, 0.725)  # as before
    for name, (top1, top5) in TRANSDUCTIVE.items():
        assert (values[f"transductive/{name}/top1"], values.get(f"transductive/{name}/top5")) == (top1, top5)
        gain = entries[f"transductive/{name}/top1_gain"]
        assert gain["value"] == pytest.approx(top1 - 0.36)
        assert 0 <= gain["ci95"][0] <= gain["value"] <= gain["ci95"][1]
        assert (gain["ci95"][0] > 0.1) == (name != "centred-transductive")
    assert not any(name.startswith("retrieval/") and name.split("/")[1] != "brain" for name in values)
    printed = " ".join(capsys.readouterr().out.split())
    retrieved, _, apart = printed.partition("transductive, all test trials at once")
    assert "transductive/" not in retrieved
    assert "retrieval/brain/top1" not in apart

    # Scores cannot be centred: those of centred embeddings give the same, those of others what they are worth.
    np.save(tmp_path / "centred.npy", scaling.centred_cosine(embeddings["eeg"], embeddings["image"]))
    np.save(tmp_path / "plain.npy", retrieval.similarity(embeddings["eeg"], embeddings["image"]))
    names = ["csls-transductive", "sinkhorn", "hungarian"]
    for kind in ("centred", "plain"):
        scores = ["--scores", str(tmp_path / f"{kind}.npy"), "--out", str(tmp_path / kind)]
        assert main(["retrieve", *scores, "--scaling", *names]) == 0
    of_scores, of_plain = written(tmp_path / "centred")[0], written(tmp_path / "plain")[0]
    for name in names:
        figures = [f"transductive/{name}/top{k}" for k in (1, 5) if f"transductive/{name}/top{k}" in values]
        assert [of_scores[figure] for figure in figures] == [values[figure] for figure in figures]
    assert [of_plain[f"transductive/csls-transductive/top{k}"] for k in (1, 5)] == [0.49, 0.815]


def test_inductive_scalings_by_a_bank_of_other_trials(embeddings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    eeg, image = embeddings["eeg"], embeddings["image"]
    found = []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(200)
        tested, bank = order[:100], order[100:]
        scores = {}
        for name in ("cosine", "centred", "csls"):
            fitted = scaling.Scaling.of_bank(name, eeg[bank], image[bank])
            scores[name] = fitted.scores(eeg[tested], image[tested])
        ranks = [retrieval.ranks(scores_NM) for scores_NM in scores.values()]
        found.append([retrieval.topk(ranks_N, k) for ranks_N in ranks for k in (1, 5)])
        if seed:
            continue
        # The same from files: of embeddings, and of scores.
        fitted = scaling.Scaling.of_bank("centred", eeg[bank], image[bank])
        files = {"b": eeg[tested], "g": image[tested], "bank_b": eeg[bank], "bank_g": image[bank]}
        files |= {"s": scores["centred"], "bank_s": fitted.scores(eeg[bank], image[tested])}
        for name, x in files.items():
            np.save(f"{name}.npy", x)
        scaled = ["--scaling", "csls", "--bank"]
        command = ["retrieve", "--embeddings", "b.npy", "--gallery", "g.npy", "--out", "embeddings"]
        assert main([*command, *scaled, "bank_b.npy", "--bank-gallery", "bank_g.npy"]) == 0
        assert main(["retrieve", "--scores", "s.npy", "--out", "scores", *scaled, "bank_s.npy"]) == 0
        for folder in (tmp_path / "embeddings", tmp_path / "scores"):
            assert [written(folder)[0][f"retrieval/csls/top{k}"] for k in (1, 5)] == found[0][4:]
            assert not any(name.startswith("transductive/") for name in written(folder)[0])
    assert np.mean(found, axis=0) == pytest.approx([0.467, 0.822, 0.539, 0.854, 0.617, 0.911], abs=6e-4)


def test_permuted_is_at_chance(embeddings):
    scores_NN = retrieval.similarity(embeddings["eeg"], embeddings["image"])
    rng = np.random.default_rng(0)
    rates = [retrieval.topk(retrieval.ranks(scores_NN, rng.permutation(len(scores_NN))), 1) for _ in range(200)]
    low, high = np.percentile(rates, [2.5, 97.5])
    assert low <= 0.005 <= high < 0.05


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_permuted_is_at_chance_under_every_scaling(embeddings, name):
    scores_NN = scaling.centred_cosine(embeddings["eeg"], embeddings["image"])
    rng = np.random.default_rng(0)
    rates = [(scaling.transductive_ranks(name, scores_NN, rng.permutation(200)) == 1).mean() for _ in range(20)]
    assert sum(rates) <= 20 * 0.01  # 20 right pairs on average, of Poisson numbers' sum 29 at most in 97.5 %


@pytest.mark.parametrize("case", ["eeg_to_image", "eeg_to_text", "image_to_text"])
def test_golden_ranks_of_real_embeddings(shared_data, case):
    golden = load_file(shared_data / "golden" / "retrieval" / "retrieval.safetensors")
    query, _, gallery = case.split("_")
    scores_NN = retrieval.similarity(golden[query], golden[gallery])
    assert retrieval.ranks(scores_NN).tolist() == golden[f"{case}.rank_ties_as_misses"].tolist()


@pytest.mark.parametrize(
    ("case", "top1", "top5", "mrr"),
    [
        ("synthetic_coarse", 0.235, 0.235, 0.24660),
        ("synthetic_constant", 0.0, 0.0, 0.00500),
        ("synthetic_tied_top", 0.25, 0.75, 0.53571),
    ],
)
def test_golden_ranks_with_ties(shared_data, case, top1, top5, mrr):
    golden = load_file(shared_data / "golden" / "retrieval" / "retrieval.safetensors")
    ranks_N = retrieval.ranks(golden[f"{case}.scores"])
    assert ranks_N.tolist() == golden[f"{case}.rank_ties_as_misses"].tolist()
    assert (retrieval.topk(ranks_N, 1), retrieval.topk(ranks_N, 5)) == (top1, top5)
    assert retrieval.mean_reciprocal_rank(ranks_N) == pytest.approx(mrr, abs=1e-5)
