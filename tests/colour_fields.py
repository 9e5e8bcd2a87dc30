"""Colour fields as pictures, and neurons that report their colours: a study of files that is quickly decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_colour_fields(root: Path, n: int) -> None:
    """Leave `n` pictures in images/ and the responses (n, 30) to them in trials.npy."""
    rng = np.random.default_rng(0)
    colours = rng.integers(256, size=(n, 2, 2, 3), dtype=np.uint8)
    (root / "images").mkdir()
    for i, colour in enumerate(colours):
        picture = Image.fromarray(colour).resize((32, 32), Image.Resampling.BICUBIC)
        picture.save(root / "images" / f"image{i:03d}.png")
    x_NC = colours.reshape(n, 12) @ rng.normal(size=(12, 30)) / 128 + rng.normal(size=(n, 30)) * 0.1
    np.save(root / "trials.npy", x_NC.astype(np.float32))
