"""Data sets: each is registered in one file, and a new file is enough to prepare and decode a new one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvf.config import DataConfig, HvfError
from hvf.data.datasets import Dataset, subject_numbers
from hvf.data.things_eeg2.raw import numbered_folders
from hvf.data.trials.trials import Trials
from hvf.registry import DATASETS
from hvf.study import open_study, subjects

ROOT = Path(__file__).resolve().parents[2]

NEW = '''
"""A made-up study: sub-N.npy holds (images, channels, samples), images.txt the image of each row."""

from hvf.data.datasets import Dataset, Option, subject_numbers
from hvf.registry import DATASETS, HvfError


@DATASETS.register("lab-study")
class LabStudy(Dataset):
    title = "A lab's study (Doe et al. 2025), EEG"
    doi = "10.1000/lab"
    licence = "CC0"
    layout = "a lab's study (sub-N.npy)"
    options = (Option("gain", "factor from stored numbers to V", int),)

    def prepare(self, root, out, subjects=None, *, gain=1):
        import numpy as np

        from hvf.data.trials.trials import Trials

        image_ids = (root / "images.txt").read_text().split()
        paths = []
        for number in subject_numbers(subjects) or [1]:
            x_NCT = gain * np.load(root / f"sub-{number}.npy")
            trials = Trials(x_NCT, image_ids, subject=f"sub-{number:02d}", sfreq=100, tmin=0, ch_names=("O1", "O2"),
                            kind="eeg")
            paths.append(out / f"sub-{number:02d}_trials.npy")
            trials.save(paths[-1])
        return paths

    def checks(self, path, images):
        from hvf.data.doctor.checks import Finding

        if path.is_dir() and any(path.glob("sub-?.npy")):
            yield iter([Finding("ok", "file", path.name, "a lab's study")])
'''


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    """A folder of 24 images and of one person's responses to them, beside a copy of hvf with the new file."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "hvf", folder / "hvf", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "hvf" / "data" / "lab_study.py").write_text(NEW)
    ids = []
    for i in range(24):
        path = folder / "images" / f"concept{i // 3}" / f"image{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (10 * i, 0, 255 - 10 * i)).save(path)
        ids.append(path.stem)
    (folder / "raw").mkdir()
    (folder / "raw" / "images.txt").write_text("\n".join(ids))
    x_NCT = np.zeros((24, 2, 10), np.float32)
    x_NCT[:, 0] = np.arange(24)[:, None] / 24
    x_NCT[:, 1] = np.random.default_rng(0).standard_normal((24, 10)) * 0.01
    np.save(folder / "raw" / "sub-3.npy", x_NCT)
    return folder


def hvf(lab: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(lab)}
    command = [sys.executable, "-m", "hvf", *map(str, words)]
    return subprocess.run(command, cwd=lab, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow(part=8)
def test_a_new_data_set_is_one_file(lab):
    shown = " ".join(re.sub("[│\n]", " ", hvf(lab, "data", "prepare", "--help").stdout).split())
    assert "lab-study" in shown
    assert "--gain N lab-study: factor from stored numbers to V" in shown
    refused = hvf(lab, "data", "prepare", "things-eeg", "--root", "raw", "--gain", "2")
    assert refused.returncode == 2
    assert refused.stderr == "hvf: --gain means nothing for things-eeg; leave it out\n"

    done = hvf(lab, "data", "prepare", "lab-study", "--root", "raw", "--subjects", "sub-03", "--gain", "4")
    assert done.returncode == 0, done.stderr
    assert "https://doi.org/10.1000/lab" in done.stdout
    path = lab / "data" / "lab-study" / "sub-03_trials.npy"
    np.testing.assert_array_equal(np.load(path)[:, 0, 0], np.arange(24, dtype=np.float32) / 6)
    assert "a lab's study" in hvf(lab, "data", "doctor", "raw").stdout

    settings = DataConfig(study="files", trials=str(path.parent), subject=3, images=str(lab / "images"), test_images=6)
    study = open_study(settings)
    assert study.test.ch_names == ("O1", "O2")
    assert not set(study.train_images.concepts) & set(study.test_images.concepts)
    # Decoded by regression on the images' colour: each test image is the nearest to its prediction.
    red = {
        name: int(name[-2:]) * 10 for name in (Path(i).stem for i in (*study.train_images.ids, *study.test_images.ids))
    }
    x, x_test = study.train.load_array().mean(2), study.test.load_array().mean(2)
    y = np.array([red[Path(name).stem] for name in study.train.image_ids])
    y_test = np.array([red[Path(name).stem] for name in study.test.image_ids])
    weights = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    predicted = np.c_[x_test, np.ones(len(x_test))] @ weights
    assert np.abs(predicted[:, None] - y_test).argmin(1).tolist() == list(range(len(y_test)))


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_data_set_says_what_it_is(name):
    dataset = DATASETS[name]
    assert issubclass(dataset, Dataset)
    assert dataset.title
    assert dataset.layout
    assert bool(dataset.doi) == bool(dataset.licence) == (name not in ("bids", "recording"))
    assert all(source.subjects >= 0 and source.about for source in dataset.sources.values())


def test_an_unknown_data_set_is_answered_with_the_nearest():
    with pytest.raises(HvfError, match="there is no data set 'thing-eeg'; did you mean 'things-eeg'"):
        DATASETS["thing-eeg"]


def test_subjects_as_typed():
    assert subject_numbers(["8", "sub-08", "SUB-1"]) == [8, 8, 1]
    assert subject_numbers(None) is None
    with pytest.raises(HvfError, match="takes numbers such as 8 or sub-08, not 'eight'"):
        subject_numbers(["eight"])


def test_two_files_or_folders_of_one_person_are_refused(tmp_path):
    trials = Trials(np.zeros((1, 1, 1)), ["a"], "sub-08", 100.0, 0.0, ["Oz"], "eeg")
    for name in ("sub-08", "sub-10"):
        trials.save(tmp_path / f"{name}_trials.npy")
        (tmp_path / "raw" / name).mkdir(parents=True)
    assert list(subjects(tmp_path)) == list(numbered_folders(tmp_path / "raw", "sub")) == [8, 10]
    trials.save(tmp_path / "sub-8_trials.npy")
    (tmp_path / "raw" / "sub-8").mkdir()
    with pytest.raises(HvfError, match="sub-08_trials.npy and sub-8_trials.npy are both number 8"):
        subjects(tmp_path)
    with pytest.raises(HvfError, match="sub-08 and sub-8 are both number 8: which is meant"):
        numbered_folders(tmp_path / "raw", "sub")
