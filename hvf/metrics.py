"""Pairs of pictures, or of their features, to numbers: the field's reconstruction metrics, exactly as it defines them.

Shapes: N pairs, R rounds, D features, H and W pixels. Every metric returns one number per image, because galleries,
intervals and paired tests need them; `summarise` turns those into the `{"value", "ci95", "n"}` of a metrics.json.
Higher is better, except for `correlation_distance`. Definitions: MindEye's (Scotti et al., 2023), as its peers share
them. Networks are not loaded here: two-way scores take features that somebody else computed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity

from hvf.config import HvfError

FIRST_SIZE = 256  # both sets go to 256 × 256 before anything else, so that pictures of any size can be compared
PIXEL_SIZE = 425  # the size at which pixels are compared; NSD's stimulus size, kept by everyone since
CHUNK = 8  # pairs resized at once: wide enough for the resize kernel, small enough to stay in cache


def pixcorr(reals_NHWC, recons_NHWC, first: int | None = FIRST_SIZE) -> np.ndarray:
    """Pearson correlation of the pixels of each pair, (N,) float64.

    Pictures are uint8, or floats in 0..1, (N, H, W, 3); the two sets may differ in size unless `first` is None.
    `first` names the route to 425 × 425 (bilinear, antialiased): 256 (the default, MindEye's) and 512 resize to that
    square beforehand, None goes straight there, as Brain-HIVE's code does. The route changes the score by about
    0.005, so a table has to say which one it took. A constant picture has no correlation: its entry is NaN.
    Raises HvfError if the two sets do not pair.
    """
    return np.concatenate([_pearson(_flat(a), _flat(b)) for a, b in _resized_pairs(reals_NHWC, recons_NHWC, first)])


def ssim(reals_NHWC, recons_NHWC, first: int | None = FIRST_SIZE) -> np.ndarray:
    """Structural similarity of each pair on 2-D grey pictures at 425 × 425, (N,) float64.

    Pictures and `first` as in `pixcorr`; the route changes SSIM by up to 0.02. Gaussian window, sigma 1.5, population
    covariance, data range 1 (Wang et al., 2004). This is what scikit-image 0.20 and later compute from the peers'
    call; with 0.19 the same call took columns for channels and gave about 0.075 more.
    Raises HvfError if the two sets do not pair.
    """
    return np.concatenate([_ssim(a, b) for a, b in _resized_pairs(reals_NHWC, recons_NHWC, first)])


def pixel_scores(reals_NHWC, recons_NHWC, first: int | None = FIRST_SIZE) -> dict[str, np.ndarray]:
    """`{"pixcorr": (N,), "ssim": (N,)}`, as the two functions give them but with the resizing done once."""
    scores = [(_pearson(_flat(a), _flat(b)), _ssim(a, b)) for a, b in _resized_pairs(reals_NHWC, recons_NHWC, first)]
    pixels, structure = zip(*scores, strict=True)
    return {"pixcorr": np.concatenate(pixels), "ssim": np.concatenate(structure)}


def two_way(features_real, features_recon) -> np.ndarray:
    """Two-way identification: the share of other images that each reconstruction resembles less than its own, (N,).

    Features are (N, D), or (N, ...) to be flattened. Column j of r = corrcoef(reals, recons)[:N, N:] scores the share
    of the N - 1 other reals whose correlation with reconstruction j is strictly below the diagonal's: a tie is a miss,
    and so is a constant feature vector. Chance is 0.5, see `two_way_chance`. Raises HvfError below two pairs.
    """
    return two_way_counts(features_real, features_recon) / (len(features_real) - 1)


def two_way_counts(features_real, features_recon) -> np.ndarray:
    """The numerators of `two_way`: how many of the N - 1 others each reconstruction beats, (N,) int64."""
    r_NN = _cross_correlation(features_real, features_recon)
    return (r_NN < np.diagonal(r_NN)).sum(axis=0)


def two_way_chance(features_real, features_recon, permutations: int = 10_000, seed: int = 0) -> dict:
    """What `two_way` averages to when reconstructions are paired with reals at random: `{"value", "ci95", "n"}`.

    The interval holds 95 % of random pairings of these very features, so it knows their likeness to each other, which
    a binomial interval does not. The value is 0.5, less whatever ties take away.
    """
    r_NN = _cross_correlation(features_real, features_recon)
    n = len(r_NN)
    share_NN = np.empty_like(r_NN)
    for column in range(n):  # share_NN[i, j]: the score of reconstruction j, were real i its own
        share_NN[:, column] = np.searchsorted(np.sort(r_NN[:, column]), r_NN[:, column], side="left") / (n - 1)
    share_NN[np.isnan(r_NN)] = 0.0
    rng = np.random.default_rng(seed)
    columns = np.arange(n)
    means = [share_NN[rng.permutation(n), columns].mean() for _ in range(permutations)]
    low, high = np.percentile(means, [2.5, 97.5])
    return {"value": float(share_NN.mean()), "ci95": [float(low), float(high)], "n": n}


def correlation_distance(features_real, features_recon) -> np.ndarray:
    """1 - Pearson correlation of the features of each pair, (N,) float64; lower is better, NaN for constant features.

    Features are (N, D) or (N, ...). EffNet-B and SwAV scores are means of this. Raises HvfError on unequal shapes.
    """
    return 1.0 - _pearson(*_paired_features(features_real, features_recon))


def bootstrap_ci(per_image_N, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over images.

    Undefined (NaN) entries are left out. Images are what is drawn again, so the interval speaks for other images of
    the same kind, not for other subjects or other training seeds. NaN, NaN when nothing is defined.
    """
    values = np.asarray(per_image_N, dtype=np.float64)
    values = values[~np.isnan(values)]
    if values.size == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    step = max(1, 4_000_000 // values.size)  # draws at once: 32 MB of indices, however many images there are
    means = [
        values[rng.integers(values.size, size=(min(step, resamples - start), values.size))].mean(axis=1)
        for start in range(0, resamples, step)
    ]
    low, high = np.percentile(np.concatenate(means), [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def summarise(per_image, seed: int = 0) -> dict:
    """Scores per image to an entry of metrics.json: `{"value": mean, "ci95": [low, high], "n": images}`.

    `per_image` is (N,), or (R, N) to average the rounds of each image first. The peers' mean is NaN as soon as one
    pair is undefined (a constant picture under PixCorr); here the mean is over the defined images, and `n` counts
    those alone, so that an `n` below the number of images says that some were left out. All NaN when none is defined.
    """
    scores_N = np.asarray(per_image, dtype=np.float64)
    if scores_N.ndim == 2:
        scores_N = scores_N.mean(axis=0)
    defined_N = scores_N[~np.isnan(scores_N)]
    value = float(defined_N.mean()) if defined_N.size else float("nan")
    return {"value": value, "ci95": list(bootstrap_ci(defined_N, seed=seed)), "n": int(defined_N.size)}


def _resized_pairs(reals_NHWC, recons_NHWC, first) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Chunks of both sets as (chunk, 3, 425, 425) float32 in 0..1."""
    reals_NHWC, recons_NHWC = np.asarray(reals_NHWC), np.asarray(recons_NHWC)
    for name, images in (("seen pictures", reals_NHWC), ("reconstructions", recons_NHWC)):
        if images.ndim != 4 or images.shape[-1] != 3 or not len(images):
            raise HvfError(f"the {name} should be an array (N, height, width, 3), not {images.shape}")
        if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
            raise HvfError(f"the {name} should be uint8, or floats in 0..1, not {images.dtype}")
    if len(reals_NHWC) != len(recons_NHWC):
        raise HvfError(f"{len(reals_NHWC)} seen pictures but {len(recons_NHWC)} reconstructions: they should pair")
    if first is None and reals_NHWC.shape != recons_NHWC.shape:
        raise HvfError(f"without a first resize both sets need one size: {reals_NHWC.shape}, {recons_NHWC.shape}")
    for start in range(0, len(reals_NHWC), CHUNK):
        chunk = slice(start, start + CHUNK)
        yield _resize(reals_NHWC[chunk], first), _resize(recons_NHWC[chunk], first)


def _resize(images_NHWC: np.ndarray, first: int | None) -> torch.Tensor:
    x = torch.from_numpy(np.ascontiguousarray(images_NHWC)).permute(0, 3, 1, 2).contiguous()
    x = x.float() / 255 if images_NHWC.dtype == np.uint8 else x.float()
    for size in (PIXEL_SIZE,) if first is None else (first, PIXEL_SIZE):
        x = torch.nn.functional.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return x


def _ssim(reals: torch.Tensor, recons: torch.Tensor) -> np.ndarray:
    greys = [rgb2gray(x.permute(0, 2, 3, 1).numpy()) for x in (reals, recons)]
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    return np.array([structural_similarity(a, b, **settings) for a, b in zip(*greys, strict=True)], dtype=np.float64)


def _flat(x: torch.Tensor) -> np.ndarray:
    return x.flatten(1).numpy()


def _paired_features(features_real, features_recon) -> tuple[np.ndarray, np.ndarray]:
    real, recon = np.asarray(features_real), np.asarray(features_recon)
    if real.shape != recon.shape or real.ndim < 2:
        raise HvfError(f"features of seen pictures {real.shape} and of reconstructions {recon.shape} do not pair")
    return real.reshape(len(real), -1), recon.reshape(len(recon), -1)


def _centred(x_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows without their mean, in float64, and their norms; NaN for a row that is constant but for its own rounding."""
    eps = np.finfo(x_ND.dtype).eps if np.issubdtype(x_ND.dtype, np.floating) else 0.0
    constant = np.ptp(x_ND, axis=1) <= 8 * eps * np.abs(x_ND).max(axis=1)
    x = x_ND.astype(np.float64)
    x -= x.mean(axis=1, keepdims=True)
    norm = np.sqrt(np.einsum("nd,nd->n", x, x))
    norm[constant] = np.nan
    return x, norm


def _pearson(a_ND: np.ndarray, b_ND: np.ndarray) -> np.ndarray:
    (a, norm_a), (b, norm_b) = _centred(a_ND), _centred(b_ND)
    return np.clip(np.einsum("nd,nd->n", a, b) / (norm_a * norm_b), -1.0, 1.0)


def _cross_correlation(features_real, features_recon) -> np.ndarray:
    """r_NN[i, j]: correlation of real i with reconstruction j, the off-diagonal block of np.corrcoef."""
    real_ND, recon_ND = _paired_features(features_real, features_recon)
    if len(real_ND) < 2:
        raise HvfError("two-way identification needs at least two pairs")
    (real, norm_real), (recon, norm_recon) = _centred(real_ND), _centred(recon_ND)
    # Divided one side at a time, as np.corrcoef does: correlations that tie there have to tie here.
    return np.clip(real @ recon.T / norm_real[:, None] / norm_recon[None, :], -1.0, 1.0)
