"""The loss against the formula, learning on a toy brain, what selection may see, determinism, and checkpoints."""

from __future__ import annotations

import inspect
import json
import math
import re
from dataclasses import fields

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hvf import alignment
from hvf.alignment import Alignment, info_nce, training
from hvf.alignment.checkpoint import VERSION
from hvf.alignment.training_set import TrainingSet
from hvf.config import Config, HvfError, with_settings
from hvf.data.trials.splitting import concept_split
from hvf.data.trials.trials import Trials
from hvf.evaluation import retrieval
from hvf.models.fusions.hvf import HVF

SPECS = ("openclip:a", "vae:b")
C, T = 6, 5


def toy(n: int = 120, noise: float = 0.5, seed: int = 0) -> tuple[Trials, dict[str, np.ndarray], list[str]]:
    """Trials that carry both encoders' features linearly, at very different scales."""
    rng = np.random.default_rng(seed)
    features = {SPECS[0]: rng.normal(size=(n, 8)), SPECS[1]: 50 + 30 * rng.normal(size=(n, 10))}
    mixing = np.random.default_rng(99).normal(size=(18, C * T))
    both = np.hstack([features[SPECS[0]], (features[SPECS[1]] - 50) / 30])
    x_NCT = (both @ mixing + noise * rng.normal(size=(n, C * T))).reshape(n, C, T) * 1e-6
    ids = [f"image-{i:03d}" for i in range(n)]
    trials = Trials(x_NCT, ids, "toy", 100.0, 0.0, tuple("abcdef"), "eeg", simulated=True)
    return trials, {k: v.astype(np.float32) for k, v in features.items()}, [f"concept-{i // 2}" for i in range(n)]


def settings(**changes) -> Config:
    small = {"targets.specs": SPECS, "align.epochs": 12, "align.batch_size": 32, "align.learning_rate": 3e-3}
    for room in ("brain", "fusion"):
        small |= {f"{room}.width": 24, f"{room}.intermediate": 16}
    return with_settings(Config(), small | {k.replace("__", "."): v for k, v in changes.items()})


@pytest.fixture(scope="module")
def fitted() -> Alignment:
    trials, features, concepts = toy()
    return alignment.fit(TrainingSet(trials, features, concepts, fingerprint="the-training-images"), settings())


def frozen_hvf() -> HVF:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return HVF({SPECS[0]: 8, SPECS[1]: 10}, width=24, intermediate=16, dropout=0.5).train()


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_info_nce_is_the_formula():
    rng = np.random.default_rng(0)
    b, f, scale = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), math.exp(1.3)
    cosine = [[b[i] @ f[j] / np.linalg.norm(b[i]) / np.linalg.norm(f[j]) for j in range(5)] for i in range(5)]
    rows = [-math.log(math.exp(scale * cosine[i][i]) / sum(math.exp(scale * c) for c in cosine[i])) for i in range(5)]
    columns = [
        -math.log(math.exp(scale * cosine[i][i]) / sum(math.exp(scale * cosine[j][i]) for j in range(5)))
        for i in range(5)
    ]
    expected = (sum(rows) / 5 + sum(columns) / 5) / 2
    assert float(info_nce(torch.from_numpy(b), torch.from_numpy(f), 1.3)) == pytest.approx(expected, abs=1e-6)


def test_trials_of_one_image_are_not_contrasted():
    z_b, z_f = torch.randn(4, 3), torch.randn(4, 3)
    z_f[1] = z_f[0]
    image_N = torch.tensor([7, 7, 2, 3])
    logits = 2 * torch.nn.functional.normalize(z_b, dim=1) @ torch.nn.functional.normalize(z_f, dim=1).T
    logits[0, 1] = logits[1, 0] = -torch.inf
    expected = -(logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()).mean() / 2
    torch.testing.assert_close(info_nce(z_b, z_f, math.log(2), image_N), expected)


# --- training ---------------------------------------------------------------------------------------------------------


def test_it_learns_and_generalises(fitted):
    trials, features, _ = toy(seed=1)  # other images, the same brain
    ranks_N = retrieval.ranks(retrieval.similarity(fitted.embed_brain(trials), fitted.embed_images(features)))
    assert retrieval.topk(ranks_N, 1) > 0.3  # of 120
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]
    permuted = trials.permuted(0)
    assert permuted.load_array() is trials.load_array()  # only the labels move


def test_permuted_trials_teach_nothing():
    trials, features, concepts = toy()
    shuffled = trials.replace(x_NCT=trials.load_array()[np.random.default_rng(0).permutation(len(trials))])
    fitted = alignment.fit(TrainingSet(shuffled, features, concepts), settings())
    test, test_features, _ = toy(seed=1)
    ranks_N = retrieval.ranks(retrieval.similarity(fitted.embed_brain(test), fitted.embed_images(test_features)))
    assert retrieval.topk(ranks_N, 5) <= retrieval.chance(5, 120, 120)["ci95"][1] + 0.03


