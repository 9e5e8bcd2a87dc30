"""Which sensors, latencies and kinds of image feature carry what is decoded. No files: arrays in, figures out.

Occlusion asks what a trained decoder uses: a part of every trial is replaced by the mean response of the training
trials, which says nothing of the image, and the images are ranked again. Retraining asks what a part holds: a new
decoder gets that part alone. Sensors share sources, so a sensor is occluded together with its neighbours, too: what one
loses another still tells (Haufe et al. 2014 on reading weights of decoders).

Letters: N test trials, row i answering image i of the gallery; C channels, T samples, O occlusions, M images to fit on,
d features, P responses, D embedding.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hvf.alignment import Alignment
from hvf.alignment.inputs import standardised
from hvf.config import Config, HvfError, with_settings
from hvf.data.trials.trials import Trials, concept_split
from hvf.evaluation import retrieval
from hvf.experiments.protocols import HeldOut, Split, choose

FIGURES = {"top1": "top-1", "mrr": "mean reciprocal rank", "percentile": "mean rank percentile"}
GROUPS = LOW, HIGH = ("low-level", "semantic")
COMPONENTS = 128  # of each group of features: groups of equal size, whatever the encoders' widths
PENALTIES = tuple(10.0**e for e in range(-5, 2))  # of the mean square of a band's rows
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the first band, where there are two
TOP = 5
Window = tuple[float, float]


def scores(ranks_N: np.ndarray, n_gallery: int) -> dict[str, np.ndarray]:
    """Each image's top-1, reciprocal rank, and rank percentile: 1 for the first of the gallery, 0 for the last."""
    if n_gallery < 2:
        raise HvfError(f"ranks mean something among two images or more, not {n_gallery}")
    ranks_N = np.asarray(ranks_N, dtype=float)
    return {"top1": (ranks_N <= 1) * 1.0, "mrr": 1 / ranks_N, "percentile": (n_gallery - ranks_N) / (n_gallery - 1)}


# --- occlusion --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Occlusion:
    """Ranks of N images as they are, (N,), and after each of O occlusions, (O, N)."""

    image_ids: tuple[str, ...]
    intact_N: np.ndarray
    occluded_ON: np.ndarray

    def lost(self, figure: str) -> np.ndarray:
        """What each occlusion takes from each image's score, (O, N): positive where the part was of use."""
        n = len(self.intact_N)
        return scores(self.intact_N, n)[figure] - scores(self.occluded_ON, n)[figure]

    def figures(self, figure: str) -> list[dict]:
        """The mean loss of each occlusion, {"value", "ci95", "n"}, bootstrapped over images."""
        return [retrieval.interval(lost_N, self.image_ids) for lost_N in self.lost(figure)]

    def threshold(self, figure: str, level: float = 0.95, flips: int = 2000, seed: int = 0) -> float:
        """A part whose mean loss is above this is of use, with a family-wise error of 1 − `level` over all O.

        Each image's losses change their signs together, at random, and the largest mean counts: right whatever the
        correlation between sensors (max statistic, step-down: Nichols and Holmes 2002).
        """
        lost_ON = self.lost(figure)
        signs_NF = np.random.default_rng(seed).choice((-1.0, 1.0), size=(lost_ON.shape[1], flips))
        mean_O, chance_OF = lost_ON.mean(axis=1), lost_ON @ signs_NF / lost_ON.shape[1]
        limit, left_O = np.inf, np.ones(len(mean_O), bool)
        while left_O.any():
            limit = float(np.quantile(chance_OF[left_O].max(axis=0), level))
            if not (mean_O[left_O] > limit).any():
                break
            left_O &= mean_O <= limit
        return limit


def mean_response(trials: Trials) -> np.ndarray:
    """Mean of all trials, float32 (C, T), read part by part: what an occluded part is replaced by."""
    total_CT = np.zeros(trials.shape[1:])
    for _, x_NCT in trials.batches():
        total_CT += x_NCT.sum(axis=0, dtype=np.float64)
    return (total_CT / len(trials)).astype(np.float32)


@torch.no_grad()
def occlude(
    alignment: Alignment,
    trials: Trials,
    features: Mapping[str, np.ndarray],
    baseline_CT: np.ndarray,
    masks: Sequence[np.ndarray],
) -> Occlusion:
    """Rank the images again after each mask (C, T) of True has been put to `baseline_CT`, the training mean.

    Trial i answers image i of `features`. Raises HvfError for trials of another recording, or that do not pair.
    """
    z_f_ND = alignment.embed_images(features)
    if len(z_f_ND) != len(trials):
        raise HvfError(f"{len(trials)} trials but {len(z_f_ND)} images: trial i must answer image i")
    intact_N = retrieval.ranks(retrieval.similarity(alignment.embed_brain(trials), z_f_ND))
    both = np.concatenate([trials.x_NCT, baseline_CT[None]])
    x_NCT = standardised(both, alignment.normalisation["x"], alignment.device)
    x_NCT, mean_CT = x_NCT[:-1], x_NCT[-1]
    ranks_ON = []
    for mask_CT in masks:
        hidden_CT = torch.from_numpy(np.asarray(mask_CT)).to(x_NCT.device)
        z_b_ND = alignment.brain(torch.where(hidden_CT, mean_CT, x_NCT))
        ranks_ON.append(retrieval.ranks(retrieval.similarity(z_b_ND, z_f_ND)))
    return Occlusion(tuple(trials.image_ids.tolist()), intact_N, np.array(ranks_ON).reshape(-1, len(trials)))


