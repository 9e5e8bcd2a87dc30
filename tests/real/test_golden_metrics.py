"""Metrics, networks' inputs and ranks against what the field's own evaluation code gave (see the golden READMEs)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from hvf.evaluation import picture_metrics, retrieval
from hvf.evaluation.metrics.base import correlation_distance
from hvf.registry import NETWORKS

FEATURES = [
    "alexnet_features.11",
    "alexnet_features.4",
    "clip",
    "effnet",
    "inception",
    "swav_resnet50",
    "edge_ties",
    "edge_constant_recon",
    "edge_constant_real",
    "edge_identical",
    "edge_all_recons_equal",
    "edge_two_items",
]


@pytest.fixture
def golden(shared_data):
    return shared_data / "golden" / "metrics"


@pytest.fixture
def expected(golden):
    return json.loads((golden / "expected.json").read_text())


def _array(values):
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


@pytest.mark.parametrize(
    ("route", "first"),
    [("brain_hive_direct", None), ("brain_hive_after_resize_512", 512), ("mindeye_256_first", 256)],
)
def test_pixels_by_every_route(golden, expected, route, first):
    images = np.load(golden / "images.npz")
    scores = picture_metrics.pixel_scores(images["reals"], images["recons"], first=first)
    for name, per_image in scores.items():
        assert per_image.mean() == pytest.approx(expected[route][name], abs=1e-6)
        if f"{name}_per_pair" in expected[route]:
            np.testing.assert_allclose(per_image, expected[route][f"{name}_per_pair"], rtol=0, atol=1e-6)


def test_identical_constant_and_inverted_pictures(golden, expected):
    images = np.load(golden / "edge_images.npz")
    want = expected["edge_images_identical_constant_inverted"]
    reals, recons = images["reals"], images["recons"]
    np.testing.assert_allclose(
        picture_metrics.pixcorr(reals, recons, first=None), _array(want["pixcorr_per_pair"]), rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(
        picture_metrics.ssim(reals, recons, first=None), want["ssim_per_pair"], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("name", FEATURES)
def test_formulas_on_features(golden, expected, name):
    features = np.load(golden / "features.npz")
    real, recon = features[f"{name}.reals"], features[f"{name}.recons"]
    want = expected["formulas_on_features"][name]
    assert (picture_metrics.two_way(real, recon) * (len(real) - 1)).round().tolist() == want["success_count_per_column"]
    assert picture_metrics.two_way(real, recon).mean() == pytest.approx(want["two_way"], abs=1e-9)
    distances = correlation_distance(picture_metrics.SeenFeatures(real), recon, np.arange(len(real)))
    np.testing.assert_allclose(distances, _array(want["correlation_distance_per_pair"]), rtol=0, atol=1e-5)


INPUTS = {"alexnet": "alexnet", "inception": "inception", "clip": "clip", "effnet": "effnet", "swav": "resnet50"}


@pytest.mark.parametrize("name", INPUTS)
def test_what_each_network_is_given(golden, expected, name):
    images, given = np.load(golden / "images.npz"), np.load(golden / "network_inputs.npz")
    recorded = INPUTS[name]
    order = (
        ("reals", "recons") if expected["network_input_order"][recorded] == "reals then recons" else ("recons", "reals")
    )
    x = torch.from_numpy(np.concatenate([images[part] for part in order])).permute(0, 3, 1, 2).float() / 255
    if name == "alexnet":  # asked twice there
        x = torch.cat([x, x])
    prepared = NETWORKS[name].prepare(x)
    assert list(prepared.shape) == given[f"{recorded}.shape"].tolist()
    np.testing.assert_allclose(prepared.mean(dim=(2, 3)), given[f"{recorded}.mean"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(prepared.flatten(2).std(dim=2), given[f"{recorded}.std"], rtol=0, atol=1e-5)
    q = NETWORKS[name].size // 3
    crop = prepared[:2, :, q : q + 20, q : q + 20]
    np.testing.assert_allclose(crop, given[f"{recorded}.crop_first2"], rtol=0, atol=1e-5)


def test_another_way_of_resizing_is_not_what_networks_are_given(golden):
    images, given = np.load(golden / "images.npz"), np.load(golden / "network_inputs.npz")
    x = torch.from_numpy(images["recons"]).permute(0, 3, 1, 2).float() / 255
    via_256 = torch.nn.functional.interpolate(x, (256, 256), mode="bilinear", antialias=True)
    assert np.abs(NETWORKS["clip"].prepare(via_256).flatten(2).std(dim=2).numpy() - given["clip.std"][:24]).max() > 1e-3


CASES = ["eeg_to_image", "eeg_to_text", "image_to_text", "synthetic_coarse", "synthetic_constant", "synthetic_tied_top"]


@pytest.mark.parametrize("case", CASES)
def test_ranks_and_what_follows_from_them(shared_data, case):
    folder = shared_data / "golden" / "retrieval"
    held, told = load_file(folder / "retrieval.safetensors"), json.loads((folder / "expected.json").read_text())[case]
    query, _, gallery = case.partition("_to_")
    scores_NN = held[f"{case}.scores"] if not gallery else retrieval.similarity(held[query], held[gallery])
    ranks_N = retrieval.ranks(scores_NN)
    assert ranks_N.tolist() == held[f"{case}.rank_ties_as_misses"].tolist()
    want = told["computed_here_not_reference"]
    found = retrieval.summarise(ranks_N)
    assert found["top1"]["value"] == want["ties_count_as_misses"]["top1"]
    assert found["top5"]["value"] == want["ties_count_as_misses"]["top5"]
    assert found["mrr"]["value"] == pytest.approx(want["ties_count_as_misses"]["mean_reciprocal_rank"], abs=1e-9)
    matched = retrieval.one_to_one(scores_NN).mean()
    if not want["rows_with_a_tie_on_the_true_item"]:  # then all reference code agrees
        assert found["mrr"]["value"] == pytest.approx(told["ubp"]["mAP"], abs=1e-6)
        assert found["top1"]["value"] == told["neurobridge"]["top1"] == told["atm_k_way"]["200"]["top1"]
        assert matched >= found["top1"]["value"]  # what using the test set jointly gives away
    elif case == "synthetic_constant":
        assert matched == 0.0
