"""Time the preparation of raw THINGS-EEG2 recordings, against the straightforward way, and the opening of trials.

    python eval/prepare_benchmark.py                                   # one subject at the published size: 9 GB, hours
    python eval/prepare_benchmark.py --scale 0.01 --fraction 0.3       # the same on a hundredth of it, in a minute

The straightforward way is what the official script does: MNE Epochs of each session, then a loop over the conditions
that calls scikit-learn's covariance. It takes hours, so it is timed on a smaller study with a fraction of the
conditions and as many presentations of each. Both ways prepare that study and must agree; the time is then scaled
linearly by the number of conditions, and loading the whole files is timed on one session.
Each measurement is a process of its own, whose peak memory is measured. The recordings are simulated ones at the
published size, kept in OUT for a second call. The table goes to OUT/table.md and table.json.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hvf.cli.options import parse_settings, script
from hvf.config import HvfError
from hvf.experiments.timing import (
    Clock,
    environment,
    in_process,
    markdown_table,
    print_table,
    resident_memory,
    run_stage,
)
from hvf.runs import check_writable, write_atomic, write_json
from hvf.schema.bounds import Count

CONCEPTS, IMAGES, TEST = 1654, 10, 200  # as published
TRAIN_REPEATS, TEST_REPEATS, SESSIONS = 4, 80, 4
SUBJECT = 8
LOSO_SUBJECTS = 9
BATCH, BATCHES = 1024, 8
MOST_REPEATS = {"training": 2, "test": 20}  # that the official script keeps of a session


@dataclass(frozen=True)
class Settings:
    """Time `hvf.data.things_eeg2.prepare.prepare` against the straightforward way, and the opening of nine subjects."""

    recipe: str = "hvf"  # official, nice, ubp or hvf
    scale: float = 1.0  # of the published number of concepts; 1 is the whole subject
    fraction: float = 0.01  # of the conditions, that the straightforward way is timed on
    dtype: Literal["float64", "float32"] = "float64"  # of the raw recordings; the published ones are float64
    jobs: Count | None = None  # threads of `prepare`; None: one per core
    out: Path = Path("runs/prepare_benchmark")  # recordings, trials and the table


def simulate(root: str, scale: float, fraction: float, dtype: str) -> dict[str, Any]:
    """Write raw recordings of a fraction of the conditions, unless they are there; their bytes and conditions."""
    from hvf.data.trials.provenance import is_simulated
    from hvf.simulation.things_eeg import write_things_eeg

    training = max(8, round(CONCEPTS * scale)) * IMAGES * fraction
    concepts, test = max(8, math.ceil(training / IMAGES)), max(8, round(TEST * scale * fraction))
    images = max(1, round(training / concepts))
    sizes: dict[str, Any] = {"train_concepts": concepts, "images_per_concept": images, "test_concepts": test}
    sizes |= {"train_repeats": TRAIN_REPEATS, "test_repeats": TEST_REPEATS, "sessions": SESSIONS}
    if not is_simulated(root):
        write_things_eeg(root, (SUBJECT,), **sizes, dtype=dtype)
    n_bytes = sum(path.stat().st_size for path in (Path(root) / "raw_data").rglob("*.npy"))
    return {"bytes": n_bytes, "conditions": {"training": concepts * images, "test": test}}


def prepare(root: str, out: str, recipe: str, jobs: int | None) -> dict[str, Any]:
    """hvf's preparation."""
    from hvf.data.things_eeg2 import prepare as things_eeg

    shutil.rmtree(out, ignore_errors=True)
    clock = Clock()
    with clock("all"):
        path = things_eeg.prepare(Path(root), Path(out), recipe, jobs=jobs)[0]
    return {**clock.totals(), "path": str(path), "bytes": path.stat().st_size}


def load(root: str) -> dict[str, Any]:
    """Opening one session and finding its events, in the straightforward way."""
    import mne  # noqa: F401 - its import is not timed

    clock = Clock()
    with clock("all"):
        for part in ("training", "test"):
            _raw(_files(Path(root), part)[0])
    return clock.totals()


