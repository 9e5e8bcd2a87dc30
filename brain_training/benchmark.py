"""Time and memory of training a brain encoder, on random numbers of a real study's size: no download.

    python brain_training/benchmark.py [--size paper|small] [--threads 2] [--together 4] [--table] [--memory] [--out D]

The steps of `hvf.alignment.fit` are compared with the straightforward loop, on the same device and alternating: a
Dataset of items, a DataLoader's default collation, targets fused in the step, and a plain AdamW. The lower bound of
both is the matrix products of our step, replayed alone. Where the machine is shared, processor time says more than
wall time, and ratios more than either.

--table also trains the whole intra-subject table as one batched model: ten subjects by three seeds, 25 epochs each,
from arrays in memory to the trained encoders. --memory trains one epoch of the paper's leave-one-subject-out instead,
nine subjects read from disk, in a process of its own.
Letters: N trials, M images, C channels, T samples, d width of an encoder.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset

from hvf import methods, presets
from hvf.alignment import TrainingSet
from hvf.alignment.batched import Together, fit_together
from hvf.alignment.epochs import info_nce, seeded
from hvf.alignment.fitting import prepare
from hvf.alignment.inputs import new_brain
from hvf.cli.options import parse_settings, script
from hvf.config import Config, with_settings
from hvf.data.trials.trials import Trials
from hvf.experiments.timing import Clock, environment, goal, in_process, print_table, resident_memory, run_stage
from hvf.models.fusions.hvf import HVF
from hvf.runs import check_writable, track, write_json
from hvf.schema.bounds import Count
from hvf.training.cuda_graphs import fast_products

GOAL_SPEED, GOAL_GB, GOAL_SECONDS = {"cpu": 1.8, "cuda": 10.0}, 4.0, 60.0
SUBJECTS = 9  # that leave-one-subject-out trains on
TABLE = {"subjects": 10, "seeds": 3, "epochs": 25}
WAYS = ("plain loop", "ours", "products")


@dataclass(frozen=True)
class Size:
    """One row of the size table: a study, its images' features, and the configuration it is trained with."""

    images: int
    dims: tuple[int, int, int]  # widths d of the three encoders: RN50, ViT-B/32, VAE latents
    n_times: int
    settings: dict[str, Any]


SPECS = methods.RN50_B32_VAE
SMALL = {f"{room}.{size}": 32 for room in ("brain", "fusion") for size in ("width", "intermediate")}
SIZES = {
    "paper": Size(16_540, (1024, 512, 1024), 250, {}),
    "small": Size(400, (16, 8, 16), 10, SMALL | {"align.batch_size": 64}),
}


@dataclass(frozen=True)
class Benchmark:
    """Time and memory of training a brain encoder."""

    size: Literal["paper", "small"] = "paper"  # THINGS-EEG2's 16,540 x 17 x 250, or one that a test runs
    steps: Count = 5  # of the optimiser, timed together; each way in turn
    repeats: Count = 5  # such turns
    threads: Count | None = None  # of the processor; none: torch's choice
    together: Count = 1  # also train so many runs as one batched model, against one after another; 1: do not
    table: bool = False  # also train the intra-subject table: ten subjects, three seeds, 25 epochs
    memory: bool = False  # instead: peak memory of an epoch of leave-one-subject-out
    dtype: Literal["float16", "float32"] = "float16"  # --memory: of the trials on disk
    out: Path | None = None  # folder for benchmark.json


def configuration(size: Size, mode: str) -> Config:
    """The paper's own, towards the paper's encoders; the prior's fusion is 4096 wide inside, retrieval's 1024."""
    inside = {} if mode == "reconstruction" else {"fusion.intermediate": 1024}
    settings = {"targets.specs": SPECS, "align.mode": mode, "align.epochs": 1}
    return with_settings(presets.things_eeg(), settings | inside | size.settings)


