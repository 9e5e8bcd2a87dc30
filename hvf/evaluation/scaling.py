"""Scaling of scores: images that lie near to every trial (hubs) are set back before the gallery is ranked.

*Inductive* scalings answer one trial at a time: "cosine"; "centred", the cosine after the means of training trials and
of images that are not tested were taken off; and "csls", cross-domain similarity local scaling (Conneau et al., arXiv
1710.04087): twice the centred cosine, less r_g, the mean of the k highest that the image has with a bank of training
trials. *Transductive* ones take all test trials at once, so that an answer hangs on the other questions:
"centred-transductive", less the means of the test trials and images; of these cosines, "csls-transductive", whose bank
is the test trials; "sinkhorn", the doubly stochastic scaling of exp(cosine / τ); and "hungarian", the one-to-one
matching with the highest sum. Their figures stand apart. CSLS's other term, r_q, is constant for a trial: it changes no
rank and is left out.

Letters: N trials (queries), M images of the gallery, B trials of the bank, V validation trials, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hvf.evaluation import retrieval
from hvf.evaluation.retrieval import unit
from hvf.evaluation.statistics import interval
from hvf.registry import HvfError, did_you_mean

INDUCTIVE = ("cosine", "centred", "csls")
TRANSDUCTIVE = ("centred-transductive", "csls-transductive", "sinkhorn", "hungarian")
K = 10  # neighbours, where no validation trial chooses (the field's number)
KS = (1, 2, 5, 10, 20, 50, 100)  # that validation trials choose from
TAU = 0.05  # temperature of Sinkhorn's scaling
ITERATIONS, TOLERANCE = 1000, 1e-3  # of Sinkhorn's, at most; until all rows sum to 1 so nearly
NOTHING_LEFT = 1e-6  # length of a centred unit vector below which it is rounding


def check_scalings(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once and in order, without "cosine", which is always measured. HvfError for an unknown one."""
    for name in names:
        if name not in (*INDUCTIVE, *TRANSDUCTIVE):
            raise HvfError(f"--scaling is {name!r}{did_you_mean(name, (*INDUCTIVE, *TRANSDUCTIVE))}")
    return tuple(name for name in dict.fromkeys(names) if name != "cosine")


