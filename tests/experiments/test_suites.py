"""Named suites of the benchmark: what they stand for, and what they refuse."""

from __future__ import annotations

import shlex

import numpy as np
import pytest

from hvf.data.trials.trials import Trials
from hvf.experiments import suites
from hvf.experiments.suites import SUITES, Suite, check, expanded
from hvf.registry import METHODS, HvfError

NAME = "things-eeg2-intra-v1"


def store(path, recipe="hvf", train=3, test=2):
    ids = [f"{part}{i}" for part, n in (("train", train), ("test", test)) for i in range(n)]
    splits = ["train"] * train + ["test"] * test
    history = {"recipe": recipe}
    Trials(
        np.ones((len(ids), 2, 3)), ids, "sub-01", 100.0, 0.0, ("a", "b"), "eeg", splits=splits, history=history
    ).save(path)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(SUITES, "small-v1", Suite("small", (1, 2), ("hvf",), (0,), {}, "hvf", {"train": 3, "test": 2}))
    return "small-v1"


def test_every_suite_names_what_there_is():
    for name, suite in SUITES.items():
        assert set(suite.methods) <= set(METHODS), name
        assert name.rpartition("-v")[2].isdecimal()
        assert len(suite.seeds) >= 3
        assert (suite.recipe is None) == ("study" in suite.options)


def test_a_suite_is_a_command_line_with_a_name():
    words = expanded(shlex.split(f"--suite {NAME} --trials D --images I"))
    assert words[: words.index("--suite")] == SUITES[NAME].words()
    assert words[words.index("--seeds") + 1 :][:3] == ["0", "1", "2"]
    assert words[words.index("--encoders") + 1] == "published"
    assert expanded(["--methods", "hvf"]) == ["--methods", "hvf"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("--suite things-eeg-intra-v1", f"did you mean '{NAME}'"),
        (f"--suite {NAME} --epochs 3", "decides --epochs"),
        (f"--suite={NAME} --align.learning_rate 1", "decides --align.learning-rate"),
        (f"--suite {NAME} --preset mini --no-control", "decides --preset, --no-control"),
    ],
)
def test_what_a_suite_decides_is_refused(line, reason):
    with pytest.raises(HvfError, match=reason):
        expanded(line.split())


def test_a_part_of_a_suite_is_said_to_be_one(tmp_path, small):
    for subject in (1, 2):
        store(tmp_path / f"sub-0{subject}_trials.npy")
    asked = {"methods": ("hvf",), "subjects": (1, 2), "seeds": (0,)}
    assert check(small, asked, tmp_path) == ""
    assert check(small, asked | {"subjects": (2,)}, tmp_path) == "subjects 2"


def test_other_data_are_refused(tmp_path, small):
    asked = {"methods": ("hvf",), "subjects": (1,), "seeds": (0,)}

    def refused(reason, trials=tmp_path, **other):
        with pytest.raises(HvfError, match=reason):
            check(small, asked | other, trials)

    refused("needs --trials DIR", None)
    refused(r"no prepared trials of subjects 1")
    store(tmp_path / "sub-01_trials.npy", recipe="ubp")
    refused("on the recipe 'hvf', and .* was made by 'ubp'")
    store(tmp_path / "sub-01_trials.npy", train=4)
    refused("is of {'train': 3, 'test': 2} images, and .* has {'train': 4, 'test': 2}")
    refused("has the seeds 0, not 7", seeds=(7,))
    with pytest.raises(HvfError, match="of a simulated study"):
        check("simulated-eeg-v1", {"methods": ("hvf",), "subjects": (8,), "seeds": (0,)}, tmp_path)


def test_the_published_suites_are_of_published_recipes():
    from hvf.data.things_eeg2.preprocessing import RECIPES as EEG
    from hvf.data.things_meg.prepare import RECIPES as MEG

    assert {suites.get(n).recipe for n in SUITES if n.startswith("things-eeg2")} <= set(EEG)
    assert {suites.get(n).recipe for n in SUITES if n.startswith("things-meg")} <= set(MEG)
