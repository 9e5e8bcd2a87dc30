"""Rendered stimuli: a picture of a concept (kind x texture x palette) in a scene.

A concept such as "striped red car" fixes the object; scene, pose, size, place and light differ between exemplars.
Everything follows from (concept, exemplar): the same pair gives the same picture on every machine.

Letters: S width and height of the canvas, H and W those of a shape's bounding box, P points, K outlines.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from hvf.simulation.canvas import Canvas, fill, planes
from hvf.simulation.shapes import CATEGORY, PARTS

PICTURES_VERSION = 1  # of shapes, canvas and rendering: raise it with every change of a picture: it keys caches
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
SECOND_COLOURS = {  # what one would call the second colour of each palette
    "red": "cream", "orange": "brown", "yellow": "rust", "green": "yellow", "turquoise": "white", "blue": "yellow",
    "purple": "pink", "pink": "white", "brown": "beige", "white": "blue", "black": "red",
}  # fmt: skip


@dataclass(frozen=True)
class Concept:
    """What a picture shows: a `kind` ("car") of a `category` ("vehicle") with a `texture` and a `palette`."""

    kind: str
    texture: str
    palette: str

    @property
    def category(self) -> str:
        return CATEGORY[self.kind]

    @property
    def key(self) -> str:
        """What its pictures are seeded with."""
        return f"{self.texture}_{self.palette}_{self.kind}"

    @property
    def name(self) -> str:
        """As it is called: TEXTURE_COLOUR_KIND, both colours where a texture shows both (banded_white-blue_boot)."""
        second = "" if self.texture == "plain" else f"-{SECOND_COLOURS[self.palette]}"
        return f"{self.texture}_{self.palette}{second}_{self.kind}"


@dataclass(frozen=True)
class Rendered:
    """A picture, uint8 (H, W, 3), with its caption, concept and scene."""

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


# --- scenes: each paints a background and returns where the ground is -------------------------------------------------


def _meadow(c: Canvas) -> float:
    horizon = c.sky(0.5, 0.68, (96, 170, 236), (206, 232, 250))
    c.clouds(int(c.rng.integers(1, 3)))
    c.hills(horizon, 0.14, (118, 176, 96))
    c.gradient(horizon, 1, (134, 198, 84), (76, 148, 56))
    return horizon


def _beach(c: Canvas) -> float:
    horizon = c.sky(0.45, 0.6, (110, 196, 240), (226, 244, 250))
    c.gradient(horizon, horizon + 0.14, (30, 130, 186), (86, 196, 206))
    c.gradient(horizon + 0.14, 1, (250, 232, 176), (226, 194, 126))
    c.disc(c.rng.uniform(0.1, 0.9), c.rng.uniform(0.08, 0.2), 0.07, 0.07, (255, 240, 150))
    return horizon + 0.14


def _snow(c: Canvas) -> float:
    horizon = c.sky(0.5, 0.66, (150, 184, 216), (214, 228, 240))
    c.hills(horizon, 0.24, (180, 200, 222))
    c.gradient(horizon, 1, (246, 250, 255), (206, 222, 240))
    return horizon


def _desert(c: Canvas) -> float:
    horizon = c.sky(0.5, 0.66, (244, 196, 120), (252, 226, 176))
    c.hills(horizon, 0.18, (196, 120, 76))
    c.gradient(horizon, 1, (232, 170, 96), (190, 122, 66))
    return horizon


def _night(c: Canvas) -> float:
    horizon = c.sky(0.6, 0.72, (14, 18, 56), (54, 54, 112))
    for x, y in c.rng.random((14, 2)):
        c.disc(x, y * horizon, 0.011, 0.011, (255, 250, 214))
    c.disc(c.rng.uniform(0.12, 0.88), c.rng.uniform(0.1, 0.22), 0.085, 0.085, (250, 244, 206))
    c.gradient(horizon, 1, (34, 56, 66), (20, 34, 46))
    return horizon


def _sunset(c: Canvas) -> float:
    horizon = c.rng.uniform(0.55, 0.68)
    c.gradient(0, horizon * 0.55, (92, 60, 130), (226, 96, 100))
    c.gradient(horizon * 0.55, horizon, (226, 96, 100), (254, 196, 106))
    c.disc(c.rng.uniform(0.15, 0.85), horizon, 0.12, 0.12, (255, 232, 150))
    c.gradient(horizon, 1, (96, 56, 96), (52, 34, 70))
    return horizon


def _city(c: Canvas) -> float:
    horizon = c.sky(0.62, 0.72, (166, 198, 224), (228, 228, 226))
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


def _forest(c: Canvas) -> float:
    horizon = c.sky(0.6, 0.7, (136, 180, 150), (190, 216, 170))
    for x in np.linspace(-0.02, 1.02, 7) + c.rng.uniform(-0.05, 0.05, 7):
        height, green = c.rng.uniform(0.4, 0.62), int(c.rng.integers(70, 110))
        c.shape(
            np.array([[x - 0.12, horizon + 0.02], [x, horizon - height], [x + 0.12, horizon + 0.02]]), (30, green, 52)
        )
    c.gradient(horizon, 1, (96, 120, 58), (62, 82, 40))
    return horizon


def _room(c: Canvas) -> float:
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


def _sea(c: Canvas) -> float:
    horizon = c.sky(0.3, 0.45, (150, 206, 240), (230, 242, 248))
    c.gradient(horizon, 1, (64, 150, 204), (18, 70, 134))
    for _ in range(9):
        x, y = c.rng.random(), c.rng.uniform(horizon + 0.05, 1)
        c.disc(x, y, 0.07, 0.009, (190, 226, 244), 0.8)
    return horizon


def _sky(c: Canvas) -> float:
    c.gradient(0, 1, (62, 140, 226), (190, 224, 250))
    c.clouds(4)
    c.disc(c.rng.random(), 0.9, 0.3, 0.08, (255, 255, 255), 0.8)
    return 1.2


def _studio(c: Canvas) -> float:
    tint = np.asarray(PALETTES[list(PALETTES)[int(c.rng.integers(len(PALETTES) - 2))]][0], float)
    light = tint * 0.3 + 255 * 0.7
    c.gradient(0, 0.75, tuple(light), tuple(light * 0.96))
    c.gradient(0.75, 1, tuple(light * 0.9), tuple(light * 0.82))
    return 0.75


SCENES: dict[str, tuple[str, Callable[[Canvas], float]]] = {
    "meadow": ("in a meadow", _meadow), "beach": ("on the beach", _beach), "snow": ("in the snow", _snow),
    "desert": ("in the desert", _desert), "night": ("at night", _night), "sunset": ("at sunset", _sunset),
    "city": ("in a city", _city), "forest": ("in a forest", _forest), "room": ("in a room", _room),
    "sea": ("on the sea", _sea), "sky": ("in the sky", _sky), "studio": ("in a studio", _studio),
}  # fmt: skip


# --- drawing ----------------------------------------------------------------------------------------------------------


def render(concept: Concept, exemplar: int, size: int = 64) -> Rendered:
    """Render an exemplar of a concept, size x size pixels; scene, pose, size, place and light follow from both."""
    rng = np.random.default_rng([zlib.crc32(concept.key.encode()), exemplar])
    scene = list(SCENES)[int(rng.integers(len(SCENES)))]
    words, paint = SCENES[scene]
    canvas = Canvas(size * SUPERSAMPLING, rng)
    ground = paint(canvas)
    canvas.draw_waiting()
    _draw_object(canvas, concept, ground)
    light = rng.uniform(0.88, 1.08) * (1 + rng.uniform(-0.03, 0.03, 3))
    pixels_3HW = _averaged(canvas.pixels_3SS, SUPERSAMPLING) * light[:, None, None]
    image = np.ascontiguousarray(np.moveaxis(np.clip(np.rint(pixels_3HW), 0, 255).astype(np.uint8), 0, 2))
    texture = "" if concept.texture == "plain" else f"{concept.texture} "
    return Rendered(image, f"a {texture}{concept.palette} {concept.kind} {words}", concept, scene)


def _averaged(pixels_3SS: np.ndarray, times: int) -> np.ndarray:
    """Means over squares of times x times pixels, (3, S / times, S / times); added in the order of reading."""
    size = pixels_3SS.shape[1] // times
    squares = pixels_3SS.reshape(3, size, times, size, times)
    total = np.zeros((3, size, size), np.float32)
    for row in range(times):
        for column in range(times):
            total += squares[:, :, row, :, column]
    return total / times**2


def _draw_object(canvas: Canvas, concept: Concept, ground: float) -> None:
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
    primary, second = (planes(colour) for colour in PALETTES[concept.palette])
    textured = concept.texture != "plain"
    # The light, which comes from the upper left, and the textures' coordinates are each a sum of a term for the
    # column and a term for the row.
    inverse = np.linalg.inv(matrix)
    px_S, py_S1 = np.arange(size) - x, np.arange(size)[:, None] - y
    light_S, light_S1 = 1.1 - 0.16 * (px_S / scale), 0.2 * (py_S1 / scale)
    u_S, u_S1, v_S, v_S1 = inverse[0, 0] * px_S, inverse[0, 1] * py_S1, inverse[1, 0] * px_S, inverse[1, 1] * py_S1
    parts = PARTS[concept.kind]
    masks_K = fill([part.outline @ matrix.T + (x, y) for part in parts], size)
    for part, (box, mask_HW) in zip(parts, masks_K, strict=True):
        columns, rows = slice(box[0], box[2]), slice(box[1], box[3])
        if part.role == "body" and textured:
            share_HW = TEXTURES[concept.texture](u_S[columns] + u_S1[rows], v_S[columns] + v_S1[rows])
            colour = primary * (1 - share_HW) + second * share_HW
        elif part.role in ("body", "accent"):
            colour = primary if part.role == "body" else second
        else:
            colour = planes(ROLE_COLOURS[part.role])
        lit_3HW = (colour * (light_S[columns] - light_S1[rows])).astype(np.float32)
        canvas.blend(box, mask_HW, np.minimum(lit_3HW, 255, out=lit_3HW))


def _drop_shadow(canvas: Canvas, x: float, y: float, scale: float) -> None:
    blur = canvas.size / 40
    reach = math.ceil(blur) + 1
    left, top = int(x - scale * 0.85), int(y - scale * 0.14)
    right, bottom = int(x + scale * 0.85), int(y + scale * 0.16)
    x0, x1 = max(left - reach, 0), min(right + reach + 1, canvas.size)
    y0, y1 = max(top - reach, 0), min(bottom + reach + 1, canvas.size)
    soft = Image.new("L", (x1 - x0, y1 - y0))
    ImageDraw.Draw(soft).ellipse((left - x0, top - y0, right - x0, bottom - y0), fill=110)
    soft = soft.filter(ImageFilter.BoxBlur(blur))
    canvas.pixels_3SS[:, y0:y1, x0:x1] *= 1 - np.asarray(soft, np.float32) / 255
