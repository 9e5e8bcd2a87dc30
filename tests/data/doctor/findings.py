"""What the tests of doctor share."""

from __future__ import annotations

from pathlib import Path

import mne
import numpy as np
from PIL import Image

from hvf.data.doctor import checks
from hvf.data.doctor.checks import Finding
from hvf.data.montages import EEG_CHANNELS

POSTERIOR = ["P7", "P5", "P3", "P1", "Pz", "P2", "P4", "P6", "P8", "PO7", "PO3", "POz", "PO4", "PO8", "O1", "Oz", "O2"]


def worst(found) -> str:
    return next(s for s in checks.SEVERITIES if any(item.severity == s for item in found))


def only(found, severity: str, check: str, *words: str) -> Finding:
    """The one finding that is not ok, which must be this."""
    wrong = [item for item in found if item.severity != "ok"]
    assert [(item.severity, item.check) for item in wrong] == [(severity, check)], wrong
    assert all(word in wrong[0].message for word in words), wrong[0]
    return wrong[0]


def has(found, severity: str, check: str, *words: str) -> Finding:
    assert not [f for f in found if "looking at it failed" in f.message]
    hits = [f for f in found if (f.severity, f.check) == (severity, check) and all(w in f.message for w in words)]
    assert hits, "\n".join(map(str, found))
    assert hits[0].advice
    return hits[0]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 1e-5).astype(np.float32)


def pictures(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)


def eeg_root(root: Path, sessions: int = 2) -> Path:
    """Two sessions of 8 training and 4 test images as published, with responses that can be told from noise."""
    rng = np.random.default_rng(3)
    train = [f"{c}_{k:02d}b.jpg" for c in ("ant", "bee", "cow", "dog") for k in (1, 2)]
    test = [f"{c}_01b.jpg" for c in ("elk", "fox", "gnu", "hen")]
    numbered = {name.split("_")[0]: i + 1 for i, name in enumerate([*train[::2], *test])}
    told = {}
    for part, files in (("train", train), ("test", test)):
        told[f"{part}_img_files"] = files
        told[f"{part}_img_concepts"] = [f"{i // 2 + 1:05d}_{n.split('_')[0]}" for i, n in enumerate(files)]
        told[f"{part}_img_concepts_THINGS"] = [f"{numbered[n.split('_')[0]]:05d}_{n.split('_')[0]}" for n in files]
    root.mkdir()
    np.save(root / "image_metadata.npy", np.array(told, dtype=object))
    for part, files, repeats in (("training", train, 2), ("test", test, 5)):
        pattern = rng.standard_normal((len(files), 63, 1)) * 2e-5
        for session in range(1, sessions + 1):
            codes = rng.permutation(np.repeat(np.arange(1, len(files) + 1), repeats))
            x = np.concatenate(
                [noise(63, 1500 + 200 * len(codes), seed=session), np.zeros((1, 1500 + 200 * len(codes)))]
            )
            for i, code in enumerate(codes):
                onset = 300 + 200 * i
                x[-1, onset] = code
                x[:63, onset + 80 : onset + 230] += pattern[code - 1]
            x[-1, 300 + 200 * len(codes)] = 99999
            recording = {"raw_eeg_data": x, "ch_names": [*EEG_CHANNELS, "stim"], "ch_types": ["eeg"] * 63 + ["stim"],
                         "sfreq": 1000, "highpass": 0.01, "lowpass": 100}  # fmt: skip
            path = root / "raw_data" / "sub-01" / f"ses-{session:02d}" / f"raw_eeg_{part}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.array(recording, dtype=object))
    for part, files in (("training", train), ("test", test)):
        for i, (name, picture) in enumerate(zip(files, pictures(len(files), seed=len(files)), strict=True)):
            concept = name.split("_")[0]
            folder = f"{(i // 2 if part == 'training' else i) + 1:05d}_{concept}"
            path = root / "image_set" / f"{part}_images" / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    return root


def recording(path: Path, edit=None, types="eeg") -> Path:
    x = noise(17, 4000)
    if edit is not None:
        edit(x)
    raw = mne.io.RawArray(x, mne.create_info(POSTERIOR, 200.0, types), verbose="error")
    raw.set_annotations(mne.Annotations([1.0, 5.0], [0.1, 0.1], ["cat_01b", "dog_01b"]))
    raw.save(path, verbose="error")
    return path