def straightforward(root: str, out: str, recipe: str) -> dict[str, Any]:
    """Sessions one after the other through MNE, conditions one after the other through scikit-learn."""
    from scipy.linalg import fractional_matrix_power
    from sklearn.utils import shuffle

    from hvf.data.things_eeg2.preprocessing import SEED, get_recipe

    settings = get_recipe(recipe)
    clock = Clock()
    merged: dict[str, dict[int, list[np.ndarray]]] = {"training": {}, "test": {}}
    ch_names: list[str] = []
    for session in zip(*(_files(Path(root), part) for part in merged), strict=True):
        epoched: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        covariances = []
        for part, path in zip(merged, session, strict=True):
            raw, events = _raw(path)
            with clock(part):
                codes, x_IRCT, ch_names = _epochs(raw, events, settings, MOST_REPEATS[part])
                epoched[part] = codes, x_IRCT
                if part in settings.fitted_on:
                    covariances.append(_mean_covariance(x_IRCT, settings.normalisation))
        with clock("rest"):
            whitener = fractional_matrix_power(np.mean(covariances, axis=0), -0.5)
        for part, (codes, x_IRCT) in epoched.items():
            with clock(part):
                white_IRCT = (x_IRCT.swapaxes(2, 3) @ whitener).swapaxes(2, 3)
                for code, x_RCT in zip(codes.tolist(), white_IRCT, strict=True):
                    merged[part].setdefault(code, []).append(x_RCT)
    trials = []
    for conditions in merged.values():
        x_IRCT = np.stack([np.concatenate(conditions[code]) for code in sorted(conditions)])
        if settings.shuffled:
            x_IRCT = x_IRCT[:, shuffle(np.arange(x_IRCT.shape[1]), random_state=SEED)]
        kept = [ch_names.index(name) for name in settings.kept or settings.channels or ch_names]
        trials.append(x_IRCT[:, :, kept].reshape(-1, len(kept), x_IRCT.shape[3]))
    np.save(out, np.concatenate(trials).astype(settings.dtype))
    return clock.totals()


def loso(stores: Sequence[str]) -> dict[str, Any]:
    """Open nine subjects as one training set and take some batches of it."""
    from hvf.data.trials.trials import Trials

    before, start = resident_memory(), time.perf_counter()
    trials = Trials.concatenate([Trials.load(path).split("train") for path in stores])
    seconds, opened = time.perf_counter() - start, resident_memory()
    rng = np.random.default_rng(0)
    for _ in range(BATCHES):
        batch = trials.batch(rng.choice(len(trials), min(BATCH, len(trials)), replace=False))
    after = resident_memory()
    return {
        "seconds": seconds,
        "trials": len(trials),
        "bytes": sum(Path(path).stat().st_size for path in stores),
        "batch_bytes": batch.nbytes,
        "opened_bytes": opened["anonymous"] - before["anonymous"],
        "batches_bytes": after["anonymous"] - opened["anonymous"],
        "mapped_bytes": after["file"] - opened["file"],
    }


STAGES = {stage.__name__: stage for stage in (simulate, prepare, load, straightforward, loso)}


def _files(root: Path, part: str) -> list[Path]:
    return sorted((root / "raw_data" / f"sub-{SUBJECT:02d}").glob(f"ses-*/raw_eeg_{part}.npy"))


def _raw(path: Path) -> tuple[Any, np.ndarray]:
    import mne

    recording = np.load(path, allow_pickle=True).item()
    info = mne.create_info(recording["ch_names"], recording["sfreq"], recording["ch_types"], verbose="error")
    raw = mne.io.RawArray(recording["raw_eeg_data"], info, verbose="error")
    events = mne.find_events(raw, stim_channel="stim", verbose="error")
    return raw, events[events[:, 2] != 99999]


