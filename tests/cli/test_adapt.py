"""`hvf adapt` as a user calls it: a decoder of two people, a third one's prepared trials, a folder of images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest

from hvf import alignment, presets
from hvf.cli import main
from hvf.config import Config, with_settings
from hvf.data.trials.trials import Trials
from hvf.decoder import Decoder
from hvf.study import open_study

SETTINGS = {
    "data.train_concepts": 60,
    "data.images_per_concept": 2,
    "data.test_concepts": 12,
    "align.epochs": 2,
    "brain.people": "standardised",
}


def config() -> Config:
    return with_settings(presets.mini(), SETTINGS)


def study_of(subject: int):
    return open_study(replace(config().data, subject=subject))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> Path:
    """A decoder of two people, who saw the same images, with a gallery, as `--protocol loso` leaves it."""
    studies = [study_of(subject) for subject in (1, 2)]
    images = studies[0].train_images
    decoder = Decoder(config())
    whole = alignment.TrainingSet(
        Trials.concatenate([study.train for study in studies]),
        decoder.features(images),
        images.concepts,
        np.tile(np.arange(len(images)), 2),
        person_N=np.repeat([0, 1], len(images)),
    )
    decoder.alignment = alignment.on_person(alignment.fit(whole, config()), studies[0].train)
    decoder.gallery = decoder.gallery_of(studies[0].test_images, "12 test images")
    return decoder.save(tmp_path_factory.mktemp("loso") / "seed-0" / "checkpoint").parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The images that person 8 saw, in folders of their concepts, and their prepared trials."""
    place, study = tmp_path_factory.mktemp("person"), study_of(8)
    for images in (study.train_images, study.test_images):
        for i in range(len(images)):
            path = place / "photos" / images.concepts[i] / f"{Path(images.ids[i]).name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            images[i].save(path)
    Trials.concatenate([study.train, study.test], "sub-08").save(place / "sub-08_trials.npy")
    return place


def named(folder: Path, name: str = "sub-08_trials.npy") -> list[str]:
    return ["--trials", str(folder / name), "--images", str(folder / "photos")]


FEW = ["--adapt.epochs", "2"]