@dataclass(frozen=True, eq=False)
class Scaling:
    """An inductive scaling, as two maps whose inner product is the score: of trials and of images.

    Parameters
    ----------
    name : str
        "cosine", "centred" or "csls".
    z_b_mean_D, z_f_mean_D : ndarray, optional
        Taken off trials and images of length 1.
    bank_BD : ndarray, optional
        For "csls", training trials, centred and scaled to length 1.
    k : int
        How many of the bank's highest scores are averaged.
    """

    name: str = "cosine"
    z_b_mean_D: np.ndarray | None = None
    z_f_mean_D: np.ndarray | None = None
    bank_BD: np.ndarray | None = None
    k: int = 0

    @classmethod
    def of_bank(cls, name: str, bank_BD: np.ndarray, z_f_MD: np.ndarray, k: int = K) -> Scaling:
        """The scaling by a bank of training trials and of images that are not tested. HvfError if the widths differ."""
        if name not in INDUCTIVE:
            raise HvfError(f"{name} takes all test trials at once: of single trials there is {', '.join(INDUCTIVE)}")
        if bank_BD.shape[1] != z_f_MD.shape[1]:
            raise HvfError(f"the bank's trials are {bank_BD.shape[1]} wide and its images {z_f_MD.shape[1]}")
        if name == "cosine":
            return cls()
        bank_BD = unit(bank_BD)
        z_b_mean_D, z_f_mean_D = _mean(bank_BD), _mean(unit(z_f_MD))
        if name == "centred":
            return cls(name, z_b_mean_D, z_f_mean_D)
        return cls(name, z_b_mean_D, z_f_mean_D, less_mean(bank_BD, z_b_mean_D), min(k, len(bank_BD)))

    @classmethod
    def fit(
        cls,
        name: str,
        bank_BD: np.ndarray,
        z_b_VD: np.ndarray,
        z_f_MD: np.ndarray,
        target_V: np.ndarray | None = None,
    ) -> Scaling:
        """The scaling by a bank of training trials, its k that by which validation trials find their images best.

        By mean reciprocal rank among the validation images, of equals the one nearest to 10.

        Parameters
        ----------
        name : str
            "cosine", "centred" or "csls".
        bank_BD, z_b_VD : ndarray
            Training trials, and validation trials.
        z_f_MD : ndarray
            The validation images, whose mean is taken off images.
        target_V : ndarray of int, optional
            The image of each validation trial, by default trial i's is image i.
        """
        if name != "csls":
            return cls.of_bank(name, bank_BD, z_f_MD)
        fitted = [cls.of_bank(name, bank_BD, z_f_MD, k) for k in KS if k <= len(bank_BD)]
        ranks = [retrieval.ranks(one.scores(z_b_VD, z_f_MD), target_V) for one in fitted]
        found = [retrieval.mean_reciprocal_rank(ranks_V) for ranks_V in ranks]
        return max(zip(found, fitted, strict=True), key=lambda pair: (pair[0], -abs(np.log(pair[1].k / K))))[1]

    def queries(self, z_b_ND: np.ndarray) -> np.ndarray:
        """What of trials (N, D) meets `images`."""
        if self.z_b_mean_D is None:
            return unit(z_b_ND)
        z_ND = less_mean(unit(z_b_ND), self.z_b_mean_D)
        return z_ND if self.bank_BD is None else np.hstack([2 * z_ND, np.full((len(z_ND), 1), -1.0, z_ND.dtype)])

    def images(self, z_f_MD: np.ndarray, hubness_M: np.ndarray | None = None) -> np.ndarray:
        """What of images (M, D) meets `queries`; `hubness_M` where it is known already."""
        if self.z_f_mean_D is None:
            return unit(z_f_MD)
        z_MD = less_mean(unit(z_f_MD), self.z_f_mean_D)
        if self.bank_BD is None:
            return z_MD
        hubness_M = self._hubness(z_MD) if hubness_M is None else hubness_M
        return np.hstack([z_MD, hubness_M[:, None].astype(z_MD.dtype)])

    def hubness(self, z_f_MD: np.ndarray) -> np.ndarray | None:
        """r_g of each image, (M,): the mean of its k highest centred cosines with the bank; None without a bank."""
        if self.bank_BD is None or self.z_f_mean_D is None:
            return None
        return self._hubness(less_mean(unit(z_f_MD), self.z_f_mean_D))

    def _hubness(self, z_MD: np.ndarray) -> np.ndarray:
        assert self.bank_BD is not None
        return highest(self.bank_BD @ z_MD.T, self.k)

    def scores(self, z_b_ND: np.ndarray, z_f_MD: np.ndarray) -> np.ndarray:
        """Scores (N, M) of every trial with every image."""
        return self.queries(z_b_ND) @ self.images(z_f_MD).T


COSINE = Scaling()


def less_mean(z_ND: np.ndarray, mean_D: np.ndarray) -> np.ndarray:
    """Rows without the mean, scaled to length 1; zero where nothing but rounding is left."""
    z_ND = z_ND - mean_D.astype(z_ND.dtype)
    norm_N1 = np.linalg.norm(z_ND, axis=1, keepdims=True)
    return np.where(norm_N1 > NOTHING_LEFT, z_ND / np.maximum(norm_N1, NOTHING_LEFT), 0.0).astype(z_ND.dtype)


def highest(scores_BM: np.ndarray, k: int) -> np.ndarray:
    """Mean of the k highest scores of each column (of all, where there are fewer), (M,)."""
    k = min(k, len(scores_BM))
    return np.partition(scores_BM, len(scores_BM) - k, axis=0)[len(scores_BM) - k :].mean(axis=0)


def csls(scores_NM: np.ndarray, bank_BM: np.ndarray, k: int = K) -> np.ndarray:
    """Twice the scores less r_g, the mean of each image's k highest scores with the trials of a bank."""
    return 2 * scores_NM - highest(bank_BM, k)


def sinkhorn(scores_NM: np.ndarray, tau: float = TAU) -> np.ndarray:
    """Log of exp(scores / τ) scaled so that all rows sum to 1 and all columns to N / M: images asked for equally often.

    By turns (Sinkhorn and Knopp 1967), in logarithms.
    """
    log_NM = np.asarray(scores_NM, dtype=np.float64) / tau
    share = np.log(len(log_NM) / log_NM.shape[1])
    for _ in range(ITERATIONS):
        log_NM = log_NM - (_log_sum(log_NM, axis=0) - share)
        rows_N1 = _log_sum(log_NM, axis=1)
        if np.abs(np.expm1(rows_N1)).max() < TOLERANCE:
            break
        log_NM = log_NM - rows_N1
    return log_NM


