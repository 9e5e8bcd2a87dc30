"""The simulated study as files, in the layouts in which THINGS-EEG2 and THINGS-MEG are published.

For trying out what reads those: the same brains, images and noise as `hvf.simulation.world`, as a lab has them on disk.
A README.md in the root says that they are simulated (`hvf.data.trials.provenance.is_simulated`).

Letters: N images, C channels, T samples, F features, J sources.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
import scipy.fft
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from hvf.config import DataConfig, HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.montages import EEG_CHANNELS
from hvf.data.trials.provenance import SIMULATED_TITLE
from hvf.runs import check_writable, track
from hvf.simulation import rendering, world
from hvf.simulation.head import HEAD_CENTRE, sensor_info
from hvf.simulation.world import Brain, check_settings, concept_drive, low_level, simulated_brain, simulated_stimuli

# --- THINGS-EEG2 (Gifford et al. 2022; names and values as its raw files have them) -----------------------------------
EEG_SFREQ = 1000  # Hz
EEG_BAND = (0.01, 100)  # Hz, of the amplifier
SOA = 200  # ms from one image to the next
JITTER = 3  # ms, at most, of an onset
TARGET = 99999
TARGET_SHARE = 20  # one target among so many images
LEAD, TAIL = 1000, 1500  # samples before the first and after the last onset
RESPONSE = 800  # samples: the simulator's responses are over by then
DRIFT_RMS = 20e-6  # V, below 0.5 Hz
OFFSET_SD = 30e-6  # V, of each electrode

# --- THINGS-MEG (Hebart et al. 2023; OpenNeuro ds004212) --------------------------------------------------------------
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


def write_things_eeg(
    out: str | Path,
    subjects: Iterable[int] = (8,),
    *,
    train_concepts: int = 1200,
    images_per_concept: int = 5,
    test_concepts: int = 200,
    train_repeats: int = 4,
    test_repeats: int = 20,
    sessions: int = 4,
    dtype: str = "float64",
    seed: int = 0,
) -> Path:
    """Write the simulated EEG study as THINGS-EEG2 is published, and return its root `out`.

    `raw_data/sub-XX/ses-YY/raw_eeg_{training,test}.npy` (pickled dict; 63 channels in V and `stim`, 1000 Hz),
    `image_metadata.npy` and `image_set/{training,test}_images/NNNNN_concept/*.jpg`. Images follow each other every
    200 ms, so that responses overlap. Sessions 1 and 2 together show all training images, 3 and 4 show them again.
    The published sizes are 1654 concepts of 10 images, and 80 test repeats. `seed` draws the order and the noise.
    One session of one part is in memory at a time, and its pickle.

    Raises HvfError if `out` is in use or has not the room, or if the repeats do not divide among the sessions.
    """
    subjects, out = tuple(subjects), Path(out)
    data = _settings(
        subjects,
        study="simulated-eeg",
        train_concepts=train_concepts,
        images_per_concept=images_per_concept,
        test_concepts=test_concepts,
        train_repeats=train_repeats,
        test_repeats=test_repeats,
    )
    if sessions < 2 or sessions % 2 or train_repeats % (sessions // 2) or test_repeats % sessions:
        raise HvfError(
            f"{train_repeats} training and {test_repeats} test repeats do not divide among {sessions} sessions: give "
            "an even number of sessions, training repeats a multiple of half of it, test repeats of all of it"
        )
    if dtype not in ("float32", "float64"):
        raise HvfError(f"recordings are float32 or float64, not {dtype!r}")
    train, test = (_by_concept(images) for images in simulated_stimuli(data))
    events = len(train) * train_repeats + len(test) * test_repeats
    n_bytes = len(subjects) * events * SOA * 1.06 * 64 * np.dtype(dtype).itemsize + (len(train) + len(test)) * 4096
    with _new_folder(out, n_bytes) as root:
        _write_readme(root, "THINGS-EEG2", seed)
        _write_eeg_images(root, train, test)
        drive_NF = {"training": _drive(train), "test": _drive(test)}
        for subject, session in track([(i, s) for i in subjects for s in range(sessions)], "writing simulated EEG"):
            brain = simulated_brain(data.study, subject, float(EEG_SFREQ), 0.0, RESPONSE)
            kernel = _kernel(brain)
            folder = root / "raw_data" / f"sub-{subject:02d}" / f"ses-{session + 1:02d}"
            folder.mkdir(parents=True)
            half = np.array_split(_rng(seed, subject, session // 2).permutation(len(train)), 2)[session % 2]
            shown = {
                "training": np.repeat(half, train_repeats // (sessions // 2)),
                "test": np.repeat(np.arange(len(test)), test_repeats // sessions),
            }
            for part, images in shown.items():
                rng = _rng(seed, subject, session, part)
                recording = {
                    "raw_eeg_data": _recording(brain, kernel, drive_NF[part], _with_targets(images, rng), rng, dtype),
                    "ch_names": [*EEG_CHANNELS, "stim"],
                    "ch_types": ["eeg"] * len(EEG_CHANNELS) + ["stim"],
                    "sfreq": EEG_SFREQ,
                    "highpass": EEG_BAND[0],
                    "lowpass": EEG_BAND[1],
                }
                np.save(folder / f"raw_eeg_{part}.npy", np.array(recording, dtype=object))
                del recording
    return out


def write_things_meg(
    out: str | Path,
    subjects: Iterable[int] = (2,),
    *,
    train_concepts: int = 1200,
    images_per_concept: int = 5,
    test_concepts: int = 200,
    test_repeats: int = 12,
    sessions: int = 12,
    split_size: str = "2GB",
    seed: int = 0,
) -> Path:
    """Write the simulated MEG study as THINGS-MEG's preprocessed epochs are published, and return its root `out`.

    `derivatives/preprocessed/preprocessed_P{n}-epo.fif` and its split parts (271 sensors, -0.1 to 1.3 s, 200 Hz,
    z-scored on the baseline, metadata), `sourcedata/sample_attributes_P{n}.csv` and `Images/concept/*.jpg`. Every
    image of every concept, the test concepts included, is shown once (exp), a further image of each test concept
    `test_repeats` times (test), and one trial in eleven is a catch trial. The published sizes are 1654 concepts of 12
    images. `seed` draws the order and the noise. Memory: about four times `split_size`.

    Raises HvfError if `out` is in use or has not the room.
    """
    subjects, out = tuple(subjects), Path(out)
    data = _settings(
        subjects,
        study="simulated-meg",
        train_concepts=train_concepts,
        images_per_concept=images_per_concept,
        test_concepts=test_concepts,
        test_repeats=test_repeats,
    )
    if sessions < 1:
        raise HvfError(f"there must be a session, not {sessions}")
    train, _ = simulated_stimuli(data)
    # Exemplar 0 of a test concept is the simulated study's test image; the others are shown once, as exp.
    tested = world._rendered(rendering.concepts()[:test_concepts], images_per_concept + 1)
    shown = _meg_images(train, tested, images_per_concept, seed)
    n_trials = 1.1 * (len(shown) + test_concepts * (test_repeats - 1)) + sessions
    with _new_folder(out, len(subjects) * n_trials * 271 * MEG_SAMPLES * 4 + len(shown) * 4096) as root:
        _write_readme(root, "THINGS-MEG", seed)
        for row in track(shown.to_dict("records"), "writing the images"):
            images, i = (train, row["index"]) if row["index"] < len(train) else (tested, row["index"] - len(train))
            _save_image(images, i, root / "Images" / row["concept"] / Path(row["image_path"]).name)
        for folder in ("derivatives/preprocessed", "sourcedata"):
            (root / folder).mkdir(parents=True)
        drive_NF = np.concatenate([_drive(train), _drive(tested)])
        for subject in track(subjects, "writing simulated MEG"):
            trials = _meg_trials(shown, test_repeats, sessions, _rng(seed, subject, "order"))
            trials[METADATA].to_csv(root / "sourcedata" / f"sample_attributes_P{subject}.csv", index=False)
            brain = simulated_brain(data.study, subject, MEG_SFREQ, MEG_TMIN, MEG_SAMPLES)
            make = _epoch_maker(brain, drive_NF, trials["index"].to_numpy(), f"{seed}/{subject}")
            epochs = _SimulatedEpochs(trials, make)
            path = root / "derivatives" / "preprocessed" / f"preprocessed_P{subject}-epo.fif"
            epochs.save(path, split_size=split_size, verbose="error")
    return out


# --- both -------------------------------------------------------------------------------------------------------------


def _settings(subjects: Sequence[int], **settings: Any) -> DataConfig:
    """The study's settings, checked for every subject."""
    if not subjects or len(set(subjects)) < len(subjects):
        raise HvfError(f"name each subject once, and at least one, not {list(subjects)}")
    for subject in subjects:
        check_settings(DataConfig(subject=subject, **settings))
    return DataConfig(subject=subjects[0], **settings)


