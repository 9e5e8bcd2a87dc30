"""The command line as a user types it: what it resolves, what it refuses and how, and where it writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
import typing
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import hvf
import hvf.experiments
from hvf import presets
from hvf.cli import COMMANDS, main
from hvf.cli.options import StudyOptions, run_name
from hvf.cli.parser import ALIASES, Configured, parse
from hvf.config import OF_FILES, OF_SIMULATED, Config, HvfError, flatten, with_settings
from hvf.runs import Run
from hvf.schema.bounds import Named

ROOT = Path(__file__).resolve().parents[2]
WORDS = {
    f"{section.name}.{name}": typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else [
        word for rule in getattr(hint, "__metadata__", ()) if isinstance(rule, Named) for word in rule.registry
    ]
    for section in fields(Config)
    if section.name != "name"
    for name, hint in typing.get_type_hints(section.default_factory, include_extras=True).items()
}  # fmt: skip
WORDS = {name: words for name, words in WORDS.items() if words}


@pytest.fixture
def stages(monkeypatch, tmp_path):
    """Stand-ins for the stages and the report that note their calls; the working folder is empty."""
    monkeypatch.chdir(tmp_path)
    calls: list[tuple[str, object]] = []
    module, report = types.ModuleType("hvf.experiments.stages"), types.ModuleType("hvf.report")

    def stage(name):
        def call(run, **scalings):
            calls.append((name, run))
            run.write_metrics(
                {
                    "retrieval/brain/top1": {"value": 0.5, "ci95": [0.43, 0.57], "n": 200},
                    "chance/retrieval/top1": {"value": 0.005, "ci95": None, "n": 200},
                }
            )

        return call

    for name in ("train_run", "retrieve_run", "reconstruct_run", "evaluate_run"):
        setattr(module, name, stage(name))
    report.write_grid = lambda path: calls.append(("write_grid", path))
    report.write_report = lambda paths, out: (calls.append(("write_report", (paths, out))), Path(out).write_text("x"))
    report.write = lambda paths, out, published: (calls.append(("write", (paths, out, published))), ["b is better"])[1]
    for one, package in ((module, hvf.experiments), (report, hvf)):
        monkeypatch.setitem(sys.modules, one.__name__, one)
        monkeypatch.setattr(package, one.__name__.rpartition(".")[2], one, raising=False)
    return types.SimpleNamespace(calls=calls, module=module, report=report)


def last_run(stages) -> Run:
    return next(what for name, what in reversed(stages.calls) if name.endswith("_run"))


@pytest.mark.parametrize(
    ("command", "stage", "folder", "mode"),
    [
        ("reconstruct", "reconstruct_run", "sub-08-eeg-reconstruction", "reconstruction"),
        ("retrieve", "retrieve_run", "sub-08-eeg", "retrieval"),
        ("train", "train_run", "sub-08-eeg", "retrieval"),
    ],
)
def test_bare_commands_run_the_embedded_default(stages, capsys, command, stage, folder, mode):
    assert main([command]) == 0
    run = last_run(stages)
    assert stages.calls[0] == (stage, run)
    assert run.path == Path("runs") / folder
    assert run.config == presets.in_mode(presets.mini(), mode)
    out = capsys.readouterr().out
    assert f"wrote runs/{folder}" in out
    assert "(simulated)" in out
    assert "brain top-1 50.0 % 43.0 to 57.0 0.5 % 200" in " ".join(out.split())
    assert run.has("report.html") == (command != "train")


def test_flags_reach_their_settings(stages, tmp_path):
    np.save("mine.npy", np.zeros((2, 3)))
    (tmp_path / "photos").mkdir()
    flags = "--trials mine.npy --images photos --epochs 3 --seed 7"
    assert main(["reconstruct", *flags.split(), "--steps", "4", "--guidance", "3", "--out", "here"]) == 0
    assert last_run(stages).path == Path("here")
    usual = dict(flatten(presets.mini()))
    drawing = dict(flatten(presets.in_mode(presets.mini(), "reconstruction")))
    given = {name: value for name, value in flatten(last_run(stages).config) if value != drawing[name]}
    both = {
        "data.study": "files",
        "data.trials": str(tmp_path / "mine.npy"),
        "data.images": str(tmp_path / "photos"),
        "align.epochs": 3,
        "align.seed": 7,
        "sampling.seed": 7,
    }
    assert given == both | {"sampling.steps": 4, "sampling.guidance": 3.0}
    assert main(["retrieve", *flags.split(), "--targets", "vae:mini", "openclip:mini-vit", "--out", "there"]) == 0
    given = {name: value for name, value in flatten(last_run(stages).config) if value != usual[name]}
    assert given == both | {"targets.specs": ("vae:mini", "openclip:mini-vit")}


def test_every_alias_names_real_settings():
    settings = dict(flatten(Config()))
    assert all(name in settings for names in ALIASES.values() for name in names)
    options = {f.name for command in COMMANDS.values() if issubclass(command, Configured) for f in fields(command)}
    assert set(ALIASES) <= options


@pytest.mark.parametrize("command", ["train", "retrieve", "reconstruct", "embed"])
def test_every_setting_is_an_option(command):
    """All of them at once, with values that differ from the preset's; a kind of study has settings of its own."""
    for study, others in (("files", OF_SIMULATED), ("simulated-meg", OF_FILES)):
        check_settings_as_options(command, study, {f"data.{name}" for name in others})


