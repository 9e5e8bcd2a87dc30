"""A decoder of several people is moved to a new one: what is recovered, what may not be looked at, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from hvf import alignment, presets
from hvf.alignment import Alignment, TrainingSet, adapting
from hvf.config import Config, HvfError, with_settings
from hvf.data.trials.trials import Trials
from hvf.evaluation import retrieval

N, C, T, D = 240, 4, 3, 12
NAMES = [f"concept{i // 2:03d}_{i}" for i in range(N)]
CONCEPTS = [name.split("_")[0] for name in NAMES]
RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((N, D)).astype(np.float32)
FIELD = RNG.standard_normal((D, C * T))
MIXING = np.linalg.qr(np.random.default_rng(5).standard_normal((C, C)))[0]  # of the new person's channels


def config(**settings: object) -> Config:
    small = {
        "targets.specs": ("vae:mini",),
        "brain.encoder": "linear",
        "brain.width": D,
        "fusion.width": D,
        "fusion.kind": "linear",
        "brain.input_noise": 0.0,
        "align.batch_size": 64,
        "align.epochs": 15,
        "align.learning_rate": 3e-3,
        "align.weight_decay": 0.0,
        "adapt.batch_size": 64,
        "adapt.epochs": 50,
        "adapt.learning_rate": 4e-3,
    }
    return with_settings(presets.mini(), small | {name.replace("__", "."): value for name, value in settings.items()})


def trials(mixing: np.ndarray, seed: int, noise: float = 0.3) -> Trials:
    x_NCT = (FEATURES @ FIELD).reshape(N, C, T)
    x_NCT = x_NCT / x_NCT.std(axis=(0, 2), keepdims=True)  # as standardising would
    x_NCT = mixing @ x_NCT + noise * np.random.default_rng(seed).standard_normal((N, C, T))
    return Trials(x_NCT, NAMES, f"sub-{seed:02d}", 100.0, 0.0, ["O1", "Oz", "O2", "Pz"], "eeg")


def training_set(responses: Trials, images: slice = slice(None), **fields: object) -> TrainingSet:
    return TrainingSet(responses.select(images), {"vae:mini": FEATURES[images]}, CONCEPTS[images], **fields)


def people(*mixings: np.ndarray) -> TrainingSet:
    """Responses of several people to the same images."""
    whole = Trials.concatenate([trials(mixing, seed) for seed, mixing in enumerate(mixings)])
    rows = np.tile(np.arange(N), len(mixings))
    return TrainingSet(whole, {"vae:mini": FEATURES}, CONCEPTS, rows, person_N=np.repeat(np.arange(len(mixings)), N))


@pytest.fixture(scope="module")
def trained() -> Alignment:
    return alignment.fit(people(np.eye(C), np.eye(C)), config())


NEW, REST = slice(0, 160), slice(160, N)  # what a new person is learnt from, and tested on


def top1(one: Alignment, responses: Trials) -> float:
    z_b_ND = one.embed_brain(responses.select(REST))
    return retrieval.topk(
        retrieval.ranks(retrieval.similarity(z_b_ND, one.embed_images({"vae:mini": FEATURES[REST]}))), 1
    )


def test_an_input_layer_recovers_a_mixing_of_channels(trained):
    new = trials(MIXING, seed=9)
    before = top1(alignment.on_person(trained, new), new)
    adapted = alignment.adapt(trained, training_set(new, NEW), config(adapt__method="input", adapt__learning_rate=1e-2))
    layer = adapted.brain
    undone_CC = (layer.start_CC + layer.change_CC).detach().numpy() @ MIXING
    undone_CC /= np.trace(undone_CC) / C  # the cosine does not see a scale
    assert np.linalg.norm(undone_CC - np.eye(C)) < 0.25 * np.linalg.norm(MIXING - np.eye(C))
    assert before < 0.1
    assert top1(adapted, new) > 0.8
    for name, weight in layer.encoder.state_dict().items():  # the encoder is as it was
        assert np.array_equal(weight.numpy(), trained.brain.state_dict()[name].numpy()), name
    assert adapted.history[0]["epoch"] == 0
    assert adapted.best["method"] == "input"


def test_the_best_method_on_validation_concepts_is_chosen(trained):
    data = training_set(trials(MIXING, seed=9), slice(0, 60))
    each = {m: alignment.adapt(trained, data, config(adapt__method=m)) for m in ("none", "input", "all")}
    best = max(each, key=lambda m: (each[m].best["validation_mrr"], -each[m].best["validation_loss"]))
    chosen = alignment.adapt(trained, data, config())
    assert chosen.best["method"] == best != "none"
    assert chosen.best == each[best].best
    same = trials(np.eye(C), seed=0)  # a person who was trained on gains nothing by noise of a few images
    assert top1(alignment.adapt(trained, training_set(same, slice(0, 20)), config()), same) > 0.9


def test_permuted_images_teach_nothing(trained):
    new, found = trials(MIXING, seed=9), []
    for seed in range(3):
        permuted = training_set(new, NEW).permuted(seed)
        found.append(top1(alignment.adapt(trained, permuted, config(adapt__method="all", adapt__epochs=20)), new))
    n = 3 * (N - 160)
    assert scipy.stats.binomtest(round(n * np.mean(found)), n, 1 / (N - 160), alternative="greater").pvalue > 1e-3


def test_the_same_seed_gives_the_same_numbers_and_images_left_out_do_not_matter(trained):
    new = trials(MIXING, seed=9)
    few = config(adapt__epochs=3)
    one = alignment.adapt(trained, training_set(new, NEW), few)
    x_NCT = new.load_array().copy()
    x_NCT[REST] = 1e3
    features = {"vae:mini": np.where(np.arange(N)[:, None] < 160, FEATURES, 0)[NEW]}
    other = alignment.adapt(trained, TrainingSet(new.replace(x_NCT=x_NCT).select(NEW), features, CONCEPTS[NEW]), few)
    assert np.array_equal(one.embed_brain(new), other.embed_brain(new))
    assert one.history == other.history
    another = alignment.adapt(trained, training_set(new, NEW), with_settings(few, {"align.seed": 1}))
    assert not np.array_equal(one.embed_brain(new), another.embed_brain(new))


def test_test_trials_are_refused(trained):
    new = trials(MIXING, seed=9)
    marked = new.replace(splits=["train"] * (N - 1) + ["test"])
    with pytest.raises(HvfError, match="1 of the trials to be trained on are test trials"):
        alignment.adapt(trained, training_set(marked), config())


@pytest.mark.parametrize("kind", ["euclidean", "standardised"])
def test_people_made_alike_are_decoded_without_any_image(kind):
    """Each person's channels have other gains: in common is what standardising, or whitening, leaves."""
    gains = [np.diag(np.exp(np.random.default_rng(s).normal(0, 1.5, C))) for s in range(3)]
    data, new = people(*gains[:2]), trials(gains[2], seed=9, noise=0.0)
    new = new.replace(x_NCT=new.load_array() + 40.0)
    trained = alignment.fit(data, config(brain__people=kind))
    with pytest.raises(HvfError, match="hvf adapt"):
        trained.embed_brain(new)
    moved = alignment.on_person(trained, new)
    alike = alignment.fit(data, config())
    assert top1(moved, new) > top1(alignment.on_person(alike, new), new) + 0.2
    again = alignment.on_person(moved, trials(gains[0], seed=0))  # to another person, from the moved one
    assert top1(again, trials(gains[0], seed=0)) > 0.5


