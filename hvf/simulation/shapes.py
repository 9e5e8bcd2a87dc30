"""Shapes of the rendered stimuli: each kind is a list of coloured outlines (410 lines: one outline, one line).

Coordinates run from -1 to 1, x to the right and y down, so that an object fills the unit square and stands on y = 1.
A part is an outline with a role; the role says which colour it takes: "body" and "accent" come from the concept's
palette (the body carries the texture), every other role has a colour of its own in `rendering.ROLE_COLOURS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Points = np.ndarray  # (P, 2) outline, x then y


@dataclass(frozen=True)
class Part:
    """One closed outline of an object. ``outline`` has shape (P, 2)."""

    role: str
    outline: Points


def _poly(role: str, *xy: float) -> Part:
    return Part(role, np.asarray(xy, dtype=float).reshape(-1, 2))


def _rect(role: str, x0: float, y0: float, x1: float, y1: float) -> Part:
    return _poly(role, x0, y0, x1, y0, x1, y1, x0, y1)


def _oval(role: str, cx: float, cy: float, rx: float, ry: float | None = None, tilt: float = 0.0) -> Part:
    """Ellipse with half-axes rx, ry, turned by ``tilt`` degrees clockwise."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x, y = rx * np.cos(angle), (rx if ry is None else ry) * np.sin(angle)
    c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    return Part(role, np.stack([cx + c * x - s * y, cy + s * x + c * y], axis=1))


def _smooth(role: str, *xy: float) -> Part:
    """Closed Catmull-Rom curve through the points."""
    p = np.asarray(xy, dtype=float).reshape(-1, 2)
    before, after, beyond = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = np.linspace(0, 1, 8, endpoint=False)[None, :, None]
    a, b, c, d = (q[:, None, :] for q in (before, p, after, beyond))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return Part(role, curve.reshape(-1, 2))


def _line(role: str, width: float, *xy: float) -> list[Part]:
    """Thick line through the points: a quad for each piece and a disc at each joint."""
    p = np.asarray(xy, dtype=float).reshape(-1, 2)
    parts = []
    for (x0, y0), (x1, y1) in zip(p[:-1], p[1:], strict=False):
        normal = np.array([y0 - y1, x1 - x0]) / np.hypot(x1 - x0, y1 - y0) * width / 2
        parts.append(Part(role, np.array([[x0, y0] + normal, [x1, y1] + normal, [x1, y1] - normal, [x0, y0] - normal])))
    return parts + [_oval(role, x, y, width / 2) for x, y in p]


def _ring(role: str, width: float, cx: float, cy: float, rx: float, ry: float, start: float, stop: float) -> list[Part]:
    """Part of an elliptic ring between two angles in degrees (0 = right, 90 = down)."""
    angle = np.radians(np.linspace(start, stop, 24))
    outer = np.stack([cx + (rx + width / 2) * np.cos(angle), cy + (ry + width / 2) * np.sin(angle)], 1)
    inner = np.stack([cx + (rx - width / 2) * np.cos(angle), cy + (ry - width / 2) * np.sin(angle)], 1)
    return [Part(role, np.concatenate([outer, inner[::-1]]))]


def _wheels(y: float, radius: float, *xs: float) -> list[Part]:
    return [part for x in xs for part in (_oval("dark", x, y, radius), _oval("metal", x, y, radius * 0.45))]


def _eye(x: float, y: float, radius: float = 0.09) -> list[Part]:
    return [_oval("light", x, y, radius), _oval("dark", x + radius * 0.2, y, radius * 0.6)]


# --- fruit and plants -------------------------------------------------------------------------------------------------


def apple() -> list[Part]:
    body = _smooth("body", 0, -0.5, 0.5, -0.68, 0.88, -0.2, 0.7, 0.6, 0.25, 0.95, 0, 0.87, -0.25, 0.95, -0.7, 0.6, -0.88, -0.2, -0.5, -0.68)  # fmt: skip
    return [body, *_line("wood", 0.1, 0, -0.48, 0.08, -0.88), _smooth("leaf", 0.08, -0.75, 0.35, -1, 0.65, -0.92, 0.4, -0.7)]  # fmt: skip


def pear() -> list[Part]:
    body = _smooth("body", 0, -0.75, 0.3, -0.55, 0.35, -0.1, 0.72, 0.4, 0.45, 0.92, 0, 0.98, -0.45, 0.92, -0.72, 0.4, -0.35, -0.1, -0.3, -0.55)  # fmt: skip
    return [body, *_line("wood", 0.1, 0, -0.72, 0.1, -1), _smooth("leaf", 0.08, -0.85, 0.4, -1, 0.6, -0.8, 0.3, -0.72)]


