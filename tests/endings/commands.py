"""Every command that writes, on data so small that it can be ended at twenty moments: what to call, and what it leaves.

A `World` is the data; `COMMANDS` says how each command is called on it, into a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import ftfy  # noqa: F401
import mne
import numpy as np
import pandas as pd
import torch
from PIL import Image

import hvf.data.recordings.single
import hvf.decoder
import hvf.evaluation.pictures
import hvf.experiments.decoding
import hvf.experiments.new_person
import hvf.experiments.stages
import hvf.report.answers  # noqa: F401  (all of these: in the parent, so that no job waits for them)
from hvf.cli import main
from hvf.data.trials.trials import Trials
from hvf.runs import code_version
from tests.script_module import load_script

Image.init()
code_version()  # kept: commits that are made meanwhile are none of a job's business
ROOT = Path(__file__).resolve().parents[2]
N, TEST, SIDE = 24, 6, 24
NAMES = [f"im{i:02}" for i in range(N)]
TIMES = re.compile(r'("(?:\w*seconds\w*|images_per_second|time|date|written)"): [^,\n}]+')


@dataclass(frozen=True)
class Ended:
    """How a job ended: its exit code (negative: the signal), what it said, and how long it took (s)."""

    code: int
    said: str
    seconds: float


class Job:
    """A job in a forked child, with a cache of its own; imports are shared, so that it begins at once."""

    def __init__(self, work: Callable[[], int], cache: Path, first: Callable[[], object] = lambda: None) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (read when the job has ended)
        self._began = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._child(work, cache, first)

    def _child(self, work: Callable[[], int], cache: Path, first: Callable[[], object]) -> None:
        code = 70
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for stream in (1, 2):
                os.dup2(self._log.fileno(), stream)
            sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
            os.environ |= {"HVF_CACHE": str(cache), "HVF_QUIET": "1"}
            torch.set_num_threads(1)
            first()
            code = work()
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self, seconds: float = 600.0) -> Ended | None:
        """How it ended; None if it has not after so many seconds."""
        until = time.monotonic() + seconds
        while not (done := os.waitpid(self.pid, os.WNOHANG))[0]:
            if time.monotonic() >= until:
                return None
            time.sleep(0.005)
        self._log.seek(0)
        said = self._log.read().decode("utf-8", "replace")
        return Ended(os.waitstatus_to_exitcode(done[1]), said, time.monotonic() - self._began)

    def end(self, number: int) -> Ended:
        """Send a signal, and wait."""
        os.kill(self.pid, number)
        ended = self.wait()
        assert ended is not None, "a signal did not end it"
        return ended


def through(work: Callable[[], int], cache: Path, first: Callable[[], object] = lambda: None) -> Ended:
    """A job that comes to its end."""
    ended = Job(work, cache, first).wait()
    assert ended is not None, "not done after ten minutes"
    return ended


@dataclass(frozen=True)
class World:
    """Pictures, responses, a recording, and what earlier commands have left of them."""

    path: Path

    @cached_property
    def pictures(self) -> Path:
        return self._noise("pictures", 0)

    @cached_property
    def drawn(self) -> Path:
        return self._noise("drawn", 2)

    def _noise(self, name: str, seed: int) -> Path:
        """A folder of a picture for each name."""
        folder, rng = self.path / name, np.random.default_rng(seed)
        folder.mkdir()
        for stem in NAMES:
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{stem}.png")
        return folder

    @cached_property
    def people(self) -> Path:
        """Prepared trials of three people."""
        folder, channels = self.path / "people", [f"E{i}" for i in range(5)]
        splits = ["train"] * (N - TEST) + ["test"] * TEST
        for number in (1, 2, 3):
            x_NCT = np.random.default_rng(number).standard_normal((N, 5, 16)).astype(np.float32)
            trials = Trials(
                x_NCT, NAMES, f"sub-{number:02}", 100.0, 0.0, channels, "eeg", splits=splits, concepts=NAMES
            )
            trials.save(folder / f"sub-{number:02}_trials.npy")
        return folder

    @cached_property
    def trials(self) -> Path:
        return self.people / "sub-01_trials.npy"

    @cached_property
    def of_others(self) -> Path:
        """A decoder trained on two of them."""
        words = ("--trials", self.people, "--images", self.pictures, "--protocol", "loso", "--subject", 1, "--seeds", 1)
        out = self.path / "loso"
        ended = through(script("brain_training/train.py", *words, "--epochs", 2, "--out", out), self.path / "cache")
        assert ended.code == 0, ended.said
        return out / "seed-0"

    @cached_property
    def recording(self) -> Path:
        folder = self.path / "recording"
        folder.mkdir()
        x_CT = np.random.default_rng(3).standard_normal((4, 6000)) * 1e-5
        raw = mne.io.RawArray(x_CT, mne.create_info(["Pz", "Oz", "O1", "O2"], 200.0, "eeg"), verbose="error")
        raw.save(folder / "raw.fif", verbose="error")
        onsets = [0.5 + i for i in range(N)]
        table = pd.DataFrame({"onset": onsets, "duration": 0.1, "image": [f"{name}.png" for name in NAMES]})
        table.to_csv(folder / "events.csv", index=False)
        return folder

    @cached_property
    def run(self) -> Path:
        ended = through(COMMANDS["reconstruct"](self, self.path / "run"), self.path / "cache")
        assert ended.code == 0, ended.said
        return self.path / "run"

    def data(self) -> list[str]:
        return ["--trials", str(self.trials), "--images", str(self.pictures)]


Work = Callable[[], int]


def hvf(*words: object) -> Work:
    return lambda: main([str(word) for word in words])


def into_cache(cache: Path, *words: object) -> Work:
    """A command that writes into the cache alone."""
    return lambda: (os.environ.update(HVF_CACHE=str(cache)), hvf(*words)())[1]


def script(path: str, *words: object) -> Work:
    module = load_script(ROOT / path)
    return lambda: module.main([str(word) for word in words])


COMMANDS: dict[str, Callable[[World, Path], Work]] = {
    "train": lambda w, out: hvf("train", *w.data(), "--epochs", 3, "--out", out),
    "retrieve": lambda w, out: hvf("retrieve", *w.data(), "--epochs", 2, "--out", out),
    "reconstruct": lambda w, out: hvf("reconstruct", *w.data(), "--epochs", 2, "--steps", 1, "--out", out),
    "decode": lambda w, out: hvf("decode", w.run, "--trials", w.trials, "--gallery", w.pictures, "--out", out),
    "adapt": lambda w, out: hvf("adapt", w.of_others, *w.data(), "--fraction", 0.5, "--adapt.epochs", 2, "--out", out),
    "embed": lambda w, out: into_cache(out, "embed", "--images", w.pictures, "--targets", "vae:mini"),
    "evaluate": lambda w, out: hvf(
        "evaluate", "--recons", w.drawn, "--images", w.pictures, "--metrics", "pixcorr", "--out", out
    ),
    "report": lambda w, out: hvf("report", w.run, "--out", out / "page.html"),
    "data prepare": lambda w, out: hvf(
        "data", "prepare", "recording", "--file", w.recording / "raw.fif", "--events", w.recording / "events.csv",
        "--l-freq", 0, "--out", out,
    ),
    "prepare.py": lambda w, out: script(
        "prior_training/prepare.py", "--images", w.pictures, "--shard-size", 6, "--batch-size", 6, "--workers", 1,
        "--out", out,
    ),
    "benchmark.py": lambda w, out: script(
        "eval/benchmark.py", "--methods", "ridge", "nice", *w.data(), "--epochs", 1, "--out", out
    ),
}  # fmt: skip


def tree(folder: Path) -> dict[str, str]:
    """Every file of a folder with a digest of its content; times that JSON files tell are left out."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.suffix in (".json", ".jsonl"):
            data = TIMES.sub(r"\1", data.decode()).replace(str(folder), "OUT").encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()[:16]
    return found


def hidden(*folders: Path) -> list[str]:
    """Files that somebody was writing."""
    return sorted(str(path) for folder in folders for path in folder.rglob(".*"))


def told(ended: Ended) -> str:
    """For messages."""
    return json.dumps({"code": ended.code, "said": ended.said[-2000:]}, indent=1)
