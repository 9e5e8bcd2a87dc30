"""Time the reconstruction metrics: hvf's against the field's evaluation loops, on the same pictures.

    python eval/metrics_benchmark.py                                  # 200 pairs x 10 rounds, features given
    python eval/metrics_benchmark.py --pairs 20 --rounds 3            # a small one
    python eval/metrics_benchmark.py --networks alexnet inception     # and networks run, both ways

The loops are what the scripts of MindEye and its peers have in common, written here for comparison: round by round and
metric by metric, both sets resized anew for each, pair after pair through np.corrcoef, scikit-image and scipy, the seen
pictures through each network in every round (AlexNet twice). Both have to give the same scores, or this fails. Networks
get random weights: time does not depend on them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.spatial.distance import correlation
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity
from torchvision import transforms

from hvf.cli.options import parse_settings, script
from hvf.config import HvfError
from hvf.evaluation import picture_metrics
from hvf.evaluation.evaluator import Evaluator
from hvf.evaluation.metrics.base import TwoWayMetric
from hvf.evaluation.picture_metrics import PIXEL_SIZE, SeenFeatures
from hvf.experiments.timing import Clock, environment, print_table
from hvf.registry import METRICS, NETWORKS
from hvf.runs import write_json
from hvf.schema.bounds import EachOnce

WIDTHS = {"alexnet2": 184512, "alexnet5": 57600, "inception": 2048, "clip": 768, "effnet": 1280, "swav": 2048}
AGREE = 1e-4  # networks and distances work in single precision


@dataclass(frozen=True)
class MetricsBenchmark:
    """Time hvf's metrics against the field's loops."""

    pairs: int = 200  # images
    rounds: int = 10  # reconstructions of each
    size: int = 256  # pixels of a picture
    networks: EachOnce[str] = ()  # to be run as well, of: alexnet clip effnet inception swav
    out: Path | None = None  # a JSON file for the table


Line = dict[str, Any]  # name; wall and processor time in s of both; the largest difference of their scores
Scores = Callable[[], np.ndarray]


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


def time_pixels(seen: np.ndarray, drawn: np.ndarray) -> Line:
    """PixCorr and SSIM from pictures at 256 pixels."""
    reals, recons = as_tensor(seen), [as_tensor(one_round) for one_round in drawn]

    def peers() -> np.ndarray:
        return np.array([[f(reals, one_round) for one_round in recons] for f in (loop_of_pixcorr, loop_of_ssim)])

    def ours() -> np.ndarray:
        scores = Evaluator(seen, ["pixcorr", "ssim"], first=None, device="cpu").measure(drawn).per_image
        return np.stack([scores["pixcorr"], scores["ssim"]])

    return timed("PixCorr, SSIM", peers, ours)


def time_formula(name: str, real: np.ndarray, recons: Sequence[np.ndarray]) -> Line:
    """Two-way identification or correlation distances of given features."""
    formula = formula_of(name)

    def peers() -> np.ndarray:
        return np.stack([formula(real, recon) for recon in recons])

    def ours() -> np.ndarray:
        seen, own = SeenFeatures(real), np.arange(len(real))
        if formula is loop_of_two_way:
            return np.stack([picture_metrics.two_way_shares(seen.correlations(recon, own)) for recon in recons])
        return np.stack([1.0 - seen.correlation(recon, own) for recon in recons])

    return timed(f"{METRICS[name].label}, features given", peers, ours)


def time_network(network: str, seen: np.ndarray, drawn: np.ndarray, folder: Path) -> Line:
    """The metrics of one network from pictures, its forward passes included."""
    reals, recons = as_tensor(seen), [as_tensor(one_round) for one_round in drawn]
    names = [name for name in WIDTHS if METRICS[name].network == network]
    save_file(random_weights(network, reals[:8]), folder / f"{network}.safetensors")

    def peers() -> np.ndarray:
        model, prepare = plain_network(network, folder), NETWORKS[network].prepare
        return np.array([[peers_round(model, prepare, name, one_round) for one_round in recons] for name in names])

    def peers_round(model: Any, prepare: Any, name: str, one_round: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            both = [model(torch.cat([prepare(x[None]) for x in images])) for images in (reals, one_round)]
        layers = (x[METRICS[name].layer] if isinstance(x, dict) else x for x in both)
        return formula_of(name)(*(x_N.flatten(1).numpy() for x_N in layers))

    def ours() -> np.ndarray:
        scores = Evaluator(seen, names, first=None, weights=folder, device="cpu").measure(drawn).per_image
        return np.stack([scores[name] for name in names])

    return timed(", ".join(METRICS[name].label for name in names) + ", with its network", peers, ours)


def plain_network(name: str, folder: Path) -> torch.nn.Module:
    """The network as its library makes it."""
    with torch.device("meta"):
        network = NETWORKS[name].build()
    network.load_state_dict(load_file(folder / f"{name}.safetensors"), assign=True)
    return network.eval().requires_grad_(False)


def random_weights(name: str, images_N3HW: torch.Tensor) -> dict[str, torch.Tensor]:
    """Random weights, batch normalisations fitted to pictures: else activations vanish or scores are unstable."""
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


def timed(name: str, peers: Scores, ours: Scores) -> Line:
    clock = Clock()
    difference = float(np.abs(clock.repeat("peers", peers) - clock.repeat("ours", ours)).max())
    if not difference < AGREE:
        raise HvfError(f"{name}: hvf and the loops differ by {difference}, so that their times do not compare")
    wall, cpu = ({way: sum(seconds) for way, seconds in unit.items()} for unit in (clock.wall, clock.cpu))
    return {"name": name} | wall | {f"{way}_cpu": cpu[way] for way in cpu} | {"difference": difference}


def total(name: str, lines: list[Line]) -> Line:
    sums = {column: sum(line[column] for line in lines) for column in ("peers", "ours", "peers_cpu", "ours_cpu")}
    return {"name": name} | sums | {"difference": max(line["difference"] for line in lines)}


def run(options: MetricsBenchmark) -> list[Line]:
    """Time every metric, with sums. Raises HvfError for a network that there is not, or scores that differ."""
    unknown = [name for name in options.networks if name not in NETWORKS or name in ("dino", "lpips")]
    if unknown or options.pairs < 2 or options.rounds < 1 or options.size < 8 or options.size % 8:
        raise HvfError(
            "give two pairs or more, a size that 8 divides, and networks of: alexnet inception clip effnet swav"
        )
    seen_and_drawn, rng = pictures(options), np.random.default_rng(0)
    lines = [time_pixels(*seen_and_drawn)]
    for name, width in WIDTHS.items():
        real = rng.normal(size=(options.pairs, width)).astype(np.float32)
        recons = [real + 4 * rng.normal(size=real.shape).astype(np.float32) for _ in range(options.rounds)]
        lines.append(time_formula(name, real, recons))
    lines.append(total("all metrics, features given", lines))
    if options.networks:
        with tempfile.TemporaryDirectory() as folder:
            with_networks = [time_network(name, *seen_and_drawn, Path(folder)) for name in options.networks]
        lines += [*with_networks, total("PixCorr, SSIM and those with networks", [lines[0], *with_networks])]
    return lines


def row(line: Line) -> dict[str, Any]:
    columns: dict[str, Any] = {"": line["name"]}
    for unit, suffix in (("s", ""), ("CPU s", "_cpu")):
        peers, ours = line[f"peers{suffix}"], line[f"ours{suffix}"]
        columns |= {f"loops, {unit}": peers, f"hvf, {unit}": ours}
        columns |= {f"faster, {unit}": f"{peers / max(ours, 1e-9):.1f} x"}
    return columns | {"scores differ by": f"{line['difference']:.0e}"}


@script
def main(arguments: Sequence[str] | None) -> None:
    options = parse_settings(MetricsBenchmark(), arguments)
    lines, where = run(options), environment()
    title = f"{options.pairs} pairs x {options.rounds} rounds, {where['threads']} thread(s)"
    print_table(title, [row(line) for line in lines])
    if options.out:
        write_json(options.out, {"environment": where, "lines": lines})


if __name__ == "__main__":
    sys.exit(main())
