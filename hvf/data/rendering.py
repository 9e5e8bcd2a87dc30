"""Pictures of the embedded world: a concept (kind x texture x palette) in a scene, drawn by code.

A concept such as "striped red car" fixes the object; scene, pose, size, place and light differ between exemplars.
Everything follows from (concept, exemplar): the same pair gives the same picture on every machine.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from hvf.data.objects import CATEGORY, PARTS

SUPERSAMPLING = 3  # drawn at three times the size, then averaged: smooth outlines
EXTENT = 0.33  # half an object of scale 1, as a share of the picture's width

ROLE_COLOURS: dict[str, tuple[int, int, int]] = {
    "dark": (52, 48, 56), "light": (246, 243, 234), "glass": (168, 214, 240), "wood": (132, 88, 54),
    "leaf": (72, 142, 62), "metal": (160, 166, 176),
    "fire": (250, 178, 44), "orange": (240, 140, 40), "pink": (240, 150, 160),
}  # fmt: skip
PALETTES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "red": ((212, 44, 46), (250, 226, 190)), "orange": ((242, 132, 32), (112, 62, 44)),
    "yellow": ((248, 206, 50), (206, 84, 40)), "green": ((58, 160, 78), (236, 228, 120)),
    "turquoise": ((44, 182, 180), (244, 246, 232)), "blue": ((48, 92, 200), (238, 214, 96)),
    "purple": ((126, 62, 168), (236, 178, 222)), "pink": ((238, 120, 170), (250, 242, 246)),
    "brown": ((128, 82, 54), (226, 190, 142)), "white": ((240, 238, 230), (66, 110, 178)),
    "black": ((56, 54, 66), (216, 70, 66)),
}  # fmt: skip


@dataclass(frozen=True)
class Concept:
    """What a picture is of: ``kind`` ("car"), its ``category`` ("vehicle"), ``texture`` and ``palette``."""

    kind: str
    texture: str
    palette: str

    @property
    def category(self) -> str:
        return CATEGORY[self.kind]

    @property
    def name(self) -> str:
        return f"{self.texture}_{self.palette}_{self.kind}"


@dataclass(frozen=True)
class Rendered:
    """A picture, uint8 (H, W, 3), with the words for it."""

    image: np.ndarray
    caption: str
    concept: Concept
    scene: str


def concepts(seed: int = 0) -> list[Concept]:
    """Every concept there is (kinds x textures x palettes), in an order fixed by ``seed``."""
    everything = [Concept(kind, texture, palette) for kind in PARTS for texture in TEXTURES for palette in PALETTES]
    order = np.random.default_rng(seed).permutation(len(everything))
    return [everything[i] for i in order]


# --- textures: coordinates in the object's own frame -> share of the second colour, 0..1 ------------------------------


def _plain(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.zeros_like(u)


def _striped(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _edge(np.sin(2 * np.pi * u / 0.5))


def _banded(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _edge(np.sin(2 * np.pi * v / 0.6))


def _dotted(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _edge(0.17 - np.hypot((u + 0.25) % 0.5 - 0.25, (v + 0.25) % 0.5 - 0.25), 0.04)


def _checked(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _edge(np.sin(2 * np.pi * u / 0.7) * np.sin(2 * np.pi * v / 0.7))


def _diagonal(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _edge(np.sin(2 * np.pi * (u + v) / 0.6) - 0.2)


def _edge(level: np.ndarray, width: float = 0.25) -> np.ndarray:
    return np.clip(level / width + 0.5, 0, 1)


TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "plain": _plain, "striped": _striped, "banded": _banded, "dotted": _dotted, "checked": _checked,
    "diagonal": _diagonal,
}  # fmt: skip


# --- scenes: each paints a background and says where the ground is ----------------------------------------------------


class _Canvas:
    """A float picture (S, S, 3) with values 0..255 and the few brushes that scenes need; lengths are shares of S."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng = size, rng
        self.pixels = np.zeros((size, size, 3), np.float32)

    def gradient(self, top: float, bottom: float, first: tuple[int, ...], last: tuple[int, ...]) -> None:
        y0, y1 = int(top * self.size), max(int(bottom * self.size), int(top * self.size) + 1)
        ramp = np.linspace(0, 1, y1 - y0, dtype=np.float32)[:, None, None]
        self.pixels[y0:y1] = np.asarray(first, np.float32) * (1 - ramp) + np.asarray(last, np.float32) * ramp

    def shape(self, outline: np.ndarray, colour: tuple[int, ...], opacity: float = 1.0) -> None:
        """Fill an outline (P, 2) given in shares of the picture."""
        mask, box = _mask(np.asarray(outline, float) * self.size, self.size)
        if mask is not None:
            _blend(self.pixels, mask * opacity, box, np.asarray(colour, np.float32))

    def disc(self, x: float, y: float, rx: float, ry: float, colour: tuple[int, ...], opacity: float = 1.0) -> None:
        angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        self.shape(np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1), colour, opacity)

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


