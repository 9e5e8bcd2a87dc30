"""What experiments over several seeds or random splits share: a run folder for each, and one for all of them.

An experiment is a dataclass of its own options. `run(config, out)` writes into its folder the combined `Result`, and
inside it a run folder per seed or split with the `Result` of that one, and returns the folder; a second call with the
same settings reads what is there and computes what is missing. `summary(folder)` gives the tables and lines to print.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from hvf.config import SUBJECTS, Config, HvfError
from hvf.experiments.data_digests import input_digests
from hvf.experiments.made_from import check_unchanged, stamped
from hvf.experiments.protocols import recording_name
from hvf.experiments.results import FILE, Entry, Result, as_json
from hvf.runs import Run
from hvf.vision.specs import short_names


def open_folder(out: Path | None, config: Config, name: str) -> Run:
    """The run folder of an experiment: ``out``, or runs/RECORDING-NAME. HvfError if it holds results of another."""
    run = Run.create(out or Path("runs") / f"{recording_name(config)}-{name}", config)
    for file in run.path.rglob(FILE):
        if (kind := Result.read(file.parent).kind) != name:
            raise HvfError(f"{file.parent} holds a result of kind {kind}, not {name}: choose another --out")
    return run


def each_repeat(
    run: Run,
    configs: Mapping[str, Config],
    test: Callable[[Run], Result],
    options: Mapping[str, Any] | None = None,
) -> list[Result]:
    """The results of all seeds or splits, computing those that are missing.

    Raises HvfError, before anything is computed, if a stored result has other settings or options, or was made from
    trials or images that have changed since.

    Parameters
    ----------
    run : Run
        The experiment's folder.
    configs : dict
        The settings of each seed or split, by the name of its folder (`hvf.experiments.protocols.repeats`).
    test : callable
        Trains and tests one of them, given its run folder.
    options : dict
        Options of the experiment that change its results and are not among the settings.
    """
    wanted: dict[str, Any] = as_json(options or {})
    for name, config in configs.items():
        if run.has(f"{name}/{FILE}"):
            stored = Result.read(run.path / name).details.get("options", {})
            for option, value in wanted.items():
                if stored.get(option) != value:
                    there = f"--{option} {stored.get(option, 'unknown')}, not {value}"
                    raise HvfError(f"{run.path} holds {name} with {there}: choose another --out")
            check_unchanged(run.path / name, input_digests(config))
    results = []
    for name, config in configs.items():
        part = Run.create(run.path / name, config)
        if not part.has(FILE):
            digests = input_digests(config)
            stamped(test(part).with_details(options=wanted), digests).write(part.path)
        results.append(Result.read(part.path))
    return results


def write_combined(run: Run, results: Iterable[Result]) -> Result:
    """Combine the results of all seeds or splits and write the `Result` of the experiment.

    Its details hold ``leads``: how much more often the main row is right than each other, on the same test items.
    """
    combined = Result.combined(results)
    leads = {row: combined.lead(combined.main, row) for row in combined.rows if row != combined.main}
    combined = combined.with_details(leads=leads)
    combined.write(run.path)
    return combined


def table_of_rows(result: Result, more: Mapping[str, Mapping[str, str]] | None = None) -> Table:
    """A table of a combined result's rows and chance; accuracies in %, with 95 % intervals over images.

    ``more`` are further columns: {heading: {row: text}}.
    """
    repeated = "training seeds" if result.config["data"]["study"] in SUBJECTS else "random splits"
    table = Table(title=f"{result.study.note}; {len(result.runs)} {repeated}", title_justify="left")
    table.add_column("row", overflow="fold")
    more = more or {}
    briefly, footnotes = short_names(result.rows)
    table.caption = "\n".join(footnotes) or None
    for heading in ("top-1 % [95 %]", "each", "top-5 % [95 %]", f"{result.main} leads by", "validation MRR", *more):
        table.add_column(heading, justify="right", overflow="fold")
    for name, row in result.rows.items():
        each = " ".join(f"{100 * value:.1f}" for value in row.each["top1"])
        lead = percent(result.details["leads"][name]) if name != result.main else ""
        cells = [percent(row.figures["top1"]), each, percent(row.figures["top5"]), lead]
        table.add_row(
            briefly[name], *cells, f"{row.validation['mrr']:.3f}", *(column.get(name, "") for column in more.values())
        )
    table.add_row("chance", percent(result.chance["top1"]), "", percent(result.chance["top5"]))
    return table


def percent(entry: Entry | None) -> str:
    """A share with its interval, if it has one, in percent; a dash for None.

    Examples
    --------
    >>> percent({"value": 0.9, "ci95": [0.8, 0.986], "n": 40})
    '90.0 [80.0, 98.6]'
    """
    if entry is None:
        return "–"
    interval = " [{:.1f}, {:.1f}]".format(*(100 * end for end in entry["ci95"])) if entry["ci95"] else ""
    return f"{100 * entry['value']:.1f}{interval}"