def check_settings_as_options(command: str, study: str, others: set[str]) -> None:
    usual = presets.things_meg()
    words = {"data.study": study, "data.subject": 3, "data.trials": "/x.npy", "data.images": "/y.zip"}
    words |= {"data.train_sessions": (1, 2), "data.test_sessions": (3,), "data.test_repeats": 12, "brain.weights": None}
    words |= {"data.asked": ("sfreq", "tmin", "tmax")}
    words |= {"align.unit_length": "images", "align.schedule": "constant", "align.refit": True, "brain.frozen": False}
    words |= {"brain.smooth_once": True, "brain.person_layer": True, "align.normal_weights": True}
    words |= {"members.encoders": False, "members.encoding": False}  # for retrieval alone
    words |= {"sampling.restore_variance": False}  # for latents alone
    words |= {"data.ch_names": ("Oz", "O1"), "data.tmin": -0.1, "brain.width": 64, "fusion.width": 64}
    words |= {"targets.specs": ("vae:mini",), "targets.views": (), "targets.view_choice": "confidence"}
    words |= {
        "brain.people": "standardised",
        "brain.encoder": "eegproject",
        "fusion.kind": "gated",
        "align.mode": "reconstruction",
    }
    words |= {"align.betas": (0.5, 0.9), "align.loss": "brain-to-image", "align.learn_temperature": False}
    words |= {
        "prior.path": "a",
        "prior.pipeline": "b",
        "adapt.method": "all",
        "sampling.scheduler": "euler",
        "sampling.start": "latents",
    }
    words |= {
        "align.text_weight": 0.0,
        "sampling.strength": 0.9,
        "data.background": "grey",
    }  # captions are for retrieval alone
    changed, argv = {}, []
    for name, value in flatten(usual):
        if name in ("name", "targets.text", *others):
            continue
        new = words[name] if name in words else value + 1 if isinstance(value, int) else value / 2 + 0.01
        changed[name] = new
        option = f"--{name.replace('_', '-')}"
        if new is False:
            argv.append(option.replace(".", ".no-"))
        elif isinstance(new, tuple):
            argv += [option, *map(str, new)]
        else:
            argv.append(f"{option}={new}")
    config = parse(COMMANDS[command], ["--preset", "things-meg", *argv]).config
    expected = with_settings(usual, changed)
    assert dict(flatten(config)) == dict(flatten(expected)) | {"align.mode": "reconstruction"}


def test_dotted_settings_and_aliases_are_built_together(stages):
    """Each alone would be refused: subject 8 does not exist in the MEG study, widths must be equal."""
    argv = "train --data.study simulated-meg --subject 2 --brain.width 64 --fusion.width=64 --align.batch-size 32"
    assert main(argv.split()) == 0
    config = last_run(stages).config
    assert (config.data.study, config.data.subject) == ("simulated-meg", 2)
    assert (config.brain.width, config.fusion.width, config.align.batch_size) == (64, 64, 32)
    assert main(["retrieve", "--targets.specs", "vae:mini", "--out", "r", "--align.learn-temperature", "False"]) == 0
    assert last_run(stages).config.targets.specs == ("vae:mini",)
    assert last_run(stages).config.align.learn_temperature is False


