"""How fast a brain encoder trains, and in how much memory, on random numbers of a real study's size: no download.

    python brain_training/benchmark.py [--size paper|small] [--threads 2] [--together 4] [--table] [--memory] [--out D]

Beside the steps of `hvf.alignment.fit` stands, on the same device, in the same run and in turn with them, the
straightforward loop: the peers' way, with a Dataset of items, a DataLoader's default collation, targets fused in the
step, and a plain AdamW. Below both stand the matrix products of our step alone, replayed: no loop can be faster. Where
the machine is shared, the processor time tells more than the wall's, and ratios more than either.

--table also trains the whole intra-subject table as one batched model: ten subjects by three seeds, 25 epochs each,
from arrays in memory to the trained encoders. --memory trains one epoch of the paper's leave-one-subject-out instead,
nine subjects read from disk, in a process of its own.
Letters: N trials, M images, C channels, T samples, d width of an encoder.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset

from hvf import methods, presets
from hvf.alignment import TrainingSet
from hvf.alignment.batched import Together, fit_together
from hvf.alignment.fitting import info_nce, prepare, seeded
from hvf.alignment.inputs import new_brain
from hvf.cli.options import parse_settings, run_script
from hvf.config import Config, HvfError, with_settings
from hvf.data.trials.trials import Trials, TrialsWriter
from hvf.models.fusions.hvf import HVF
from hvf.runs import check_writable, track, write_json
from hvf.training.cuda_graphs import fast_products

GOAL_SPEED, GOAL_GB, GOAL_SECONDS = {"cpu": 1.8, "cuda": 10.0}, 4.0, 60.0
SUBJECTS = 9  # that leave-one-subject-out trains on
TABLE = {"subjects": 10, "seeds": 3, "epochs": 25}
MODES = ("reconstruction", "retrieval")  # the target is frozen; the fusion learns


@dataclass(frozen=True)
class Size:
    """One row of the size table: a study, its images' features, and the configuration it is trained with."""

    images: int
    dims: tuple[int, int, int]  # widths d of the three encoders: RN50, ViT-B/32, VAE latents
    n_times: int
    settings: dict[str, Any]


SPECS = methods.RN50_B32_VAE
PAPER = Size(16_540, (1024, 512, 1024), 250, {})
SMALL = {f"{room}.{size}": 32 for room in ("brain", "fusion") for size in ("width", "intermediate")}
SIZES = {"paper": PAPER, "small": Size(400, (16, 8, 16), 10, SMALL | {"align.batch_size": 64})}


@dataclass(frozen=True)
class Benchmark:
    """Measure how fast a brain encoder trains, and in how much memory."""

    size: Literal["paper", "small"] = "paper"  # THINGS-EEG2's 16,540 x 17 x 250, or one that a test runs
    steps: int = 5  # of the optimiser, timed together; each way in turn
    repeats: int = 5  # such turns
    threads: int | None = None  # of the processor (default: torch's choice)
    together: int = 1  # also train so many runs as one batched model, against one after another; 1: do not
    table: bool = False  # also train the intra-subject table: ten subjects, three seeds, 25 epochs
    memory: bool = False  # instead: peak memory of an epoch of leave-one-subject-out
    dtype: Literal["float16", "float32"] = "float16"  # --memory: of the trials on disk
    out: Path | None = None  # folder for benchmark.json


def configuration(size: Size, mode: str) -> Config:
    """The paper's own, towards the paper's encoders; the prior's fusion is 4096 wide inside, retrieval's 1024."""
    inside = {} if mode == "reconstruction" else {"fusion.intermediate": 1024}
    told = {"targets.specs": SPECS, "align.mode": mode, "align.epochs": 1}
    return with_settings(presets.things_eeg(), told | inside | size.settings)


