"""Simulated brains: current dipoles in a spherical head that respond to features of an image, and noise.

Early sources (occipital, retinotopic, around 100 ms) respond to luminance, colour opponency and Gabor energy; later
ones (temporal and parietal, 170 to 300 ms) to the concept (`hvf.simulation.features`). Each subject has source
positions, gains, latencies and noise of its own. Everything is fixed by (subject, split, image).

Letters: N images, C channels, T samples, J dipoles, R repeats, F low-level features, D concept dimensions.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import mne
import numpy as np
import scipy.linalg

from hvf.data.images.image_set import ImageSet
from hvf.simulation.features import WORLD_SEED, concept_dimensions, concept_drive, feature_layout, low_level
from hvf.simulation.head import leadfield, sensor_info

RESPONSES_VERSION = 1  # of this file and head.py: raise it with every change of the responses: it keys caches

# --- signal and noise: raise a current or lower a noise and decoding gets easier --------------------------------------
# Response strength of each subject: a factor on every image-specific current. Subject 8 is a good one.
ABILITY = {
    "eeg": (0.90, 0.80, 0.95, 0.75, 0.70, 0.90, 0.85, 1.00, 0.80, 0.95),
    "meg": (0.43, 0.52, 0.47, 0.39),
}
# Clearer than in any real recording, so that reconstructions succeed within two minutes on a laptop.
EARLY_CURRENT = 2.8e-9  # A·m per standard deviation of one low-level feature
LATE_CURRENT = 1.0e-8  # A·m per standard deviation of one concept dimension
EVOKED_CURRENT = 2.5e-8  # A·m of the response common to all images
NOISE_RMS = {"eeg": 5.4e-6, "meg": 1.8e-13}  # V, T: one trial, all noise together
# Set once, by rule: NICE, with the mini encoders, finds as many images as NICE does in THINGS-EEG2 (docs/methods.md).
NOISE_FACTOR = {"simulated-eeg-hard": 2.0}
NOISE_SHARE = {"background": 0.72, "alpha": 0.20, "sensor": 0.08}  # of the noise's power
TRIAL_GAIN_SD = 0.2  # of the factor on a whole trial's response: attention wanders
# Standard deviations between subjects: they make a new subject harder than a new session.
SHIFT = 0.06  # of all sources together, in brain radii (5 mm)
TURN = 10.0  # of all sources together about each axis, degrees
SOURCE_JITTER = 0.04  # of each source, in brain radii
MOMENT_JITTER = 0.8  # of each source's direction
WEIGHT_JITTER = 0.6  # of each feature's weight on each source, whose own standard deviation is about 1
LATENCY_JITTER = 0.012  # s
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


@dataclass(frozen=True, eq=False)
class Brain:
    """One subject: the common evoked response, the response to each feature, and the noise's covariance (V or T)."""

    ch_names: tuple[str, ...]
    evoked_CT: np.ndarray
    early_FCT: np.ndarray
    late_DCT: np.ndarray
    background_CJ: np.ndarray
    alpha_CJ: np.ndarray
    sensor_sd: float
    background_TT: np.ndarray  # white samples @ this: 1/f noise
    alpha_TT: np.ndarray


def sensors(study: str) -> str:
    """What records in a simulated study: "eeg" or "meg"."""
    return study.split("-")[1]


@cache
def simulated_brain(study: str, subject: int, sfreq: float, tmin: float, n_times: int) -> Brain:
    """Build one simulated subject: currents in A·m through the forward model to V or T.

    Parameters
    ----------
    study : str
        A simulated study of `hvf.config.SUBJECTS`.
    subject : int
        Counted from 1.
    sfreq, tmin : float
        Sampling rate in Hz, first sample in s after image onset.
    n_times : int
        Samples of a response.
    """
    kind = sensors(study)
    info = sensor_info(kind, sfreq)
    times = tmin + np.arange(n_times) / sfreq
    # Two generators, so that what all subjects share does not depend on how many numbers one subject draws.
    world = np.random.default_rng(WORLD_SEED)
    own = np.random.default_rng([WORLD_SEED, zlib.crc32(kind.encode()), subject])
    anatomy = _Anatomy(info, own)
    ability = ABILITY[kind][subject - 1]
    latency = own.normal(0, LATENCY_JITTER, 2)
    early_FCT = EARLY_CURRENT * ability * anatomy.early(world, times - latency[0])
    late_DCT = LATE_CURRENT * ability * anatomy.late(world, times - latency[1])
    evoked_CT = EVOKED_CURRENT * anatomy.evoked(times - latency[0])
    rms = NOISE_RMS[kind] * NOISE_FACTOR.get(study, 1.0) * own.uniform(0.9, 1.1)
    background_CJ = anatomy.background(world)
    alpha_J3 = np.array([(x, -0.62, z) for x in (-0.3, 0.3) for z in (0.05, 0.35)])
    alpha_CJ = anatomy.leadfield(alpha_J3, np.tile([0.2, -0.9, 0.4], (4, 1)))
    return Brain(
        ch_names=tuple(info.ch_names),
        evoked_CT=evoked_CT,
        early_FCT=_single(early_FCT),
        late_DCT=_single(late_DCT),
        background_CJ=_to_rms(background_CJ, rms * NOISE_SHARE["background"] ** 0.5),
        alpha_CJ=_to_rms(alpha_CJ, rms * NOISE_SHARE["alpha"] ** 0.5),
        sensor_sd=rms * NOISE_SHARE["sensor"] ** 0.5,
        background_TT=_colouring(n_times, sfreq, lambda f: 1 / np.maximum(f, 1.0) ** 1.4),
        alpha_TT=_colouring(n_times, sfreq, lambda f: np.exp(-(((f - 10.0) / 1.5) ** 2))),
    )


