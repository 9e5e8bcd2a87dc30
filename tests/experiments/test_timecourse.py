"""Decoding over time: what was planted is found where it was planted, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import t as student

from hvf import report
from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.trials.trials import Trials
from hvf.experiments.generalisation import Target, balanced_accuracy, binned, correlation, decode, pairwise
from hvf.experiments.results import Result
from hvf.experiments.timecourse import _over, low_level
from tests.script_module import load_script

SCRIPT = Path(__file__).resolve().parents[2] / "brain_training" / "timecourse.py"
N, C, B = 150, 8, 7
CONCEPTS = np.repeat([f"c{i:02d}" for i in range(30)], 5)
EVERY = np.arange(N)
PLANTED = [2, 3]


def planted(values_NP: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Responses that carry values in some bins, by the same pattern of channels."""
    x_NCB = rng.normal(size=(N, C, B)) * 0.5
    x_NCB[:, :, PLANTED] += (values_NP @ rng.normal(size=(values_NP.shape[1], C)))[..., None]
    return x_NCB


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("score", ["pairwise", "correlation"])
@pytest.mark.parametrize("width", [1, 12])
def test_values_are_found_at_the_planted_times_alone(score: str, width: int, rng) -> None:
    y_NP = rng.normal(size=(N, 2)) @ rng.normal(size=(2, width))
    x_NCB = planted(y_NP / y_NP.std(), rng)
    course = decode(x_NCB, x_NCB[rng.permutation(N)], Target(y_NP, CONCEPTS, EVERY), 3, score)
    away = [i for i in range(B) if i not in PLANTED]
    mean_B, chance = course.diagonal_FB.mean(axis=0), {"pairwise": 0.5, "correlation": 0.0}[score]
    assert (course.chance, course.score, course.diagonal_FB.shape) == (chance, score, (3, B))
    assert mean_B[PLANTED].min() > 0.8
    assert np.abs(mean_B[away] - chance).max() < 0.25
    assert np.abs(course.permuted_FB.mean(axis=0) - chance).max() < 0.25
    assert course.general_BB[np.ix_(PLANTED, PLANTED)].min() > 0.8  # the pattern is the same, and so is the decoder
    assert course.general_BB[np.ix_(PLANTED, away)].max() < chance + 0.3
    np.testing.assert_allclose(np.diagonal(course.general_BB), mean_B)


def test_labels_are_found_at_the_planted_times_alone(rng) -> None:
    kind_N = np.array(["bird", "car", "tool"])[np.arange(30) % 3].repeat(5)
    one_hot = (kind_N[:, None] == np.unique(kind_N)) * 2.0
    x_NCB = planted(one_hot, rng)
    for labels, n in ((kind_N, 3), (np.where(kind_N == "car", "car", "other"), 2)):
        course = decode(x_NCB, x_NCB[rng.permutation(N)], Target(labels, CONCEPTS, EVERY), 3)
        mean_B = course.diagonal_FB.mean(axis=0)
        assert (course.score, course.chance) == ("accuracy", 1 / n)
        assert mean_B[PLANTED].min() > 0.9
        assert np.delete(mean_B, PLANTED).max() < 1 / n + 0.2
        assert course.permuted_FB.mean(axis=0).max() < 1 / n + 0.2


def test_concepts_are_apart_in_folds_and_of_concepts_themselves_images(rng) -> None:
    """Responses know each concept by heart: without folds of concepts any value of theirs would seem decodable."""
    own = rng.normal(size=(30, 40)).repeat(5, axis=0)
    x_NCB = np.repeat(own[..., None], 2, axis=2) + 0.1 * rng.normal(size=(N, 40, 2))
    value = rng.normal(size=30).repeat(5)[:, None]
    apart = decode(x_NCB, x_NCB, Target(value, CONCEPTS, EVERY), 5)
    together = decode(x_NCB, x_NCB, Target(value, EVERY.astype(str), EVERY), 5)  # the control
    assert apart.diagonal_FB.mean() < 0.62 < together.diagonal_FB.mean()
    rows = np.flatnonzero(np.isin(CONCEPTS, ["c03", "c11", "c12"]))
    course = decode(x_NCB, x_NCB[rng.permutation(N)], Target(CONCEPTS[rows], None, rows), 5)
    assert course.chance == 1 / 3
    assert course.diagonal_FB.min() == 1
    assert course.permuted_FB.mean() < 0.7


