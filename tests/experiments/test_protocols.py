"""Test trials cannot take part in a choice, and a choice is made on validation images alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hvf import alignment, presets
from hvf.config import HvfError, with_settings
from hvf.data.trials.trials import Trials
from hvf.experiments import protocols
from hvf.experiments.protocols import Choice, HeldOut, Split, choose, recording_name, repeats

WIDE, CHANNELS, D = 150, 12, 6


def material(seed: int = 0, n: int = WIDE) -> tuple[Trials, np.ndarray]:
    """Trials that report their images' features, with noise."""
    rng = np.random.default_rng(seed)
    y_ND = rng.normal(size=(n, D)).astype(np.float32)
    mixing = np.random.default_rng(99).normal(size=(D, CHANNELS))
    x_NC = y_ND @ mixing + 0.3 * rng.normal(size=(n, CHANNELS))
    ids = [f"{seed}-{i}" for i in range(n)]
    names = [f"c{i}" for i in range(CHANNELS)]
    return Trials(x_NC[..., None].astype(np.float32), ids, "s", 100.0, 0.0, names, "features"), y_ND


@pytest.fixture(scope="module")
def parts() -> tuple[Split, HeldOut]:
    trials, y_ND = material()
    test, y_test_ND = material(1, 40)
    noise = np.random.default_rng(3).normal(size=(len(trials) + 40, D)).astype(np.float32)
    features = {"a:a": y_ND, "b:b": noise[:-40]}
    concepts = tuple(trials.image_ids.tolist())
    split = Split(trials, features, concepts)
    return split, HeldOut(test, {"a:a": y_test_ND, "b:b": noise[-40:]})


def config(**settings):
    base = {
        "brain.width": 24, "fusion.width": 24, "brain.intermediate": 16, "fusion.intermediate": 16,
        "align.epochs": 30, "align.batch_size": 64, "align.learning_rate": 3e-3, "align.validation_fraction": 0.2,
        "targets.specs": ("a:a",), "brain.input_noise": 0.0,
    }  # fmt: skip
    return with_settings(presets.mini(), base | {k.replace("__", "."): v for k, v in settings.items()})


def test_the_candidate_that_validation_likes_is_chosen_and_tested(parts):
    split, held_out = parts
    candidates = [{"targets.specs": ("b:b",)}, {"targets.specs": ("a:a",)}]
    choice = choose(split, config(), candidates)
    assert choice.settings["targets.specs"] == ("a:a",)
    assert choice.validation["mrr"] > 0.5
    assert held_out.row(choice).hits(1).mean() > 0.5


def test_a_decoder_of_people_made_alike_is_moved_to_the_one_who_is_tested(parts):
    split, _ = parts
    whole = Trials.concatenate([split.trials, split.trials.replace(x_NCT=4 * split.trials.load_array() - 7)])
    rows, person_N = np.tile(np.arange(WIDE), 2), np.repeat([0, 1], WIDE)
    choice = choose(
        Split(whole, {"a:a": split.features["a:a"]}, split.concepts, rows, person_N=person_N),
        config(brain__people="standardised", align__epochs=10),
    )
    test, y_ND = material(1, 40)
    assert HeldOut(test, {"a:a": y_ND}, own=split.trials).row(choice).hits(5).mean() > 0.5
    with pytest.raises(HvfError, match="hvf adapt"):  # of whom nothing is known
        HeldOut(test, {"a:a": y_ND}).row(choice)


def test_permuted_trials_find_nothing(parts):
    split, held_out = parts
    ranks_N = np.array(held_out.row(choose(split.permuted(0), config())).ranks)
    assert (ranks_N <= 1).mean() <= 0.125


@pytest.mark.parametrize("kind", ["linear", "gated", "concatenated"])
def test_every_fusion_learns_and_comes_back(parts, kind, tmp_path):
    split, held_out = parts
    choice = choose(split, config(fusion__kind=kind, targets__specs=("a:a", "b:b"), align__epochs=60))
    assert held_out.row(choice).hits(5).mean() > 0.5
    choice.alignment.save(tmp_path)
    again = alignment.Alignment.load(tmp_path)
    np.testing.assert_array_equal(again.embed_brain(split.trials), choice.alignment.embed_brain(split.trials))
    assert type(again.hvf) is type(choice.alignment.hvf)
    if kind == "gated":
        gate = dict(zip(choice.alignment.hvf.specs, choice.alignment.hvf.gate.tolist(), strict=True))
        assert gate["a:a"] > 0.6 > gate["b:b"]


def test_ridge_goes_through_the_same_door(parts, tmp_path):
    split, held_out = parts
    choice = choose(split, config(brain__encoder="ridge", fusion__kind="concatenated"))
    assert held_out.row(choice).hits(1).mean() > 0.5
    assert choice.settings["penalty"] in alignment.PENALTIES
    choice.alignment.save(tmp_path)
    again = alignment.Alignment.load(tmp_path)
    np.testing.assert_array_equal(again.embed_brain(split.trials), choice.alignment.embed_brain(split.trials))
    with pytest.raises(HvfError, match="ridge learns no fusion: set fusion.kind to 'concatenated'"):
        choose(split, config(brain__encoder="ridge"))


def test_test_trials_are_refused_everywhere(parts):
    split, held_out = parts
    with pytest.raises(HvfError, match="made on a Split, not on HeldOut"):
        choose(held_out, config())
    with pytest.raises(HvfError, match="by a Choice"):
        held_out.row(choose(split, config()).alignment)
    with pytest.raises(HvfError, match="made by hvf.experiments.protocols.choose"):
        Choice(choose(split, config(align__epochs=1)).alignment, {}, object())
    with pytest.raises(AttributeError):
        held_out.trials  # noqa: B018
    marked, y_ND = material()
    marked = Trials(
        marked.load_array(), marked.image_ids, "s", 100.0, 0.0, marked.ch_names, "features",
        splits=["train"] * (WIDE - 3) + ["test"] * 3,
    )  # fmt: skip
    with pytest.raises(HvfError, match="3 of the trials to be trained on are test trials"):
        choose(dataclasses.replace(split, trials=marked), config())


def test_what_is_not_there_is_refused(parts):
    with pytest.raises(HvfError, match="no protocol 'lose'"):
        protocols.open_split(config(), ("a:a",), "lose")
    with pytest.raises(HvfError, match="nothing to choose from"):
        choose(parts[0], config(), [])


def test_repeats():
    simulated = presets.mini()
    assert recording_name(simulated) == "sub-08-simulated-eeg"
    seeds = repeats(simulated, 2)
    assert list(seeds) == ["seed-0", "seed-1"]
    assert [one.align.seed for one in seeds.values()] == [0, 1]
    assert {one.data.split_seed for one in seeds.values()} == {simulated.data.split_seed}
    files = with_settings(simulated, {"data.study": "files", "data.trials": "/a/v4.npy", "data.images": "/b"})
    assert recording_name(files) == "v4"
    splits = repeats(files, 3)
    assert list(splits) == ["split-0", "split-1", "split-2"]
    assert [(one.align.seed, one.data.split_seed) for one in splits.values()] == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(HvfError, match="--seeds must be at least 1, not 0"):
        repeats(files, 0)
    with pytest.raises(HvfError, match="--splits must be at least 1, not -1"):
        repeats(files, -1, "splits")
