"""`hvf decode` as a user calls it: a small decoder, a second recording without answers, a folder of other pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest

from hvf.cli import main
from hvf.decoder import Decoder
from hvf.evaluation import retrieval
from hvf.experiments import stages
from hvf.experiments.results import Result
from hvf.report import write_report
from hvf.report.folder import Folder
from hvf.report.tables import tables
from hvf.runs import Run
from hvf.study import open_study
from tests.small_run import small_config


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    run = Run.create(tmp_path_factory.mktemp("decode") / "run", small_config())
    stages.retrieve_run(run)
    return run.path


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    images = open_study(small_config().data).test_images
    for i in reversed(range(len(images))):
        images[i].save(folder / f"{images.ids[i]}.png")
    return folder


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """Single trials of three images, channels in another order, with a number of the stimulus and no name."""
    study = open_study(small_config().data)
    trials = study.single_trials("test", study.test_images.select([5, 0, 7]))
    order = np.random.default_rng(0).permutation(len(trials.ch_names))
    info = mne.create_info([trials.ch_names[i] for i in order], trials.sfreq, "eeg")
    numbers = pd.factorize(trials.image_ids)[0] + 1
    table = pd.DataFrame({"number": numbers})
    x_NCT = trials.load_array()[:, order].astype(float)
    epochs = mne.EpochsArray(x_NCT, info, tmin=trials.tmin, metadata=table, verbose="error")
    path = tmp_path_factory.mktemp("recording") / "second-epo.fif"
    epochs.save(path, verbose="error")
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_answers_equal_those_of_retrieve(run, photos, recording, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["decode", str(run), "--trials", str(recording), "--gallery", str(photos), "--same-image", "number"]
    assert main([*command, "--out", str(out)]) == 0
    answers = rows(out / "answers.csv")
    assert list(answers[0]) == ["trial", "rank", "image_id", "similarity", "probability", "in_set"]
    study = open_study(small_config().data)
    decoder = Decoder.from_pretrained(run)
    seen = study.test.aligned_to(study.test_images)
    found = decoder.retrieve(seen, study.test_images)
    place = {name: i for i, name in enumerate(study.test_images.ids)}
    for trial, image in (("1", 5), ("2", 0), ("3", 7)):
        mine = [row for row in answers if row["trial"] == trial]
        assert [place[row["image_id"]] for row in mine][:5] == found.top_NK[image].tolist()
        similarity = [float(row["similarity"]) for row in mine[:5]]
        assert similarity == pytest.approx(found.scores_NM[image, found.top_NK[image]], abs=1e-4)
        assert len(mine) == 10
    assert all(row["set_size"] and row["repeats"] == "20" for row in rows(out / "trials.csv"))
    page = (out / "answers.html").read_text(encoding="utf-8")
    assert "simulated" in page
    assert "data:image/webp" in page
    assert "http" not in page.replace("http-equiv", "")
    assert main([*command, "--out", str(out)]) == 2
    assert "holds answers already" in capsys.readouterr().err


def test_its_own_gallery_and_known_images_give_figures(run, photos, tmp_path, capsys):
    study = open_study(small_config().data)
    study.test.save(tmp_path / "sub-08_trials.npy")
    assert (
        main(["decode", str(run), "--trials", str(tmp_path / "sub-08_trials.npy"), "--out", str(tmp_path / "out")]) == 0
    )
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    tested = json.loads((run / "metrics.json").read_text())
    assert figures["retrieval/brain/top1"] == tested["retrieval/brain/top1"]
    assert 0 <= figures["confidence/brain/coverage"]["value"] <= 1
    assert "12 trials whose images are known" in capsys.readouterr().out


def test_single_trials_of_an_image_do_not_narrow_the_intervals(run, tmp_path):
    study = open_study(small_config().data)
    study.single_trials("test", study.test_images).save(tmp_path / "single_trials.npy")
    asked = ["--trials", str(tmp_path / "single_trials.npy"), "--out", str(tmp_path / "o")]
    assert main(["decode", str(run), *asked]) == 0
    assert json.loads((tmp_path / "o" / "decode.json").read_text())["known"] == 240  # 20 of each of 12 images
    figures = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert {entry["n"] for entry in figures.values()} == {12}
    low, high = figures["retrieval/brain/top1"]["ci95"]
    assert high - low > 0.1  # of 240 images it would be about as narrow
    assert figures["chance/retrieval/top1"] == retrieval.chance(1, 12, 12)


@pytest.mark.parametrize("known", [0, 3])
def test_names_of_stimuli_are_not_taken_for_images_that_the_gallery_lacks(run, photos, tmp_path, known):
    trials = open_study(small_config().data).test
    names = list(dict.fromkeys(trials.image_ids.tolist()))
    stimuli = {name: name if i < known else f"picture {i}" for i, name in enumerate(names)}
    trials = trials.replace(image_ids=[stimuli[name] for name in trials.image_ids], concepts=None)
    trials.save(tmp_path / "sub-08_trials.npy")
    command = ["decode", str(run), "--trials", str(tmp_path / "sub-08_trials.npy"), "--same-image", "image"]
    assert main([*command, "--gallery", str(photos), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "answers.html").read_text(encoding="utf-8")
    assert page.count("which is not in the gallery") == (len(names) - known if known else 0)


@pytest.mark.slow(part=7)
def test_scaled_answers_are_those_of_retrieve(tmp_path, capsys):
    """A run measures each scaling beside the cosine, transductive ones apart; its decoder answers by one of them."""
    run = Run.create(tmp_path / "run", small_config())
    stages.retrieve_run(run, scalings=["csls", "sinkhorn"])
    tested = run.metrics()
    result = Result.read(run.path)
    assert list(result.rows) == ["brain", "floor", "csls", "csls floor"]
    assert list(result.transductive) == ["sinkhorn", "sinkhorn floor"]
    assert result.rows["csls"].settings["k"] >= 1
    assert tested["transductive/sinkhorn/top1_gain"]["value"] == pytest.approx(
        tested["transductive/sinkhorn/top1"]["value"] - tested["retrieval/brain/top1"]["value"]
    )
    assert {name.split("/")[1] for name in tested if name.startswith("retrieval/")} == set(result.rows)
    write_report([run.path], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    of_single, _, at_once = page.partition("transductive: all test trials answered at once")
    assert "scaled: csls" in of_single
    assert "scaled: sinkhorn" in at_once
    assert "scaled: sinkhorn" not in of_single
    own, *_, table = tables([Folder(run.path)])
    labels = [line.label.split(" (")[0] for line in own.rows]
    assert labels == ["run", "floor: trials shuffled", "scaled: csls", "scaled: csls, trials shuffled", "chance"]
    assert table.section == "transductive"
    assert [line.label.split(" (")[0] for line in table.rows][0] == "scaled: sinkhorn"

    study = open_study(small_config().data)
    study.test.save(tmp_path / "sub-08_trials.npy")
    command = ["decode", str(run.path), "--trials", str(tmp_path / "sub-08_trials.npy"), "--scaling", "csls"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures["retrieval/csls/top1"] == tested["retrieval/csls/top1"]
    assert not any("brain" in name for name in figures)
    summary = json.loads((tmp_path / "out" / "decode.json").read_text())
    assert summary["scaling"] == {"name": "csls", "k": result.rows["csls"].settings["k"]}
    assert "scores are scaled: csls" in capsys.readouterr().out


def test_drawn_answers(run, recording, tmp_path):
    command = ["decode", str(run), "--trials", str(recording), "--same-image", "number", "--draw"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out" / "images" / "drawn").glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--same-image", "nummer"], "did you mean 'number'"),
        (["--level", "90"], "between 0 and 1"),
        (["--presentations", "0"], "at least 1"),
        (["--scaling", "clss"], "--scaling is 'clss'; did you mean 'csls'?"),
        (["--scaling", "sinkhorn"], "--scaling sinkhorn takes all trials at once"),
        (["--gallery", "nowhere"], "nothing at"),
        (["--gallery", "."], ""),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, recording, tmp_path, capsys, monkeypatch, options, reason):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    assert main(["decode", str(run), "--trials", str(recording), "--out", str(out), *options]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert reason in message
    assert not out.exists()


def test_units_and_montages_of_others_are_refused(run, recording, tmp_path, capsys):
    epochs = mne.read_epochs(recording, verbose="error")
    for change, reason in (
        (lambda e: e.pick(e.ch_names[:-1], verbose="error"), "lacks 1 of the 63 channels"),
        (lambda e: e.apply_function(lambda x: 1e6 * x), "other units"),
        (lambda e: e.crop(0.1, None), "cut longer epochs"),
    ):
        path = tmp_path / "other-epo.fif"
        change(epochs.copy()).save(path, overwrite=True, verbose="error")
        assert main(["decode", str(run), "--trials", str(path), "--out", str(tmp_path / "out")]) == 2
        assert reason in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_a_run_says_how_sure_it_is(run):
    figures = json.loads((run / "metrics.json").read_text())
    for row in ("brain", "brain_4", "permuted"):
        for name in ("coverage", "set_size", "ece"):
            assert set(figures[f"confidence/{row}/{name}"]) == {"value", "ci95", "n"}
    assert figures["confidence/permuted/set_size"]["value"] > 8  # of 12
    assert "confidence" in (run / "result.json").read_text()
    assert "sets that hold the image" in (run / "checkpoint" / "README.md").read_text()


@pytest.mark.slow(part=8)
def test_evidence_adds_up(run, capsys):
    assert main(["evaluate", str(run), "--repeats", "1", "4", "20"]) == 0
    printed = capsys.readouterr().out
    assert "simulated" in printed
    found = json.loads((run / "repeats.json").read_text())
    lines = {line["trials"]: line["figures"] for line in found["repeats"]}
    assert sorted(lines) == [1, 4, 20]
    tested = json.loads((run / "metrics.json").read_text())
    assert lines[20]["top1"] == tested["retrieval/brain/top1"]  # all trials: what was tested
    assert lines[1]["top1"]["value"] <= lines[20]["top1"]["value"]
    assert all("pixcorr" in figures for figures in lines.values())
    for coverage in (figures["coverage"] for figures in lines.values()):  # a mean over draws lies in its interval
        assert coverage["ci95"][0] <= coverage["value"] <= coverage["ci95"][1]
    assert len(list((run / "images" / "repeats" / "4").glob("*.png"))) == 12
    assert (run / "repeats.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("repeats", "reason"), [(["0"], "from 1 up"), (["2", "2"], "different numbers"), (["21"], "has 20 trials")]
)
def test_repeats_that_cannot_be(run, capsys, repeats, reason):
    assert main(["evaluate", str(run), "--repeats", *repeats]) == 2
    assert reason in capsys.readouterr().err