def _meadow(c: _Canvas) -> float:
    horizon = c.rng.uniform(0.5, 0.68)
    c.gradient(0, horizon, (96, 170, 236), (206, 232, 250))
    c.clouds(int(c.rng.integers(1, 3)))
    c.hills(horizon, 0.14, (118, 176, 96))
    c.gradient(horizon, 1, (134, 198, 84), (76, 148, 56))
    return horizon


def _beach(c: _Canvas) -> float:
    horizon = c.rng.uniform(0.45, 0.6)
    c.gradient(0, horizon, (110, 196, 240), (226, 244, 250))
    c.gradient(horizon, horizon + 0.14, (30, 130, 186), (86, 196, 206))
    c.gradient(horizon + 0.14, 1, (250, 232, 176), (226, 194, 126))
    c.disc(c.rng.uniform(0.1, 0.9), c.rng.uniform(0.08, 0.2), 0.07, 0.07, (255, 240, 150))
    return horizon + 0.14


def _snow(c: _Canvas) -> float:
    horizon = c.rng.uniform(0.5, 0.66)
    c.gradient(0, horizon, (150, 184, 216), (214, 228, 240))
    c.hills(horizon, 0.24, (180, 200, 222))
    c.gradient(horizon, 1, (246, 250, 255), (206, 222, 240))
    return horizon


def _desert(c: _Canvas) -> float:
    horizon = c.rng.uniform(0.5, 0.66)
    c.gradient(0, horizon, (244, 196, 120), (252, 226, 176))
    c.hills(horizon, 0.18, (196, 120, 76))
    c.gradient(horizon, 1, (232, 170, 96), (190, 122, 66))
    return horizon


def _night(c: _Canvas) -> float:
    horizon = c.rng.uniform(0.6, 0.72)
    c.gradient(0, horizon, (14, 18, 56), (54, 54, 112))
    for x, y in c.rng.random((14, 2)):
        c.disc(x, y * horizon, 0.011, 0.011, (255, 250, 214))
    c.disc(c.rng.uniform(0.12, 0.88), c.rng.uniform(0.1, 0.22), 0.085, 0.085, (250, 244, 206))
    c.gradient(horizon, 1, (34, 56, 66), (20, 34, 46))
    return horizon


def _sunset(c: _Canvas) -> float:
    horizon = c.rng.uniform(0.55, 0.68)
    c.gradient(0, horizon * 0.55, (92, 60, 130), (226, 96, 100))
    c.gradient(horizon * 0.55, horizon, (226, 96, 100), (254, 196, 106))
    c.disc(c.rng.uniform(0.15, 0.85), horizon, 0.12, 0.12, (255, 232, 150))
    c.gradient(horizon, 1, (96, 56, 96), (52, 34, 70))
    return horizon


def _city(c: _Canvas) -> float:
    horizon = c.rng.uniform(0.62, 0.72)
    c.gradient(0, horizon, (166, 198, 224), (228, 228, 226))
    x = -0.05
    while x < 1:
        width, height, grey = c.rng.uniform(0.12, 0.22), c.rng.uniform(0.25, 0.6), int(c.rng.integers(110, 170))
        c.shape(
            np.array([[x, horizon], [x, horizon - height], [x + width, horizon - height], [x + width, horizon]]),
            (grey, grey, grey + 14),
        )
        x += width + 0.01
    c.gradient(horizon, 1, (112, 114, 122), (76, 78, 88))
    return horizon