def banana() -> list[Part]:
    body = _smooth("body", -0.9, -0.45, -0.75, -0.55, -0.4, 0.0, 0.2, 0.2, 0.75, -0.1, 0.9, 0.0, 0.6, 0.55, 0, 0.75, -0.6, 0.45)  # fmt: skip
    return [body, _poly("wood", -0.95, -0.5, -0.85, -0.75, -0.7, -0.7, -0.72, -0.45), _oval("dark", 0.86, -0.02, 0.09)]


def cherries() -> list[Part]:
    stems = _line("leaf", 0.08, -0.45, 0.3, -0.1, -0.4, 0.1, -0.85) + _line("leaf", 0.08, 0.5, 0.4, 0.3, -0.3, 0.1, -0.85)  # fmt: skip
    return [*stems, _smooth("leaf", 0.1, -0.85, 0.5, -1, 0.85, -0.75, 0.4, -0.65), _oval("body", -0.47, 0.5, 0.44), _oval("body", 0.5, 0.55, 0.4)]  # fmt: skip


def strawberry() -> list[Part]:
    body = _smooth("body", -0.7, -0.45, 0, -0.55, 0.7, -0.45, 0.72, 0.1, 0.35, 0.7, 0, 0.98, -0.35, 0.7, -0.72, 0.1)
    leaves = _poly("leaf", -0.7, -0.55, -0.3, -0.75, -0.15, -1, 0.05, -0.75, 0.3, -0.95, 0.35, -0.7, 0.72, -0.55, 0.35, -0.3, 0.15, -0.4, 0, -0.15, -0.2, -0.4, -0.4, -0.28)  # fmt: skip
    return [body, *(_oval("light", x, y, 0.05, 0.07) for x, y in ((-0.35, 0), (0.05, 0.1), (0.42, 0.0), (-0.15, 0.45), (0.25, 0.45), (0, 0.75))), leaves]  # fmt: skip


def grapes() -> list[Part]:
    rows = [(-0.2, (-0.6, -0.2, 0.2, 0.6)), (0.15, (-0.42, 0, 0.42)), (0.48, (-0.22, 0.22)), (0.78, (0,))]
    berries = [_oval("body", x, y, 0.25) for y, xs in rows for x in xs]
    return [*_line("wood", 0.1, 0, -0.3, 0.05, -0.9), _smooth("leaf", 0, -0.5, 0.35, -0.95, 0.85, -0.75, 0.5, -0.45), *berries]  # fmt: skip


def carrot() -> list[Part]:
    body = _smooth("body", -0.35, -0.35, 0, -0.45, 0.35, -0.35, 0.33, 0.0, 0.12, 0.75, 0, 1, -0.12, 0.75, -0.33, 0.0)
    return [_poly("leaf", 0, -0.35, -0.5, -0.9, -0.2, -0.75, -0.1, -1, 0.1, -0.75, 0.25, -1, 0.28, -0.7, 0.55, -0.8), body]  # fmt: skip


def mushroom() -> list[Part]:
    return [_smooth("light", -0.25, 0, 0.25, 0, 0.28, 0.6, 0.38, 0.97, -0.38, 0.97, -0.28, 0.6), _smooth("body", -0.95, 0.08, -0.8, -0.5, 0, -0.9, 0.8, -0.5, 0.95, 0.08, 0, 0.2)]  # fmt: skip


def flower() -> list[Part]:
    angles = np.radians(np.arange(0, 360, 60))
    petals = [_oval("body", 0.42 * np.cos(a), -0.4 + 0.42 * np.sin(a), 0.3) for a in angles]
    return [*_line("leaf", 0.12, 0, -0.2, 0.02, 1), _smooth("leaf", 0, 0.65, 0.3, 0.25, 0.65, 0.25, 0.35, 0.6), *petals, _oval("accent", 0, -0.4, 0.27)]  # fmt: skip


def tree() -> list[Part]:
    crown = [_oval("body", x, y, r) for x, y, r in ((-0.42, -0.05, 0.45), (0.42, -0.05, 0.45), (0, -0.45, 0.52))]
    return [_poly("wood", -0.14, 0, 0.14, 0, 0.22, 1, -0.22, 1), *crown]


def cactus() -> list[Part]:
    arms = _line("body", 0.28, -0.62, -0.25, -0.62, 0.25, 0, 0.25) + _line("body", 0.28, 0.62, -0.5, 0.62, 0, 0, 0)
    return [*arms, *_line("body", 0.46, 0, -0.7, 0, 0.6), _poly("accent", -0.5, 0.6, 0.5, 0.6, 0.4, 1, -0.4, 1)]


# --- vehicles ---------------------------------------------------------------------------------------------------------


