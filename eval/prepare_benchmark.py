"""How long raw THINGS-EEG2 recordings take to become trials, beside the straightforward way, and how fast they open.

    python eval/prepare_benchmark.py                                   # one subject at the published size: 9 GB, hours
    python eval/prepare_benchmark.py --scale 0.01 --fraction 0.3       # the same on a hundredth of it, in a minute

The straightforward way is what the official script does: MNE Epochs of each session, then a loop over the conditions
that calls scikit-learn's covariance. It takes hours, so it is timed on a part: a fraction of the conditions, cut out of
the recordings with all their presentations into a tree of its own. Both ways prepare that tree and must agree; the
time is then scaled linearly by the number of conditions, and loading the whole files is timed on one session.
Each measurement is a process of its own, whose peak memory the system tells. The recordings are simulated ones at the
published size, kept in OUT for a second call. The table goes to OUT/table.md and table.json.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hvf.cli.options import parse_settings, run_script
from hvf.config import HvfError
from hvf.runs import check_writable, write_atomic, write_json

CONCEPTS, IMAGES, TEST = 1654, 10, 200  # as published
TRAIN_REPEATS, TEST_REPEATS, SESSIONS = 4, 80, 4
SUBJECT = 8
LOSO_SUBJECTS = 9
BATCH, BATCHES = 1024, 8
WINDOW = (250, 1250)  # samples around an onset that a part keeps
MOST_REPEATS = {"training": 2, "test": 20}  # that the official script keeps of a session


@dataclass(frozen=True)
class Settings:
    """Time `hvf.data.things_eeg2.prepare.prepare` against the straightforward way, and the opening of nine subjects."""

    recipe: str = "hvf"  # official, nice, ubp or hvf
    scale: float = 1.0  # of the published number of concepts; 1 is the whole subject
    fraction: float = 0.01  # of the conditions, that the straightforward way is timed on
    dtype: str = "float64"  # of the raw recordings; the published ones are float64
    jobs: int | None = None  # threads of `prepare`; None: one per core
    out: Path = Path("runs/prepare_benchmark")  # recordings, trials and the table


class Clock:
    """Seconds by the wall and of all threads' processor time, added up by name over `with clock(name)` blocks."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - wall
        self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu

    def told(self) -> dict[str, dict[str, float]]:
        return {"seconds": self.seconds, "cpu": self.cpu}


# --- the stages: each runs in a process of its own and returns what JSON can say --------------------------------------


def simulate(root: str, scale: float, dtype: str) -> dict[str, Any]:
    """Write the raw recordings, unless they are there."""
    from hvf.data.trials.provenance import is_simulated
    from hvf.simulation.things_eeg import write_things_eeg

    concepts, test = max(8, round(CONCEPTS * scale)), max(8, round(TEST * scale))
    if not is_simulated(root):
        write_things_eeg(
            root,
            (SUBJECT,),
            train_concepts=concepts,
            images_per_concept=IMAGES,
            test_concepts=test,
            train_repeats=TRAIN_REPEATS,
            test_repeats=TEST_REPEATS,
            sessions=SESSIONS,
            dtype=dtype,
        )
    return {"bytes": sum(path.stat().st_size for path in (Path(root) / "raw_data").rglob("*.npy"))}


def cut(root: str, part_root: str, fraction: float) -> dict[str, Any]:
    """Cut some conditions with all their presentations out of the recordings, as a tree of the same layout.

    They are taken alike from every way in which images spread over the sessions, so that each session shows some.
    """
    source, out = Path(root), Path(part_root)
    shutil.rmtree(out, ignore_errors=True)
    metadata = np.load(source / "image_metadata.npy", allow_pickle=True).item()
    counts: dict[str, list[int]] = {}
    for part, short in (("training", "train"), ("test", "test")):
        shown = {path: _events(path) for path in _files(source, part)}
        conditions = len(metadata[f"{short}_img_files"])
        codes = _spread([codes for _, codes in shown.values()], max(8, round(conditions * fraction)))
        for path, (onsets, events) in shown.items():
            recording = np.load(path, allow_pickle=True).item()
            chosen = np.isin(events, codes)
            before, after = WINDOW
            pieces = [recording["raw_eeg_data"][:, i - before : i + after].copy() for i in onsets[chosen]]
            for piece, code in zip(pieces, np.searchsorted(codes, events[chosen]) + 1, strict=True):
                piece[-1] = 0
                piece[-1, before] = code
            target = out / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            np.save(target, np.array({**recording, "raw_eeg_data": np.concatenate(pieces, axis=1)}, dtype=object))
            del recording
        for key in [key for key in metadata if key.startswith(short)]:
            metadata[key] = [metadata[key][code - 1] for code in codes]
        counts[part] = [len(codes), conditions]
    np.save(out / "image_metadata.npy", np.array(metadata, dtype=object))
    return {"counts": counts}