def test_reconstruction_mode_trains_the_brain_alone_against_a_quiet_hvf():
    trials, features, concepts = toy()
    hvf = frozen_hvf()
    before = {k: v.clone() for k, v in hvf.state_dict().items()}
    raw = {spec: x / 30 for spec, x in features.items()}
    fitted = alignment.fit(TrainingSet(trials, raw, concepts, prior_fusion=hvf), settings(align__mode="reconstruction"))
    assert all(torch.equal(before[k], v) for k, v in hvf.state_dict().items())
    assert not hvf.training
    assert set(fitted.normalisation) == {"x"}  # the prior's HVF sees features as they are
    expected = hvf({spec: torch.from_numpy(x) for spec, x in raw.items()}).detach().numpy()
    np.testing.assert_array_equal(fitted.embed_images(raw), expected)
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]
    assert all(p.grad is None for p in hvf.parameters())


def test_standardisation_comes_from_training_rows_only(fitted):
    trials, features, concepts = toy()
    _, val_N = concept_split(concepts, 0.1, 0, at_least=2)
    loud = trials.load_array().copy()
    loud[val_N] *= 1000
    louder = alignment.fit(TrainingSet(trials.replace(x_NCT=loud), features, concepts), settings(align__epochs=1))
    for mine, theirs in zip(fitted.normalisation["x"], louder.normalisation["x"], strict=True):
        assert torch.equal(mine, theirs)
    train_N = np.setdiff1d(np.arange(len(trials)), val_N)
    mean, sd = fitted.normalisation["x"]
    assert mean.shape == (1, C, 1)
    np.testing.assert_allclose(mean[0, :, 0], trials.load_array()[train_N].mean(axis=(0, 2)), rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(sd[0, :, 0], trials.load_array()[train_N].std(axis=(0, 2)), rtol=1e-3)


def test_validation_rows_are_never_trained_on():
    """Whatever the validation rows hold, the weights after a fixed epoch are the same."""
    trials, features, concepts = toy()
    _, val_N = concept_split(concepts, 0.1, 0, at_least=2)
    other = trials.load_array().copy()
    other[val_N] = other[val_N][::-1]
    one = settings(align__epochs=1)
    first, second = (
        alignment.fit(TrainingSet(t, features, concepts), one) for t in (trials, trials.replace(x_NCT=other))
    )
    for a, b in zip(first.brain.parameters(), second.brain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_best_epoch_on_validation_is_the_one_returned(fitted):
    best = max(fitted.history, key=lambda entry: (entry["validation_mrr"], -entry["validation_loss"]))
    assert fitted.best["epoch"] == best["epoch"]
    assert sum(entry["best"] for entry in fitted.history) == 1
    trials, features, concepts = toy()
    _, val_N = concept_split(concepts, 0.1, 0, at_least=2)
    z_f = fitted.embed_images({spec: x[val_N] for spec, x in features.items()})
    ranks_N = retrieval.ranks(retrieval.similarity(fitted.embed_brain(trials.select(val_N)), z_f))
    assert retrieval.mean_reciprocal_rank(ranks_N) == pytest.approx(best["validation_mrr"], abs=1e-6)
    assert best["validation_n"] == len(val_N)


def test_fit_has_no_place_for_test_data():
    names = set(inspect.signature(alignment.fit).parameters)
    assert names == {"training_set", "config", "device"}
    given = {field.name for field in fields(TrainingSet)}
    assert given == {"trials", "features", "concepts", "image_N", "person_N", "people", "prior_fusion", "fingerprint"}


def test_the_same_seed_gives_the_same_numbers(fitted):
    trials, features, concepts = toy()
    torch.rand(3)  # whatever was drawn before
    state = torch.random.get_rng_state()
    again = alignment.fit(TrainingSet(trials, features, concepts), settings())
    assert torch.equal(state, torch.random.get_rng_state())
    assert again.history == fitted.history
    np.testing.assert_array_equal(again.embed_brain(trials), fitted.embed_brain(trials))
    other = alignment.fit(TrainingSet(trials, features, concepts), settings(align__seed=1))
    assert other.history != fitted.history


def test_every_row_is_seen_once_an_epoch_in_a_new_order(monkeypatch):
    seen: list[list[int]] = []
    monkeypatch.setattr(
        training.Training, "step", lambda self, rows: (seen.append(rows.tolist()), torch.tensor(0.0))[1]
    )
    trials, features, concepts = toy()
    alignment.fit(TrainingSet(trials, features, concepts), settings(align__epochs=2))
    train_N, _ = concept_split(concepts, 0.1, 0, at_least=2)
    half = len(seen) // 2
    epochs = [sum(seen[:half], []), sum(seen[half:], [])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == train_N.tolist()
    assert epochs[0] != epochs[1]
    assert max(map(len, seen)) <= 32
    assert max(map(len, seen)) - min(map(len, seen)) <= 1


def test_gradients_are_really_clipped():
    trials, features, concepts = toy()
    still = alignment.fit(TrainingSet(trials, features, concepts), settings(align__clip_norm=1e-12, align__epochs=2))
    moved = alignment.fit(TrainingSet(trials, features, concepts), settings(align__epochs=2))
    # Adam undoes a constant scale, but a gradient far below its epsilon (1e-8) moves nothing.
    assert abs(still.log_scale - math.log(1 / 0.07)) < 1e-4 < abs(moved.log_scale - math.log(1 / 0.07))


def test_the_temperature_is_learnt_from_007_and_clamped():
    trials, features, concepts = toy()
    one = alignment.fit(TrainingSet(trials, features, concepts), settings(align__learning_rate=1e-9, align__epochs=1))
    assert one.log_scale == pytest.approx(2.6592, abs=1e-3)
    cold = alignment.fit(TrainingSet(trials, features, concepts), settings(align__temperature=0.001, align__epochs=2))
    assert cold.log_scale <= math.log(100) + 1e-6
    assert all(entry["temperature"] >= 0.01 - 1e-6 for entry in cold.history)


def test_several_trials_of_an_image_train_and_validate():
    trials, features, concepts = toy(60)
    rows = np.tile(np.arange(60), 2)
    fitted = alignment.fit(TrainingSet(trials.select(rows), features, concepts, rows), settings(align__epochs=6))
    # Were both copies in the gallery, each would tie with the other and no first place could be had.
    assert fitted.best["validation_top1"] > 0.2
    assert fitted.best["validation_n"] == 2 * 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t, f, c: (t, {SPECS[0]: f[SPECS[0]]}, c), "no features of vae:b"),
        (lambda t, f, c: (t, {s: x[:-1] for s, x in f.items()}, c), "concepts of 120 images but features of 119"),
        (lambda t, f, c: (t, f, c[:-1]), "120 trials but 119 concepts"),
        (lambda t, f, c: (t, f | {SPECS[1]: f[SPECS[1]] * np.nan}, c), "features by vae:b hold NaN"),
        (lambda t, f, c: (t.replace(x_NCT=t.load_array() * np.nan), f, c), "channels a, b, c"),
        (lambda t, f, c: (t, f, ["one"] * 120), "concepts aside"),
    ],
)
def test_training_material_that_is_refused(change, said):
    trials, features, concepts = change(*toy())
    with pytest.raises(HvfError, match=said):
        alignment.fit(TrainingSet(trials, features, concepts), settings())


