"""Two runs on the same images: differences that are there are found, those that are not are not, others are refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hvf import report
from hvf.config import Config, HvfError
from hvf.experiments.results import Result
from hvf.report.compare import compare, holm, paired_interval, paired_p
from hvf.report.folder import Folder
from hvf.runs import Run
from tests.a_result import a_result

N = 60


def a_folder(path, scores, ids=None, ranks=None, order=None) -> Folder:
    """Scores {name: (N,)} of images; ``order`` shuffles the rows."""
    run = Run.create(path, Config())
    ids = ids or [f"id{i}" for i in range(N)]
    order = list(range(len(ids))) if order is None else list(order)
    entries = {f"reconstruction/brain/{name}": values for name, values in scores.items()}
    named = {k: [None if np.isnan(v[i]) else float(v[i]) for i in order] for k, v in entries.items()}
    run.write_json("per_image.json", {"ids": [ids[i] for i in order], "concepts": [], "scores": named})
    run.write_metrics({k: {"value": float(np.nanmean(v)), "ci95": None, "n": N} for k, v in entries.items()})
    if ranks is not None:
        a_result([ids[i] for i in order], {"brain": [int(ranks[i]) for i in order]}).write(path)
    return Folder(path)


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    return {"pixcorr": rng.random(N), "ssim": rng.random(N), "effnet": rng.random(N)}


def test_p_is_that_of_every_sign_flip():
    """Worked by hand for few images: the share of sign patterns whose mean is at least as far from none."""
    x_N, y_N = np.array([0.1, 0.4, 0.3, 0.8, 0.5]), np.array([0.4, 0.5, 0.7, 0.7, 0.9])
    d_N = y_N - x_N
    flipped = [abs((d_N * signs).mean()) for signs in itertools.product((-1, 1), repeat=len(d_N))]
    expected = np.mean(np.array(flipped) >= abs(d_N.mean()) - 1e-12)
    assert paired_p(x_N, y_N) == pytest.approx(expected)
    assert paired_p(y_N, x_N) == pytest.approx(expected)
    assert paired_p(x_N, x_N) == 1.0


@pytest.mark.slow(part=5)
def test_p_is_uniform_where_there_is_no_difference():
    """The control: runs that differ by noise alone are called different as often as the level says."""
    rng = np.random.default_rng(1)
    p = [paired_p(*rng.normal(size=(2, 12)), seed=i) for i in range(200)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.04)


def test_the_interval_holds_the_difference():
    rng = np.random.default_rng(2)
    x_N = rng.normal(size=100)
    low, high = paired_interval(x_N, x_N + 0.5 + 0.1 * rng.normal(size=100))
    assert low < 0.5 < high
    assert high - low < 0.1
    assert paired_interval(x_N, x_N + 0.25) == pytest.approx((0.25, 0.25))


def test_holm():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_a_better_run_is_named_in_whatever_order_its_rows_are(tmp_path, scores):
    rng = np.random.default_rng(3)
    better = {
        "pixcorr": scores["pixcorr"] + 0.1,
        "ssim": scores["ssim"] + 0.01 * rng.normal(size=N),
        "effnet": scores["effnet"] - 0.1,
    }
    a = a_folder(tmp_path / "a", scores)
    b = a_folder(tmp_path / "b", better, order=rng.permutation(N))
    found = compare(a, b)
    assert found.verdict == "b is better than a in 2 of 3 figures: PixCorr, EffNet-B"  # less EffNet-B is better
    of = {d.figure.split("/")[-1]: d for d in found.differences}
    assert of["pixcorr"].difference == pytest.approx(0.1)
    assert of["pixcorr"].p_holm == pytest.approx(3 * of["pixcorr"].p) or of["effnet"].p_holm == pytest.approx(
        3 * of["effnet"].p
    )
    assert of["ssim"].better == ""
    assert compare(b, a).verdict.startswith("b is better than a in 2 of 3")


def test_the_same_run_is_no_better_than_itself(tmp_path, scores):
    folder = a_folder(tmp_path / "a", scores, ranks=np.arange(1, N + 1))
    found = compare(folder, folder)
    assert "cannot be told apart: none of 6 figures differs" in found.verdict
    assert {d.p for d in found.differences} == {1.0}


def test_ranks_are_compared_as_retrieval_reports_them(tmp_path, scores):
    a = a_folder(tmp_path / "a", {}, ranks=np.full(N, 7))
    b = a_folder(tmp_path / "b", {}, ranks=np.full(N, 2))
    of = {d.figure: d for d in compare(a, b).differences}
    assert (of["retrieval/brain/top1"].b, of["retrieval/brain/top5"].b) == (0.0, 1.0)
    assert of["retrieval/brain/mrr"].difference == pytest.approx(1 / 2 - 1 / 7)
    assert of["retrieval/brain/top1"].better == ""
    assert of["retrieval/brain/top5"].better == "B"


def test_undefined_scores_are_left_out_in_pairs(tmp_path, scores):
    holes = {"pixcorr": np.where(np.arange(N) < 10, np.nan, scores["pixcorr"] + 0.1)}
    (only,) = compare(a_folder(tmp_path / "a", scores), a_folder(tmp_path / "b", holes)).differences
    assert only.n == N - 10
    assert only.difference == pytest.approx(0.1)


def test_runs_on_different_images_are_not_paired(tmp_path, scores, capsys):
    from hvf.cli import main

    a = a_folder(tmp_path / "a", scores)
    b = a_folder(tmp_path / "b", scores, ids=[f"id{i + 1}" for i in range(N)])
    found = compare(a, b)
    assert found.differences == ()
    assert (
        found.refused
        == f"a and b are about different images ({N - 1} in common; b lacks id0): a paired test needs the same ones"
    )
    assert main(["report", str(a.path), str(b.path), "--out", str(tmp_path / "both.md")]) == 0
    assert "not compared: a and b are about different images" in capsys.readouterr().out
    c = a_folder(tmp_path / "c", scores)
    for folder, digest in ((a, "one"), (c, "two")):
        a_result([f"id{i}" for i in range(N)], {"brain": [1] * N}, digest=digest).write(folder.path)
    refused = compare(Folder(a.path), Folder(c.path)).refused
    assert refused == "a and c saw different images under the same names"


def test_names_agree_whatever_their_folder_and_ending(tmp_path, scores):
    a = a_folder(tmp_path / "a", scores, ids=[f"cat/id{i}.jpg" for i in range(N)])
    b = a_folder(tmp_path / "b", scores, ids=[f"id{i}.png" for i in range(N)])
    assert not compare(a, b).refused


def test_tables_for_a_paper(tmp_path, scores):
    a = a_folder(tmp_path / "run_a", scores)
    b = a_folder(tmp_path / "run_b", {name: values + 0.1 for name, values in scores.items()})
    said = report.write([a.path, b.path], tmp_path / "table.tex", "things-eeg")
    text = (tmp_path / "table.tex").read_text()
    assert said == ["neither is better throughout: run_a in EffNet-B; run_b in PixCorr, SSIM"]
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert r"run\_a (simulated) & " in text
    assert r"PixCorr $\uparrow$ & SSIM $\uparrow$ & EffNet-B $\downarrow$" in text
    assert "published: HVF, subject 8 (selected by: not known) & 0.227 & -- & --" in text
    assert "Published rows are the papers' own figures" in text
    for line in text.splitlines():
        bare = line.replace(r"\%", "").replace(r"\_", "").replace(r"\&", "")
        assert line.startswith("%") or "%" not in bare
    report.write([a.path], tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert any(line.startswith("| chance |") for line in rows)
    assert "published" not in text  # of a simulated study nothing was
    with pytest.raises(HvfError, match="did you mean 'things-eeg'"):
        report.write([a.path], tmp_path / "t.md", "thing-eeg")
    with pytest.raises(HvfError, match=r"end --out with one of them"):
        report.write([a.path], tmp_path / "t.docx")


def test_from_somebodys_pictures_to_a_table(tmp_path, capsys):
    """As the README says: evaluate two folders, then make a table and a page of the figures."""
    from PIL import Image

    from hvf.cli import main

    rng = np.random.default_rng(0)
    for name in ("aardvark", "beaver", "cat"):
        pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        for folder, picture in (("seen", pixels), ("drawn", pixels // 2 + 60)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / folder / f"{name}.png")
    drawn, seen, out = (str(tmp_path / name) for name in ("drawn", "seen", "figures"))
    assert main(["evaluate", "--recons", drawn, "--images", seen, "--metrics", "pixcorr", "ssim", "--out", out]) == 0
    assert main(["report", out, "--out", str(tmp_path / "table.tex")]) == 0
    text = (tmp_path / "table.tex").read_text()
    assert "3 pictures, 1 round, first resized to 256 px, matched by name" in text
    assert "simulated" not in text
    assert main(["report", out, "--published", "things-eeg"]) == 0
    page = (tmp_path / "figures" / "report.html").read_text()
    assert page.count('class="card"') == 3
    assert "CogCap (All), within subject" in page
    assert str(tmp_path) not in page
    assert "wrote" in capsys.readouterr().out


def test_two_studies_of_several_runs_are_compared_by_their_main_rows(tmp_path):
    """Each image is its own control, by its mean over the runs that tested it."""
    ids = [f"id{i}" for i in range(N)]
    ranks = {"a": np.full(N, 3), "b": np.where(np.arange(N) < 40, 1, 3)}
    for name, ranks_N in ranks.items():
        rows = {"fused (HVF)": ranks_N.tolist(), "ridge": [2] * N}
        runs = [a_result(ids, rows, kind="targets", run=f"seed-{seed}") for seed in range(2)]
        Run.create(tmp_path / name, Config())
        Result.combined(runs).write(tmp_path / name)
    of = {d.figure: d for d in compare(Folder(tmp_path / "a"), Folder(tmp_path / "b")).differences}
    assert (of["retrieval/brain/top1"].a, of["retrieval/brain/top1"].b) == (0.0, pytest.approx(40 / N))
    assert of["retrieval/brain/top1"].better == "B"
    assert of["retrieval/brain/top1"].n == N
