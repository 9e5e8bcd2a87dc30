"""Data that changed behind the same name are noticed before a stored result, or what lies beside it, is reused."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from hvf import alignment
from hvf.config import Config, HvfError, with_settings
from hvf.experiments import data_digests as digests
from hvf.experiments import interpretation, targets
from hvf.experiments.data_digests import data_digests, encoders_digest, input_digests
from hvf.experiments.made_from import changed, said_by, stamped
from hvf.experiments.repeated import each_repeat
from hvf.experiments.results import FILE, Result
from hvf.report.folder import Folder
from hvf.runs import Run
from hvf.vision.cache import weights_hashes
from hvf.vision.weights import MINI_WEIGHTS
from tests.a_result import a_result

N = 30


def write_trials(seed: int, rows: slice = slice(None)) -> None:
    """Responses to the images, random ones of another seed in some rows."""
    x_NC = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    x_NC[rows] = np.random.default_rng(seed).normal(size=x_NC[rows].shape)
    np.save("t.npy", x_NC)


def write_image(i: int, value: int) -> None:
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(f"images/im{i:02d}.png")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A study of files, of 24 training and 6 test images."""
    monkeypatch.setenv("HVF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    write_trials(0)
    for i in range(N):
        write_image(i, i)
    settings = {"data.study": "files", "data.trials": "t.npy", "data.images": "images", "data.test_images": 6}
    return with_settings(Config(), settings)


def test_each_part_of_the_data_has_its_digest(config):
    before = data_digests(config)
    assert list(before) == ["training trials", "test trials", "images"]
    assert data_digests(config) == before
    row = int(digests.open_study(config.data).test_images.ids[0].removeprefix("im"))
    write_trials(1, slice(row, row + 1))
    assert changed(before, data_digests(config)) == ["test trials"]
    write_trials(1)
    assert changed(before, data_digests(config)) == ["training trials", "test trials"]
    write_trials(0)
    assert data_digests(config) == before
    write_image(0, 255)
    assert changed(before, data_digests(config)) == ["images"]
    assert data_digests(Config()) == {}  # simulated: the settings say all


def test_unchanged_files_are_not_read_again(config, monkeypatch):
    time.sleep(0.2)  # what was written just now could be written again within the same tick
    before = data_digests(config)
    monkeypatch.setattr(digests, "open_study", lambda data: pytest.fail("the study was opened again"))
    assert data_digests(config) == before


def test_features_in_files_count_and_other_specs_are_other_data(config):
    ids = [f"im{i:02d}" for i in range(N)]
    np.savez("f.npz", ids=ids, clip=np.ones((N, 3), np.float32))
    fused = with_settings(config, {"targets.specs": ("features:f.npz#clip",)})
    before = data_digests(fused)
    np.savez("f.npz", ids=ids, clip=np.zeros((N, 3), np.float32))
    assert changed(before, data_digests(fused)) == ["features"]
    assert changed(before, data_digests(config)) == []  # which has none


def test_a_stored_repeat_of_other_trials_is_refused(config, tmp_path):
    made: list[str] = []

    def test(run: Run) -> Result:
        made.append(run.path.name)
        return a_result(["im00", "im01"], {"brain": [1, 2]}, config=run.config, run=run.path.name)

    run, configs = Run.create("out", config), {"split-0": config}
    first = each_repeat(run, configs, test)
    assert said_by(first[0]) == input_digests(config)
    assert data_digests(config).items() < input_digests(config).items()
    assert each_repeat(run, configs, test) == first
    write_trials(1)
    before = (tmp_path / "out" / "split-0" / FILE).read_bytes()
    with pytest.raises(HvfError, match="made from other training trials and test trials than there are now"):
        each_repeat(run, configs, test)
    assert (tmp_path / "out" / "split-0" / FILE).read_bytes() == before
    assert made == ["split-0"]
    replace(first[0], details={"options": {}}).write(run.path / "split-0")  # of an earlier version: nothing is known
    assert len(each_repeat(run, configs, test)) == 1
    assert made == ["split-0"]


def test_a_stored_repeat_by_an_encoder_of_other_weights_is_refused(config, tmp_path):
    """Settings name a folder; what lies in it may be another network tomorrow."""
    shutil.copytree(MINI_WEIGHTS / "clip-vit", "clip")
    config = with_settings(config, {"targets.specs": (f"openclip:{tmp_path}/clip",)})
    before = input_digests(config)
    assert before.items() >= encoders_digest(weights_hashes(config.targets.specs)).items()
    run, configs = Run.create("out", config), {"split-0": config}

    def test(run: Run) -> Result:
        return a_result(["im00", "im01"], {"brain": [1, 2]}, config=run.config, run=run.path.name)

    each_repeat(run, configs, test)
    (weights,) = Path("clip").glob("*.safetensors")
    tensors = load_file(weights)
    tensors["visual.proj"][0, 0] += 1
    save_file(tensors, weights)
    assert changed(before, input_digests(config)) == ["weights of the encoders"]
    with pytest.raises(HvfError, match="made from other weights of the encoders than there are now"):
        each_repeat(run, configs, test)
    weights.unlink()  # where they are not at hand, results are shown all the same
    assert len(each_repeat(run, configs, test)) == 1


def test_what_a_result_was_made_from_is_a_table_of_digests(tmp_path):
    result = stamped(a_result(["a", "b"], {"brain": [1, 2]}), {"test trials": "1"})
    result.write(tmp_path)
    assert Result.read(tmp_path) == result
    stored = json.loads((tmp_path / FILE).read_text())
    stored["details"]["made_from"] = [1]
    (tmp_path / FILE).write_text(json.dumps(stored))
    with pytest.raises(HvfError, match="not a whole result"):
        Result.read(tmp_path)


@pytest.mark.parametrize(
    ("of", "shown"), [({"test trials": "1"}, True), ({}, True), ({"test trials": "2", "decoder": "d"}, False)]
)
def test_the_report_leaves_out_evidence_of_other_trials(tmp_path, of, shown):
    run = Run.create(tmp_path, Config())
    stamped(a_result(["a", "b"], {"brain": [1, 2]}), {"test trials": "1"}).write(run.path)
    entry = {"value": 0.5, "ci95": [0.4, 0.6], "n": 2}
    lines = [{"trials": 1, "draws": 5, "figures": {"top1": entry}}]
    found = {"images": 2, "draws": 5, "level": 0.9, "chance": {"top1": entry}, "repeats": lines}
    run.write_json("repeats.json", found | ({"made_from": of} if of else {}))
    assert bool(Folder(tmp_path).evidence) is shown
    assert ("trials_1" in Folder(tmp_path).stages) is shown


def test_targets_of_other_trials_are_computed_anew(config, monkeypatch, capsys):
    monkeypatch.setattr(targets, "choose", lambda *_: pytest.fail("a row was fitted"))
    run = Run.create("split-0", config)
    stored = a_result(["a", "b"], {"one": [1, 2]}, kind="targets", config=config)
    stored = stored.with_row("one", replace(stored.rows["one"], settings={}))
    stamped(stored.with_details(candidates=[{}]), data_digests(config)).write(run.path)
    assert list(targets._one_repeat(run, {"one": {}}, [{}]).rows) == ["one"]
    write_trials(1)
    monkeypatch.setattr(targets, "open_split", lambda *_: (_ for _ in ()).throw(HvfError("computed anew")))
    with pytest.raises(HvfError, match="computed anew"):
        targets._one_repeat(run, {"one": {}}, [{}])
    assert "other training trials and test trials than before" in capsys.readouterr().err


def test_a_part_of_an_interpretation_of_other_test_trials_is_computed_anew(config):
    run = Run.create("run", config)
    (run.path / "checkpoint").mkdir()
    (run.path / "checkpoint" / alignment.FILE).write_bytes(b"weights")
    assert interpretation._part(run, "occlusion", lambda: 1, 50.0) == 1
    assert interpretation._part(run, "occlusion", lambda: 2, 50.0) == 1
    write_trials(1)
    assert interpretation._part(run, "occlusion", lambda: 3, 50.0) == 3
