"""How long the reconstruction metrics take: hvf's against the field's evaluation loops, on the same pictures.

    python eval/metrics_benchmark.py                                  # 200 pairs x 10 rounds, features given
    python eval/metrics_benchmark.py --pairs 20 --rounds 3            # a small one
    python eval/metrics_benchmark.py --networks alexnet inception     # and networks run, both ways

The loops are those that MindEye's and its peers' scripts have in common: round by round and metric by metric, both sets
resized anew for each, pair after pair through np.corrcoef, scikit-image and scipy, the seen pictures through each
network in every round (AlexNet twice). Written here for comparison; both have to give the same scores, or this fails.
Networks get random weights: time does not depend on them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from scipy.spatial.distance import correlation
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity
from torchvision import transforms

from hvf.cli.options import parse_settings, run_script
from hvf.config import HvfError
from hvf.evaluation import picture_metrics
from hvf.evaluation.metrics.base import TwoWayMetric
from hvf.evaluation.picture_metrics import PIXEL_SIZE, SeenFeatures
from hvf.evaluation.pictures import Evaluator
from hvf.registry import METRICS, NETWORKS
from hvf.runs import write_atomic

WIDTHS = {"alexnet2": 184512, "alexnet5": 57600, "inception": 2048, "clip": 768, "effnet": 1280, "swav": 2048}
AGREE = 1e-4  # networks and distances work in single precision


@dataclass(frozen=True)
class MetricsBenchmark:
    """Time hvf's metrics against the field's loops."""

    pairs: int = 200  # images
    rounds: int = 10  # reconstructions of each
    size: int = 256  # pixels of a picture
    networks: tuple[str, ...] = ()  # to be run as well, of: alexnet clip effnet inception swav
    out: Path | None = None  # a JSON file for the table


@dataclass(frozen=True)
class Timed:
    """One line of the table: seconds and processor seconds of both, and the largest difference of their scores."""

    name: str
    peers: float
    ours: float
    peers_cpu: float
    ours_cpu: float
    difference: float


def pictures(options: MetricsBenchmark) -> tuple[np.ndarray, np.ndarray]:
    """Seen pictures uint8 (N, H, W, 3) and reconstructions (R, N, H, W, 3): coarse noise, and that with more noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(30, 226, (options.pairs, 8, 8, 3)).repeat(options.size // 8, 1).repeat(options.size // 8, 2)
    noise = rng.integers(-30, 31, (options.rounds, *coarse.shape), dtype=np.int16)
    return coarse.astype(np.uint8), (coarse + noise).astype(np.uint8)


def as_tensor(images_NHWC: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).float() / 255


def loop_of_pixcorr(reals: torch.Tensor, recons: torch.Tensor) -> np.ndarray:
    resize = transforms.Resize(PIXEL_SIZE)
    a, b = (resize(images).flatten(1).numpy() for images in (reals, recons))
    return np.array([np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)])


def loop_of_ssim(reals: torch.Tensor, recons: torch.Tensor) -> np.ndarray:
    resize = transforms.Resize(PIXEL_SIZE)
    a, b = (rgb2gray(resize(images).permute(0, 2, 3, 1).numpy()) for images in (reals, recons))
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    return np.array([structural_similarity(y, x, **settings) for x, y in zip(a, b, strict=True)])


def loop_of_two_way(reals: np.ndarray, recons: np.ndarray) -> np.ndarray:
    n = len(reals)
    r = np.corrcoef(reals, recons)[:n, n:]
    return (r < np.diag(r)).sum(axis=0) / (n - 1)


def loop_of_distance(reals: np.ndarray, recons: np.ndarray) -> np.ndarray:
    return np.array([correlation(x, y) for x, y in zip(reals, recons, strict=True)])