def random_features(size: Size, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {s: rng.standard_normal((size.images, d), np.float32) for s, d in zip(SPECS, size.dims, strict=True)}


def image_ids(size: Size) -> tuple[list[str], list[str]]:
    """Names of the images and of their concepts, ten images each."""
    return [f"image-{i:05d}" for i in range(size.images)], [f"concept-{i // 10:04d}" for i in range(size.images)]


def new_hvf(config: Config, features: Mapping[str, np.ndarray]) -> HVF:
    fusion, widths = config.fusion, {spec: x_Md.shape[1] for spec, x_Md in features.items()}
    return HVF(widths, fusion.width, fusion.intermediate, fusion.dropout)


def training_run(size: Size, mode: str, seed: int = 0) -> tuple[TrainingSet, Config]:
    config = with_settings(configuration(size, mode), {"align.seed": seed})
    names, concepts = image_ids(size)
    shape = size.images, len(presets.POSTERIOR_17), size.n_times
    x_NCT = np.random.default_rng(seed).standard_normal(shape, np.float32)
    trials = Trials(x_NCT, names, f"random {seed}", 250.0, 0.0, presets.POSTERIOR_17, "eeg")
    features = random_features(size)
    hvf = new_hvf(config, features).requires_grad_(False) if mode == "reconstruction" else None
    return TrainingSet(trials, features, concepts, prior_fusion=hvf), config


def passes(epoch: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """The batches of one epoch after another, without end."""
    while True:
        yield from epoch()


class Items(Dataset):
    """One averaged trial and its image's features at a time, as other projects' loaders give them."""

    def __init__(self, data: TrainingSet, rows: np.ndarray) -> None:
        self.data, self.rows, self.x_NCT = data, rows, data.trials.load_array()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self.rows[index])
        features = {spec: torch.from_numpy(x_Md[row]) for spec, x_Md in self.data.features.items()}
        item = {"index": row, "image": self.data.trials.image_ids[row], "label": self.data.concepts[row]}
        return item | {"eeg": torch.from_numpy(self.x_NCT[row]), "features": features}


class Straightforward:
    """The public recipe, written plainly: nothing is kept from step to step but weights."""

    def __init__(self, data: TrainingSet, config: Config, train_N: np.ndarray, device: str) -> None:
        self.config, self.device, align = config, device, config.align
        _, n_chans, n_times = data.trials.shape
        self.brain = new_brain(config, config.brain.width, n_chans, n_times, data.trials).to(device).train()
        self.learns = data.prior_fusion is None
        self.fusion: HVF = (data.prior_fusion or new_hvf(config, data.features)).to(device).train(self.learns)
        self.log_scale = nn.Parameter(torch.tensor(np.log(1 / align.temperature), dtype=torch.float32, device=device))
        self.learnt = [*self.brain.parameters(), *(self.fusion.parameters() if self.learns else ()), self.log_scale]
        self.loader = DataLoader(Items(data, train_N), align.batch_size, shuffle=True)
        self.optimizer = torch.optim.AdamW(
            self.learnt, align.learning_rate, align.betas, weight_decay=align.weight_decay
        )
        total = align.epochs * len(self.loader)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, total)

    def steps(self, count: int) -> list[float]:
        """The loss of each of `count` steps, beginning a new pass where the data end."""
        return [self.step(batch) for batch in islice(passes(lambda: self.loader), count)]

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
        batches = islice(passes(lambda: zip(*(run.order() for run in self.runs), strict=True)), count)
        one, together = self.runs[0], self.together
        return torch.stack(
            [together.step(rows_R).mean() if together else one.step(*rows_R) for rows_R in batches]
        ).tolist()


class Products(TorchDispatchMode):
    """Records the matrix products done within, by shapes and strides of the factors, to replay them alone."""

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
        """Random numbers in the same memory layout."""
        return torch.empty_strided(x.shape, x.stride(), device=x.device).normal_()

    def steps(self, count: int) -> None:
        with fast_products(self.done[0][0].device):  # as our step has them
            for _ in range(count):
                for a, b in self.done:
                    torch.mm(a, b)


