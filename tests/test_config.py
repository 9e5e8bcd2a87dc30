"""Every setting is documented and used, survives JSON, and is refused in one line when it cannot work."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import typing
from pathlib import Path

import pytest

from hvf import config as config_module
from hvf import presets
from hvf.config import (
    EXECUTION_ONLY,
    OF_FILES,
    Config,
    HvfError,
    SamplingConfig,
    check_files,
    digest,
    first_difference,
    flatten,
    from_dict,
    to_dict,
    with_settings,
)
from hvf.registry import BRAIN_ENCODERS, FUSIONS, STUDIES
from hvf.schema.bounds import Named

ROOT = Path(__file__).resolve().parent.parent
ALL = [make() for make in presets.PRESETS.values()]


def fields_in_source() -> list[tuple[str, str, str]]:
    """(class, field, its line) of every section in hvf/config.py."""
    source = Path(config_module.__file__).read_text(encoding="utf-8")
    lines = source.splitlines()
    return [
        (node.name, item.target.id, lines[item.lineno - 1])
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.decorator_list and node.bases
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


def words_of(hint) -> tuple[str, ...]:
    """What a setting may be called, where it is a word of a list or a registered name."""
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    rules = [rule for rule in getattr(hint, "__metadata__", ()) if isinstance(rule, Named)]
    return tuple(word for rule in rules for word in (*rule.registry, *rule.beside))


WORDS = {
    f"{section.name}.{name}": words_of(hint)
    for section in dataclasses.fields(Config)
    if dataclasses.is_dataclass(section.default_factory)
    for name, hint in typing.get_type_hints(section.default_factory, include_extras=True).items()
    if words_of(hint)
}


def test_every_word_of_the_settings_is_one_of_a_list():
    """Every text field but paths, Hub ids, feature specs and the preset's name takes words of a list."""
    free = {
        "name",
        "data.trials",
        "data.images",
        "data.background",
        "data.ch_names",
        "targets.specs",
        "targets.views",
        "targets.text",
        "brain.weights",
    }
    free |= {"prior.path", "prior.pipeline"}
    listed = {"data.asked"}  # words of a list, each of them
    texts = {name for name, value in flatten(presets.things_eeg()) if isinstance(value, (str, tuple, type(None)))}
    numbers = {"align.betas", "data.train_sessions", "data.test_sessions", "data.test_repeats", "sampling.strength"}
    assert texts - numbers == free | listed | set(WORDS)
    with pytest.raises(HvfError, match="data.asked is 'tmn'; did you mean 'tmin'"):
        with_settings(presets.things_eeg(), {"data.asked": ("tmn",)})
    assert set(WORDS["brain.encoder"]) >= {"mbp", "eegproject", "tsconv", "atm", "ridge", "encoding"}
    assert set(WORDS["fusion.kind"]) == {"hvf", "linear", "gated", "routed", "concatenated", "plain"}


@pytest.mark.parametrize("name", WORDS)
def test_a_misspelt_word_cannot_be_built(name):
    section, _, leaf = name.partition(".")
    word = WORDS[name][0]
    misspelt = word[:-1]
    near = re.escape(f"{name} is {misspelt!r}") + r"; (did you mean '.+'\?|there is .+)"
    for build in (
        lambda: with_settings(presets.mini(), {name: misspelt}),
        lambda: dataclasses.replace(getattr(presets.mini(), section), **{leaf: misspelt}),
        lambda: from_dict(Config, {section: {leaf: misspelt}}),
    ):
        with pytest.raises(HvfError, match=near):
            build()


def test_what_the_issue_found_after_training_is_refused_before():
    with pytest.raises(HvfError, match="sampling.scheduler is 'dmp'; did you mean 'dpm'?"):
        SamplingConfig(scheduler="dmp")
    with pytest.raises(HvfError, match="brain.encoder is 'mpb'; did you mean 'mbp'?"):
        with_settings(presets.mini(), {"brain.encoder": "mpb"})


def test_a_registered_name_is_a_word_of_the_settings(monkeypatch):
    """An encoder, a fusion, a study of one's own file is named in a configuration without editing hvf/config.py."""
    for registry, name in ((BRAIN_ENCODERS, "brain.encoder"), (FUSIONS, "fusion.kind"), (STUDIES, "data.study")):
        with pytest.raises(HvfError, match=f"{name} is 'my-own'"):
            with_settings(presets.mini(), {name: "my-own"})
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        registry.register("my-own")(object)
        assert dict(flatten(with_settings(presets.mini(), {name: "my-own"})))[name] == "my-own"


def test_settings_from_python_are_those_from_json():
    """Numbers and lists are normalised when a section is built: equal settings compare equal."""
    sampling = SamplingConfig(guidance=2)
    assert isinstance(sampling.guidance, float)
    assert dataclasses.replace(presets.mini().targets, specs=["vae:mini"]).specs == ("vae:mini",)
    with pytest.raises(HvfError, match="setting 'sampling.steps' must be int, not '3'"):
        SamplingConfig(steps="3")
    with pytest.raises(HvfError, match="setting 'data' must be DataConfig, not 3"):
        Config(data=3)


def test_settings_that_fit_only_together_are_changed_together():
    wide = with_settings(presets.mini(), {"brain.width": 64, "fusion.width": 64})
    assert (wide.brain.width, wide.fusion.width) == (64, 64)
    captions = with_settings(wide, {"targets.text": "text:mini-vit", "align.text_weight": 0.1})
    assert captions.align.text_weight == 0.1


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
    together = {"brain.width": "fusion.width", "fusion.width": "brain.width", "align.text_weight": "targets.text"}
    own = with_settings(mini, {"data.study": "files"})
    for name, value in flatten(presets.mini()):
        if (
            name in EXECUTION_ONLY
            or name in (*together, "brain.frozen", "sampling.restore_variance")
            or not isinstance(value, (int, float))
        ):
            continue
        changed = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value / 2 + 0.01
        mini = own if name.removeprefix("data.") in OF_FILES else presets.mini()
        other = with_settings(mini, {name: changed})
        assert digest(other) != digest(mini), name
        assert first_difference(mini, other) == (name, value, changed)
    for name, value in (("brain.width", 2), ("align.text_weight", 0.5)):
        other = with_settings(mini, {name: value, together[name]: 2 if value == 2 else "text:mini-vit"})
        assert digest(other) != digest(mini)
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
        ({"targets.views": ("blur9",), "brain.encoder": "ridge"}, "targets.views is learnt from step by step: ridge"),
        ({"data.tmax": 0.0}, "data.tmax 0.0 must come after data.tmin 0.0"),
        ({"align.betas": (0.9, 1.0)}, "align.betas must be at least 0 and less than 1, not (0.9, 1.0)"),
        ({"brain.input_noise": -1.0}, "brain.input_noise must be at least 0, not -1.0"),
        ({"align.learning_rate": float("nan")}, "align.learning_rate must be a finite number, not nan"),
        ({"align.clip_norm": 0}, "align.clip_norm must be greater than 0, not 0.0"),
        ({"align.seed": -1}, "align.seed must lie between 0 and 4294967295, not -1"),
        ({"data.study": "files", "data.subject": 0}, "subject 0 does not exist: they are counted from 1"),
    ],
)
def test_impossible_settings_are_refused(settings, said):
    with pytest.raises(HvfError) as error:
        check_files(with_settings(presets.mini(), settings))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_every_preset_is_accepted(tmp_path):
    for config in ALL:
        if config.data.study == "files":
            config = with_settings(config, {"data.trials": str(tmp_path), "data.images": str(tmp_path)})
        check_files(config)


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
