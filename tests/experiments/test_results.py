"""The result of a run: written whole, read back as it was, combined over runs, refused where its version is another."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from hvf.config import Config, DataConfig, HvfError, with_settings
from hvf.evaluation import retrieval
from hvf.experiments.descriptions import StudyInfo
from hvf.experiments.repeated import open_folder
from hvf.experiments.results import FILE, VERSION, Result, Row
from hvf.runs import Run

N = 20
IDS = tuple(f"image{i:02d}" for i in range(N))
STUDY = StudyInfo("files", "my.npy: split 0", False, "eeg", "sub-01", ("O1", "Oz"), 100.0, (0.0, 0.5), 80, N, "a", "b")


def one_run(seed: int = 0, ids: tuple[str, ...] = IDS, kind: str = "targets", study: StudyInfo = STUDY) -> Result:
    config = with_settings(Config(), {"align.seed": seed, "data.study": "files", "data.split_seed": seed})
    scores_NN = np.random.default_rng(seed).normal(size=(N, N)) + 2 * np.eye(N)
    result = Result.start(kind, config, study, ids, ids, run=f"split-{seed}", main="fused")
    chosen = {"epoch": 3 + seed, "targets.specs": ("a", "b")}
    result = result.with_row("fused", Row.of_scores(scores_NN, {"mrr": 0.5 + seed, "top1": 0.25, "n": 12}, chosen))
    return result.with_row("ridge", Row.of_ranks(np.arange(N) % 4 + 1, settings={"brain.encoder": "ridge"}))


def test_what_is_written_is_read_back(tmp_path):
    run = Run.create(tmp_path / "run", Config())
    result = one_run().with_details(gate={"a": np.float32(0.25)}, apart=(1, 2))
    run.write_metrics({"reconstruction/brain/ssim": {"value": 0.5, "ci95": None, "n": 3},
                       "retrieval/old/top1": {"value": 0.5, "ci95": None, "n": 3}})  # fmt: skip
    result.write(run.path)
    again = Result.read(run.path)
    assert again == result
    assert again.rows["fused"].ranks == result.rows["fused"].ranks
    assert again.details == {"gate": {"a": 0.25}, "apart": [1, 2]}
    metrics = run.metrics()
    assert metrics["retrieval/fused/top1"] == result.rows["fused"].figures["top1"]
    assert metrics["validation/fused/mrr"] == {"value": 0.5, "ci95": None, "n": 12}
    assert metrics["chance/retrieval/top1"]["value"] == 1 / N
    assert metrics["chance/retrieval/one_to_one"]["value"] == 1 / N
    assert "reconstruction/brain/ssim" in metrics  # of drawn pictures, which another stage measured
    assert "retrieval/old/top1" not in metrics


def test_a_row_has_the_figures_of_its_scores():
    scores_NN = np.random.default_rng(0).normal(size=(N, N)) + 2 * np.eye(N)
    row, expected = Row.of_scores(scores_NN), retrieval.figures(scores_NN, "brain")
    assert {f"retrieval/brain/{name}": entry for name, entry in row.figures.items()} == {
        name: entry for name, entry in expected.items() if name.startswith("retrieval/")
    }
    assert {f"chance/retrieval/{name}": entry for name, entry in one_run().chance.items()} == {
        name: entry for name, entry in expected.items() if name.startswith("chance/")
    }
    assert all(top[0] == i for i, (top, rank) in enumerate(zip(row.top5, row.ranks, strict=True)) if rank == 1)
    assert row.hits(1).mean() == row.figures["top1"]["value"]


def test_ranks_that_do_not_fit_the_items_are_refused():
    with pytest.raises(HvfError, match="row 'x' has 3 ranks for 20 test items"):
        one_run().with_row("x", Row.of_ranks(np.array([1, 2, 3])))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(version=VERSION + 1), rf"has version {VERSION + 1}, and this hvf reads version {VERSION}"),
        (lambda d: d.pop("version"), rf"has no version, and this hvf reads version {VERSION}: make the run again"),
        (lambda d: d.pop("study"), "is not a whole result of version"),
        (lambda d: d["rows"]["fused"].update(more=1), "is not a whole result of version"),
    ],
)
def test_other_versions_are_refused_by_name(tmp_path, change, said):
    run = Run.create(tmp_path / "run", Config())
    one_run().write(run.path)
    stored = json.loads((run.path / FILE).read_text())
    change(stored)
    (run.path / FILE).write_text(json.dumps(stored))
    with pytest.raises(HvfError, match=said):
        Result.read(run.path)


def test_missing_and_broken_results_are_refused(tmp_path):
    with pytest.raises(HvfError, match=rf"has no {FILE}: it holds no result of version {VERSION}; make the run again"):
        Result.read(tmp_path)
    for text in ("{", "[]"):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(HvfError, match="cannot be read as JSON: EOF|has no version, and this hvf reads"):
            Result.read(tmp_path)


def test_runs_are_combined_over_images():
    """Repeating a seed brings no new image: the interval is over images, not over images times seeds."""
    runs = [one_run(0), one_run(1)]
    both = Result.combined(runs)
    row = both.rows["fused"]
    ranks_N = np.concatenate([run.rows["fused"].ranks for run in runs])
    assert row.figures == retrieval.summarise(ranks_N, [*IDS, *IDS])
    assert row.figures["top1"]["n"] == N
    assert row.each["top1"] == tuple(run.rows["fused"].figures["top1"]["value"] for run in runs)
    assert np.mean(row.each["top1"]) == pytest.approx(row.figures["top1"]["value"])
    assert row.validation == {"mrr": 1.0, "top1": 0.25, "n": 12}
    assert [chosen["epoch"] for chosen in row.chosen] == [3, 4]
    assert "one_to_one" not in row.figures  # a matching of each run for itself
    assert [run.name for run in both.runs] == ["split-0", "split-1"]
    assert both.gallery == IDS
    assert both.chance["top1"] == retrieval.chance(1, 2 * N, N)
    assert Result.combined([Result.combined(runs[:1]), runs[1]]).rows == both.rows


def test_runs_on_different_images_share_no_gallery():
    other = tuple(f"other{i}" for i in range(N))
    both = Result.combined([one_run(0), one_run(1, other)])
    assert (both.gallery, both.gallery_size, both.rows["fused"].top5) == ((), N, ())
    assert both.protocol.label == "within-subject, held-out images, 2 random splits, averaged trials, " + (
        "plain test images as gallery"
    )
    assert both.rows["fused"].figures["top1"]["n"] == 2 * N


def test_only_like_is_combined():
    with pytest.raises(HvfError, match="no results"):
        Result.combined([])
    with pytest.raises(HvfError, match="different kinds cannot be combined: layers, targets"):
        Result.combined([one_run(), one_run(kind="layers")])


def test_rows_stand_beside_one_another():
    a, b = one_run(), one_run()
    joined = Result.side_by_side([a, Result.start("targets", Config(), STUDY, IDS, IDS).with_row("x", b.rows["fused"])])
    assert list(joined.rows) == ["fused", "ridge", "x"]
    assert joined.main == "fused"
    assert Result.side_by_side([a, b]).protocol == a.protocol
    loso = replace(b, protocol=replace(b.protocol, training="loso"))
    label = Result.side_by_side([a, loso]).protocol.label
    assert label.startswith("within-subject, or trained on other subjects where a row says so, held-out images, split")
    with pytest.raises(HvfError, match="same images"):
        Result.side_by_side([a, one_run(ids=IDS[::-1])])


def test_a_lead_is_the_difference_on_the_same_items():
    both = Result.combined([one_run(0), one_run(1)])
    lead = both.lead("fused", "ridge")
    values = [both.rows[row].figures["top1"]["value"] for row in ("fused", "ridge")]
    assert lead["value"] == pytest.approx(values[0] - values[1])
    assert lead["ci95"][0] < lead["value"] < lead["ci95"][1]


def test_the_protocol_says_how_images_were_held_out():
    simulated = Result.start("retrieval", Config(), STUDY, IDS, IDS)
    assert simulated.protocol.label.startswith("within-subject, concepts unseen in training, averaged trials")
    config = Config(data=DataConfig(study="files", split_seed=7))
    assert "held-out images, split 7" in Result.start("retrieval", config, STUDY, IDS, IDS).protocol.label
    loso = Result.start("retrieval", config, STUDY, IDS, IDS, training="loso")
    assert loso.protocol.label.startswith("trained on other subjects, ")


def test_results_of_another_experiment_are_refused(tmp_path):
    out = tmp_path / "out"
    one_run(kind="layers").write(open_folder(out, Config(), "layers").path / "seed-0")
    assert open_folder(out, Config(), "layers").path == out
    with pytest.raises(HvfError, match="seed-0 holds a result of kind layers, not targets: choose another --out"):
        open_folder(out, Config(), "targets")
