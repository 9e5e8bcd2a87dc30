"""Methods x subjects x seeds in one table, beside what the papers report; or one method's pictures.

    python eval/benchmark.py --methods hvf ubp nice ridge --subjects 1 8 --seeds 0 1 2    retrieval, simulated study
    python eval/benchmark.py --methods hvf ridge --trials DIR --images DIR --encoders published --preset things-eeg
    python eval/benchmark.py --subjects 1 8 10 --seeds 0 1 2          no method: what the preset retrieves and draws
    python eval/benchmark.py --suite things-eeg2-intra-v1 --trials DIR --images DIR     a named suite, the same for all

Each cell is a run folder of its own; a second call takes up the cells that are there, and several processes share them
(`accelerate launch`, or a job array over --methods, --subjects or --seeds with one --out): the table is of all cells
asked for. It goes to OUT/table.md and table.json. Published figures stand beside ours, labelled: they are of real
recordings, other pictures and other galleries: they show the field's scale, not what simulated ones compare with.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import PartialState

from hvf import methods
from hvf.cli.options import check_people, script, study_settings
from hvf.cli.parser import Configured, parse
from hvf.config import Config, HvfError, check_files, with_settings
from hvf.evaluation import statistics
from hvf.evaluation.catalogue import is_proportion
from hvf.evaluation.pictures import ROWS
from hvf.evaluation.scaling import check_scalings
from hvf.experiments import protocols, suites
from hvf.experiments.data_digests import input_digests
from hvf.experiments.made_from import check_unchanged, stamped
from hvf.experiments.repeated import percent
from hvf.experiments.results import FILE, Result
from hvf.experiments.stages import reconstruct_run
from hvf.registry import METHODS
from hvf.runs import Run, check_writable, write_atomic, write_json
from hvf.schema.bounds import EachOnce
from hvf.vision.processes import several_on_cpus
from hvf.vision.specs import check_targets, short_names

CONTROL = "trials permuted"

OWN = {  # dotted settings that an option of the benchmark says for every cell
    "data.study": "--study", "data.trials": "--trials", "data.images": "--images", "data.subject": "--subjects",
    "align.seed": "--seeds", "sampling.seed": "--seeds", "align.epochs": "--epochs",
}  # fmt: skip


@dataclass(frozen=True)
class Benchmark(Configured):
    """Compare methods, subjects and seeds in one table. Settings that are given hold for every method, over its own."""

    methods: tuple[str, ...] = ()  # names of hvf/methods.py, or "all"; none: what the preset itself retrieves and draws
    study: str | None = None  # a simulated study; the default is the preset's
    trials: Path | None = None  # your own responses: a file, or a folder of prepared subjects
    images: Path | None = None  # the images they answer: folder or zip
    subjects: tuple[int, ...] = (8,)  # of the study or the folder; a single file has one
    seeds: tuple[int, ...] = (0,)  # of training and of sampling; for a file without a split, the random split, too
    protocol: Literal["intra", "loso"] = "intra"  # train on this subject, or on all others
    encoders: Literal["published", "mini", "given"] = "mini"  # the papers', their mini stand-ins, or --specs
    specs: EachOnce[str] = ()  # with --encoders given: the targets of every method
    epochs: int | None = None  # of every method, instead of its own
    members: int | None = None  # of every method, trainings by other seeds that answer together
    control: bool = True  # a row for the first method on permuted trials
    scaling: EachOnce[str] = ()  # scores scaled, too: centred csls; apart, csls-transductive sinkhorn hungarian
    suite: str | None = None  # a named suite, which decides all but where the data are: hvf/experiments/suites.py
    out: Path = Path("runs/benchmark")  # run folders and the table

    def aliased(self) -> dict[str, Any]:
        members = {} if self.members is None else {"members.trainings": self.members}  # the others go to each cell
        return members | study_settings(None, self.trials, self.images, self.study)


def share_cells(configs: Mapping[Path, Config], compute: Callable[[Run], None]) -> None:
    """Compute this process's share of the cells, each in a run folder of its own, and wait for the other processes."""
    state = PartialState()
    for path, config in list(configs.items())[state.process_index :: state.num_processes]:
        compute(Run.create(path, config))
    state.wait_for_everyone()


