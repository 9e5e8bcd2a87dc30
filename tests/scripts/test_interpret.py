"""The script that interprets a run, as a user runs it, and the page that shows what it found."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import mne
import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from hvf import report
from hvf.config import HvfError, with_settings
from hvf.experiments import interpretation, stages
from hvf.presets import mini
from hvf.report.interpretation import sensor_lists
from hvf.runs import Run
from tests.script_module import load_script

INTERPRET = Path(__file__).resolve().parents[2] / "brain_training" / "interpret.py"
NAMES = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "PO3", "PO4", "O1", "O2"]
SMALL = {
    "targets.specs": ("openclip:mini-resnet", "vae:mini"), "brain.encoder": "ridge", "fusion.kind": "concatenated",
    "data.study": "files", "data.test_images": 40,
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Colour fields, and responses to their colours: occipital, 100 ms after onset."""
    root = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    colours = rng.integers(256, size=(160, 2, 2, 3), dtype=np.uint8)
    (root / "images").mkdir()
    for i, colour in enumerate(colours):
        Image.fromarray(colour).resize((64, 64), Image.Resampling.NEAREST).save(root / "images" / f"image{i:03d}.png")
    drive = (colours.reshape(160, 12) / 128 - 1) @ rng.normal(size=(12, 4))
    x_NCT = rng.normal(size=(160, len(NAMES), 30)) * 1e-6
    x_NCT[:, -4:, 10:15] += 4e-6 * drive[..., None]
    info = mne.create_info(NAMES, 100.0, "eeg")
    info.set_montage("standard_1005", verbose="error")
    mne.EpochsArray(x_NCT, info, tmin=0.0, verbose="error").save(root / "mine-epo.fif", verbose="error")
    np.save(root / "neurons.npy", x_NCT[:, :, 12] * 1e6)
    kinds = [f"image{i:03d},{'warm' if colours[i, ..., 0].mean() > 128 else 'cold'}" for i in range(160)]
    (root / "kinds.csv").write_text("\n".join(["concept,category", *kinds]))
    return root


class Plane:
    """In UMAP's place: it compiles for 20 s, and is tested in test_interpretation.py and by the README's command."""

    def __init__(self, **_settings) -> None:
        self.fit_transform = PCA(2, random_state=0).fit_transform


@pytest.fixture(autouse=True)
def quick_map(monkeypatch):
    monkeypatch.setattr(interpretation, "_umap", lambda: SimpleNamespace(UMAP=Plane))


def trained(study: Path, trials: str, out: Path) -> Run:
    where = {"data.trials": str(study / trials), "data.images": str(study / "images")}
    run = Run.create(out, with_settings(mini(), SMALL | where))
    stages.train_run(run)
    return run


def call(*arguments: str | Path) -> int:
    return load_script(INTERPRET).main([str(a) for a in arguments])


