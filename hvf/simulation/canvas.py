"""A canvas to draw on: filled outlines and gradients in numpy.

Letters: S width and height of the canvas, H and W those of a shape's bounding box, P points, K outlines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
from PIL import Image, ImageDraw

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, the last two outside
_TURN_P = np.linspace(0, 2 * np.pi, 28, endpoint=False)
_CIRCLE_P2 = np.stack([np.cos(_TURN_P), np.sin(_TURN_P)], 1)


def planes(colour: np.ndarray | tuple[float, ...]) -> np.ndarray:
    """A colour as float32 (3, 1, 1)."""
    return np.asarray(colour, np.float32)[:, None, None]


def fill(outlines: Sequence[np.ndarray], size: int) -> Iterator[tuple[Box, np.ndarray]]:
    """Fill outlines (P, 2) in pixels, on a canvas of size x size.

    Yields for each the box of pixels that it may cover and a mask over that box, 1 inside and 0 outside, float32
    (H, W); empty ones where it lies off the canvas. All are drawn one below the other on one sheet, as each sheet costs
    more than what is drawn on it.
    """
    if not outlines:
        return
    ends = list(accumulate(map(len, outlines)))
    starts = [0, *ends[:-1]]
    points_P2 = np.concatenate(outlines)
    first_K2 = np.floor(np.minimum.reduceat(points_P2, starts)).astype(int)
    last_K2 = np.ceil(np.maximum.reduceat(points_P2, starts)).astype(int) + 1
    corner_K2 = first_K2.clip(0, size)
    # A slot on the sheet has room for all of an outline, so that what is off the canvas does not run into the next.
    bottom_K = np.cumsum(last_K2[:, 1] - first_K2[:, 1])
    shift_K = bottom_K - last_K2[:, 1] + corner_K2[:, 1]
    part_P = np.repeat(np.arange(len(outlines)), [len(outline) for outline in outlines])
    # Pillow cuts off decimals: here, before the shift, so that its size changes nothing.
    drawn_P2 = np.trunc(points_P2 - corner_K2[part_P])
    drawn_P2[:, 1] += shift_K[part_P]
    xy = drawn_P2.ravel().tolist()
    boxes = np.concatenate([corner_K2, last_K2.clip(0, size)], 1).tolist()
    sheet = Image.new("L", (max(1, *(x1 - x0 for x0, _, x1, _ in boxes)), int(bottom_K[-1])))
    pen = ImageDraw.Draw(sheet)
    for start, end in zip(starts, ends, strict=True):
        pen.polygon(xy[2 * start : 2 * end], fill=1)
    drawn_HW = np.asarray(sheet)
    for (x0, y0, x1, y1), top in zip(boxes, shift_K.tolist(), strict=True):
        yield (x0, y0, x1, y1), drawn_HW[top : top + y1 - y0, : x1 - x0].astype(np.float32)


class Canvas:
    """A float picture (3, S, S) with values 0..255 and brushes for scenes; lengths are fractions of S.

    Outlines wait and are filled together, because one sheet for many costs little more than for one; a blend touches
    only the pixels of the outline's bounding box.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng = size, rng
        self.pixels_3SS = np.zeros((3, size, size), np.float32)
        self.waiting: list[tuple[np.ndarray, tuple[int, ...], float]] = []  # outlines in pixels

    def gradient(self, top: float, bottom: float, first: tuple[float, ...], last: tuple[float, ...]) -> None:
        """Paint the rows between two heights with a vertical gradient from one colour to another."""
        self.draw_waiting()
        y0, y1 = int(top * self.size), max(int(bottom * self.size), int(top * self.size) + 1)
        ramp = np.linspace(0, 1, y1 - y0, dtype=np.float32)[:, None]
        self.pixels_3SS[:, y0:y1] = planes(first) * (1 - ramp) + planes(last) * ramp

    def sky(self, lowest: float, highest: float, first: tuple[int, ...], last: tuple[int, ...]) -> float:
        """Draw a random horizon between two heights and paint all above it; returns the horizon."""
        horizon = self.rng.uniform(lowest, highest)
        self.gradient(0, horizon, first, last)
        return horizon

    def shape(self, outline_P2: np.ndarray, colour: tuple[int, ...], opacity: float = 1.0) -> None:
        """Fill an outline (P, 2) given in shares of the picture."""
        self.waiting.append((outline_P2 * self.size, colour, opacity))

    def draw_waiting(self) -> None:
        """Fill the outlines that wait."""
        outlines = [outline_P2 for outline_P2, _, _ in self.waiting]
        for (box, mask_HW), (_, colour, opacity) in zip(fill(outlines, self.size), self.waiting, strict=True):
            self.blend(box, mask_HW * opacity, planes(colour))
        self.waiting.clear()

    def blend(self, box: Box, opacity_HW: np.ndarray, colour: np.ndarray) -> None:
        """Blend a colour, (3, 1, 1) or (3, H, W), over the pixels of a box."""
        x0, y0, x1, y1 = box
        under_3HW = self.pixels_3SS[:, y0:y1, x0:x1]
        change_3HW = colour - under_3HW
        change_3HW *= opacity_HW
        under_3HW += change_3HW

    def disc(self, x: float, y: float, rx: float, ry: float, colour: tuple[int, ...], opacity: float = 1.0) -> None:
        """Fill an ellipse."""
        self.shape((x, y) + _CIRCLE_P2 * (rx, ry), colour, opacity)

    def hills(self, horizon: float, height: float, colour: tuple[int, ...]) -> None:
        x = np.linspace(0, 1, 30)
        waves = sum(np.sin(2 * np.pi * (k * x + self.rng.random())) / k for k in (1, 2, 3))
        top = np.stack([x, horizon - height * (0.5 + 0.3 * waves)], 1)
        self.shape(np.concatenate([top, [[1, horizon + 0.02], [0, horizon + 0.02]]]), colour)

    def clouds(self, n: int) -> None:
        for _ in range(n):
            x, y, w = self.rng.random(), self.rng.uniform(0.05, 0.3), self.rng.uniform(0.08, 0.16)
            for dx, r in ((-0.7, 0.5), (0, 0.75), (0.7, 0.5)):
                self.disc(x + dx * w, y, w * 0.9 * r * 1.3, w * 0.6 * r, (255, 255, 255), 0.85)
