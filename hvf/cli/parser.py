"""The one parser of `hvf` and the scripts: options into a dataclass, dotted settings into its configuration.

Options are the fields of a dataclass, read by tyro. Where the dataclass is `Configured`, every setting of the
configuration is an option too (`--align.batch-size 64`); the configuration is built once, from the preset and all that
was given. Each mistake is one HvfError, with the nearest option or word.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar, cast

import tyro
from tyro.conf import Fixed, Suppress, arg

from hvf import presets
from hvf.config import Config, DataConfig, flatten, with_settings
from hvf.registry import FEATURES, RANDOM, HvfError, did_you_mean, feature_file
from hvf.schema.bounds import check_options
from hvf.vision.backbones.base import PATH
from hvf.vision.specs import check_targets, parse_spec

Options = TypeVar("Options")

# The settings that each short option stands for, wherever it is an option.
ALIASES: dict[str, tuple[str, ...]] = {
    "study": ("data.study",),
    "subject": ("data.subject",),
    "test_images": ("data.test_images",),
    "targets": ("targets.specs",),
    "mode": ("align.mode",),
    "epochs": ("align.epochs",),
    "members": ("members.trainings",),
    "steps": ("sampling.steps",),
    "guidance": ("sampling.guidance",),
    "rounds": ("sampling.rounds",),
    "start": ("sampling.start",),
    "strength": ("sampling.strength",),
    "prior": ("prior.path",),
    "pipeline": ("prior.pipeline",),
    "seed": ("align.seed", "sampling.seed"),
}


class Dotted(dict[str, Any]):
    """Settings by their dotted names, as {"align.batch_size": 64}."""


_CLOSED = arg(constructor=str)  # never called: it keeps tyro from looking inside a field that is no option


@dataclass(frozen=True)
class Configured:
    """Options of a command or a script that has a configuration: `base` with the settings that were given."""

    base: Annotated[Config, Fixed, Suppress, _CLOSED] = field(default_factory=presets.mini)  # of the preset
    preset: Annotated[str, arg(metavar="NAME")] = "mini"  # a whole configuration: mini, things-eeg, things-meg
    settings: Annotated[Dotted, Fixed, Suppress, _CLOSED] = field(default_factory=Dotted)  # dotted ones, by name

    @cached_property
    def config(self) -> Config:
        """The configuration, built once: settings that fit only together may be given in any order.

        Files and folders are named by absolute paths: a run is opened from elsewhere too. Raises HvfError where an
        option and a dotted setting say different things.
        """
        return self.in_mode()

    def in_mode(self, mode: str | None = None) -> Config:
        """`config`, with what was given put over the preset's settings in another mode (`align.mode`)."""
        asked = self.aliased()
        for name, value in self.settings.items():
            if name in asked and asked[name] != value:
                raise HvfError(
                    f"{_option(name)} {_words(value)} contradicts {_words(asked[name])}, which another option or the "
                    "command itself asks for: leave one of them out"
                )
        given = {**self.implied(), **self.settings, **asked} | ({} if mode is None else {"align.mode": mode})
        config = presets.in_mode(self.base, given.get("align.mode", self.base.align.mode), given)
        named: dict[str, Any] = {"targets.specs": tuple(map(_spec_absolute, config.targets.specs))}
        for name, place in (("data.trials", config.data.trials), ("data.images", config.data.images)):
            named |= {} if place is None else {name: _absolute(place)}
        if config.brain.weights not in (None, RANDOM):
            named["brain.weights"] = _absolute(config.brain.weights)
        for name, place in (("prior.path", config.prior.path), ("prior.pipeline", config.prior.pipeline)):
            named |= {name: _absolute(place)} if place != "mini" and os.path.exists(os.path.expanduser(place)) else {}
        return with_settings(config, named)

    def implied(self) -> dict[str, Any]:
        """The dotted settings that others bring along, unless they are given themselves."""
        given = {**self.settings, **self.aliased()}
        implied: dict[str, Any] = (
            {"data.study": "files"} if {"data.trials", "data.images"} & self.settings.keys() else {}
        )
        if (implied | given).get("data.study", self.base.data.study) == "files":
            asked = [name for name in ("sfreq", "tmin", "tmax") if f"data.{name}" in given]
            usual, preset = DataConfig(), self.base.data
            if asked and (preset.tmin, preset.tmax) != (usual.tmin, usual.tmax):  # the preset asks for its window
                asked = list(dict.fromkeys([*asked, "tmin", "tmax"]))
            implied["data.asked"] = tuple(asked)
        return implied

    def given(self, but: Sequence[str] = ()) -> list[str]:
        """The options and dotted settings that were given, but for the options named."""
        preset = [] if self.preset == "mini" else ["--preset"]
        plain = [f.name for f in fields(self) if f.name not in (*but, "base", "preset", "settings")]
        short = [_option(name) for name in plain if getattr(self, name) is not None]
        return [*short, *preset, *map(_option, self.settings)]

    def aliased(self) -> dict[str, Any]:
        """The dotted settings that the short options stand for."""
        short = {f.name: getattr(self, f.name) for f in fields(self) if f.name in ALIASES}
        return {name: value for key, value in short.items() if value is not None for name in ALIASES[key]}


