"""Time the making of the embedded world: drawing its pictures, their low-level features, simulating trials.

    python eval/world_benchmark.py                                    # 240 pictures, 200 images shown
    python eval/world_benchmark.py --pictures 24 --images 10          # a small one
    OMP_NUM_THREADS=1 python eval/world_benchmark.py                  # to compare processor times

Pictures are also drawn in the straightforward way, written here for comparison: every shape at once, with coordinates
of its own, colours interleaved, a shadow as large as the canvas. Both ways have to give the same picture to the last
bit, or this fails. Processor times can be compared on a busy machine as well.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from hvf.cli.options import parse_settings, script
from hvf.config import DataConfig, HvfError
from hvf.data.images.image_set import ImageSet
from hvf.experiments.timing import Clock, environment, print_table
from hvf.runs import write_json
from hvf.schema.bounds import Count, check_options
from hvf.simulation import rendering
from hvf.simulation.features import WORKERS, low_level
from hvf.simulation.rendering import PALETTES, ROLE_COLOURS, SCENES, SUPERSAMPLING, TEXTURES, Concept
from hvf.simulation.shapes import PARTS
from hvf.simulation.stimuli import draw
from hvf.simulation.study import simulate_trials

T = TypeVar("T")


@dataclass(frozen=True)
class WorldBenchmark:
    """Time the making of the embedded world."""

    pictures: Count = 240  # drawn both ways
    images: Count = 200  # shown to a subject
    repeats: Count = 4  # of each image
    rounds: Count = 3  # the shortest time of so many counts
    out: Path | None = None  # a JSON file for the table


class PlainCanvas(rendering.Canvas):
    """The brushes in the straightforward way; pixels (S, S, 3)."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        super().__init__(size, rng)
        self.pixels_SS3 = np.zeros((size, size, 3), np.float32)

    def gradient(self, top: float, bottom: float, first: tuple[float, ...], last: tuple[float, ...]) -> None:
        y0, y1 = int(top * self.size), max(int(bottom * self.size), int(top * self.size) + 1)
        ramp = np.linspace(0, 1, y1 - y0, dtype=np.float32)[:, None, None]
        self.pixels_SS3[y0:y1] = np.asarray(first, np.float32) * (1 - ramp) + np.asarray(last, np.float32) * ramp

    def shape(self, outline_P2: np.ndarray, colour: tuple[int, ...], opacity: float = 1.0) -> None:
        filled = plain_mask(outline_P2 * self.size, self.size)
        if filled:
            (x0, y0, x1, y1), mask_HW1 = filled
            under_HW3 = self.pixels_SS3[y0:y1, x0:x1]
            under_HW3 += mask_HW1 * opacity * (np.asarray(colour, np.float32) - under_HW3)


def plain_mask(outline_P2: np.ndarray, size: int) -> tuple[tuple[int, int, int, int], np.ndarray] | None:
    """A filled outline (pixels) over the box that it may cover, (H, W, 1); None where that box is empty."""
    x0, y0 = np.clip(np.floor(outline_P2.min(0)).astype(int), 0, size)
    x1, y1 = np.clip(np.ceil(outline_P2.max(0)).astype(int) + 1, 0, size)
    if x1 <= x0 or y1 <= y0:
        return None
    mask = Image.new("L", (int(x1 - x0), int(y1 - y0)))
    ImageDraw.Draw(mask).polygon([(x - x0, y - y0) for x, y in outline_P2.tolist()], fill=255)
    return (x0, y0, x1, y1), np.asarray(mask, np.float32)[..., None] / 255


