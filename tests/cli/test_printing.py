"""Figures in the terminal: one table of single trials, another of what takes all of them at once, and no empty one."""

from __future__ import annotations

import pytest

from hvf.cli.printing import print_figures

ONE = {"value": 0.5, "ci95": [0.25, 0.75], "n": 8}
FIGURES = {"retrieval/brain/top1": ONE, "chance/retrieval/top1": ONE | {"value": 0.125, "ci95": None}}
AT_ONCE = {"transductive/sinkhorn/top1": ONE}


@pytest.mark.parametrize(
    ("metrics", "tables"),
    [
        (FIGURES, 1),
        (FIGURES | AT_ONCE, 2),
        (AT_ONCE, 1),
        ({"chance/retrieval/top1": ONE}, 0),  # a bound of no figure
        ({}, 0),
    ],
)
def test_there_are_as_many_tables_as_kinds_of_figures(metrics, tables, capsys):
    print_figures(metrics, "run")
    shown = capsys.readouterr().out
    assert shown.count("95% interval") == tables
    assert ("transductive, all test trials at once" in shown.replace("\n", " ").replace("  ", " ")) == (
        "transductive/sinkhorn/top1" in metrics
    )