@pytest.mark.slow(part=5)
def test_a_recording_with_places_and_times(study, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    run = trained(study, "mine-epo.fif", tmp_path / "run")
    assert call(run.path, "--window", "50") == 0
    printed = capsys.readouterr().out
    assert "retrained on one window, 100–150 ms by validation" in printed
    assert "(chance 2.5)" in printed
    for said in ("O1 and neighbours", "only low-level", "shared", "only semantic", "z_b identified"):
        assert said in printed
    maps, courses = run.read_json("sensors.json"), run.read_json("windows.json")
    assert maps[0]["ch_names"] == NAMES
    assert {NAMES[i] for i in np.argsort(maps[0]["values"])[-4:]} <= set(NAMES[-6:])
    assert len(maps[0]["positions"]) == len(NAMES)
    retrained, hidden, *explained = courses
    assert [int(np.argmax([w["value"] for w in c["windows"]])) for c in (retrained, hidden)] == [2, 2]
    assert retrained["chance"] == 1 / 40
    assert np.shape(retrained["windows"][0]["top5"]) == (40, 5)
    assert len(explained) == 3
    assert run.read_json("interpretation.json")["categories"] is None  # nobody named any
    for name in ("interpretation.png", "embedding.png"):
        with Image.open(run.path / name) as picture:
            assert min(picture.size) > 500
    assert not any("whitened" in one["how"] for one in maps)
    whitened = sensor_lists(run.read_json("interpretation.json") | {"whitened": True})
    assert all("channel is a mixture of all sensors" in one["how"] for one in whitened)
    page = report.write_report([run.path], tmp_path / "report.html").read_text(encoding="utf-8")
    for course in courses:
        assert course["title"] in page
    assert page.count("on the head, seen from above") == len(maps)
    assert 'alt="Embeddings of brain and image in one plane"' in page

    kept = {path: path.stat().st_mtime_ns for path in (run.path / "interpretation").iterdir()}
    before = (run.path / "interpretation.json").read_bytes()
    (run.path / "interpretation" / "map.json").unlink()
    assert call(run.path, "--window", "50") == 0  # pieces are taken up, one that is missing comes out the same
    assert (run.path / "interpretation.json").read_bytes() == before
    kept.pop(run.path / "interpretation" / "map.json")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.slow(part=5)
def test_neurons_have_neither_places_nor_times(study, tmp_path, capsys):
    run = trained(study, "neurons.npy", tmp_path / "run")
    assert call(run.path, "--categories", study / "kinds.csv") == 0
    assert " ms" not in capsys.readouterr().out
    assert not run.has("windows.json")
    (alone,) = run.read_json("sensors.json")
    assert "positions" not in alone
    assert {f"{i:03d}" for i in range(8, 12)} >= {alone["ch_names"][i] for i in np.argsort(alone["values"])[-2:]}
    assert set(run.read_json("interpretation.json")["categories"]["accuracy"]) == {"warm", "cold"}
    page = report.write_report([run.path], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "ranked bars" in page
    table = tmp_path / "few.csv"
    table.write_text("image000,cold")
    assert call(run.path, "--categories", table) == 2
    assert "few.csv lacks 40 of the concepts shown, the first 'image" in capsys.readouterr().err


@pytest.mark.slow(part=5)
def test_without_umap_only_the_map_is_missing(study, tmp_path, capsys, monkeypatch):
    def missing():
        raise HvfError("the map is UMAP's: pip install 'hvf[interpret]'")

    run = trained(study, "neurons.npy", tmp_path / "run")
    with monkeypatch.context() as without:
        without.setattr(interpretation, "_umap", missing)
        assert call(run.path, "--categories", study / "kinds.csv") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "UMAP" in line]
    assert said == ["map of both modalities: left out, the map is UMAP's: pip install 'hvf[interpret]'"]
    result = run.read_json("interpretation.json")
    assert set(result["map"]) == {"left_out"}
    assert {"occlusion", "explained", "categories"} <= set(result)
    assert (run.path / "embedding.png").is_file()  # accuracy by category
    assert call(run.path, "--categories", study / "kinds.csv") == 0  # once it is installed only the map is computed
    assert len(run.read_json("interpretation.json")["map"]["brain"]) == 40
    assert "UMAP" not in capsys.readouterr().out


def test_refused_in_one_line(study, tmp_path, capsys):
    run = Run.create(tmp_path / "bare", mini())
    viewed = Run.create(tmp_path / "viewed", with_settings(mini(), {"targets.views": ("blur9",)}))
    for arguments, said in (
        ([], "name a run folder"),
        ([tmp_path], "name a run folder"),
        ([run.path], "train first, with hvf train"),
        ([run.path, "--radius", "0"], "must be greater than 0"),
        ([viewed.path, "--retrain", "own"], "learnt from views or captions"),
        ([run.path, "--windw", "50"], "did you mean '--window'"),
    ):
        assert call(*arguments) == 2
        complaint = capsys.readouterr().err
        assert said in complaint
        assert len(complaint.strip().splitlines()) == 1
    assert json.loads((run.path / "config.json").read_text())
    assert sorted(p.name for p in run.path.iterdir()) == ["config.json"]