def car() -> list[Part]:
    body = _smooth("body", -0.97, 0.3, -0.9, 0.02, -0.5, -0.05, -0.3, -0.45, 0.3, -0.47, 0.55, -0.05, 0.92, 0.08, 0.98, 0.45, 0.9, 0.6, -0.92, 0.6)  # fmt: skip
    windows = [_poly("glass", -0.38, -0.05, -0.22, -0.36, 0.0, -0.36, 0.0, -0.05), _poly("glass", 0.08, -0.05, 0.08, -0.36, 0.26, -0.36, 0.42, -0.05)]  # fmt: skip
    return [body, *windows, *_wheels(0.6, 0.26, -0.52, 0.55), _oval("accent", 0.9, 0.2, 0.09)]


def bus() -> list[Part]:
    windows = [_rect("glass", x, -0.42, x + 0.3, -0.05) for x in (-0.85, -0.42, 0.01, 0.44)]
    return [_smooth("body", -0.95, -0.6, 0, -0.66, 0.95, -0.6, 0.98, 0, 0.95, 0.6, 0, 0.62, -0.95, 0.6, -0.98, 0), *windows, _rect("accent", -0.95, 0.15, 0.95, 0.28), *_wheels(0.62, 0.24, -0.5, 0.5)]  # fmt: skip


def truck() -> list[Part]:
    cab = _poly("accent", 0.38, -0.25, 0.72, -0.25, 0.97, 0.15, 0.97, 0.55, 0.38, 0.55)
    return [_rect("body", -0.97, -0.65, 0.32, 0.45), _rect("dark", -0.95, 0.45, 0.95, 0.58), cab, _poly("glass", 0.5, -0.13, 0.68, -0.13, 0.84, 0.15, 0.5, 0.15), *_wheels(0.62, 0.24, -0.6, 0.62)]  # fmt: skip


def sailboat() -> list[Part]:
    hull = _smooth("accent", -0.95, 0.45, 0, 0.5, 0.95, 0.45, 0.6, 0.92, 0, 0.95, -0.6, 0.92)
    return [_rect("wood", -0.06, -0.95, 0.06, 0.5), _poly("body", 0.1, -0.9, 0.88, 0.36, 0.1, 0.36), _poly("body", -0.1, -0.6, -0.1, 0.36, -0.7, 0.36), hull]  # fmt: skip


def airplane() -> list[Part]:
    tail = _poly("accent", -0.9, -0.55, -0.62, -0.55, -0.4, -0.05, -0.8, -0.05)
    wing = _poly("accent", -0.15, 0.05, 0.3, 0.05, -0.1, 0.7, -0.4, 0.7)
    ports = [_oval("glass", x, -0.08, 0.07) for x in (-0.35, -0.1, 0.15, 0.4)]
    return [tail, _smooth("body", -0.95, -0.15, -0.5, -0.25, 0.5, -0.25, 0.95, 0.02, 0.6, 0.22, -0.5, 0.2), *ports, wing]  # fmt: skip


def rocket() -> list[Part]:
    flame = _poly("fire", -0.22, 0.6, 0.22, 0.6, 0.08, 0.8, 0, 1, -0.08, 0.8)
    fins = [_poly("accent", -0.3, 0.1, -0.7, 0.7, -0.25, 0.6), _poly("accent", 0.3, 0.1, 0.7, 0.7, 0.25, 0.6)]
    return [flame, *fins, _smooth("body", 0, -1, 0.28, -0.6, 0.36, 0.0, 0.28, 0.62, -0.28, 0.62, -0.36, 0.0, -0.28, -0.6), _oval("metal", 0, -0.3, 0.2), _oval("glass", 0, -0.3, 0.14)]  # fmt: skip


def train() -> list[Part]:
    chimney = _poly("dark", 0.45, -0.75, 0.85, -0.75, 0.75, -0.35, 0.55, -0.35)
    return [chimney, _smooth("body", -0.3, -0.35, 0.85, -0.35, 0.95, 0, 0.85, 0.42, -0.3, 0.42), _rect("accent", -0.95, -0.7, -0.2, 0.45), _rect("glass", -0.78, -0.5, -0.38, -0.12), _rect("dark", -1, 0.42, 0.98, 0.55), *_wheels(0.7, 0.25, -0.65, -0.05, 0.55)]  # fmt: skip


def balloon() -> list[Part]:
    ropes = _line("wood", 0.05, -0.35, 0.3, -0.2, 0.7) + _line("wood", 0.05, 0.35, 0.3, 0.2, 0.7)
    return [*ropes, _rect("wood", -0.24, 0.66, 0.24, 0.98), _smooth("body", 0, -1, 0.6, -0.78, 0.75, -0.25, 0.4, 0.25, 0.2, 0.42, -0.2, 0.42, -0.4, 0.25, -0.75, -0.25, -0.6, -0.78)]  # fmt: skip


