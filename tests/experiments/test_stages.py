"""The stages of a run: what each leaves, that each runs alone, and that a killed run comes to the same end."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvf import decoder as decoding
from hvf.cli import main
from hvf.config import Config, HvfError
from hvf.data.trials.trials import Trials
from hvf.decoder import Decoder
from hvf.evaluation.pictures import ROWS
from hvf.experiments import run_pictures, stages
from hvf.experiments.results import Result
from hvf.files.tensors import read_tensors
from hvf.runs import Run
from tests.a_result import a_result
from tests.small_run import small_config


@pytest.fixture(scope="module")
def config() -> Config:
    return small_config()


@pytest.fixture(scope="module")
def finished(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with every stage done."""
    run = Run.create(tmp_path_factory.mktemp("run") / "small", config)
    stages.reconstruct_run(run)
    return run.path


def test_run_folder_is_whole(finished: Path) -> None:
    for row in ("seen", *ROWS):
        pictures = sorted((finished / "images" / row).glob("*.png"))
        assert len(pictures) == 12
        assert Image.open(pictures[0]).size == (64, 64)
    figures = json.loads((finished / "metrics.json").read_text())
    for row in ROWS:
        for name in ("kind_top1", "pixcorr", "ssim", "two_way_mini-resnet", "two_way_mini-vit"):
            assert set(figures[f"reconstruction/{row}/{name}"]) == {"value", "ci95", "n"}
    assert figures["chance/retrieval/top1"]["value"] == pytest.approx(1 / 12)
    result = Result.read(finished)
    assert len(result.gallery) == 12
    assert result.kind == "retrieval"
    assert result.study.simulated
    assert result.metrics().items() <= figures.items()
    for row in ("brain", "floor"):
        assert len(result.rows[row].ranks) == 12
        assert all(len(columns) == 5 for columns in result.rows[row].top5)


def test_the_floor_shows_the_brains_pictures_under_other_images_names(finished: Path) -> None:
    """One trial of each image: whatever a permuted trial would have drawn, its own has drawn already."""
    brain, floor = (
        [path.read_bytes() for path in sorted((finished / "images" / row).glob("*.png"))] for row in ("brain", "floor")
    )
    z, _ = read_tensors(finished / "embeddings.safetensors")
    source_N = [int(np.flatnonzero((z["z_brain"] == z_D).all(axis=1))[0]) for z_D in z["z_floor"]]
    assert floor == [brain[i] for i in source_N]
    assert sorted(source_N) == list(range(12)) != source_N
    study = stages.open_study(Run.open(finished).config.data)
    ids = study.test_images.ids
    said = dict(zip(study.test.image_ids, study.test.permuted(stages.FLOOR_SEED).image_ids, strict=True))
    assert [said[ids[i]] for i in source_N] == list(ids)


@pytest.mark.parametrize("repeats", [1, 2])
def test_the_floor_is_embedded_from_permuted_trials(finished: Path, tmp_path: Path, repeats: int) -> None:
    run, decoder = Run.open(shutil.copytree(finished, tmp_path / "copy")), Decoder.load(finished / "checkpoint")
    study = stages.open_study(run.config.data)
    noisy = study.test.replace(x_NCT=study.test.load_array() + np.linspace(0, 1, study.test.shape[2], dtype=np.float32))
    study = replace(study, test=Trials.concatenate([study.test, noisy][:repeats]))
    z = stages._embeddings(run, decoder, study)
    permuted = study.test.permuted(stages.FLOOR_SEED).aligned_to(study.test_images)
    np.testing.assert_allclose(z["z_floor"], decoder.embed_trials(permuted), rtol=1e-4, atol=1e-5)
    assert (stages._same_as_brain(run) is None) == (repeats == 2)


