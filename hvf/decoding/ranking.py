"""Trials ranked among a gallery of any size: in blocks, exactly, with probabilities and sets.

Scores are cosines, or scaled as the gallery says (`hvf.evaluation.scaling`): then all that is said of how sure an
answer is rests on scores that are scaled alike.

Letters: N trials, M gallery items, V validation trials, S sampled gallery items, K answers, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from hvf.config import HvfError
from hvf.data.images.matching import ImageNames
from hvf.decoding.confidence import Confidence
from hvf.decoding.gallery import Gallery
from hvf.evaluation import calibration
from hvf.evaluation.calibration import Sharpness
from hvf.evaluation.scaling import COSINE, Scaling
from hvf.registry import did_you_mean

Search = Literal["blocks", "faiss"]
ANSWERS = 10  # of each trial that are listed
LEVEL = 0.9  # share of trials whose set holds their image
SAMPLE = 512  # gallery items that the temperature is fitted among
SCORES_BYTES = 2**28  # of scores at once: trials are ranked some at a time
SAYS_NOTHING = 0.05  # a trial does, if more than this share of trials without information lies as near to an image


@dataclass(frozen=True, eq=False)
class Calibrated:
    """How sure answers are among one gallery, from validation means over R trials."""

    repeats: int  # R
    sharpness: Sharpness
    threshold: float  # probability above which the set ends
    nothing_N: np.ndarray  # highest score of each trial without information, sorted
    popularity_M: np.ndarray | None  # where the penalty is not 0
    scaling: Scaling = COSINE  # of the scores that it was fitted to


@dataclass(frozen=True, eq=False)
class Answers:
    """What each trial was answered with, best first."""

    gallery: Gallery
    top_NK: np.ndarray  # gallery indices
    similarity_NK: np.ndarray  # scores: cosines, or what the gallery's scaling makes of them
    probability_NK: np.ndarray  # NaN without validation trials
    in_set_NK: np.ndarray  # bool: whether the answer is in the trial's set
    set_size_N: np.ndarray  # items in the set; 0 without validation trials
    nothing_N: np.ndarray  # share of trials without information as near to an image; NaN without validation trials
    repeats_N: np.ndarray  # trials averaged
    level: float
    target_N: np.ndarray  # gallery index of the image that the trial is known to answer, -1 where it is not
    rank_N: np.ndarray  # of that image, from 1; 0 where it is not known; ties count as misses
    held_N: np.ndarray  # whether the set holds that image
    calibrated: dict[int, Calibrated] = field(default_factory=dict)

    @property
    def says_nothing_N(self) -> np.ndarray:
        """Whether a trial lies no nearer to an image than trials without information do, bool (N,)."""
        return self.nothing_N > SAYS_NOTHING

    @property
    def known_N(self) -> np.ndarray:
        """Whether the image of a trial is known and in the gallery, bool (N,)."""
        return self.target_N >= 0

    @property
    def known_images(self) -> list[str]:
        """The image of each trial of which it is known and in the gallery."""
        return [str(self.gallery.ids[i]) for i in self.target_N[self.known_N].tolist()]


def answer(
    z_b_ND: np.ndarray,
    gallery: Gallery,
    confidence: Confidence | None,
    repeats_N: Sequence[int] | np.ndarray | None = None,
    image_ids: Sequence[str] | None = None,
    level: float = LEVEL,
    search: Search = "blocks",
    calibrated: dict[int, Calibrated] | None = None,
) -> Answers:
    """Rank a gallery for every trial, say how probable each answer is, and which answers are in its set.

    Parameters
    ----------
    z_b_ND : ndarray
        Embeddings of the trials.
    gallery : Gallery
        What is looked for.
    confidence : Confidence, optional
        Without it there are scores and ranks alone.
    repeats_N : sequence of int, optional
        How many single trials each row is a mean of (default: 1).
    image_ids : sequence of str, optional
        The image of each trial, "" where it is not known; those in the gallery get a rank.
    level : float
        Share of the trials whose set shall hold their image.
    search : "blocks" or "faiss"
        What finds the nearest images (`nearest`); probabilities, sets and ranks come from all cosines either way.
    calibrated : dict, optional
        What earlier calls fitted for this gallery and level, by number of trials; what is missing is put in.

    Raises
    ------
    HvfError
        If the widths or lengths differ, a value is not finite, the level does not lie between 0 and 1, nothing is
        called `search`, faiss is not installed, or `calibrated` was fitted to scores of another scaling.
    """
    z_b_ND = np.asarray(z_b_ND, dtype=np.float32)
    if z_b_ND.ndim != 2 or z_b_ND.shape[1] != gallery.width:
        raise HvfError(
            f"the trials' embeddings are {z_b_ND.shape} and those of {gallery.what} are {gallery.width} wide: "
            "they come from different decoders"
        )
    if not np.isfinite(z_b_ND).all():
        raise HvfError("embeddings of trials are not finite")
    if not 0 < level < 1:
        raise HvfError(f"the level of a set must lie between 0 and 1, not {level}")
    if search not in get_args(Search):
        raise HvfError(f"search is {search!r}{did_you_mean(search, get_args(Search))}")
    n, m = len(z_b_ND), len(gallery)
    for given, what in ((repeats_N, "numbers of repeats"), (image_ids, "images")):
        if given is not None and len(given) != n:
            raise HvfError(f"{n} trials were given {len(given)} {what}: give one per trial")
    repeats_N = np.ones(n, dtype=int) if repeats_N is None else np.asarray(repeats_N)
    if repeats_N.dtype.kind not in "iu" and n:
        raise HvfError(f"numbers of repeats are whole numbers, not {repeats_N.dtype}")
    level_N = np.zeros(n, int)
    fitted: dict[int, Calibrated] = {} if calibrated is None else calibrated
    if confidence is not None:
        level_N = np.array([confidence.level(int(r)) for r in repeats_N], dtype=int)
        for r in np.unique(level_N).tolist():
            if r not in fitted:
                fitted[r] = calibrate(confidence, gallery, r, level)
            if fitted[r].scaling is not gallery.scaling:
                was, now = fitted[r].scaling.name, gallery.scaling.name
                raise HvfError(f"probabilities were fitted to scores scaled by {was}, not by {now} as these: fit anew")
    calibrated = {r: fitted[r] for r in np.unique(level_N).tolist() if r in fitted}
    target_N = np.full(n, -1)
    if image_ids is not None:
        known = np.array([bool(name) for name in image_ids])
        names = [str(name) for name in image_ids if name]
        target_N[known] = ImageNames(gallery.ids, gallery.what).find(names)
    k = min(ANSWERS, m)
    out = Answers(
        gallery,
        top_NK=np.zeros((n, k), int),
        similarity_NK=np.zeros((n, k), np.float32),
        probability_NK=np.full((n, k), np.nan),
        in_set_NK=np.zeros((n, k), bool),
        set_size_N=np.zeros(n, int),
        nothing_N=np.full(n, np.nan),
        repeats_N=repeats_N,
        level=level,
        target_N=target_N,
        rank_N=np.zeros(n, int),
        held_N=np.zeros(n, bool),
        calibrated=calibrated,
    )
    if search == "faiss":
        out.top_NK[:], out.similarity_NK[:] = nearest(z_b_ND, gallery, k, "faiss")
        if not calibrated and not out.known_N.any():
            return out  # nothing else is asked for
    step = max(1, SCORES_BYTES // (4 * m))
    for start in range(0, n, step):
        rows = range(start, min(start + step, n))
        scores_NM = np.empty((len(rows), m), np.float32)
        queries_ND = gallery.scaling.queries(z_b_ND[rows.start : rows.stop])
        for place, z_MD in gallery.blocks():
            scores_NM[:, place] = queries_ND @ z_MD.T
        for i, scores_M in zip(rows, scores_NM, strict=True):
            if search == "blocks":
                out.top_NK[i] = best(scores_M, k)
                out.similarity_NK[i] = scores_M[out.top_NK[i]]
            _fill(out, i, scores_M, calibrated.get(int(level_N[i])))
    return out


def _fill(out: Answers, i: int, scores_M: np.ndarray, calibrated: Calibrated | None) -> None:
    """Put trial i's answers in."""
    top_K, target = out.top_NK[i], out.target_N[i]
    if target >= 0:
        out.rank_N[i] = int((scores_M >= scores_M[target]).sum())
    if calibrated is None:
        return
    p_M = calibrated.sharpness.probabilities(scores_M[None], calibrated.popularity_M)[0]
    out.probability_NK[i] = p_M[top_K]
    out.set_size_N[i] = calibration.set_sizes(p_M[None], calibrated.threshold)[0]
    in_question = [*top_K, *([target] if target >= 0 else [])]
    above = np.array([p_M[p_M > p_M[item]].sum() for item in in_question])
    held = above <= calibrated.threshold + 1e-9
    out.in_set_NK[i], out.held_N[i] = held[: len(top_K)], bool(target >= 0 and held[-1])
    # The highest score tells trials from noise better than the probability of the first answer does (docs/LOG.md).
    as_near = len(calibrated.nothing_N) - int(np.searchsorted(calibrated.nothing_N, scores_M.max(), side="left"))
    out.nothing_N[i] = (1 + as_near) / (1 + len(calibrated.nothing_N))