def formula_of(name: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return loop_of_two_way if isinstance(METRICS[name], TwoWayMetric) else loop_of_distance


def measure_pixels(options: MetricsBenchmark) -> Iterator[Timed]:
    """PixCorr and SSIM from pictures at 256 pixels."""
    seen, drawn = pictures(options)
    reals, recons = as_tensor(seen), [as_tensor(one_round) for one_round in drawn]

    def peers() -> np.ndarray:
        return np.array([[f(reals, one_round) for one_round in recons] for f in (loop_of_pixcorr, loop_of_ssim)])

    def ours() -> np.ndarray:
        scores = Evaluator(seen, ["pixcorr", "ssim"], first=None, device="cpu").measure(drawn).per_image
        return np.stack([scores["pixcorr"], scores["ssim"]])

    yield timed("PixCorr, SSIM", peers, ours)


def measure_formulas(options: MetricsBenchmark) -> Iterator[Timed]:
    """Two-way identification and correlation distances of features that are there."""
    rng = np.random.default_rng(0)
    for name, width in WIDTHS.items():
        real = rng.normal(size=(options.pairs, width)).astype(np.float32)
        recons = [real + 4 * rng.normal(size=real.shape).astype(np.float32) for _ in range(options.rounds)]
        formula = formula_of(name)

        def peers(real=real, recons=recons, formula=formula) -> np.ndarray:
            return np.stack([formula(real, recon) for recon in recons])

        def ours(real=real, recons=recons, two_way=formula is loop_of_two_way) -> np.ndarray:
            seen = SeenFeatures(real)
            if two_way:
                return np.stack([picture_metrics.two_way_shares(seen.correlations(recon)) for recon in recons])
            return np.stack([1.0 - seen.correlation(recon, np.arange(len(real))) for recon in recons])

        yield timed(f"{METRICS[name].label}, features given", peers, ours)


def measure_networks(options: MetricsBenchmark) -> Iterator[Timed]:
    """The metrics of each network from pictures, its passes included."""
    seen, drawn = pictures(options)
    reals, recons = as_tensor(seen), [as_tensor(one_round) for one_round in drawn]
    for network in options.networks:
        names = [name for name in WIDTHS if METRICS[name].network == network]
        with tempfile.TemporaryDirectory() as folder:
            save_file(random_weights(network, reals[:8]), Path(folder) / f"{network}.safetensors")

            def peers(network=network, names=names, folder=folder) -> np.ndarray:
                model, see = plain_network(network, Path(folder)), NETWORKS[network].prepare
                scores = []
                for name in names:
                    rounds = []
                    for one_round in recons:
                        with torch.no_grad():
                            both = [model(torch.cat([see(x[None]) for x in images])) for images in (one_round, reals)]
                        recon, real = (x[METRICS[name].layer] if isinstance(x, dict) else x for x in both)
                        rounds.append(formula_of(name)(real.flatten(1).numpy(), recon.flatten(1).numpy()))
                    scores.append(rounds)
                return np.array(scores)

            def ours(names=names, folder=folder) -> np.ndarray:
                scores = Evaluator(seen, names, first=None, weights=folder, device="cpu").measure(drawn).per_image
                return np.stack([scores[name] for name in names])

            yield timed(", ".join(METRICS[name].label for name in names) + ", with its network", peers, ours)


def plain_network(name: str, folder: Path) -> torch.nn.Module:
    """The network as its library makes it."""
    with torch.device("meta"):
        network = NETWORKS[name].build()
    network.load_state_dict(load_file(folder / f"{name}.safetensors"), assign=True)
    return network.eval().requires_grad_(False)


def random_weights(name: str, images_N3HW: torch.Tensor) -> dict[str, torch.Tensor]:
    """Random weights, batch normalisations fitted to pictures: else activations vanish (slow) or scores are chaos."""
    with torch.device("meta"):
        network = NETWORKS[name].build()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, value in network.state_dict().items():
        around = torch.zeros if key.endswith(("bias", "running_mean")) else torch.ones
        drawn = torch.randn(value.shape, generator=generator)
        state[key] = drawn * value[0].numel() ** -0.5 if value.ndim > 1 else around(value.shape)
    network.load_state_dict(state, assign=True)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(NETWORKS[name].prepare(images_N3HW))
    return network.state_dict()


def timed(name: str, peers: Callable[[], np.ndarray], ours: Callable[[], np.ndarray]) -> Timed:
    (want, *spent), (got, *spent_here) = _spent(peers), _spent(ours)
    difference = float(np.abs(want - got).max())
    if not difference < AGREE:
        raise HvfError(f"{name}: hvf and the loops differ by {difference}, so that their times do not compare")
    return Timed(name, spent[0], spent_here[0], spent[1], spent_here[1], difference)


def _spent(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    """What it gives, the seconds it took, and those of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def run(options: MetricsBenchmark) -> list[Timed]:
    """All lines, the sum last. Raises HvfError for a network that is none, or scores that differ."""
    unknown = [name for name in options.networks if name not in NETWORKS or name in ("dino", "lpips")]
    if unknown or options.pairs < 2 or options.rounds < 1 or options.size % 8:
        raise HvfError(
            "give two pairs or more, a size that 8 divides, and networks of: alexnet inception clip effnet swav"
        )
    lines = [*measure_pixels(options), *measure_formulas(options)]
    lines.append(total("all metrics, features given", lines))
    if options.networks:
        with_networks = list(measure_networks(options))
        lines += [*with_networks, total("PixCorr, SSIM and those with networks", [lines[0], *with_networks])]
    return lines


def total(name: str, lines: list[Timed]) -> Timed:
    sums = [sum(getattr(line, column) for line in lines) for column in ("peers", "ours", "peers_cpu", "ours_cpu")]
    return Timed(name, *sums, max(line.difference for line in lines))


def table_of(lines: list[Timed], options: MetricsBenchmark) -> Table:
    table = Table(title=f"{options.pairs} pairs x {options.rounds} rounds, {torch.get_num_threads()} thread(s)")
    for column in ("", "loops, s", "hvf, s", "faster", "processor: loops, s", "hvf, s", "faster", "scores differ by"):
        table.add_column(column, justify="right" if column else "left")
    for line in lines:
        ratios = (line.peers / line.ours, line.peers_cpu / max(line.ours_cpu, 1e-9))
        table.add_row(
            line.name,
            *(f"{line.peers:.2f}", f"{line.ours:.2f}", f"{ratios[0]:.1f} x"),
            *(f"{line.peers_cpu:.2f}", f"{line.ours_cpu:.2f}", f"{ratios[1]:.1f} x"),
            f"{line.difference:.0e}",
        )
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_settings(MetricsBenchmark(), arguments)
    lines = run(options)
    Console(width=None if os.environ.get("COLUMNS") else 130).print(table_of(lines, options))
    if options.out:
        text = json.dumps([vars(line) for line in lines], indent=2)
        write_atomic(options.out, lambda path: path.write_text(text))


if __name__ == "__main__":
    sys.exit(run_script(main))