def step_times(ways: Mapping[str, Callable[[int], object]], options: Benchmark, device: str) -> dict[str, Any]:
    """{way: {"wall" | "cpu": {"median", "min", "max"}}} of one step in s, after one step that is not timed."""
    clock = Clock(device)
    for steps in ways.values():
        steps(1)
    clock.alternate({name: partial(steps, options.steps) for name, steps in ways.items()}, options.repeats)
    return {name: clock.summary(name, options.steps) for name in ways}


def speed(options: Benchmark, device: str) -> dict[str, Any]:
    """A step of one run, for each mode: the straightforward loop, ours, and the lower bound."""
    results = {}
    for mode in ("reconstruction", "retrieval"):  # the target is frozen; the fusion learns
        run = training_run(SIZES[options.size], mode)
        ours, products = Ours([run], device), Products()
        plain = Straightforward(*run, ours.runs[0].train_N.cpu().numpy(), device)
        with products:
            ours.steps(1)
        ways: dict[str, Any] = dict(zip(WAYS, (plain.steps, ours.steps, products.steps), strict=True))
        results[mode] = {"flops": products.flops, "ways": step_times(ways, options, device)}
    return results


def speed_together(options: Benchmark, device: str) -> dict[str, Any]:
    """R runs as one batched model against the same number of steps of one run; seconds of a step of one run."""
    runs = [training_run(SIZES[options.size], "retrieval", seed) for seed in range(options.together)]
    alone, together = Ours(runs[:1], device), Ours(runs, device)
    ways = step_times({"one after another": alone.steps, "together": together.steps}, options, device)
    for seconds in ways["together"].values():
        seconds |= {name: value / options.together for name, value in seconds.items()}
    return {"runs": options.together, "ways": ways}


def whole_table(options: Benchmark, device: str) -> dict[str, Any]:
    """Seconds from arrays in memory to the encoders of all subjects and seeds, trained as one batched model."""
    runs = []
    for subject in track(range(TABLE["subjects"]), "drawing the subjects' trials"):
        data, config = training_run(SIZES[options.size], "retrieval", subject)
        for seed in range(TABLE["seeds"]):
            runs.append((data, with_settings(config, {"align.seed": seed, "align.epochs": TABLE["epochs"]})))
    clock = Clock(device)
    fitted = clock.repeat("table", lambda: fit_together(runs, device))
    return TABLE | {"runs": len(fitted), "seconds": clock.median("table")}


def memory(options: Benchmark) -> dict[str, Any]:
    """Write nine subjects' trials to disk, then train on all of them in a process of its own; its peak memory."""
    size = SIZES[options.size]
    with tempfile.TemporaryDirectory(prefix="hvf-benchmark-") as folder:
        for subject in track(range(SUBJECTS), "writing the subjects' trials"):
            data, _ = training_run(size, "retrieval", subject)
            data.trials.save(Path(folder) / f"sub-{subject:02d}.npy", options.dtype)
        for spec, x_Md in random_features(size).items():
            np.save(Path(folder) / f"features-{SPECS.index(spec)}.npy", x_Md)
        trained = in_process(__file__, "train", folder, options.size, options.threads)
    peak = trained.pop("peak")
    return {"subjects": SUBJECTS, "dtype": options.dtype} | trained | {"peak_gb": peak / 1e9}


def train(folder: str, size_name: str, threads: int | None) -> dict[str, Any]:
    """The stage of `memory`: one epoch of `hvf.alignment.fit` on the trials of all subjects in a folder."""
    torch.set_num_threads(threads or torch.get_num_threads())
    libraries, clock, size = resident_memory(), Clock(), SIZES[size_name]
    with clock("epoch"):
        trials = Trials.concatenate([Trials.load(path) for path in sorted(Path(folder).glob("sub-*.npy"))])
        features = {s: np.load(f"{folder}/features-{i}.npy", mmap_mode="r") for i, s in enumerate(SPECS)}
        names, concepts = image_ids(size)
        row = {name: i for i, name in enumerate(names)}
        rows_N = np.array([row[name] for name in trials.image_ids.tolist()])
        config = configuration(size, "retrieval")
        with seeded(config.align.seed, "cpu"):
            with track(1, "checking and standardising the trials"):
                training = prepare(TrainingSet(trials, features, concepts, rows_N), config).start()
            prepared, batches = resident_memory(), training.order
            training.order = lambda: track(batches(), "training, by the batch")
            training.run(0)
        fitted = training.finish()
    return {
        "trials": len(trials),
        "threads": torch.get_num_threads(),
        "loss": fitted.history[-1]["loss"],
        "seconds": clock.median("epoch"),
        "cpu_seconds": sum(clock.cpu["epoch"]),
        "libraries_gb": libraries["peak"] / 1e9,
        "prepared_gb": prepared["peak"] / 1e9,
    }


