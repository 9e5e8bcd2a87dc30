"""`hvf data prepare recording`: one file and its events to trials that `hvf train` reads."""

from __future__ import annotations

from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hvf.cli import main
from hvf.config import HvfError
from hvf.data.doctor.examination import examine
from hvf.data.recordings.epoching import Preprocessing
from hvf.data.recordings.options import PREPROCESSING
from hvf.data.recordings.single import prepare_recording
from hvf.data.trials.trials import Trials
from tests.data.recordings.lab import IMAGES, PLAIN, SFREQ, names_of, order, responses, seen, write_brainvision

COMMAND = ("data", "prepare", "recording", "--file", "me.vhdr")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A folder with me.vhdr, whose markers name the images, log.csv and photos; the images in the order shown."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(IMAGES):
        photo = Path("photos", *Path(name).parts[1:])
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(photo)
    images = order(3, repeats=8)
    x_CN, onsets = responses(images, 3)
    at = np.rint(onsets * SFREQ).astype(int) + 1
    markers = [(Path(name).name, sample) for name, sample in zip(images, at, strict=True)]
    write_brainvision(Path("me.vhdr"), x_CN, markers=markers)
    key = [str(1 + IMAGES.index(name)) for name in images]
    pd.DataFrame({"what was on": [name.upper() if i % 2 else name for i, name in enumerate(names_of(images))],
                  "key": key, "onset": onsets}).to_csv("log.csv", index=False)  # fmt: skip
    Path("log.csv").write_text(Path("log.csv").read_text().lower())
    return images


@pytest.mark.parametrize("events", ["log.csv", None])
def test_each_trial_answers_the_image_that_was_shown(lab: list[str], events: str | None, capsys) -> None:
    path = prepare_recording(
        Path("me.vhdr"), Path("out"), settings=PLAIN, images=Path("photos"), events=events and Path(events)
    )
    trials = Trials.load(path)
    assert path == Path("out", "sub-01_trials.npy")
    assert trials.subject == "sub-01"
    assert seen(trials) == lab
    assert [Path(name).name for name in trials.image_ids] == names_of(lab)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "sub-01" in line]
    assert line.startswith("note: sub-01: 64 trials of 8 images, 10 channels; ")
    assert ("paired by the column 'what was on' of log.csv" if events else "the annotations of me.vhdr") in line


