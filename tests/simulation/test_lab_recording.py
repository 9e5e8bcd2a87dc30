"""A lab's BrainVision recordings: what is in them, and that their log and their markers agree."""

from __future__ import annotations

import mne
import numpy as np
import pandas as pd
import pytest

from hvf.config import HvfError
from hvf.data.images.image_set import open_images
from hvf.data.recordings.epoching import Preprocessing
from hvf.data.recordings.single import read_recording
from hvf.simulation.lab_recording import NEW_IMAGES, NEW_REPEATS, PICTURES, REPEATS, write_lab_recordings

pytestmark = pytest.mark.slow(part=8)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return write_lab_recordings(tmp_path_factory.mktemp("lab") / "lab", train_concepts=10)


def test_the_log_the_markers_and_the_photos_agree(lab):
    for name, n in (("sub-08", 20 * REPEATS), ("sub-08_new", NEW_IMAGES * NEW_REPEATS)):
        raw = mne.io.read_raw_brainvision(lab / f"{name}.vhdr", verbose="error")
        log = pd.read_csv(lab / f"{name}_events.csv")
        assert (raw.info["sfreq"], len(raw.ch_names), len(log)) == (250.0, 63, n)
        shown = [note["onset"] for note in raw.annotations if note["description"] == "Stimulus/S  1"]
        np.testing.assert_allclose(shown, log["onset"], atol=1e-6)
        rms = raw.get_data().std()
        assert 5e-6 < rms < 1e-4  # V
    photos = open_images(lab / "photos")
    assert len(photos) == 20
    assert len(set(photos.concepts)) == 10
    log = pd.read_csv(lab / "sub-08_events.csv")
    assert {f"{name}.png": 4 for name in photos.ids} == log["image"].value_counts().to_dict()
    new, truth = open_images(lab / "new_photos"), pd.read_csv(lab / "truth.csv")
    assert len(new) == PICTURES
    assert not set(new.concepts) & set(photos.concepts)
    assert set(truth["image"]) <= set(new.ids)
    assert set(pd.read_csv(lab / "sub-08_new_events.csv")["stimulus"]) == set(truth["stimulus"])
    assert "simulated" in (lab / "README.md").read_text().lower()


def test_the_response_is_where_the_log_says(lab):
    """The evoked response of the true onsets stands out of that of onsets half a trial off."""
    settings = Preprocessing(sfreq=100.0, h_freq=40.0, tmax=0.2, whiten=False, unseen_concepts=False)
    log = pd.read_csv(lab / "sub-08_new_events.csv")
    strength = []
    for shift in (0.0, 0.3):
        table = log.assign(onset=log["onset"] + shift, image=log["stimulus"])
        trials = read_recording(lab / "sub-08_new.vhdr", table, settings=settings, image_column="image")
        strength.append(float(np.abs(trials.load_array().mean(axis=0)).max()))
    assert strength[0] > 1.5 * strength[1]


def test_one_seed_one_recording_and_no_folder_twice(lab, tmp_path):
    again = write_lab_recordings(tmp_path / "lab", train_concepts=10)
    assert (again / "sub-08.eeg").read_bytes() == (lab / "sub-08.eeg").read_bytes()
    with pytest.raises(HvfError, match="not empty"):
        write_lab_recordings(lab)
    with pytest.raises(HvfError, match="train_concepts must be at least 1"):
        write_lab_recordings(tmp_path / "more", train_concepts=0)
    assert not (tmp_path / "more").exists()
