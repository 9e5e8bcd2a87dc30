from __future__ import annotations

import numpy as np
import pytest
from mne.io.constants import FIFF

from hvf.simulation.head import EEG_CHANNELS, leadfield, sensor_info

POSTERIOR = ["P7", "P5", "P3", "P1", "Pz", "P2", "P4", "P6", "P8", "PO7", "PO3", "POz", "PO4", "PO8", "O1", "Oz", "O2"]


def test_the_cap_is_that_of_things_eeg2():
    assert len(EEG_CHANNELS) == len(set(EEG_CHANNELS)) == 63
    assert set(POSTERIOR) < set(EEG_CHANNELS)
    assert "Fz" not in EEG_CHANNELS
    info = sensor_info("eeg", 100.0)
    assert set(info.get_channel_types()) == {"eeg"}
    assert all(np.isfinite(ch["loc"][:3]).all() for ch in info["chs"])


def test_the_helmet_is_that_of_a_ctf():
    info = sensor_info("meg", 100.0)
    assert len(info.ch_names) == len(set(info.ch_names)) == 271
    assert {ch["coil_type"] for ch in info["chs"]} == {FIFF.FIFFV_COIL_CTF_GRAD}
    place = {ch["ch_name"]: ch["loc"][:3] for ch in info["chs"]}
    assert all(place[name][0] < 0 for name in place if name.startswith("ML"))
    assert all(place[name][1] < 0 for name in place if name[2] == "O")
    assert {name[1:3] for name in place} >= {side + region for side in "LR" for region in "FCPOT"}
    points = np.stack(list(place.values()))
    apart = np.linalg.norm(points[:, None] - points[None], axis=2) + np.eye(271)
    assert apart.min() > 0.008  # coils are 18 mm wide and may overlap a little, no more


def test_an_occipital_dipole_is_seen_at_the_back():
    info = sensor_info("eeg", 100.0)
    field = leadfield(info, np.array([[0.0, -0.85, 0.1]]), np.array([[0.0, -1.0, 0.0]]))[:, 0]
    assert EEG_CHANNELS[int(np.argmax(field))] in ("Oz", "POz", "O1", "O2")
    assert abs(field.sum()) < 1e-9 * np.abs(field).sum()  # average reference
    assert 3e-7 < field.max() * 1e-8 < 2e-5  # 10 nAm make microvolts


def test_a_mirrored_dipole_makes_the_mirrored_field():
    info = sensor_info("eeg", 100.0)
    position, moment = np.array([[0.4, -0.6, 0.1]]), np.array([[0.3, 0.2, 0.9]])
    flip = np.array([[-1.0, 1.0, 1.0]])
    right, left = leadfield(info, position, moment)[:, 0], leadfield(info, position * flip, moment * flip)[:, 0]
    pairs = [("O1", "O2"), ("P7", "P8"), ("C3", "C4"), ("Oz", "Oz"), ("F5", "F6")]
    index = {name: i for i, name in enumerate(EEG_CHANNELS)}
    for a, b in pairs:  # the template cap is not quite symmetric
        assert right[index[a]] == pytest.approx(left[index[b]], rel=0.15, abs=0.04 * np.abs(right).max())


def test_a_radial_dipole_is_silent_in_meg_and_not_in_eeg():
    position = np.array([[0.0, -0.6, 0.5]] * 2)
    moment = np.array([[0.0, -0.6, 0.5], [1.0, 0.0, 0.0]])  # radial, tangential
    moment /= np.linalg.norm(moment, axis=1, keepdims=True)
    meg = np.abs(leadfield(sensor_info("meg", 100.0), position, moment)).max(0)
    eeg = np.abs(leadfield(sensor_info("eeg", 100.0), position, moment)).max(0)
    assert meg[0] < 1e-6 * meg[1]
    assert eeg[0] > 0.3 * eeg[1]


def test_a_dipole_outside_the_brain_is_refused():
    with pytest.raises((ValueError, RuntimeError)):
        leadfield(sensor_info("eeg", 100.0), np.array([[0.0, 0.0, 1.3], [0.0, 0.0, 0.2]]), np.eye(3)[:2])
