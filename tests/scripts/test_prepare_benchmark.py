"""The benchmark of preparing: its straightforward way is the official one, and it refuses to compare unequal things."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hvf.cli.options import run_script
from hvf.config import HvfError
from tests.script_module import load_script

SCRIPT = Path(__file__).resolve().parents[2] / "eval" / "prepare_benchmark.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script(SCRIPT)


@pytest.fixture(scope="module")
def trees(benchmark, tmp_path_factory) -> tuple[Path, Path]:
    """A small subject, and a part of it."""
    root = tmp_path_factory.mktemp("prepare-benchmark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "IMAGES", 2)
        patch.setattr(benchmark, "TEST_REPEATS", 12)
        told = benchmark.simulate(str(root / "whole"), 0.001, "float32")
    assert told["bytes"] > 10**6
    assert benchmark.cut(str(root / "whole"), str(root / "part"), 0.1)["counts"] == {
        "training": [8, 16],
        "test": [8, 8],
    }
    return root / "whole", root / "part"


def test_the_straightforward_way_is_the_official_one(benchmark, shared_data, tmp_path, monkeypatch):
    """On the golden recordings: two sessions of one subject and what the field's own code made of them."""
    golden = shared_data / "golden" / "things_eeg2_raw"
    theirs = [
        np.load(golden / f"preprocessed_data/sub-01/preprocessed_eeg_{part}.npy", allow_pickle=True).item()
        for part in ("training", "test")
    ]
    expected = np.concatenate([t["preprocessed_eeg_data"].reshape(-1, 17, 100) for t in theirs])
    monkeypatch.setattr(benchmark, "SUBJECT", 1)
    monkeypatch.setattr(benchmark, "MOST_REPEATS", {"training": 2, "test": 3})
    told = benchmark.straightforward(str(golden), str(tmp_path / "out.npy"), "official")
    assert set(told["seconds"]) == set(told["cpu"]) == {"training", "test", "rest"}
    found = np.load(tmp_path / "out.npy")
    scale = np.abs(expected).max()
    assert np.abs(found - expected).max() < 1e-6 * scale  # stored as float32
    monkeypatch.setattr(benchmark, "MOST_REPEATS", {"training": 2, "test": 2})
    benchmark.straightforward(str(golden), str(tmp_path / "other.npy"), "official")
    assert np.load(tmp_path / "other.npy").shape != found.shape


def test_a_part_holds_the_presentations_of_its_conditions(benchmark, trees):
    whole, part = trees
    metadata = {root: np.load(root / "image_metadata.npy", allow_pickle=True).item() for root in trees}
    files = metadata[part]["train_img_files"]
    assert len(files) == 8
    for path in benchmark._files(whole, "training"):
        onsets, codes = benchmark._events(path)
        x = np.load(path, allow_pickle=True).item()["raw_eeg_data"]
        shown = [(metadata[whole]["train_img_files"][code - 1], i) for i, code in zip(onsets, codes, strict=True)
                 if code != 99999]  # fmt: skip
        expected = [(name, i) for name, i in shown if name in files]
        small = part / path.relative_to(whole)
        y = np.load(small, allow_pickle=True).item()["raw_eeg_data"]
        found = list(zip(*benchmark._events(small), strict=True))
        assert [name for name, _ in expected] == [files[code - 1] for _, code in found]
        assert len(found) >= 2  # every session shows some
        for (_, i), (j, _) in zip(expected, found, strict=True):
            np.testing.assert_array_equal(x[:-1, i - 200 : i + 1001], y[:-1, j - 200 : j + 1001])


def test_both_ways_agree_and_unequal_ones_are_refused(benchmark, trees, tmp_path):
    slow = tmp_path / "slow.npy"
    benchmark.straightforward(str(trees[1]), str(slow), "hvf")
    fast = Path(benchmark.prepare(str(trees[1]), str(tmp_path / "out"), "hvf", 1)["path"])
    x = np.load(slow)
    assert benchmark._difference(slow, fast) <= np.finfo(x.dtype).eps
    for wrong in (x[::-1], x * x.dtype.type(1.01)):
        np.save(slow, wrong)
        with pytest.raises(HvfError, match="the two ways differ by"):
            benchmark._difference(slow, fast)
    np.save(slow, x[:-1])
    with pytest.raises(HvfError, match="the two ways made"):
        benchmark._difference(slow, fast)


def test_codes_are_taken_from_every_session(benchmark):
    shown = [np.r_[1:51, 99999], np.r_[51:101], np.r_[1:101:2], np.r_[2:101:2, 99999]]
    codes = benchmark._spread(shown, 8)
    assert len(codes) == 8
    assert (np.diff(codes) > 0).all()
    assert [len(set(codes) & set(some)) for some in shown] == [4, 4, 4, 4]


def test_time_is_scaled_by_conditions_and_sessions(benchmark):
    part = {"training": 2.0, "test": 3.0, "rest": 0.5}
    found = {
        "straightforward": {"seconds": part},
        "load": {"seconds": {"all": 1.0}},
        "cut": {"counts": {"training": [10, 100], "test": [10, 20]}},
    }
    assert benchmark._scaled(found, "seconds") == pytest.approx(2 * 10 + 3 * 2 + 0.5 + 1.0 * 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--scale", "0"], "lie between 0 and 1"), (["--fraction", "1.5"], "lie between 0 and 1")],
)
def test_impossible_options_are_refused(benchmark, tmp_path, capsys, arguments, message):
    assert run_script(benchmark.main, [*arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_stage_that_fails_says_why(benchmark, tmp_path):
    with pytest.raises(HvfError, match="stage prepare failed: .*there is no folder"):
        benchmark.in_process("prepare", str(tmp_path / "absent"), str(tmp_path / "out"), "hvf", 1)


@pytest.mark.slow(part=5)
def test_the_whole_benchmark(tmp_path):
    out = tmp_path / "out"
    command = [
        sys.executable,
        str(SCRIPT),
        "--scale",
        "0.001",
        "--fraction",
        "0.05",
        "--dtype",
        "float32",
        "--out",
        out,
    ]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads((out / "table.json").read_text())
    assert told["prepare"]["peak"] > 10**7
    assert told["scaled"]["seconds"] > sum(told["straightforward"]["seconds"].values())
    assert told["loso"]["batches_bytes"] < 20 * told["loso"]["batch_bytes"]
    assert told["loso"]["trials"] == 9 * 80 * 4
    table = (out / "table.md").read_text()
    assert "Simulated recordings" in table
    assert "scaled linearly" in table
    shutil.rmtree(out)