def _absolute(text: str) -> str:
    """A path, or a file of features, as it is found from anywhere."""
    file = feature_file(text) if text.startswith(FEATURES) else None
    return str(file.absolute()) if file else os.path.abspath(os.path.expanduser(text))


def _spec_absolute(text: str) -> str:
    """A feature spec whose folders and files are found from anywhere."""
    if text.startswith(FEATURES):
        return _absolute(text)
    spec = parse_spec(text)
    for name in (spec.name, spec.weights):
        if name and PATH.match(name) and not os.path.isabs(name):
            text = text.replace(name, _absolute(name), 1)  # what is found from anywhere already stays as it is written
    return text


def _words(value: Any) -> str:
    """A setting's value as it is given."""
    return " ".join(map(str, cast("tuple[Any, ...]", value))) if isinstance(value, tuple) else str(value)


def parse(command: type[Options], argv: Sequence[str] | None = None, prog: str | None = None) -> Options:
    """The options of a command line (by default this process's) that is called ``prog`` in messages and help.

    The fields of the dataclass ``command`` are the options, the comments beside them their help. Raises HvfError if an
    option does not exist, naming the nearest, or a value does not fit: a setting, an encoder and a view, too.
    SystemExit after ``--help``, or ``--help-settings`` of a `Configured` command.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if not issubclass(command, Configured):
        return read_options(command, None, words, prog)
    name = preset_named(words, "mini")
    base = presets.get(name)
    if "--help-settings" in words:
        _tyro(Config, base, ["--help"], prog)
    settings, words = _take_settings(command, words, prog)
    options = read_options(command, command(base=base, preset=name, settings=settings), words, prog)
    check_targets(options.config.targets)
    return options


def preset_named(words: Sequence[str], first: str) -> str:
    """The word after the last --preset, as of any option given twice; `first` if there is none."""
    name = first
    for word, following in zip(words, [*words[1:], ""], strict=False):
        option, equals, value = word.partition("=")
        if option == "--preset":
            name = value if equals else following
    return name


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _take_settings(command: type, words: Sequence[str], prog: str | None) -> tuple[Dotted, list[str]]:
    """({dotted setting: value}, the words that are left)."""
    hints = dict(_setting_types(Config))
    names = {_option(name): name for name in hints}
    negated = {_option(re.sub(r"\.(?=\w+$)", ".no-", name)): name for name, hint in hints.items() if hint is bool}
    sections = tuple(f"--{f.name}." for f in fields(Config) if is_dataclass(f.default_factory))
    settings = Dotted()
    left: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        option, equals, value = word.partition("=")
        option = option.replace("_", "-")
        if not option.startswith(sections):
            left.append(word)
            continue
        if option in negated:
            if equals:
                raise HvfError(f"{option} is a switch: give it alone, not {value!r}")
            settings[negated[option]] = False
            continue
        if option not in names:
            raise HvfError(_no_option(option, command, prog))
        hint = hints[names[option]]
        taken = [value] if equals else []
        while not equals and queue and not queue[0].startswith("--") and len(taken) < _length(hint):
            taken.append(queue.pop(0))
        settings[names[option]] = _value(hint, taken, option)
    return settings, left


def _setting_types(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, type without bounds) of every setting."""
    for name, hint in typing.get_type_hints(cls).items():
        if is_dataclass(hint):
            yield from _setting_types(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            yield prefix + name, hint


def _length(hint: Any) -> float:
    """How many words a value has, at most."""
    inner = [a for a in typing.get_args(hint) if a is not type(None)] if _optional(hint) else [hint]
    return float("inf") if typing.get_origin(inner[0]) is tuple else 1


def _optional(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _value(hint: Any, words: Sequence[str], option: str) -> Any:
    """The words after an option as its type; words of a list and bounds are checked by the configuration."""
    if _optional(hint):
        inner = next(a for a in typing.get_args(hint) if a is not type(None))
        return None if list(words) == ["None"] else _value(inner, words, option)
    if typing.get_origin(hint) is tuple:
        return tuple(_value(typing.get_args(hint)[0], [word], option) for word in words)
    if hint is bool:
        if words and words[0].lower() not in ("true", "false"):
            raise HvfError(f"{option} is a switch: give it alone, or as {option.replace('.', '.no-', 1)}")
        return not words or words[0].lower() == "true"
    if not words:
        raise HvfError(f"{option} needs a value")
    kind = str if typing.get_origin(hint) is Literal else hint
    try:
        return kind(words[0])
    except ValueError:
        raise HvfError(f"{option} takes {'a whole number' if kind is int else 'a number'}, not {words[0]!r}") from None


def _options_of(command: type, prefix: str = "") -> Iterator[str]:
    """The options of a dataclass, nested ones with their prefix."""
    hints = typing.get_type_hints(command, include_extras=True)
    for f in fields(command):
        hint, rules = hints[f.name], getattr(hints[f.name], "__metadata__", ())
        kind = typing.get_args(hint)[0] if rules else hint
        if Fixed in rules:
            continue
        if is_dataclass(kind):
            nameless = any(getattr(rule, "name", None) == "" for rule in rules)
            yield from _options_of(typing.cast(type, kind), prefix if nameless else f"{prefix}{f.name}.")
        else:
            yield _option(prefix + f.name)


def _no_option(option: str, command: type, prog: str | None) -> str:
    """The message for an option that does not exist: the nearest, or the list without dotted settings."""
    own = [*_options_of(command), "--help"]
    dotted = [_option(name) for name, _ in flatten(presets.mini())] if issubclass(command, Configured) else []
    leaves = [name for name in dotted if name.endswith(f".{option.removeprefix('--')}")]
    near = did_you_mean(option, [*own, *dotted]) if not leaves else f"; did you mean {leaves[0]!r}?"
    near = near if near.startswith("; did") else did_you_mean(option, own)
    return f"{prog} has no option {option!r}{near}" if prog else f"there is no option {option!r}{near}"


def read_options(
    command: type[Options], default: Options | None, words: Sequence[str], prog: str | None = None
) -> Options:
    """`default` with the options that are given put in; raises as `parse` does."""
    known = [*_options_of(command), "--help"]
    for word in words:
        option = word.split("=")[0].replace("_", "-")
        if option.startswith("--") and option not in known and option.replace("no-", "", 1) not in known:
            raise HvfError(_no_option(option, command, prog))
    options = _tyro(command, default, words, prog)
    check_options(options)
    return options


def described(command: type[Any]) -> str:
    """What a command does, a paragraph a line, and an example, as its docstring says."""
    said, _, example = inspect.cleandoc(command.__doc__ or "").partition("\n\nExample: ")
    if issubclass(command, Configured):
        said += " Every setting is an option too, as --align.batch-size 64; --help-settings lists them."
    paragraphs = [re.sub(r"\s+", " ", part) for part in said.split("\n\n")]
    return "\n\n".join([*paragraphs, *([f"Example: {example.strip()}"] if example else [])])


class _Help(io.StringIO):
    """Help on its way to the terminal, in whose colours it is written; tyro does not fold what stands above its box."""

    encoding: Any = property(lambda self: getattr(sys.__stdout__, "encoding", None))

    def isatty(self) -> bool:
        return sys.__stdout__ is not None and sys.__stdout__.isatty()

    def folded(self) -> str:
        lines = self.getvalue().split("\n")
        box = next((i for i, line in enumerate(lines) if line.startswith(("╭", " "))), len(lines))
        as_it_is = ("usage", "Example", "\x1b")
        above = [line if line.startswith(as_it_is) else textwrap.fill(line, 80) for line in lines[:box]]
        return "\n".join([*above, *lines[box:]])


def _tyro(command: type[Options], default: Options | None, words: Sequence[str], prog: str | None) -> Options:
    """tyro's answer, its complaints as one line."""
    about = described(command)
    settings: dict[str, Any] = {} if default is None else {"default": default}
    complaint = io.StringIO()
    page = _Help()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(page):
            cli: Any = tyro.cli
            return cli(command, args=list(words), prog=prog, description=about, **settings)
    except SystemExit as stop:
        if not stop.code:
            print(page.folded(), end="")
            raise
    raise HvfError(_one_line(complaint.getvalue()))


def _one_line(box: str) -> str:
    """A complaint of tyro's, out of its box and before its advice; a wrong word of a list gets the nearest."""
    lines: list[str] = []
    for line in (line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))):
        if not line or line.startswith("─"):
            break
        lines.append(line)
    text = " ".join(lines)
    choice = re.search(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*)\)", text)
    if choice:
        word, option, known = choice.groups()
        words = re.findall(r"[^', ]+", known)
        return f"{option} is {word!r}{did_you_mean(word, words)}"
    if over := re.fullmatch(r"Unrecognized options: (.*)", text):
        return f"{over[1]!r} belongs to no option: --help lists them"
    if number := re.fullmatch(
        r"Error parsing (\S+): (invalid literal for int|could not convert string to float).*: (.*)", text
    ):
        return f"{number[1]} takes {'a whole number' if 'int' in number[2] else 'a number'}, not {number[3]}"
    if missing := re.match(r"Missing value for argument '([^']*)'", text):
        return f"{missing[1]} needs a value"
    return text