def count_learning(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one each time that a decoder is told the training images."""
    calls: list[str] = []
    fit = Decoder._fit_drawing
    monkeypatch.setattr(Decoder, "_fit_drawing", lambda self, *data: (calls.append("learn"), fit(self, *data))[1])
    return calls


@pytest.mark.slow(part=8)
def test_each_stage_runs_alone_and_gives_the_same(finished: Path, tmp_path: Path, monkeypatch) -> None:
    calls = count_learning(monkeypatch)
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    before = {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*.png")}
    figures = (copy / "metrics.json").read_text()
    shutil.rmtree(copy / "images" / "brain")
    (copy / "metrics.json").unlink()
    stages.reconstruct_run(Run.open(copy))
    assert {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*.png")} == before
    assert json.loads((copy / "metrics.json").read_text()) == json.loads(figures)
    assert calls == []  # the checkpoint carries it
    before = {path.name: path.read_bytes() for path in (copy / "checkpoint").iterdir()}
    for path in (copy / "checkpoint").iterdir():  # as one ended after the first of its files
        if path.name != "alignment.safetensors":
            path.unlink()
    stages.reconstruct_run(Run.open(copy))
    assert {path.name: path.read_bytes() for path in (copy / "checkpoint").iterdir()} == before
    assert "initial_latents.safetensors" in before


@pytest.mark.slow(part=5)
def test_the_same_seed_gives_the_same_run(finished: Path, config: Config, tmp_path: Path, monkeypatch) -> None:
    calls = count_learning(monkeypatch)
    run = Run.create(tmp_path / "again", config)
    stages.reconstruct_run(run)
    assert run.metrics() == Run.open(finished).metrics()
    assert calls == ["learn"]


@pytest.mark.slow(part=5)
def test_pictures_swapped_by_hand_are_noticed(finished: Path, tmp_path: Path) -> None:
    """A control that must fail: with the rows exchanged, the floor beats chance or the brain does not."""
    copy = tmp_path / "swapped"
    shutil.copytree(finished, copy)
    shutil.rmtree(copy / "images" / "floor")
    shutil.copytree(copy / "images" / "ceiling", copy / "images" / "floor")
    assert any("permuted trials" in said for said in stages.evaluate_run(Run.open(copy)))
    assert main(["evaluate", str(copy)]) == 1


def test_evaluate_refuses_a_broken_picture(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "broken"
    shutil.copytree(finished, copy)
    victim = next((copy / "images" / "brain").glob("*.png"))
    victim.write_bytes(victim.read_bytes()[:40])
    assert main(["evaluate", str(copy)]) == 2
    victim.unlink()
    assert main(["evaluate", str(copy)]) == 2


@pytest.mark.slow(part=5)
def test_a_recording_that_changed_is_noticed(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same channels, same images, other numbers: the old checkpoint is not taken up in silence."""
    copy = tmp_path / "other"
    shutil.copytree(finished, copy)
    honest = stages.open_study

    def changed(data):
        study = honest(data)
        return replace(study, train=study.train.replace(x_NCT=study.train.load_array() * 2))

    monkeypatch.setattr(stages, "open_study", changed)
    with pytest.raises(HvfError, match="training material"):
        stages.train_run(Run.open(copy))


@pytest.mark.slow(part=5)
def test_a_broken_picture_is_drawn_again(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "mended"
    shutil.copytree(finished, copy)
    victim = next((copy / "images" / "ceiling").glob("*.png"))
    whole = victim.read_bytes()
    victim.write_bytes(whole[:40])
    (copy / "images" / "ceiling" / "9999_stray.png").write_bytes(whole)
    stages.reconstruct_run(Run.open(copy))
    assert victim.read_bytes() == whole
    assert not (copy / "images" / "ceiling" / "9999_stray.png").exists()


@pytest.mark.slow(part=5)
def test_pictures_of_another_pipeline_are_drawn_again(finished: Path, tmp_path: Path, monkeypatch) -> None:
    """The same name, other weights, as after an update: the pictures that are there were made by what is gone."""
    copy = tmp_path / "updated"
    shutil.copytree(finished, copy)
    stages.reconstruct_run(Run.open(copy))

    def pictures() -> dict[Path, bytes]:
        return {path: path.read_bytes() for row in ROWS for path in (copy / "images" / row).glob("*.png")}

    def grey(file: Path | io.BytesIO) -> float:
        return float(np.asarray(Image.open(file)).mean())

    before, figures = pictures(), Run.open(copy).metrics()
    honest = decoding.load_pipeline

    def darker(*given):
        pipeline = honest(*given)
        pipeline.vae.decoder.conv_out.bias.data -= 0.4
        return pipeline

    monkeypatch.setattr(decoding, "load_pipeline", darker)
    stages.reconstruct_run(Run.open(copy))
    after = pictures()
    assert after.keys() == before.keys()
    assert all(grey(path) < grey(io.BytesIO(before[path])) - 20 for path in after)
    assert Run.open(copy).metrics()["reconstruction/brain/ssim"] != figures["reconstruction/brain/ssim"]
    kept = Decoder.load(copy / "checkpoint")
    assert kept.ready_to_draw, "what pictures of the new VAE start from was learnt, and not kept"
    assert kept.about == Decoder.load(finished / "checkpoint").about


def test_answers_are_left_as_plain_lists_for_other_programs():
    ids = ["b", "a", "c"]
    result = a_result(ids, {"brain": [1, 2, 1], "floor": [3, 1, 2]}, [[0, 1, 2], [0, 1, 2], [2, 0, 1]])
    said = json.loads(json.dumps(stages.plain_answers(result)))
    assert said["gallery"] == ids
    assert said["brain"] == {"target": [0, 1, 2], "rank": [1, 2, 1], "top5": [[0, 1, 2], [0, 1, 2], [2, 0, 1]]}
    assert said["floor"]["rank"] == [3, 1, 2]


@pytest.mark.parametrize("draw", ["prior", "latents"])
def test_pictures_of_one_image_are_refused_before_training(tmp_path, monkeypatch, capsys, draw):
    """They were drawn, and then could not be measured, however often the command was given."""
    monkeypatch.setattr(Decoder, "fit", lambda *_: pytest.fail("trained"))
    few = ["--data.train-concepts", "20", "--data.images-per-concept", "1", "--data.test-concepts", "1"]
    assert main(["reconstruct", "--draw", draw, *few, "--out", str(tmp_path / "run")]) == 2
    assert "pictures of 1 test image cannot be measured" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("letter", ["水", "𠀀", "é", "a"])  # of 3, 4, 2 bytes and one
def test_names_are_cut_to_what_a_file_system_takes(tmp_path, config, letter):
    run, ids = Run.create(tmp_path / "run", config), (letter * 100, letter * 200)
    run_pictures.write_pictures(run, "seen", ids, np.zeros((2, 4, 4, 3), np.uint8))
    kept = {"水": 53, "𠀀": 40}.get(letter, 80)
    assert run_pictures.picture_names(ids) == [f"000{i}_{letter * kept}.png" for i in range(2)]
    assert run_pictures.are_whole(run, "seen", ids)
