"""Several runs trained as one batched model against each trained alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hvf import alignment
from hvf.alignment.batched import Material, fit_together, groups, obstacle
from hvf.config import HvfError, with_settings
from hvf.evaluation import retrieval
from tests.alignment.test_fitting import frozen_hvf, settings, toy

QUIET = {"brain__dropout": 0.0, "fusion__dropout": 0.0, "brain__input_noise": 0.0, "align__epochs": 5}


def material(subject: int = 0, seed: int = 0, **changes) -> Material:
    trials, features, concepts = toy(seed=subject)
    return Material(trials, features, settings(align__seed=seed, **changes), concepts)


def alone(m: Material) -> alignment.Alignment:
    return alignment.fit(**vars(m))


def assert_same(ours: alignment.Alignment, theirs: alignment.Alignment, trials) -> None:
    assert [e["best"] for e in ours.history] == [e["best"] for e in theirs.history]
    for name in ("loss", "validation_mrr", "validation_n", "temperature"):
        np.testing.assert_allclose([e[name] for e in ours.history], [e[name] for e in theirs.history], rtol=1e-4)
    np.testing.assert_allclose(ours.embed_brain(trials), theirs.embed_brain(trials), rtol=1e-3, atol=1e-3)
    assert ours.log_scale == pytest.approx(theirs.log_scale, abs=1e-5)
    assert (ours.recording, ours.config) == (theirs.recording, theirs.config)
    for name, statistics in theirs.normalisation.items():
        assert all(torch.equal(a, b) for a, b in zip(statistics, ours.normalisation[name], strict=True))


@pytest.mark.parametrize("encoder", ["mbp", "eegproject", "linear"])
def test_each_run_is_the_one_that_fit_gives_alone(encoder, tmp_path):
    told = [(0, 0), (0, 1), (1, 0), (2, 5)]
    materials = [material(*which, brain__encoder=encoder, **QUIET) for which in told]
    together = fit_together(materials)
    for m, ours in zip(materials, together, strict=True):
        assert_same(ours, alone(m), m.study_train)
        np.testing.assert_allclose(ours.embed_images(m.features), alone(m).embed_images(m.features), atol=1e-3)
    state = torch.get_rng_state()
    fit_together(materials[:2])
    assert torch.equal(state, torch.get_rng_state())
    together[1].save(tmp_path)
    loaded = alignment.Alignment.load(tmp_path)
    np.testing.assert_array_equal(loaded.embed_brain(toy()[0]), together[1].embed_brain(toy()[0]))
    weights = together[1].brain.state_dict().values()
    assert all(w.untyped_storage().nbytes() == w.nbytes for w in weights)  # no view of all runs


def test_clipping_and_the_temperatures_bound_are_each_runs_own():
    loud = replace(toy(seed=1)[0], x_NCT=toy(seed=1)[0].x_NCT)
    changes = QUIET | {"align__clip_norm": 0.05, "align__temperature": 0.0101, "align__learning_rate": 1e-2}
    materials = [material(0, 0, **changes), replace(material(1, 3, **changes), study_train=loud)]
    for m, ours in zip(materials, fit_together(materials), strict=True):
        assert_same(ours, alone(m), m.study_train)


def test_reconstruction_mode_and_several_trials_of_an_image():
    trials, features, concepts = toy(60)
    rows = np.tile(np.arange(60), 2)
    quiet = settings(align__mode="reconstruction", **QUIET)
    hvf = frozen_hvf()
    raw = {spec: x / 30 for spec, x in features.items()}
    told = [with_settings(quiet, {"align.seed": seed}) for seed in (0, 1)]
    materials = [Material(trials.select(rows), raw, config, concepts, hvf, rows) for config in told]
    for m, ours in zip(materials, fit_together(materials), strict=True):
        assert_same(ours, alone(m), m.study_train)


def test_with_dropout_each_run_learns_as_well_and_differently():
    materials = [material(0, seed, align__epochs=12, brain__input_noise=0.3) for seed in (0, 1, 2)]
    test, test_features, _ = toy(seed=7)
    found = []
    for fitted in fit_together(materials):
        ranks = retrieval.ranks(retrieval.similarity(fitted.embed_brain(test), fitted.embed_images(test_features)))
        found.append(retrieval.topk(ranks, 1))
    singly = alone(materials[0])
    ranks = retrieval.ranks(retrieval.similarity(singly.embed_brain(test), singly.embed_images(test_features)))
    assert min(found) > 0.3
    assert np.mean(found) == pytest.approx(retrieval.topk(ranks, 1), abs=0.2)
    twins = fit_together([materials[0], materials[0]])
    assert twins[0].history != twins[1].history  # the same start and order, other dropout


def test_runs_of_other_shapes_and_encoders_are_refused():
    assert fit_together([]) == []
    short = replace(material(), study_train=toy()[0].crop(0.0, 0.035))
    for other in (material(align__epochs=3), material(brain__dropout=0.5), short):
        with pytest.raises(HvfError, match="they differ in more than subject and seed"):
            fit_together([material(), other])
    with pytest.raises(HvfError, match="encoder tsconv has batch normalisation"):
        fit_together([material(brain__encoder="tsconv")] * 2)
    with pytest.raises(HvfError, match="ridge is solved"):
        fit_together([material(brain__encoder="ridge", fusion__kind="concatenated")] * 2)
    assert obstacle(settings()) is None


def test_groups_are_of_one_shape_and_not_too_large():
    materials = [material(0), material(1), material(0, 1, brain__dropout=0.5), material(2)]
    assert groups(materials) == [[0, 1, 3], [2]]
    assert groups(materials, 2) == [[0, 1], [3], [2]]
    assert groups(materials, 1) == [[0], [1], [2], [3]]
