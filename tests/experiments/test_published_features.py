"""A person is decoded towards published features, without any photograph: the real commands, from end to end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvf.cli import main
from hvf.data.doctor.examination import examine
from hvf.experiments.descriptions import OF_NAMES
from hvf.experiments.results import Result
from hvf.registry import HvfError
from hvf.report.compare import compare
from hvf.report.folder import Folder

CONCEPTS, EACH, D, TEST = 40, 3, 24, 30
NAMES = [f"c{c:02d}/c{c:02d}_{i}.png" for c in range(CONCEPTS) for i in range(EACH)]
TRAIN = ["retrieve", "--trials", "t.npy", "--test-images", str(TEST), "--epochs", "12", "--align.batch-size", "32"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trials in the order of the names; features of the images that they tell of, in three files; the photographs."""
    folder = tmp_path_factory.mktemp("desk")
    rng = np.random.default_rng(0)
    x_ND = rng.normal(size=(len(NAMES), D)).astype(np.float32)
    np.save(folder / "t.npy", x_ND @ rng.normal(size=(D, 30)) + rng.normal(size=(len(NAMES), 30)))
    order = rng.permutation(len(NAMES))
    np.savez(folder / "clip.npz", image=x_ND, names=NAMES)
    np.savez(folder / "shuffled.npz", image=x_ND[order], names=[Path(NAMES[i]).stem for i in order])
    np.savez(folder / "permuted.npz", image=x_ND[order], names=NAMES)  # the control: under each other's names
    for i, name in enumerate(NAMES):
        (folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / "photos" / name)
    return folder


@pytest.fixture
def here(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(desk)
    return desk


def figures(out: str, *options: str) -> dict:
    if not Path(out).exists():
        assert main([*TRAIN, *options, "--out", out]) == 0
    return json.loads((Path(out) / "metrics.json").read_text())


@pytest.mark.slow(part=8)
def test_without_photographs_as_with_them(here: Path, capsys: pytest.CaptureFixture) -> None:
    alone = figures("alone", "--images", "features:clip.npz#image")
    assert alone["retrieval/brain/top1"]["ci95"][0] > alone["chance/retrieval/top1"]["ci95"][1]
    assert not Path("alone/images").exists()
    config = json.loads(Path("alone/config.json").read_text())
    assert config["data"]["images"] == f"features:{os.getcwd()}/clip.npz#image"
    assert config["targets"]["specs"] == [f"features:{os.getcwd()}/clip.npz#image"]  # named by no other option
    study = Result.read("alone").study
    assert study.test_digest.startswith(OF_NAMES)
    # The same split, the same training, whether there are photographs, and in whatever order the features stand.
    assert figures("both", "--images", "photos", "--targets", "features:shuffled.npz#image") == alone
    assert len(list(Path("both/images/seen").iterdir())) == TEST
    other = figures("other", "--images", "features:clip.npz", "--targets", "features:shuffled.npz#image")
    assert other == alone
    assert not compare(Folder("alone"), Folder("both")).refused
    assert main(["report", "alone", "both", "--out", "both.html"]) == 0
    assert main(["evaluate", "alone"]) == 0
    # What the run left can be ranked again, by name.
    capsys.readouterr()
    z = "alone/embeddings.safetensors"
    assert main(["retrieve", "--embeddings", f"{z}#z_brain", "--gallery", f"{z}#z_ceiling", "--out", "again"]) == 0
    assert "matched by name" in capsys.readouterr().out
    again = json.loads(Path("again/metrics.json").read_text())
    assert again["retrieval/brain/mrr"]["value"] == alone["retrieval/brain/mrr"]["value"]


def test_permuted_names_find_nothing(here: Path) -> None:
    permuted = figures("permuted", "--images", "permuted.npz")
    assert permuted["retrieval/brain/top1"]["ci95"][0] <= permuted["chance/retrieval/top1"]["ci95"][1]
    assert permuted["retrieval/brain/mrr"]["value"] < 0.25


def test_another_content_or_no_file_is_noticed(here: Path, capsys: pytest.CaptureFixture) -> None:
    held = np.load("clip.npz")
    np.savez("moved.npz", image=held["image"], names=held["names"])
    options = [*TRAIN, "--images", "photos", "--targets", "features:moved.npz#image", "--out", "kept"]
    assert main(options) == 0
    np.savez("moved.npz", image=held["image"] + 1, names=held["names"])
    assert main(options) == 2
    assert "the checkpoint was made for training material (images)" in capsys.readouterr().err
    Path("moved.npz").unlink()
    assert main(options) == 2
    said = capsys.readouterr().err
    assert f"there is no file of features {os.getcwd()}/moved.npz, which features:" in said
    assert main(["report", "kept"]) == 0  # what was measured can be read all the same


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["reconstruct", "--trials", "t.npy", "--images", "clip.npz"], "drawing needs pictures"),
        ([*TRAIN, "--images", "clip.npz", "--targets", "vae:mini"], "vae:mini looks at pictures"),
        ([*TRAIN, "--images", "clip.npz#vae"], "clip.npz holds image, not vae"),
        ([*TRAIN, "--images", "clip.npz#image@3"], "not image@3; features in a file have no @LAYER"),
        ([*TRAIN, "--images", "clip.npz", "--targets", "features:clip.npz", "--targets.views", "blur9"], "no ~VIEW"),
        ([*TRAIN, "--images", "gone.npz"], "no such file or folder"),
        ([*TRAIN, "--images", "shuffled.npz"], "the rows of the features are in another order than the names"),
        (["embed", "--images", "gone.npz", "--targets", "features:clip.npz"], "no such file or folder: gone.npz"),
        (["embed", "--images", "clip.npz"], "holds no pictures, and this needs them"),
    ],
)  # fmt: skip
def test_what_needs_pictures_is_refused(here: Path, capsys: pytest.CaptureFixture, command, message) -> None:
    before = sorted(Path().rglob("*"))
    assert main([*command, *(["--out", "refused"] if command[0] != "embed" else [])]) == 2
    assert message in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


def test_the_doctor_looks_at_pictures(here: Path) -> None:
    with pytest.raises(
        HvfError, match=r"the doctor looks at pictures, and clip.npz holds features: leave --images out"
    ):
        examine("t.npy", "clip.npz")
