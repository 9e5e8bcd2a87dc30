"""What commands print: where the results are, and the figures as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hvf.evaluation.catalogue import chance_name
from hvf.runs import Run


def print_run(run: Run) -> int:
    """Say where the results are, and show the figures; the exit code 0."""
    from hvf.experiments.results import is_simulated

    print_figures(run.metrics(), run.path.name + (" (simulated)" if is_simulated(run) else ""))
    print(f"wrote {run.path}")
    for name in ("metrics.json", "grid.png", "report.html"):
        if run.has(name):
            print(f"  {run.path / name}")
    return 0


def print_not_computed(reasons: Mapping[str, str]) -> None:
    """Each figure that could not be computed, with the reason."""
    for name, reason in reasons.items():
        print(f"not computed: {name}: {reason}")


def print_figures(metrics: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Figures as a table: value, interval, chance, n."""
    if not metrics:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("figure", overflow="fold")
    for column in ("value", "95% interval", "chance", "n"):
        table.add_column(column, justify="right")
    for name, m in metrics.items():
        if name.startswith("chance/"):
            continue
        chance = metrics.get(chance_name(name))
        interval = "{:.3f} to {:.3f}".format(*m["ci95"]) if m["ci95"] else ""
        table.add_row(name, f"{m['value']:.3f}", interval, f"{chance['value']:.3f}" if chance else "", str(m["n"]))
    Console().print(table)
