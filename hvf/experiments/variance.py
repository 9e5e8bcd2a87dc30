"""Variance partitioning: how much of responses or embeddings low-level and semantic image features explain.

Banded ridge regression from image features to responses, fitted on training images and tested on others.

Letters: M images to fit on, N test images, d features, P responses, T times, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hvf.data.trials.splitting import concept_split
from hvf.evaluation import retrieval
from hvf.experiments.results import Entry

COMPONENTS = 128  # of each group of features: groups of equal size, whatever the encoders' widths
PENALTIES = tuple(10.0**e for e in range(-5, 2))  # of the mean square of a band's rows
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the first band, where there are two


def explained(
    fit: Sequence[np.ndarray],
    test: Sequence[np.ndarray],
    y_MPT: np.ndarray,
    y_NPT: np.ndarray,
    concepts_M: Sequence[str] | np.ndarray,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Banded ridge regression (Nunez-Elizalde et al. 2019) from image features to responses at each time.

    Penalty and share of the bands are chosen at each time on a fifth of the concepts; the final fit is to all.

    Parameters
    ----------
    fit, test : sequence of ndarray
        (M, d_k) and (N, d_k): the features of each band k.
    y_MPT, y_NPT : ndarray
        Responses to fit and to predict.
    concepts_M : sequence of str
        (M) What the images to fit on show.
    seed : int
        Of the draw of concepts.

    Returns
    -------
    r2_NT, predicted_NPT : ndarray
        R² of each image, whose mean over images is 1 − Σ(y − ŷ)² / Σ(y − ȳ)², ȳ the mean of the fitted responses; and
        the predictions ŷ.
    """
    (m, p, t), inner = y_MPT.shape, concept_split(list(concepts_M), 0.2, seed, at_least=2)
    shares = [(share, 1 - share) for share in SHARES] if len(fit) == 2 else [(1.0,)]
    banded = [[np.hstack([w**0.5 * x for w, x in zip(s, bands, strict=True)]) for bands in (fit, test)] for s in shares]
    error_KT = np.full((len(shares) * len(PENALTIES), t), np.inf)
    for i, (x_Md, _) in enumerate(banded):
        predictions = _ridge(x_Md[inner[0]], y_MPT[inner[0]].reshape(-1, p * t), x_Md[inner[1]], PENALTIES)
        for j, y_P in enumerate(predictions):
            error_KT[i * len(PENALTIES) + j] = np.square(y_P.reshape(-1, p, t) - y_MPT[inner[1]]).sum(axis=(0, 1))
    best_T = error_KT.argmin(axis=0)
    predicted_NPT = np.empty_like(y_NPT, dtype=np.float32)
    for i, (x_Md, x_Nd) in enumerate(banded):
        at = np.flatnonzero(best_T // len(PENALTIES) == i)
        penalties = [PENALTIES[k % len(PENALTIES)] for k in best_T[at]]
        for penalty in dict.fromkeys(penalties):
            these = at[[k for k, one in enumerate(penalties) if one == penalty]]
            y = next(_ridge(x_Md, y_MPT[:, :, these].reshape(m, -1), x_Nd, (penalty,)))
            predicted_NPT[:, :, these] = y.reshape(len(x_Nd), p, -1)
    total_NT = variance(y_MPT, y_NPT)
    error_NT = np.square(y_NPT - predicted_NPT).sum(axis=1)
    return (total_NT - error_NT) / np.maximum(total_NT.mean(axis=0), np.finfo(np.float32).tiny), predicted_NPT


def variance(y_MPT: np.ndarray, y_NPT: np.ndarray) -> np.ndarray:
    """Sum of squares Σ(y − ȳ)² of each test image, (N, T), ȳ the mean of the fitted responses."""
    return np.square(y_NPT - y_MPT.mean(axis=0)).sum(axis=1)


def r2_intervals(r2_NT: np.ndarray, total_NT: np.ndarray, draws: int = 5000, seed: int = 0) -> list[Entry]:
    """R² at each time with a bootstrap interval over images, which draws both sums of squares (`variance`) together."""
    n = len(r2_NT)
    weights_DN = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float32)
    drawn_DT = (weights_DN @ r2_NT) / np.maximum(weights_DN @ (total_NT / total_NT.mean(axis=0)), 1e-12)
    ends_T2 = np.percentile(drawn_DT, [2.5, 97.5], axis=0).T
    return [{"value": float(v), "ci95": e.tolist(), "n": n} for v, e in zip(r2_NT.mean(axis=0), ends_T2, strict=True)]


def _ridge(x_Md: np.ndarray, y_MP: np.ndarray, x_Nd: np.ndarray, penalties: Sequence[float]) -> Iterator[np.ndarray]:
    """Predictions (N, P) for each penalty, in units of the mean square of the rows; one decomposition for all."""
    x_mean, y_mean = x_Md.mean(axis=0), y_MP.mean(axis=0)
    x_Md, y_MP = x_Md - x_mean, y_MP - y_mean
    size_d, axes_dd = np.linalg.eigh((x_Md.T @ x_Md).astype(np.float64))
    target_dP = (axes_dd.T @ (x_Md.T @ y_MP)).astype(np.float32)
    rotated_Nd = ((x_Nd - x_mean) @ axes_dd).astype(np.float32)
    for penalty in penalties:
        shrunk_d = 1 / (np.maximum(size_d, 0) + penalty * len(x_Md))
        yield (rotated_Nd * shrunk_d.astype(np.float32)) @ target_dP + y_mean