class _Anatomy:
    """One subject's head: standard source positions (brain radii) and moments, turned, shifted and jittered."""

    def __init__(self, info: mne.Info, own: np.random.Generator) -> None:
        x, y, z = np.deg2rad(own.normal(0, TURN, 3))
        self.turn = scipy.linalg.expm(np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]))
        self.shift = own.normal(0, SHIFT, 3)
        self.info, self.own = info, own

    def leadfield(self, position_J3: np.ndarray, moment_J3: np.ndarray) -> np.ndarray:
        """The lead field (C, J) of standard sources in this head."""
        position = position_J3 @ self.turn.T + self.shift + self.own.normal(0, SOURCE_JITTER, position_J3.shape)
        depth = np.linalg.norm(position, axis=1, keepdims=True)
        position *= np.minimum(1.0, 0.93 / depth)  # stays inside the brain
        moment = moment_J3 / np.linalg.norm(moment_J3, axis=1, keepdims=True)
        moment = moment @ self.turn.T + self.own.normal(0, MOMENT_JITTER / 3**0.5, moment.shape)
        return leadfield(self.info, position, moment / np.linalg.norm(moment, axis=1, keepdims=True))

    def early(self, world: np.random.Generator, times_T: np.ndarray) -> np.ndarray:
        """Response to each low-level feature, (F, C, T): three retinotopic areas, one after the other."""
        names, x, y = zip(*feature_layout(), strict=True)
        x, y = np.asarray(x), np.asarray(y)
        # Each kind of cell sits in its own folds.
        lean = {name: world.normal(0, 0.5, 3) for name in dict.fromkeys(names)}
        lean_F3 = np.stack([lean[name] for name in names])
        latency_F = np.asarray([FEATURE_LATENCY[name] for name in names])
        total_FCT = np.zeros((len(x), len(self.info.ch_names), len(times_T)))
        for area, delay in enumerate(AREA_DELAY):
            position, moment = _retinotopy(area, x, y)
            moment = moment + lean_F3 + world.normal(0, 0.4, moment.shape)
            field_CF = self.leadfield(position, moment)
            weight_F = world.normal(1, 0.5, len(x)) + self.own.normal(0, WEIGHT_JITTER, len(x))
            peak_F = latency_F + delay + world.normal(0, 0.008, len(x)) + self.own.normal(0, LATENCY_JITTER / 2, len(x))
            wave_FT = _bump(times_T, peak_F, 0.013) - 0.6 * _bump(times_T, peak_F + 0.038, 0.020)
            total_FCT += np.einsum("cf,f,ft->fct", field_CF, weight_F, wave_FT)
        return total_FCT

    def late(self, world: np.random.Generator, times_T: np.ndarray) -> np.ndarray:
        """Response to each concept dimension, (D, C, T): every region responds to its own mixture, in two waves."""
        places = [(np.array(p) * m, np.array(q) * m, t) for p, q, t in LATE_REGIONS for m in ((1, 1, 1), (-1, 1, 1))]
        places = [place for place in places for _ in range(SOURCES_PER_REGION)]
        position = np.stack([p for p, _, _ in places]) + world.normal(0, 0.07, (len(places), 3))
        moment = np.stack([q for _, q, _ in places]) + world.normal(0, 0.5, (len(places), 3))
        field_CJ = self.leadfield(position, moment)
        latency_J = np.array([t for _, _, t in places])
        size = (concept_dimensions(), len(places))
        total_DCT = np.zeros((size[0], len(self.info.ch_names), len(times_T)))
        for delay, width, strength in ((0.0, 0.022, 1.0), (0.075, 0.040, 0.6)):
            weight_DJ = world.normal(0, 1, size) + self.own.normal(0, WEIGHT_JITTER, size)
            weight_DJ = weight_DJ * strength / len(places) ** 0.5
            peak_DJ = latency_J + delay + world.normal(0, 0.012, size) + self.own.normal(0, LATENCY_JITTER / 2, size)
            for j in range(len(places)):
                wave_DT = weight_DJ[:, j, None] * _bump(times_T, peak_DJ[:, j], width)
                total_DCT += field_CJ[:, j][None, :, None] * wave_DT[:, None, :]
        return total_DCT

    def evoked(self, times_T: np.ndarray) -> np.ndarray:
        """The response common to all images, (C, T)."""
        both = [(np.array(p) * m, np.array(q) * m, *rest) for p, q, *rest in EVOKED for m in ((1, 1, 1), (-1, 1, 1))]
        position, moment = (np.stack([source[i] for source in both]) for i in (0, 1))
        field_CJ = self.leadfield(position, moment)
        peak_J, width_J, strength_J = np.array([source[2:] for source in both]).T
        wave_JT = np.exp(-(((times_T - peak_J[:, None]) / width_J[:, None]) ** 2) / 2)
        return field_CJ @ (wave_JT * (strength_J * self.own.uniform(0.7, 1.3, len(both)))[:, None])

    def background(self, world: np.random.Generator) -> np.ndarray:
        """Square root (C, J) of the covariance of 400 independent dipoles all over the brain, 99.9 % of its power."""
        direction = world.standard_normal((400, 3))
        position = direction / np.linalg.norm(direction, axis=1, keepdims=True) * world.uniform(0.35, 0.9, (400, 1))
        field_CJ = self.leadfield(position, world.standard_normal((400, 3)))
        left, power, _ = np.linalg.svd(field_CJ, full_matrices=False)
        rank = int(np.searchsorted(np.cumsum(power**2) / np.sum(power**2), 0.999)) + 1
        return left[:, :rank] * power[:rank]


