"""The benchmark of preparing: its straightforward way is the official one, and it refuses to compare unequal things."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hvf.config import HvfError
from hvf.experiments.timing import in_process
from tests.script_module import load_script

SCRIPT = Path(__file__).resolve().parents[2] / "eval" / "prepare_benchmark.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script(SCRIPT)


@pytest.fixture(scope="module")
def part(benchmark, tmp_path_factory) -> Path:
    """A fraction of the smallest subject: half of its 16 training images."""
    root = tmp_path_factory.mktemp("prepare-benchmark") / "part"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "IMAGES", 2)
        patch.setattr(benchmark, "TEST_REPEATS", 12)
        written = benchmark.simulate(str(root), 0.001, 0.5, "float32")
    assert written["bytes"] > 10**6
    assert written["conditions"] == {"training": 8, "test": 8}
    return root


@pytest.mark.slow(part=5)
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
    times = benchmark.straightforward(str(golden), str(tmp_path / "out.npy"), "official")
    assert set(times["seconds"]) == set(times["cpu"]) == {"training", "test", "rest"}
    found = np.load(tmp_path / "out.npy")
    scale = np.abs(expected).max()
    assert np.abs(found - expected).max() < 1e-6 * scale  # stored as float32
    monkeypatch.setattr(benchmark, "MOST_REPEATS", {"training": 2, "test": 2})
    benchmark.straightforward(str(golden), str(tmp_path / "other.npy"), "official")
    assert np.load(tmp_path / "other.npy").shape != found.shape


@pytest.mark.slow(part=7)
def test_a_part_shows_all_its_conditions_as_often_as_the_whole_would(benchmark, part):
    metadata = np.load(part / "image_metadata.npy", allow_pickle=True).item()
    assert len(metadata["train_img_files"]) == 8
    for split, repeats in (("training", 4), ("test", 12)):
        codes = []
        for path in benchmark._files(part, split):
            stim = np.load(path, allow_pickle=True).item()["raw_eeg_data"][-1]
            codes += [code for code in stim[stim > 0].astype(int).tolist() if code != 99999]
            assert len(codes) >= 2  # every session shows some
        assert Counter(codes) == dict.fromkeys(range(1, 9), repeats)


@pytest.mark.slow(part=7)
def test_both_ways_agree_and_unequal_ones_are_refused(benchmark, part, tmp_path):
    slow = tmp_path / "slow.npy"
    benchmark.straightforward(str(part), str(slow), "hvf")
    fast = Path(benchmark.prepare(str(part), str(tmp_path / "out"), "hvf", 1)["path"])
    x = np.load(slow)
    assert benchmark._difference(slow, fast) <= np.finfo(x.dtype).eps
    for wrong in (x[::-1], x * x.dtype.type(1.01)):
        np.save(slow, wrong)
        with pytest.raises(HvfError, match="the two ways differ by"):
            benchmark._difference(slow, fast)
    np.save(slow, x[:-1])
    with pytest.raises(HvfError, match="the two ways made"):
        benchmark._difference(slow, fast)


def test_time_is_scaled_by_conditions_and_sessions(benchmark):
    results = {
        "straightforward": {"seconds": {"training": 2.0, "test": 3.0, "rest": 0.5}},
        "load": {"seconds": {"all": 1.0}},
        "simulate part": {"conditions": {"training": 10, "test": 10}},
        "simulate": {"conditions": {"training": 100, "test": 20}},
    }
    assert benchmark._scaled(results, "seconds") == pytest.approx(2 * 10 + 3 * 2 + 0.5 + 1.0 * 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--scale", "0"], "lie between 0 and 1"), (["--fraction", "1.5"], "lie between 0 and 1")],
)
def test_impossible_options_are_refused(benchmark, tmp_path, capsys, arguments, message):
    assert benchmark.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow(part=5)
def test_a_stage_that_fails_says_why(tmp_path):
    with pytest.raises(HvfError, match="stage prepare failed: .*there is no folder"):
        in_process(SCRIPT, "prepare", str(tmp_path / "absent"), str(tmp_path / "out"), "hvf", 1)


@pytest.mark.slow(part=5)
def test_the_whole_benchmark(tmp_path):
    out = tmp_path / "out"
    arguments = ["--scale", "0.001", "--fraction", "0.05", "--dtype", "float32", "--out", str(out)]
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "table.json").read_text())
    assert results["prepare"]["peak"] > 10**7
    assert results["scaled"]["seconds"] > sum(results["straightforward"]["seconds"].values())
    assert results["loso"]["batches_bytes"] < 20 * results["loso"]["batch_bytes"]
    assert results["loso"]["trials"] == 9 * 80 * 4
    table = (out / "table.md").read_text()
    assert "Simulated recordings" in table
    assert "scaled linearly" in table
    shutil.rmtree(out)
