"""Real EEG and MEG files through the doors a user has, whole and damaged."""

from __future__ import annotations

import gzip
import shutil

import mne
import numpy as np
import pandas as pd
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from hvf.config import HvfError
from hvf.data.recordings.epoching import Preprocessing
from hvf.data.recordings.prepare import prepare_bids
from hvf.data.recordings.raw import open_recording
from hvf.data.recordings.single import read_recording
from hvf.data.trials.trials import Trials

SHORT = Preprocessing(l_freq=None, h_freq=None, tmax=0.3, baseline=(-0.1, 0.0), whiten=False)
TWO = pd.DataFrame({"onset": [0.2, 0.5], "image": ["face.jpg", "house.jpg"]})
FILES = {  # path, kind, channels, their own rate
    "brainvision": ("eeg/brainvision/testbva.vhdr", "eeg", 29, 200.0),
    "brainvision-5k": ("eeg/brainvision/bv_dig_test.vhdr", "eeg", 64, 5000.0),  # without its EOG and ECG, typed EEG
    "eeglab": ("eeg/eeglab/eeglab_data.set", "eeg", 30, 128.0),  # without its two EOG channels, typed EEG
    "fif": ("meg/fif/sample_audvis_trunc_raw_sss.fif", "meg", 306, 300.3),
    "ctf": ("meg/CTF/testdata_ctf_short_discontinuous.ds", "meg", 273, 1200.0),
}


def copied(source, folder):
    """A writable copy of what lies beside a file."""
    target = folder / source.parent.name
    shutil.copytree(source.parent, target, copy_function=shutil.copyfile)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755)
    return target / source.name


@pytest.mark.parametrize("name", FILES)
def test_every_format_goes_through_one_door(shared_data, name):
    path, kind, n_channels, sfreq = FILES[name]
    trials = read_recording(shared_data / path, TWO, settings=SHORT)
    rate = min(250.0, sfreq)
    assert trials.kind == kind
    assert trials.shape == (2, n_channels, round(0.3 * rate))
    assert trials.sfreq == pytest.approx(rate, abs=0.1)
    assert trials.image_ids.tolist() == ["face", "house"]
    own = read_recording(shared_data / path, TWO, settings=Preprocessing(
        l_freq=None, h_freq=None, tmax=0.3, baseline=None, sfreq=1e5, whiten=False, picks=trials.ch_names))  # fmt: skip
    raw = mne.io.read_raw(shared_data / path, verbose="error")
    if not raw.info["bads"]:
        start = round(0.2 * raw.info["sfreq"])
        expected = raw.get_data(picks=list(trials.ch_names))[:, start : start + own.shape[2]]
        np.testing.assert_allclose(own[0], expected, rtol=1e-6)


def test_eeglab_annotations_by_the_default_settings(shared_data):
    table = pd.DataFrame({"description": ["square"], "image": ["square.png"]})
    path = shared_data / FILES["eeglab"][0]
    trials = read_recording(path, table)
    raw = mne.io.read_raw(path, verbose="error")
    assert 70 <= len(trials) <= (raw.annotations.description == "square").sum()
    assert (trials.sfreq, trials.tmin, trials.shape[1:]) == (128.0, 0.0, (30, 128))
    notes = " ".join(trials.history["notes"])
    assert "2 channels record no brain by their names and are left out: EOG1, EOG2 (eye)" in notes
    assert "show no image (rt)" in notes
    plain = read_recording(path, table, settings=Preprocessing(whiten=False))
    scale = plain.load_array().std(axis=(0, 2))
    assert scale.max() / scale.min() > 2
    white = trials.load_array().std(axis=(0, 2))
    assert white.max() / white.min() < 2  # whitened: all channels alike, as noise counts
    with pytest.raises(HvfError, match="none of the 1 descriptions of the table; it holds .*square"):
        read_recording(path, table.assign(description="Square"))


def test_brainvision_markers(shared_data):
    path = shared_data / FILES["brainvision"][0]
    table = pd.DataFrame({"code": [1, 2, 3, 4], "image": ["a.png", "b.png", "c.png", "d.png"]})
    trials = read_recording(path, table, settings=SHORT)
    texts = mne.io.read_raw(path, verbose="error").annotations.description
    expected = ["abcd"[int(text[-1]) - 1] for text in texts]
    assert len(trials) >= len(expected) - 2
    assert "".join(trials.image_ids) in "".join(expected)


