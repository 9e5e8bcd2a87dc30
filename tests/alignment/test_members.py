"""Several members as one: their cosines summed, weights by validation images, the file that holds them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hvf import alignment, presets
from hvf.alignment import Alignment
from hvf.alignment.fitting import fit as fit_one
from hvf.alignment.members import ALONE, ENCODING, kinds_of, weigh
from hvf.alignment.training_set import TrainingSet
from hvf.config import Config, HvfError, with_settings
from hvf.data.trials.trials import Trials
from hvf.evaluation import retrieval
from hvf.models.together import side_by_side

SPECS = ("features:a.npy", "features:b.npy")
M, TEST = 160, 40


def settings(**changed) -> Config:
    told = {"targets.specs": SPECS, "align.epochs": 4, "align.batch_size": 64, "brain.width": 32, "fusion.width": 32}
    return with_settings(presets.mini(), told | {name.replace("__", "."): x for name, x in changed.items()})


@pytest.fixture(scope="module")
def neurons():
    """Eight channels that answer linearly to features of images."""
    rng = np.random.default_rng(0)
    features = {spec: rng.normal(size=(M, 12)).astype(np.float32) for spec in SPECS}
    x_MC = np.concatenate(list(features.values()), 1) @ rng.normal(size=(24, 8)) / 5 + 0.3 * rng.normal(size=(M, 8))
    ids = [f"image-{i:03d}" for i in range(M)]
    names = tuple(f"n{i}" for i in range(8))
    trials = Trials(x_MC[:, :, None].astype(np.float32), ids, "simulated neurons", 1.0, 0.0, names, "misc")
    learnt = {spec: x[:-TEST] for spec, x in features.items()}
    train = TrainingSet(trials.select(np.arange(M - TEST)), learnt, ids[:-TEST])
    return train, trials.select(np.arange(M - TEST, M)), {spec: x[-TEST:] for spec, x in features.items()}


def scores(fitted: Alignment, trials, features) -> np.ndarray:
    return retrieval.similarity(fitted.embed_brain(trials), fitted.embed_images(features))


def test_one_member_is_what_it_was_alone(neurons):
    train, test, features = neurons
    np.testing.assert_array_equal(
        scores(alignment.fit(train, settings()), test, features), scores(fit_one(train, settings()), test, features)
    )


@pytest.mark.parametrize("part", [{"members__trainings": 3}, {"members__encoding": True, "members__encoders": True}])
def test_scores_are_the_members_weighted_cosines(neurons, part, tmp_path):
    train, test, features = neurons
    config = settings(**part)
    fitted = alignment.fit(train, config)
    total, shares = np.zeros((TEST, TEST)), fitted.best["members"]
    for kind, members in kinds_of(config).items():
        for one, seed in members if kind in shares else ():
            alone = fit_one(train, one, seed=seed, validation_apart=True)
            total += shares[kind][1] / shares[kind][0] * scores(alone, test, features)
    assert sum(share for _, share in shares.values()) == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(scores(fitted, test, features), total, atol=2e-3)
    assert len(fitted.members) == sum(number for number, _ in shares.values())
    fitted.save(tmp_path)
    again = Alignment.load(tmp_path)
    np.testing.assert_array_equal(again.embed_brain(test), fitted.embed_brain(test))
    np.testing.assert_array_equal(again.embed_images(features), fitted.embed_images(features))
    assert (again.members, again.config, again.best) == (fitted.members, config, fitted.best)
    assert fitted.brain.width == fitted.embed_images(features).shape[1]
    with pytest.raises(HvfError, match="several members together"):
        alignment.on_person(fitted, test)


def test_members_know_nothing_of_validation_images(neurons):
    """What is solved at once is left as fitted without them; alone it takes them, too."""
    train, test, features = neurons
    config = with_settings(settings(), ENCODING)
    apart, whole = (fit_one(train, config, validation_apart=apart) for apart in (True, False))
    assert apart.best == whole.best
    assert np.abs(apart.embed_images(features) - whole.embed_images(features)).max() > 0


def test_kinds_and_seeds():
    kinds = kinds_of(settings(members__trainings=2, members__encoders=True, members__encoding=True))
    assert {kind: [seed for _, seed in members] for kind, members in kinds.items()} == {
        "mbp": [0, 1000],
        SPECS[0]: [0, 1000],
        SPECS[1]: [0, 1000],
        "encoding": [0],
    }
    assert kinds[SPECS[1]][0][0].targets.specs == (SPECS[1],)
    assert all(with_settings(one, ALONE) == one for members in kinds.values() for one, _ in members)
    ridge = settings(brain__encoder="ridge", fusion__kind="concatenated", members__trainings=3)
    assert [len(members) for members in kinds_of(ridge).values()] == [1]


def test_weights_are_those_of_least_cross_entropy():
    rng = np.random.default_rng(1)
    target_N = np.arange(60)
    told = np.eye(60) * 0.3 + 0.1 * rng.normal(size=(60, 60))
    noise = 0.1 * rng.normal(size=(60, 60))
    scale_K = weigh(np.array([told, noise]), target_N)
    assert scale_K[0] > 5 * scale_K[1] > 0

    def loss(scale_K):
        logits_NM = np.tensordot(scale_K, [told, noise], 1)
        return float(torch.nn.functional.cross_entropy(torch.from_numpy(logits_NM), torch.from_numpy(target_N)))

    for other in (scale_K * 1.2, scale_K / 1.2, scale_K + [0, 3]):
        assert loss(other) > loss(scale_K)
    assert weigh(np.array([-told]), target_N) == pytest.approx([10.0])  # worse than guessing: nothing to weigh by


def test_side_by_side_is_the_weighted_mean_of_cosines():
    generator = torch.Generator().manual_seed(0)
    a, b = ([torch.randn(5, d, generator=generator) for d in (3, 7)] for _ in range(2))
    weight_K = torch.tensor([0.3, 0.7])
    cosine = retrieval.similarity(side_by_side(a, weight_K), side_by_side(b, weight_K))
    expected = sum(w * retrieval.similarity(x, y) for w, x, y in zip((0.3, 0.7), a, b, strict=True))
    np.testing.assert_allclose(cosine, expected, atol=1e-6)


def test_members_that_cannot_answer_together_are_refused(neurons):
    train, _, _ = neurons
    with pytest.raises(HvfError, match="members take people alike"):
        alignment.fit(train, settings(members__trainings=2, brain__people="standardised"))
    with pytest.raises(HvfError, match="align.refit trains on the validation images"):
        alignment.fit(train, settings(members__trainings=2, align__refit=True))
    with pytest.raises(HvfError, match="members.encoding are for retrieval"):
        settings(members__encoding=True, align__mode="reconstruction")
