"""Figures of several runs as one table: for the page, for Markdown, and for LaTeX, with the field's figures below.

A table says its protocol, its n and what its ranges are; chance is always a row of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hvf.evaluation.catalogue import label, leaf, lower_is_better, number, rows_of
from hvf.evaluation.scaling import INDUCTIVE
from hvf.files.escapes import plain_latex, plain_markdown
from hvf.methods import PublishedRow, published
from hvf.progress import one_line
from hvf.report.compare import Comparison
from hvf.report.folder import Folder
from hvf.vision.specs import short_names

SECTIONS = {
    "retrieval": "Retrieval",
    "transductive": "Retrieval, transductive: all test trials at once",
    "reconstruction": "Reconstruction",
}
ROWS = {"ceiling": "ceiling: the image's own embedding", "brain": "brain", "floor": "floor: trials shuffled"}


@dataclass(frozen=True)
class Line:
    """A line of a table: what it is called, its kind (a row of `ROWS`, row, chance, published), {figure: entry}."""

    label: str
    kind: str
    entries: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Table:
    """One section of all runs: figures are columns, lines are runs, chance, and the field's."""

    section: str
    figures: Sequence[str]
    rows: Sequence[Line]
    notes: Sequence[str]


def tables(folders: Sequence[Folder], preset: str = "") -> list[Table]:
    """One table for each section that some run has. ``preset`` names whose published rows stand below ours."""
    sections = []
    for section in SECTIONS:
        rows = [row for folder in folders for row in lines_of(folder, section, alone=len(folders) == 1)]
        if not rows:
            continue
        figures = list(dict.fromkeys(name for row in rows for name in row.entries))
        chance = {leaf(k): v for f in folders for k, v in f.metrics.items() if k.startswith(f"chance/{section}/")}
        rows.append(Line("chance", "chance", {name: chance[name] for name in figures if name in chance}))
        rows += published_rows(section, figures, published(preset))
        sections.append(Table(section, figures, rows, _notes(folders, section, preset)))
    return sections


def published_rows(section: str, figures: Sequence[str], rows: Sequence[PublishedRow]) -> list[Line]:
    """The field's lines that share a column with ours."""
    lines = []
    for row in rows:
        entries = {leaf(k): {"value": v} for k, v in row.figures.items() if k.startswith(f"{section}/")}
        if set(entries) & set(figures):
            lines.append(Line(f"published: {row.label}", "published", entries))
    return lines


def markdown(folders: Sequence[Folder], preset: str, comparisons: Sequence[Comparison]) -> str:
    """All tables as Markdown."""
    parts = []
    for table in tables(folders, preset):
        head = [plain_markdown(_arrow(name)) for name in table.figures]
        lines = [f"**{SECTIONS[table.section]}**", "", f"| | {' | '.join(head)} |", "| --- |" + " ---: |" * len(head)]
        for row in table.rows:
            cells = [plain_markdown(ranged(row.entries.get(name), name, "–")) for name in table.figures]
            lines.append(f"| {plain_markdown(row.label)} | " + " | ".join(cells) + " |")
        parts.append("\n".join([*lines, "", *(plain_markdown(note) + "  " for note in table.notes)]))
    for comparison in comparisons:
        lines = [f"**{plain_markdown(comparison.verdict)}**"]
        if comparison.differences:
            a, b = (plain_markdown(folder.name) for folder in (comparison.a, comparison.b))
            lines += ["", f"| | A: {a} | B: {b} | B − A | p | p (Holm) |"]
            lines += ["| --- |" + " ---: |" * 5]
            lines += ["| " + " | ".join(map(plain_markdown, cells)) + " |" for cells in compared(comparison)]
            lines += ["", PAIRED + "  "]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def latex(folders: Sequence[Folder], preset: str, comparisons: Sequence[Comparison]) -> str:
    r"""All tables as LaTeX, ready for \input; they need the package booktabs."""
    parts = [r"% Needs \usepackage{booktabs}; written by hvf report."]
    for table in tables(folders, preset):
        head = [plain_latex(_arrow(name)) for name in table.figures]
        lines, kind = [], "ours"
        for row in table.rows:
            lines += [r"\midrule"] if row.kind != kind and row.kind in ("chance", "published") else []
            kind = row.kind
            cells = [plain_latex(ranged(row.entries.get(name), name, "--")) for name in table.figures]
            lines.append(" & ".join([plain_latex(row.label), *cells]) + r" \\")
        caption = f"{SECTIONS[table.section]}. {' '.join(table.notes)}"
        parts.append(_tabular(head, lines, caption, table.section))
    for comparison in comparisons:
        if not comparison.differences:
            parts.append(f"% {one_line(comparison.verdict)}")
            continue
        names = (f"A: {comparison.a.name}", f"B: {comparison.b.name}", "B − A", "p", "p (Holm)")
        head = [plain_latex(name) for name in names]
        lines = [" & ".join(map(plain_latex, cells)) + r" \\" for cells in compared(comparison)]
        parts.append(_tabular(head, lines, f"{comparison.verdict}. {PAIRED}", "comparison"))
    return "\n\n".join(parts) + "\n"


PAIRED = (
    "Means over the same images; B − A with its 95 % interval, images drawn again; p from sign flips within images, "
    "two-sided, and corrected after Holm for the number of figures."
)