@pytest.mark.parametrize(
    ("image_N", "said"),
    [
        (np.arange(119), "the image of each of 120 trials"),
        (np.arange(120) / 2, "a whole number"),
        (np.arange(120) + 1, "names image 120"),
        (np.arange(120) - 1, "but there are 120 images"),
    ],
)
def test_images_that_the_trials_do_not_answer_are_refused(image_N, said):
    trials, features, concepts = toy()
    with pytest.raises(HvfError, match=said):
        alignment.fit(TrainingSet(trials, features, concepts, image_N), settings())


def test_trials_in_any_order_find_their_images():
    """What is learnt hangs on which image a trial answers, not on where that image stands; unseen ones stay unseen."""
    trials, features, concepts = toy()
    order = np.random.default_rng(3).permutation(120)
    fitted = alignment.fit(TrainingSet(trials.select(order[:100]), features, concepts, order[:100]), settings())
    by_row = {spec: x[order[:100]] for spec, x in features.items()}
    same = alignment.fit(
        TrainingSet(trials.select(order[:100]), by_row, np.asarray(concepts)[order[:100]].tolist()), settings()
    )
    for name, statistics in same.normalisation.items():
        for a, b in zip(statistics, fitted.normalisation[name], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert fitted.best["validation_mrr"] == pytest.approx(same.best["validation_mrr"], abs=0.05)
    assert fitted.history[-1]["loss"] == pytest.approx(same.history[-1]["loss"], rel=1e-2)


def test_features_are_not_copied_for_each_trial():
    """Nine subjects' trials of the same images cost their rows alone, not nine times the images' features."""
    trials, features, concepts = toy(60)
    wide = {SPECS[0]: np.zeros((60, 20_000), np.float32) + features[SPECS[0]][:, :1], SPECS[1]: features[SPECS[1]]}
    rows = np.tile(np.arange(60), 9)
    seen: list[int] = []
    original = training.Training.__init__

    def watched(self, brain, fusion, data):
        seen.extend(len(x_Md) for x_Md in data.features.values())
        original(self, brain, fusion, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Training, "__init__", watched)
        alignment.fit(TrainingSet(trials.select(rows), wide, concepts, rows), settings(align__epochs=1))
    assert seen == [60, 60]


def test_modes_and_hvf_must_agree():
    trials, features, concepts = toy()
    with pytest.raises(HvfError, match="needs the prior's frozen HVF"):
        alignment.fit(TrainingSet(trials, features, concepts), settings(align__mode="reconstruction"))
    with pytest.raises(HvfError, match="takes none"):
        alignment.fit(TrainingSet(trials, features, concepts, prior_fusion=frozen_hvf()), settings())
    wide = settings(align__mode="reconstruction", brain__width=32, fusion__width=32)
    with pytest.raises(HvfError, match="24 wide, brain.width is 32"):
        alignment.fit(TrainingSet(trials, features, concepts, prior_fusion=frozen_hvf()), wide)


# --- the checkpoint ---------------------------------------------------------------------------------------------------


def test_round_trip(fitted, tmp_path):
    trials, features, _ = toy(seed=2)
    path = fitted.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    loaded = Alignment.load(tmp_path)
    np.testing.assert_array_equal(loaded.embed_brain(trials), fitted.embed_brain(trials))
    np.testing.assert_array_equal(loaded.embed_images(features), fitted.embed_images(features))
    for name in ("recording", "config", "history", "log_scale"):
        assert getattr(loaded, name) == getattr(fitted, name)
    assert loaded.recording.images == "the-training-images"
    assert not loaded.brain.training


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"ch_names": tuple("abcdeg")}, "ch_names"),
        ({"ch_names": tuple("badcfe")}, "another order"),
        ({"sfreq": 250.0}, "sfreq 100.0 Hz, the data have 250.0 Hz"),
        ({"tmin": -0.2}, "tmin"),
        ({"x_NCT": np.random.default_rng(0).normal(size=(120, C, 4))}, "n_times 5 samples, the data have 4 samples"),
        ({"kind": "meg"}, "kind eeg"),
    ],
)
def test_trials_of_another_recording_are_refused_by_field(fitted, tmp_path, change, field):
    fitted.save(tmp_path)
    trials = toy(seed=1)[0].replace(**change)
    with pytest.raises(HvfError, match=field):
        Alignment.load(tmp_path).embed_brain(trials)


