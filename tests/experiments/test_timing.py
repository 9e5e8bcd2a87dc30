"""Clocks, stages in processes of their own, goals and tables."""

from __future__ import annotations

import sys
import textwrap
import time

import pytest

from hvf.config import HvfError
from hvf.experiments.timing import Clock, environment, goal, in_process, markdown_table, print_table, resident_memory


def test_a_clock_measures_wall_and_processor_time():
    clock = Clock()
    assert clock.repeat("sleep", lambda: time.sleep(0.02), times=3, warmup=1) is None
    assert len(clock.wall["sleep"]) == len(clock.cpu["sleep"]) == 3  # the warm-up is not timed
    assert min(clock.wall["sleep"]) >= 0.02 > max(clock.cpu["sleep"])
    summary = clock.summary("sleep", parts=2)["wall"]
    assert summary["median"] == clock.median("sleep") / 2
    assert summary["min"] <= summary["median"] <= summary["max"]
    assert clock.totals()["seconds"] == {"sleep": pytest.approx(sum(clock.wall["sleep"]))}


def test_ways_alternate_forwards_and_backwards():
    calls: list[str] = []
    clock = Clock()
    clock.alternate({name: lambda name=name: calls.append(name) for name in "abc"}, times=3)
    assert "".join(calls) == "abccbaabc"
    assert {name: len(times) for name, times in clock.wall.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_block_that_fails_is_not_timed():
    clock = Clock()
    with pytest.raises(ZeroDivisionError), clock("x"):
        _ = 1 / 0
    assert clock.wall == {}


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(
        textwrap.dedent(
            """
            import sys
            from hvf.config import HvfError
            from hvf.experiments.timing import run_stage

            def fill(n_bytes):
                print("progress that is no result")
                return {"length": len(b"x" * n_bytes), "heavy": sorted({"numpy", "torch"} & set(sys.modules))}

            def refuse(path):
                raise HvfError(f"there is no {path}")

            def crash():
                raise ValueError

            sys.exit(run_stage({f.__name__: f for f in (fill, refuse, crash)}, *sys.argv[2:]))
            """
        )
    )
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child inherits its parent's peak")
def test_a_stage_has_a_peak_of_its_own(script):
    ballast = b"x" * 300_000_000
    small, large = in_process(script, "fill", 10), in_process(script, "fill", 200_000_000)
    assert small["heavy"] == []
    assert large["length"] == 200_000_000
    assert 180_000_000 < large["peak"] - small["peak"] < 220_000_000
    assert small["peak"] < len(ballast) < resident_memory()["peak"]


def test_a_stage_that_fails_is_named(script, tmp_path):
    with pytest.raises(HvfError, match=f"stage refuse failed: there is no {tmp_path}"):
        in_process(script, "refuse", tmp_path)
    with pytest.raises(HvfError, match="stage crash failed: it ended with code 1"):
        in_process(script, "crash")


def test_figures_beside_their_goals():
    assert goal("speed-up", 1.79, 1.8, "x", at_least=True) == "speed-up: 1.79 x (goal: at least 1.8 x, missed)"
    assert goal("memory", 4.0, 4, "GB").endswith("(goal: at most 4 GB, met)")


def test_tables_show_the_same_in_a_terminal_and_as_markdown(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    rows = [{"way": "ours", "n": 1234567, "seconds": 1234.5, "share": 0.12345, "peak": None}, {"way": "published"}]
    print_table("a title", rows)
    printed = capsys.readouterr().out
    cells = ["ours", "1234567", "1234", "0.123", "not measured"]
    assert "a title" in printed
    assert all(cell in printed for cell in cells)
    assert markdown_table(rows).splitlines()[2:] == [f"| {' | '.join(cells)} |", "| published |  |  |  |  |"]


def test_the_environment_names_what_times_depend_on():
    where = environment()
    assert where["device"] == f"CPU, {where['threads']} threads"
    assert set(where["versions"]) == {"hvf", "numpy", "torch"}
    assert where["cores"] >= 1