def nearest(z_b_ND: np.ndarray, gallery: Gallery, k: int, search: Search = "blocks") -> tuple[np.ndarray, np.ndarray]:
    """Gallery indices (N, K) and scores of the k nearest images to each trial, exactly, best first.

    Both ways read the gallery in blocks and keep the best of each. "faiss" (extra ``faiss``) finds them without a table
    of all scores; of images at equal distance either may come first. Raises HvfError if it is not installed.
    """
    queries_ND = gallery.scaling.queries(np.asarray(z_b_ND, dtype=np.float32))
    find = _faiss_knn() if search == "faiss" else _block_knn
    tops, cosines = [], []
    for place, z_MD in gallery.blocks():
        top_NK, cosine_NK = find(queries_ND, z_MD, min(k, len(z_MD)))
        tops.append(top_NK + place.start)
        cosines.append(cosine_NK)
        if len(tops) > 1:  # keep the best of both, the earlier of equals first
            both_N2, scores_N2 = np.concatenate(tops, axis=1), np.concatenate(cosines, axis=1)
            order = np.argsort(-scores_N2, axis=1, kind="stable")[:, :k]
            tops, cosines = ([np.take_along_axis(x, order, axis=1)] for x in (both_N2, scores_N2))
    return tops[0][:, :k], cosines[0][:, :k]


