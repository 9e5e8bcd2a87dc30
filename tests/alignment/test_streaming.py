"""Trials that are too large for memory are read batch by batch, with the same result."""

from __future__ import annotations

import numpy as np
import pytest

from hvf import alignment, presets
from hvf.alignment.inputs import standard
from hvf.alignment.training_set import TrainingSet
from hvf.config import with_settings
from hvf.data.trials.lazy import LazyArray
from hvf.data.trials.trials import Trials

SETTINGS = {"targets.specs": ("a",), "brain.width": 8, "fusion.width": 8, "brain.intermediate": 8,
            "fusion.intermediate": 8, "align.batch_size": 16, "align.epochs": 2}  # fmt: skip


@pytest.fixture
def recording(tmp_path) -> Trials:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 3, 5)) * [[1.0], [3.0], [0.1]] + [[0.0], [50.0], [1.0]]
    ids = [f"im{i % 60:02d}" for i in range(120)]
    Trials(x, ids, "sub-01", 100.0, 0.0, "abc", "eeg").save(tmp_path / "x.npy", np.float16)
    return Trials.load(tmp_path / "x.npy").average()


def test_batches_from_disk_train_the_same(recording, monkeypatch):
    features = {"a": np.random.default_rng(1).standard_normal((60, 7)).astype(np.float32)}
    concepts = [f"c{i // 3}" for i in range(60)]
    config = with_settings(presets.mini(), SETTINGS)
    kept = alignment.fit(TrainingSet(recording, features, concepts), config)

    monkeypatch.setattr("hvf.alignment.fitting.RESIDENT_BYTES", 0)
    monkeypatch.setattr("hvf.data.trials.lazy.BLOCK_BYTES", 600)
    monkeypatch.setattr("hvf.data.trials.trials.BLOCK_BYTES", 600)
    largest = 0
    original = LazyArray._read

    def watched(view: LazyArray) -> np.ndarray:
        nonlocal largest
        largest = max(largest, len(view.rows_P))
        return original(view)

    monkeypatch.setattr(LazyArray, "_read", watched)
    streamed = alignment.fit(TrainingSet(recording, features, concepts), config)
    assert 0 < largest <= 20  # rows at a time, of 120
    for a, b in zip(kept.normalisation["x"], streamed.normalisation["x"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert kept.history[-1]["loss"] == pytest.approx(streamed.history[-1]["loss"], rel=1e-4)
    np.testing.assert_allclose(kept.embed_brain(recording), streamed.embed_brain(recording, batch=7), atol=1e-3)


def test_statistics_read_in_parts_are_those_of_the_whole(recording, monkeypatch):
    monkeypatch.setattr("hvf.data.trials.trials.BLOCK_BYTES", 300)
    x = recording.load_array().astype(np.float64)
    mean, sd = standard(recording, "cpu")
    np.testing.assert_allclose(mean[0, :, 0], x.mean((0, 2)), rtol=1e-6)
    np.testing.assert_allclose(sd[0, :, 0], x.std((0, 2)), rtol=1e-6)