def sensor_masks(groups: Sequence[Sequence[int]], trials: Trials, window: Window | None = None) -> list[np.ndarray]:
    """Masks (C, T) of groups of channels, in one window (s) or in all of the trial."""
    inside_T = np.ones(trials.shape[2], bool) if window is None else _inside(trials, window)
    return [np.isin(np.arange(trials.shape[1]), list(group))[:, None] & inside_T for group in groups]


def window_masks(windows: Sequence[Window], trials: Trials) -> list[np.ndarray]:
    """Masks (C, T) of all channels in each window (s)."""
    return [np.broadcast_to(_inside(trials, window), trials.shape[1:]).copy() for window in windows]


def windows_of(trials: Trials, width: float) -> list[Window]:
    """[tmin, tmax) in s, side by side over the trial, a last one that is too short left out; [] without a time axis.

    Raises HvfError where a window would hold no sample, or there would not be two.
    """
    n_times = trials.shape[2]
    if n_times == 1:
        return []
    step = round(width * trials.sfreq)
    if step < 1 or 2 * step > n_times:
        seconds = n_times / trials.sfreq
        raise HvfError(f"windows of {1000 * width:g} ms do not part {1000 * seconds:g} ms at {trials.sfreq:g} Hz")
    edges = trials.tmin + np.arange(0, n_times + 1, step) / trials.sfreq
    return [(float(a), float(b)) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def neighbours(positions_C2: np.ndarray, radius: float) -> list[np.ndarray]:
    """For each sensor those within `radius` m of it in the plane, itself among them."""
    apart_CC = np.linalg.norm(positions_C2[:, None] - positions_C2[None], axis=-1)
    return [np.flatnonzero(apart_C <= radius) for apart_C in apart_CC]


def _inside(trials: Trials, window: Window) -> np.ndarray:
    half = 0.5 / trials.sfreq  # samples are far apart, their times are not exact
    return (trials.times > window[0] - half) & (trials.times < window[1] - half)


# --- retraining -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Retrained:
    """Ranks (N,) of the test images and the first gallery columns (N, 5), from one window; what validation said."""

    ranks_N: np.ndarray
    top_NK: np.ndarray
    validation: Mapping[str, float]


def retrain(split: Split, test: Trials, shown: Mapping[str, np.ndarray], config: Config, window: Window) -> Retrained:
    """A decoder of its own for one window (s): fitted and chosen on `split` alone, tested once.

    It learns its fusion (align.mode "retrieval"), also where the run's was the prior's.
    """
    one = with_settings(config, {"align.mode": "retrieval", "targets.specs": tuple(split.features)})
    choice = choose(replace(split, trials=split.trials.crop(*window)), one)
    part = test.crop(*window)
    ranks_N = HeldOut(part, shown).ranks(choice)
    scores_NM = retrieval.similarity(choice.alignment.embed_brain(part), choice.alignment.embed_images(shown))
    return Retrained(ranks_N, retrieval.top_items(scores_NM, TOP), choice.validation)


# --- low-level against semantic ---------------------------------------------------------------------------------------


def explained(
    fit: Sequence[np.ndarray],
    test: Sequence[np.ndarray],
    y_MPT: np.ndarray,
    y_NPT: np.ndarray,
    concepts_M: Sequence[str] | np.ndarray,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Predict responses (P of them at T times) from bands of image features: (R² of each image, (N, T); predictions).

    ``fit`` and ``test`` hold one array (M, d_k) and (N, d_k) per band. Banded ridge (Nunez-Elizalde et al. 2019), with
    penalty and share of the bands chosen at each time on a fifth of the concepts, then fitted to all. The mean of an
    image's R² over images is 1 − Σ(y − ŷ)² / Σ(y − ȳ)², ȳ the mean of the fitted responses.
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
    """Σ(y − ȳ)² of each test image, (N, T), ȳ the mean of the fitted responses."""
    return np.square(y_NPT - y_MPT.mean(axis=0)).sum(axis=1)


def r2_intervals(r2_NT: np.ndarray, total_NT: np.ndarray, draws: int = 5000, seed: int = 0) -> list[dict]:
    """{"value", "ci95", "n"} of R² at each time; images are drawn again for both sums of squares (``variance``)."""
    n = len(r2_NT)
    weights_DN = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float32)
    drawn_DT = (weights_DN @ r2_NT) / np.maximum(weights_DN @ (total_NT / total_NT.mean(axis=0)), 1e-12)
    ends_T2 = np.percentile(drawn_DT, [2.5, 97.5], axis=0).T
    return [{"value": float(v), "ci95": e.tolist(), "n": n} for v, e in zip(r2_NT.mean(axis=0), ends_T2, strict=True)]


def _ridge(x_Md: np.ndarray, y_MP: np.ndarray, x_Nd: np.ndarray, penalties: Sequence[float]):
    """Predictions (N, P) for each penalty, in units of the mean square of the rows; one decomposition for all."""
    x_mean, y_mean = x_Md.mean(axis=0), y_MP.mean(axis=0)
    x_Md, y_MP = x_Md - x_mean, y_MP - y_mean
    size_d, axes_dd = np.linalg.eigh((x_Md.T @ x_Md).astype(np.float64))
    target_dP = (axes_dd.T @ (x_Md.T @ y_MP)).astype(np.float32)
    seen_Nd = ((x_Nd - x_mean) @ axes_dd).astype(np.float32)
    for penalty in penalties:
        shrunk_d = 1 / (np.maximum(size_d, 0) + penalty * len(x_Md))
        yield (seen_Nd * shrunk_d.astype(np.float32)) @ target_dP + y_mean


def band(fit: Sequence[np.ndarray], test: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Features of several encoders as one band: each encoder centred and of unit size, then principal components."""
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
    """Edges without any network, float32 (N, 192): energy of Gabor-like filters of luminance, on 4 × 4 patches.

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
    """Variance partitioning: what two bands of features explain of responses, each alone, together, and shared.

    Unique to A is R²(A and B) − R²(B), shared is R²(A) + R²(B) − R²(A and B): Lescroart et al. 2015, de Heer et al.
    2017. ``bands`` are {name: (fit, test)} as from `band`. Returns the R² of each image, (N, T), by name, and the
    predictions (N, P, T) of A, of B and of "both".
    """
    (a, (fit_a, test_a)), (b, (fit_b, test_b)) = bands.items()
    models = {a: ([fit_a], [test_a]), b: ([fit_b], [test_b]), "both": ([fit_a, fit_b], [test_a, test_b])}
    found = {name: explained(*x, y_MPT, y_NPT, concepts_M) for name, x in models.items()}
    r2 = {name: r2_NT for name, (r2_NT, _) in found.items()}
    r2 |= {f"only {a}": r2["both"] - r2[b], "shared": r2[a] + r2[b] - r2["both"], f"only {b}": r2["both"] - r2[a]}
    return r2, {name: y for name, (_, y) in found.items()}


def identified(z_ND: np.ndarray, predicted_ND: np.ndarray) -> np.ndarray:
    """Rank (N,) of each image among all, its embedding z_b against those predicted from images (Kay et al. 2008).

    Both are centred first: a prediction that shrinks to the mean would otherwise resemble every trial.
    """
    return retrieval.ranks(retrieval.similarity(z_ND - z_ND.mean(axis=0), predicted_ND - predicted_ND.mean(axis=0)))


# --- what is found, and where it lies ---------------------------------------------------------------------------------


def by_category(ranks_N: np.ndarray, first_N: np.ndarray, categories: Sequence[str]) -> dict[str, dict]:
    """For each category, best first: how often the image is found, and how often what comes first is of the category.

    ``first_N`` is the gallery column that came first. Returns {category: {"top1", "category", "chance" of the latter}}.
    """
    category_N, n = np.asarray(categories), len(categories)
    found = {}
    for name in dict.fromkeys(categories):
        rows = np.flatnonzero(category_N == name)
        found[name] = {
            "top1": retrieval.interval(np.asarray(ranks_N)[rows] <= 1),
            "category": retrieval.interval(category_N[np.asarray(first_N)[rows]] == name),
            "chance": len(rows) / n,
        }
    return dict(sorted(found.items(), key=lambda item: -item[1]["category"]["value"]))


def joint_map(z_b_ND: np.ndarray, z_f_ND: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Both modalities in one plane, (N, 2) each, by UMAP of cosine distances (McInnes et al. 2018).

    Each modality is centred on its own mean: contrastive embeddings lie on two cones, and a map would show nothing but
    that gap (Liang et al. 2022). Raises HvfError for fewer than four images, or without umap-learn.
    """
    n = len(z_b_ND)
    if n < 4:
        raise HvfError(f"a map needs four images or more, not {n}")
    z_ND = np.concatenate([z - z.mean(axis=0) for z in (z_b_ND, z_f_ND)])
    # One thread: with a seed there is no other, and umap would warn of it.
    plane = _umap().UMAP(n_neighbors=min(15, n), metric="cosine", random_state=seed, n_jobs=1).fit_transform(z_ND)
    return plane[:n], plane[n:]


def _umap() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # that there is no TensorFlow, which is not needed
            import umap  # here, for it is slow; the first map of a process compiles some 20 s more
    except (ImportError, RuntimeError) as error:  # numba's, where it finds no folder to cache what it compiled
        raise HvfError(
            f"the map is UMAP's, which cannot be imported ({error}): pip install 'hvf[interpret]'"
        ) from error
    return umap
