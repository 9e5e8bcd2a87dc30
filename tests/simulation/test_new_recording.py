"""The recording that names no image: what is in it, and that a decoder finds what was shown."""

from __future__ import annotations

import mne
import pandas as pd
import pytest

from hvf.config import HvfError
from hvf.data.images.image_set import open_images
from hvf.simulation.new_recording import PICTURES, REPEATS, SHOWN, write_new_recording


@pytest.mark.slow(part=7)
def test_what_is_written(tmp_path):
    out = write_new_recording(tmp_path / "new", (8, 3))
    epochs = mne.read_epochs(out / "sub-08_new-epo.fif", verbose="error")
    assert len(epochs) == SHOWN * REPEATS
    assert list(epochs.metadata.columns) == ["stimulus"]
    assert (epochs.metadata["stimulus"].value_counts() == REPEATS).all()
    assert set(epochs.event_id) == {"1"}
    photos = open_images(out / "photos")
    assert len(photos) == PICTURES
    truth = pd.read_csv(out / "truth.csv")
    assert truth.groupby("subject").size().to_dict() == {"sub-03": SHOWN, "sub-08": SHOWN}
    assert set(truth["image"]) <= set(photos.ids)
    assert "simulated" in (out / "README.md").read_text().lower()
    with pytest.raises(HvfError, match="not empty"):
        write_new_recording(out)