def _forest(c: _Canvas) -> float:
    horizon = c.rng.uniform(0.6, 0.7)
    c.gradient(0, horizon, (136, 180, 150), (190, 216, 170))
    for x in np.linspace(-0.02, 1.02, 7) + c.rng.uniform(-0.05, 0.05, 7):
        height, green = c.rng.uniform(0.4, 0.62), int(c.rng.integers(70, 110))
        c.shape(
            np.array([[x - 0.12, horizon + 0.02], [x, horizon - height], [x + 0.12, horizon + 0.02]]), (30, green, 52)
        )
    c.gradient(horizon, 1, (96, 120, 58), (62, 82, 40))
    return horizon


def _room(c: _Canvas) -> float:
    horizon = c.rng.uniform(0.62, 0.74)
    wall = [(244, 220, 190), (196, 216, 226), (226, 200, 206), (206, 222, 188)][int(c.rng.integers(4))]
    c.gradient(0, horizon, wall, tuple(int(v * 0.93) for v in wall))
    x, y = c.rng.choice([0.05, 0.7]), 0.1
    c.shape(np.array([[x, y], [x + 0.25, y], [x + 0.25, y + 0.3], [x, y + 0.3]]), (250, 250, 246))
    c.shape(
        np.array([[x + 0.03, y + 0.03], [x + 0.22, y + 0.03], [x + 0.22, y + 0.27], [x + 0.03, y + 0.27]]),
        (140, 196, 236),
    )
    c.gradient(horizon, 1, (186, 132, 84), (142, 96, 60))
    return horizon


def _sea(c: _Canvas) -> float:
    horizon = c.rng.uniform(0.3, 0.45)
    c.gradient(0, horizon, (150, 206, 240), (230, 242, 248))
    c.gradient(horizon, 1, (64, 150, 204), (18, 70, 134))
    for _ in range(9):
        x, y = c.rng.random(), c.rng.uniform(horizon + 0.05, 1)
        c.disc(x, y, 0.07, 0.009, (190, 226, 244), 0.8)
    return horizon


def _sky(c: _Canvas) -> float:
    c.gradient(0, 1, (62, 140, 226), (190, 224, 250))
    c.clouds(4)
    c.disc(c.rng.random(), 0.9, 0.3, 0.08, (255, 255, 255), 0.8)
    return 1.2


def _studio(c: _Canvas) -> float:
    tint = np.asarray(PALETTES[list(PALETTES)[int(c.rng.integers(len(PALETTES) - 2))]][0], float)
    light = tint * 0.3 + 255 * 0.7
    c.gradient(0, 0.75, tuple(light), tuple(light * 0.96))
    c.gradient(0.75, 1, tuple(light * 0.9), tuple(light * 0.82))
    return 0.75


SCENES: dict[str, tuple[str, Callable[[_Canvas], float]]] = {
    "meadow": ("in a meadow", _meadow), "beach": ("on the beach", _beach), "snow": ("in the snow", _snow),
    "desert": ("in the desert", _desert), "night": ("at night", _night), "sunset": ("at sunset", _sunset),
    "city": ("in a city", _city), "forest": ("in a forest", _forest), "room": ("in a room", _room),
    "sea": ("on the sea", _sea), "sky": ("in the sky", _sky), "studio": ("in a studio", _studio),
}  # fmt: skip


# --- drawing ----------------------------------------------------------------------------------------------------------


def _mask(outline: np.ndarray, size: int) -> tuple[np.ndarray | None, tuple[int, int, int, int]]:
    """Filled outline (pixels) as a 0..1 mask over its bounding box (x0, y0, x1, y1)."""
    x0, y0 = np.clip(np.floor(outline.min(0)).astype(int), 0, size)
    x1, y1 = np.clip(np.ceil(outline.max(0)).astype(int) + 1, 0, size)
    if x1 <= x0 or y1 <= y0:
        return None, (0, 0, 0, 0)
    mask = Image.new("L", (int(x1 - x0), int(y1 - y0)))
    ImageDraw.Draw(mask).polygon([(x - x0, y - y0) for x, y in outline.tolist()], fill=255)
    return np.asarray(mask, np.float32)[..., None] / 255, (int(x0), int(y0), int(x1), int(y1))


