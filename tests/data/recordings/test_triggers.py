"""Codes of trigger channels: one event per image shown, or a refusal."""

from __future__ import annotations

from dataclasses import replace

import mne
import numpy as np
import pandas as pd
import pytest

from hvf.config import HvfError
from hvf.data.recordings.single import read_recording
from tests.data.recordings.lab import IMAGES, NAMES, PLAIN, SFREQ, names_of, order, responses, seen


def written(tmp_path, channels):
    """A recording of 16 images with further channels of type stim, {name: function of (onsets, codes, n)}; images."""
    images = order(2)
    x_CN, onsets = responses(images, 2)
    starts, codes = np.rint(onsets * SFREQ).astype(int), [1 + IMAGES.index(name) for name in images]
    rows = [make(starts, codes, x_CN.shape[1]) for make in channels.values()]
    info = mne.create_info([*NAMES, *channels], SFREQ, ["eeg"] * len(NAMES) + ["stim"] * len(channels))
    raw = mne.io.RawArray(np.vstack([x_CN, *rows]), info, verbose="error")
    raw.save(tmp_path / "a_raw.fif", fmt="double", overwrite=True, verbose="error")
    return tmp_path / "a_raw.fif", images


def read(path, **options):
    table = pd.DataFrame({"code": range(1, 9), "image": IMAGES})
    return read_recording(path, table, settings=PLAIN, **options)


def pulses(starts, codes, n, high=0, width=20):
    x_N = np.zeros(n)
    for start, code in zip(starts, codes, strict=True):
        x_N[start : start + width] = code
    return x_N + high


def rising(starts, codes, n):
    x_N = pulses(starts, codes, n)
    for start, code in zip(starts, codes, strict=True):
        x_N[start] = code & (code - 1) or code  # the lowest bit a sample late
        x_N[start + 20] = code & ~(code & -code)  # and sooner gone
    return x_N


def held(starts, codes, n):
    """Each code stays until the next, whose bits come apart."""
    x_N = np.zeros(n)
    for start, code in zip(starts, codes, strict=True):
        before = int(x_N[start])
        x_N[start:] = code
        if before:
            x_N[start] = before | code
    return x_N


def high_at_first(starts, codes, n):
    x_N = pulses(starts, codes, n)
    x_N[:10] = 3
    return x_N


def presses(starts, codes, n):
    return pulses(np.asarray(starts) + 40, [1 + code % 4 for code in codes], n)


@pytest.mark.parametrize(
    "make",
    [
        pulses,
        lambda *a: pulses(*a, width=1),
        rising,
        lambda *a: pulses(*a, high=65536),
        lambda *a: pulses(*a, high=-32768),
        high_at_first,
    ],
    ids=["plain", "one-sample", "bits-apart", "status-of-biosemi", "signed", "high-at-first"],
)
def test_one_trial_per_image(tmp_path, make):
    path, images = written(tmp_path, {"Status": make})
    trials = read(path)
    assert trials.image_ids.tolist() == names_of(images)
    assert seen(trials) == images


def test_codes_that_stay_until_the_next(tmp_path):
    path, images = written(tmp_path, {"STI 014": held})
    changed = [image for i, image in enumerate(images) if i == 0 or images[i - 1] != image]
    trials = read(path)
    assert seen(trials) == changed
    assert trials.image_ids.tolist() == names_of(changed)


def test_stimuli_and_responses(tmp_path, capsys):
    path, images = written(tmp_path, {"Response": presses, "Stimulus": pulses})
    assert seen(read(path)) == images
    assert "the codes are those of Stimulus, not of Response" in capsys.readouterr().err
    path, images = written(tmp_path, {"STI001": presses, "STI002": pulses})
    with pytest.raises(HvfError, match="channels STI001 and STI002 of .* all hold codes .*--stim-channel"):
        read(path)
    assert seen(read(path, stim_channel="STI002")) == images
    with pytest.raises(HvfError, match="no channel 'STI003'"):
        read(path, stim_channel="STI003")


