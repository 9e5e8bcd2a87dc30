"""The benchmark of the embedded world: its two ways draw the same pictures, and it notices when they do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hvf.config import HvfError
from tests.script_module import load_script

benchmark = load_script(Path(__file__).resolve().parents[2] / "eval" / "world_benchmark.py")
SMALL = benchmark.WorldBenchmark(pictures=24, images=2, repeats=2, rounds=1)


@pytest.mark.slow(part=7)
def test_a_table_of_times_from_equal_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # so that no word of the table is broken
    out = tmp_path / "world.json"
    assert (
        benchmark.main(["--pictures", "24", "--images", "2", "--repeats", "2", "--rounds", "1", "--out", str(out)]) == 0
    )
    written = json.loads(out.read_text())
    lines = written["lines"]
    assert written["environment"]["threads"] >= 1
    assert [line["n"] for line in lines] == [24, 24, 24, 2, 4]
    assert all(line["wall"] > 0 for line in lines)
    assert "drawing, straightforward" in capsys.readouterr().out


@pytest.mark.slow(part=7)
def test_pictures_that_differ_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(benchmark.ROLE_COLOURS, "dark", (53, 48, 56))  # both ways
    benchmark.measure(SMALL)
    monkeypatch.setattr(benchmark, "ROLE_COLOURS", {**benchmark.ROLE_COLOURS, "dark": (60, 48, 56)})  # one
    with pytest.raises(HvfError, match="draw .* pictures differently"):
        benchmark.measure(SMALL)
    with pytest.raises(HvfError, match="--pictures must be at least 1, not 0"):
        benchmark.measure(benchmark.WorldBenchmark(pictures=0))
