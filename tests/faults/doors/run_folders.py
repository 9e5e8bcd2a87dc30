"""Doors of the JSON of a run folder: whatever stands there, the report and the explorer say so in a line or show it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hvf import report
from hvf.config import Config
from hvf.report.explore import described
from hvf.report.folder import Folder
from hvf.runs import Run
from tests.a_result import a_result
from tests.faults.door import Door

N = 8
FILES = ("config", "metrics", "per_image", "evaluation", "result", "history")


def write_run(folder: Path) -> None:
    """What a whole `hvf reconstruct` leaves, but for the pictures."""
    run = Run.create(folder / "run", Config())
    ids = [f"dog_{i}" for i in range(N)]
    top5 = [[(i + k) % N for k in range(5)] for i in range(N)]
    a_result(ids, {"brain": [1 + i % 3 for i in range(N)], "floor": [N] * N}, top5).write(run.path)
    rows = {"ceiling": 0.9, "brain": 0.4, "floor": 0.0}
    scores = {f"reconstruction/{row}/pixcorr": list(np.linspace(0, x, N)) for row, x in rows.items()}
    scores["reconstruction/brain/ssim"] = [0.5] * (N - 1) + [float("nan")]
    run.write_metrics({name: {"value": 0.1, "ci95": [0.0, 0.2], "n": N} for name in scores})
    run.write_json("per_image.json", {"ids": ids, "concepts": ids, "scores": scores})
    details = {"pairs": N, "rounds": dict.fromkeys(rows, 1), "first_resize": 256, "metrics": ["pixcorr", "ssim"]}
    details["weights"] = {"m": {"network": "m", "file": "m", "sha256": "ab"}}
    details |= {"versions": {"torch": "2"}, "not_computed": {"swav": "no weights"}}
    run.write_json("evaluation.json", details)
    epochs = [{"epoch": e, "loss": 3.0 / e, "validation_loss": 4.0 / e, "validation_top1": 0.1 * e, "best": e == 4}
              for e in range(1, 6)]  # fmt: skip
    run.write_json("history.json", epochs)


def read_run(folder: Path, name: str) -> str:
    report.write_report([folder / "run"], folder / "out.html")
    report.write([folder / "run"], folder / "out.md")
    return str(described(Folder(folder / "run")))


for _file in FILES:
    Door(_file, write_run, [f"run/{_file}.json"], read_run)