def _rng(*key: object) -> np.random.Generator:
    """A generator for one thing alone, so that a subject's files do not hang on which others are written."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.SFC64(int.from_bytes(digest[:16], "big")))


def _drive(images: ImageSet) -> np.ndarray:
    """What drives the brain, (N, F), in the order of `_kernel`."""
    return np.concatenate([low_level(images), concept_drive(images)], axis=1)


def _kernel(brain: Brain) -> np.ndarray:
    """The response to each feature, (F, C · T), in V or T."""
    kernel = np.concatenate([brain.early_FCT, brain.late_DCT])
    kernel[np.abs(kernel) < 1e-25] = 0  # the tails of a Gaussian: numbers below 1e-38 multiply many times slower
    return kernel.reshape(len(kernel), -1)


def _write_readme(root: Path, dataset: str, seed: int) -> None:
    text = f"""{SIMULATED_TITLE}

Written by `hvf.simulation.raw_files` (seed {seed}) in the layout in which {dataset} is published, to try out what reads
it: rendered images, dipoles in a spherical head, simulated noise. Figures obtained from it are simulated ones.
"""
    (root / "README.md").write_text(text, encoding="utf-8")


def _file_name(concept: str, exemplar: int, test: bool = False) -> str:
    """As THINGS names its files: `b` for the first, `s` for later ones, `n` for some of the last."""
    return f"{concept}_{exemplar:02d}{'n' if test else 'b' if exemplar == 1 else 's'}.jpg"


def _save_image(images: ImageSet, index: int, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images[index].save(path, quality=95, subsampling=0)


@contextlib.contextmanager
def _new_folder(out: Path, n_bytes: float) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends well, and is removed when it does not."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise HvfError(f"{out} exists and is not empty: choose another folder")
    check_writable(out)
    missing = [parent for parent in out.absolute().parents if not parent.exists()]
    free = shutil.disk_usage(next(p for p in out.absolute().parents if p.exists())).free
    if free < n_bytes * 1.02:
        raise HvfError(f"{out} needs {n_bytes / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB left")
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(out)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            raise HvfError(f"cannot write {out}: {error.strerror or error}") from error
        raise


# --- THINGS-EEG2 ------------------------------------------------------------------------------------------------------


def _by_concept(images: ImageSet) -> ImageSet:
    """The images in the order of their event codes: concepts sorted by name, each one's images together."""
    return images.subset(sorted(range(len(images)), key=lambda i: (images.concepts[i], i)))


