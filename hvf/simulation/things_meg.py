"""The simulated MEG study as epochs, in the layout in which THINGS-MEG is published (Hebart et al. 2023, ds004212).

Letters: N images, C channels, T samples, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.trials.provenance import SIMULATED_TITLE
from hvf.runs import track
from hvf.simulation import rendering
from hvf.simulation.brain import Brain, noisy_trials, simulated_brain
from hvf.simulation.head import HEAD_CENTRE, sensor_info
from hvf.simulation.raw_files import (
    checked_settings,
    generator,
    image_drive,
    image_name,
    new_folder,
    response_kernel,
    save_image,
    write_readme,
)
from hvf.simulation.stimuli import rendered
from hvf.simulation.study import repeats_of, simulated_stimuli

MEG_SFREQ, MEG_RAW_SFREQ = 200.0, 1200.0  # Hz: of the epochs, and of the recording whose samples the events count
MEG_TMIN, MEG_SAMPLES, MEG_BASELINE = -0.1, 281, 21  # -0.1 to 1.3 s; the baseline ends with the sample at 0 s
MEG_ABSENT = frozenset({"MLF25", "MRF43", "MRO11", "MRO13"})  # sensors of the CTF-275 that the published files lack
CATCH = 999999  # event of a catch trial
CATCH_IMAGES = 200  # numbered between the exp and the test images
RUNS = 10  # of a session
METADATA = [
    "trial_type", "image_nr", "category_nr", "exemplar_nr", "test_image_nr", "things_category_nr", "things_image_nr",
    "things_exemplar_nr", "image_path", "onset", "image_on", "image_off", "responded", "key_id", "key_time", "RT",
    "session_nr", "run_nr",
]  # fmt: skip


def write_things_meg(
    out: str | Path,
    subjects: Iterable[int] = (2,),
    *,
    sessions: int = 12,
    split_size: str = "2GB",
    seed: int = 0,
    **sizes: int,
) -> Path:
    """Write the simulated MEG study in the layout of THINGS-MEG's preprocessed epochs; return its root `out`.

    `derivatives/preprocessed/preprocessed_P{n}-epo.fif` and its split parts (271 sensors, -0.1 to 1.3 s, 200 Hz,
    z-scored on the baseline, metadata), `sourcedata/sample_attributes_P{n}.csv` and `Images/concept/*.jpg`. Every image
    of every concept, the test concepts included, is shown once (exp), a further image of each test concept
    `test_repeats` times (test), and one trial in eleven is a catch trial.

    Parameters
    ----------
    out : path-like
        A new or empty folder.
    subjects : iterable of int
    sessions : int
    split_size : str
        Of the epochs' files, as "2GB"; about four times as much memory is needed.
    seed : int
        Of the order and the noise.
    **sizes : int
        train_concepts, images_per_concept, test_concepts and test_repeats (default 12) as in `DataConfig`; the
        published ones are 1654, 12, 200 and 12.

    Raises
    ------
    HvfError
        `out` is in use or the disk has too little room.
    """
    subjects, out = tuple(subjects), Path(out)
    data = checked_settings(subjects, study="simulated-meg", **{"test_repeats": 12, **sizes})
    per_concept, test_repeats = data.images_per_concept, repeats_of(data, "test")
    if sessions < 1:
        raise HvfError(f"there must be a session, not {sessions}")
    train, _ = simulated_stimuli(data)
    # Exemplar 0 of a test concept is the simulated study's test image; the others are shown once, as exp.
    tested = rendered(rendering.concepts()[: data.test_concepts], per_concept + 1)
    shown = _meg_images(train, tested, per_concept, seed)
    n_trials = 1.1 * (len(shown) + data.test_concepts * (test_repeats - 1)) + sessions
    with new_folder(out, len(subjects) * n_trials * 271 * MEG_SAMPLES * 4 + len(shown) * 4096) as root:
        write_readme(root, "THINGS-MEG", seed)
        for row in track(shown.to_dict("records"), "writing the images"):
            images, i = (train, row["index"]) if row["index"] < len(train) else (tested, row["index"] - len(train))
            save_image(images, i, root / "Images" / row["concept"] / Path(row["image_path"]).name)
        for folder in ("derivatives/preprocessed", "sourcedata"):
            (root / folder).mkdir(parents=True)
        drive_NF = np.concatenate([image_drive(train), image_drive(tested)])
        for subject in track(subjects, "writing simulated MEG"):
            trials = _meg_trials(shown, test_repeats, sessions, generator(seed, subject, "order"))
            trials[METADATA].to_csv(root / "sourcedata" / f"sample_attributes_P{subject}.csv", index=False)
            brain = simulated_brain(data.study, subject, MEG_SFREQ, MEG_TMIN, MEG_SAMPLES)
            make = _epoch_maker(brain, drive_NF, trials["index"].to_numpy(), f"{seed}/{subject}")
            epochs = _SimulatedEpochs(trials, make)
            path = root / "derivatives" / "preprocessed" / f"preprocessed_P{subject}-epo.fif"
            epochs.save(path, split_size=split_size, verbose="error")
    return out


def _meg_images(train: ImageSet, tested: ImageSet, per_concept: int, seed: int) -> pd.DataFrame:
    """All images in the order of `things_image_nr`: concepts sorted by name, each one's files sorted.

    `index` is the row among the training images followed by the tested concepts' images.
    """
    names, first = np.unique((*train.concepts, *tested.concepts), return_index=True)
    to_test = list(dict.fromkeys(tested.concepts))
    # Drawn: in the published files, too, test_image_nr is no rank.
    test_nr = dict(zip(to_test, (generator(seed, "test images").permutation(len(to_test)) + 1).tolist(), strict=True))
    rows = []
    for category, (name, start) in enumerate(zip(names.tolist(), first.tolist(), strict=True), 1):
        for exemplar in range(1, per_concept + 1 + (name in test_nr)):
            test = exemplar > per_concept
            file = image_name(name, exemplar, test)
            # Exemplar 0 of a tested concept is the simulated study's test image, and comes last here.
            index = start + (0 if test else exemplar - (name not in test_nr))
            test_image = per_concept * len(names) + CATCH_IMAGES + test_nr[name] if test else 0
            rows.append({
                "trial_type": "test" if test else "exp",
                "image_nr": test_image or (category - 1) * per_concept + exemplar,
                "category_nr": category,
                "exemplar_nr": exemplar,
                "test_image_nr": test_nr[name] if test else np.nan,
                "things_category_nr": category,
                "things_image_nr": len(rows) + 1,
                "things_exemplar_nr": exemplar,
                "image_path": f"images_test_meg/{file}" if test else f"images_meg/{name}/{file}",
                "concept": name,
                "index": index,
            })  # fmt: skip
    return pd.DataFrame(rows)


def _meg_trials(shown: pd.DataFrame, repeats: int, sessions: int, rng: np.random.Generator) -> pd.DataFrame:
    """The trials of one subject in order, with METADATA, `index` (-1: catch) and `sample` of the recording."""
    exp, test = (shown.loc[shown.trial_type == kind] for kind in ("exp", "test"))
    turn = (exp.category_nr + exp.exemplar_nr) % sessions  # a session shows one image of each concept, as published
    tables, clock = [], 0.0
    for session in range(sessions):
        n_test = len(range(session, repeats, sessions))
        table = pd.concat([exp.loc[turn == session], *[test] * n_test], ignore_index=True)
        n_catch = max(1, round(len(table) / 10))
        k = rng.integers(1, CATCH_IMAGES + 1, n_catch)
        catch = pd.DataFrame({
            "trial_type": "catch",
            "image_nr": len(exp) + k,
            "category_nr": exp.category_nr.max() + 1,
            "exemplar_nr": k,
            "image_path": [f"images_catch_meg/catch_{i:03d}.jpg" for i in k],
            "index": -1,
        })  # fmt: skip
        table = pd.concat([table, catch], ignore_index=True).iloc[rng.permutation(len(table) + n_catch)]
        for run, part in enumerate(np.array_split(np.arange(len(table)), min(RUNS, len(table))), 1):
            trials = table.iloc[part].reset_index(drop=True)
            trials["onset"] = (1.5 + np.cumsum(rng.uniform(1.3, 1.7, len(trials)))).round(2)
            trials["image_on"] = (trials.onset + rng.uniform(0.0, 0.2, len(trials))).round(6)
            trials["image_off"] = trials.image_on + 0.5
            trials["responded"] = (trials.trial_type == "catch").astype(int)
            pressed = trials.trial_type == "catch"
            trials["key_id"] = np.where(pressed, 49.0, np.nan)
            trials["RT"] = np.where(pressed, rng.uniform(0.4, 0.8, len(trials)).round(3), np.nan)
            trials["key_time"] = trials.image_on + trials.RT
            trials["session_nr"], trials["run_nr"] = session + 1, run
            trials["sample"] = ((clock + trials.image_on) * MEG_RAW_SFREQ).round().astype(int)
            clock += float(trials.image_off.iloc[-1]) + 10.0
            tables.append(trials)
    return pd.concat(tables, ignore_index=True)


class _SimulatedEpochs(mne.BaseEpochs):
    """Epochs simulated when they are read, so that only one part of a split file is in memory while writing."""

    def __init__(self, trials: pd.DataFrame, make: Callable[[int], np.ndarray]) -> None:
        code = trials.things_image_nr.fillna(CATCH).astype(int).to_numpy()
        events = np.stack([trials["sample"], np.zeros_like(code), code], axis=1)
        self._make = make
        super().__init__(
            _ctf_info()[0],
            None,
            events,
            {str(i): int(i) for i in np.unique(code)},
            MEG_TMIN,
            MEG_TMIN + (MEG_SAMPLES - 1) / MEG_SFREQ,
            baseline=None,
            metadata=trials.loc[:, METADATA],
            raw_sfreq=MEG_RAW_SFREQ,
            verbose="error",
        )

    def _get_epoch_from_raw(self, idx: int, verbose: object = None) -> np.ndarray:
        return self._make(int(self.selection[idx]))


def _epoch_maker(brain: Brain, drive_NF: np.ndarray, index: np.ndarray, key: str) -> Callable[[int], np.ndarray]:
    """Return a function that simulates trial i, (C, T), z-scored on its baseline; computed 64 trials at a time."""
    kernel, evoked_CT, order = response_kernel(brain), brain.evoked_CT.astype(np.float32), _ctf_info()[1]
    block: dict[int, np.ndarray] = {}

    def make(i: int) -> np.ndarray:
        start = i - i % 64
        if start not in block:
            block.clear()
            shown = index[start : start + 64]
            drive = np.where(
                shown[:, None] < 0, np.float32(0), drive_NF[shown]
            )  # a catch trial has the common response alone
            block[start] = (drive @ kernel).reshape(len(shown), *evoked_CT.shape) + evoked_CT
        x_CT = noisy_trials(brain, block[start][i - start], 1, f"{key}/{i}")[0, order].astype(np.float64)
        base = x_CT[:, :MEG_BASELINE]
        return (x_CT - base.mean(1, keepdims=True)) / base.std(1, keepdims=True)

    return make


@cache
def _ctf_info() -> tuple[mne.Info, np.ndarray]:
    """The simulated helmet with the published sensors' names, in their order, and the simulated row of each.

    Each published sensor's name goes to the simulated one that lies in its place on the flattened helmet.
    """
    layout = mne.channels.read_layout("CTF-275")
    names, place = zip(*[(n[:5], p[:2]) for n, p in zip(layout.names, layout.pos, strict=True)
                         if n[:5] not in MEG_ABSENT], strict=True)  # fmt: skip
    info = sensor_info("meg", MEG_SFREQ).copy()
    direction = np.stack([channel["loc"][:3] for channel in info["chs"]]) - HEAD_CENTRE
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    flat = direction[:, :2] / np.linalg.norm(direction[:, :2], axis=1, keepdims=True)
    flat *= np.arccos(direction[:, 2:])

    def scaled(x_C2: np.ndarray) -> np.ndarray:
        return (x_C2 - x_C2.mean(0)) / x_C2.std(0)

    _, row = linear_sum_assignment(cdist(scaled(np.asarray(place)), scaled(flat)))
    info.rename_channels({info.ch_names[i]: f"{name}-1609" for name, i in zip(names, row, strict=True)})
    order = np.argsort(info.ch_names)
    info = mne.pick_info(info, order)
    with info._unlock():
        info["highpass"], info["lowpass"], info["line_freq"] = 0.1, 40.0, 60.0
        info["description"] = SIMULATED_TITLE.lstrip("# ")
    return info, order