def prepare(root: str, out: str, recipe: str, jobs: int | None) -> dict[str, Any]:
    """What the library does."""
    from hvf.data.things_eeg2 import prepare as things_eeg

    shutil.rmtree(out, ignore_errors=True)
    clock = Clock()
    with clock("all"):
        path = things_eeg.prepare(Path(root), Path(out), recipe, jobs=jobs)[0]
    return {**clock.told(), "path": str(path), "bytes": path.stat().st_size}


def load(root: str) -> dict[str, Any]:
    """What the straightforward way needs to open one session and find its events."""
    import mne  # noqa: F401 - not to be timed

    clock = Clock()
    with clock("all"):
        for part in ("training", "test"):
            _raw(_files(Path(root), part)[0])
    return clock.told()


def straightforward(root: str, out: str, recipe: str) -> dict[str, Any]:
    """Sessions one after the other through MNE, conditions one after the other through scikit-learn."""
    from scipy.linalg import fractional_matrix_power
    from sklearn.utils import shuffle

    from hvf.data.things_eeg2.preprocessing import SEED, get_recipe

    settings = get_recipe(recipe)
    if settings.normalisation == "zscore":
        raise HvfError(f"the straightforward way is written for recipes that whiten, not for {recipe}")
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
    return clock.told()


def loso(stores: Sequence[str]) -> dict[str, Any]:
    """Open nine subjects as one training set and take some batches of it."""
    from hvf.data.trials.trials import Trials

    before, start = _resident(), time.perf_counter()
    trials = Trials.concatenate([Trials.load(path).split("train") for path in stores])
    seconds, opened = time.perf_counter() - start, _resident()
    rng = np.random.default_rng(0)
    batch = trials.batch(rng.choice(len(trials), min(BATCH, len(trials)), replace=False))
    for _ in range(BATCHES - 1):
        batch = trials.batch(rng.choice(len(trials), min(BATCH, len(trials)), replace=False))
    used = {kind: _resident()[kind] - opened[kind] for kind in opened}
    return {
        "seconds": seconds,
        "trials": len(trials),
        "bytes": sum(Path(path).stat().st_size for path in stores),
        "batch_bytes": batch.nbytes,
        "opened_bytes": opened["anonymous"] - before["anonymous"],
        "batches_bytes": used["anonymous"],
        "mapped_bytes": used["file"],
    }


STAGES: dict[str, Callable[..., dict[str, Any]]] = {
    stage.__name__: stage for stage in (simulate, cut, prepare, load, straightforward, loso)
}


def _files(root: Path, part: str) -> list[Path]:
    return sorted((root / "raw_data" / f"sub-{SUBJECT:02d}").glob(f"ses-*/raw_eeg_{part}.npy"))


def _events(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Samples and codes of the events of a recording of our own."""
    stim = np.load(path, allow_pickle=True).item()["raw_eeg_data"][-1]
    onsets = np.flatnonzero(stim)
    return onsets, stim[onsets].astype(int)


def _spread(shown: Sequence[np.ndarray], n: int) -> np.ndarray:
    """`n` codes, ascending, in turn from each group of codes that are shown in the same sessions."""
    sessions = [set(codes.tolist()) for codes in shown]
    groups: dict[tuple[bool, ...], list[int]] = {}
    for code in sorted(set().union(*sessions) - {99999}):
        groups.setdefault(tuple(code in codes for codes in sessions), []).append(code)
    turns = sorted(turn for group in groups.values() for turn in enumerate(group))
    return np.sort([code for _, code in turns[:n]])


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


def _resident() -> dict[str, int]:
    """Memory of this process in bytes: its own, and what is mapped from files and can be dropped at any time."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {"anonymous": 0, "file": 0}
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
    return {"anonymous": kilobytes["RssAnon"] * 1024, "file": kilobytes["RssFile"] * 1024}


# --- the whole --------------------------------------------------------------------------------------------------------


def in_process(stage: str, *arguments: Any) -> dict[str, Any]:
    """Run a stage in a process of its own; what it returns, with `peak`, the most memory it held, in bytes."""
    command = [sys.executable, __file__, "--stage", stage, json.dumps(arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "HVF_QUIET": "1"}) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise HvfError(f"stage {stage} failed: {lines[-1] if lines else 'it was killed, perhaps for memory'}")
    return {**json.loads(lines[-1]), "peak": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)}