def random_features(size: Size, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {s: rng.standard_normal((size.images, d), np.float32) for s, d in zip(SPECS, size.dims, strict=True)}


def image_ids(size: Size) -> tuple[list[str], list[str]]:
    """Names of the images and of their concepts, ten images each."""
    return [f"image-{i:05d}" for i in range(size.images)], [f"concept-{i // 10:04d}" for i in range(size.images)]


def training_run(size: Size, mode: str, seed: int = 0) -> tuple[TrainingSet, Config]:
    config = with_settings(configuration(size, mode), {"align.seed": seed})
    names, concepts = image_ids(size)
    shape = size.images, len(presets.POSTERIOR_17), size.n_times
    x_NCT = np.random.default_rng(seed).standard_normal(shape, np.float32)
    trials = Trials(x_NCT, names, f"random {seed}", 250.0, 0.0, presets.POSTERIOR_17, "eeg")
    hvf = None
    if mode == "reconstruction":
        told = config.fusion.width, config.fusion.intermediate, config.fusion.dropout
        hvf = HVF(dict(zip(SPECS, size.dims, strict=True)), *told).requires_grad_(False)
    return TrainingSet(trials, random_features(size), concepts, prior_fusion=hvf), config


class Items(Dataset):
    """One averaged trial and its image's features at a time, as the peers' loaders give them."""

    def __init__(self, data: TrainingSet, rows: np.ndarray) -> None:
        self.data, self.rows, self.x_NCT = data, rows, data.trials.x_NCT

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self.rows[index])
        features = {spec: torch.from_numpy(x_Md[row]) for spec, x_Md in self.data.features.items()}
        labels = {"index": row, "image": self.data.trials.image_ids[row], "label": self.data.concepts[row]}
        return labels | {"eeg": torch.from_numpy(self.x_NCT[row]), "features": features}


class Straightforward:
    """The public recipe, written as one would: nothing is kept from step to step but weights."""

    def __init__(self, data: TrainingSet, config: Config, train_N: np.ndarray, device: str) -> None:
        self.config, self.device = config, device
        _, n_chans, n_times = data.trials.shape
        self.brain = new_brain(config, config.brain.width, n_chans, n_times).to(device).train()
        fusion = config.fusion
        widths = {spec: x_Md.shape[1] for spec, x_Md in data.features.items()}
        self.learns = data.prior_fusion is None
        self.fusion: Any = data.prior_fusion or HVF(widths, fusion.width, fusion.intermediate, fusion.dropout)
        self.fusion.to(device).train(self.learns)
        self.log_scale = nn.Parameter(torch.tensor(np.log(1 / config.align.temperature), dtype=torch.float32))
        self.log_scale.data = self.log_scale.data.to(device)
        self.learnt = [*self.brain.parameters(), *(self.fusion.parameters() if self.learns else ()), self.log_scale]
        align = config.align
        self.loader = DataLoader(Items(data, train_N), align.batch_size, shuffle=True)
        self.optimizer = torch.optim.AdamW(
            self.learnt, align.learning_rate, align.betas, weight_decay=align.weight_decay
        )
        total = align.epochs * len(self.loader)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, total)

    def steps(self, count: int) -> list[float]:
        """The loss of each of `count` steps, beginning a new pass where the data end."""
        losses: list[float] = []
        while len(losses) < count:
            for batch in self.loader:
                losses.append(self.step(batch))
                if len(losses) == count:
                    break
        return losses

    def step(self, batch: Mapping[str, Any]) -> float:
        x_NCT = batch["eeg"].to(self.device)
        features = {spec: x_Nd.to(self.device) for spec, x_Nd in batch["features"].items()}
        with torch.set_grad_enabled(self.learns):
            z_f_ND = self.fusion(features)
        loss = info_nce(self.brain(x_NCT), z_f_ND, self.log_scale)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.learnt, self.config.align.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        return loss.item()


class Ours:
    """The steps of `hvf.alignment.fit`, or of R runs at once."""

    def __init__(self, runs: Sequence[tuple[TrainingSet, Config]], device: str) -> None:
        self.runs = []
        for data, config in runs:
            with seeded(config.align.seed, device):
                self.runs.append(prepare(data, config, device).start())
        self.together = Together(self.runs) if len(runs) > 1 else None
        for run in self.runs:
            run.brain.train()
            run.fusion.train(run.fusion_learns)

    def steps(self, count: int) -> list[float]:
        losses: list[Tensor] = []
        while len(losses) < count:
            for rows_R in zip(*(run.order() for run in self.runs), strict=True):
                losses.append(self.together.step(rows_R).mean() if self.together else self.runs[0].step(rows_R[0]))
                if len(losses) == count:
                    break
        return torch.stack(losses).tolist()


class Products(TorchDispatchMode):
    """Notes the matrix products done within, by the shapes and strides of what they multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Tensor, Tensor]] = []
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            a, b = args[-2:]
            self.done.append((self.like(a), self.like(b)))
            self.flops += 2 * a.shape[0] * a.shape[1] * b.shape[1]
        return func(*args, **(kwargs or {}))

    @staticmethod
    def like(x: Tensor) -> Tensor:
        """Other numbers in the same layout."""
        return torch.empty_strided(x.shape, x.stride(), device=x.device).normal_()

    def steps(self, count: int) -> None:
        with fast_products(self.done[0][0].device):  # as our step has them
            for _ in range(count):
                for a, b in self.done:
                    torch.mm(a, b)


def in_turn(ways: Mapping[str, Callable[[int], object]], options: Benchmark, device: str) -> dict[str, Any]:
    """Seconds of a step of each way, wall and processor, over `repeats` turns after one that is not counted."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(options.repeats + 1):
        for name in list(ways)[:: 1 if turn % 2 else -1]:  # to and fro, so that a drift favours none
            wait(device)
            wall, cpu = time.perf_counter(), time.process_time()
            ways[name](options.steps if turn else 1)
            wait(device)
            if turn:
                took = time.perf_counter() - wall, time.process_time() - cpu
                spent[name].append((took[0] / options.steps, took[1] / options.steps))
    return {
        name: {"wall": spread(w for w, _ in told), "cpu": spread(c for _, c in told)} for name, told in spent.items()
    }