def _write_eeg_images(root: Path, train: ImageSet, test: ImageSet) -> None:
    """The pictures and image_metadata.npy. Folders are numbered within a part; `_THINGS` within all concepts."""
    things = {str(name): i for i, name in enumerate(np.unique((*train.concepts, *test.concepts)), 1)}
    metadata: dict[str, list[str]] = {}
    for part, folder, images in (("train", "training_images", train), ("test", "test_images", test)):
        _, first, number = np.unique(images.concepts, return_index=True, return_inverse=True)
        folders = [f"{k + 1:05d}_{name}" for k, name in zip(number, images.concepts, strict=True)]
        files = [_file_name(name, int(i - first[number[i]]) + 1) for i, name in enumerate(images.concepts)]
        for i in track(range(len(images)), f"writing the {part} images"):
            _save_image(images, i, root / "image_set" / folder / folders[i] / files[i])
        metadata[f"{part}_img_concepts"] = folders
        metadata[f"{part}_img_concepts_THINGS"] = [f"{things[name]:05d}_{name}" for name in images.concepts]
        metadata[f"{part}_img_files"] = files
    np.save(root / "image_metadata.npy", np.array(metadata, dtype=object))


def _with_targets(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The images in random order with targets (-1) among them."""
    return rng.permutation(np.concatenate([images, np.full(max(1, len(images) // TARGET_SHARE), -1)]))


def _recording(
    brain: Brain, kernel: np.ndarray, drive_NF: np.ndarray, shown: np.ndarray, rng: np.random.Generator, dtype: str
) -> np.ndarray:
    """One part of a session, (C + 1, samples): noise, the response to each image shown, and `stim`.

    Responses are computed at 1000 Hz, anew each time an image is shown (26 MFLOP), a hundred at once: a matrix product
    costs less than to keep them all.
    """
    onset = LEAD + np.arange(len(shown)) * SOA + rng.integers(-JITTER, JITTER + 1, len(shown))
    gain = 1 + world.TRIAL_GAIN_SD * rng.standard_normal(len(shown), dtype=np.float32)
    x = np.zeros((len(brain.ch_names) + 1, len(shown) * SOA + LEAD + TAIL), dtype)
    _add_noise(x[:-1], brain, rng)
    x[-1, onset] = np.where(shown < 0, TARGET, shown + 1)
    evoked_CT = brain.evoked_CT.astype(np.float32)
    for start in range(0, len(shown), 100):
        images, at = shown[start : start + 100], onset[start : start + 100]
        drive = np.where(images[:, None] < 0, np.float32(0), drive_NF[images])  # a target: the common response alone
        sum_CT = np.zeros((len(evoked_CT), at[-1] - at[0] + RESPONSE), np.float32)
        for response_CT, g, i in zip(
            (drive @ kernel).reshape(-1, *evoked_CT.shape), gain[start : start + 100], at - at[0], strict=True
        ):
            sum_CT[:, i : i + RESPONSE] += g * (response_CT + evoked_CT)
        x[:-1, at[0] : at[-1] + RESPONSE] += sum_CT
    return x


def _add_noise(x_CT: np.ndarray, brain: Brain, rng: np.random.Generator) -> None:
    """Fill the channels with the simulator's noise made continuous, with drifts and offsets; drawn bin by bin."""
    n = int(scipy.fft.next_fast_len(x_CT.shape[1], real=True) or 0)
    hz = np.fft.rfftfreq(n, 1 / EEG_SFREQ)

    def bins(low: float, high: float, power: np.ndarray | None = None, *, j: int = 1) -> tuple[slice, np.ndarray]:
        """The band's slice and, for `j` signals of unit variance, random bins of that power (white by default)."""
        band = slice(*np.searchsorted(hz, (low, high)))
        density = np.ones(band.stop - band.start) if power is None else power[band]
        drawn = rng.standard_normal((j, len(density), 2), dtype=np.float32).view(np.complex64)[..., 0]
        return band, drawn * (n / 2 * np.sqrt(density / density.sum())).astype(np.float32)

    brains = slice(0, int(np.searchsorted(hz, 40.0)))
    spectrum_CF = np.zeros((len(x_CT), brains.stop), np.complex64)
    floor = np.maximum(hz, EEG_BAND[0])
    # The two densities of `simulated_brain`.
    for field_CJ, power in (
        (brain.background_CJ, 1 / np.maximum(hz, 1.0) ** 1.4),
        (brain.alpha_CJ, np.exp(-(((hz - 10.0) / 1.5) ** 2))),
    ):
        band, drawn = bins(0.5, 40.0, power, j=field_CJ.shape[1])
        spectrum_CF[:, band] += field_CJ @ drawn
    for x_T, brain_F in zip(x_CT, spectrum_CF, strict=True):
        full = np.zeros(len(hz), np.complex64)
        full[brains] = brain_F
        band, drawn = bins(0.0, EEG_BAND[1])
        full[band] += drawn[0] * np.float32(brain.sensor_sd * 2**0.5)  # the simulator's own is white up to 50 Hz
        band, drawn = bins(EEG_BAND[0], 0.5, 1 / floor**2)
        full[band] += drawn[0] * np.float32(DRIFT_RMS)
        x_T[:] = scipy.fft.irfft(full, n)[: len(x_T)]
        x_T += OFFSET_SD * rng.standard_normal()


# --- THINGS-MEG -------------------------------------------------------------------------------------------------------


def _meg_images(train: ImageSet, tested: ImageSet, per_concept: int, seed: int) -> pd.DataFrame:
    """All images in the order of `things_image_nr`: concepts sorted by name, each one's files sorted.

    `index` is the row among the training images followed by the tested concepts' images.
    """
    names, first = np.unique((*train.concepts, *tested.concepts), return_index=True)
    to_test = list(dict.fromkeys(tested.concepts))
    # Drawn: in the published files, too, test_image_nr is no rank.
    test_nr = dict(zip(to_test, (_rng(seed, "test images").permutation(len(to_test)) + 1).tolist(), strict=True))
    rows = []
    for category, (name, start) in enumerate(zip(names.tolist(), first.tolist(), strict=True), 1):
        for exemplar in range(1, per_concept + 1 + (name in test_nr)):
            test = exemplar > per_concept
            file = _file_name(name, exemplar, test)
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
    """Epochs made when they are asked for: while a split file is written, one part of it is in memory."""

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
    """A function that makes trial i, (C, T), z-scored on its baseline; responses are computed for 64 trials at once."""
    kernel, evoked_CT, order = _kernel(brain), brain.evoked_CT.astype(np.float32), _ctf_info()[1]
    block: dict[int, np.ndarray] = {}

    def make(i: int) -> np.ndarray:
        start = i - i % 64
        if start not in block:
            block.clear()
            some = index[start : start + 64]
            drive = np.where(
                some[:, None] < 0, np.float32(0), drive_NF[some]
            )  # a catch trial has the common response alone
            block[start] = (drive @ kernel).reshape(len(some), *evoked_CT.shape) + evoked_CT
        x_CT = world._noisy(brain, block[start][i - start], 1, f"{key}/{i}")[0, order].astype(np.float64)
        base = x_CT[:, :MEG_BASELINE]
        return (x_CT - base.mean(1, keepdims=True)) / base.std(1, keepdims=True)

    return make


@cache
def _ctf_info() -> tuple[mne.Info, np.ndarray]:
    """The simulated helmet under the names of the published sensors, in their order; and each one's simulated row.

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
