"""Every setting is documented and used, survives JSON, and is refused in one line when it cannot work."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path

import pytest

from hvf import config as config_module
from hvf import presets
from hvf.config import (
    COUNTS,
    EXECUTION_ONLY,
    Config,
    HvfError,
    check,
    digest,
    first_difference,
    flatten,
    from_dict,
    to_dict,
    with_settings,
)

ROOT = Path(__file__).resolve().parent.parent
ALL = [make() for make in presets.PRESETS.values()]


def fields_in_source() -> list[tuple[str, str, str]]:
    """(class, field, its line) of every dataclass in hvf/config.py."""
    source = Path(config_module.__file__).read_text(encoding="utf-8")
    lines = source.splitlines()
    return [
        (node.name, item.target.id, lines[item.lineno - 1])
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.decorator_list
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    ]


def names_in_use() -> set[str]:
    """Attributes, keywords and parameters named anywhere in the code but in the configuration itself."""
    names: set[str] = set()
    for folder in ("hvf", "prior_training", "brain_training"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name in ("config.py", "presets.py", "cli.py"):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute):
                    names.add(node.attr)
                elif isinstance(node, (ast.keyword, ast.arg)) and node.arg:
                    names.add(node.arg)
    return names


def test_every_field_is_documented():
    fields = fields_in_source()
    assert len(fields) > 40
    bare = [f"{cls}.{name}" for cls, name, line in fields if len(line.partition("  # ")[2]) < 8]
    assert not bare


def test_every_setting_is_used():
    """Reads the tree: a setting that no code mentions is a dead knob."""
    used = names_in_use()
    dead = [name for name, _ in flatten(Config()) if name != "name" and name.rpartition(".")[2] not in used]
    assert not dead


def test_lists_of_settings_name_real_ones():
    settings = dict(flatten(Config()))
    assert set(settings) >= EXECUTION_ONLY
    assert all(isinstance(settings[name], int) for name in COUNTS)


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.name)
def test_json_round_trip(config):
    again = from_dict(Config, json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert digest(again) == digest(config)


def test_missing_keys_take_their_default():
    assert from_dict(Config, {"data": {"subject": 3}}) == with_settings(Config(), {"data.subject": 3})


@pytest.mark.parametrize(
    ("d", "said"),
    [
        ({"dta": {}}, "unknown setting 'dta'; did you mean 'data'?"),
        ({"data": {"subjct": 1}}, "unknown setting 'data.subjct'; did you mean 'subject'?"),
        ({"data": {"subject": "eight"}}, "setting 'data.subject' must be int, not 'eight'"),
        ({"data": {"subject": True}}, "setting 'data.subject' must be int, not True"),
        ({"data": {"ch_names": "Oz"}}, "'data.ch_names' must be tuple[str, ...], not 'Oz'"),
        ({"align": {"learn_temperature": 1}}, "'align.learn_temperature' must be bool, not 1"),
        ({"align": {"betas": [0.9]}}, "'align.betas' must be tuple[float, float], not [0.9]"),
        ({"align": 3}, "align must be a table of settings, not 3"),
    ],
)
def test_from_dict_refuses(d, said):
    with pytest.raises(HvfError) as error:
        from_dict(Config, d)
    assert said in str(error.value)


def test_with_settings():
    config = with_settings(presets.mini(), {"data.subject": 3, "targets.specs": ("vae:mini",), "sampling.guidance": 2})
    assert (config.data.subject, config.targets.specs, config.sampling.guidance) == (3, ("vae:mini",), 2.0)
    for wrong in ("data.subjct", "dta.subject", "subject"):
        with pytest.raises(HvfError, match="unknown setting"):
            with_settings(config, {wrong: 1})


def test_digest_separates_results_from_execution():
    mini = presets.mini()
    assert digest(with_settings(mini, {"sampling.batch_size": 7})) == digest(mini)
    assert digest(dataclasses.replace(mini, name="other")) == digest(mini)
    for name, value in flatten(mini):
        if name in EXECUTION_ONLY or not isinstance(value, (int, float)):
            continue
        changed = not value if isinstance(value, bool) else value + 1
        other = with_settings(mini, {name: changed})
        assert digest(other) != digest(mini), name
        assert first_difference(mini, other) == (name, value, changed)
    assert len(digest(mini)) == 12


def test_digest_knows_no_type_of_number():
    whole = dataclasses.replace(presets.mini().sampling, guidance=2)
    exact = dataclasses.replace(presets.mini().sampling, guidance=2.0)
    assert digest(Config(sampling=whole)) == digest(Config(sampling=exact))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"data.subject": 11}, "subject 11 does not exist: simulated-eeg has subjects 1 to 10"),
        ({"data.subject": 0}, "subject 0 does not exist"),
        ({"data.study": "simulated-meg", "data.subject": 5}, "simulated-meg has subjects 1 to 4"),
        ({"data.study": "simulated-ee"}, "did you mean 'simulated-eeg'?"),
        ({"data.study": "files"}, "data.trials is missing: give --trials FILE"),
        ({"data.study": "files", "data.trials": "/no/such.npy"}, "no such file or folder: /no/such.npy"),
        ({"align.mode": "retreival"}, "did you mean 'retrieval'?"),
        ({"align.epochs": 0}, "align.epochs must be at least 1, not 0"),
        ({"align.validation_fraction": 1.0}, "align.validation_fraction must be at least 0 and less than 1"),
        ({"brain.width": 512}, "brain.width 512 and fusion.width 256 must be equal"),
        ({"targets.specs": ()}, "targets.specs is empty"),
        ({"align.loss": "bth"}, "did you mean 'both'?"),
        ({"brain.input_smooth": 1.5}, "brain.input_smooth must lie between 0 and 1, not 1.5"),
        ({"targets.views": ("blur9",), "targets.view_choice": "confidence"}, "targets.views are 1: a choice by confid"),
        ({"targets.views": ("blur9",), "align.mode": "reconstruction"}, "targets.views is for align.mode 'retrieval'"),
        ({"targets.text": "text:mini-vit"}, "targets.text text:mini-vit and align.text_weight 0.0 go together"),
        ({"align.text_weight": 0.1}, "targets.text None and align.text_weight 0.1 go together"),
        ({"targets.views": ("blur9",), "brain.encoder": "ridge"}, "ridge, solved at once, takes the images as they"),
        ({"data.tmax": 0.0}, "data.tmax 0.0 must come after data.tmin 0.0"),
    ],
)
def test_check_refuses(settings, said):
    with pytest.raises(HvfError) as error:
        check(with_settings(presets.mini(), settings))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_check_accepts_every_preset(tmp_path):
    for config in ALL:
        if config.data.study == "files":
            config = with_settings(config, {"data.trials": str(tmp_path), "data.images": str(tmp_path)})
        check(config)


def test_presets_are_what_they_are_called():
    for name in presets.PRESETS:
        assert presets.get(name).name == name
        docstring = presets.PRESETS[name].__doc__ or ""
        assert all(word in docstring for word in ("Paper", "Command", "Needs", "Expect"))
    assert presets.get("things_eeg") == presets.things_eeg()
    with pytest.raises(HvfError, match="unknown preset 'minni'; did you mean 'mini'?"):
        presets.get("minni")


def test_things_presets_are_the_published_shape():
    eeg, meg = presets.things_eeg(), presets.things_meg()
    assert len(set(eeg.data.ch_names)) == 17
    assert (eeg.data.tmax - eeg.data.tmin) * eeg.data.sfreq == 250
    assert (meg.data.tmax - meg.data.tmin) * meg.data.sfreq == 200
    assert eeg.brain.width == eeg.fusion.width == 1024


def test_every_preset_names_encoders_that_parse():
    features = pytest.importorskip("hvf.vision.specs")
    for config in ALL:
        for spec in config.targets.specs:
            features.parse_spec(spec)