def run(options: Settings) -> dict[str, Any]:
    """All measurements, by name."""
    if not 0 < options.scale <= 1 or not 0 < options.fraction <= 1:
        raise HvfError(f"--scale and --fraction lie between 0 and 1, not {options.scale} and {options.fraction}")
    check_writable(options.out)
    options.out.mkdir(parents=True, exist_ok=True)
    raw, part, made = (options.out / name for name in (f"raw-{options.scale:g}-{options.dtype}", "part", "prepared"))
    found: dict[str, Any] = {"simulate": in_process("simulate", str(raw), options.scale, options.dtype)}
    found["prepare"] = in_process("prepare", str(raw), str(made / "whole"), options.recipe, options.jobs)
    found["cut"] = in_process("cut", str(raw), str(part), options.fraction)
    found["load"] = in_process("load", str(raw))
    slow_path = options.out / "straightforward.npy"
    found["straightforward"] = in_process("straightforward", str(part), str(slow_path), options.recipe)
    found["prepare part"] = in_process("prepare", str(part), str(made / "part"), options.recipe, options.jobs)
    found["difference"] = _difference(slow_path, Path(found["prepare part"]["path"]))
    stores = _nine(Path(found["prepare"]["path"]), options.out / "loso")
    found["loso"] = in_process("loso", [str(path) for path in stores])
    found["scaled"] = {unit: _scaled(found, unit) for unit in ("seconds", "cpu")}
    return found


def _scaled(found: dict[str, Any], unit: str) -> float:
    """The straightforward way for all conditions: its time for the part, each kind by its number of conditions."""
    part = found["straightforward"][unit]
    conditions = sum(part[name] * whole / of for name, (of, whole) in found["cut"]["counts"].items())
    return conditions + part["rest"] + found["load"][unit]["all"] * SESSIONS


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


def rows(found: dict[str, Any], options: Settings) -> list[tuple[str, ...]]:
    """What; seconds, processor seconds, speed-up and peak memory, as the table shows them."""
    of, whole = (sum(column) for column in zip(*found["cut"]["counts"].values(), strict=True))
    fast, nine, scaled = found["prepare"], found["loso"], found["scaled"]
    raw = f"{found['simulate']['bytes'] / 1e9:.2f} GB raw {options.dtype} to {fast['bytes'] / 1e9:.2f} GB"
    speed_up = scaled["seconds"] / fast["seconds"]["all"]
    part_up = sum(found["straightforward"]["seconds"].values()) / found["prepare part"]["seconds"]["all"]
    stored = f"{nine['trials']} training trials of {nine['bytes'] / 1e9:.2f} GB"
    batches = f"then {BATCHES} batches of {nine['batch_bytes'] / 1e6:.0f} MB"
    more = {name: f"{nine[name] / 1e6:.0f} MB more" for name in ("opened_bytes", "batches_bytes")}
    return [
        (f"straightforward, {of} of {whole} conditions", *_times(found["straightforward"]), "1"),
        (f"hvf prepare, these {of} conditions", *_times(found["prepare part"]), f"{part_up:.1f}"),
        ("straightforward, loading one whole session", *_times(found["load"]), ""),
        (
            f"straightforward, all {whole} conditions, scaled",
            f"{scaled['seconds']:.1f}",
            f"{scaled['cpu']:.1f}",
            "not measured",
            "1",
        ),
        (f"hvf prepare, all {whole} conditions, {raw}", *_times(fast), f"{speed_up:.1f}"),
        (f"open {LOSO_SUBJECTS} subjects, {stored}", f"{nine['seconds']:.2f}", "", more["opened_bytes"], ""),
        (batches, "", "", more["batches_bytes"], ""),
    ]


def _times(measured: dict[str, Any]) -> tuple[str, str, str]:
    seconds, cpu = (sum(measured[unit].values()) for unit in ("seconds", "cpu"))
    return f"{seconds:.1f}", f"{cpu:.1f}", f"{measured['peak'] / 1e9:.2f} GB"


def notes(found: dict[str, Any], options: Settings) -> str:
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return (
        f"Simulated recordings, recipe {options.recipe}, scale {options.scale:g} of the published size, "
        f"{os.cpu_count()} cores, {threads} BLAS threads. On the {options.fraction:g} of the conditions that both ways "
        f"prepared, they differ by {found['difference']:.0e} of the largest value (stored precision). The "
        "straightforward way is timed on that part and scaled linearly in the number of conditions, plus loading one "
        f"session times {SESSIONS}. Memory is the largest resident set of the process, file pages that it maps "
        "included; in the last two rows it is what is added, without such pages, which the system drops at need. The "
        f"{LOSO_SUBJECTS} subjects are links to one file."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the table."""
    options = parse_settings(Settings(), arguments)
    found = run(options)
    heads = ("", "seconds", "CPU seconds", "memory", "speed-up")
    table = Table(*heads)
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for row in rows(found, options):
        table.add_row(*row)
        lines.append("| " + " | ".join(row) + " |")
    Console().print(table)
    print(notes(found, options))
    write_json(options.out / "table.json", found)
    text = "\n".join([*lines, "", notes(found, options), ""])
    write_atomic(options.out / "table.md", lambda path: path.write_text(text))
    print(f"wrote {options.out / 'table.md'}")


def stage(name: str, arguments: str) -> int:
    """One measurement, for the process that `in_process` starts: the last line printed is its result."""
    try:
        print(json.dumps(STAGES[name](*json.loads(arguments))))
    except HvfError as error:
        print(error)
        return 2
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stage"]:
        sys.exit(stage(*sys.argv[2:4]))
    sys.exit(run_script(main))