def bicycle() -> list[Part]:
    wheels = [p for x in (-0.58, 0.58) for p in _ring("dark", 0.11, x, 0.5, 0.38, 0.38, 0, 360)]
    frame = _line("body", 0.15, -0.58, 0.5, -0.2, -0.15, 0.38, -0.15, 0.02, 0.5, -0.58, 0.5) + _line("body", 0.15, 0.02, 0.5, -0.28, -0.4)  # fmt: skip
    return [*wheels, *frame, *_line("body", 0.13, 0.58, 0.5, 0.34, -0.5), *_line("accent", 0.13, 0.2, -0.55, 0.5, -0.5), *_line("accent", 0.17, -0.45, -0.42, -0.12, -0.42)]  # fmt: skip


# --- animals ----------------------------------------------------------------------------------------------------------


def fish() -> list[Part]:
    return [_poly("accent", -0.5, 0, -0.98, -0.5, -0.85, 0, -0.98, 0.5), _poly("accent", -0.1, -0.4, 0.2, -0.75, 0.4, -0.35), _oval("body", 0.15, 0, 0.75, 0.5), *_eye(0.6, -0.12, 0.11)]  # fmt: skip


def cat() -> list[Part]:
    tail = _line("body", 0.16, -0.5, 0.8, -0.85, 0.6, -0.88, 0.1)
    ears = [_poly("body", -0.15, -0.6, -0.1, -1, 0.2, -0.75), _poly("body", 0.35, -0.75, 0.65, -1, 0.68, -0.55)]
    return [*tail, _smooth("body", -0.1, -0.2, 0.45, -0.2, 0.6, 0.5, 0.55, 0.97, -0.5, 0.97, -0.55, 0.5), *ears, _oval("body", 0.27, -0.45, 0.44, 0.37), *_eye(0.12, -0.5), *_eye(0.45, -0.5), _poly("pink", 0.2, -0.34, 0.36, -0.34, 0.28, -0.24)]  # fmt: skip


def bird() -> list[Part]:
    legs = _line("orange", 0.07, -0.1, 0.6, -0.1, 0.97) + _line("orange", 0.07, 0.15, 0.6, 0.15, 0.97)
    return [*legs, _poly("accent", -0.5, 0.1, -1, -0.15, -0.95, 0.25, -0.5, 0.4), _smooth("body", 0.2, -0.75, 0.65, -0.6, 0.68, -0.2, 0.45, 0.5, -0.1, 0.7, -0.65, 0.3, -0.1, -0.1, 0.05, -0.5), _poly("orange", 0.62, -0.55, 1, -0.4, 0.65, -0.28), _smooth("accent", -0.5, 0.1, 0.1, 0, 0.25, 0.25, -0.1, 0.5), *_eye(0.4, -0.48)]  # fmt: skip


def butterfly() -> list[Part]:
    wings = [_smooth("body", 0, -0.1, s * 0.4, -0.8, s * 0.95, -0.75, s * 0.85, -0.1) for s in (-1, 1)]
    lower = [_smooth("accent", 0, 0, s * 0.75, 0.05, s * 0.7, 0.7, s * 0.25, 0.75) for s in (-1, 1)]
    feelers = _line("dark", 0.05, 0, -0.5, -0.25, -0.95) + _line("dark", 0.05, 0, -0.5, 0.25, -0.95)
    return [*lower, *wings, *feelers, _oval("dark", 0, 0, 0.1, 0.55)]


def snail() -> list[Part]:
    foot = _smooth("accent", -0.95, 0.92, -0.5, 0.65, 0.4, 0.6, 0.55, 0, 0.8, -0.25, 0.95, 0.1, 0.85, 0.8, 0.5, 0.95)
    horns = _line("accent", 0.07, 0.7, -0.1, 0.6, -0.55) + _line("accent", 0.07, 0.82, -0.1, 0.92, -0.5)
    return [*horns, foot, _oval("body", -0.15, 0.12, 0.62), *_ring("dark", 0.08, -0.15, 0.12, 0.3, 0.3, 60, 330), *_eye(0.8, 0.05, 0.07)]  # fmt: skip


def turtle() -> list[Part]:
    legs = [_oval("leaf", x, 0.7, 0.17, 0.26) for x in (-0.5, 0.35)]
    return [*legs, _oval("leaf", 0.78, 0.1, 0.24, 0.22), _poly("leaf", -0.7, 0.4, -1, 0.6, -0.7, 0.6), _smooth("body", -0.8, 0.55, -0.65, -0.15, -0.1, -0.55, 0.45, -0.15, 0.62, 0.55, 0, 0.62), *_eye(0.85, 0.04, 0.07)]  # fmt: skip


