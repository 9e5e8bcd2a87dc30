"""The embedded world: a THINGS-like study whose images are rendered and whose brains are dipoles in a head.

Early sources (occipital, retinotopic, around 100 ms) carry luminance, colour opponency and Gabor energy of the image;
later ones (temporal and parietal, 170 to 300 ms) carry the concept: kind (what looks alike is coded alike, as in the
lateral occipital complex), category, texture and palette. Both are computed from the picture and its name alone and
know nothing of any encoder. Each subject has source positions, gains, latencies and noise of its own. Everything is
fixed by (subject, split, image); figures from it are *simulated*.

Letters: N images, C channels, T samples, J dipoles, R repeats, F low-level features, D concept dimensions.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import mne
import numpy as np
import scipy.fft
import scipy.linalg
import scipy.ndimage
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hvf.config import DataConfig, HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.trials.trials import Trials, mean_of_repeats
from hvf.runs import cache_dir, track, usable_cores, write_atomic
from hvf.simulation import rendering, shapes
from hvf.simulation.head import leadfield, sensor_info

RESPONSES_VERSION = 1  # of this file and head.py: raise it where they give other responses, so that caches start anew

# --- how able the brains are: raise a current or lower a noise and decoding gets easier -------------------------------
# Response strength of each subject: a factor on every image-specific current. Subject 8 is a good one.
ABILITY = {
    "simulated-eeg": (0.90, 0.80, 0.95, 0.75, 0.70, 0.90, 0.85, 1.00, 0.80, 0.95),
    "simulated-meg": (0.43, 0.52, 0.47, 0.39),
}
# Clearer than in any real recording, so that what is drawn from it shows what was seen, in two minutes on a laptop.
EARLY_CURRENT = 2.8e-9  # A·m per standard deviation of one low-level feature
LATE_CURRENT = 1.0e-8  # A·m per standard deviation of one concept dimension
EVOKED_CURRENT = 2.5e-8  # A·m of the response common to all images
NOISE_RMS = {"eeg": 5.4e-6, "meg": 1.8e-13}  # V, T: one trial, all noise together
NOISE_SHARE = {"background": 0.72, "alpha": 0.20, "sensor": 0.08}  # of the noise's power
TRIAL_GAIN_SD = 0.2  # attention wanders: the whole response of a trial is stronger or weaker
# How subjects differ (standard deviations): what makes a new subject harder than a new session.
SHIFT = 0.06  # of all sources together, in brain radii (5 mm)
TURN = 10.0  # of all sources together about each axis, degrees
SOURCE_JITTER = 0.04  # of each source, in brain radii
MOMENT_JITTER = 0.8  # of each source's direction
WEIGHT_JITTER = 0.6  # of each feature's weight on each source, whose own standard deviation is about 1
LATENCY_JITTER = 0.012  # s
# The world's own numbers (weights, concept vectors, background sources) are drawn from this seed.
WORLD_SEED = 20

N_TEST_CONCEPTS = 200  # the first of the concept list, whatever is asked for; the rest are for training
MAX_TRAIN_CONCEPTS = 1654
WORKERS = min(16, usable_cores())
# Mean and spread of each feature over rendered images, so that all drive the brain about alike, around a common wave.
FEATURE_RANGE = {
    "luminance": (0.59, 0.20),
    "red-green": (-0.01, 0.16),
    "blue-yellow": (0.0, 0.18),
    "gabor-fine": (0.031, 0.017),
    "gabor-coarse": (0.043, 0.026),
}
FEATURE_LATENCY = {  # s
    "luminance": 0.085,
    "red-green": 0.115,
    "blue-yellow": 0.120,
    "gabor-fine": 0.100,
    "gabor-coarse": 0.090,
}
AREA_DELAY = (0.0, 0.015, 0.035)  # s: V1, V2/V3, lateral occipital
# Late regions: place (mirrored in the other half), direction of current, latency in s.
LATE_REGIONS = (
    ((0.48, -0.58, -0.12), (0.8, -0.5, 0.2), 0.170),  # lateral occipital
    ((0.40, -0.36, -0.45), (0.3, -0.2, -0.9), 0.185),  # fusiform
    ((0.58, -0.10, -0.42), (0.7, 0.2, -0.7), 0.225),  # inferior temporal
    ((0.32, -0.55, 0.52), (0.3, -0.5, 0.8), 0.260),  # parietal
    ((0.45, 0.45, 0.30), (0.5, 0.6, 0.5), 0.290),  # prefrontal
)
SOURCES_PER_REGION = 3
# Common response: place, direction, latency, width in s, strength: P1, N1, P2, P3.
EVOKED = (
    ((0.38, -0.72, -0.02), (0.5, -0.85, 0.0), 0.100, 0.018, 1.0),
    ((0.42, -0.58, -0.16), (-0.7, 0.6, 0.3), 0.165, 0.024, 1.3),
    ((0.20, -0.70, 0.20), (0.1, -0.8, 0.5), 0.230, 0.030, 0.8),
    ((0.15, -0.40, 0.60), (0.1, -0.3, 0.9), 0.380, 0.090, 0.9),
)


def n_subjects(study: str) -> int:
    """How many people the simulated study has."""
    return len(ABILITY[study])


def check_settings(data: DataConfig) -> None:
    """Raise HvfError, naming the valid range, if the simulated study has no such subject, concepts or window."""
    last = n_subjects(data.study)
    if data.subject not in range(1, last + 1):
        raise HvfError(f"{data.study} has no subject {data.subject}; choose one of 1 to {last}")
    for name, low, high in (
        ("train_concepts", 1, MAX_TRAIN_CONCEPTS),
        ("test_concepts", 1, N_TEST_CONCEPTS),
        ("images_per_concept", 1, 100),
        ("train_repeats", 1, 1000),
        ("test_repeats", 1, 1000),
    ):
        if not low <= getattr(data, name) <= high:
            raise HvfError(f"{data.study}: {name} must lie between {low} and {high}, not {getattr(data, name)}")
    if data.sfreq <= 0 or _n_samples(data) < 2:
        raise HvfError(f"{data.study}: the window [{data.tmin}, {data.tmax}) s at {data.sfreq} Hz holds no two samples")


# --- stimuli ----------------------------------------------------------------------------------------------------------


def simulated_stimuli(data: DataConfig) -> tuple[ImageSet, ImageSet]:
    """Return the (training, test) images of the simulated study, 64 × 64, rendered once and then read from the cache.

    Test concepts are unseen in training and have one image each; a smaller study's training concepts are a prefix
    of the full one's 1,654.
    """
    check_settings(data)
    concepts = rendering.concepts()
    test = concepts[: data.test_concepts]
    train = concepts[N_TEST_CONCEPTS : N_TEST_CONCEPTS + data.train_concepts]
    return _rendered(train, data.images_per_concept), _rendered(test, 1)


def _rendered(concepts: list[rendering.Concept], exemplars: int) -> ImageSet:
    shown = [(concept, exemplar) for concept in concepts for exemplar in range(exemplars)]
    ids = [f"{concept.name}_{exemplar:02d}" for concept, exemplar in shown]
    key = hashlib.sha256(json.dumps([ids, rendering.PICTURES_VERSION]).encode()).hexdigest()[:16]
    path = cache_dir() / "stimuli" / f"rendered-{len(ids)}-{key}.safetensors"
    x_NHWC, captions = _read_rendered(path)
    if x_NHWC is None:
        x_NHWC, captions = draw(shown)
        meta = {"captions": json.dumps(captions)}
        store(path, lambda p: write_atomic(p, lambda temporary: save_file({"x_NHWC": x_NHWC}, temporary, meta)))
    return ImageSet.from_arrays(x_NHWC, ids, [concept.name for concept, _ in shown], captions)


def draw(shown: list[tuple[rendering.Concept, int]], size: int = 64) -> tuple[np.ndarray, list[str]]:
    """Draw exemplars of concepts: pictures uint8 (N, size, size, 3) and their captions, on all cores."""
    with _drawing_pool() as pool:  # drawing starts before a bar's thread
        drawing = pool.map(rendering.render, *zip(*shown, strict=True), repeat(size), chunksize=32)
        with track(len(shown), "rendering the images") as bar:
            x_NHWC, captions = np.empty((len(shown), size, size, 3), np.uint8), []
            for i, rendered in enumerate(drawing):
                x_NHWC[i] = rendered.image
                captions.append(rendered.caption)
                bar.advance()
    return x_NHWC, captions


def _drawing_pool() -> Executor:
    """Processes where they start at once and without the caller's script; else threads, which wait for one another."""
    if sys.platform == "linux":
        return ProcessPoolExecutor(WORKERS, get_context("fork"))
    return ThreadPoolExecutor(WORKERS)