def plain_render(concept: Concept, exemplar: int, size: int = 64) -> np.ndarray:
    """The picture of `rendering.render`, uint8 (size, size, 3), drawn in the straightforward way."""
    rng = np.random.default_rng([zlib.crc32(concept.key.encode()), exemplar])
    canvas = PlainCanvas(size * SUPERSAMPLING, rng)
    paint = SCENES[list(SCENES)[int(rng.integers(len(SCENES)))]][1]
    plain_object(canvas, concept, paint(canvas))
    light = rng.uniform(0.88, 1.08) * (1 + rng.uniform(-0.03, 0.03, 3))
    pixels = canvas.pixels_SS3.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, 3).mean((1, 3)) * light
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def plain_object(canvas: PlainCanvas, concept: Concept, ground: float) -> None:
    rng, size = canvas.rng, canvas.size
    scale = rng.uniform(0.82, 1.22) * rendering.EXTENT * size
    turn, mirror = np.radians(rng.normal(0, 7)), rng.choice([-1.0, 1.0])
    half = scale / size
    x = rng.uniform(max(half, 0.38), min(1 - half, 0.62)) * size
    feet = min(max(ground + 0.12, half * 2 + 0.04), 0.96) if ground < 1 else rng.uniform(half * 2 + 0.05, 0.92)
    y = (feet - half) * size
    if ground < 1:
        soft, middle = Image.new("L", (size, size)), feet * size
        box = (x - scale * 0.85, middle - scale * 0.14, x + scale * 0.85, middle + scale * 0.16)
        ImageDraw.Draw(soft).ellipse(box, fill=110)
        soft = soft.filter(ImageFilter.BoxBlur(size / 40))
        canvas.pixels_SS3 *= 1 - np.asarray(soft, np.float32)[..., None] / 255
    matrix = scale * np.array([[np.cos(turn) * mirror, -np.sin(turn)], [np.sin(turn) * mirror, np.cos(turn)]])
    inverse = np.linalg.inv(matrix)
    primary, second = (np.asarray(colour, np.float32) for colour in PALETTES[concept.palette])
    for part in PARTS[concept.kind]:
        filled = plain_mask(part.outline @ matrix.T + (x, y), size)
        if not filled:
            continue
        (x0, y0, x1, y1), mask_HW1 = filled
        px, py = np.meshgrid(np.arange(x0, x1) - x, np.arange(y0, y1) - y)
        u, v = inverse[0, 0] * px + inverse[0, 1] * py, inverse[1, 0] * px + inverse[1, 1] * py
        if part.role == "body":
            share = TEXTURES[concept.texture](u, v)[..., None]
            colour = primary * (1 - share) + second * share
        else:
            colour = second if part.role == "accent" else np.asarray(ROLE_COLOURS[part.role], np.float32)
        shade = 1.1 - 0.16 * (px / scale)[..., None] - 0.2 * (py / scale)[..., None]
        under_HW3 = canvas.pixels_SS3[y0:y1, x0:x1]
        under_HW3 += mask_HW1 * (np.clip(colour * shade, 0, 255).astype(np.float32) - under_HW3)


def measure(options: WorldBenchmark) -> list[dict[str, Any]]:
    """Time every step of making the world: n units of work, wall and processor time in s, the shortest of `rounds`.

    Raises HvfError for counts below one, or if the two ways of drawing differ in a pixel.
    """
    check_options(options)
    concepts = rendering.concepts()
    clock, lines = Clock(), []

    def timed(name: str, unit: str, n: int, work: Callable[[], T], processes: bool = False) -> T:
        result = clock.repeat(name, work, options.rounds)
        cpu = None if processes else min(clock.cpu[name])  # that of other processes is not counted
        lines.append({"name": name, "unit": unit, "n": n, "wall": min(clock.wall[name]), "cpu": cpu})
        return result

    n = options.pictures
    shown = [(concepts[i % len(concepts)], i // len(concepts)) for i in range(n)]
    rendering.render(*shown[0])  # what is done once is not timed
    plain = timed("drawing, straightforward", "pictures", n, lambda: [plain_render(*item) for item in shown])
    drawn = timed("drawing", "pictures", n, lambda: [rendering.render(*item).image for item in shown])
    different = [c.name for (c, _), a, b in zip(shown, plain, drawn, strict=True) if not np.array_equal(a, b)]
    if different:
        raise HvfError(f"the two ways draw {len(different)} pictures differently, {different[0]} for one")
    timed(f"drawing, {WORKERS} workers", "pictures", n, partial(draw, shown), processes=True)

    data = DataConfig(study="simulated-eeg", train_repeats=options.repeats)
    some = [(concepts[i % len(concepts)], i // len(concepts)) for i in range(options.images)]
    x_NHWC, captions = draw(some)
    images = ImageSet.from_arrays(x_NHWC, map(str, range(len(some))), [c.name for c, _ in some], captions)
    simulate_trials(data, images.select([0]), 1, "train")
    timed("low-level features", "images", len(images), partial(low_level, images))
    trials = partial(simulate_trials, data, images, 1, "train")
    timed("simulating EEG, features included", "trials", len(images) * options.repeats, trials)
    return lines


def row(line: dict[str, Any], plain_cpu: float) -> dict[str, Any]:
    n, cpu, drawn = line["n"], line["cpu"], line["unit"] == "pictures"
    columns = {"": line["name"], "n": f"{n} {line['unit']}", "per second": n / line["wall"]}
    columns |= {"processor, ms each": cpu and 1e3 * cpu / n}
    return columns | {"faster by processor time": f"{plain_cpu / cpu:.1f} x" if cpu and drawn else ""}


@script
def main(arguments: Sequence[str] | None) -> None:
    options = parse_settings(WorldBenchmark(), arguments)
    lines = measure(options)
    print_table("the embedded world", [row(line, lines[0]["cpu"]) for line in lines])
    if options.out:
        write_json(options.out, {"environment": environment(), "lines": lines})


if __name__ == "__main__":
    sys.exit(main())
