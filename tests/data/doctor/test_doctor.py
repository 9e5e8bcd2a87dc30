"""The doctor: channels, signals, events and labels, repeats."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hvf.data.doctor import checks, reliability
from hvf.data.doctor.checks import Finding
from hvf.data.doctor.signals import signals
from hvf.data.images.image_set import ImageSet
from hvf.data.montages import EEG_CHANNELS, FRONT_TO_BACK
from tests.data.doctor.findings import POSTERIOR, has, noise, only, pictures, worst


def test_names_in_the_published_orders_are_fine():
    for good in (EEG_CHANNELS, FRONT_TO_BACK, POSTERIOR, ["my1", "my2"]):
        assert worst(checks.names(good, "x")) == "ok"
    assert worst(checks.names([*EEG_CHANNELS, "stim"], "x", published=[*EEG_CHANNELS, "stim"])) == "ok"
    assert set(FRONT_TO_BACK) == set(EEG_CHANNELS)


def test_the_published_slip_oz_twice_and_no_poz():
    slip = ["Oz" if name == "POz" else name for name in POSTERIOR]
    only(checks.names(slip, "x"), "error", "channels", "Oz is named twice", "probably POz")
    slip = ["Cz" if name == "Pz" else name for name in EEG_CHANNELS]
    only(checks.names(slip, "x", published=EEG_CHANNELS), "error", "channels", "Cz is named twice", "probably Pz")


def test_names_in_another_order():
    swapped = list(EEG_CHANNELS)
    swapped[3], swapped[20] = swapped[20], swapped[3]
    only(checks.names(swapped, "x", published=EEG_CHANNELS), "warning", "order", "channel 3 is CP6", "has FT9")
    only(checks.names(swapped, "x"), "warning", "order", "neither")
    only(checks.names(["", *POSTERIOR], "x"), "warning", "channels", "no name")
    wrong = ["Po7" if name == "PO7" else name for name in EEG_CHANNELS]
    only(checks.names(wrong, "x", published=EEG_CHANNELS), "warning", "channels", "lacks PO7", "did you mean 'PO7'")
    ctf = [f"ML{region}1{i}-1609" for region in "CFO" for i in range(1, 5)]
    assert worst(checks.names(ctf, "x")) == "ok"
    only(checks.names(ctf[::-1], "x"), "warning", "order", "CTF")


def test_montage():
    assert worst(checks.montage(POSTERIOR, "eeg", "x")) == "ok"
    assert worst(checks.montage(["MLC11-1609", "MZO02"], "meg", "x")) == "ok"
    assert worst(checks.montage(["MEG 0113"], "meg", "x")) == "ok"
    said = [checks.montage(["Oz", "O1"], "eeg", "x", located=located)[0].message for located in (False, True)]
    assert said == [
        f"all 2 EEG channels have {what}" for what in ("names of the 10-05 system", "positions in the file")
    ]
    only(checks.montage(["Oz", "Ozz"], "eeg", "x"), "warning", "montage", "Ozz", "did you mean 'Oz'")
    only(checks.montage(["OZ", "Pz"], "eeg", "x"), "warning", "montage", "OZ is written Oz")
    only(checks.montage(["Oz", "HEOG"], "eeg", "x"), "warning", "montage", "HEOG is typed EEG")
    only(checks.montage(["A1x", "A2x"], "eeg", "x"), "warning", "montage", "2 of 2")
    assert worst(checks.montage(["A1x", "A2x"], "eeg", "x", located=True)) == "ok"
    only(checks.montage(["E1"], "meg", "x"), "warning", "montage", "CTF or Neuromag")


def test_sampling_rate():
    assert worst(checks.sampling_rate(1000, "x", published=(1000,))) == "ok"
    only(checks.sampling_rate(512, "x", published=(1000,)), "error", "sampling rate", "512 Hz where 1000 Hz")
    only(checks.sampling_rate(float("nan"), "x"), "error", "sampling rate")


def test_meg_sensors_typed_other():
    types = {"BG1-1609": "MEGREFMAG", "MLC11-1609": "MEGGRADAXIAL", "UPPT001": "TRIG"}
    assert worst(checks.sensor_types(types, "x")) == "ok"
    only(checks.sensor_types(types | {"MLC11-1609": "OTHER"}, "x"), "warning", "channels", "typed OTHER: MLC11")
    only(checks.sensor_types({"a": "MISC"}, "x"), "error", "channels", "no channel is typed")


def scanned(x_Cn: np.ndarray, **other) -> list[Finding]:
    cut = x_Cn.shape[1] // 3
    names = [f"E{i}" for i in range(len(x_Cn))]
    return signals(lambda: (x_Cn[:, :cut], x_Cn[:, cut:]), names, "x", **other)


def test_good_signals():
    assert worst(scanned(noise(4, 3000), volts=True)) == "ok"
    sine = np.round(150 * np.sin(np.arange(3000) / 7)) * np.ones((2, 1))  # quantised: long at its extremes, not clipped
    assert worst(scanned(sine)) == "ok"
    assert worst(scanned(np.random.default_rng(0).integers(0, 2, (12, 3000)))) == "ok"  # two levels say nothing
    assert worst(scanned(noise(4, 3000).astype(np.float16) * 1000)) == "ok"


def test_nonfinite_flat_and_frozen():
    x = noise(4, 3000)
    x[1, 2500] = np.nan
    x[2, 100] = np.inf
    only(scanned(x), "error", "signal", "2 channels, E1, E2", "NaN")
    x = noise(4, 3000)
    x[3] = 2e-6
    only(scanned(x), "error", "signal", "channel E3: the same value")
    only(scanned(x, flat="warning"), "warning", "signal", "channel E3")
    x = noise(4, 3000)
    x[:, 1000:1500] = x[:, 1000:1001]
    only(scanned(x), "warning", "signal", "stand still")
    x = noise(4, 3000)
    x[0] = np.nan
    only(scanned(x), "error", "signal", "channel E0: NaN")
    only(scanned(noise(4, 0)), "error", "signal", "no samples")


def test_clipped_and_in_microvolts():
    x = noise(4, 3000)
    x[2] = np.clip(x[2], -2e-5, 2e-5)
    only(scanned(x), "warning", "signal", "channel E2: clipped")
    x[1] = np.minimum(x[1], 0.2e-5)
    has(scanned(x), "warning", "signal", "2 channels, E1, E2: clipped")
    x = noise(4, 3000)
    x[3, 500:600] = 1e-3  # a rail far away
    only(scanned(x), "warning", "signal", "channel E3: clipped")
    only(scanned(noise(4, 3000) * 1e6, volts=True), "warning", "units", "volts")


def test_codes():
    assert worst(checks.codes(np.array([1.0, 6.0, 3.0]), 6, "x")) == "ok"
    only(checks.codes(np.array([1.0, 7.0]), 6, "x"), "error", "events", "outside 1..6: 7")
    only(checks.codes(np.array([0.0, 5.0]), 6, "x"), "error", "events", "count from 0")
    only(checks.codes(np.array([1.0, 2.5]), 6, "x"), "error", "events", "no whole numbers")
    only(checks.codes(np.array([]), 6, "x"), "error", "events", "no event")


def test_counts():
    listed = range(1, 31)
    full = list(listed) * 4
    assert worst(checks.counts([*full, 3, 3, 7], listed, 4, "x")) == "ok"  # surplus is normal
    only(checks.counts([i for i in full if i != 9], listed, 4, "x"), "error", "events", "never shown: 9")
    only(checks.counts(full[:-1], listed, 4, "x"), "error", "events", "less than 4 times: 30")
    only(checks.counts(full[:60], listed, 4, "x"), "warning", "events", "was shown 2 times, where 4")
    has(checks.counts([i for i in full if i < 9], listed, 4, "x", complete=False), "warning", "events", "22 of 30")


def test_leaks_and_lists():
    assert worst(checks.leak(["a", "b"], ["c"], "x")) == "ok"
    only(checks.leak(["a", "b"], ["b", "c"], "x"), "error", "leak", "1 of 2 test concepts", "b")
    files = ["cat_01b.jpg", "cat_02s.jpg", "dog_01b.jpg"]
    held = [f"1_x/{name[:-4]}" for name in files]
    assert worst(checks.listed_as(files, held, "x", "the folder")) == "ok"
    only(checks.listed_as(files[::-1], held, "x", "the folder"), "warning", "pairing", "number 1 is dog_01b")
    only(checks.listed_as(files, held[:2], "x", "the folder"), "error", "pairing", "lacks 1: dog_01b")
    only(checks.listed_as(files[:2], held, "x", "the folder"), "warning", "pairing", "not listed: dog_01b")


def test_a_test_image_that_is_a_training_image(tmp_path):
    def images(x, stem):
        return ImageSet.from_arrays(x, [f"{stem}{i}" for i in range(len(x))], [stem] * len(x))

    train, test = pictures(5), pictures(3, seed=1)
    assert worst(checks.contents(images(train, "train"), images(test, "test"), "x")) == "ok"
    test[1] = train[4]
    only(checks.contents(images(train, "train"), images(test, "test"), "x"), "error", "leak", "test1 is train4")
    Image.fromarray(train[2]).resize((100, 100)).save(tmp_path / "a.jpg", quality=60)  # smaller, compressed, renamed
    test[1] = np.asarray(Image.open(tmp_path / "a.jpg").resize((64, 64)))
    only(checks.contents(images(train, "train"), images(test, "test"), "x"), "error", "leak", "test1 is train2")


def responses(n_images: int = 40, n_repeats: int = 8, gain: float = 0.5, seed: int = 0):
    """Trials (N, C, B) in a shuffled order of images, and their images."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.repeat(np.arange(n_images), n_repeats))
    pattern = rng.standard_normal((n_images, 12, 6))
    return (gain * pattern[ids] + rng.standard_normal((len(ids), 12, 6))).astype(np.float32), ids