def method_cells(options: Benchmark) -> dict[str, list[Result]]:
    """{row: result of each cell}; every row has the same cells."""
    names = tuple(METHODS) if options.methods == ("all",) else options.methods
    methods_of_rows = {name: name for name in names} | ({CONTROL: names[0]} if options.control else {})
    rows, configs = {}, {}
    for row, name in methods_of_rows.items():
        for subject, seed in itertools.product(options.subjects, options.seeds):
            path = options.out / f"{options.protocol}-{row.replace(' ', '-')}-sub-{subject:02d}-seed-{seed}"
            rows[path], configs[path] = row, _method_config(options, name, subject, seed)
    check_writable(options.out)
    scalings = check_scalings(options.scaling)
    people = None if options.protocol == "loso" else ()
    for path, config in configs.items():
        if (path / FILE).exists():
            there = Result.read(path)
            lacking = [n for n in scalings if f"{rows[path]}, {n}" not in {**there.rows, **there.transductive}]
            if lacking:
                raise HvfError(f"{path} was computed without --scaling {' '.join(lacking)}: choose another --out")
            check_unchanged(path, input_digests(config, people=people))

    def compute(run: Run) -> None:
        if not run.has(FILE):
            digests = input_digests(run.config, people=people)
            result = _fit_and_test(run.config, options.protocol, rows[run.path], scalings)
            stamped(result, digests).write(run.path)

    share_cells(configs, compute)
    return {row: [Result.read(path) for path in rows if rows[path] == row] for row in methods_of_rows}


def _method_config(options: Benchmark, name: str, subject: int, seed: int) -> Config:
    settings: dict[str, Any] = {"align.seed": seed, "align.mode": "retrieval"}
    settings |= study_settings(subject, options.trials, options.images, options.study)
    if options.trials is not None and not options.trials.is_dir():
        settings["data.split_seed"] = seed
    settings |= {"targets.specs": options.specs} if options.specs else {}
    config = methods.apply(name, with_settings(options.config, settings), options.encoders)
    config = with_settings(config, _set_over_methods(options))
    check_files(config)
    check_targets(config.targets)
    return config


def _set_over_methods(options: Benchmark) -> dict[str, Any]:
    """Settings that were given by name, and hold for every method."""
    rooms, set_already = ("brain.", "fusion.", "align."), ("align.seed", "align.mode")
    given = {k: v for k, v in options.settings.items() if k.startswith(rooms) and k not in set_already}
    return given | ({} if options.epochs is None else {"align.epochs": options.epochs})


def _fit_and_test(config: Config, protocol: Literal["intra", "loso"], row: str, scalings: Sequence[str] = ()) -> Result:
    """The result of one cell: a method on one subject with one seed, its epoch chosen on validation, tested once."""
    split, held_out = protocols.open_split(config, config.targets.specs, protocol)
    split = split.permuted(config.align.seed) if row == CONTROL else split
    choice = protocols.choose(split, config)
    name = f"sub-{config.data.subject:02d}-seed-{config.align.seed}"
    result = held_out.result("benchmark", config, training=protocol, run=name, main=row)
    result = result.with_row(row, held_out.row(choice, settings={"targets.specs": config.targets.specs}))
    for name, scaled in held_out.scaled(choice, split, config, scalings, row).items():
        result = result.with_scaled(scaled, f"{row}, {name}")
    return result