DAMAGE = [
    ("brainvision", "testbva.dat", 0.7, "is damaged: testbva.dat ends within a sample|its header says 2112"),
    ("brainvision", "testbva.dat", 0.5, "is damaged: testbva.dat holds 1056 samples, its header says 2112"),
    ("brainvision", "testbva.vmrk", 0.7, "testbva.vhdr"),
    ("brainvision", "testbva.vhdr", 0.3, "cannot read the recording .*testbva.vhdr"),
    ("brainvision-5k", "bv_dig_test.eeg", 0.9999, "is damaged: bv_dig_test.eeg ends within a sample"),
    ("eeglab", "eeglab_data.fdt", 0.7, "eeglab_data.set: Incorrect number of samples"),
    ("eeglab", "eeglab_data.set", 0.7, "cannot read the recording .*eeglab_data.set"),
    ("fif", "sample_audvis_trunc_raw_sss.fif", 0.3, "cannot read the recording .*sample_audvis"),
    ("fif", "sample_audvis_trunc_raw_sss.fif", 0.999, "sample_audvis_trunc_raw_sss.fif"),
    ("ctf", "testdata_ctf_short_discontinuous.meg4", 0.7, "not an even multiple of the trial size"),
    ("ctf", "testdata_ctf_short_discontinuous.res4", 0.7, "cannot read the recording .*discontinuous.ds"),
    ("ctf", "testdata_ctf_short_discontinuous.hc", 0.3, "cannot read the recording .*discontinuous.ds"),
]


@pytest.mark.parametrize(("name", "part", "fraction", "words"), DAMAGE)
def test_cut_off_files_are_refused(shared_data, tmp_path, name, part, fraction, words):
    path = copied(shared_data / FILES[name][0], tmp_path)
    (file,) = path.parent.rglob(part)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(HvfError, match=words):
        read_recording(path, TWO, settings=SHORT)


@pytest.mark.parametrize(
    ("name", "part", "words"),
    [
        ("brainvision", "testbva.vhdr", "cannot read"),
        ("brainvision", "testbva.vmrk", "cannot read"),
        ("brainvision", "testbva.dat", "NaN or infinite"),
        ("eeglab", "eeglab_data.set", "cannot read"),
        ("eeglab", "eeglab_data.fdt", "NaN or infinite"),
        ("fif", "sample_audvis_trunc_raw_sss.fif", "cannot read"),
        ("ctf", "testdata_ctf_short_discontinuous.res4", "cannot read"),
        ("ctf", "testdata_ctf_short_discontinuous.meg4", "does not begin as CTF data do"),
    ],
)
def test_corrupted_files_are_refused(shared_data, tmp_path, name, part, words):
    path = copied(shared_data / FILES[name][0], tmp_path)
    (file,) = path.parent.rglob(part)
    data = bytearray(file.read_bytes())
    data[:4096] = np.random.default_rng(0).bytes(min(4096, len(data)))
    file.write_bytes(data)
    with pytest.raises(HvfError, match=words):
        read_recording(path, TWO, settings=SHORT)


@pytest.mark.parametrize("name", FILES)
def test_events_of_another_recording_are_refused(shared_data, name):
    path = shared_data / FILES[name][0]
    length = open_recording(path).n_times / open_recording(path).info["sfreq"]
    with pytest.raises(HvfError, match=r"1 of 2 image events of .* lie beyond it: row 2"):
        read_recording(path, TWO.assign(onset=[0.2, length + 1]), settings=SHORT)


@pytest.mark.slow(part=7)
def test_faces_and_houses(shared_data, tmp_path):
    """Muse: four dry electrodes; figures of the data's README, AUC about .67 over all runs."""
    parts = []
    codes = pd.DataFrame({"code": [1, 2], "image": ["house.jpg", "face.jpg"]})
    settings = Preprocessing(l_freq=1.0, h_freq=15.0, tmax=0.8, baseline=(-0.1, 0.0), sfreq=32.0, whiten=False)
    for path in sorted((shared_data / "eeg" / "n170_muse").rglob("*.csv")):
        table = pd.read_csv(path)
        names = ["TP9", "AF7", "AF8", "TP10", "Marker0"]
        values = table[names].to_numpy().T * np.asarray([[1e-6]] * 4 + [[1.0]])
        raw = mne.io.RawArray(values, mne.create_info(names, 256.0, ["eeg"] * 4 + ["stim"]), verbose="error")
        raw.save(tmp_path / f"{path.stem}_raw.fif", verbose="error")
        trials = read_recording(tmp_path / f"{path.stem}_raw.fif", codes, settings=settings)
        assert len(trials) == pytest.approx((table["Marker0"] > 0).sum(), abs=3)
        parts.append(trials)
    trials = Trials.concatenate(parts)
    x_NCT = trials.load_array()
    good = np.ptp(x_NCT, axis=2).max(axis=1) < 100e-6
    face = (trials.image_ids == "face")[good]
    x_ND = x_NCT[good].reshape(good.sum(), -1)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")

    def auc(labels):
        scores = cross_val_predict(model, x_ND, labels, cv=5, method="decision_function")
        return roc_auc_score(labels, scores)

    assert auc(face) > 0.6
    assert auc(np.random.default_rng(0).permutation(face)) < 0.56


