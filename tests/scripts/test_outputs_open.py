"""What every script leaves opens in `hvf report` (page, Markdown, LaTeX) and in `hvf explore`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hvf.cli import main
from hvf.experiments.results import FILE, Result
from hvf.report.explore import Pages, described
from hvf.report.folder import Folder
from tests.scripts.test_brain_training import BENCHMARK, LAYERS, SCALING, TARGETS, TRAIN, call, files, without_targets

__all__ = ["files"]  # the fixture


def check_opens(folder: Path, rows: list[str]) -> None:
    """The page, both tables and the explorer show each of `rows` of a folder, with chance."""
    result = Result.read(folder)
    assert list(result.rows) == rows
    assert set(result.metrics()) <= set(json.loads((folder / "metrics.json").read_text()))
    for name in ("page.html", "table.md", "table.tex"):
        out = folder.parent / f"{folder.name}-{name}"
        assert main(["report", str(folder), "--out", str(out)]) == 0
        text = out.read_text()
        assert "chance" in text
        main_row = result.rows[result.main].figures["top1"]["value"]
        assert f"{100 * main_row:.1f}" in text
        for row in rows if result.kind not in ("training", "retrieval") else ():
            assert row.replace("&", "&amp;") in text or row.replace("_", r"\_") in text, (name, row)
    data = described(Folder(folder))
    assert len(data["ids"]) == len(set(result.image_ids)) == len(data["names"])
    assert all(None not in column for column in data["values"])
    assert data["keys"]
    assert len(data["target"]) in (0, len(data["ids"]))
    assert len(data["rows"]) == (len(rows) + 1 if result.kind not in ("training", "retrieval") else 0)
    assert b'"ids"' in Pages([Folder(folder)]).answer("localhost", "/runs.json").body


@pytest.mark.slow(part=7)
def test_trained_runs_and_their_mean(files, tmp_path, capsys):
    out = tmp_path / "trained"
    arguments = [*files, "--align.epochs", "3", "--seeds", "2", "--out", out]
    assert call(TRAIN, *arguments) == 0
    check_opens(out, ["brain", "floor"])
    check_opens(out / "seed-1", ["brain", "floor"])
    assert Result.read(out).runs == tuple(run for seed in (0, 1) for run in Result.read(out / f"seed-{seed}").runs)
    assert main(["report", str(out / "seed-0"), str(out / "seed-1"), "--out", str(tmp_path / "two.md")]) == 0
    assert "not compared" not in (tmp_path / "two.md").read_text()
    kept, before = (out / "seed-0" / FILE).stat().st_mtime_ns, (out / FILE).read_bytes()
    (out / "seed-1" / FILE).unlink()  # as if it had been killed before its test
    assert call(TRAIN, *arguments) == 0
    assert (out / "seed-0" / FILE).stat().st_mtime_ns == kept
    assert (out / FILE).read_bytes() == before
    capsys.readouterr()


@pytest.mark.slow(part=8)
def test_benchmark_of_methods_and_a_cell(files, tmp_path, capsys):
    at, out = files.index("--targets.specs"), tmp_path / "table"
    arguments = [*without_targets(files), "--methods", "hvf", "ridge", "--encoders", "given"]
    arguments += ["--specs", *files[at + 1 : at + 3], "--seeds", "0", "1", "--out", out]
    at = arguments.index("--align.epochs")
    arguments[at : at + 2] = ["--epochs", "3"]
    assert call(BENCHMARK, *arguments) == 0
    check_opens(out, ["hvf", "ridge", "trials permuted"])
    check_opens(out / "intra-ridge-sub-08-seed-1", ["ridge"])
    cells = [str(out / f"intra-{method}-sub-08-seed-1") for method in ("hvf", "ridge")]
    assert main(["report", *cells, "--out", str(tmp_path / "cells.md")]) == 0
    text = (tmp_path / "cells.md").read_text()
    assert "not compared" not in text
    assert "B − A" in text
    capsys.readouterr()


POPULATION = TRAIN.with_name("population.py")


SLOW = [pytest.param(script, marks=pytest.mark.slow(part=5)) for script in (LAYERS, SCALING, POPULATION)]


@pytest.mark.slow(part=7)
@pytest.mark.parametrize("script", [TARGETS, *SLOW], ids=lambda path: path.stem)
def test_experiments_and_each_of_their_runs(files, tmp_path, capsys, script):
    out, small = tmp_path / "out", ["--align.epochs", "2"]
    backbone = files[files.index("--targets.specs") + 1].partition("@")[0]
    layers = ["--backbone", backbone, "--layers", "0", "2", "--latents", "None"]
    rest = without_targets(files)
    arguments = {
        TARGETS: [*files, *small, "--seeds", "2"],
        LAYERS: [*rest, *small, *layers, "--pool", "grid2", "--seeds", "2"],
        SCALING: [*files, *small, "--points", "3", "--seeds", "2"],
        POPULATION: [*rest, *small, *layers, "--grid", "2", "--vector-grid", "1", "--splits", "2"],
    }[script]
    assert call(script, *arguments, "--out", out) == 0
    capsys.readouterr()
    runs = sorted(path.parent for path in out.rglob(f"*/{FILE}"))
    assert len(runs) == 2
    for folder in (out, *runs):
        assert Result.read(folder).kind == script.stem
        check_opens(folder, list(Result.read(folder).rows))


@pytest.mark.parametrize("ending", ["md", "tex", "html"])
def test_a_folder_that_holds_no_result_yet_says_so(tmp_path, capsys, ending):
    assert main(["report", str(tmp_path), "--out", str(tmp_path / f"t.{ending}")]) == 2
    assert "is not a run folder" in capsys.readouterr().err