def spread(seconds: Any) -> dict[str, float]:
    values = list(seconds)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def speed(options: Benchmark, device: str) -> dict[str, Any]:
    """One run, for each mode: the straightforward loop, ours, and the floor."""
    found = {}
    for mode in MODES:
        run = training_run(SIZES[options.size], mode)
        ours = Ours([run], device)
        plain = Straightforward(*run, ours.runs[0].train_N.cpu().numpy(), device)
        products = Products()
        with products:
            ours.steps(1)
        ways = {"plain loop": plain.steps, "ours": ours.steps, "products": products.steps}
        found[mode] = {"flops": products.flops, "ways": in_turn(ways, options, device)}
    return found


def speed_together(options: Benchmark, device: str) -> dict[str, Any]:
    """R runs as one batched model against the same number of steps of one run; seconds of a step of one run."""
    runs = [training_run(SIZES[options.size], "retrieval", seed) for seed in range(options.together)]
    alone, together = Ours(runs[:1], device), Ours(runs, device)
    found = in_turn({"one after another": alone.steps, "together": together.steps}, options, device)
    for clock in found["together"].values():
        clock |= {name: seconds / options.together for name, seconds in clock.items()}
    return {"runs": options.together, "ways": found}


def whole_table(options: Benchmark, device: str) -> dict[str, Any]:
    """Seconds from arrays in memory to the encoders of all subjects and seeds, trained as one."""
    runs = []
    for subject in track(range(TABLE["subjects"]), "drawing the subjects' trials"):
        data, config = training_run(SIZES[options.size], "retrieval", subject)
        for seed in range(TABLE["seeds"]):
            runs.append((data, with_settings(config, {"align.seed": seed, "align.epochs": TABLE["epochs"]})))
    wait(device)
    started = time.perf_counter()
    fitted = fit_together(runs, device)
    wait(device)
    return TABLE | {"runs": len(fitted), "seconds": time.perf_counter() - started}