def elephant() -> list[Part]:
    legs = [_rect("body", x, 0.3, x + 0.26, 0.97) for x in (-0.75, -0.35, 0.08)]
    trunk = _line("body", 0.22, 0.68, -0.2, 0.9, 0.3, 0.82, 0.75)
    return [*legs, _oval("body", -0.25, 0.05, 0.65, 0.5), *trunk, _oval("body", 0.5, -0.3, 0.4, 0.42), _oval("accent", 0.22, -0.3, 0.28, 0.4), _poly("light", 0.68, 0.05, 0.98, 0.25, 0.7, 0.2), *_eye(0.65, -0.4, 0.07)]  # fmt: skip


def duck() -> list[Part]:
    body = _smooth("body", -0.95, -0.1, -0.5, 0.1, 0.1, 0.05, 0.35, 0.0, 0.7, 0.35, 0.4, 0.85, -0.3, 0.9, -0.8, 0.5)
    return [body, _oval("body", 0.4, -0.35, 0.42), _poly("orange", 0.75, -0.4, 1, -0.22, 0.72, -0.1), _smooth("accent", -0.5, 0.3, 0, 0.25, 0.2, 0.5, -0.25, 0.65), *_eye(0.5, -0.45)]  # fmt: skip


def whale() -> list[Part]:
    spout = [*_ring("glass", 0.1, 0.15, -0.6, 0.2, 0.25, 180, 350), *_ring("glass", 0.1, 0.6, -0.6, 0.22, 0.25, 190, 360)]  # fmt: skip
    return [*spout, _poly("accent", -0.7, 0.2, -1, -0.4, -0.75, -0.25, -0.55, -0.45, -0.5, 0.2), _smooth("body", -0.75, 0.1, -0.3, 0.0, 0.2, -0.35, 0.8, -0.15, 0.95, 0.3, 0.6, 0.72, -0.1, 0.75, -0.65, 0.5), _smooth("light", 0.9, 0.4, 0.6, 0.7, 0, 0.72, 0.4, 0.5), *_eye(0.62, 0.12, 0.08)]  # fmt: skip


def rabbit() -> list[Part]:
    ears = [_oval("body", 0.05, -0.65, 0.14, 0.36, -12), _oval("body", 0.42, -0.65, 0.14, 0.36, 12), _oval("pink", 0.42, -0.65, 0.06, 0.25, 12)]  # fmt: skip
    return [*ears, _oval("light", -0.62, 0.6, 0.2), _oval("body", -0.12, 0.5, 0.52, 0.48), _oval("body", 0.25, -0.12, 0.38, 0.34), _oval("accent", 0.25, 0.88, 0.28, 0.11), *_eye(0.15, -0.18), *_eye(0.4, -0.18), _oval("pink", 0.3, 0.0, 0.06)]  # fmt: skip


def penguin() -> list[Part]:
    feet = [_oval("orange", x, 0.92, 0.22, 0.09) for x in (-0.25, 0.25)]
    wings = [_oval("body", -0.55, 0.2, 0.14, 0.42, 15), _oval("body", 0.55, 0.2, 0.14, 0.42, -15)]
    return [*feet, *wings, _oval("body", 0, 0.1, 0.55, 0.82), _oval("light", 0, 0.28, 0.38, 0.58), *_eye(-0.16, -0.45), *_eye(0.16, -0.45), _poly("orange", -0.12, -0.32, 0.12, -0.32, 0, -0.12)]  # fmt: skip


def ladybird() -> list[Part]:
    legs = [p for y in (0, 0.35, 0.7) for p in _line("dark", 0.08, -0.85, y, 0.85, y)]
    return [*legs, _oval("dark", 0, -0.6, 0.4, 0.32), _oval("body", 0, 0.2, 0.72, 0.74), *_line("dark", 0.07, 0, -0.5, 0, 0.92), *(_oval("dark", x, y, 0.12) for x, y in ((-0.35, 0), (0.35, 0), (-0.35, 0.5), (0.35, 0.5))), *_eye(-0.18, -0.68, 0.08), *_eye(0.18, -0.68, 0.08)]  # fmt: skip


# --- houses -----------------------------------------------------------------------------------------------------------


def house() -> list[Part]:
    windows = [_rect("glass", -0.55, 0.1, -0.2, 0.45), _rect("glass", 0.3, 0.1, 0.6, 0.45)]
    return [_rect("wood", 0.4, -0.8, 0.58, -0.3), _rect("body", -0.75, -0.15, 0.75, 0.97), _poly("accent", -0.98, -0.1, 0, -0.95, 0.98, -0.1), *windows, _rect("wood", -0.1, 0.45, 0.2, 0.97)]  # fmt: skip


def castle() -> list[Part]:
    towers = [p for x in (-0.95, 0.5) for p in (_rect("body", x, -0.35, x + 0.45, 0.97), _poly("accent", x - 0.06, -0.33, x + 0.22, -0.98, x + 0.51, -0.33), _rect("dark", x + 0.15, -0.1, x + 0.3, 0.2))]  # fmt: skip
    merlons = [_rect("body", x, -0.05, x + 0.18, 0.3) for x in (-0.45, -0.1, 0.25)]
    return [*merlons, _rect("body", -0.6, 0.15, 0.6, 0.97), *towers, _smooth("wood", -0.2, 0.97, -0.2, 0.6, 0, 0.4, 0.2, 0.6, 0.2, 0.97)]  # fmt: skip


