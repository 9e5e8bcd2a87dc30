"""The one rule for which channels record the brain."""

from __future__ import annotations

import mne
import numpy as np
import pandas as pd
import pytest

from hvf.config import HvfError
from hvf.data.montages import EEG_CHANNELS, montage_1005
from hvf.data.recordings.channels import brain_channels, mend_channel_types, other_than_brain, steps, values_of
from hvf.data.recordings.single import read_recording
from tests.data.recordings.lab import IMAGES, NAMES, PLAIN, SFREQ, names_of, responses, seen

OTHERS = {
    "trigger": "TRIGGER Trigger TRG Status STI101 STI_014 DIN1 MARKER MarkerIndex SYNC Button Response UPPT001 Event",
    "counter": "COUNTER SampleNr INTERPOLATED EEG.Counter Packet_num",
    "time": "TimeStamp TIME_STAMP_s timestamp SCLK01 Clock",
    "light": "photodiode Photo PD PD1 Photo_diode diode PhotoSensor LightSensor",
    "skin": "GSR GSR1 EDA galvanic_skin",
    "movement": "AccX ACC_X ACCX acc_y Accelerometer-Z GYROX Gyro_Y x_dir",
    "eye": "EOG HEOG VEOG EOGL HEOGR VEOGb HEOG_left EOG061 VEO LO1 ROC",
    "heart": "ECG EKG ecg_left",
    "muscle": "EMG1 EMG-submental Chin1",
    "body": "Resp Temp Plet SpO2",
    "device": "CQ_AF3 CQ_CMS BATTERY",
    "auxiliary input": "AUX1 Right_AUX MISC001 UADC001-2 EXG1",
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_a_name_says(what):
    assert {name: other_than_brain(name) for name in OTHERS[what].split()} == dict.fromkeys(OTHERS[what].split(), what)


def test_electrodes_and_sensors_are_brain():
    names = [*montage_1005().ch_names, *EEG_CHANNELS, *(f"{bank}{i}" for bank in "ABCDEFGH" for i in range(1, 33))]
    names += ["T3", "M1", "MLC11-1609", "MLC11", "MEG0111", "MEG 001", "EEG001", "E128", "EEG Fp1-LE", "Fpz-Cz"]
    names += ["EXG Channel 0", "Ch1", "G2-DB-Y", "L201_bz", "17"]
    assert [name for name in names if other_than_brain(name)] == []


@pytest.mark.parametrize("kind", ["eeg", "mag"])
def test_whatever_they_are_typed(kind):
    info = mne.create_info(["Fz", "TRIGGER", "photodiode", "ACC X", "Oz"], 100.0, kind)
    assert brain_channels(info) == (
        ["Fz", "Oz"],
        ["3 channels record no brain by their names and are left out: TRIGGER, photodiode, ACC X "
         "(trigger, light, movement)"],
    )  # fmt: skip
    raw = mne.io.RawArray(np.zeros((5, 10)), info)
    assert len(mend_channel_types(raw)) == 1
    assert raw.get_channel_types() == [kind, "misc", "misc", "misc", kind]


def test_values_of_channels_with_other_names():
    rng = np.random.default_rng(0)
    code_N = np.repeat(rng.integers(0, 255, 60), 50).astype(float)
    channels = {
        "Ch31": rng.normal(size=3000),
        "Ch32": code_N,
        "Ch33": np.arange(3000) % 128.0,  # of packets, from 0 again
        "Ch34": np.round(20 * rng.normal(size=3000)),  # whole numbers, as an amplifier without scale gives
        "Oz": code_N,  # an electrode
        "Ch35": np.zeros(3000),
    }
    raw = mne.io.RawArray(np.stack(list(channels.values())), mne.create_info(list(channels), 100.0, "eeg"))
    assert steps(raw, raw.ch_names) == ["Ch32", "Ch33"]


def test_a_recording_with_channels_that_are_no_brain(tmp_path, capsys):
    x_CN, onsets = responses(IMAGES, seed=1)
    n = x_CN.shape[1]
    code_N = np.zeros(n)
    for onset in onsets:
        code_N[round(onset * SFREQ) :][:20] = 5
    more = {"Status": code_N + 1, "Channel 65": code_N, "TimeStamp": np.arange(n) / SFREQ, "GSR": code_N + x_CN[0]}
    raw = mne.io.RawArray(np.vstack([x_CN, *more.values()]), mne.create_info([*NAMES, *more], SFREQ, "eeg"))
    raw.save(tmp_path / "a_raw.fif", fmt="double", verbose="error")
    trials = read_recording(
        tmp_path / "a_raw.fif", pd.DataFrame({"onset": onsets, "stim_file": IMAGES}), settings=PLAIN
    )
    assert trials.ch_names == NAMES
    assert names_of(seen(trials)) == trials.image_ids.tolist()
    said = capsys.readouterr().err
    assert "3 channels record no brain by their names and are left out: Status, TimeStamp, GSR" in said
    assert "Channel 65 hold steps or a count, as triggers and counters do, and are left out" in said


def test_nothing_but_triggers(tmp_path):
    raw = mne.io.RawArray(np.zeros((2, 1000)), mne.create_info(["TRIGGER", "Status"], SFREQ, "eeg"))
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    with pytest.raises(HvfError, match="no EEG or MEG channel; it has 2 misc"):
        read_recording(tmp_path / "a_raw.fif", pd.DataFrame({"onset": [1.0], "image": ["a.png"]}), settings=PLAIN)


def test_values_that_cannot_be_read_are_told_in_a_line():
    """A file that is cut off: its header can be read, its values cannot."""

    class CutOff:
        filenames = ("/data/f.fdt",)

        def __getitem__(self, item: object) -> None:
            raise RuntimeError("Incorrect number of samples (105 != 1800),\nplease report")

    with pytest.raises(
        HvfError, match=r"^cannot read the recording f\.fdt: Incorrect .* please report; is it whole\?$"
    ):
        values_of(CutOff(), [0])
    raw = mne.io.RawArray(np.arange(12.0).reshape(2, 6), mne.create_info(2, 100.0, "eeg"), verbose="error")
    assert values_of(raw, [1], 2, 4).tolist() == [[8.0, 9.0]]
    assert values_of(raw, [0]).tolist() == [[0, 1, 2, 3, 4, 5]]