def _read_rendered(path: Path) -> tuple[np.ndarray | None, list[str]]:
    try:
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor("x_NHWC"), json.loads(file.metadata()["captions"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):  # absent or damaged: rendered again
        return None, []


def store(path: Path, save: Callable[[Path], None]) -> None:
    """Keep a result in the cache if the cache can be written; a cache that cannot only costs time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path)
    except (OSError, HvfError):
        pass


# --- what drives the brain --------------------------------------------------------------------------------------------


def low_level(images: ImageSet) -> np.ndarray:
    """Return the low-level features of the images, float32 (N, F), about unit spread each.

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
    """Return, for each low-level feature, its type and the place it looks at (x right, y up, -1 to 1)."""

    def places(grid: int) -> list[tuple[float, float]]:
        steps = (np.arange(grid) + 0.5) / grid * 2 - 1
        return [(float(x), float(-y)) for y in steps for x in steps]

    types = [("luminance", 8), ("red-green", 4), ("blue-yellow", 4)]
    types += [("gabor-fine", 4)] * 4 + [("gabor-coarse", 4)] * 4
    return tuple((name, x, y) for name, grid in types for x, y in places(grid))


def concept_drive(images: ImageSet) -> np.ndarray:
    """Return the concept vector of each image, float32 (N, D): kind (alike where they look alike or share a category),
    texture, palette.

    Raises HvfError for an image whose concept the embedded world does not have.
    """
    known = _concepts_by_name()
    unknown = sorted({name for name in images.concepts if name not in known})
    if unknown:
        raise HvfError(f"the simulated brain does not know the concept {unknown[0]!r}; show it simulated stimuli")
    return np.stack([_concept_vector(known[name]) for name in images.concepts])


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
    """What every kind looks like, (20,) of mean square 1 over kinds: kinds that look alike have like vectors.

    Principal components of the blurred silhouettes of an object and of its own-coloured parts, mirrored or not: where
    it stands and how large it is are not in them.
    """
    size, seen = 32, {}
    for kind, parts in shapes.PARTS.items():
        planes = np.zeros((2, size, size), np.float32)
        masks = rendering.fill([(part.outline * 0.45 + 0.5) * size for part in parts], size)
        for part, (box, mask_HW) in zip(parts, masks, strict=True):
            for plane in planes[: 1 if part.role == "body" else 2]:
                place = plane[box[1] : box[3], box[0] : box[2]]
                np.maximum(place, mask_HW, out=place)
        blurred = scipy.ndimage.gaussian_filter(planes, (0, 1.5, 1.5))
        seen[kind] = (blurred + blurred[:, :, ::-1]).ravel()
    x_KP = np.stack(list(seen.values())) - np.mean(list(seen.values()), axis=0)
    left, sizes, axes = np.linalg.svd(x_KP, full_matrices=False)
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])  # which svd leaves open
    x_KD = (left * sizes * signs)[:, :20]
    return dict(zip(seen, x_KD / np.sqrt(np.square(x_KD).mean()), strict=True))


