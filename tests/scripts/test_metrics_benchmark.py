"""eval/metrics_benchmark.py: hvf's metrics and the field's loops give the same scores, and sums of times are right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hvf.config import HvfError
from tests.script_module import load_script

benchmark = load_script(Path(__file__).resolve().parents[2] / "eval" / "metrics_benchmark.py")


def test_equal_scores_are_compared(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # so that no word of the table is broken
    assert benchmark.main(["--pairs", "3", "--rounds", "2", "--size", "64", "--out", str(tmp_path / "times.json")]) == 0
    lines = json.loads((tmp_path / "times.json").read_text())["lines"]
    assert [line["name"] for line in lines][0] == "PixCorr, SSIM"
    assert all(line["difference"] < 1e-5 and line["ours"] > 0 for line in lines)
    assert lines[-1]["peers"] == pytest.approx(sum(line["peers"] for line in lines[:-1]))
    assert "all metrics, features given" in capsys.readouterr().out


def test_unequal_scores_and_unknown_networks_are_refused(monkeypatch):
    with pytest.raises(HvfError, match="networks of"):
        benchmark.run(benchmark.MetricsBenchmark(networks=("resnet",)))
    monkeypatch.setattr(benchmark, "loop_of_ssim", benchmark.loop_of_pixcorr)
    with pytest.raises(HvfError, match="PixCorr, SSIM: hvf and the loops differ by"):
        benchmark.run(benchmark.MetricsBenchmark(pairs=3, rounds=2, size=64))
