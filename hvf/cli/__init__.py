"""The command line: each command resolves its options and calls what does the work.

What the work needs is imported inside the commands, so that `hvf --help` answers at once.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hvf.cli.adapt import Adapt
from hvf.cli.answers import Decode
from hvf.cli.decode import Reconstruct, Retrieve, Train
from hvf.cli.embed import Embed
from hvf.cli.endings import run_to_end
from hvf.cli.evaluate import Cite, Evaluate, Explore, Report
from hvf.cli.export import Export
from hvf.cli.parser import parse
from hvf.registry import HvfError, did_you_mean

COMMANDS: dict[str, type[Any]] = {
    "reconstruct": Reconstruct,
    "retrieve": Retrieve,
    "train": Train,
    "decode": Decode,
    "adapt": Adapt,
    "embed": Embed,
    "evaluate": Evaluate,
    "report": Report,
    "explore": Explore,
    "cite": Cite,
    "export": Export,
}
GROUPS = {"data": ("prepare", "doctor", "download", "simulate")}  # `hvf data prepare ...`


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code (`hvf.cli.endings`)."""
    # Read when torch is loaded. Its threads otherwise wait for one another by spinning; where anything else wants a
    # core, they spin while the one that they wait for cannot run, and drawing takes fifteen times as long. Here
    # they spin for a thousand turns: with none training takes a quarter longer where cores are free (docs/LOG.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Torch, diffusers and transformers make half a million objects that stay. They are not searched, over and over as
    # they are imported and once more at the end, for garbage among them: that takes a fifth of an import's time.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    for stream in (sys.stdout, sys.stderr):  # a shell without UTF-8 gets \xe9 for é, not a traceback
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return run_to_end(lambda: _command(list(sys.argv[1:] if argv is None else argv))())


def _command(argv: list[str]) -> Callable[[], int]:
    """The command that `argv` asks for, with its options. A misspelt one is answered with the nearest."""
    commands: Mapping[str, Any] = COMMANDS
    prog, about = "hvf", "Decode what a person saw from EEG or MEG."
    groups = GROUPS
    if argv and argv[0] == "data":  # its options are those of all data sets, which nothing else needs
        from hvf.cli import data

        prog, commands, about = "hvf data", data.COMMANDS, "Recordings: fetched, checked, and made into trials."
        groups, argv = {}, argv[1:]
    if argv[:1] in (["--version"], ["-V"]) and prog == "hvf":
        from hvf import __version__

        print(f"hvf {__version__}")
        raise SystemExit(0)
    if not argv or argv[0] in ("--help", "-h"):
        print(_overview(commands, groups, prog, about))
        raise SystemExit(0)
    name = argv[0]
    if name not in commands:
        raise HvfError(f"unknown command {name!r}{did_you_mean(name, [*commands, *groups])}")
    command: type[Any] = commands[name]
    return parse(command, argv[1:], f"{prog} {name}")


def _overview(commands: Mapping[str, Any], groups: Mapping[str, Sequence[str]], prog: str, about: str) -> str:
    """The commands, one line each."""
    lines = {name: command.__doc__.splitlines()[0] for name, command in commands.items()}
    lines |= {name: f"Recordings: {', '.join(group)}." for name, group in groups.items()}
    gap = 15 * " "
    listed = [textwrap.fill(f"  {name:12} {line}", 80, subsequent_indent=gap) for name, line in lines.items()]
    more = f"{prog} COMMAND --help says more, hvf --version which version it is."
    return "\n".join([f"usage: {prog} COMMAND ...", "", about, "", *listed, "", more])