def test_one_trial_is_enough_and_nan_is_not(fitted):
    trials = toy(seed=1)[0]
    one = fitted.embed_brain(trials.select([3]))
    np.testing.assert_allclose(one, fitted.embed_brain(trials)[3:4], rtol=1e-4, atol=1e-5)
    with pytest.raises(HvfError, match="NaN or infinite"):
        fitted.embed_brain(trials.replace(x_NCT=trials.load_array() * np.nan))


def test_training_on_other_images_is_refused(fitted):
    trials = toy()[0]
    fitted.recording.check(trials, "the-training-images")
    with pytest.raises(HvfError, match=r"training material \(images\)"):
        fitted.recording.check(trials, "other images")


def test_checkpoints_that_are_none(fitted, tmp_path):
    with pytest.raises(HvfError, match="is missing: train first"):
        Alignment.load(tmp_path)
    path = fitted.save(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(HvfError, match=r"alignment.safetensors cannot be read"):
        Alignment.load(tmp_path)


def test_one_bit_of_a_checkpoint_is_enough(fitted, tmp_path):
    path = fitted.save(tmp_path)
    whole = path.read_bytes()
    number = re.search(rb"log_scale\\\": \d\.\d", whole)
    assert number is not None
    for place in (number.end() - 1, len(whole) - 7):  # of its own words, and of a weight
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(HvfError, match="changed or damaged after it was written"):
            Alignment.load(tmp_path)
    path.write_bytes(whole)
    Alignment.load(tmp_path)


@pytest.mark.parametrize("version", [None, 0, 2])
def test_a_checkpoint_of_another_version_is_refused_by_name(fitted, tmp_path, version):
    path = fitted.save(tmp_path)
    with safe_open(str(path), framework="pt") as file:
        metadata = json.loads(file.metadata()["alignment"])
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    assert metadata.pop("version") == VERSION
    changed = metadata if version is None else metadata | {"version": version}
    save_file(state, str(path), {"alignment": json.dumps(changed)})
    with pytest.raises(HvfError, match=f"version {version}; this hvf reads version {VERSION}: train again"):
        Alignment.load(tmp_path)


def test_images_by_another_encoder_are_refused(fitted):
    _, features, _ = toy()
    with pytest.raises(HvfError, match="no features of vae:b"):
        fitted.embed_images({SPECS[0]: features[SPECS[0]]})
    with pytest.raises(HvfError, match="vae:b have width 9, not 10"):
        fitted.embed_images(features | {SPECS[1]: features[SPECS[1]][:, :9]})