def test_repeats_that_are_repeats():
    x, ids = responses()
    (found,) = reliability.repeats(x, ids, "x")
    assert (found.severity, found.check) == ("ok", "repeats")
    assert "by chance" in found.message


@pytest.mark.parametrize("seed", range(3))
def test_repeats_that_are_not(seed):
    x, ids = responses(seed=seed)
    shuffled = np.random.default_rng(9).permutation(ids)
    only(reliability.repeats(x, shuffled, "x"), "warning", "repeats", "no better than chance")
    only(reliability.repeats(responses(gain=0, seed=seed)[0], ids, "x"), "warning", "repeats", "no better than chance")


def test_what_a_session_shares_is_not_taken_for_a_repeat():
    rng = np.random.default_rng(0)
    sessions = np.repeat([0, 1], 200)
    ids = np.concatenate([rng.permutation(np.repeat(np.arange(25) + 25 * s, 8)) for s in (0, 1)])
    x = noise(400, 12, 6) * 1e5 + np.array([-2, 2])[sessions, None, None] * np.arange(12)[:, None]
    assert worst(reliability.repeats(x, ids, "x", sessions_N=sessions)) == "warning"


@pytest.mark.parametrize("shift", [1, -1, 2])
def test_labels_shifted_along_the_recording(shift):
    x, ids = responses()
    finding = only(reliability.repeats(x, np.roll(ids, shift), "x"), "error", "pairing", f"shifted by {abs(shift)}")
    assert "lost or counted twice" in finding.advice


def test_repeats_that_are_copies_or_padding():
    x, ids = responses(gain=1.0)
    copies = x.copy()
    copies[5] = copies[6]
    only(reliability.repeats(copies, ids, "x"), "error", "repeats", "1 of 320 trials are exact copies")
    x[7] = 0
    only(reliability.repeats(x, ids, "x"), "warning", "signal", "nothing but zeros")


def test_few_or_single_trials_are_not_judged():
    x, ids = responses(gain=0)
    assert worst(reliability.repeats(x[:20], ids[:20], "x")) == "ok"
    assert worst(reliability.repeats(x, np.arange(len(x)), "x")) == "ok"