def memory(options: Benchmark) -> dict[str, Any]:
    """Write nine subjects' trials to disk, then train on all of them in a process of its own, which tells its peak."""
    peak_gb()  # where it cannot be told, nothing need be written
    size = SIZES[options.size]
    names, concepts = image_ids(size)
    with tempfile.TemporaryDirectory(prefix="hvf-benchmark-") as folder:
        for subject in track(range(SUBJECTS), "writing the subjects' trials"):
            rng = np.random.default_rng(subject)
            told = {"image_ids": names, "concepts": concepts, "subject": f"sub-{subject:02d}", "kind": "eeg"}
            told |= {"sfreq": 250.0, "tmin": 0.0, "ch_names": presets.POSTERIOR_17}
            shape = size.images, len(presets.POSTERIOR_17), size.n_times
            with TrialsWriter(Path(folder) / f"sub-{subject:02d}.npy", shape, options.dtype, **told) as writer:
                for start in range(0, size.images, 1024):
                    part = writer.x_NCT[start : start + 1024]
                    part[:] = rng.standard_normal(part.shape, np.float32)
        for spec, x_Md in random_features(size).items():
            np.save(Path(folder) / f"features-{SPECS.index(spec)}.npy", x_Md)
        command = [sys.executable, __file__, "--child", folder, options.size, str(options.threads or 0)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # progress shows on stderr
    if done.returncode:
        short = " (killed, as the system does where memory is short)" if done.returncode == -9 else ""
        raise HvfError(f"the training process ended with {done.returncode}{short}")
    return {"subjects": SUBJECTS, "dtype": options.dtype} | json.loads(done.stdout.splitlines()[-1])


def train_and_tell(folder: Path, size: Size) -> None:
    """The training process of `memory`: one epoch, as `hvf.alignment.fit` has it, on all subjects in a folder."""
    before, started = peak_gb(), time.perf_counter()
    parts = [Trials.load(path) for path in sorted(folder.glob("sub-*.npy"))]
    features = {s: np.load(folder / f"features-{i}.npy", mmap_mode="r") for i, s in enumerate(SPECS)}
    names, concepts = image_ids(size)
    row = {name: i for i, name in enumerate(names)}
    trials = Trials.concatenate(parts)
    rows_N = np.array([row[name] for name in trials.image_ids.tolist()])
    config = configuration(size, "retrieval")
    with seeded(config.align.seed, "cpu"):
        with track(1, "checking and standardising the trials"):
            training = prepare(TrainingSet(trials, features, concepts, rows_N), config).start()
        prepared, batches = peak_gb(), training.order
        training.order = lambda: track(batches(), "training, by the batch")
        training.run(0)
    fitted = training.finish()
    told = {"trials": len(trials), "threads": torch.get_num_threads(), "loss": fitted.history[-1]["loss"]}
    told |= {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time()}
    print(json.dumps(told | {"libraries_gb": before, "prepared_gb": prepared, "peak_gb": peak_gb()}))


def peak_gb() -> float:
    """The most memory that this process has had resident: of its own, while getrusage counts what its parent had."""
    try:
        told = Path("/proc/self/status").read_text()
    except OSError:
        raise HvfError("--memory reads its peak from /proc/self/status, which this system has not") from None
    (kilobytes,) = (line.split()[1] for line in told.splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(kilobytes) / 1e9


def table(found: Mapping[str, Any]) -> Table:
    """Seconds of a step by either clock, how often it is faster, and how near it comes to the floor."""
    shown = Table(title=f"One step, batch {found['batch']}, {found['device']}; ms, median (range)")
    for column in ("", "wall", "processor", "faster", "by proc.", "GFLOP/s"):
        shown.add_column(column, justify="left" if not column else "right")
    for mode, told in found["speed"].items():
        shown.add_row(f"[bold]{mode}[/]")
        add_rows(shown, told["ways"], told["flops"])
    if "together" in found:
        shown.add_row(f"[bold]{found['together']['runs']} runs[/] (a step of one)")
        add_rows(shown, found["together"]["ways"], None)
    return shown


def add_rows(shown: Table, ways: Mapping[str, Any], flops: float | None) -> None:
    first = next(iter(ways.values()))
    for name, clocks in ways.items():
        told = [{k: 1e3 * v for k, v in clocks[clock].items()} for clock in ("wall", "cpu")]
        cells = ["{median:.0f} ({min:.0f}-{max:.0f})".format(**milliseconds) for milliseconds in told]
        ratios = [f"{first[clock]['median'] / clocks[clock]['median']:.2f} x" for clock in ("wall", "cpu")]
        # The straightforward loop does more products than ours: the rate is of those that are needed.
        rate = f"{flops / clocks['cpu']['median'] / 1e9:.0f}" if flops else ""
        shown.add_row(f" {name}", *cells, *ratios, rate)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_settings(Benchmark(), arguments)
    if min(options.steps, options.repeats, options.together, options.threads or 1) < 1:
        raise HvfError("--steps, --repeats, --together and --threads are at least 1")
    if options.out:
        check_writable(options.out)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    found: dict[str, Any] = {"device": where, "size": options.size, "torch": torch.__version__}
    if options.memory:
        found["memory"] = told = memory(options)
        print(
            f"{told['trials']} trials of {SUBJECTS} subjects, {told['dtype']} on disk, one epoch: peak "
            f"{told['peak_gb']:.2f} GB (goal: less than {GOAL_GB:.0f}), of which libraries {told['libraries_gb']:.2f}; "
            f"{told['seconds']:.0f} s, of processor {told['cpu_seconds']:.0f}, {told['threads']} threads"
        )
    else:
        found["batch"] = configuration(SIZES[options.size], "retrieval").align.batch_size
        found["speed"] = speed(options, device)
        if options.together > 1:
            found["together"] = speed_together(options, device)
        Console().print(table(found))
        print(f"Goal: {GOAL_SPEED[device]} x. The floor is what one can hope for; the GFLOP/s are of processor time.")
        if options.table:
            found["table"] = told = whole_table(options, device)
            print(
                f"Intra-subject table, {told['subjects']} subjects x {told['seeds']} seeds x {told['epochs']} epochs: "
                f"{told['seconds']:.1f} s (goal on an H200-class GPU: {GOAL_SECONDS:.0f})"
            )
    if options.out:
        write_json(options.out / "benchmark.json", found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        if int(sys.argv[4]):
            torch.set_num_threads(int(sys.argv[4]))
        sys.exit(run_script(lambda _: train_and_tell(Path(sys.argv[2]), SIZES[sys.argv[3]])))
    else:
        sys.exit(run_script(main))
