"""Real THINGS-EEG2: EEG embeddings of subject 8 find the 200 test images' OpenCLIP features; the golden ranks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from hvf.cli import main
from hvf.evaluation import retrieval
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
    assert "0.360" in capsys.readouterr().out
    assert main(["retrieve", "--embeddings", files[0], "--out", str(tmp_path / "other")]) == 2
    assert main(["retrieve", "--embeddings", files[0], "--gallery", files[1].partition("#")[0]]) == 2
    assert not (tmp_path / "other").exists()


def test_permuted_is_at_chance(embeddings):
    scores_NN = retrieval.similarity(embeddings["eeg"], embeddings["image"])
    rng = np.random.default_rng(0)
    rates = [retrieval.topk(retrieval.ranks(scores_NN, rng.permutation(len(scores_NN))), 1) for _ in range(200)]
    low, high = np.percentile(rates, [2.5, 97.5])
    assert low <= 0.005 <= high < 0.05


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