@pytest.mark.parametrize("name", WORDS)
def test_a_misspelt_word_is_refused_at_once(name, tmp_path, monkeypatch, capsys):
    """Through `hvf train` and a script's options: exit code 2, one line, nothing written."""
    monkeypatch.chdir(tmp_path)
    start = time.process_time()
    misspelt = WORDS[name][0][:-1]
    option = f"--{name.replace('_', '-')}"
    assert main(["train", option, misspelt]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"{name} is {misspelt!r}; " in lines[0]
    with pytest.raises(HvfError, match=f"{name} is '{misspelt}'"):
        parse(StudyOptions, [f"{option}={misspelt}"])
    assert time.process_time() - start < 1
    assert list(tmp_path.iterdir()) == []


def test_run_names_are_readable_and_differ():
    mini = presets.mini()
    names = [
        run_name(with_settings(presets.in_mode(mini, settings.pop("align.mode", "retrieval")), settings))
        for settings in (
            {},
            {"data.study": "simulated-meg", "data.subject": 2},
            {"align.seed": 1, "sampling.seed": 1},
            {"align.mode": "reconstruction", "sampling.steps": 4},
            {"targets.specs": ("vae:mini",)},
            {"data.study": "files", "data.trials": "/a/responses_avg_201025.npy", "data.images": "/a/x.zip"},
        )
    ]
    assert names == [
        "sub-08-eeg",
        "sub-02-meg",
        "sub-08-eeg-seed-1",
        "sub-08-eeg-reconstruction-steps-4",
        "sub-08-eeg-vae-mini",
        "responses_avg_201025",
    ]
    things = with_settings(presets.things_eeg(), {"data.trials": "/a/sub-08-epo.fif"})
    assert run_name(things) == "things-eeg-sub-08-epo"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("recnstruct", "unknown command 'recnstruct'; did you mean 'reconstruct'?"),
        ("dream", "unknown command 'dream'; there is reconstruct, retrieve, train"),
        ("reconstruct --subjet 3", "hvf reconstruct has no option '--subjet'; did you mean '--subject'?"),
        ("retrieve --steps=3", "hvf retrieve has no option '--steps'; did you mean '--sampling.steps'?"),
        (
            "train --align.batchsize 3",
            "no option '--align.batchsize'; did you mean '--align.batch-size'?",
        ),
        ("train --batch-size 3", "hvf train has no option '--batch-size'; did you mean '--align.batch-size'?"),
        ("train --align.batch-size many", "--align.batch-size takes a whole number, not 'many'"),
        ("train --align.learning-rate much", "--align.learning-rate takes a number, not 'much'"),
        ("train --align.epochs", "--align.epochs needs a value"),
        ("train --align.learn-temperature maybe", "is a switch: give it alone, or as --align.no-learn-temperature"),
        ("train --align.epochs 0", "align.epochs must be at least 1, not 0"),
        ("train --brain.width 512", "brain.width 512 and fusion.width 256 must be equal"),
        ("embed --targets.spec vae:mini", "did you mean '--targets.specs'?"),
        ("reconstruct --preset minni", "unknown preset 'minni'; did you mean 'mini'?"),
        ("reconstruct --study simulated-ee", "did you mean 'simulated-eeg'?"),
        ("train --mode retreival", "did you mean 'retrieval'?"),
        ("retrieve --targets.specs openclp:mini-vit", "unknown kind 'openclp'; did you mean 'openclip'?"),
        ("train --targets openclip:mini-vitt", "there is no 'mini-vitt'; did you mean 'mini-vit'?"),
        ("train --targets vae:mini vae:mini:flat", "targets.specs names vae:mini twice"),
        ("train --targets.views fovaa51", "unknown view 'fovaa51'"),
        ("train --targets.text txt:mini-vit --align.text-weight 0.1", "written text:NAME/WEIGHTS"),
        ("train --align.no-learn-temperature=true", "--align.no-learn-temperature is a switch: give it alone"),
        ("train --preset mini --preset minni", "unknown preset 'minni'; did you mean 'mini'?"),
        ("train --preset= --subject 8", "unknown preset ''"),
        ("train --data.tmax 0.001", "no sample at data.sfreq"),
        ("reconstruct --subject 11", "subject 11 does not exist: simulated-eeg has subjects 1 to 10"),
        ("reconstruct --subject eight", "--subject"),
        ("reconstruct --subject", "--subject"),
        ("reconstruct 8", "8"),
        ("retrieve --targets", "targets.specs is empty"),
        ("reconstruct --targets vae:mini", "--targets cannot be chosen for drawing: the prior decides"),
        ("train --mode reconstruction --targets vae:mini", "--targets cannot be chosen for drawing"),
        ("explore", "name one run folder, or two to compare"),
        ("retrieve --trials no.npy --images no", "data.trials: no such file or folder: "),
        ("retrieve --preset things-eeg", "data.trials is missing: give --trials FILE and --images FOLDER-OR-ZIP"),
        ("retrieve --trials no.npy --study simulated-eeg", "--trials and --images need --study files"),
        ("embed --images no", "--images: no such file or folder: no"),
        ("embed --preset things-eeg", "give --images FOLDER-OR-ZIP"),
        ("evaluate", "RUN"),
        ("evaluate no", "no is not a run folder: there is no such folder"),
        ("train --epochs ten", "--epochs takes a whole number, not 'ten'"),
        ("decode no --trials no.npy --level most", "--level takes a number, not 'most'"),
        ("data doctor no --images", "--images needs a value"),
        ("data prepare recording my.vhdr", "'my.vhdr' belongs to no option: --help lists them"),
        ("data prepare recording --root no", "--file is missing: name the recording, such as my.vhdr"),
        ("data prepare things-eeg", "--root is missing: name the folder that holds the things-eeg recordings"),
        ("report", "name at least one run folder"),
    ],
)
def test_refusals_are_one_line_and_write_nothing(stages, tmp_path, capsys, argv, said):
    assert main(argv.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("hvf: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert list(tmp_path.iterdir()) == []
    assert stages.calls == []


def test_a_stage_that_refuses_its_input_leaves_no_folder(stages, tmp_path, capsys):
    def refuse(run, **scalings):
        raise HvfError("mine.npy has 3 trials, photos has 4 images")

    stages.module.retrieve_run = refuse
    assert main(["retrieve"]) == 2
    assert capsys.readouterr().err == "hvf: mine.npy has 3 trials, photos has 4 images\n"
    assert list(tmp_path.iterdir()) == []


def test_a_run_with_other_settings_is_not_overwritten(stages, capsys):
    assert main(["retrieve", "--out", "run"]) == 0
    before = (Path("run") / "config.json").read_text()
    assert main(["retrieve", "--out", "run", "--epochs", "2"]) == 2
    assert "run holds a run with align.epochs 25, not 2: choose another --out" in capsys.readouterr().err
    assert (Path("run") / "config.json").read_text() == before
    assert main(["retrieve", "--out", "run"]) == 0


def test_out_that_cannot_be_written(stages, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["retrieve", "--out", "file/run"]) == 2
    assert "a part of this path is a file" in capsys.readouterr().err
    assert stages.calls == []


def test_evaluate_says_what_is_wrong(stages, capsys):
    main(["retrieve", "--out", "run"])
    assert main(["evaluate", "run"]) == 0
    stages.module.evaluate_run = lambda run: ["top1 was 0.5, is 0.4"]
    assert main(["evaluate", "run"]) == 1
    assert capsys.readouterr().err == "hvf: top1 was 0.5, is 0.4\n"


def test_report(stages, capsys):
    main(["retrieve", "--out", "a"])
    main(["train", "--out", "b"])
    assert main(["report", "a"]) == 0
    assert stages.calls[-1] == ("write", ((Path("a"),), Path("a/report.html"), None))
    assert main(["report", "a", "b", "--out", "table.tex", "--published", "things-eeg"]) == 0
    assert stages.calls[-1] == ("write", ((Path("a"), Path("b")), Path("table.tex"), "things-eeg"))
    assert "b is better\nwrote table.tex" in capsys.readouterr().out


def test_ctrl_c_is_one_line_and_130(stages, capsys):
    def interrupted(run):
        raise KeyboardInterrupt

    stages.module.train_run = interrupted
    assert main(["train"]) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_ctrl_c_for_real(tmp_path):
    """A real SIGINT while a stage works."""
    code = (
        "import signal, sys, time, types; from hvf import cli, experiments\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs inherit it ignored
        "d = types.ModuleType('stages'); sys.modules['hvf.experiments.stages'] = experiments.stages = d\n"
        "d.train_run = lambda run: (run.write_json('begun.json', 1), time.sleep(30))\n"
        "sys.exit(cli.main(['train', '--out', sys.argv[1]]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], cwd=ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 20
    while not (tmp_path / "run" / "begun.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.decode() == "hvf: interrupted; the same command continues from what is finished\n"
    assert sorted(os.listdir(tmp_path / "run")) == ["begun.json", "config.json"]


def test_threads_that_wait_leave_their_core_to_others(monkeypatch, capsys):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    for chosen, then in (
        ((None, None), ("PASSIVE", "1000")),
        (("ACTIVE", None), ("ACTIVE", None)),  # somebody's own choice
        ((None, "7"), ("PASSIVE", "7")),
    ):
        for name, value in zip(names, chosen, strict=True):
            monkeypatch.setenv(name, value or "")
            if value is None:
                monkeypatch.delenv(name)
        assert main(["report"]) == 2
        assert tuple(map(os.environ.get, names)) == then


def test_python_m_hvf(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "hvf", "evaluate", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"hvf: {tmp_path} is not a run folder: it has no config.json\n"