MEG = "bids/ds004212_THINGS-MEG"


@pytest.fixture
def things_meg(shared_data, tmp_path):
    """Run 1 and 2 of ds004212's sidecars as they are, with small recordings beside them; 40 Hz instead of 1200."""
    root = tmp_path / "ds004212"
    shutil.copytree(shared_data / MEG, root, copy_function=shutil.copyfile)
    for path in (root, *root.rglob("*")):
        path.chmod(0o755)
    rng = np.random.default_rng(0)
    folder = root / "sub-BIGMEG2" / "ses-01" / "meg"
    for path in folder.glob("*run-*"):
        if not any(f"run-{run:02d}" in path.name for run in (1, 2)):
            path.unlink()
    for channels in sorted(folder.glob("*_channels.tsv")):
        table = pd.read_csv(channels, sep="\t")
        types = {"OTHER": "mag", "MISC": "misc"}
        kinds = [types.get(kind, "ref_meg") for kind in table["type"]]
        info = mne.create_info(table["name"].tolist(), 40.0, kinds, verbose="error")
        raw = mne.io.RawArray(1e-13 * rng.standard_normal((len(table), 40 * 348)), info, verbose="error")
        raw.save(str(channels).replace("_channels.tsv", "_meg.fif"), verbose="error")
    return root