def _retinotopy(area: int, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position and moment of the sources of a place in the visual field: contralateral, upside down, fovea at the pole.

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


def _bump(times_T: np.ndarray, peak_K: np.ndarray, width: float) -> np.ndarray:
    """Gaussians over time, (K, T)."""
    return np.exp(-(((times_T - peak_K[:, None]) / width) ** 2) / 2)


def _single(x: np.ndarray) -> np.ndarray:
    """As float32, with the far tails of Gaussians set to zero: subnormal numbers multiply several times slower."""
    return np.where(np.abs(x) > 1e-20 * np.abs(x).max(), x, 0.0).astype(np.float32)


def _to_rms(field_CJ: np.ndarray, rms: float) -> np.ndarray:
    """Scale a mixing matrix of noise so that its channels have `rms` on average."""
    return (field_CJ * (rms / np.sqrt(np.mean(np.sum(field_CJ**2, axis=1))))).astype(np.float32)


def _colouring(n_times: int, sfreq: float, power: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Matrix (T, T) that turns unit white samples (…, T) into stationary noise of unit variance with that spectrum."""
    frequency = np.linspace(0.5, min(40.0, sfreq / 2), 400)
    density = power(frequency)
    lag = np.arange(n_times) / sfreq
    covariance = np.cos(2 * np.pi * lag[:, None] * frequency) @ density / density.sum()
    covariance[0] += 1e-6  # keeps the factorisation real where the spectrum is narrow
    return scipy.linalg.cholesky(scipy.linalg.toeplitz(covariance), lower=False).astype(np.float32)


def response(brain: Brain, images: ImageSet) -> np.ndarray:
    """Noiseless response to each image, float32 (N, C, T)."""
    early = np.tensordot(low_level(images), brain.early_FCT, axes=1)
    late = np.tensordot(concept_drive(images), brain.late_DCT, axes=1)
    return (early + late + brain.evoked_CT).astype(np.float32)


def noisy_trials(brain: Brain, response_CT: np.ndarray, repeats: int, key: str) -> np.ndarray:
    """Simulate single trials of one image, (R, C, T).

    Parameters
    ----------
    brain : Brain
    response_CT : ndarray
        Noiseless response.
    repeats : int
        R.
    key : str
        Seed of the noise, which depends on nothing else.
    """
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")
    rng = np.random.Generator(np.random.SFC64(seed))
    n_channels, n_times = response_CT.shape
    gain_R = 1 + TRIAL_GAIN_SD * rng.standard_normal((repeats, 1, 1), dtype=np.float32)
    x_RCT = rng.standard_normal((repeats, n_channels, n_times), dtype=np.float32) * np.float32(brain.sensor_sd)
    for field_CJ, shape_TT in ((brain.background_CJ, brain.background_TT), (brain.alpha_CJ, brain.alpha_TT)):
        white_RJT = rng.standard_normal((repeats, field_CJ.shape[1], n_times), dtype=np.float32)
        x_RCT += field_CJ @ (white_RJT @ shape_TT)
    return x_RCT + gain_R * response_CT
