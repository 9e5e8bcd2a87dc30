"""The receptive field: places of the picture that drive the responses count for more."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hvf.alignment.encoding import Encoding
from hvf.alignment.receptive_field import Field, Parts
from hvf.vision.encoder import pooled
from hvf.vision.specs import parse_spec

MAP, WHOLE = "torchvision:squeezenet1_0/w.npz@features.5:grid4", "openclip:mini-vit"
SIDE, CHANNELS, M, NEW = 4, 6, 150, 100


def responses_to(place: tuple[int, int] | None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features (M + NEW, C·K·K) of a grid, and responses of 10 channels to one of its places, or to all."""
    rng = np.random.default_rng(seed)
    map_NCHW = rng.normal(size=(M + NEW, CHANNELS, SIDE, SIDE)).astype(np.float32)
    driving = map_NCHW.reshape(M + NEW, -1) if place is None else map_NCHW[:, :, place[0], place[1]]
    x_NX = driving @ rng.normal(size=(driving.shape[1], 10)) / np.sqrt(driving.shape[1])
    return map_NCHW.reshape(M + NEW, -1), x_NX + 0.5 * rng.normal(size=x_NX.shape)


def fitted(f_NF: np.ndarray, x_NX: np.ndarray, spec: str = MAP) -> Encoding:
    return Encoding.of(x_NX[:M], {spec: torch.from_numpy(f_NF[:M])}, np.arange(M), 10)


def explained(model: Encoding, f_NF: np.ndarray, x_NX: np.ndarray, weights: dict, field: Field | None) -> float:
    """Share of the variance of new responses that is predicted."""
    coefficients_FP, _ = model.solved(weights, field)
    factor = 1 / np.sqrt(f_NF.shape[1])
    predicted = model.mean_X + (f_NF[M:] * factor - model.mean_F) @ coefficients_FP
    return 1 - np.square(x_NX[M:] - predicted).sum() / np.square(x_NX[M:] - model.mean_X).sum()


def test_a_field_weighs_rows_and_columns_as_pooled_maps_hold_them():
    x_1CHW = torch.zeros(1, 3, 16, 16)
    x_1CHW[0, 2, 1, 14] = 1  # above, to the right
    brightest = int(pooled(x_1CHW, parse_spec(MAP))[0].argmax())
    assert brightest // SIDE**2 == 2  # channel
    weight = Field(x=0.9, y=0.1, sd=0.2).of_grid(SIDE)
    assert weight.argmax() == brightest % SIDE**2
    assert weight.mean() == pytest.approx(1)
    np.testing.assert_allclose(Field(0.5, 0.5, 1e4).of_grid(SIDE), 1, rtol=1e-6)
    assert np.isfinite(Field(5.0, 5.0, 0.01).of_grid(SIDE)).all()


def test_parts_are_apart_by_band_and_place_and_vectors_have_none():
    dims = {MAP: 32, WHOLE: 5, MAP.replace("5:grid4", "9:grid2"): 8}
    bands = {spec: "network" if "squeezenet" in spec else "other" for spec in dims}
    parts = Parts.of(dims, bands)
    assert parts.bands == ["network", "other"]
    assert parts.placed
    assert len(parts.band_L) == 16 + 4 + 1
    assert set(np.bincount(parts.part_F)) == {2, 5}
    weights = parts.weights(np.array([2.0, 3.0]), Field(0.1, 0.1, 0.1))[parts.part_F]
    assert weights[32:37] == pytest.approx(3)  # no place: its band's weight
    assert weights[:32].mean() == pytest.approx(2)
    assert weights[37:].mean() == pytest.approx(2)
    assert not Parts.of({WHOLE: 5, "features:a.npy": 16}, {WHOLE: "a", "features:a.npy": "b"}).placed


@pytest.mark.parametrize("place", [(0, 3), (2, 1)])
def test_the_place_that_drives_the_responses_is_found_and_they_are_predicted_better(place):
    f_NF, x_NX = responses_to(place)
    model = fitted(f_NF, x_NX)
    chosen = model.choose()
    assert chosen.field is not None
    assert (int(chosen.field.y * SIDE), int(chosen.field.x * SIDE)) == place
    assert chosen.entry()["field"] == chosen.field.entry()
    alike = fitted(f_NF, x_NX, "features:a.npy")  # the same numbers, without places
    without = alike.choose()
    assert without.field is None
    gained = explained(model, f_NF, x_NX, chosen.weights, chosen.field)
    assert gained > explained(alike, f_NF, x_NX, without.weights, None) + 0.05
    # Where a picture's places are told wrongly, the field helps nobody.
    mixed_NF = np.random.default_rng(1).permuted(f_NF.reshape(len(f_NF), CHANNELS, -1), axis=2).reshape(f_NF.shape)
    mixed = fitted(mixed_NF, x_NX)
    wrong = mixed.choose()
    assert explained(mixed, mixed_NF, x_NX, wrong.weights, wrong.field) < gained - 0.3


def test_where_all_places_drive_the_responses_none_is_favoured():
    f_NF, x_NX = responses_to(None)
    chosen = fitted(f_NF, x_NX).choose()
    assert chosen.field is None or chosen.field.sd >= 0.7
