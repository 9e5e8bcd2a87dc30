"""Figures in the terminal: one table of single trials, another of what takes all of them at once, and no empty one."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from hvf.cli.printing import print_evidence, print_figures

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
    assert shown.count("95 % interval") == tables
    assert ("transductive, all test trials at once" in shown.replace("\n", " ").replace("  ", " ")) == (
        "transductive/sinkhorn/top1" in metrics
    )


def lines_of(metrics, capsys):
    print_figures(metrics, "run")
    return [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_names_are_those_of_the_report_and_are_not_broken(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    entry = {"value": 0.9, "ci95": [0.85, 0.95], "n": 200}
    names = ("two_way_mini-resnet", "pixcorr")
    metrics = {f"reconstruction/{row}/{name}": entry for row in ("ceiling", "floor", "brain") for name in names}
    lines = lines_of(metrics | {"chance/reconstruction/two_way_mini-resnet": entry | {"value": 0.5}}, capsys)
    assert max(map(len, lines)) <= 80
    rows = [" ".join(line.split()) for line in lines[3:]]
    assert rows == [
        f"{row}{figure} 0.900 0.850 to 0.950{chance} 200"
        for row in ("brain ", "ceiling (image) ", "floor (shuffled) ")
        for row, figure, chance in ((row, "PixCorr", ""), ("", "two-way (mini-resnet)", " 0.500"))
    ]


def test_pictures_stand_before_retrieval_and_validation_after(capsys):
    metrics = {
        "validation/brain/top1": {"value": 0.25, "ci95": None, "n": 40},
        "confidence/brain_4/coverage": ONE,
        "retrieval/brain/median_rank": {"value": 3.0, "ci95": [2.0, 4.5], "n": 8},
        "retrieval/brain/top1": ONE,
        "reconstruction/brain/pixcorr": ONE,
    }
    rows = [" ".join(line.split()) for line in lines_of(metrics, capsys)[3:]]
    assert rows == [
        "brain PixCorr 0.500 0.250 to 0.750 8",
        "brain top-1 50.0 % 25.0 to 75.0 8",
        "median rank 3 2 to 4.5 8",
        "validation top-1 25.0 % 40",
        "sure: 4 trials sets that hold the image 50.0 % 25.0 to 75.0 8",
    ]


def test_figures_that_no_table_orders_keep_the_order_of_the_file(capsys):
    metrics = {f"confidence/brain/{letter}-figure": ONE for letter in "hdacgbfe"}
    assert re.findall(r"(\w)-figure", "".join(lines_of(metrics, capsys))) == list("hdacgbfe")


def test_what_more_trials_find_fits_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("hvf.experiments.caveats.is_simulated", lambda run: False)
    names = ("top1", "coverage", "set_size", "says_nothing", "pixcorr", "kind_top1", "two_way_mini-resnet")
    one = {name: {"value": 0.5, "ci95": [0.25, 0.75], "n": 8} for name in names} | {"set_size": None}
    found = {"repeats": [{"trials": 1, "figures": one}, {"trials": 20, "figures": one}]}
    found |= {"chance": {"top1": {"value": 0.005}}, "images": 200}
    print_evidence(found, SimpleNamespace(path=Path("run")))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == "run: means over single trials"
    assert lines[3:5] == ["1 top-1 50.0 % 25.0 to 75.0", "sets that hold the image 50.0 % 25.0 to 75.0"]
    assert lines[5:7] == ["trials that say nothing 50.0 % 25.0 to 75.0", "PixCorr 0.500 0.250 to 0.750"]
    assert lines[9] == "20 top-1 50.0 % 25.0 to 75.0"
    assert lines[-1] == "chance: top-1 0.5 % among 200 images"