def lighthouse() -> list[Part]:
    return [_poly("body", -0.25, -0.4, 0.25, -0.4, 0.42, 0.85, -0.42, 0.85), _rect("wood", -0.62, 0.82, 0.62, 0.98), _rect("fire", -0.2, -0.72, 0.2, -0.4), _rect("dark", -0.34, -0.44, 0.34, -0.34), _poly("accent", -0.34, -0.7, 0, -1, 0.34, -0.7), _rect("glass", -0.1, 0, 0.1, 0.25)]  # fmt: skip


def tent() -> list[Part]:
    return [_poly("body", -0.98, 0.85, -0.1, -0.7, 0.98, 0.85), _poly("dark", -0.45, 0.85, -0.1, -0.3, 0.25, 0.85), _poly("accent", -0.1, -0.3, 0.25, 0.85, 0.45, 0.85), *_line("wood", 0.07, -0.1, -0.6, -0.1, -0.95), _poly("accent", -0.1, -0.98, 0.3, -0.85, -0.1, -0.72)]  # fmt: skip


def windmill() -> list[Part]:
    angles = np.radians([30, 120, 210, 300])
    sails = [p for a in angles for p in _line("accent", 0.2, 0.12 * np.cos(a), -0.3 + 0.12 * np.sin(a), 0.66 * np.cos(a), -0.3 + 0.66 * np.sin(a))]  # fmt: skip
    return [_poly("body", -0.28, -0.25, 0.28, -0.25, 0.5, 0.97, -0.5, 0.97), _oval("body", 0, -0.27, 0.3, 0.27), _rect("wood", -0.13, 0.55, 0.13, 0.97), *sails, _oval("dark", 0, -0.3, 0.1)]  # fmt: skip


# --- at home ----------------------------------------------------------------------------------------------------------


def cup() -> list[Part]:
    return [*_ring("body", 0.16, 0.55, 0.15, 0.28, 0.3, -90, 90), _smooth("body", -0.65, -0.5, 0, -0.45, 0.6, -0.5, 0.55, 0.5, 0.3, 0.85, -0.35, 0.85, -0.6, 0.5), _oval("wood", -0.03, -0.5, 0.55, 0.13), _oval("accent", -0.03, 0.9, 0.7, 0.08)]  # fmt: skip


def teapot() -> list[Part]:
    return [*_ring("accent", 0.14, -0.6, 0.15, 0.32, 0.34, 90, 270), _smooth("body", 0.4, 0.3, 0.7, -0.1, 0.75, -0.4, 0.98, -0.4, 0.9, 0.1, 0.5, 0.6), _oval("body", 0, 0.25, 0.62, 0.58), _smooth("accent", -0.36, -0.25, 0, -0.5, 0.36, -0.25, 0, -0.18), _oval("accent", 0, -0.55, 0.12)]  # fmt: skip


def chair() -> list[Part]:
    legs = [_rect("wood", -0.55, 0.2, -0.41, 0.97), _rect("wood", 0.42, 0.2, 0.56, 0.97)]
    return [*legs, _rect("wood", -0.6, -0.9, -0.44, 0.2), _smooth("body", -0.62, -0.95, -0.36, -0.9, -0.34, 0.0, -0.6, 0.05), _smooth("body", -0.62, 0.05, 0.6, 0.02, 0.66, 0.18, 0.6, 0.32, -0.62, 0.3)]  # fmt: skip


def bottle() -> list[Part]:
    return [_rect("wood", -0.13, -1, 0.13, -0.8), _smooth("body", -0.15, -0.85, 0.15, -0.85, 0.18, -0.4, 0.42, -0.05, 0.42, 0.85, 0.3, 0.97, -0.3, 0.97, -0.42, 0.85, -0.42, -0.05, -0.18, -0.4), _rect("light", -0.38, 0.15, 0.38, 0.6)]  # fmt: skip


def clock() -> list[Part]:
    feet = _line("wood", 0.14, -0.5, 0.6, -0.65, 0.92) + _line("wood", 0.14, 0.5, 0.6, 0.65, 0.92)
    bells = [_oval("accent", -0.42, -0.72, 0.26, 0.2, -35), _oval("accent", 0.42, -0.72, 0.26, 0.2, 35)]
    return [*feet, *bells, _oval("body", 0, 0.05, 0.76), _oval("light", 0, 0.05, 0.54), *_line("dark", 0.09, 0, 0.05, 0, -0.35), *_line("dark", 0.09, 0, 0.05, 0.28, 0.18)]  # fmt: skip


