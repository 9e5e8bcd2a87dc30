"""The field's reconstruction metrics, of pairs of pictures or of their features, exactly as the field defines them.

Shapes: N pairs, R rounds, D features, H and W pixels, C channels. Every metric returns one number per image, because
galleries, intervals and paired tests need them; `statistics.mean_over_images` makes an entry of metrics.json of those.
Definitions: MindEye's (Scotti et al., 2023), as its peers share them. Networks are not loaded here: two-way scores take
features.

What belongs to the seen pictures is computed once, however many rounds there are: see `PixelMeter` and `SeenFeatures`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from hvf.registry import METRICS, HvfError

FIRST_SIZE = 256  # both sets go to 256 × 256 before anything else, so that pictures of any size can be compared
PIXEL_SIZE = 425  # the size at which pixels are compared; NSD's stimulus size, kept by everyone since
ROUNDING = 1e-3  # by which floats may leave 0..1, as after interpolation
SIGMA, RADIUS = 1.5, 5  # of SSIM's Gaussian window: 11 × 11 pixels
C1, C2 = 0.01**2, 0.03**2  # SSIM's constants for a data range of 1
NEAR = 1e-5  # between two correlations: ten times what single precision errs by over 200,000 features
MANY = 0.05  # of the correlations as near as that: rather all of them in double
OFFSET = 100.0  # of features' mean, in standard deviations: from there on single precision is not enough
BLOCK, FEW = 4096, 16  # features that are squared and summed in single precision; pictures centred in double at once
GREY = np.array([0.2125, 0.7154, 0.0721], np.float32)  # scikit-image's rgb2gray


def pixcorr(reals_NHWC: ArrayLike, recons_NHWC: ArrayLike, first: int | None = FIRST_SIZE) -> np.ndarray:
    """Pearson correlation of the pixels of each pair, (N,) float64, or (R, N) for reconstructions (R, N, H, W, 3).

    Pictures are uint8, or floats in 0..1, (N, H, W, 3); the two sets may differ in size unless `first` is None.
    `first` names the route to 425 × 425 (bilinear, antialiased): 256 (the default, MindEye's) and 512 resize to that
    square beforehand, None goes straight there, as Brain-HIVE's code does. The route changes the score by about
    0.005, so a table has to say which one it took. A constant picture has no correlation: its entry is NaN.
    Raises HvfError if the two sets do not pair.
    """
    return pixel_scores(reals_NHWC, recons_NHWC, first, ("pixcorr",))["pixcorr"]


def ssim(reals_NHWC: ArrayLike, recons_NHWC: ArrayLike, first: int | None = FIRST_SIZE) -> np.ndarray:
    """Structural similarity of each pair on 2-D grey pictures at 425 × 425, (N,) or (R, N) float64.

    Pictures and `first` as in `pixcorr`; the route changes SSIM by up to 0.02. Gaussian window, sigma 1.5, population
    covariance, data range 1 (Wang et al., 2004). This is what scikit-image 0.20 and later compute from the peers'
    call; with 0.19 the same call took columns for channels and gave about 0.075 more.
    Raises HvfError if the two sets do not pair.
    """
    return pixel_scores(reals_NHWC, recons_NHWC, first, ("ssim",))["ssim"]


def pixel_scores(
    reals_NHWC: ArrayLike,
    recons_NHWC: ArrayLike,
    first: int | None = FIRST_SIZE,
    names: Sequence[str] = ("pixcorr", "ssim"),
) -> dict[str, np.ndarray]:
    """`{"pixcorr": (N,), "ssim": (N,)}`, as the two functions give them but with the resizing done once."""
    reals, recons = _checked(reals_NHWC, recons_NHWC, first)
    rounds_RNHWC = recons if recons.ndim == 5 else recons[None]
    scores = {name: np.empty(rounds_RNHWC.shape[:2]) for name in names}
    meter = PixelMeter(first)
    for i, real_HWC in enumerate(reals):
        meter.see(real_HWC)
        for r, drawn_NHWC in enumerate(rounds_RNHWC):
            for name, value in meter.score(drawn_NHWC[i], names).items():
                scores[name][r, i] = value
    return scores if recons.ndim == 5 else {name: values_RN[0] for name, values_RN in scores.items()}


class PixelMeter:
    """A seen picture and one of its reconstructions after another, both at 425 × 425, for metrics of their pixels.

    ``seen_3HW`` and ``drawn_3HW`` hold their pixels, float32 in 0..1. Its arrays are made once, because making them
    anew would cost more than the arithmetic. Hence one for each thread.
    """

    def __init__(self, first: int | None = FIRST_SIZE) -> None:
        self._first = first
        self._wide, self._narrow = PIXEL_SIZE, PIXEL_SIZE - 2 * RADIUS
        self.seen_3HW, self.drawn_3HW, self._seen_centred, self._drawn_centred = (
            np.empty((3, self._wide, self._wide), np.float32) for _ in range(4)
        )
        self._grey_x, self._grey_y, self._product = (np.empty((self._wide, self._wide)) for _ in range(3))
        self._half = np.empty((self._narrow, self._wide))
        # Of the seen picture x: means, their squares, means of squares; of the drawn y and of both: the same, and xy.
        self._x, self._xx, self._x2, self._y, self._yy, self._y2, self._xy, self._m = (
            np.empty((self._narrow, self._narrow)) for _ in range(8)
        )
        self._norm = float("nan")

    def see(self, picture_HWC: np.ndarray) -> None:
        """Load a seen picture, uint8 or floats in 0..1, and compute what does not depend on the reconstruction."""
        self._load(picture_HWC, self.seen_3HW, self._grey_x)
        self._norm = _centre(self.seen_3HW, self._seen_centred)
        self._blur(self._grey_x, self._x)
        np.multiply(self._x, self._x, out=self._xx)
        self._blur(np.multiply(self._grey_x, self._grey_x, out=self._product), self._x2)

    def score(self, picture_HWC: np.ndarray, names: Iterable[str]) -> dict[str, float]:
        """{name: score} of a reconstruction, uint8 or floats in 0..1, by pixel metrics in `METRICS`."""
        self._load(picture_HWC, self.drawn_3HW, self._grey_y)
        return {name: METRICS[name].score(self) for name in names}

    def correlation(self) -> float:
        """Pearson's r of the pixels of both pictures; NaN if either is constant."""
        norm = _centre(self.drawn_3HW, self._drawn_centred)
        return float(np.clip(_dot(self._seen_centred, self._drawn_centred) / (self._norm * norm), -1.0, 1.0))

    def _load(self, picture_HWC: np.ndarray, pixels_3HW: np.ndarray, grey_HW: np.ndarray) -> None:
        first_HWC = picture_HWC if self._first is None else resized(picture_HWC, self._first, self._first)
        resized(first_HWC, self._wide, self._wide, out_3HW=pixels_3HW)
        # In double precision: variances are small differences of large numbers, single costs SSIM up to 1e-5.
        grey_HW[...] = (GREY @ pixels_3HW.reshape(3, -1)).reshape(grey_HW.shape)

    def structural_similarity(self) -> float:
        """Mean SSIM over every window that lies inside the picture."""
        x, xx, y, yy, y2, xy, m = self._x, self._xx, self._y, self._yy, self._y2, self._xy, self._m
        self._blur(self._grey_y, y)
        self._blur(np.multiply(self._grey_y, self._grey_y, out=self._product), y2)
        self._blur(np.multiply(self._grey_x, self._grey_y, out=self._product), xy)
        np.multiply(y, y, out=yy)
        yy += xx  # squares of both means
        y2 += self._x2
        y2 -= yy  # variances of both
        np.multiply(x, y, out=m)
        xy -= m  # covariance
        for part, constant in ((m, C1), (xy, C2)):
            part *= 2
            part += constant
        yy += C1
        y2 += C2
        m *= xy
        yy *= y2
        m /= yy
        return float(m.mean())

    def _blur(self, grey_HW: np.ndarray, out_HW: np.ndarray) -> None:
        window = _window(self._wide)
        window.down(grey_HW, self._half)
        window.across(self._half, out_HW)


def resized(picture_HWC: np.ndarray, height: int, width: int, out_3HW: np.ndarray | None = None) -> np.ndarray:
    """A picture, uint8 or floats in 0..1, as float32 of another size: torchvision's bilinear Resize, as on tensors.

    Resizing is linear in the pixels, along one axis and then along the other: matrices do it, with torch's own weights.
    Returns (height, width, 3); memory lies as (3, height, width), which `out_3HW` may give.
    """
    x_3HW = np.ascontiguousarray(picture_HWC.transpose(2, 0, 1), dtype=np.float32)
    if picture_HWC.dtype == np.uint8:
        x_3HW = x_3HW / np.float32(255)
    out_3HW = np.empty((3, height, width), np.float32) if out_3HW is None else out_3HW
    if x_3HW.shape == out_3HW.shape:
        out_3HW[...] = x_3HW
    else:
        down, across = _resizing(x_3HW.shape[1], height), _resizing(x_3HW.shape[2], width)
        half_HW = np.empty((height, x_3HW.shape[2]), np.float32)
        for x_HW, out_HW in zip(x_3HW, out_3HW, strict=True):
            down.down(x_HW, half_HW)
            across.across(half_HW, out_HW)
    return out_3HW.transpose(1, 2, 0)


def two_way(features_real: ArrayLike, features_recon: ArrayLike) -> np.ndarray:
    """Two-way identification: the share of other images that each reconstruction resembles less than its own, (N,).

    Features are (N, D), or (N, ...) to be flattened. Column j of r = corrcoef(reals, recons)[:N, N:] scores the share
    of the N - 1 other reals whose correlation with reconstruction j is strictly below the diagonal's: a tie is a miss,
    and so is a constant feature vector. Chance is 0.5, see `chance_of`. Raises HvfError below two pairs, or if the two
    do not pair.
    """
    real, recon = np.asarray(features_real), np.asarray(features_recon)
    if real.shape != recon.shape or real.ndim < 2:
        raise HvfError(f"features of seen pictures {real.shape} and of reconstructions {recon.shape} do not pair")
    if len(real) < 2:
        raise HvfError("two-way identification needs at least two pairs")
    return two_way_shares(SeenFeatures(real).correlations(recon, np.arange(len(recon))))


def two_way_shares(r_NN: np.ndarray) -> np.ndarray:
    """`two_way` of correlations already there: real i by reconstruction j, (N, N), or (R, N, N) to give (R, N)."""
    own_N = np.diagonal(r_NN, axis1=-2, axis2=-1)
    return (r_NN < own_N[..., None, :]).sum(axis=-2) / (r_NN.shape[-1] - 1)


def chance_of(r_NN: np.ndarray, permutations: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """Chance of `two_way`: its mean when reconstructions are paired with reals at random, `{"value", "ci95", "n"}`.

    ``r_NN`` holds the correlations, (N, N), or (R, N, N): all rounds of an image move together. The interval holds 95 %
    of random pairings of these very features, so it knows their likeness to each other, which a binomial interval does
    not. The value is 0.5, less whatever ties take away.
    """
    r_RNN = r_NN.reshape(-1, *r_NN.shape[-2:])
    n = r_RNN.shape[-1]
    share_NN = np.zeros((n, n))  # share_NN[i, j]: the score of reconstruction j, were real i its own
    for r in r_RNN:
        for column in range(n):
            share = np.searchsorted(np.sort(r[:, column]), r[:, column], side="left") / (n - 1)
            share_NN[:, column] += np.where(np.isnan(r[:, column]), 0.0, share) / len(r_RNN)
    rng = np.random.default_rng(seed)
    columns = np.arange(n)
    means = [share_NN[rng.permutation(n), columns].mean() for _ in range(permutations)]
    low, high = np.percentile(means, [2.5, 97.5])
    return {"value": float(share_NN.mean()), "ci95": [float(low), float(high)], "n": n}


def chance_of_labels(
    read_RN: np.ndarray, own_N: np.ndarray, permutations: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """Chance of reading the right label: reconstructions paired with reals at random, `{"value", "ci95", "n"}`.

    Labels are integers, those of a picture's rounds (R, N) move together. The interval holds 95 % of random pairings of
    these very labels, so it knows which are read more often than others.
    """
    n = len(own_N)
    hits_NN = (read_RN[:, :, None] == own_N).mean(axis=0)  # [j, i]: the score of reconstruction j, were real i its own
    rng = np.random.default_rng(seed)
    means = [hits_NN[rng.permutation(n), np.arange(n)].mean() for _ in range(permutations)]
    low, high = np.percentile(means, [2.5, 97.5])
    return {"value": float(hits_NN.mean()), "ci95": [float(low), float(high)], "n": n}


class SeenFeatures:
    """Features of the seen pictures (N, D), prepared once, to be correlated with those of many reconstructions.

    Features may be (N, ...). Correlations are Pearson's r, or with ``centre`` false the cosine.
    """

    def __init__(self, features_ND: ArrayLike, centre: bool = True) -> None:
        self._centre = centre
        self._seen_ND = _flat(features_ND)
        self._centred_ND, self._norm_N = self._prepared(self._seen_ND)

    def correlations(self, features_MD: ArrayLike, own_M: np.ndarray) -> np.ndarray:
        """(N, M) float64: seen picture i with reconstruction j, the off-diagonal block of np.corrcoef.

        The product is taken in the features' own precision. Of single-precision ones, a correlation so near to that
        of the reconstruction's own picture, ``own_M[j]``, that rounding could part them is computed in double, and the
        own one with it: which of the two is greater is as np.corrcoef says.
        """
        drawn_MD = _flat(features_MD)
        centred_MD, norm_M = self._prepared(drawn_MD)
        r_NM = _divided(self._centred_ND @ centred_MD.T, self._norm_N, norm_M)
        if np.result_type(self._centred_ND, centred_MD) == np.float32:
            columns = np.arange(len(drawn_MD))
            near_NM = np.abs(r_NM - r_NM[own_M, columns]) < NEAR
            near_NM[own_M, columns] = False
            if near_NM.mean() > MANY:
                seen, drawn = (self._prepared(x.astype(np.float64)) for x in (self._seen_ND, drawn_MD))
                return np.clip(_divided(seen[0] @ drawn[0].T, seen[1], drawn[1]), -1.0, 1.0)
            for j in np.flatnonzero(near_NM.any(axis=0)):
                near_NM[own_M[j], j] = True
                rows = np.flatnonzero(near_NM[:, j])
                r_NM[rows, j] = self._exactly(rows, drawn_MD[j : j + 1])
        return np.clip(r_NM, -1.0, 1.0)

    def correlation(self, features_MD: ArrayLike, which_M: np.ndarray) -> np.ndarray:
        """(M,) float64: reconstruction j with the seen picture ``which_M[j]``."""
        drawn_MD, norm_M = self._prepared(_flat(features_MD).astype(np.float64))
        seen_MD, seen_norm_M = self._prepared(self._seen_ND[which_M].astype(np.float64))
        products_M = np.einsum("md,md->m", seen_MD, drawn_MD)
        return np.clip(products_M / (seen_norm_M * norm_M), -1.0, 1.0)

    def _exactly(self, rows: np.ndarray, one_1D: np.ndarray) -> np.ndarray:
        """Correlations of some seen pictures with one reconstruction, in double precision, a few pictures at a time."""
        (one_D,), norm_1 = self._prepared(one_1D.astype(np.float64))
        r = []
        for some in np.array_split(rows, -(-len(rows) // FEW)):
            seen_KD, norm_K = self._prepared(self._seen_ND[some].astype(np.float64))
            r.append(np.einsum("kd,d->k", seen_KD, one_D) / norm_K / norm_1)  # each row in the same order: ties stay
        return np.concatenate(r)

    def _prepared(self, flat_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centred, and their norms in float64: NaN for a constant vector (for a zero one, if not centred)."""
        mean_N = flat_ND.mean(axis=1) if self._centre else np.zeros(len(flat_ND), flat_ND.dtype)
        x_ND = flat_ND - mean_N[:, None] if self._centre else flat_ND
        square_N = np.zeros(len(x_ND))
        for start in range(0, x_ND.shape[1], BLOCK):  # sums of few squares lose nothing in single precision
            block = x_ND[:, start : start + BLOCK]
            square_N += np.einsum("nd,nd->n", block, block)
        norm_N = np.sqrt(square_N)
        if flat_ND.dtype == np.float32 and (np.abs(mean_N) * flat_ND.shape[1] ** 0.5 > OFFSET * norm_N).any():
            return self._prepared(flat_ND.astype(np.float64))
        norm_N[_constant(flat_ND) if self._centre else norm_N == 0] = np.nan
        return x_ND, norm_N


def _divided(products_NM: np.ndarray, norm_N: np.ndarray, norm_M: np.ndarray) -> np.ndarray:
    """By both norms, one side at a time, as np.corrcoef does: correlations that tie there have to tie here."""
    return products_NM.astype(np.float64, copy=False) / norm_N[:, None] / norm_M[None, :]


def _flat(features_ND: ArrayLike) -> np.ndarray:
    """Features (N, ...) as (N, D), in single precision where they have no more, else in double."""
    flat_ND = np.asarray(features_ND)
    flat_ND = flat_ND.reshape(len(flat_ND), -1)
    single = flat_ND.dtype in (np.float16, np.float32)
    return flat_ND.astype(np.float32 if single else np.float64, copy=False)


def _checked(reals_NHWC: ArrayLike, recons_NHWC: ArrayLike, first: int | None) -> tuple[np.ndarray, np.ndarray]:
    reals, recons = np.asarray(reals_NHWC), np.asarray(recons_NHWC)
    for name, images, axes in (("seen pictures", reals, (4,)), ("reconstructions", recons, (4, 5))):
        if images.ndim not in axes or images.shape[-1] != 3 or not images.size:
            raise HvfError(f"the {name} should be an array (N, height, width, 3), not {images.shape}")
        if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
            raise HvfError(f"the {name} should be uint8, or floats in 0..1, not {images.dtype}")
        if images.dtype != np.uint8 and not (images.min() >= -ROUNDING and images.max() <= 1 + ROUNDING):  # NaN neither
            raise HvfError(
                f"the {name} are floats from {images.min():g} to {images.max():g}: they should lie in 0..1: clip "
                "them, or divide by 255"
            )
    if len(reals) != recons.shape[-4]:
        raise HvfError(f"{len(reals)} seen pictures but {recons.shape[-4]} reconstructions: they should pair")
    if first is None and reals.shape != recons.shape[-4:]:
        raise HvfError(f"without a first resize both sets need one size: {reals.shape}, {recons.shape}")
    return reals, recons


class _Bands:
    """A matrix (new, old) whose entries lie along its diagonal, kept as dense blocks, which BLAS multiplies fastest."""

    def __init__(self, matrix: np.ndarray, rows: int = 16) -> None:
        self._blocks = []
        for start in range(0, len(matrix), rows):
            block = matrix[start : start + rows]
            used = np.flatnonzero(block.any(axis=0))
            old = slice(used[0], used[-1] + 1)
            self._blocks.append((slice(start, start + len(block)), old, np.ascontiguousarray(block[:, old])))

    def down(self, x_HW: np.ndarray, out_HW: np.ndarray) -> None:
        """Along the columns: matrix @ x."""
        for new, old, block in self._blocks:
            np.matmul(block, x_HW[old], out=out_HW[new])

    def across(self, x_HW: np.ndarray, out_HW: np.ndarray) -> None:
        """Along the rows: x @ matrix.T."""
        for new, old, block in self._blocks:
            np.matmul(x_HW[:, old], block.T, out=out_HW[:, new])


@lru_cache(maxsize=64)
def _resizing(old: int, new: int) -> _Bands:
    """torch's antialiased bilinear resizing along one axis as a matrix: the resized identity."""
    columns = [  # a few at a time: the identity of a large photograph is larger still
        torch.nn.functional.interpolate(
            torch.eye(old)[None, None, :, start : start + 512],
            (new, min(512, old - start)),
            mode="bilinear",
            antialias=True,
        )[0, 0].numpy()
        for start in range(0, old, 512)
    ]
    return _Bands(np.concatenate(columns, axis=1))


@lru_cache(maxsize=1)
def _window(size: int) -> _Bands:
    """SSIM's Gaussian window along one axis, at the places where all of it lies inside."""
    taps = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / SIGMA) ** 2)
    matrix = np.zeros((size - 2 * RADIUS, size))
    for row in range(len(matrix)):
        matrix[row, row : row + len(taps)] = taps / taps.sum()
    return _Bands(matrix)


def _centre(pixels_3HW: np.ndarray, out_3HW: np.ndarray) -> float:
    """Pixels less their mean, into `out_3HW`; returns their norm then, NaN for a constant picture."""
    constant = _constant(pixels_3HW.reshape(1, -1))[0]
    np.subtract(pixels_3HW, pixels_3HW.mean(dtype=np.float64).astype(np.float32), out=out_3HW)
    return float("nan") if constant else float(np.sqrt(_dot(out_3HW, out_3HW)))


def _dot(x_3HW: np.ndarray, y_3HW: np.ndarray) -> float:
    """Sum of products: in single precision over the fifth part of a row of pixels, in double from there on."""
    x, y = x_3HW.reshape(-1, PIXEL_SIZE // 5), y_3HW.reshape(-1, PIXEL_SIZE // 5)
    return float(np.einsum("ij,ij->i", x, y).sum(dtype=np.float64))


def _constant(x_ND: np.ndarray) -> np.ndarray:
    """Which rows are constant but for their own rounding, (N,) bool."""
    eps = np.finfo(x_ND.dtype).eps if np.issubdtype(x_ND.dtype, np.floating) else 0.0
    low_N, high_N = x_ND.min(axis=1), x_ND.max(axis=1)
    return high_N - low_N <= 8 * eps * np.maximum(np.abs(low_N), np.abs(high_N))
