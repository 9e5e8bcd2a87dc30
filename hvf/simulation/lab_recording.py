"""A lab's two recordings in BrainVision's format: one to train on, whose images are known, and one to decode.

Letters: N images, C channels, T samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pybv

from hvf.data.images.image_set import ImageSet
from hvf.data.montages import EEG_CHANNELS
from hvf.runs import track, write_atomic
from hvf.simulation.brain import simulated_brain
from hvf.simulation.continuous import LEAD, RESPONSE, TAIL, onsets, record
from hvf.simulation.raw_files import (
    checked_settings,
    generator,
    image_drive,
    new_folder,
    response_kernel,
    write_readme,
)
from hvf.simulation.study import simulated_stimuli

SFREQ = 250.0  # Hz
SOA, JITTER = 0.5, 0.02  # s from one image to the next, and how far an onset may be off
IMAGES_PER_CONCEPT, REPEATS = 2, 4  # of the first recording
NEW_IMAGES, PICTURES, NEW_REPEATS = 20, 60, 16  # of the second: shown, to choose from, presentations of each
MARKER = 1  # of every onset: BrainVision's S  1


def write_lab_recordings(
    out: str | Path, subjects: Iterable[int] = (8,), *, train_concepts: int = 400, seed: int = 0
) -> Path:
    """Write two recordings of each subject and the pictures; return the root `out`.

    `sub-NN.vhdr` (with `.eeg`, `.vmrk`) shows the pictures in `photos/CONCEPT/` one after another, every one four times
    in random order; `sub-NN_events.csv` is the log of what was shown when, "onset" (s) and "image". `sub-NN_new.vhdr`
    shows 20 of the pictures in `new_photos/`, of other concepts, 16 times each: its log says in "stimulus" which
    presentations are of one picture, and not of which. `truth.csv` says that, to compare with. 63 channels, 250 Hz, an
    image every 500 ms.

    Parameters
    ----------
    out : path-like
        A new or empty folder.
    subjects : iterable of int
    train_concepts : int
        How many concepts `photos/` shows, two pictures of each.
    seed : int
        Of the order and the noise.

    Raises
    ------
    HvfError
        `out` is in use or the disk has too little room, or a subject or so many concepts do not exist.
    """
    subjects, out = tuple(subjects), Path(out)
    sizes = {"train_concepts": train_concepts, "images_per_concept": IMAGES_PER_CONCEPT}
    data = checked_settings(subjects, study="simulated-eeg", sfreq=SFREQ, **sizes)
    photos, unseen = simulated_stimuli(data)
    unseen = unseen.select(sorted(generator("lab", seed).permutation(len(unseen))[:PICTURES].tolist()))
    events = len(photos) * REPEATS + NEW_IMAGES * NEW_REPEATS
    with new_folder(out, len(subjects) * events * SOA * SFREQ * len(EEG_CHANNELS) * 2 + len(photos) * 8192) as root:
        write_readme(root, "BrainVision", seed)
        _save(photos, root / "photos", folders=True)
        _save(unseen, root / "new_photos", folders=False)
        truth = []
        for subject in track(subjects, "writing simulated EEG"):
            rng = generator("lab", seed, subject)
            name = f"sub-{subject:02d}"
            order = rng.permutation(np.repeat(np.arange(len(photos)), REPEATS))
            files = [f"{concept}/{image}.png" for concept, image in zip(photos.concepts, photos.ids, strict=True)]
            _write(root / name, photos, order, {"image": [files[i] for i in order]}, subject, rng)
            chosen = rng.permutation(len(unseen))[:NEW_IMAGES]
            numbers = rng.permutation(np.repeat(np.arange(NEW_IMAGES), NEW_REPEATS))
            shown = {"stimulus": [f"picture {k + 1}" for k in numbers]}
            _write(root / f"{name}_new", unseen, chosen[numbers], shown, subject, rng)
            truth += [(name, f"picture {k + 1}", unseen.ids[i]) for k, i in enumerate(chosen)]
        lines = pd.DataFrame(truth, columns=["subject", "stimulus", "image"])
        write_atomic(root / "truth.csv", lambda path: lines.to_csv(path, index=False))
    return out


def _save(images: ImageSet, folder: Path, *, folders: bool) -> None:
    """Write the pictures, in folders of their concepts or side by side."""
    for i, (name, concept) in enumerate(zip(images.ids, images.concepts, strict=True)):
        path = (folder / concept if folders else folder) / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images[i].save(path)


def _write(
    path: Path,
    images: ImageSet,
    shown: np.ndarray,
    said: dict[str, list[str]],
    subject: int,
    rng: np.random.Generator,
) -> None:
    """Write one recording of the images `shown`, and its log with the columns "onset" and those `said`."""
    brain = simulated_brain("simulated-eeg", subject, SFREQ, 0.0, round(RESPONSE * SFREQ))
    onset = onsets(len(shown), SFREQ, SOA, JITTER, rng)
    x_CT = np.zeros((len(brain.ch_names), round((len(shown) * SOA + LEAD + TAIL) * SFREQ)), np.float32)
    record(brain, response_kernel(brain), image_drive(images), shown, onset, SFREQ, rng, x_CT)
    pybv.write_brainvision(
        data=x_CT,
        sfreq=SFREQ,
        ch_names=list(brain.ch_names),
        fname_base=path.name,
        folder_out=str(path.parent),
        events=np.column_stack([onset, np.full(len(onset), MARKER)]),
        fmt="binary_int16",
    )
    pd.DataFrame({"onset": onset / SFREQ, **said}).to_csv(path.with_name(f"{path.name}_events.csv"), index=False)
