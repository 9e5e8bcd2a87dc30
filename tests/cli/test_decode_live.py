"""`hvf decode --stream`: a simulated recording, replayed over the Lab Streaming Layer, is answered like its file."""

from __future__ import annotations

import csv
import threading
import time
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
import pytest

from hvf.cli import main
from hvf.config import HvfError
from hvf.decoding.live import LiveTrial
from hvf.experiments import stages
from hvf.experiments.decoding import Question, open_decoder
from hvf.experiments.live import decode_live
from hvf.runs import Run
from hvf.study import open_study
from tests.small_run import small_config

pytest.importorskip("mne_lsl")
GAP, SFREQ, CHUNK = 120, 100.0, 10  # samples from one onset to the next; Hz; samples given at once
SHOWN, TIMES = 3, 4


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    run = Run.create(tmp_path_factory.mktemp("live") / "run", small_config())
    stages.train_run(run)
    return run.path


@pytest.fixture(scope="module")
def raw() -> mne.io.BaseRaw:
    """Presentations of three images in mixed order, codes 11 to 13 on a trigger channel, channels in another order."""
    study = open_study(small_config().data)
    images = study.test_images.select([5, 0, 7])
    single = study.single_trials("test", images)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(single.ch_names))
    x_CN = np.zeros((len(order) + 1, 200 + GAP * SHOWN * TIMES))
    rows = [np.flatnonzero(single.image_ids == name)[:TIMES] for name in images.ids]
    for i, (code, row) in enumerate(rng.permutation([(11 + j, r) for j, of in enumerate(rows) for r in of]).tolist()):
        onset = 60 + GAP * i
        x_CN[:-1, onset : onset + 80] = single.batch([row])[0][order]
        x_CN[-1, onset : onset + 5] = code
    names = [*(single.ch_names[i] for i in order), "Trigger"]
    kinds = ["eeg"] * len(order) + ["stim"]
    return mne.io.RawArray(x_CN, mne.create_info(names, SFREQ, kinds), verbose="error")


def epochs_file(raw: mne.io.BaseRaw, path: Path) -> Path:
    events = mne.find_events(raw, "Trigger", verbose="error")
    table = pd.DataFrame({"code": events[:, 2]})
    settings = {"tmin": -0.2, "tmax": 1.0, "baseline": None, "preload": True, "verbose": "error"}
    mne.Epochs(raw.copy().pick("eeg"), events, metadata=table, **settings).save(path, verbose="error")
    return path


def answers(folder: Path) -> dict[str, list[tuple[str, ...]]]:
    found: dict[str, list[tuple[str, ...]]] = {}
    with open(folder / "answers.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["trial"], []).append((row["image_id"], row["similarity"], row["in_set"]))
    return found


def outlet_of(raw: mne.io.BaseRaw, name: str) -> Any:
    """A stream of the recording's channels and units, to which nothing has been given yet."""
    from mne_lsl.lsl import StreamInfo, StreamOutlet

    info = StreamInfo(name, "eeg", len(raw.ch_names), SFREQ, "float32", name)
    info.set_channel_info(raw.info)
    return StreamOutlet(info, CHUNK)


def play(raw: mne.io.BaseRaw, outlet: Any) -> None:
    """Give the recording to its stream in its own time, as an amplifier would, once somebody listens."""
    assert outlet.wait_for_consumers(120)
    x_NC = np.ascontiguousarray(raw.get_data().T, dtype=np.float32)
    for start in range(0, len(x_NC), CHUNK):
        time.sleep(CHUNK / SFREQ)
        outlet.push_chunk(x_NC[start : start + CHUNK])


@pytest.mark.slow(part=8)
def test_the_answers_are_those_of_the_file(run, raw, tmp_path, capsys):
    path = epochs_file(raw, tmp_path / "whole-epo.fif")
    assert (
        main(["decode", str(run), "--trials", str(path), "--same-image", "code", "--out", str(tmp_path / "file")]) == 0
    )
    capsys.readouterr()
    outlet = outlet_of(raw, "hvf-test")
    threading.Thread(target=play, args=(raw, outlet), daemon=True).start()
    command = ["decode", str(run), "--stream", "hvf-test", "--draw", "--out", str(tmp_path / "live")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    live, whole = answers(tmp_path / "live"), answers(tmp_path / "file")
    assert sorted(live) == ["11", "12", "13"]
    assert live == whole
    assert printed.count("presentation") == SHOWN * TIMES
    assert printed.count(f", {TIMES} presentations") == SHOWN
    assert len(list((tmp_path / "live" / "images" / "drawn").glob("*.png"))) == SHOWN
    page = (tmp_path / "live" / "live.html").read_text(encoding="utf-8")
    assert page.count("data:image/webp") == SHOWN


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--stream", "nobody", "--trials", "x.npy"], "or --stream NAME"),
        (["--trials", "x.npy", "--markers", "STI"], "no file"),
        (["--stream", "nobody", "--same-image", "code"], "belongs to --trials"),
    ],
)
def test_options_that_do_not_go_together(run, tmp_path, capsys, options, reason):
    assert main(["decode", str(run), *options, "--out", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow(part=8)
def test_a_stream_that_is_not_there(run, tmp_path, capsys):
    assert main(["decode", str(run), "--stream", "hvf-nobody", "--out", str(tmp_path / "out")]) == 2
    assert "no stream called 'hvf-nobody'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_trial_with_lost_samples_is_left_out_and_the_others_are_answered(run, capsys):
    study, opened = open_study(small_config().data), open_decoder(Question(str(run), Path("stream")), "cpu")
    lost = study.test.select([2])
    x_1CT = lost.load_array().copy()
    x_1CT[0, 3, 10] = np.nan
    lost = lost.replace(x_NCT=x_1CT)
    fine = [LiveTrial(str(i), study.test.select([i]), []) for i in (0, 1, 3)]
    shown: list[str] = []
    answered = decode_live(
        opened, [fine[0], LiveTrial("2", lost, []), *fine[1:]], lambda state: shown.append(state.stimulus)
    )
    assert shown == ["0", "1", "3"]
    assert list(answered.trials.names) == shown
    whole = decode_live(opened, fine, lambda state: None)
    np.testing.assert_array_equal(answered.answers.top_NK, whole.answers.top_NK)
    assert "note: the stream: a trial of 2 is left out: " in capsys.readouterr().err
    with pytest.raises(HvfError, match="NaN"):  # the first: rather the stream than the trial is at fault
        decode_live(opened, [LiveTrial("2", lost, []), *fine], lambda state: None)