def test_an_adapted_decoder_comes_back_from_disk(trained, tmp_path):
    new = trials(MIXING, seed=9)
    adapted = alignment.adapt(trained, training_set(new, NEW), config(adapt__method="input", adapt__epochs=3))
    adapted.save(tmp_path)
    assert np.array_equal(Alignment.load(tmp_path).embed_brain(new), adapted.embed_brain(new))
    several = alignment.fit(people(np.eye(C), MIXING), config(brain__people="euclidean", align__epochs=1))
    several.save(tmp_path)
    assert Alignment.load(tmp_path).needs_person
    one = alignment.fit(training_set(new), config(brain__people="euclidean", align__epochs=1))
    assert not one.needs_person
    one.save(tmp_path)
    assert np.array_equal(Alignment.load(tmp_path).embed_brain(new), one.embed_brain(new))


def test_shares_of_images_are_whole_concepts_and_grow():
    from hvf.data.images.image_set import ImageSet

    images = ImageSet.from_arrays(np.zeros((N, 2, 2, 3), np.uint8), NAMES, CONCEPTS)
    small, large = (set(adapting.share_of(images, share, 3).ids) for share in (0.1, 0.5))
    assert len(small) == 24
    assert len(large) == 120
    assert small < large
    assert all(f"concept{int(name[7:10]):03d}_{2 * int(name[7:10])}" in small for name in small)
    assert adapting.share_of(images, 1.0, 3).ids == images.ids
    with pytest.raises(HvfError, match="at most 1"):
        adapting.share_of(images, 1.5, 3)


def test_what_cannot_be_learnt_from_is_refused(trained):
    new = trials(MIXING, seed=9)
    with pytest.raises(HvfError, match="2 concepts: two are needed to validate on"):
        alignment.adapt(trained, training_set(new, slice(0, 4)), config())
    with pytest.raises(HvfError, match="other channels"):
        alignment.adapt(trained, training_set(new.pick(["Oz", "O1", "O2", "Pz"])), config())
    x_NCT = new.load_array().copy()
    x_NCT[0, 0, 0] = np.nan
    with pytest.raises(HvfError, match="NaN"):
        alignment.on_person(trained, new.replace(x_NCT=x_NCT))
    ridge = config(brain__encoder="ridge", fusion__kind="concatenated", adapt__method="all")
    with pytest.raises(HvfError, match="ridge was solved at once"):
        adapting.methods(ridge)
    assert adapting.methods(with_settings(ridge, {"adapt.method": "chosen"})) == ("none",)


def test_the_person_of_each_trial_is_checked_and_kept():
    data = people(np.eye(C), MIXING)
    assert data.select(np.array([1, N + 1])).person_N.tolist() == [0, 1]
    with pytest.raises(HvfError, match="person_N must give the person"):
        replace(data, person_N=np.zeros(3, int))