@pytest.mark.slow(part=7)
def test_things_meg_as_bids(shared_data, things_meg, tmp_path, capsys):
    settings = Preprocessing(l_freq=None, h_freq=None, sfreq=40.0, whiten=False)
    with pytest.raises(HvfError, match="has no column that names the images .*things_category_nr, value, sample"):
        prepare_bids(things_meg, tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()
    names = (shared_data / "things_meta" / "file_names_THINGS.txt").read_text().split()
    concepts = pd.read_csv(shared_data / "things_meta" / "things_concepts.tsv", sep="\t")["uniqueID"]
    order = {concept: i for i, concept in enumerate(concepts)}  # images are numbered concept by concept, not by file
    names.sort(key=lambda name: (order[name.rsplit("_", 1)[0]], name))
    stimuli = pd.DataFrame({"code": np.arange(1, len(names) + 1), "image": names})
    (path,) = prepare_bids(things_meg, tmp_path / "out", image_column="value", stimuli=stimuli, settings=settings)
    trials = Trials.load(path)
    notes = capsys.readouterr().err
    assert "272 channels typed misc (OTHER in channels.tsv) are MEG sensors by their names" in notes
    assert "name no image and are left out" in notes
    assert (path.name, trials.kind, trials.subject) == ("sub-BIGMEG2_trials.npy", "meg", "sub-BIGMEG2")
    tables = [pd.read_csv(p, sep="\t") for p in sorted(things_meg.rglob("*_events.tsv"))]
    shown = pd.concat(tables).dropna(subset="value")
    assert trials.shape == (len(shown), 272, 40)
    assert trials.splits.tolist() == ["test" if kind == "test" else "train" for kind in shown["trial_type"]]
    expected = [concepts[int(number) - 1] for number in shown["things_category_nr"]]
    assert [name.rsplit("_", 1)[0] for name in trials.image_ids.tolist()] == expected


def test_a_real_ctf_recording_whose_sensors_are_typed_other(shared_data, tmp_path):
    source = shared_data / FILES["ctf"][0]
    folder = tmp_path / "study" / "sub-01" / "meg"
    folder.mkdir(parents=True)
    (tmp_path / "study" / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    base = folder / "sub-01_task-look"
    shutil.copytree(source, f"{base}_meg.ds", copy_function=shutil.copyfile)
    for file in [folder / f"{base.name}_meg.ds", *(folder / f"{base.name}_meg.ds").iterdir()]:
        file.chmod(0o755)
        if file.stem == source.stem:
            file.rename(file.with_name(f"{base.name}_meg{file.suffix}"))
    raw = mne.io.read_raw(source, verbose="error")
    types = {"mag": "OTHER", "ref_meg": "MEGREFMAG", "eeg": "EEG", "stim": "TRIG", "misc": "MISC"}
    table = pd.DataFrame({"name": raw.ch_names, "type": [types[kind] for kind in raw.get_channel_types()]})
    table.assign(units="n/a", status="good").to_csv(f"{base}_channels.tsv", sep="\t", index=False)
    pd.DataFrame({"onset": [0.3, 0.9], "duration": 0.5, "image": ["a.jpg", "b.jpg"]}).to_csv(
        f"{base}_events.tsv", sep="\t", index=False
    )
    (path,) = prepare_bids(tmp_path / "study", tmp_path / "out", settings=SHORT)
    trials = Trials.load(path)
    direct = read_recording(
        source, pd.DataFrame({"onset": [0.3, 0.9], "image": ["a.jpg", "b.jpg"]}),
        settings=Preprocessing(**{**SHORT.__dict__, "picks": trials.ch_names}),
    )  # fmt: skip
    assert "273 channels typed misc (OTHER in channels.tsv) are MEG sensors" in " ".join(trials.history["notes"])
    assert trials.kind == "meg"
    np.testing.assert_array_equal(trials.load_array(), direct.load_array())


@pytest.mark.slow(part=7)
def test_things_eeg1_onsets_in_milliseconds(shared_data, tmp_path, capsys):
    folder = tmp_path / "ds003825" / "sub-01" / "eeg"
    folder.mkdir(parents=True)
    real = shared_data / "bids" / "ds003825_THINGS-EEG1"
    for name in ("dataset_description.json", "participants.tsv", "task-rsvp_events.json"):
        shutil.copyfile(real / name, tmp_path / "ds003825" / name)
    lines = gzip.decompress((real / "sub-01" / "eeg" / "sub-01_task-rsvp_events.tsv.gz").read_bytes()).splitlines(True)
    (folder / "sub-01_task-rsvp_events.tsv").write_bytes(b"".join(lines[:501]))
    from mne.io import RawArray

    n = int(lines[500].split(b"\t")[0]) + 2000
    rng = np.random.default_rng(0)
    raw = RawArray(1e-6 * rng.standard_normal((3, n)), mne.create_info(["O1", "Oz", "O2"], 1000.0, "eeg"))
    write_edf(folder / "sub-01_task-rsvp_eeg.edf", raw)
    (path,) = prepare_bids(tmp_path / "ds003825", tmp_path / "out", subjects=["1"])
    trials = Trials.load(path)
    assert trials.shape == (500, 3, 250)
    assert trials.image_ids[:2].tolist() == ["carousel_11s", "piano_05n"]
    assert trials.concepts[:2].tolist() == ["carousel", "piano"]
    assert "are taken as ms, which fits" in capsys.readouterr().err
    with pytest.raises(HvfError, match="--onset-unit ms"):
        prepare_bids(tmp_path / "ds003825", tmp_path / "other", onset_unit="s")

    edf = folder / "sub-01_task-rsvp_eeg.edf"
    edf.write_bytes(edf.read_bytes()[:-3000])
    with pytest.raises(HvfError, match="sub-01_task-rsvp_eeg.edf is damaged: .*does not match the file size"):
        prepare_bids(tmp_path / "ds003825", tmp_path / "other")
    assert not list(tmp_path.glob("other/*"))


def write_edf(path, raw):
    """European Data Format, records of 1 s, µV."""
    sfreq, n_channels = int(raw.info["sfreq"]), len(raw.ch_names)
    x_CN = raw.get_data() * 1e6
    n_records = x_CN.shape[1] // sfreq
    fields = [("0", 8), ("X X X X", 80), ("Startdate X X X X", 80), ("01.01.20", 8), ("00.00.00", 8)]
    fields += [(str(256 * (n_channels + 1)), 8), ("", 44), (str(n_records), 8), ("1", 8), (str(n_channels), 4)]
    for values, width in (
        (raw.ch_names, 16), ([""], 80), (["uV"], 8), (["-3276.8"], 8), (["3276.7"], 8), (["-32768"], 8), (["32767"], 8),
        ([""], 80), ([str(sfreq)], 8), ([""], 32),
    ):  # fmt: skip
        fields += [(value, width) for value in (values if len(values) > 1 else values * n_channels)]
    head = "".join(value.ljust(width) for value, width in fields).encode("ascii")
    records = np.rint(x_CN[:, : n_records * sfreq] * 10).astype("<i2").reshape(n_channels, n_records, sfreq)
    path.write_bytes(head + records.swapaxes(0, 1).tobytes())
