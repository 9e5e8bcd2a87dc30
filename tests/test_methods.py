"""Methods: each says its paper, sets what it says, and leaves the rest of a configuration alone."""

from __future__ import annotations

import dataclasses

import pytest

from hvf import methods, presets
from hvf.config import SOLVED, HvfError, check, from_dict, to_dict, with_settings
from hvf.registry import BRAIN_ENCODERS, FUSIONS
from hvf.vision.specs import parse_spec, versions


@pytest.mark.parametrize("name", presets.METHODS)
def test_a_method_says_what_it_is_and_fits_any_study(name):
    told = presets.METHODS[name].__doc__ or ""
    assert all(word in told for word in ("Paper", "Command", "Expect"))
    base = with_settings(presets.mini(), {"data.study": "simulated-meg", "data.subject": 2, "align.seed": 5})
    for encoders in presets.ENCODERS:
        config = presets.method(name, base, encoders)
        check(config)
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


def test_methods_differ():
    made = [dataclasses.replace(presets.method(name, presets.mini()), name="") for name in presets.METHODS]
    assert len({str(config) for config in made}) == len(made)


def test_every_target_has_a_stand_in_of_its_own_kind():
    named = {spec for make in presets.METHODS.values() for spec in make().specs}
    named |= {made.text for made in (make() for make in presets.METHODS.values()) if made.text}
    assert named <= set(presets.STAND_INS)


def test_what_the_papers_add_to_the_loop_is_set():
    ubp, neurobridge, atm = (presets.method(name, presets.mini()) for name in ("ubp", "neurobridge", "atm"))
    assert ubp.targets.views == ("fovea45", "fovea51", "fovea57")
    assert neurobridge.brain.input_smooth == 0.3
    assert (atm.targets.text, atm.align.text_weight) == ("text:ViT-H-14/laion2b_s32b_b79k", 0.01)
    plain = presets.method("atm", presets.mini(), "given")
    assert (plain.targets.text, plain.align.text_weight) == (None, 0.0)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(HvfError, match="unknown method 'nicee'; did you mean 'nice'"):
        presets.method("nicee", presets.mini())
    with pytest.raises(HvfError, match="did you mean 'mini'"):
        presets.method("nice", presets.mini(), "minni")


def test_published_figures_are_shares_in_percent():
    for figures in methods.RETRIEVAL.values():
        for top1, top5 in figures.values():
            assert 0 < top1 < top5 < 100
