"""What the tests of prepare share."""

from __future__ import annotations

import numpy as np

from hvf.data.recordings.epoching import Preprocessing

SFREQ = 200.0


NAMES = ("Fz", "Cz", "Pz", "P3", "P4", "PO3", "PO4", "O1", "Oz", "O2")


CONCEPTS = ("cat", "dog", "owl", "pie")


IMAGES = tuple(f"stimuli/{concept}/{concept}_{i}.jpg" for concept in CONCEPTS for i in (1, 2))


PLAIN = Preprocessing(l_freq=None, h_freq=None, tmax=0.4, sfreq=100.0, baseline=(-0.1, 0.0), whiten=False)


def write_brainvision(path, x_CN, ch_names=NAMES, sfreq=SFREQ, points=True, markers=()):
    """A BrainVision recording in V: header, values (float32, µV) and markers (description, sample from 1)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data, marks = path.with_suffix(".eeg"), path.with_suffix(".vmrk")
    infos = [f"DataFile={data.name}", f"MarkerFile={marks.name}", "DataFormat=BINARY", "DataOrientation=MULTIPLEXED"]
    infos += [f"NumberOfChannels={len(ch_names)}", f"SamplingInterval={1e6 / sfreq:g}"]
    infos += [f"DataPoints={x_CN.shape[1]}"] if points else []
    channels = [f"Ch{i}={name},,1,µV" for i, name in enumerate(ch_names, start=1)]
    lines = ["Brain Vision Data Exchange Header File Version 1.0", "[Common Infos]", *infos]
    lines += ["[Binary Infos]", "BinaryFormat=IEEE_FLOAT_32", "[Channel Infos]", *channels]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (x_CN.T * 1e6).astype("<f4").tofile(data)
    marked = [f"Mk{i}=Stimulus,{text},{at},1,0" for i, (text, at) in enumerate(markers, start=2)]
    lines = ["Brain Vision Data Exchange Marker File, Version 1.0", "[Marker Infos]", "Mk1=New Segment,,1,1,0", *marked]
    marks.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def responses(images, seed, ch_names=NAMES, gap=0.6):
    """(noise and a response to each image, 20 µV times its place in IMAGES at 0.1 s; onsets in s)."""
    rng = np.random.default_rng(seed)
    onsets = 0.5 + gap * np.arange(len(images))
    x_CN = 1e-6 * rng.standard_normal((len(ch_names), round((onsets[-1] + 1.0) * SFREQ)))
    for onset, name in zip(onsets, images, strict=True):
        x_CN[:, round((onset + 0.1) * SFREQ) + np.arange(-3, 4)] += 20e-6 * (1 + IMAGES.index(name))
    return x_CN, onsets


def seen(trials):
    """Which image each trial's response says it answers, by its size at 0.1 s."""
    height_N = trials.load_array()[:, :, trials.times.searchsorted(0.099)].mean(1)
    return [IMAGES[i] for i in (np.rint(height_N / 20e-6).astype(int) - 1)]


def names_of(images):
    return [name.rsplit("/", 1)[-1].removesuffix(".jpg") for name in images]


def order(seed, repeats=2):
    return [IMAGES[i] for i in np.random.default_rng(seed).permutation(np.repeat(np.arange(len(IMAGES)), repeats))]


def cut(path, fraction):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])


def cut_row(path):
    text = path.read_text()
    path.write_text(text[: text.rindex("\t")])