def band(fit: Sequence[np.ndarray], test: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Features of several encoders as one band, (M, K) and (N, K): each of unit size, then principal components."""
    from sklearn.decomposition import PCA

    parts_fit, parts_test = [], []
    for x_Md, x_Nd in zip(fit, test, strict=True):
        x_Md, x_Nd = (np.asarray(x, dtype=np.float32).reshape(len(x), -1) for x in (x_Md, x_Nd))
        mean_d = x_Md.mean(axis=0)
        size = float(np.sqrt(np.square(x_Md - mean_d).sum(axis=1).mean())) or 1.0
        parts_fit.append((x_Md - mean_d) / size)
        parts_test.append((x_Nd - mean_d) / size)
    x_Md, x_Nd = np.hstack(parts_fit), np.hstack(parts_test)
    pca = PCA(min(COMPONENTS, x_Md.shape[1], len(x_Md) // 2), svd_solver="randomized", random_state=0).fit(x_Md)
    return pca.transform(x_Md), pca.transform(x_Nd)


def orientation_energy(x_NHWC: np.ndarray) -> np.ndarray:
    """Orientation energy of luminance, float32 (N, 192): Gabor-like filters, averaged over 4 × 4 patches.

    4 orientations at 3 frequencies (1/16, 1/8, 1/4 cycles per pixel), an octave wide, as log-Gabors of one side of the
    spectrum, whose modulus is the energy of a quadrature pair: the model of V1 in Kay et al. 2008.
    """
    size = x_NHWC.shape[1]
    fy, fx = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")
    radius, angle = np.hypot(fx, fy) + 1e-9, np.arctan2(fy, fx)
    gains = []
    for frequency in (1 / 16, 1 / 8, 1 / 4):
        for k in range(4):
            octaves, turned = np.log2(radius / frequency), np.angle(np.exp(1j * (angle - k * np.pi / 4)))
            gains.append(np.exp(-2 * octaves**2 - (turned / (np.pi / 8)) ** 2 / 2).astype(np.float32))
    energies = []
    for start in range(0, len(x_NHWC), 256):
        luminance = x_NHWC[start : start + 256].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
        spectrum = np.fft.fft2(luminance - luminance.mean(axis=(1, 2), keepdims=True)).astype(np.complex64)
        pooled = [
            np.abs(np.fft.ifft2(spectrum * gain)).reshape(len(luminance), 4, size // 4, 4, size // 4) for gain in gains
        ]
        energies.append(np.stack(pooled, axis=1).mean(axis=(3, 5)).reshape(len(luminance), -1))
    return np.concatenate(energies).astype(np.float32)


def partition(
    bands: Mapping[str, tuple[np.ndarray, np.ndarray]],
    y_MPT: np.ndarray,
    y_NPT: np.ndarray,
    concepts_M: Sequence[str] | np.ndarray,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Variance partitioning: R² of responses by two bands of features, each alone, together, and shared.

    Unique to A is R²(A and B) − R²(B), shared is R²(A) + R²(B) − R²(A and B): Lescroart et al. 2015, de Heer et al.
    2017.

    Parameters
    ----------
    bands : dict
        {name: (fit, test)} of A and B, as from `band`.
    y_MPT, y_NPT : ndarray
        Responses to fit and to predict.
    concepts_M : sequence of str
        (M) What the images to fit on show.

    Returns
    -------
    r2 : dict
        R² of each image, (N, T): A, B, "both", "only A", "shared", "only B".
    predicted : dict
        Predictions (N, P, T) of A, of B and of "both".
    """
    (a, (fit_a, test_a)), (b, (fit_b, test_b)) = bands.items()
    models = {a: ([fit_a], [test_a]), b: ([fit_b], [test_b]), "both": ([fit_a, fit_b], [test_a, test_b])}
    fits = {name: explained(*x, y_MPT, y_NPT, concepts_M) for name, x in models.items()}
    r2 = {name: r2_NT for name, (r2_NT, _) in fits.items()}
    r2 |= {f"only {a}": r2["both"] - r2[b], "shared": r2[a] + r2[b] - r2["both"], f"only {b}": r2["both"] - r2[a]}
    return r2, {name: y for name, (_, y) in fits.items()}


def identified(z_ND: np.ndarray, predicted_ND: np.ndarray) -> np.ndarray:
    """Identification (Kay et al. 2008): rank (N,) of each image's predicted embedding by similarity to z_b.

    Both are centred first: a prediction that shrinks to the mean would otherwise resemble every trial.
    """
    return retrieval.ranks(retrieval.similarity(z_ND - z_ND.mean(axis=0), predicted_ND - predicted_ND.mean(axis=0)))