def test_a_decoder_is_moved_and_decodes(decoder, folder, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["adapt", str(decoder), *named(folder), "--fraction", "0.5", *FEW, "--adapt.method", "input"]
    assert main([*command, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "60 images of 30 concepts, method input" in said
    assert "simulated" in said
    summary = json.loads((out / "adapt.json").read_text())
    assert summary["images"] == 60
    assert summary["validation"]["validation_n"] == 12  # six of 30 concepts
    card = (out / "README.md").read_text()
    assert "adapted from another decoder, `seed-0, sha256 " in card
    assert "by method `input` to 60 images" in card
    moved = Decoder.from_pretrained(out)
    study = study_of(8)
    assert moved.confidence is None  # 12 validation images are too few
    assert len(moved.gallery) == 12
    assert moved.retrieve(study.test, study.test_images).scores_NM.shape == (12, 12)
    assert main([*command, "--out", str(tmp_path / "again")]) == 0
    again = Decoder.from_pretrained(tmp_path / "again")
    assert np.array_equal(again.embed_trials(study.test), moved.embed_trials(study.test))
    assert main([*command, "--out", str(out)]) == 2
    assert "holds a decoder already" in capsys.readouterr().err
    trials = study.test.replace(subject="sub-08")
    trials.save(tmp_path / "new_trials.npy")
    assert main(["decode", str(out), "--trials", str(tmp_path / "new_trials.npy"), "--out", str(tmp_path / "a")]) == 0


def test_enough_images_make_it_say_how_sure_it_is(decoder, folder, tmp_path):
    out = tmp_path / "out"
    assert main(["adapt", str(decoder), *named(folder), *FEW, "--adapt.method", "all", "--out", str(out)]) == 0
    moved = Decoder.from_pretrained(out)
    assert len(moved.confidence.z_f_VD) == 24
    assert moved.gallery is None  # the images' embeddings were learnt, too


def test_without_images_trials_are_made_alike(decoder, folder, tmp_path):
    out = tmp_path / "out"
    trials = str(folder / "sub-08_trials.npy")
    assert main(["adapt", str(decoder), "--trials", trials, "--fraction", "0", "--out", str(out)]) == 0
    moved, first = Decoder.from_pretrained(out), Decoder.from_pretrained(decoder)
    own = Trials.load(trials).load_array()
    np.testing.assert_allclose(moved.fitted().normalisation["x"][0][0, :, 0], own.mean(axis=(0, 2)), rtol=1e-3)
    test = study_of(8).test
    assert not np.array_equal(moved.embed_trials(test), first.embed_trials(test))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--fraction", "1.5"], "between 0 and 1, not 1.5"),
        (["--fraction", "-0.1"], "between 0 and 1"),
        (["--fraction", "0.02"], "1 concept: two are needed to validate on"),
        (["--adapt.method", "euclid"], "adapt.method"),
        (["--adapt.method", "input", "--fraction", "0"], "learns from images"),
        (["--images", "nowhere"], "nothing at nowhere"),
        (["--trials", "nowhere.npy"], "no file at nowhere.npy"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(decoder, folder, tmp_path, capsys, options, reason):
    out = tmp_path / "out"
    assert main(["adapt", str(decoder), *named(folder), "--out", str(out), *options]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert reason in message
    assert not out.exists()


def test_bad_trials_are_refused_by_name(decoder, folder, tmp_path, capsys):
    whole = Trials.load(folder / "sub-08_trials.npy")
    for change, reason in (
        (lambda t: t.pick(t.ch_names[1:]), "lacks 1 of the 63 channels"),
        (lambda t: t.replace(sfreq=200.0), "200 Hz"),
        (lambda t: t.replace(x_NCT=1e6 * t.load_array()), "other units"),
        (lambda t: t.replace(image_ids=["elsewhere_" + name for name in t.image_ids]), "not in"),
        (lambda t: t.replace(kind="meg"), "holds MEG"),
        (lambda t: t.replace(splits=["test"] * len(t)), "no trials of the split 'train'"),
    ):
        change(whole).save(tmp_path / "other_trials.npy")
        command = ["adapt", str(decoder), "--trials", str(tmp_path / "other_trials.npy")]
        assert main([*command, "--images", str(folder / "photos"), "--out", str(tmp_path / "out")]) == 2
        assert reason in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


@pytest.mark.slow(part=8)
def test_test_trials_are_not_learnt_from(decoder, folder, tmp_path):
    study = study_of(8)
    moved = {}
    for name, factor in (("as-they-are", 1.0), ("spoilt", 3.0)):
        test = study.test.replace(x_NCT=factor * study.test.load_array())
        Trials.concatenate([study.train, test], "sub-08").save(tmp_path / "sub-08_trials.npy")
        command = ["adapt", str(decoder), "--trials", str(tmp_path / "sub-08_trials.npy"), *FEW]
        assert main([*command, "--images", str(folder / "photos"), "--out", str(tmp_path / name)]) == 0
        moved[name] = Decoder.from_pretrained(tmp_path / name).embed_trials(study.test)
    assert np.array_equal(moved["as-they-are"], moved["spoilt"])


@pytest.mark.slow(part=8)
def test_epochs_name_their_images_in_metadata(decoder, folder, tmp_path, capsys):
    train = study_of(8).train
    info = mne.create_info(list(reversed(train.ch_names)), train.sfreq, "eeg")
    names = [f"{Path(name).name}.png" for name in train.image_ids]
    x_NCT = train.load_array()[:, ::-1].astype(float)
    epochs = mne.EpochsArray(x_NCT, info, tmin=train.tmin, metadata=pd.DataFrame({"picture": names}), verbose="error")
    epochs.save(tmp_path / "new-epo.fif", verbose="error")
    few = [*FEW, "--adapt.method", "input", "--images", str(folder / "photos")]
    command = ["adapt", str(decoder), "--trials", str(tmp_path / "new-epo.fif"), *few]
    assert main([*command, "--out", str(tmp_path / "fif")]) == 0
    assert 'paired with their images by metadata["picture"]' in capsys.readouterr().out
    command = ["adapt", str(decoder), "--trials", str(folder / "sub-08_trials.npy"), *few]
    assert main([*command, "--out", str(tmp_path / "p")]) == 0
    own = study_of(8).test
    fif, prepared = (Decoder.from_pretrained(tmp_path / name).embed_trials(own) for name in ("fif", "p"))
    np.testing.assert_allclose(fif, prepared, atol=0.05)


def test_a_decoder_that_takes_people_alike_needs_images(folder, tmp_path, capsys):
    study = study_of(8)
    alike = Decoder(with_settings(config(), {"brain.people": "alike"})).fit(study.train, study.train_images)
    alike.save(tmp_path / "alike")
    command = ["adapt", str(tmp_path / "alike"), "--trials", str(folder / "sub-08_trials.npy"), "--fraction", "0"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "takes all people alike" in capsys.readouterr().err
