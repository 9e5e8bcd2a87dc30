"""A recording whose images nobody names: epochs of the simulated EEG study, and a folder of pictures to look in.

Letters: N images, C channels, T samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import mne
import pandas as pd

from hvf.runs import write_atomic
from hvf.simulation.raw_files import checked_settings, generator, new_folder, write_readme
from hvf.simulation.study import simulate_trials, simulated_stimuli

SFREQ, TMIN, TMAX = 250.0, -0.2, 1.0
SHOWN, PICTURES, REPEATS = 20, 60, 16


def write_new_recording(out: str | Path, subjects: Iterable[int] = (8,), *, seed: int = 0) -> Path:
    """Write `sub-NN_new-epo.fif` of each subject and `photos/`; return the root `out`.

    The epochs are 16 presentations each of 20 images, in random order, at 250 Hz from -0.2 to 1 s, channels in an order
    of their own. Their metadata say in "stimulus" which presentations are of the same image, and nothing says of which.
    The photos are these 20 among 40 others, of concepts that no decoder of the study was trained on. `truth.csv` says
    what was shown, to compare with.

    Parameters
    ----------
    out : path-like
        A new or empty folder.
    subjects : iterable of int
    seed : int
        Of the images and the order.

    Raises
    ------
    HvfError
        `out` is in use, or a subject does not exist.
    """
    subjects, out = tuple(subjects), Path(out)
    sizes = {"sfreq": SFREQ, "tmin": TMIN, "tmax": TMAX, "test_repeats": REPEATS, "train_concepts": 1}
    data = checked_settings(subjects, study="simulated-eeg", **sizes)
    _, images = simulated_stimuli(data)
    chosen = generator("new recording", seed).permutation(len(images))[:PICTURES]
    with new_folder(out, 60e6 * len(subjects)) as root:
        write_readme(root, "MNE epochs", seed)
        (root / "photos").mkdir()
        for i in sorted(chosen.tolist()):
            images[i].save(root / "photos" / f"{images.ids[i]}.png")
        truth = []
        for subject in subjects:
            rng = generator("new recording", seed, subject)
            shown = images.select(rng.permutation(chosen)[:SHOWN].tolist())
            # Presentations that no decoder was tested on: the split is a part of the noise's seed.
            trials = simulate_trials(replace(data, subject=subject, train_repeats=REPEATS), shown, subject, "train")
            trials = trials.select(rng.permutation(len(trials)))
            channels = rng.permutation(len(trials.ch_names))
            number = {name: i for i, name in enumerate(shown.ids, start=1)}
            stimulus = [number[name] for name in trials.image_ids.tolist()]
            info = mne.create_info([trials.ch_names[i] for i in channels], SFREQ, "eeg")
            x_NCT = trials.load_array()[:, channels].astype(float)
            table = pd.DataFrame({"stimulus": stimulus})
            epochs = mne.EpochsArray(x_NCT, info, tmin=TMIN, metadata=table, verbose="error")
            epochs.save(root / f"sub-{subject:02d}_new-epo.fif", verbose="error")
            truth += [(f"sub-{subject:02d}", i, name) for name, i in number.items()]
        lines = pd.DataFrame(truth, columns=["subject", "stimulus", "image"])
        write_atomic(root / "truth.csv", lambda path: lines.to_csv(path, index=False))
    return out