def compared(comparison: Comparison) -> list[list[str]]:
    """The differences as text: figure, A, B, B − A with its interval, p, p corrected; the better one is marked."""
    lines = []
    for d in comparison.differences:
        name = leaf(d.figure)
        values = [number(value, name) + (" *" if d.better == side else "") for side, value in (("A", d.a), ("B", d.b))]
        gap = f"{signed(d.difference, name)} ({signed(d.ci95[0], name)} to {signed(d.ci95[1], name)})"
        lines.append([_arrow(name), *values, gap, p_value(d.p), p_value(d.p_holm)])
    return lines


def signed(value: float, name: str = "") -> str:
    """A difference, with its sign."""
    text = number(abs(value), name)
    return text if not any(c in text for c in "123456789") else ("+" if value > 0 else "−") + text


def p_value(p: float) -> str:
    """0.0004 -> "0.0004", 0.04321 -> "0.043"."""
    return f"{p:.4f}" if p < 0.001 else f"{p:.3f}"


def lines_of(folder: Folder, section: str, alone: bool) -> list[Line]:
    """A folder's lines: of a study every row that it compares; of a run its brain, and alone its ceiling and floor."""
    simulated = " (simulated)" if folder.simulated else ""
    if folder.is_study and section == "retrieval":
        name, briefly = "" if alone else f"{folder.name}: ", short_names(folder.rows)[0]
        return [Line(f"{name}{briefly[row]}{simulated}", "row", _of_study(folder, row)) for row in folder.rows]
    lines = []
    apart = section == "transductive"
    named = [row for row in rows_of(folder.metrics, section) if apart or row.split(" ")[0] in INDUCTIVE]
    for row in [*ROWS, *named]:
        prefix, control = f"{section}/{row}/", row.split(" ")[-1] == "floor"
        entries = {leaf(name): entry for name, entry in folder.metrics.items() if name.startswith(prefix)}
        if not entries or (not alone and (control or row == "ceiling")):
            continue
        if row in named:
            name = f"scaled: {row.removesuffix(' floor')}{', trials shuffled' if control else ''}"
            lines.append(Line(f"{'' if alone else f'{folder.name}, '}{name}{simulated}", "row", entries))
        else:
            lines.append(Line((folder.name if row == "brain" else ROWS[row]) + simulated, row, entries))
    return lines


def _of_study(folder: Folder, name: str) -> dict[str, Mapping[str, Any]]:
    """The figures of a row, with those of validation images."""
    row = folder.rows[name]
    figures: dict[str, Mapping[str, Any]] = dict(row.figures)
    for key, value in row.validation.items():
        if key != "n":
            figures[f"validation_{key}"] = {"value": value, "ci95": None, "n": None}
    return figures


def _notes(folders: Sequence[Folder], section: str, preset: str) -> list[str]:
    own = f"{section}/" if section == "transductive" else f"{section}/brain/"
    counts = [e.get("n") for f in folders for k, e in f.metrics.items() if k.startswith(own)]
    notes = [f"{'n' if len(folders) == 1 else 'n at most'} = {max((n or 0 for n in counts), default=0)} images."]
    notes.append("In brackets: 95 % bootstrap intervals over images; for chance, 95 % of guesses.")
    protocols = list(dict.fromkeys(folder.protocol for folder in folders))
    notes.append(f"Protocol: {' | '.join(protocol for protocol in protocols if protocol)}.")
    if section == "retrieval" and any("one_to_one" in name for f in folders for name in f.metrics):
        notes.append("One-to-one matching uses the whole test set at once: it compares with matchings only.")
    if section == "transductive":
        notes.append("Each answer hangs on the other test trials: these rows compare with one another only.")
    if section == "retrieval" and any(folder.is_study for folder in folders):
        notes += [f"{note}." for folder in folders for note in short_names(folder.rows if folder.is_study else ())[1]]
        notes.append("Validation images are fewer: their figures compare rows with one another, not with the test.")
    read = {name: e for f in folders for name, e in f.evaluation.get("of_seen", {}).items()}
    if section == "reconstruction":
        notes += [
            f"{label(n)}, read from the seen pictures themselves: {number(e['value'], n)}." for n, e in read.items()
        ]
    missing = dict.fromkeys(n for f in folders for n in f.evaluation.get("not_computed", {}))
    if section == "reconstruction" and missing:
        notes.append(f"Not computed, for want of their networks' weights: {', '.join(map(label, missing))}.")
    if published(preset):
        notes.append("Published rows are the papers' own figures, on their protocols; not reproduced here.")
    return notes


def ranged(entry: Mapping[str, Any] | None, name: str, none: str = "–") -> str:
    """A figure with its interval, as text; `none` where there is none."""
    if not entry or entry.get("value") is None:
        return none
    low, high = entry.get("ci95") or (None, None)
    return number(entry["value"], name) + (f" ({number(low, name)} to {number(high, name)})" if low is not None else "")


def _arrow(name: str) -> str:
    """A figure's label with the direction that is better."""
    return f"{label(name)} {'↓' if lower_is_better(name) else '↑'}"


def _tabular(head: Sequence[str], lines: Sequence[str], caption: str, name: str) -> str:
    body = "\n".join(lines)
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{plain_latex(caption)}}}\n\\label{{tab:{name}}}\n"
        f"\\begin{{tabular}}{{l{'r' * len(head)}}}\n\\toprule\n"
        f" & {' & '.join(head)} \\\\\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}"
    )
