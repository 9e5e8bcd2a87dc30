"""What commands print: where the results are, and the figures as a table."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hvf.runs import Run

if TYPE_CHECKING:
    from hvf.experiments.decoding import Decoded
    from hvf.experiments.live import State


def print_run(run: Run, sentences: Sequence[str] | None = None) -> int:
    """Say where the results are, show the figures and what is wrong with them (by default as they say); exit code 0."""
    from hvf.evaluation.catalogue import findings, label, number
    from hvf.experiments.caveats import caveats, is_simulated

    simulated = is_simulated(run)
    print_figures(run.metrics(), run.path.name + (" (simulated)" if simulated else ""))
    for sentence in caveats(run.config, simulated) if run.has("images/brain") else []:
        print(sentence)
    about: dict[str, Any] = run.read_json("evaluation.json") if run.has("evaluation.json") else {}
    for name, entry in about.get("of_seen", {}).items():
        print(f"{label(name)}, read from the seen pictures themselves: {number(entry['value'], name)}")
    print(f"wrote {run.path}")
    for name in ("metrics.json", "grid.png", "report.html"):
        if run.has(name):
            print(f"  {run.path / name}")
    for finding in findings(run.metrics()) if sentences is None else sentences:
        print(f"hvf: {finding}", file=sys.stderr)
    return 0


def print_answers(decoded: Decoded, most: int = 10) -> None:
    """The first answers of the first trials, what was done to the trials, and the figures where images are known."""
    from rich.console import Console
    from rich.table import Table

    answers, summary = decoded.answers, decoded.summary
    simulated = " (simulated)" if summary["simulated"] else ""
    table = Table(title=f"{summary['n_trials']} trials among {summary['gallery']}{simulated}", title_justify="left")
    table.add_column("trial", overflow="fold")
    table.add_column("first answer", overflow="fold")
    for column in ("similarity", "probability", "set size"):
        table.add_column(column, justify="right")
    for i in range(min(most, len(decoded.trials.names))):
        p = answers.probability_NK[i, 0]
        sure = ["", ""] if p != p else [f"{p:.3f}", str(answers.set_size_N[i])]
        name = answers.gallery.ids[answers.top_NK[i, 0]]
        note = " (says nothing)" if answers.says_nothing_N[i] else ""
        table.add_row(decoded.trials.names[i], f"{name}{note}", f"{answers.similarity_NK[i, 0]:.3f}", *sure)
    Console().print(table)
    if len(decoded.trials.names) > most:
        print(f"and {len(decoded.trials.names) - most} more trials")
    for note in summary["notes"]:
        print(f"  {note}")
    if answers.calibrated:
        print(
            f"  sets of {answers.level:.0%} hold {summary['mean_set_size']:.1f} of {summary['gallery_size']} images on "
            f"average; {summary['says_nothing']} trials say nothing"
        )
    print_figures(summary["metrics"], f"{summary['known']} trials whose images are known{simulated}")


def print_live(state: State, most: int = 5) -> None:
    """The first answers to a stimulus after one more presentation, in a line."""
    answers = state.answers
    found: list[str] = []
    for column, p in zip(answers.top_NK[0, :most].tolist(), answers.probability_NK[0, :most].tolist(), strict=True):
        found.append(str(answers.gallery.ids[column]) + ("" if p != p else f" {p:.0%}"))
    count = f"{state.presentations} presentation{'s' if state.presentations > 1 else ''}"
    nothing = " (says nothing)" if answers.says_nothing_N[0] else ""
    print(f"{state.stimulus}, {count}{nothing}: {', '.join(found)}", flush=True)


def print_evidence(evidence: Mapping[str, Any], run: Run) -> None:
    """Figures against the number of trials averaged, a figure a line."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from hvf.evaluation.catalogue import label, number
    from hvf.experiments.caveats import is_simulated

    title = f"{run.path.name}: means over single trials{' (simulated)' if is_simulated(run) else ''}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("trials", justify="right", no_wrap=True)
    table.add_column("figure", overflow="fold")
    for column in ("value", "95 % interval"):
        table.add_column(column, justify="right", no_wrap=True)
    for line in evidence["repeats"]:
        table.add_section()
        for i, (name, entry) in enumerate((name, entry) for name, entry in line["figures"].items() if entry):
            low_high = " to ".join(number(x, name).removesuffix(" %") for x in entry["ci95"])
            trials = "" if i else str(line["trials"])
            table.add_row(trials, label(name), number(entry["value"], name), low_high)
    Console().print(table)
    chance = evidence["chance"]["top1"]["value"]
    print(f"chance: top-1 {number(chance, 'top1')} among {evidence['images']} images")