def _blend(pixels: np.ndarray, mask: np.ndarray, box: tuple[int, int, int, int], colour: np.ndarray) -> None:
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1] += mask * (colour - pixels[y0:y1, x0:x1])


def render(concept: Concept, exemplar: int, size: int = 64) -> Rendered:
    """Draw one exemplar of a concept.

    Args:
        concept: what to draw.
        exemplar: number of the exemplar; scene, pose, size, place and light follow from it.
        size: width and height of the picture in pixels.
    """
    rng = np.random.default_rng([zlib.crc32(concept.name.encode()), exemplar])
    scene = list(SCENES)[int(rng.integers(len(SCENES)))]
    words, paint = SCENES[scene]
    canvas = _Canvas(size * SUPERSAMPLING, rng)
    ground = paint(canvas)
    _draw_object(canvas, concept, ground)
    light = rng.uniform(0.88, 1.08) * (1 + rng.uniform(-0.03, 0.03, 3))
    pixels = canvas.pixels.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, 3).mean((1, 3)) * light
    image = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    texture = "" if concept.texture == "plain" else f"{concept.texture} "
    return Rendered(image, f"a {texture}{concept.palette} {concept.kind} {words}", concept, scene)


def _draw_object(canvas: _Canvas, concept: Concept, ground: float) -> None:
    """Place the concept's parts by a random size, turn and mirror, feet below the horizon, with shade and shadow."""
    rng, size = canvas.rng, canvas.size
    scale = rng.uniform(0.82, 1.22) * EXTENT * size
    turn, mirror = np.radians(rng.normal(0, 7)), rng.choice([-1.0, 1.0])
    half = scale / size
    x = rng.uniform(max(half, 0.38), min(1 - half, 0.62)) * size
    feet = min(max(ground + 0.12, half * 2 + 0.04), 0.96) if ground < 1 else rng.uniform(half * 2 + 0.05, 0.92)
    y = (feet - half) * size
    matrix = scale * np.array([[np.cos(turn) * mirror, -np.sin(turn)], [np.sin(turn) * mirror, np.cos(turn)]])
    if ground < 1:
        _drop_shadow(canvas, x, feet * size, scale)
    primary, second = (np.asarray(colour, np.float32) for colour in PALETTES[concept.palette])
    inverse = np.linalg.inv(matrix)
    for part in PARTS[concept.kind]:
        outline = part.outline @ matrix.T + (x, y)
        mask, box = _mask(outline, size)
        if mask is None:
            continue
        px, py = np.meshgrid(np.arange(box[0], box[2]) - x, np.arange(box[1], box[3]) - y)
        u, v = inverse[0, 0] * px + inverse[0, 1] * py, inverse[1, 0] * px + inverse[1, 1] * py
        if part.role == "body":
            share = TEXTURES[concept.texture](u, v)[..., None]
            colour = primary * (1 - share) + second * share
        else:
            colour = second if part.role == "accent" else np.asarray(ROLE_COLOURS[part.role], np.float32)
        shade = 1.1 - 0.16 * (px / scale)[..., None] - 0.2 * (py / scale)[..., None]  # light from the upper left
        _blend(canvas.pixels, mask, box, np.clip(colour * shade, 0, 255).astype(np.float32))


def _drop_shadow(canvas: _Canvas, x: float, y: float, scale: float) -> None:
    soft = Image.new("L", (canvas.size, canvas.size))
    box = (x - scale * 0.85, y - scale * 0.14, x + scale * 0.85, y + scale * 0.16)
    ImageDraw.Draw(soft).ellipse(box, fill=110)
    soft = soft.filter(ImageFilter.BoxBlur(canvas.size / 40))
    canvas.pixels *= 1 - np.asarray(soft, np.float32)[..., None] / 255