def centred_cosine(z_b_ND: np.ndarray, z_f_MD: np.ndarray) -> np.ndarray:
    """Cosine (N, M) after the mean of these trials and of these images was taken off: transductive."""
    z_b_ND, z_f_MD = unit(z_b_ND), unit(z_f_MD)
    return less_mean(z_b_ND, _mean(z_b_ND)) @ less_mean(z_f_MD, _mean(z_f_MD)).T


def transductive_ranks(name: str, scores_NM: np.ndarray, target_N: np.ndarray | None = None) -> np.ndarray:
    """Rank of each trial's own image under a transductive scaling of centred cosines, (N,) from 1.

    Under "hungarian" 1 for a right pair and M for a wrong one: the matching gives every trial one image and no other.
    Raises HvfError where the scaling cannot be: of a single trial; a matching unless every image has one trial.
    """
    n, m = scores_NM.shape
    if name not in TRANSDUCTIVE:
        raise HvfError(f"there is no transductive scaling {name!r}{did_you_mean(name, TRANSDUCTIVE)}")
    if n < 2:
        raise HvfError(f"--scaling {name} takes all test trials at once, and there is {n}")
    if name == "csls-transductive":
        scores_NM = csls(scores_NM, scores_NM)
    elif name == "sinkhorn":
        scores_NM = sinkhorn(scores_NM)
    elif name == "hungarian":
        order_N = np.arange(n) if target_N is None else np.asarray(target_N)
        if not n == m == len(np.unique(order_N)):
            raise HvfError(
                f"--scaling hungarian gives each image to one trial, and here {n} trials answer "
                f"{len(np.unique(order_N))} of {m} images: average the trials of an image, or leave it out"
            )
        return np.where(retrieval.one_to_one(scores_NM[:, order_N]), 1, m)
    return retrieval.ranks(scores_NM, target_N)


def scaled_figures(
    name: str, ranks_N: np.ndarray, cosine_N: np.ndarray | None, image_ids: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Figures of ranks under a scaling, as `retrieval.summarise` gives them, with top1_gain and top5_gain.

    Parameters
    ----------
    name : str
        The scaling; a matching has top-1 alone.
    ranks_N : ndarray
        Ranks under the scaling.
    cosine_N : ndarray, optional
        Ranks by the cosine: a gain is the difference on the same trials, its interval paired. None of a control.
    image_ids : sequence of str, optional
        As `retrieval.summarise` takes them.
    """
    kept = ("top1",) if name == "hungarian" else None
    figures = {key: e for key, e in retrieval.summarise(ranks_N, image_ids).items() if kept is None or key in kept}
    for k in (1, 5):
        if cosine_N is not None and f"top{k}" in figures:
            gain_N = (np.asarray(ranks_N) <= k).astype(float) - (cosine_N <= k)
            figures[f"top{k}_gain"] = interval(gain_N, image_ids)
    return figures


def section(name: str) -> str:
    """The section that a scaling's figures stand in: "transductive" apart from "retrieval"."""
    return "transductive" if name in TRANSDUCTIVE else "retrieval"


def scaled_entries(
    ranks: Mapping[str, np.ndarray], cosine_N: np.ndarray, n_gallery: int, image_ids: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Entries of a metrics.json for {scaling: ranks}: retrieval/SCALING/..., and transductive/SCALING/... with chance.

    Parameters
    ----------
    ranks : mapping
        Of the same trials, by the name of the scaling.
    cosine_N : ndarray
        Their ranks by the cosine.
    n_gallery : int
        M.
    image_ids : sequence of str, optional
        As `retrieval.summarise` takes them.
    """
    entries: dict[str, dict[str, Any]] = {}
    for name, ranks_N in ranks.items():
        figures = scaled_figures(name, ranks_N, cosine_N, image_ids)
        entries |= {f"{section(name)}/{name}/{figure}": entry for figure, entry in figures.items()}
    if any(name in TRANSDUCTIVE for name in ranks):
        n_images = len(cosine_N) if image_ids is None else len(set(image_ids))
        entries |= {f"chance/transductive/top{k}": retrieval.chance(k, n_images, n_gallery) for k in retrieval.KS}
    return entries


def _log_sum(log_NM: np.ndarray, axis: int) -> np.ndarray:
    """Log of the sum of exponentials along an axis, which stays; of small arrays in half the time that scipy takes."""
    high = log_NM.max(axis=axis, keepdims=True)
    return high + np.log(np.exp(log_NM - high).sum(axis=axis, keepdims=True))


def _mean(z_ND: np.ndarray) -> np.ndarray:
    return z_ND.mean(axis=0, dtype=np.float64)
