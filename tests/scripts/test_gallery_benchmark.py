"""The benchmark of large galleries, small: every way finds the same images, and the table says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow(part=8)
def test_all_ways_agree(tmp_path):
    pytest.importorskip("faiss")
    command = [sys.executable, ROOT / "eval" / "gallery_benchmark.py", "--images", "20000", "--width", "64"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*map(str, command), "--out", str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "table.json").read_text())
    assert all(results[way]["equal"] == 2000 for way in ("blocks", "faiss", "answers"))
    assert results["answers"]["held"] >= 0.9
    assert "2000 of 2000" in (tmp_path / "table.md").read_text()
    assert len((tmp_path / "table.md").read_text().splitlines()) > 6
