"""`--help` and `--version`: every command, option and setting is found, explained, and fits a terminal."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import hvf
from hvf import cli
from hvf.cli import COMMANDS, GROUPS, data, main
from hvf.config import Config, flatten

ROOT = Path(__file__).resolve().parents[2]


def test_the_version_is_the_packages(capsys):
    for word in ("--version", "-V"):
        with pytest.raises(SystemExit) as stop:
            main([word])
        assert stop.value.code == 0
        assert capsys.readouterr().out == f"hvf {hvf.__version__}\n"


def test_help_lists_every_command(capsys):
    for argv in ([], ["--help"]):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert not stop.value.code
        out = capsys.readouterr().out
        assert all(f"\n  {name} " in out for name in (*COMMANDS, *GROUPS))
    for argv in (["data"], ["data", "--help"]):
        with pytest.raises(SystemExit):
            main(argv)
        out = capsys.readouterr().out
        assert all(f"\n  {name} " in out for name in data.COMMANDS)
    assert {"data": tuple(data.COMMANDS)} == GROUPS


def test_data_sets_are_asked_for_their_options_by_hvf_data_alone():
    code = (
        "import sys; from hvf.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print('hvf.data.datasets' in sys.modules)"
    )
    for argv, loaded in (["--help"], "False"), (["train", "--help"], "False"), (["data", "--help"], "True"):
        shown = subprocess.run(
            [sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert shown.stdout.splitlines()[-1] == loaded, argv


EVERY = {(name,): command for name, command in COMMANDS.items()}
EVERY |= {("data", name): command for name, command in data.COMMANDS.items()}
BY_PLACE = {"evaluate": {"run"}, "decode": {"decoder"}, "adapt": {"decoder", "adapt"}, "report": {"runs"},
            "explore": {"runs"}, "prepare": {"dataset"}, "doctor": {"path"}, "download": {"name"},
            "simulate": {"dataset"}, "export": {"run"}, "cite": {"run", "runs"}}  # fmt: skip


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_option_is_explained(capsys, words):
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    out = capsys.readouterr().out
    lines = [line.strip("│ ") for line in out.splitlines()]
    assert "{None}" not in out
    for f in fields(EVERY[words]):
        if f.name in BY_PLACE.get(words[-1], ()) or f.name in ("base", "settings"):  # no options
            continue
        at = next(i for i, line in enumerate(lines) if line.startswith(f"--{f.name.replace('_', '-')} "))
        assert len(" ".join(lines[at : at + 2]).split()[2:]) >= 3, lines[at]


def test_help_says_how_all_settings_are_listed(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert "--help-settings lists them" in text
    assert "--align." not in text.partition("╭")[2]
    assert len(text.splitlines()) < 45
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help-settings", "--preset", "things-eeg"])
    assert not stop.value.code
    text = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in text for name, _ in flatten(Config()))
    assert "(default: 1024)" in text


@pytest.mark.parametrize("command", [*COMMANDS, *(f"data {name}" for name in data.COMMANDS)])
def test_help_fits_a_terminal_and_gives_an_example_that_works(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    lines = capsys.readouterr().out.splitlines()
    (example,) = [line.removeprefix("Example: ") for line in lines if line.startswith("Example: ")]
    assert example.startswith(f"hvf {command} ")
    assert callable(cli._command(shlex.split(example)[1:]))
    assert [line for line in lines if len(line) > 80 and not line.startswith(("Example: ", "usage: "))] == []


def test_the_list_of_commands_fits_a_terminal(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