def _block_knn(queries_ND: np.ndarray, z_MD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores_NM = queries_ND @ z_MD.T
    top_NK = np.stack([best(scores_M, k) for scores_M in scores_NM])
    return top_NK, np.take_along_axis(scores_NM, top_NK, axis=1)


def _faiss_knn() -> Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]:
    try:
        import faiss  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise HvfError("--search faiss needs the package faiss: pip install 'hvf[faiss]'") from error

    def knn(queries_ND: np.ndarray, z_MD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        cosine_NK, top_NK = faiss.knn(queries_ND, z_MD, k, metric=faiss.METRIC_INNER_PRODUCT)
        return top_NK, cosine_NK

    return knn


def best(scores_M: np.ndarray, k: int) -> np.ndarray:
    """The k highest scores' places, best first; of ties, the earlier first."""
    if k >= len(scores_M):
        return np.argsort(-scores_M, kind="stable")
    bound = np.partition(scores_M, -k)[-k]
    candidates = np.flatnonzero(scores_M >= bound)
    return candidates[np.argsort(-scores_M[candidates], kind="stable")][:k]


def calibrate(confidence: Confidence, gallery: Gallery, repeats: int, level: float = LEVEL) -> Calibrated:
    """Fit temperature, penalty and threshold among a gallery, for means over `repeats` trials.

    The own image of every validation trial takes the place of one gallery item, each of another: so validation trials
    choose among as many images as new ones will, and the threshold holds for this gallery.
    """
    scaling, width = gallery.scaling, confidence.z_f_VD.shape[1]
    if width != gallery.width:
        raise HvfError(f"{gallery.what} is {gallery.width} wide and the validation images {width}")
    own_VD, z_b_VD = scaling.images(confidence.z_f_VD), scaling.queries(confidence.z_b[repeats])
    nothing_ND, bank_BD = scaling.queries(confidence.nothing[repeats]), scaling.queries(confidence.bank_BD)
    m, v = len(gallery), len(own_VD)
    own_V = (z_b_VD * own_VD).sum(axis=1)
    replaced_V = np.random.default_rng(0).permutation(m)[np.arange(v) % m]

    sample_SD = gallery.sample(SAMPLE)
    s = len(sample_SD)
    scores_VS, place_V = z_b_VD @ sample_SD.T, replaced_V % s
    scores_VS[np.arange(v), place_V] = own_V
    stand_for = max(1.0, (m - 1) / max(1, s - 1))
    sharpness = calibration.fit_sharpness(scores_VS, place_V, stand_for=stand_for)
    bank_own_V = calibration.popularity(bank_BD @ own_VD.T, sharpness.scale)
    popular_VS = np.tile(calibration.popularity(bank_BD @ sample_SD.T, sharpness.scale), (v, 1))
    popular_VS[np.arange(v), place_V] = bank_own_V
    groups_V = np.asarray(confidence.concepts)
    scale, sharpness = sharpness.scale, calibration.fit_sharpness(scores_VS, place_V, popular_VS, groups_V, stand_for)

    popularity_M = np.zeros(m) if sharpness.penalty else None
    own_logit_V = sharpness.logits(own_V[:, None], bank_own_V[:, None])[:, 0]
    total, above = _Sums(v), _Sums(v)
    nearest_N = np.full(len(nothing_ND), -np.inf)
    for place, z_MD in gallery.blocks():
        popular_M = None
        if popularity_M is not None:
            popular_M = popularity_M[place] = calibration.popularity(bank_BD @ z_MD.T, scale)
        logits_VM = sharpness.logits(z_b_VD @ z_MD.T, popular_M)
        here_V = np.flatnonzero((replaced_V >= place.start) & (replaced_V < place.stop))
        logits_VM[here_V, replaced_V[here_V] - place.start] = own_logit_V[here_V]
        total.add(logits_VM)
        above.add(np.where(logits_VM > own_logit_V[:, None] + 1e-9, logits_VM, -np.inf))
        nearest_N = np.maximum(nearest_N, (nothing_ND @ z_MD.T).max(axis=1))
    mass_V = np.exp(above.log_V - total.log_V)
    threshold = calibration.conformal_threshold(mass_V, level)
    return Calibrated(repeats, sharpness, threshold, np.sort(nearest_N), popularity_M, scaling)


class _Sums:
    """Log of the sum of exponentials of each row, block by block."""

    def __init__(self, n: int) -> None:
        self.log_V = np.full(n, -np.inf)

    def add(self, logits_VM: np.ndarray) -> None:
        with np.errstate(divide="ignore"):
            high_V = logits_VM.max(axis=1)
            shift_V = np.where(np.isfinite(high_V), high_V, 0.0)
            block_V = np.log(np.exp(logits_VM - shift_V[:, None]).sum(axis=1)) + shift_V
        self.log_V = np.logaddexp(self.log_V, block_V)