def method_table(result: Result, options: Benchmark) -> str:
    """The table as Markdown, with the protocol's label, what stood in for what, and the published columns."""
    label = f"{result.study.kind} {options.protocol}"  # of figures of the same kind of recording: of neurons none
    lines = [
        f"Protocol: {options.protocol}, {len(options.subjects)} subject(s) x {len(options.seeds)} seed(s), "
        f"{len(result.runs)} run(s) a row; {result.study.note}"
        + "".join(f"; {name} {value} for every method" for name, value in _set_over_methods(options).items())
        + ".",
        "Gallery: the plain test images through the method's own encoders; ties are misses; ridge's penalty is chosen "
        "on validation concepts. Intervals (95 %) draw test images again.",
        f"In every row: {methods.COMMON}",
        *(["Targets are those given, without a method's own views and captions."] * (options.encoders == "given")),
        "",
    ]
    works = {name: work for name, work in methods.works().items() if label in work.retrieval}
    title = f"method{' (simulated)' if result.study.simulated else ''}"
    columns = [title, "top-1 %", "top-5 %", "validation top-1 %"]
    columns += [f"published, real {label}, top-1/top-5 %", "selected by"] if works else []
    columns += ["decodes towards", "differs from its paper"]
    lines += [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]

    def of_paper(name: str) -> list[str]:
        work = works.get(name)
        told = ["–", ""] if work is None else [work.summary(label), work.selection(options.protocol)]
        return told if works else []

    targets = {name: row.settings.get("targets.specs", ()) for name, row in result.rows.items()}
    briefly, footnotes = short_names(spec for specs in targets.values() for spec in specs)
    for name, entries in method_rows(result).items():
        short = [briefly[spec] for spec in targets.get(name, ())]
        figures = [percent(entries.get(figure)) for figure in ("top1", "top5", "validation")]
        differs = METHODS[name].differs if name in METHODS else ""
        lines.append(f"| {' | '.join([name, *figures, *of_paper(name), ', '.join(short), differs])} |")
    for name in works:
        if name not in result.rows:
            lines.append(f"| {' | '.join([name, '–', '–', '–', *of_paper(name), '', ''])} |")
    if footnotes:
        lines += ["", "; ".join(footnotes) + "."]
    if result.transductive:
        about = "Transductive: all test trials at once, each answer hangs on the others; these compare with none above."
        lines += ["", about, "", "| method and scaling | top-1 % | top-5 % | top-1 % above the cosine's |"]
        lines += ["| --- | --- | --- | --- |"]
        for name, row in result.transductive.items():
            figures = [percent(row.figures.get(figure)) for figure in ("top1", "top5", "top1_gain")]
            lines.append(f"| {' | '.join([name, *figures])} |")
    if options.encoders == "mini":
        swaps = "; ".join(f"{real} → {mini}" for real, mini in methods.STAND_INS.items())
        lines += ["", f"Mini encoders stand in for the papers': {swaps}."]
    return "\n".join(lines) + "\n"


def method_rows(result: Result) -> dict[str, dict[str, dict]]:
    """{row: {figure: entry}} of the table, with validation's mean and interval over runs, and chance."""
    rows: dict[str, dict[str, dict]] = {}
    for name, row in result.rows.items():
        rows[name] = {figure: row.figures[figure] for figure in ("top1", "top5", "mrr")}
        if "validation_top1" in row.each:
            rows[name]["validation"] = statistics.over_runs(row.each["validation_top1"], share=True)
    rows["chance"] = {name: result.chance[name] for name in ("top1", "top5")}
    return rows


def run_cells(options: Benchmark) -> dict[str, dict[str, dict]]:
    """The metrics of every subject and seed, by the name of its run folder."""
    check_writable(options.out)
    configs = {}
    for subject, seed in itertools.product(options.subjects, options.seeds):
        settings = study_settings(subject, options.trials, options.images, options.study)
        settings |= {"align.seed": seed, "sampling.seed": seed}
        settings |= {} if options.epochs is None else {"align.epochs": options.epochs}
        config = with_settings(options.in_mode("reconstruction"), settings)
        configs[options.out / f"sub-{subject:02d}-seed-{seed}"] = config
    share_cells(configs, reconstruct_run)
    return {path.name: Run.open(path).metrics() for path in configs}


def table_rows(cells: Mapping[str, Mapping[str, dict]]) -> dict[str, dict[str, dict]]:
    """{row: {figure: entry}}: ceiling, brain and floor over all cells, and chance; what is undefined in none."""
    names = [name for name in next(iter(cells.values())) if all(name in metrics for metrics in cells.values())]
    rows: dict[str, dict[str, dict]] = {row: {} for row in (*ROWS, "chance")}
    for name in names:
        first, *middle, figure = name.split("/")
        row = "chance" if first == "chance" else middle[0] if middle else ""
        if row in rows and first != "validation":
            values = [metrics[name]["value"] for metrics in cells.values()]
            rows[row][figure] = statistics.over_runs(values, share=is_proportion(figure))
    return rows


def drawn_figures(cells: Sequence[Mapping[str, dict]]) -> dict[str, dict]:
    """Figures of drawn pictures and their chance, means over cells that all define them, without an interval."""
    figures: dict[str, dict] = {}
    for name, entry in cells[0].items():
        if name.startswith(("reconstruction/", "chance/reconstruction/")) and all(name in cell for cell in cells):
            mean = float(np.mean([metrics[name]["value"] for metrics in cells]))
            figures[name] = {"value": mean, "ci95": None, "n": entry["n"]}
    return figures