def test_the_command_and_the_doctor_agree(lab: list[str], capsys) -> None:
    files = ("--events", "log.csv", "--images", "photos")
    assert main([*COMMAND, *files, "--subject", "sub-7", "--out", "trials"]) == 0
    assert "sub-07" in capsys.readouterr().out
    trials = Trials.load("trials/sub-07_trials.npy")
    assert [Path(name).name for name in trials.image_ids] == names_of(lab)[:-1]
    assert "1 events of me.vhdr have no whole window in it and are left out" in trials.history["notes"]
    notes = [f.message for f in examine("me.vhdr", "photos", "log.csv") if f.check == "prepare"]
    assert notes == list(dict.fromkeys(trials.history["notes"]))
    assert main([*COMMAND, *files, "--subject", "7", "--out", "trials"]) == 0  # made again
    Path("log2.csv").write_text(Path("log.csv").read_text())
    capsys.readouterr()
    assert main([*COMMAND, "--events", "log2.csv", "--images", "photos", "--subject", "7", "--out", "trials"]) == 2
    assert "--subject N for another person" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--file", "my.vhdr", "--events", "log.csv"), "cannot read the recording my.vhdr: there is none"),
        (("--events", "logs.csv"), "logs.csv"),
        (("--events", "log.csv", "--images", "fotos"), "fotos"),
        ((), "which images were shown when"),
        (("--events", "log.csv", "--images", "photos", "--stim-channel", "STI"), "has no channel 'STI'"),
        (("--events", "log.csv", "--onset-unit", "min"), "--onset-unit must be one of s, ms, samples"),
        (("--events", "log.csv", "--subjects", "1"), "say --subject"),
        (("--events", "log.csv", "--root", "."), "--root means nothing for recording; say --file"),
        (("--events", "log.csv", "--task", "see"), "--task means nothing for recording"),
        (("--events", "log.csv", "--subject", "me"), "not 'me'"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(lab: list[str], words, reason: str, capsys) -> None:
    before = sorted(Path().rglob("*"))
    assert main([*COMMAND, *words, "--out", "trials"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hvf: ")]
    assert reason in line
    assert sorted(Path().rglob("*")) == before


def test_settings_are_given_to_prepare_and_to_the_doctor(lab: list[str], capsys) -> None:
    """A recording too short for the usual filter, with a channel that never changes."""
    x_CN, onsets = responses(lab[:30], 3)
    x_CN[4] = 0
    write_brainvision(Path("me.vhdr"), x_CN[:, : round(20 * SFREQ)])
    table = pd.read_csv("log.csv")[:30].assign(onset=onsets)
    table[table["onset"] < 18].to_csv("log.csv", index=False)
    asked = ("--events", "log.csv", "--images", "photos")
    picks = ("--picks", "Fz,Cz,Pz,P3,Oz")
    settings = (*picks, "--l-freq", "1", "--tmax", "0.4", "--baseline", "-0.1,0", "--sfreq", "100", "--whiten", "no")
    for given, codes, reason in (
        ((), (2, 1), "channel P4 of me.vhdr never changes"),
        (picks, (2, 1), "too short for a high-pass at 0.1 Hz, which needs 33 s: choose a higher one (--l-freq)"),
        (settings, (0, 0), ""),
        (("--baseline", "late"), (2, 2), "--baseline is its start and end in s"),
        (("--whiten", "maybe"), (2, 2), "--whiten is yes or no"),
        (("--tmin", "2"), (2, 2), "the window from tmin 2 to tmax 1 s is empty"),
    ):
        assert main([*COMMAND, *asked, *given, "--out", "trials"]) == codes[0], given
        assert reason in capsys.readouterr().err
        assert main(["data", "doctor", "me.vhdr", *asked, *given]) == codes[1], given
    found = examine("me.vhdr", "photos", "log.csv", picks=picks[1])
    assert [f.check for f in found if f.severity == "error"] == ["prepare"]  # the flat channel is not picked
    trials = Trials.load("trials/sub-01_trials.npy")
    assert trials.ch_names == ("Fz", "Cz", "Pz", "P3", "Oz")
    assert trials.shape[2] == 40
    assert [Path(name).name for name in trials.image_ids] == names_of(lab)[: len(trials)]
    kept = {"l_freq": 1.0, "h_freq": 100.0, "baseline": [-0.1, 0.0], "whiten": False}
    assert {name: trials.history["parameters"][name] for name in kept} == kept


def test_the_help_names_the_defaults() -> None:
    for option in PREPROCESSING:
        default = getattr(Preprocessing(), option.name)
        told = {"picks": "MEG where there is, else EEG", "baseline": "-0.2,0", "whiten": "yes"}.get(option.name)
        assert f"(default: {f'{default:g}' if told is None else told})" in option.help
    assert (Preprocessing().picks, Preprocessing().baseline, Preprocessing().whiten) == (None, (-0.2, 0.0), True)


def test_the_sidecar_does_not_say_where_files_lie(lab: list[str], tmp_path: Path) -> None:
    files = {"events": Path("log.csv"), "images": Path("photos")}
    path = prepare_recording(Path("me.vhdr"), Path("out"), settings=PLAIN, **files)
    assert str(tmp_path) not in path.with_suffix(".json").read_text()
    assert Trials.load(path).history["parameters"]["file"].startswith("me.vhdr (")
    Path("other").mkdir()
    for file in Path().glob("me.*"):
        (Path("other") / file.name).write_bytes(file.read_bytes())
    with pytest.raises(HvfError, match="--subject N for another person"):
        prepare_recording(Path("other/me.vhdr"), Path("out"), settings=PLAIN, **files)


def test_settings_of_recordings_mean_nothing_for_epochs(tmp_path: Path) -> None:
    epochs = mne.EpochsArray(
        np.random.default_rng(0).normal(size=(4, 3, 30)) * 1e-5,
        mne.create_info(["O1", "Oz", "O2"], 100.0, "eeg"),
        metadata=pd.DataFrame({"image": [f"{i}.png" for i in "abcd"]}),
        verbose="error",
    )
    epochs.save(tmp_path / "me.fif", verbose="error")  # MNE would like another name
    assert Trials.load(prepare_recording(tmp_path / "me.fif", tmp_path / "out")).image_ids.tolist() == list("abcd")
    for options in ({"settings": PLAIN}, {"stim_channel": "STI"}, {"image_column": "image"}):
        with pytest.raises(HvfError, match="means nothing for the epochs"):
            prepare_recording(tmp_path / "me.fif", tmp_path / "out", **options)
    assert [f.message for f in examine(tmp_path / "me.fif", l_freq=1.0) if f.severity == "error"] == [
        f"--l-freq means nothing for the epochs {tmp_path / 'me.fif'}, which are taken as they are: leave it out"
    ]


def test_a_recording_without_events_is_refused(lab: list[str], capsys) -> None:
    x_CN, _ = responses(lab, 3)
    write_brainvision(Path("me.vhdr"), x_CN)
    assert main([*COMMAND, "--images", "photos", "--out", "trials"]) == 2
    assert "no annotation of me.vhdr names an image" in capsys.readouterr().err
    assert not Path("trials").exists()


def test_the_trigger_channel_is_chosen(lab: list[str]) -> None:
    """Two channels hold codes of the table: the presses of another order come with them."""
    x_CN, onsets = responses(lab, 3)
    codes = np.zeros((2, x_CN.shape[1]))
    for i, (onset, name) in enumerate(zip(onsets, lab, strict=True)):
        at = round(onset * SFREQ)
        codes[0, at : at + 4] = 1 + IMAGES.index(name)
        codes[1, at + 20 : at + 24] = 1 + i % 8
    names = (*(f"E{i}" for i in range(10)), "STI A", "STI B")
    info = mne.create_info(list(names), SFREQ, ["eeg"] * 10 + ["stim"] * 2)
    mne.io.RawArray(np.concatenate([x_CN, codes]), info, verbose="error").save("two_raw.fif", verbose="error")
    pd.DataFrame({"code": range(1, 9), "image": IMAGES}).to_csv("codes.csv", index=False)
    options = {"settings": PLAIN, "events": Path("codes.csv"), "images": Path("photos")}
    with pytest.raises(Exception, match="--stim-channel"):
        prepare_recording(Path("two_raw.fif"), Path("out"), **options)
    assert (
        seen(Trials.load(prepare_recording(Path("two_raw.fif"), Path("out"), stim_channel="STI A", **options))) == lab
    )
