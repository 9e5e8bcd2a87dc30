"""What scripts end with: every mistake in one line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hvf.cli.options import parse_preset, parse_settings, run_script, study_settings
from hvf.config import HvfError
from hvf.schema.bounds import Count, EachOnce, NotNegative, Positive, SomeEachOnce


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0


@dataclass(frozen=True)
class Parts:
    weight: NotNegative = 1.0


@dataclass(frozen=True)
class Ranges:
    """Options whose types tell what they may be."""

    count: Count | None = None
    share: float = 0.5
    words: EachOnce[str] = ()
    rates: SomeEachOnce[Positive] = (1.0,)
    parts: Parts = field(default_factory=Parts)


@dataclass(frozen=True)
class Outer:
    """Settings."""

    preset: str = "mini"
    max_steps: int = 3
    resume: bool = False
    inner: Inner = field(default_factory=Inner)


def test_options_are_read():
    read = parse_settings(Outer(), ["--max_steps", "7", "--resume", "--inner.rate=2"])
    assert (read.max_steps, read.resume, read.inner.rate) == (7, True, 2.0)
    assert parse_settings(Outer(resume=True), ["--no-resume"]).resume is False
    known = {"mini": Outer, "big": lambda: Outer("big", 100)}
    assert parse_preset(known, []).max_steps == 3
    assert parse_preset(known, ["--preset", "big"]).max_steps == 100
    assert parse_preset(known, ["--preset=big", "--max-steps", "1"]) == Outer("big", 1)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--count", "0"], "--count must be at least 1, not 0"),
        (["--share", "nan"], "--share must be a finite number, not nan"),
        (["--share=-inf"], "--share must be a finite number, not -inf"),
        (["--words", "a", "b", "a"], "--words must name each once, not ('a', 'b', 'a')"),
        (["--rates", "1", "0"], "--rates must be greater than 0, not 0.0"),
        (["--rates"], "--rates must name at least one, each once, not ()"),
        (["--parts.weight", "-1"], "--parts.weight must be at least 0, not -1.0"),
    ],
)
def test_options_are_held_to_the_ranges_of_their_types(argv, said):
    with pytest.raises(HvfError) as refused:
        parse_settings(Ranges(), argv)
    assert str(refused.value) == said
    fine = parse_settings(Ranges(), ["--count", "1", "--words", "a", "--rates", "0.5", "2", "--parts.weight", "0"])
    assert fine == Ranges(1, 0.5, ("a",), (0.5, 2.0), Parts(0.0))
    assert parse_settings(Ranges(), []) == Ranges()


def test_whose_data():
    assert study_settings(None, None, None) == {}
    assert study_settings(3, None, None) == {"data.subject": 3}
    here = {"data.trials": str(Path("a.npy").absolute()), "data.images": "/b"}
    assert study_settings(None, Path("a.npy"), Path("/b")) == {"data.study": "files", **here}
    assert study_settings(None, None, None, "simulated-meg") == {"data.study": "simulated-meg"}
    assert study_settings(None, Path("a.npy"), Path("/b"), "files") == {"data.study": "files", **here}
    with pytest.raises(HvfError, match="need --study files, not 'simulated-meg'"):
        study_settings(None, Path("a.npy"), None, "simulated-meg")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--max-stps", "3"], "there is no option '--max-stps'; did you mean '--max-steps'?"),
        (["--inner.rat", "3"], "did you mean '--inner.rate'?"),
        (["--max-steps", "many"], "many"),
        (["--preset", "bgi"], "there is no preset 'bgi'; did you mean 'big'?"),
    ],
)
def test_mistakes_take_one_line(argv, said, capsys):
    known = {"mini": Outer, "big": lambda: Outer("big", 100)}
    assert run_script(lambda words: parse_preset(known, words), argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("hvf: ")
    assert said in lines[0]


def test_other_errors_and_help_pass_through(capsys):
    def broken(argv):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_script(broken, [])
    with pytest.raises(SystemExit) as stopped:
        parse_settings(Outer(), ["--help"])
    assert stopped.value.code == 0
    assert run_script(lambda argv: None, []) == 0
    with pytest.raises(HvfError):
        parse_settings(Outer(), ["--nothing"])