def markdown(rows: Mapping[str, Mapping[str, dict]], cells: int, simulated: bool) -> str:
    """The table as Markdown, our rows first, labelled where they are simulated, published ones below."""
    figures = [f for f in rows["brain"] if f not in ("mrr", "median_rank")]
    lines = [
        f"{'Simulated study' if simulated else 'Own recordings'}, {cells} run(s) of one subject and one seed each; "
        "mean, and 95 % interval over runs.",
        "Within subject; gallery: the plain test images; ties are misses."
        + (" Test concepts are unseen in training." if simulated else ""),
        "",
        "| | " + " | ".join(figures) + " |",
        "| --- |" + " --- |" * len(figures),
    ]
    for row, entries in rows.items():
        named = f"{row} (simulated)" if simulated else row
        lines.append(f"| {named} | " + " | ".join(_cell(entries.get(f)) for f in figures) + " |")
    for preset, kind in methods.DATA.items():
        for row in methods.published(preset):
            values = {name.partition("/")[2]: {"value": value, "ci95": None} for name, value in row.figures.items()}
            if values.keys() & set(figures):
                cells_of_row = " | ".join(_cell(values.get(f)) for f in figures)
                lines.append(f"| published: {row.label}, {kind.upper()} | {cells_of_row} |")
    return "\n".join(lines) + "\n"


def _cell(entry: Mapping | None) -> str:
    if entry is None:
        return "–"
    low, high = entry["ci95"] or (None, None)
    return f"{entry['value']:.3f}" + (f" ({low:.3f} to {high:.3f})" if low is not None else "")


def _part_of_suite(options: Benchmark) -> str:
    """The line above a suite's table: its name, what part of it this is, and the command; "" without a suite."""
    if options.suite is None:
        return ""
    asked = {name: getattr(options, name) for name in suites.NARROWED}
    part = suites.check(options.suite, asked, options.trials)
    where = "" if options.trials is None else f" --trials {options.trials} --images {options.images}"
    about = f"**{options.suite}**{f', a part of it ({part})' if part else ''}: {suites.get(options.suite).about}"
    return f"{about} Command: `python eval/benchmark.py --suite {options.suite}{where}`.\n\n"


@script
def main(arguments: Sequence[str] | None) -> None:
    """Every cell that is not there yet, then the table of all."""
    PartialState(cpu=several_on_cpus())
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(Benchmark, suites.expanded(words))
    if not options.subjects or not options.seeds:
        raise HvfError("name at least one subject and one seed, as --subjects 8 --seeds 0")
    for name in ("methods", "subjects", "seeds"):
        if len(set(getattr(options, name))) < len(getattr(options, name)):
            raise HvfError(f"--{name} names one of them twice")
    check_people(options.subjects, options.config.data.study, options.trials)
    for name, option in OWN.items():
        if name in options.settings and (name != "align.epochs" or options.epochs is not None):
            raise HvfError(f"--{name} is what {option} says here: give that alone")
    asks_for_methods = options.specs or options.encoders != "mini" or options.protocol != "intra"
    if asks_for_methods and not options.methods:
        raise HvfError("--protocol, --encoders and --specs are for methods: name some, as --methods hvf ridge")
    named = [name for name in options.settings if options.methods and name.startswith("targets.")]
    if named and options.encoders != "given":
        raise HvfError(f"--{named[0]} needs --encoders given: a method names its own targets")
    if options.scaling and not options.methods:
        raise HvfError("--scaling is for methods: name some; of one run hvf retrieve --scaling measures it")
    if options.specs and options.encoders != "given":
        raise HvfError(f"--specs needs --encoders given, not {options.encoders}")
    part = _part_of_suite(options)
    of_methods = method_cells(options) if options.methods else {}
    cells = {} if of_methods else run_cells(options)
    if not PartialState().is_main_process:
        return
    if of_methods:
        # A row for each method: means over subjects and seeds, intervals over images.
        result = Result.side_by_side([Result.combined(row_cells) for row_cells in of_methods.values()])
        rows, text = method_rows(result), part + method_table(result, options)
    else:
        result = Result.combined([Result.read(options.out / name) for name in cells])
        rows = table_rows(cells)
        text = markdown(rows, len(cells), result.study.simulated)
        Run(options.out, options.config).write_metrics(drawn_figures(list(cells.values())))
    result.write(options.out)
    write_atomic(options.out / "table.md", lambda path: path.write_text(text))
    write_json(options.out / "table.json", {"rows": rows, "cells": cells})
    print(text)
    print(f"wrote {options.out / 'table.md'}")


if __name__ == "__main__":
    sys.exit(main())