def rows(ways: Mapping[str, Any], flops: float = 0.0) -> Iterator[dict[str, str]]:
    """One row for each way: ms of a step by either clock, its speed-up over the first way, and GFLOP/s."""
    first = next(iter(ways.values()))
    for name, clocks in ways.items():
        row = {"": name}
        for unit, column in (("wall", "wall"), ("cpu", "processor")):
            milliseconds = {of: 1e3 * seconds for of, seconds in clocks[unit].items()}
            row[column] = "{median:.0f} ({min:.0f}-{max:.0f})".format(**milliseconds)
            row[f"{column}, faster"] = f"{first[unit]['median'] / clocks[unit]['median']:.2f} x"
        # The straightforward loop does more products than ours: the rate is that of those that are needed.
        yield row | {"GFLOP/s": f"{flops / clocks['cpu']['median'] / 1e9:.0f}" if flops else ""}


def show_steps(results: Mapping[str, Any], device: str) -> None:
    """The table of a step's times, and speed-ups beside their goal: of wall time on a GPU, else of processor time."""
    lines, goals = [], []
    for mode, speeds in results["speed"].items():
        lines += [*rows({f"{mode}: {way}": clocks for way, clocks in speeds["ways"].items()}, speeds["flops"])]
        plain, ours = (speeds["ways"][way]["wall" if device == "cuda" else "cpu"]["median"] for way in WAYS[:2])
        goals.append(
            goal(f"{mode}, speed-up over the plain loop", plain / ours, GOAL_SPEED[device], "x", at_least=True)
        )
    if "together" in results:
        runs, ways = results["together"]["runs"], results["together"]["ways"]
        lines += rows({f"{runs} runs {way} (a step of one)": clocks for way, clocks in ways.items()})
    print_table(f"One step, batch {results['batch']}, {results['environment']['device']}; ms, median (range)", lines)
    print(*goals, "No loop is faster than its products; GFLOP/s are of processor time.", sep="\n")


@script
def main(arguments: Sequence[str] | None) -> None:
    options = parse_settings(Benchmark(), arguments)
    if options.out:
        check_writable(options.out)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results: dict[str, Any] = {"environment": environment(device), "size": options.size}
    if options.memory:
        results["memory"] = epoch = memory(options)
        print(
            f"{epoch['trials']} trials of {SUBJECTS} subjects, {epoch['dtype']} on disk, one epoch on "
            f"{epoch['threads']} threads: {epoch['seconds']:.0f} s, processor time {epoch['cpu_seconds']:.0f} s; the "
            f"libraries take {epoch['libraries_gb']:.2f} GB"
        )
        print(goal("peak memory", epoch["peak_gb"], GOAL_GB, "GB"))
    else:
        results["batch"] = configuration(SIZES[options.size], "retrieval").align.batch_size
        results["speed"] = speed(options, device)
        if options.together > 1:
            results["together"] = speed_together(options, device)
        show_steps(results, device)
        if options.table:
            results["table"] = table = whole_table(options, device)
            what = "Intra-subject table, {subjects} subjects x {seeds} seeds x {epochs} epochs".format(**table)
            print(goal(what, table["seconds"], GOAL_SECONDS, "s on an H200-class GPU"))
    if options.out:
        write_json(options.out / "benchmark.json", results)


if __name__ == "__main__":
    sys.exit(run_stage({"train": train}, *sys.argv[2:]) if sys.argv[1:2] == ["--stage"] else main())