def gift() -> list[Part]:
    bow = [_smooth("accent", 0, -0.45, s * 0.2, -0.9, s * 0.6, -0.85, s * 0.5, -0.5) for s in (-1, 1)]
    return [*bow, _rect("body", -0.72, -0.1, 0.72, 0.95), _rect("body", -0.85, -0.45, 0.85, -0.05), _rect("accent", -0.13, -0.45, 0.13, 0.95)]  # fmt: skip


def candle() -> list[Part]:
    flame = _smooth("fire", 0, -1, 0.16, -0.65, 0, -0.42, -0.16, -0.65)
    return [*_line("dark", 0.05, 0, -0.5, 0, -0.3), flame, _rect("body", -0.28, -0.35, 0.28, 0.8), _smooth("metal", -0.7, 0.75, 0, 0.7, 0.7, 0.75, 0.4, 0.97, -0.4, 0.97)]  # fmt: skip


def lamp() -> list[Part]:
    return [_rect("metal", -0.07, -0.1, 0.07, 0.85), _oval("metal", 0, 0.88, 0.45, 0.12), _poly("body", -0.38, -0.9, 0.38, -0.9, 0.75, -0.05, -0.75, -0.05), _rect("accent", -0.75, -0.12, 0.75, -0.02)]  # fmt: skip


def umbrella() -> list[Part]:
    handle = _line("wood", 0.09, 0, -0.2, 0, 0.75) + _ring("wood", 0.09, 0.17, 0.75, 0.17, 0.17, 0, 180)
    return [*handle, _poly("body", -0.97, 0.1, -0.85, -0.35, -0.5, -0.72, 0, -0.88, 0.5, -0.72, 0.85, -0.35, 0.97, 0.1, 0.65, -0.05, 0.33, 0.1, 0, -0.05, -0.33, 0.1, -0.65, -0.05), *_line("dark", 0.07, 0, -0.85, 0, -0.98)]  # fmt: skip


# --- tools, clothes and toys ------------------------------------------------------------------------------------------


def hammer() -> list[Part]:
    return [_poly("body", -0.12, -0.5, 0.12, -0.5, 0.16, 0.97, -0.16, 0.97), _smooth("metal", -0.72, -0.85, 0.3, -0.85, 0.85, -0.55, 0.3, -0.45, -0.72, -0.42)]  # fmt: skip


def key() -> list[Part]:
    teeth = [_rect("body", 0.45, 0.05, 0.58, 0.42), _rect("body", 0.75, 0.05, 0.88, 0.36)]
    return [*_ring("body", 0.24, -0.55, 0, 0.3, 0.32, 0, 360), _rect("body", -0.18, -0.11, 0.95, 0.11), *teeth]


def pencil() -> list[Part]:
    return [_rect("body", -0.22, -0.6, 0.22, 0.55), _poly("light", -0.22, 0.55, 0.22, 0.55, 0, 0.98), _poly("dark", -0.07, 0.82, 0.07, 0.82, 0, 0.98), _rect("metal", -0.22, -0.72, 0.22, -0.58), _oval("pink", 0, -0.8, 0.22, 0.18)]  # fmt: skip


def scissors() -> list[Part]:
    loops = [p for x in (-0.38, 0.38) for p in _ring("body", 0.17, x, 0.62, 0.23, 0.26, 0, 360)]
    return [_poly("metal", -0.5, -0.98, -0.28, -0.95, 0.3, 0.4, 0.12, 0.5), _poly("metal", 0.5, -0.98, 0.28, -0.95, -0.3, 0.4, -0.12, 0.5), *loops, _oval("dark", 0, 0.1, 0.07)]  # fmt: skip


def spade() -> list[Part]:
    return [_rect("wood", -0.08, -0.8, 0.08, 0.2), *_line("accent", 0.16, -0.28, -0.85, 0.28, -0.85), _smooth("body", -0.42, 0.1, 0.42, 0.1, 0.45, 0.5, 0, 0.98, -0.45, 0.5)]  # fmt: skip


def hat() -> list[Part]:
    return [_oval("body", 0, 0.55, 0.97, 0.26), _smooth("body", -0.5, 0.45, -0.45, -0.5, 0, -0.62, 0.45, -0.5, 0.5, 0.45, 0, 0.58), _poly("accent", -0.5, 0.2, 0.5, 0.2, 0.52, 0.46, -0.52, 0.46)]  # fmt: skip


def shirt() -> list[Part]:
    return [_poly("body", -0.35, -0.8, 0.35, -0.8, 0.97, -0.35, 0.72, 0.05, 0.5, -0.1, 0.5, 0.9, -0.5, 0.9, -0.5, -0.1, -0.72, 0.05, -0.97, -0.35), _oval("accent", 0, -0.78, 0.26, 0.16), *(_oval("accent", 0, y, 0.06) for y in (-0.35, 0, 0.35))]  # fmt: skip


