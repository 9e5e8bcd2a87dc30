"""hvf.metrics against values that the field's own evaluation code gave (see the golden set's README)."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hvf import metrics

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
    scores = metrics.pixel_scores(images["reals"], images["recons"], first=first)
    for name, per_image in scores.items():
        assert per_image.mean() == pytest.approx(expected[route][name], abs=1e-6)
        if f"{name}_per_pair" in expected[route]:
            np.testing.assert_allclose(per_image, expected[route][f"{name}_per_pair"], rtol=0, atol=1e-6)


def test_identical_constant_and_inverted_pictures(golden, expected):
    images = np.load(golden / "edge_images.npz")
    want = expected["edge_images_identical_constant_inverted"]
    reals, recons = images["reals"], images["recons"]
    np.testing.assert_allclose(
        metrics.pixcorr(reals, recons, first=None), _array(want["pixcorr_per_pair"]), rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(metrics.ssim(reals, recons, first=None), want["ssim_per_pair"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", FEATURES)
def test_formulas_on_features(golden, expected, name):
    features = np.load(golden / "features.npz")
    real, recon = features[f"{name}.reals"], features[f"{name}.recons"]
    want = expected["formulas_on_features"][name]
    assert metrics.two_way_counts(real, recon).tolist() == want["success_count_per_column"]
    assert metrics.two_way(real, recon).mean() == pytest.approx(want["two_way"], abs=1e-9)
    distances = _array(want["correlation_distance_per_pair"])
    np.testing.assert_allclose(metrics.correlation_distance(real, recon), distances, rtol=0, atol=1e-5)