def print_adapted(summary: Mapping[str, Any]) -> None:
    """How a decoder was moved to a new person, and what it finds of their validation images, before and after."""
    simulated = " (simulated)" if summary["simulated"] else ""
    if summary["validation"] is None:
        print(f"no image was learnt from; each person's trials by brain.people {summary['people']}{simulated}")
    else:
        before, after = summary["before"], summary["validation"]
        epoch = f", epoch {summary['epoch']}" if summary["epoch"] else ""
        print(
            f"{summary['images']} images of {summary['concepts']} concepts, method {summary['method']}{epoch}: top-1 "
            f"among {after['validation_n']} validation images {before['validation_top1']:.3f} before, "
            f"{after['validation_top1']:.3f} after{simulated}"
        )
    for note in summary["notes"]:
        print(f"  {note}")


def print_not_computed(reasons: Mapping[str, str]) -> None:
    """Each figure that could not be computed, with the reason."""
    for name, reason in reasons.items():
        print(f"not computed: {name}: {reason}")


def print_figures(metrics: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Figures as a table: value, interval, chance, n; transductive ones in a table of their own.

    Pictures come before retrieval, the brain's row before all others, and of pictures first whether they show the right
    kind of object: every other figure of a picture has a higher floor. Other figures of a row keep the order they have.
    """
    if not metrics:
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from hvf.evaluation.catalogue import (
        chance_name,
        is_transductive,
        label,
        number,
        picture_metrics,
        retrieval_metrics,
    )

    place = partial(_place, [*picture_metrics(), *retrieval_metrics()])
    alone = [name for name in metrics if not is_transductive(name)]
    apart = [name for name in metrics if is_transductive(name)]
    for names, of in ((alone, title), (apart, f"{title}: transductive, all test trials at once")):
        table = Table(title=of, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for column in ("", "figure"):
            table.add_column(column, overflow="fold")
        for column in ("value", "95 % interval", "chance", "n"):
            table.add_column(column, justify="right", no_wrap=True)
        before = ("", "")
        for name in sorted((n for n in names if not n.startswith("chance/")), key=place):
            section, row, _ = name.split("/", 2) if name.count("/") > 1 else ("", *name.rpartition("/")[::2])
            if before[0] not in ("", section):
                table.add_section()
            entry, chance = metrics[name], metrics.get(chance_name(name))
            low_high = " to ".join(number(x, name).removesuffix(" %") for x in entry["ci95"]) if entry["ci95"] else ""
            table.add_row(
                _row_name(section, row) if (section, row) != before else "",
                label(name),
                number(entry["value"], name),
                low_high,
                number(chance["value"], name) if chance else "",
                str(entry["n"] or ""),
            )
            before = (section, row)
        if table.row_count:
            Console().print(table)


SECTIONS = ("reconstruction", "retrieval", "transductive", "validation", "confidence")
ROWS = ("brain", "ceiling", "floor")


def _place(order: Sequence[str], name: str) -> tuple[int, int, str, int]:
    """Where a figure stands in the table, the metrics of a row in their order."""
    section, _, rest = name.partition("/")
    row, _, metric = rest.rpartition("/")
    own = order.index(metric) if metric in order else len(order)
    places = [part.index(word) if word in part else len(part) for part, word in ((SECTIONS, section), (ROWS, row))]
    return places[0], places[1], row, own


def _row_name(section: str, row: str) -> str:
    """What a row is called, with what its figures are of where that is not the test."""
    if section == "confidence":
        means = f"{row.removeprefix('brain_')} trials" if row.startswith("brain_") else row
        return "sure: " + {"brain": "brain", "permuted": "shuffled"}.get(row, means)
    named = {"floor": "floor (shuffled)", "ceiling": "ceiling (image)"}.get(row, row)
    return "validation" if (section, row) == ("validation", "brain") else named
