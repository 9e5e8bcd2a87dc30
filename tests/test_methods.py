"""Methods: each says its paper, sets what it says, and leaves the rest of a configuration alone."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hvf import methods, presets
from hvf.alignment.fitting import prepare
from hvf.alignment.training_set import TrainingSet
from hvf.config import SOLVED, HvfError, check_files, flatten, from_dict, to_dict, with_settings
from hvf.data.trials.trials import Trials
from hvf.methods import STAND_INS, Method, Published
from hvf.registry import BRAIN_ENCODERS, FUSIONS, METHODS
from hvf.vision.specs import parse_spec, versions


@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_says_what_it_is_and_fits_any_study(name):
    method = METHODS[name]
    assert min(len(method.about), len(method.paper)) > 8
    assert bool(method.differs) == (name not in SOLVED)  # regressions differ from no paper
    base = with_settings(presets.mini(), {"data.study": "simulated-meg", "data.subject": 2, "align.seed": 5})
    for encoders in methods.ENCODERS:
        config = methods.apply(name, base, encoders)
        check_files(config)
        assert (config.data, config.align.seed, config.sampling) == (base.data, 5, base.sampling)
        assert config.fusion.kind in FUSIONS
        assert config.brain.encoder in {*BRAIN_ENCODERS, *SOLVED}
        assert from_dict(type(config), to_dict(config)) == config
        for spec in config.targets.specs:
            parse_spec(spec)
        views = config.targets.views
        assert versions(config.targets.specs, views).keys() == set(config.targets.specs)
        assert (config.targets.view_choice == "confidence") == bool(views)
        if encoders == "given":
            assert config.targets == base.targets
        if encoders == "mini":
            assert all("mini" in spec for spec in config.targets.specs)


def test_the_page_says_of_every_method_where_it_differs():
    page = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
    assert methods.COMMON in page
    for name in METHODS:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert row.endswith(f" | {METHODS[name].differs or '–'} |")


def test_methods_are_those_of_the_papers_and_differ():
    assert list(METHODS) == [
        *("hvf", "shallow", "ubp", "neurobridge", "nice", "atm", "human_aligned", "ridge", "encoding"),
    ]
    made = [dataclasses.replace(methods.apply(name, presets.mini()), name="") for name in METHODS]
    assert len({str(config) for config in made}) == len(made)


def test_every_target_has_a_stand_in_of_its_own_kind():
    every = [METHODS[name] for name in METHODS]
    named = {spec for method in every for spec in method.specs} | {method.text for method in every if method.text}
    assert named <= set(STAND_INS)
    with pytest.raises(HvfError, match="no mini encoder stands in for openclip:none/at-all"):
        methods._stand_in("openclip:none/at-all")


@pytest.mark.parametrize("name", list(METHODS))
def test_nothing_of_a_presets_own_method_is_left_in_another(name):
    """Widths, noise and loop are a method's; how people are made alike, and what validation is, is the study's."""
    kept = {"brain.people": "euclidean", "align.validation_fraction": 0.3, "align.refit": True}
    other = {"brain.input_noise": 0.7, "brain.width": 48, "brain.intermediate": 32, "fusion.width": 48}
    other |= {"fusion.intermediate": 16, "fusion.dropout": 0.6, "align.batch_size": 7, "align.temperature": 0.3}
    other |= {"align.schedule": "constant", "align.unit_length": "images", "brain.smooth_once": True}
    made = methods.apply(name, with_settings(presets.mini(), kept | other))
    assert made == methods.apply(name, with_settings(presets.mini(), kept))
    assert {key: value for key, value in flatten(made) if key in kept} == kept
    assert made.brain.input_noise == 0


@pytest.mark.parametrize(("name", "inverse"), [("ubp", 32 * math.log(1 + 1 / 0.07)), ("atm", 32 * math.log(1 / 0.07))])
def test_the_effective_temperature_at_the_start_is_the_papers(name, inverse):
    """1/87 and 1/85: their scale times the length of a vector that left a LayerNorm of 1,024."""
    rng = np.random.default_rng(0)
    ids = [f"{i}" for i in range(40)]
    trials = Trials(rng.normal(size=(40, 4, 60)), ids, "s", 100.0, 0.0, tuple("abcd"), "eeg")
    data = TrainingSet(trials, {"vae:mini": rng.normal(size=(40, 1024))}, ids)
    given = methods.apply(name, with_settings(presets.mini(), {"targets.specs": ("vae:mini",)}), "given")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        started = prepare(data, given).start()
        assert 1 / started.validate()["temperature"] == pytest.approx(inverse, rel=0.01)
        cosines = prepare(data, with_settings(given, {"align.unit_length": "both"})).start()
    assert 1 / cosines.validate()["temperature"] == pytest.approx(inverse / 32, rel=1e-4)


def test_what_the_papers_add_to_the_loop_is_set():
    ubp, neurobridge, atm = (methods.apply(name, presets.mini()) for name in ("ubp", "neurobridge", "atm"))
    assert ubp.targets.views == ("fovea45", "fovea51", "fovea57")
    assert (neurobridge.brain.input_smooth, neurobridge.brain.smooth_once) == (0.3, True)
    assert (neurobridge.brain.encoder, neurobridge.brain.width, neurobridge.brain.intermediate) == (
        *("neurobridge", 512, 1024),
    )
    assert not neurobridge.align.learn_temperature
    assert (atm.targets.text, atm.align.text_weight) == ("text:ViT-H-14/laion2b_s32b_b79k", 0.01)
    plain = methods.apply("atm", presets.mini(), "given")
    assert (plain.targets.text, plain.align.text_weight) == (None, 0.0)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(HvfError, match="there is no method 'nicee'; did you mean 'nice'"):
        methods.apply("nicee", presets.mini())
    with pytest.raises(HvfError, match="did you mean 'mini'"):
        methods.apply("nice", presets.mini(), "minni")


def test_a_method_is_added_by_registering_it(monkeypatch):
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    METHODS.register("mine")(Method("MBP meets nothing else than latents.", "unpublished", ("vae:sdxl",), "mbp", "hvf"))
    config = methods.apply("mine", presets.mini(), "mini")
    assert (config.targets.specs, config.brain.encoder, config.fusion.kind) == (("vae:mini",), "mbp", "hvf")
    assert "mine" in list(METHODS)
    assert "mine" not in methods.works()  # it has no figures


def test_published_figures_are_shares_in_percent():
    for work in methods.works().values():
        for top1, top5 in work.retrieval.values():
            assert 0 < top1 < (top5 or 99) < 100
        for values in work.pictures.values():
            assert len(values) == len(methods.PICTURES)
            assert all(0 < value < 1 for value in values)


def test_published_rows_say_how_they_were_selected():
    rows = {(row.method, row.of): row for row in methods.published("things-eeg")}
    retrieved = next(row for row in methods.published("things-eeg") if row.method == "HVF")
    assert retrieved.figures == {"retrieval/top1": 0.757, "retrieval/top5": 0.946}
    assert rows["HVF", "LOSO"].label == "HVF, LOSO (selected by: test top-1 (official code))"
    assert rows["NICE", "within subject"].selected == "not known"
    assert rows["HVF", "subject 8"].figures["reconstruction/pixcorr"] == 0.227
    assert rows["HCF (arXiv 2603.07077)", "within subject"].figures == {"retrieval/top1": 0.846}
    assert {row.method for row in methods.published("things-meg")} >= {"HVF", "UBP"}
    assert methods.published("mini") == []
    assert methods.works()["ubp"].summary("meg loso") == ("2.2/10.4 (ranked against blurred test images)")
    assert Published("nothing").summary("eeg intra") == "–"


def test_presets_with_figures():
    assert methods.preset_with_figures("things_meg") == "things-meg"
    with pytest.raises(HvfError, match="there are no published figures of 'thing-eeg'; did you mean 'things-eeg'"):
        methods.preset_with_figures("thing-eeg")
