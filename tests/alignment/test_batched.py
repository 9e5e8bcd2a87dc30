"""Several runs trained as one batched model against each trained alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hvf import alignment
from hvf.alignment.batched import Run, fit_together, groups, why_not_batched
from hvf.alignment.training_set import TrainingSet
from hvf.config import HvfError, with_settings
from hvf.evaluation import retrieval
from hvf.models import posterior_mean
from tests.alignment.test_fitting import frozen_hvf, settings, toy

QUIET = {"brain__dropout": 0.0, "fusion__dropout": 0.0, "brain__input_noise": 0.0, "align__epochs": 5}


def a_run(subject: int = 0, seed: int = 0, **changes) -> Run:
    trials, features, concepts = toy(seed=subject)
    return TrainingSet(trials, features, concepts), settings(align__seed=seed, **changes)


def alone(run: Run) -> alignment.Alignment:
    return alignment.fit(*run)


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
    runs = [a_run(*which, brain__encoder=encoder, **QUIET) for which in told]
    together = fit_together(runs)
    for run, ours in zip(runs, together, strict=True):
        data, theirs = run[0], alone(run)
        assert_same(ours, theirs, data.trials)
        np.testing.assert_allclose(ours.embed_images(data.features), theirs.embed_images(data.features), atol=1e-3)
    state = torch.get_rng_state()
    fit_together(runs[:2])
    assert torch.equal(state, torch.get_rng_state())
    together[1].save(tmp_path)
    loaded = alignment.Alignment.load(tmp_path)
    np.testing.assert_array_equal(loaded.embed_brain(toy()[0]), together[1].embed_brain(toy()[0]))
    weights = together[1].brain.state_dict().values()
    assert all(w.untyped_storage().nbytes() == w.nbytes for w in weights)  # no view of all runs


def test_clipping_and_the_temperatures_bound_are_each_runs_own():
    loud = toy(seed=1)[0].replace(x_NCT=toy(seed=1)[0].load_array())
    changes = QUIET | {"align__clip_norm": 0.05, "align__temperature": 0.0101, "align__learning_rate": 1e-2}
    data, config = a_run(1, 3, **changes)
    runs = [a_run(0, 0, **changes), (replace(data, trials=loud), config)]
    for run, ours in zip(runs, fit_together(runs), strict=True):
        assert_same(ours, alone(run), run[0].trials)


def test_reconstruction_mode_and_several_trials_of_an_image():
    trials, features, concepts = toy(60)
    rows = np.tile(np.arange(60), 2)
    quiet = settings(align__mode="reconstruction", **QUIET)
    hvf = frozen_hvf()
    raw = {spec: x / 30 for spec, x in features.items()}
    told = [with_settings(quiet, {"align.seed": seed}) for seed in (0, 1)]
    data = TrainingSet(trials.select(rows), raw, concepts, rows, hvf)
    runs = [(data, config) for config in told]
    for run, ours in zip(runs, fit_together(runs), strict=True):
        assert_same(ours, alone(run), run[0].trials)


def test_the_posterior_mean_is_learnt_by_each_run_alone(monkeypatch):
    monkeypatch.setattr(posterior_mean, "DROPOUT", 0.0)
    runs = []
    for subject in (0, 1):
        trials, features, concepts = toy(seed=subject)
        raw = {spec: x / (30 + 60 * subject) for spec, x in features.items()}
        quiet = settings(align__mode="reconstruction", align__mean_weight=2.0, **QUIET)
        runs.append((TrainingSet(trials, raw, concepts, prior_fusion=frozen_hvf()), quiet))
    for run, ours in zip(runs, fit_together(runs), strict=True):
        theirs = alone(run)
        assert_same(ours, theirs, run[0].trials)
        for name, tensor in theirs.learnt_mean.state_dict().items():
            np.testing.assert_allclose(ours.learnt_mean.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_with_dropout_each_run_learns_as_well_and_differently():
    runs = [a_run(0, seed, align__epochs=12, brain__input_noise=0.3) for seed in (0, 1, 2)]
    test, test_features, _ = toy(seed=7)
    found = []
    for fitted in fit_together(runs):
        ranks = retrieval.ranks(retrieval.similarity(fitted.embed_brain(test), fitted.embed_images(test_features)))
        found.append(retrieval.topk(ranks, 1))
    singly = alone(runs[0])
    ranks = retrieval.ranks(retrieval.similarity(singly.embed_brain(test), singly.embed_images(test_features)))
    assert min(found) > 0.3
    assert np.mean(found) == pytest.approx(retrieval.topk(ranks, 1), abs=0.2)
    twins = fit_together([runs[0], runs[0]])
    assert twins[0].history != twins[1].history  # the same start and order, other dropout


def test_runs_of_other_shapes_and_encoders_are_refused():
    assert fit_together([]) == []
    data, config = a_run()
    short = replace(data, trials=toy()[0].crop(0.0, 0.035)), config
    for other in (a_run(align__epochs=3), a_run(brain__dropout=0.5), short):
        with pytest.raises(HvfError, match="they differ in more than subject and seed"):
            fit_together([a_run(), other])
    with pytest.raises(HvfError, match="encoder tsconv has batch normalisation"):
        fit_together([a_run(brain__encoder="tsconv")] * 2)
    with pytest.raises(HvfError, match="ridge is solved"):
        fit_together([a_run(brain__encoder="ridge", fusion__kind="concatenated")] * 2)
    assert why_not_batched(settings()) is None


def test_groups_are_of_one_shape_and_not_too_large():
    runs = [a_run(0), a_run(1), a_run(0, 1, brain__dropout=0.5), a_run(2)]
    assert groups(runs) == [[0, 1, 3], [2]]
    assert groups(runs, 2) == [[0, 1], [3], [2]]
    assert groups(runs, 1) == [[0], [1], [2], [3]]