def _epochs(raw: Any, events: np.ndarray, settings: Any, most: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Codes (I,), epochs (I, R, C, T) and channels of one recording; the repeats by the seeded choice."""
    import mne
    from sklearn.utils import shuffle

    from hvf.data.things_eeg2.preprocessing import SEED

    picks = [n for n in raw.ch_names if n != "stim" and (settings.channels is None or n in settings.channels)]
    if settings.channels is None:
        picks = [name for name in picks if name[0] in "OP"]
    epochs: Any = mne.Epochs(
        raw.pick(picks), events, None, settings.tmin, settings.tmax, (None, 0), preload=True, verbose="error"
    )
    epochs.resample(settings.sfreq, verbose="error")
    x_ECT = epochs.get_data(verbose="error")
    # Where a recipe uses the epochs from later on, it drops samples after resampling.
    x_ECT = x_ECT[:, :, round((settings.tmin_kept - settings.tmin) * settings.sfreq) :]
    codes, counts = np.unique(epochs.events[:, 2], return_counts=True)
    r = min(most, int(counts.min()))
    chosen = []
    for code in codes:
        rows = np.flatnonzero(epochs.events[:, 2] == code)
        chosen.append(x_ECT[shuffle(rows, random_state=SEED, n_samples=r)])
    return codes, np.stack(chosen), picks


def _mean_covariance(x_IRCT: np.ndarray, mode: str) -> np.ndarray:
    """Over the repeats at each time point, or over the time points of each epoch; averaged, then over conditions."""
    from sklearn.discriminant_analysis import _cov

    covariances = []
    for x_RCT in x_IRCT:
        samples = np.moveaxis(x_RCT, 2, 0) if mode == "time" else x_RCT.swapaxes(1, 2)
        covariances.append(np.mean([_cov(x, shrinkage="auto") for x in samples], axis=0))
    return np.mean(covariances, axis=0)


def run(options: Settings) -> dict[str, Any]:
    """All measurements, by name. Raises HvfError before anything is measured if the options do not allow it."""
    from hvf.data.things_eeg2.preprocessing import get_recipe  # late: every stage's memory is measured

    if not 0 < options.scale <= 1 or not 0 < options.fraction <= 1:
        raise HvfError(f"--scale and --fraction lie between 0 and 1, not {options.scale} and {options.fraction}")
    if get_recipe(options.recipe).normalisation == "zscore":
        raise HvfError(f"the straightforward way is written for recipes that whiten, not for {options.recipe}")
    check_writable(options.out)
    options.out.mkdir(parents=True, exist_ok=True)

    measure = partial(in_process, __file__)
    raw = options.out / f"raw-{options.scale:g}-{options.dtype}"
    part, made = raw.with_name(f"{raw.name}-{options.fraction:g}"), options.out / "prepared"
    slow_path = options.out / "straightforward.npy"
    results: dict[str, Any] = {"simulate": measure("simulate", raw, options.scale, 1.0, options.dtype)}
    results["prepare"] = measure("prepare", raw, made / "whole", options.recipe, options.jobs)
    results["simulate part"] = measure("simulate", part, options.scale, options.fraction, options.dtype)
    results["load"] = measure("load", raw)
    results["straightforward"] = measure("straightforward", part, slow_path, options.recipe)
    results["prepare part"] = measure("prepare", part, made / "part", options.recipe, options.jobs)
    results["difference"] = _difference(slow_path, Path(results["prepare part"]["path"]))
    results["loso"] = measure("loso", _nine(Path(results["prepare"]["path"]), options.out / "loso"))
    return results | {"scaled": {unit: _scaled(results, unit) for unit in ("seconds", "cpu")}}


def _scaled(results: dict[str, Any], unit: str) -> float:
    """The straightforward way for all conditions: its time for the part, each kind by its number of conditions."""
    slow, part, whole = results["straightforward"][unit], *_conditions(results)
    conditions = sum(slow[name] * whole[name] / n for name, n in part.items())
    return conditions + slow["rest"] + results["load"][unit]["all"] * SESSIONS


def _conditions(results: dict[str, Any]) -> list[dict[str, int]]:
    """How many conditions the part and the whole have, by split."""
    return [results[name]["conditions"] for name in ("simulate part", "simulate")]


def _difference(slow: Path, fast: Path) -> float:
    """max|a - b| / max|b|; HvfError if it is more than the stored precision."""
    a, b = np.load(slow), np.load(fast)
    if a.shape != b.shape or a.dtype != b.dtype:
        raise HvfError(f"the two ways made {a.dtype} {a.shape} and {b.dtype} {b.shape}")
    difference = float(np.abs(a.astype(float) - b).max() / np.abs(b.astype(float)).max())
    if not difference <= np.finfo(a.dtype).eps:
        raise HvfError(f"the two ways differ by {difference:.1e} of the largest value")
    return difference


def _nine(store: Path, folder: Path) -> list[Path]:
    """The same trials under the names of nine subjects: links, as nine copies would only fill the disk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    paths = []
    for subject in range(1, LOSO_SUBJECTS + 1):
        path = folder / f"sub-{subject:02d}_trials.npy"
        path.hardlink_to(store)
        sidecar = store.with_suffix(".json").read_text(encoding="utf-8")
        path.with_suffix(".json").write_text(sidecar.replace(store.name.split("_")[0], path.name.split("_")[0], 1))
        paths.append(path)
    return paths


def rows(results: dict[str, Any], options: Settings) -> list[dict[str, Any]]:
    """The table: what was done; wall time, processor time, peak memory and speed-up."""
    part, whole = (sum(conditions.values()) for conditions in _conditions(results))
    slow, fast, nine, scaled = (results[name] for name in ("straightforward", "prepare", "loso", "scaled"))
    raw = f"{results['simulate']['bytes'] / 1e9:.2f} GB raw {options.dtype} to {fast['bytes'] / 1e9:.2f} GB"
    stored = f"{nine['trials']} training trials of {nine['bytes'] / 1e9:.2f} GB"

    def line(name: str, seconds: Any = "", cpu: Any = "", memory: Any = "", speed_up: Any = "") -> dict[str, Any]:
        return {"": name, "seconds": seconds, "CPU seconds": cpu, "memory": memory, "speed-up": speed_up}

    def stage(name: str, measured: dict[str, Any], slow_seconds: float = 0.0) -> dict[str, Any]:
        seconds, cpu = (sum(measured[unit].values()) for unit in ("seconds", "cpu"))
        return line(name, seconds, cpu, f"{measured['peak'] / 1e9:.2f} GB", slow_seconds / seconds or "")

    return [
        stage(f"straightforward, {part} of {whole} conditions", slow),
        stage(f"hvf prepare, these {part} conditions", results["prepare part"], sum(slow["seconds"].values())),
        stage("straightforward, loading one whole session", results["load"]),
        line(f"straightforward, all {whole} conditions, scaled", scaled["seconds"], scaled["cpu"], None),
        stage(f"hvf prepare, all {whole} conditions, {raw}", fast, scaled["seconds"]),
        line(f"open {LOSO_SUBJECTS} subjects, {stored}", nine["seconds"], memory=_more(nine["opened_bytes"])),
        line(f"then {BATCHES} batches of {nine['batch_bytes'] / 1e6:.0f} MB", memory=_more(nine["batches_bytes"])),
    ]


def _more(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.0f} MB more"


def notes(results: dict[str, Any], options: Settings) -> str:
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return (
        f"Simulated recordings, recipe {options.recipe}, scale {options.scale:g} of the published size, "
        f"{os.cpu_count()} cores, {threads} BLAS threads. On the {options.fraction:g} of the conditions that both ways "
        f"prepared, they differ by {results['difference']:.0e} of the largest value (stored precision). The "
        "straightforward way is timed on these and scaled linearly in the number of conditions, plus loading one "
        f"session times {SESSIONS}. Memory is the largest resident set of the process, mapped file pages included; in "
        "the last two rows it is what is added, without such pages, which the system drops at need. The "
        f"{LOSO_SUBJECTS} subjects are links to one file."
    )


@script
def main(arguments: Sequence[str] | None) -> None:
    """Measure, print and write the table."""
    options = parse_settings(Settings(), arguments)
    results = run(options) | {"environment": environment()}
    print_table("preparing THINGS-EEG2", rows(results, options))
    print(notes(results, options))
    write_json(options.out / "table.json", results)
    text = f"{markdown_table(rows(results, options))}\n\n{notes(results, options)}\n"
    write_atomic(options.out / "table.md", lambda path: path.write_text(text))
    print(f"wrote {options.out / 'table.md'}")


if __name__ == "__main__":
    sys.exit(run_stage(STAGES, *sys.argv[2:]) if sys.argv[1:2] == ["--stage"] else main())
