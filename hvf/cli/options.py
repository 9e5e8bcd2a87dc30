"""What scripts share: options read into a dataclass, mistakes told in one line, whose data."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hvf.config import HvfError, did_you_mean, flatten

Settings = TypeVar("Settings")


def parse_settings(default: Settings, argv: Sequence[str] | None = None, **tyro_settings: Any) -> Settings:
    """``default`` with the options of a command line (none: this process's) put in.

    Raises HvfError for an option that does not exist, with the nearest one, and for a value that does not fit;
    ``--help`` prints and ends the process. ``tyro_settings`` go to `tyro.cli`.
    """
    import tyro

    argv = sys.argv[1:] if argv is None else list(argv)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(type(default), default=default, args=argv, **tyro_settings)
    except SystemExit as stop:
        if not stop.code:
            raise
    names = [name.replace("_", "-") for name, _ in flatten(default)]
    known = [f"--{name}" for name in (*names, *(name.removeprefix("config.") for name in names), "help")]
    for word in argv:
        option = word.split("=")[0].replace("_", "-")
        if option.startswith("--") and option not in known and option.replace("no-", "") not in known:
            raise HvfError(f"there is no option {option!r}{did_you_mean(option, known)}")
    raise HvfError(_inside(complaint.getvalue()))


def parse_preset(
    presets: Mapping[str, Callable[[], Settings]], argv: Sequence[str] | None = None, first: str = "mini"
) -> Settings:
    """The preset that ``--preset`` names (none: ``first``), with the settings given beside it; see `parse_settings`."""
    argv = sys.argv[1:] if argv is None else list(argv)
    name = first
    for word, following in zip(argv, [*argv[1:], first], strict=False):
        if word == "--preset" or word.startswith("--preset="):
            name = word.partition("=")[2] or following
    if name not in presets:
        raise HvfError(f"there is no preset {name!r}{did_you_mean(name, presets)}")
    return parse_settings(presets[name](), argv)


def study_settings(
    subject: int | None, trials: Path | None, images: Path | None, study: str | None = None
) -> dict[str, Any]:
    """The settings of a configuration that a script's --subject, --trials, --images and --study stand for; None: not
    given.

    Paths are absolute, because a run is opened again from elsewhere. Raises HvfError for files of a simulated study.
    """
    if study not in (None, "files") and (trials or images):
        raise HvfError(f"--trials and --images need --study files, not {study!r}")
    settings: dict[str, Any] = {} if subject is None else {"data.subject": subject}
    settings |= {} if study is None else {"data.study": study}
    for name, path in (("trials", trials), ("images", images)):
        settings |= {} if path is None else {"data.study": "files", f"data.{name}": str(path.absolute())}
    return settings


def run_script(main: Callable[[Sequence[str] | None], object], argv: Sequence[str] | None = None) -> int:
    """Run a script's ``main`` on its arguments; the exit code: 0, or 2 after an HvfError, which is told in one line."""
    try:
        main(argv)
    except HvfError as error:
        print(f"hvf: {error}", file=sys.stderr)
        return 2
    return 0


def _inside(box: str) -> str:
    """What tyro says inside its box, before its advice."""
    said: list[str] = []
    for line in (line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))):
        if not line or line.startswith("─"):
            break
        said.append(line)
    return " ".join(said)
