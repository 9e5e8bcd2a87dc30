"""What of an image drives the simulated brain: low-level features of the picture, and a vector of its concept.

Both are computed from the picture and its concept alone, independently of any visual encoder.

Letters: N images, F low-level features, D concept dimensions.
"""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import scipy.fft
import scipy.ndimage

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet
from hvf.runs import usable_cores
from hvf.simulation import rendering, shapes

# Weights, concept vectors and background sources, which all subjects share, are drawn from this seed.
WORLD_SEED = 20
WORKERS = min(16, usable_cores())
# Mean and spread of each feature over rendered images, so that all drive the brain about alike, around a common wave.
FEATURE_RANGE = {
    "luminance": (0.59, 0.20),
    "red-green": (-0.01, 0.16),
    "blue-yellow": (0.0, 0.18),
    "gabor-fine": (0.031, 0.017),
    "gabor-coarse": (0.043, 0.026),
}


def low_level(images: ImageSet) -> np.ndarray:
    """Low-level features of the images, float32 (N, F), about unit spread each.

    Luminance on 8 × 8 patches; red-green and blue-yellow opponency and the energy of Gabor filters (4 orientations ×
    2 scales) on 4 × 4 patches. Their order is that of `feature_layout`.
    """
    batches = [range(i, min(i + 32, len(images))) for i in range(0, len(images), 32)]
    with ThreadPoolExecutor(WORKERS) as pool:  # transforms run outside the interpreter's lock
        return np.concatenate(list(pool.map(lambda batch: _low_level(images.array(batch, size=64)), batches)))


def _low_level(x_NHWC: np.ndarray) -> np.ndarray:
    r, g, b = np.moveaxis(x_NHWC.astype(np.float32) / 255, 3, 0)
    luminance = 0.299 * r + 0.587 * g + 0.114 * b
    pooled = [
        _pool("luminance", luminance, 8),
        _pool("red-green", r - g, 4),
        _pool("blue-yellow", b - 0.5 * (r + g), 4),
    ]
    spectrum = scipy.fft.rfft2(luminance - luminance.mean((1, 2), keepdims=True))
    for scale, frequency in (("gabor-fine", 0.20), ("gabor-coarse", 0.09)):  # cycles per pixel
        for orientation in range(4):
            even, odd = (
                np.asarray(scipy.fft.irfft2(spectrum * kernel)) for kernel in _gabor(frequency, orientation * np.pi / 4)
            )
            pooled.append(_pool(scale, np.hypot(even, odd), 4))
    return np.concatenate(pooled, axis=1).astype(np.float32)


def _gabor(frequency: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Spectra, on the grid of rfft2 of a 64 × 64 image, of an even and an odd Gabor filter of about an octave."""
    fy, fx = np.meshgrid(np.fft.fftfreq(64), np.fft.rfftfreq(64), indexing="ij")
    width = frequency / 2.5
    u, v = frequency * np.cos(angle), frequency * np.sin(angle)
    plus = np.exp(-((fx - u) ** 2 + (fy - v) ** 2) / (2 * width**2))
    minus = np.exp(-((fx + u) ** 2 + (fy + v) ** 2) / (2 * width**2))
    return (plus + minus).astype(np.float32), (1j * (plus - minus)).astype(np.complex64)


def _pool(feature: str, x_NHW: np.ndarray, grid: int) -> np.ndarray:
    """Average over grid × grid patches, in the feature's own units of mean 0 and spread 1: (N, grid²), row by row."""
    n, size, _ = x_NHW.shape
    step = size // grid
    mean, spread = FEATURE_RANGE[feature]
    return (x_NHW.reshape(n, grid, step, grid, step).mean((2, 4)).reshape(n, grid * grid) - mean) / spread


@cache
def feature_layout() -> tuple[tuple[str, float, float], ...]:
    """Type and place in the visual field (x right, y up, -1 to 1) of each low-level feature."""

    def places(grid: int) -> list[tuple[float, float]]:
        steps = (np.arange(grid) + 0.5) / grid * 2 - 1
        return [(float(x), float(-y)) for y in steps for x in steps]

    types = [("luminance", 8), ("red-green", 4), ("blue-yellow", 4)]
    types += [("gabor-fine", 4)] * 4 + [("gabor-coarse", 4)] * 4
    return tuple((name, x, y) for name, grid in types for x, y in places(grid))


def concept_drive(images: ImageSet) -> np.ndarray:
    """Concept vector of each image, float32 (N, D): kind, texture and palette of what it shows.

    Kinds have similar vectors where they look alike or share a category, as in the lateral
    occipital complex. Raises HvfError for an image whose concept the simulator does not have.
    """
    known = _concepts_by_name()
    unknown = sorted({name for name in images.concepts if name not in known})
    if unknown:
        raise HvfError(f"the simulated brain does not know the concept {unknown[0]!r}; show it simulated stimuli")
    return np.stack([_concept_vector(known[name]) for name in images.concepts])


def noise_keys(images: ImageSet) -> list[str]:
    """What the noise of each image's trials is seeded with: its id, but the concept in it by its key."""
    known = _concepts_by_name()

    def key(image_id: str, name: str) -> str:
        named = name in known and image_id.startswith(name)
        return known[name].key + image_id.removeprefix(name) if named else image_id

    return list(map(key, images.ids, images.concepts))


def concept_dimensions() -> int:
    """D, the length of a concept vector."""
    return len(_concept_vector(rendering.concepts()[0]))


@cache
def _concepts_by_name() -> dict[str, rendering.Concept]:
    return {concept.name: concept for concept in rendering.concepts()}


@cache
def _concept_vector(concept: rendering.Concept) -> np.ndarray:
    kind = _shapes()[concept.kind]
    kind = 0.75 * kind + 0.5 * _word("category", concept.category, 20) + 0.43 * _word("kind", concept.kind, 20)
    parts = (kind, _word("texture", concept.texture, 8), _word("palette", concept.palette, 8))
    return np.concatenate(parts).astype(np.float32)


@cache
def _shapes() -> dict[str, np.ndarray]:
    """Shape vector of every kind, (20,), of mean square 1 over kinds.

    Principal components of the blurred silhouettes of an object and of its own-coloured parts, mirrored or not, without
    its position and size.
    """
    size, silhouettes = 32, {}
    for kind, parts in shapes.PARTS.items():
        planes = np.zeros((2, size, size), np.float32)
        masks = rendering.fill([(part.outline * 0.45 + 0.5) * size for part in parts], size)
        for part, (box, mask_HW) in zip(parts, masks, strict=True):
            for plane in planes[: 1 if part.role == "body" else 2]:
                place = plane[box[1] : box[3], box[0] : box[2]]
                np.maximum(place, mask_HW, out=place)
        blurred = scipy.ndimage.gaussian_filter(planes, (0, 1.5, 1.5))
        silhouettes[kind] = (blurred + blurred[:, :, ::-1]).ravel()
    x_KP = np.stack(list(silhouettes.values())) - np.mean(list(silhouettes.values()), axis=0)
    left, sizes, axes = np.linalg.svd(x_KP, full_matrices=False)
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])  # which svd leaves open
    x_KD = (left * sizes * signs)[:, :20]
    return dict(zip(silhouettes, x_KD / np.sqrt(np.square(x_KD).mean()), strict=True))


def _word(field: str, value: str, size: int) -> np.ndarray:
    """A random vector (size,) that stands for one value of a field, always the same."""
    return np.random.default_rng([WORLD_SEED, zlib.crc32(f"{field}:{value}".encode())]).standard_normal(size)