def test_a_channel_that_rests_at_a_code(tmp_path):
    path, _ = written(tmp_path, {"STI 014": lambda *a: np.where(pulses(*a) == 0, 4, pulses(*a))})
    with pytest.raises(HvfError, match="STI 014 of .* rests at 4, which is also the code of an image"):
        read(path)


def test_events_closer_than_images_can_be_shown(tmp_path):
    path, _ = written(tmp_path, {"STI 014": pulses})
    table = pd.DataFrame({"sample": [100, 101, 300], "image": IMAGES[:3]})
    raw = mne.io.read_raw(path, preload=True, verbose="error")
    mne.io.RawArray(raw.get_data(), mne.create_info(raw.ch_names, 1000.0, raw.get_channel_types())).save(
        tmp_path / "fast_raw.fif", verbose="error"
    )
    with pytest.raises(HvfError, match=r"rows 1 and 2 .* 1 ms \(1 samples\) apart; 1 events are closer than images"):
        read_recording(tmp_path / "fast_raw.fif", table, settings=PLAIN)


def test_a_row_that_stands_there_twice_is_one_event(tmp_path, capsys):
    path, images = written(tmp_path, {})
    onsets = responses(images, 2)[1]
    table = pd.DataFrame({"onset": onsets, "image": images})
    trials = read_recording(path, pd.concat([table, table[3:5]]), settings=PLAIN)
    assert seen(trials) == images
    assert "2 rows of the events of a_raw.fif are repeated and count once" in capsys.readouterr().err


@pytest.mark.parametrize("by", ["triggers", "annotations", "nothing"])
@pytest.mark.parametrize("column", ["sample", "onset"])
def test_events_counted_from_where_the_acquisition_began(tmp_path, by, column):
    images = order(4)
    x_CN, onsets = responses(images, 4)
    sample_N, first = np.rint(onsets * SFREQ).astype(int), 40
    info = mne.create_info([*NAMES, "STI 014"], SFREQ, ["eeg"] * len(NAMES) + ["stim"])
    trigger_N = np.zeros((1, x_CN.shape[1]))
    trigger_N[0, np.add.outer(sample_N, np.arange(5))] = 1 if by == "triggers" else 0
    raw = mne.io.RawArray(np.concatenate([x_CN, trigger_N]), info, first_samp=first, verbose="error")
    raw = raw if by == "triggers" else raw.drop_channels(["STI 014"])
    if by == "annotations":
        raw.set_annotations(mne.Annotations(onsets, 0.0, [f"Stimulus/S{1 + IMAGES.index(name):3d}" for name in images]))
    raw.save(tmp_path / "me_raw.fif", verbose="error")
    unit = 1 if column == "sample" else SFREQ
    trials = read_recording(
        tmp_path / "me_raw.fif", pd.DataFrame({column: sample_N / unit, "image": images}), settings=PLAIN
    )
    assert seen(trials) == images
    of_mne = pd.DataFrame({column: (sample_N + first) / unit, "image": images})
    if by == "nothing":  # nothing tells it
        read_recording(tmp_path / "me_raw.fif", of_mne, settings=PLAIN)
        return
    with pytest.raises(
        HvfError, match=r"its first sample, 40 \(0.2 s\), is taken off: count from the recording's start"
    ):
        read_recording(tmp_path / "me_raw.fif", of_mne, settings=PLAIN)


def test_a_code_that_the_channel_rests_at_is_no_image(tmp_path):
    path, images = written(tmp_path, {"STI 014": pulses})
    table = pd.DataFrame({"code": range(9), "image": ["stimuli/grey.jpg", *IMAGES]})
    with pytest.raises(HvfError, match="the code 0 stands for an image, but is what the trigger channel .* rests at"):
        read_recording(path, table, settings=PLAIN)
    trials = read_recording(path, table.assign(code=[9, *range(1, 9)]), settings=PLAIN)
    assert seen(trials) == images
    assert "codes of the table that never occur: 9" in trials.history["notes"]


def test_a_channel_that_is_picked_twice():
    with pytest.raises(HvfError, match="picks names the channel 'Oz' twice"):
        replace(PLAIN, picks=("Oz", "Fz", "Oz"))