def boot() -> list[Part]:
    return [_smooth("body", -0.5, -0.9, 0.12, -0.9, 0.15, 0.1, 0.75, 0.35, 0.85, 0.75, -0.55, 0.75, -0.52, 0), _rect("dark", -0.58, 0.72, 0.88, 0.92), _rect("accent", -0.55, -0.95, 0.16, -0.7)]  # fmt: skip


def ball() -> list[Part]:
    return [_oval("body", 0, 0.08, 0.88)]


def kite() -> list[Part]:
    tail = _line("wood", 0.05, 0, 0.5, 0.25, 0.7, 0.1, 0.95)
    return [*tail, _poly("body", 0, -0.98, 0.62, -0.2, 0, 0.55, -0.62, -0.2), _poly("accent", 0, -0.98, 0.62, -0.2, 0, -0.2), _poly("accent", 0, 0.55, -0.62, -0.2, 0, -0.2), _oval("pink", 0.22, 0.72, 0.12, 0.08)]  # fmt: skip


def drum() -> list[Part]:
    sticks = _line("wood", 0.09, -0.9, -0.9, -0.15, -0.4) + _line("wood", 0.09, 0.9, -0.9, 0.15, -0.4)
    return [_rect("body", -0.75, -0.3, 0.75, 0.7), _oval("body", 0, 0.7, 0.75, 0.24), _oval("light", 0, -0.3, 0.75, 0.24), _rect("accent", -0.75, 0.5, 0.75, 0.64), *sticks]  # fmt: skip


def guitar() -> list[Part]:
    return [_rect("wood", -0.1, -0.85, 0.1, 0.1), _rect("dark", -0.17, -1, 0.17, -0.78), _smooth("body", 0, -0.08, 0.42, 0.0, 0.33, 0.28, 0.6, 0.68, 0.3, 0.97, -0.3, 0.97, -0.6, 0.68, -0.33, 0.28, -0.42, 0.0), _oval("dark", 0, 0.42, 0.17)]  # fmt: skip


def robot() -> list[Part]:
    limbs = [_rect("metal", -0.9, -0.05, -0.62, 0.5), _rect("metal", 0.62, -0.05, 0.9, 0.5), _rect("metal", -0.42, 0.6, -0.12, 0.97), _rect("metal", 0.12, 0.6, 0.42, 0.97)]  # fmt: skip
    return [*limbs, *_line("metal", 0.07, 0, -0.7, 0, -0.95), _rect("body", -0.6, -0.12, 0.6, 0.65), _rect("accent", -0.45, -0.75, 0.45, -0.15), *_eye(-0.2, -0.5, 0.12), *_eye(0.2, -0.5, 0.12), _rect("dark", -0.2, -0.3, 0.2, -0.22)]  # fmt: skip


def teddy() -> list[Part]:
    ears = [_oval("body", -0.36, -0.78, 0.18), _oval("body", 0.36, -0.78, 0.18)]
    limbs = [_oval("body", x, y, 0.22, 0.28, t) for x, y, t in ((-0.6, 0.15, 40), (0.6, 0.15, -40), (-0.42, 0.78, 30), (0.42, 0.78, -30))]  # fmt: skip
    return [*ears, *limbs, _oval("body", 0, 0.38, 0.5, 0.5), _oval("accent", 0, 0.42, 0.28, 0.3), _oval("body", 0, -0.42, 0.45, 0.4), _oval("light", 0, -0.3, 0.2, 0.15), _oval("dark", 0, -0.36, 0.08, 0.06), *_eye(-0.17, -0.55, 0.07), *_eye(0.17, -0.55, 0.07)]  # fmt: skip


KINDS: dict[str, tuple[Callable[[], list[Part]], ...]] = {
    "fruit": (apple, pear, banana, cherries, strawberry, grapes),
    "plant": (carrot, mushroom, flower, tree, cactus),
    "vehicle": (car, bus, truck, sailboat, airplane, rocket, train, balloon, bicycle),
    "animal": (fish, cat, bird, butterfly, snail, turtle, elephant, duck, whale, rabbit, penguin, ladybird),
    "building": (house, castle, lighthouse, tent, windmill),
    "household": (cup, teapot, chair, bottle, clock, gift, candle, lamp, umbrella),
    "tool": (hammer, key, pencil, scissors, spade),
    "clothing": (hat, shirt, boot),
    "toy": (ball, kite, drum, guitar, robot, teddy),
}
PARTS: dict[str, list[Part]] = {draw.__name__: draw() for draws in KINDS.values() for draw in draws}
CATEGORY: dict[str, str] = {draw.__name__: category for category, draws in KINDS.items() for draw in draws}