def _word(field: str, value: str, size: int) -> np.ndarray:
    return np.random.default_rng([WORLD_SEED, zlib.crc32(f"{field}:{value}".encode())]).standard_normal(size)


# --- subjects ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Brain:
    """One subject's response: a common wave, a linear map from each driver to the sensors, and the noise's shape."""

    ch_names: tuple[str, ...]
    evoked_CT: np.ndarray
    early_FCT: np.ndarray
    late_DCT: np.ndarray
    background_CJ: np.ndarray
    alpha_CJ: np.ndarray
    sensor_sd: float
    background_TT: np.ndarray  # white samples @ this: 1/f noise
    alpha_TT: np.ndarray


@cache
def simulated_brain(study: str, subject: int, sfreq: float, tmin: float, n_times: int) -> Brain:
    """Build subject `subject` (from 1) of a simulated study; currents in A·m through the forward model to V or T."""
    kind = study.removeprefix("simulated-")
    info = sensor_info(kind, sfreq)
    times = tmin + np.arange(n_times) / sfreq
    # Apart, so that what all subjects share does not hang on how many numbers one subject draws.
    world = np.random.default_rng(WORLD_SEED)
    own = np.random.default_rng([WORLD_SEED, zlib.crc32(kind.encode()), subject])
    anatomy = _Anatomy(own)
    ability = ABILITY[study][subject - 1]
    latency = own.normal(0, LATENCY_JITTER, 2)
    early_FCT = EARLY_CURRENT * ability * _early(info, anatomy, world, own, times - latency[0])
    late_DCT = LATE_CURRENT * ability * _late(info, anatomy, world, own, times - latency[1])
    evoked_CT = EVOKED_CURRENT * _evoked(info, anatomy, own, times - latency[0])
    rms = NOISE_RMS[kind] * own.uniform(0.9, 1.1)
    background_CJ = _background(info, anatomy, world)
    alpha_J3 = np.array([(x, -0.62, z) for x in (-0.3, 0.3) for z in (0.05, 0.35)])
    alpha_CJ = leadfield(info, *anatomy(alpha_J3, np.tile([0.2, -0.9, 0.4], (4, 1))))
    return Brain(
        ch_names=tuple(info.ch_names),
        evoked_CT=evoked_CT,
        early_FCT=_single(early_FCT),
        late_DCT=_single(late_DCT),
        background_CJ=_to_rms(background_CJ, rms * NOISE_SHARE["background"] ** 0.5),
        alpha_CJ=_to_rms(alpha_CJ, rms * NOISE_SHARE["alpha"] ** 0.5),
        sensor_sd=rms * NOISE_SHARE["sensor"] ** 0.5,
        background_TT=_shape(n_times, sfreq, lambda f: 1 / np.maximum(f, 1.0) ** 1.4),
        alpha_TT=_shape(n_times, sfreq, lambda f: np.exp(-(((f - 10.0) / 1.5) ** 2))),
    )


