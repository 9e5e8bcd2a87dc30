"""Continuous simulated EEG: overlapping responses to images that follow one another, over noise, drifts and offsets.

Letters: N images, C channels, T samples, F features, J sources.
"""

from __future__ import annotations

import numpy as np
import scipy.fft

from hvf.simulation.brain import TRIAL_GAIN_SD, Brain

EEG_BAND = (0.01, 100)  # Hz, of the amplifier
LEAD, TAIL = 1.0, 1.5  # s before the first and after the last onset
RESPONSE = 0.8  # s: the simulator's responses are over by then
DRIFT_RMS = 20e-6  # V, below 0.5 Hz
OFFSET_SD = 30e-6  # V, of each electrode


def onsets(n: int, sfreq: float, soa: float, jitter: float, rng: np.random.Generator) -> np.ndarray:
    """Samples (n,) at which images begin that follow one another every `soa` s, each up to `jitter` s off."""
    most = round(jitter * sfreq)
    return round(LEAD * sfreq) + np.arange(n) * round(soa * sfreq) + rng.integers(-most, most + 1, n)


def record(
    brain: Brain,
    kernel: np.ndarray,
    drive_NF: np.ndarray,
    shown: np.ndarray,
    onset: np.ndarray,
    sfreq: float,
    rng: np.random.Generator,
    x_CT: np.ndarray,
) -> None:
    """Fill a recording with noise and the response to each image shown.

    Responses are computed again each time an image is shown (26 MFLOP at 1000 Hz), a hundred at once, which costs less
    than keeping them all.

    Parameters
    ----------
    brain : Brain
        At the rate of the recording, from 0 to `RESPONSE` s.
    kernel : ndarray (F, C · T)
        Its response to each feature (`hvf.simulation.raw_files.response_kernel`).
    drive_NF : ndarray
        Features of the images.
    shown : ndarray of int
        The image at each onset; -1 is a target, which has the response that is common to all images.
    onset : ndarray of int
        Samples, as by `onsets`.
    sfreq : float
    rng : numpy.random.Generator
    x_CT : ndarray
        The recording in V, which is filled.
    """
    n_times = round(RESPONSE * sfreq)
    gain = 1 + TRIAL_GAIN_SD * rng.standard_normal(len(shown), dtype=np.float32)
    add_noise(x_CT, brain, sfreq, rng)
    evoked_CT = brain.evoked_CT.astype(np.float32)
    for start in range(0, len(shown), 100):
        images, at = shown[start : start + 100], onset[start : start + 100]
        drive = np.where(images[:, None] < 0, np.float32(0), drive_NF[images])  # a target: the common response alone
        sum_CT = np.zeros((len(evoked_CT), at[-1] - at[0] + n_times), np.float32)
        for response_CT, g, i in zip(
            (drive @ kernel).reshape(-1, *evoked_CT.shape), gain[start : start + 100], at - at[0], strict=True
        ):
            sum_CT[:, i : i + n_times] += g * (response_CT + evoked_CT)
        x_CT[:, at[0] : at[-1] + n_times] += sum_CT


def add_noise(x_CT: np.ndarray, brain: Brain, sfreq: float, rng: np.random.Generator) -> None:
    """Fill the channels with continuous noise of the simulator's spectrum, with drifts and offsets."""
    n = int(scipy.fft.next_fast_len(x_CT.shape[1], real=True) or 0)
    hz = np.fft.rfftfreq(n, 1 / sfreq)

    def bins(low: float, high: float, power: np.ndarray | None = None, *, j: int = 1) -> tuple[slice, np.ndarray]:
        """Slice of a frequency band, and random Fourier coefficients there of `j` signals of unit variance."""
        band = slice(*np.searchsorted(hz, (low, high)))
        density = np.ones(band.stop - band.start) if power is None else power[band]
        drawn = rng.standard_normal((j, len(density), 2), dtype=np.float32).view(np.complex64)[..., 0]
        return band, drawn * (n / 2 * np.sqrt(density / density.sum())).astype(np.float32)

    brain_band = slice(0, int(np.searchsorted(hz, 40.0)))
    spectrum_CF = np.zeros((len(x_CT), brain_band.stop), np.complex64)
    floor = np.maximum(hz, EEG_BAND[0])
    # The two densities of `simulated_brain`.
    for field_CJ, power in (
        (brain.background_CJ, 1 / np.maximum(hz, 1.0) ** 1.4),
        (brain.alpha_CJ, np.exp(-(((hz - 10.0) / 1.5) ** 2))),
    ):
        band, drawn = bins(0.5, 40.0, power, j=field_CJ.shape[1])
        spectrum_CF[:, band] += field_CJ @ drawn
    for x_T, brain_F in zip(x_CT, spectrum_CF, strict=True):
        full = np.zeros(len(hz), np.complex64)
        full[brain_band] = brain_F
        band, drawn = bins(0.0, EEG_BAND[1])
        full[band] += drawn[0] * np.float32(brain.sensor_sd * 2**0.5)  # the simulator's own is white up to 50 Hz
        band, drawn = bins(EEG_BAND[0], 0.5, 1 / floor**2)
        full[band] += drawn[0] * np.float32(DRIFT_RMS)
        x_T[:] = scipy.fft.irfft(full, n)[: len(x_T)]
        x_T += OFFSET_SD * rng.standard_normal()