def test_pairwise_accuracy_is_that_of_exchanged_predictions(rng) -> None:
    y, predicted = rng.normal(size=(25, 3)), rng.normal(size=(25, 3))
    right = [
        np.square(y[i] - predicted[i]).sum() + np.square(y[j] - predicted[j]).sum()
        < np.square(y[i] - predicted[j]).sum() + np.square(y[j] - predicted[i]).sum()
        for i in range(25)
        for j in range(i)
    ]
    assert pairwise(y, predicted) == pytest.approx(np.mean(right), abs=1e-12)
    assert pairwise(y, y) == 1
    assert pairwise(y, np.ones_like(y)) == 0.5
    many = rng.normal(size=(1000, 1))
    assert pairwise(many, many + 5) == 1  # of some of them
    assert correlation(y, 3 * y + 1) == pytest.approx(1)
    assert correlation(y[:, :1], predicted[:, :1]) == pytest.approx(np.corrcoef(y[:, 0], predicted[:, 0])[0, 1])
    assert correlation(y, np.ones_like(y)) == 0
    assert balanced_accuracy(np.array([*"aaab"]), np.array([*"aaaa"])) == 0.5


def test_low_level_values_are_those_of_the_pixels() -> None:
    side, at = 64, np.arange(64)
    grey = np.full((5, side, side, 3), 128, np.uint8)
    grey[1] = 255
    grey[2, :, : side // 2], grey[2, :, side // 2 :] = 0, 255
    distance = np.hypot(*np.meshgrid(at - 31.5, at - 31.5))
    grey[3][distance < 8], grey[4][distance < 24] = 255, 255
    measured = low_level(ImageSet.from_arrays(grey, "abcde", "abcde"))
    np.testing.assert_allclose(measured["luminance"][:3], [128 / 255, 1, 0.5], atol=1e-6)
    np.testing.assert_allclose(measured["contrast"][:3], [0, 0, 0.5], atol=1e-6)
    np.testing.assert_allclose(measured["size"][3:], [8 / 64, 24 / 64], rtol=0.05)  # edges lie at the disc's radius


def test_bins_average_samples(rng) -> None:
    x_NCT = rng.normal(size=(4, 2, 11)).astype(np.float32)
    trials = Trials(1e-6 * x_NCT, list("abcd"), "sub-01", 100.0, -0.02, ["Oz", "O1"], "eeg")
    x_NCB, edges = binned(trials, 0.03)
    np.testing.assert_allclose(edges, [-0.02, 0.01, 0.04, 0.07])
    mean = x_NCT[..., :9].reshape(4, 2, 3, 3).mean(axis=3)
    np.testing.assert_allclose(x_NCB, mean / mean.std(axis=(0, 2))[:, None], rtol=1e-4)
    with pytest.raises(HvfError, match="11 samples at 100 Hz, which bins of 60 ms do not part"):
        binned(trials, 0.06)


def test_intervals_are_over_folds_or_over_subjects() -> None:
    def subject(name: str, diagonal: list[list[float]]) -> dict:
        course = {"chance": 0.5, "score": "pairwise", "diagonal_FB": diagonal, "permuted_FB": [[0.5] * 4] * 2}
        course["general_BB"] = np.full((4, 4), np.mean(diagonal)).tolist()
        return {"subject": name, "edges": [0.0, 0.1, 0.2, 0.3, 0.4], "courses": {"size": course}}

    one, other = (
        subject(n, [[0.5, v, v + 0.1, 0.4], [0.4, v + 0.02, v + 0.12, 0.6]]) for n, v in (("a", 0.7), ("b", 0.8))
    )
    course = _over([one])["courses"]["size"]
    half = student.ppf(0.975, 1) * 0.02 / np.sqrt(2) / np.sqrt(2)
    assert course["diagonal"][1]["value"] == pytest.approx(0.71)
    np.testing.assert_allclose(course["diagonal"][1]["ci95"], [0.71 - half, 0.71 + half])
    assert (course["diagonal"][1]["n"], course["best"], course["onset"]) == (2, 2, 0.1)
    both = _over([one, other])
    assert both["subjects"] == ["a", "b"]
    entry = both["courses"]["size"]["diagonal"][1]
    assert (entry["value"], entry["n"]) == (pytest.approx(0.76), 2)
    half = student.ppf(0.975, 1) * 0.1 / np.sqrt(2) / np.sqrt(2)
    np.testing.assert_allclose(entry["ci95"], [0.76 - half, 0.76 + half])
    with pytest.raises(HvfError, match="differ in window or rate"):
        _over([one, other | {"edges": [0.0, 0.2, 0.4, 0.6, 0.8]}])


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """Grey pictures of ten concepts, and responses that tell their luminance from 40 to 60 ms."""
    rng = np.random.default_rng(1)
    root = tmp_path_factory.mktemp("files")
    grey_N = rng.integers(20, 230, N)
    for i, (grey, concept) in enumerate(zip(grey_N, CONCEPTS, strict=True)):
        (root / "images" / concept).mkdir(parents=True, exist_ok=True)
        noise = rng.integers(-15, 15, (16, 16, 3))
        Image.fromarray((grey + noise).astype(np.uint8)).save(root / "images" / concept / f"{i:03d}.png")
    x_NCT = rng.normal(size=(N, 4, 10)).astype(np.float32)
    x_NCT[:, :2, 4:6] += ((grey_N - 125) / 40)[:, None, None]
    np.save(root / "trials.npy", x_NCT)
    (root / "kinds.csv").write_text("".join(f"{c},{'ab'[i % 2]}\n" for i, c in enumerate(sorted(set(CONCEPTS)))))
    return [
        "--trials", str(root / "trials.npy"), "--images", str(root / "images"), "--test-images", "10",
        "--targets", "vae:mini:grid2", "--step", "10", "--folds", "3",
    ]  # fmt: skip


def call(*arguments: str | Path) -> int:
    return load_script(SCRIPT).main([str(a) for a in arguments])


@pytest.mark.slow(part=7)
def test_the_script_leaves_a_result_that_the_report_reads(files, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    out = tmp_path / "out"
    command = [*files, "--what", "luminance", "concept", "--out", out]
    assert call(*command) == 0
    printed = capsys.readouterr().out
    assert "luminance" in printed
    assert "3 folds" in printed
    result = Result.read(out)
    assert (result.kind, list(result.rows)) == ("timecourse", ["luminance", "vae:mini:grid2", "concept"])
    found = json.loads((out / "timecourse.json").read_text())
    course = found["courses"]["luminance"]
    assert course["best"] in (4, 5)
    assert (course["onset"], course["chance"]) == (0.04, 0.5)
    value = np.array([entry["value"] for entry in course["diagonal"]])
    assert value[4:6].min() > 0.8
    assert np.abs(np.delete(value, [4, 5]) - 0.5).max() < 0.2
    assert np.abs([entry["value"] - 0.5 for entry in course["permuted"]]).max() < 0.2
    assert found["courses"]["concept"]["chance"] == 1 / 20  # of the 30, those with most images
    with Image.open(out / "timecourse.png") as picture:
        assert picture.width > 1000
    page = report.write_report([out], tmp_path / "page.html").read_text()
    assert "luminance: pairwise accuracy" in page
    stamp = (out / "sub-08" / "timecourse.json").stat().st_mtime_ns
    assert call(*command) == 0
    assert (out / "sub-08" / "timecourse.json").stat().st_mtime_ns == stamp  # taken up
    assert call(*command, "--components", "5") == 2
    assert "--components 20, not 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "1"], "--folds must be at least 2"),
        (["--step", "0"], "--step must be greater than 0"),
        (["--step", "80"], "which bins of 80 ms do not part"),
        (["--folds", "40"], "concepts cannot be parted into 40 folds"),
        (["--what", "size", "size"], "name each target once: --what size"),
        (["--what", "category"], "nobody knows the categories"),
        (["--categories", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["--what", "concept", "--folds", "6"], "concepts have at most 5 images"),
        (["--subjects", "8", "8"], "--subjects names one twice"),
    ],
)
def test_bad_options_are_refused(files, options, message, tmp_path, capsys) -> None:
    assert call(*files, *options, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow(part=7)
def test_categories_come_from_a_file(files, tmp_path, capsys) -> None:
    kinds = Path(files[1]).parent / "kinds.csv"
    assert call(*files, "--what", "category", "--categories", kinds, "--out", tmp_path / "out") == 0
    assert Result.read(tmp_path / "out").rows["category"].settings == {"score": "accuracy", "chance": 0.5}