class _Anatomy:
    """Moves standard sources (brain radii) and moments to where one subject has them; fixed by the subject's draws."""

    def __init__(self, own: np.random.Generator) -> None:
        x, y, z = np.deg2rad(own.normal(0, TURN, 3))
        self.turn = scipy.linalg.expm(np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]))
        self.shift = own.normal(0, SHIFT, 3)
        self.own = own

    def __call__(self, position_J3: np.ndarray, moment_J3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        position = position_J3 @ self.turn.T + self.shift + self.own.normal(0, SOURCE_JITTER, position_J3.shape)
        depth = np.linalg.norm(position, axis=1, keepdims=True)
        position *= np.minimum(1.0, 0.93 / depth)  # stays inside the brain
        moment = moment_J3 / np.linalg.norm(moment_J3, axis=1, keepdims=True)
        moment = moment @ self.turn.T + self.own.normal(0, MOMENT_JITTER / 3**0.5, moment.shape)
        return position, moment / np.linalg.norm(moment, axis=1, keepdims=True)


def _early(
    info: mne.Info,
    anatomy: _Anatomy,
    world: np.random.Generator,
    own: np.random.Generator,
    times_T: np.ndarray,
) -> np.ndarray:
    """Sensors' answer to each low-level feature, (F, C, T): three retinotopic areas, one after the other."""
    names, x, y = zip(*feature_layout(), strict=True)
    x, y = np.asarray(x), np.asarray(y)
    lean = {name: world.normal(0, 0.5, 3) for name in dict.fromkeys(names)}  # each kind of cell sits in its own folds
    lean_F3 = np.stack([lean[name] for name in names])
    latency_F = np.asarray([FEATURE_LATENCY[name] for name in names])
    total_FCT = np.zeros((len(x), len(info.ch_names), len(times_T)))
    for area, delay in enumerate(AREA_DELAY):
        position, moment = _retinotopy(area, x, y)
        moment = moment + lean_F3 + world.normal(0, 0.4, moment.shape)
        field_CF = leadfield(info, *anatomy(position, moment))
        weight_F = world.normal(1, 0.5, len(x)) + own.normal(0, WEIGHT_JITTER, len(x))
        peak_F = latency_F + delay + world.normal(0, 0.008, len(x)) + own.normal(0, LATENCY_JITTER / 2, len(x))
        wave_FT = _bump(times_T, peak_F, 0.013) - 0.6 * _bump(times_T, peak_F + 0.038, 0.020)
        total_FCT += np.einsum("cf,f,ft->fct", field_CF, weight_F, wave_FT)
    return total_FCT


def _retinotopy(area: int, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a place in the visual field is seen: in the other half, the upper field below, the centre at the pole.

    V1 lies on the banks of the calcarine fissure, whose moments point up below it and down above it, so that the
    upper and the lower field make fields of opposite sign, as the C1 component does.
    """
    side, eccentricity = -np.sign(x), np.hypot(x, y) / 2**0.5
    if area == 0:
        position = (side * (0.09 + 0.12 * np.abs(x)), -0.84 + 0.40 * eccentricity, -0.04 - 0.16 * y)
        moment = (0.7 * side * np.abs(x), -0.7 * (1 - eccentricity), 1.2 * y)
    elif area == 1:
        position = (side * (0.20 + 0.16 * np.abs(x)), -0.78 + 0.30 * eccentricity, -0.04 - 0.34 * y)
        moment = (0.4 * side, -0.7 + 0 * x, -0.9 * y)
    else:
        position = (side * (0.46 + 0.10 * eccentricity), -0.62 + 0.22 * eccentricity, -0.14 - 0.14 * y)
        moment = (0.9 * side, -0.5 + 0 * x, 0.3 * y)
    return np.stack(position, axis=1), np.stack(moment, axis=1)


def _late(
    info: mne.Info,
    anatomy: _Anatomy,
    world: np.random.Generator,
    own: np.random.Generator,
    times_T: np.ndarray,
) -> np.ndarray:
    """Sensors' answer to each concept dimension, (D, C, T): every region carries its own mixture, twice."""
    places = [(np.array(p) * m, np.array(q) * m, t) for p, q, t in LATE_REGIONS for m in ((1, 1, 1), (-1, 1, 1))]
    places = [place for place in places for _ in range(SOURCES_PER_REGION)]
    position = np.stack([p for p, _, _ in places]) + world.normal(0, 0.07, (len(places), 3))
    moment = np.stack([q for _, q, _ in places]) + world.normal(0, 0.5, (len(places), 3))
    field_CJ = leadfield(info, *anatomy(position, moment))
    latency_J = np.array([t for _, _, t in places])
    size = (len(_concept_vector(rendering.concepts()[0])), len(places))
    total_DCT = np.zeros((size[0], len(info.ch_names), len(times_T)))
    for delay, width, strength in ((0.0, 0.022, 1.0), (0.075, 0.040, 0.6)):
        weight_DJ = (world.normal(0, 1, size) + own.normal(0, WEIGHT_JITTER, size)) * strength / len(places) ** 0.5
        peak_DJ = latency_J + delay + world.normal(0, 0.012, size) + own.normal(0, LATENCY_JITTER / 2, size)
        for j in range(len(places)):
            wave_DT = weight_DJ[:, j, None] * _bump(times_T, peak_DJ[:, j], width)
            total_DCT += field_CJ[:, j][None, :, None] * wave_DT[:, None, :]
    return total_DCT


def _evoked(info: mne.Info, anatomy: _Anatomy, own: np.random.Generator, times_T: np.ndarray) -> np.ndarray:
    """The response common to all images, (C, T)."""
    both = [(np.array(p) * m, np.array(q) * m, *rest) for p, q, *rest in EVOKED for m in ((1, 1, 1), (-1, 1, 1))]
    position, moment = (np.stack([source[i] for source in both]) for i in (0, 1))
    field_CJ = leadfield(info, *anatomy(position, moment))
    peak_J, width_J, strength_J = np.array([source[2:] for source in both]).T
    wave_JT = np.exp(-(((times_T - peak_J[:, None]) / width_J[:, None]) ** 2) / 2)
    return field_CJ @ (wave_JT * (strength_J * own.uniform(0.7, 1.3, len(both)))[:, None])


def _background(info: mne.Info, anatomy: _Anatomy, world: np.random.Generator) -> np.ndarray:
    """A square root (C, J) of the covariance of 400 independent dipoles all over the brain, to 99.9 % of its power."""
    direction = world.standard_normal((400, 3))
    position = direction / np.linalg.norm(direction, axis=1, keepdims=True) * world.uniform(0.35, 0.9, (400, 1))
    field_CJ = leadfield(info, *anatomy(position, world.standard_normal((400, 3))))
    left, power, _ = np.linalg.svd(field_CJ, full_matrices=False)
    rank = int(np.searchsorted(np.cumsum(power**2) / np.sum(power**2), 0.999)) + 1
    return left[:, :rank] * power[:rank]


def _bump(times_T: np.ndarray, peak_K: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-(((times_T - peak_K[:, None]) / width) ** 2) / 2)


def _single(x: np.ndarray) -> np.ndarray:
    """As float32, and the far ends of bells zero: in subnormal numbers products run several times slower."""
    return np.where(np.abs(x) > 1e-20 * np.abs(x).max(), x, 0.0).astype(np.float32)


def _to_rms(field_CJ: np.ndarray, rms: float) -> np.ndarray:
    """Scale a noise's mixing so that its channels have `rms` on average."""
    return (field_CJ * (rms / np.sqrt(np.mean(np.sum(field_CJ**2, axis=1))))).astype(np.float32)


def _shape(n_times: int, sfreq: float, power: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return (T, T) that turns unit white samples (…, T) into stationary noise of unit variance with that spectrum."""
    frequency = np.linspace(0.5, min(40.0, sfreq / 2), 400)
    density = power(frequency)
    lag = np.arange(n_times) / sfreq
    covariance = np.cos(2 * np.pi * lag[:, None] * frequency) @ density / density.sum()
    covariance[0] += 1e-6  # keeps the factorisation real where the spectrum is narrow
    return scipy.linalg.cholesky(scipy.linalg.toeplitz(covariance), lower=False).astype(np.float32)


# --- trials -----------------------------------------------------------------------------------------------------------


def simulate_trials(data: DataConfig, images: ImageSet, subject: int, split: str, *, averaged: bool = False) -> Trials:
    """Simulate a subject looking at images: `data.train_repeats` or `data.test_repeats` trials of each, by `split`.

    Returns Trials in image order, repeats side by side; with `averaged`, their means, exactly those of `.average()`
    but without holding the single trials. An image's trials depend on (subject, split, image id) alone.
    Raises HvfError on a subject that does not exist.
    """
    check_settings(replace(data, subject=subject))
    if split not in ("train", "test"):
        raise HvfError(f"the simulated study has the splits train and test, not {split!r}")
    repeats = data.train_repeats if split == "train" else data.test_repeats
    n_times = _n_samples(data)
    brain = simulated_brain(data.study, subject, data.sfreq, data.tmin, n_times)
    kind = data.study.removeprefix("simulated-")
    n_channels = len(brain.ch_names)
    x_NCT = np.empty((len(images) * (1 if averaged else repeats), n_channels, n_times), np.float32)

    def simulate(i: int, response_CT: np.ndarray) -> None:
        x_RCT = _noisy(brain, response_CT, repeats, f"{data.study}/{subject}/{split}/{images.ids[i]}")
        if averaged:
            x_NCT[i] = mean_of_repeats(x_RCT)
        else:
            x_NCT[i * repeats : (i + 1) * repeats] = x_RCT

    with ThreadPoolExecutor(WORKERS) as pool:  # each image's noise has its own seed; drawing it lets others run
        for start in track(range(0, len(images), 200), f"simulating {kind.upper()}, subject {subject}, {split}"):
            some = range(start, min(start + 200, len(images)))
            list(pool.map(simulate, some, _response(brain, images.subset(some))))
    ids = np.asarray(images.ids) if averaged else np.repeat(np.asarray(images.ids), repeats)
    return Trials(x_NCT, ids, f"sub-{subject:02d}", data.sfreq, data.tmin, brain.ch_names, kind, simulated=True)


def _response(brain: Brain, images: ImageSet) -> np.ndarray:
    """Noiseless response to each image, float32 (N, C, T)."""
    early = np.tensordot(low_level(images), brain.early_FCT, axes=1)
    late = np.tensordot(concept_drive(images), brain.late_DCT, axes=1)
    return (early + late + brain.evoked_CT).astype(np.float32)


def _noisy(brain: Brain, response_CT: np.ndarray, repeats: int, key: str) -> np.ndarray:
    """Single trials (R, C, T) of one image; the noise is drawn from `key` alone."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")
    rng = np.random.Generator(np.random.SFC64(seed))
    n_channels, n_times = response_CT.shape
    gain_R = 1 + TRIAL_GAIN_SD * rng.standard_normal((repeats, 1, 1), dtype=np.float32)
    x_RCT = rng.standard_normal((repeats, n_channels, n_times), dtype=np.float32) * np.float32(brain.sensor_sd)
    for field_CJ, shape_TT in ((brain.background_CJ, brain.background_TT), (brain.alpha_CJ, brain.alpha_TT)):
        white_RJT = rng.standard_normal((repeats, field_CJ.shape[1], n_times), dtype=np.float32)
        x_RCT += field_CJ @ (white_RJT @ shape_TT)
    return x_RCT + gain_R * response_CT


def _n_samples(data: DataConfig) -> int:
    return round((data.tmax - data.tmin) * data.sfreq)
