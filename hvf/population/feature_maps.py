"""Agreement of the two towers' maps by place, spatial frequency and neuron.

Nothing is fitted here. Letters: as in hvf/population/towers.py; B bands, L places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import dctn
from torch import Tensor

from hvf.evaluation import retrieval
from hvf.population.towers import Dina

PAIRED = 12  # so many neurons, those that contribute most, are silenced two at a time


@dataclass(frozen=True)
class FeatureMapAnalysis:
    """Retrieval and explained variance of N trials by place, band and neuron of maps of S x S places.

    place_mrr_SS: mean reciprocal rank when one place of the maps is all there is.
    explained_KSS, explained_KB: share of variance of each encoder's frozen map that the response's map gives back, by
        place and by band; 0 is the mean map of the training images. Band b: the DCT's coefficients whose finer
        direction has b half-cycles across the map.
    explained_N: contribution of each image to it; the mean over images is that of explained_KSS.
    variance_KB: share of each encoder's variance that lies in a band.
    low_BN, high_BN, band_BN: ranks from bands 0 … b, from b …, from b alone, of both maps.
    neuron_drop_C: what the cosine of response and image loses, on average, when a neuron is set to its mean;
    neuron_drop_CSS: the same, place by place (its sum over places is the change of the whole cosine, but for length).
    pair_PP: what two of the first P neurons of the order lose together beyond the sum of each alone; diagonal 0.
    kept: {k: ranks (N,) with the k neurons that contributed most in validation, the others at their mean}; empty
        without an order. dropped: the same without those k.
    """

    place_mrr_SS: np.ndarray
    explained_KSS: np.ndarray
    explained_N: np.ndarray
    explained_KB: np.ndarray
    variance_KB: np.ndarray
    low_BN: np.ndarray
    high_BN: np.ndarray
    band_BN: np.ndarray
    neuron_drop_C: np.ndarray
    neuron_drop_CSS: np.ndarray
    pair_PP: np.ndarray
    kept: dict[int, np.ndarray]
    dropped: dict[int, np.ndarray]


@torch.no_grad()
def analyse_feature_maps(
    model: Dina, x_NC: Tensor, maps: Mapping[str, Tensor], order: Sequence[int]
) -> FeatureMapAnalysis:
    """Compare standardised responses (N, C) with the frozen maps {spec: (N, P_k, S, S)} of their images.

    Neurons are silenced by their mean over training trials, which is 0.
    """
    i_NDSS, r_NDSS = model.image(maps), model.response(x_NC)
    r, i = r_NDSS.cpu().numpy(), i_NDSS.cpu().numpy()
    r_bands, i_bands = (np.asarray(dctn(x, axes=(2, 3), norm="ortho")) for x in (r, i))
    bands = band_numbers(model.side)
    each = range(model.side)
    explained_KSS, explained_N, explained_KB, variance_KB = _explained(model, r_NDSS, maps)
    drop_CSS = silenced(model, x_NC, i_NDSS)
    drop_C = drop_CSS.sum(axis=(1, 2))
    return FeatureMapAnalysis(
        place_mrr_SS=np.array(
            [[retrieval.mean_reciprocal_rank(_ranks(r[..., a, b], i[..., a, b])) for b in each] for a in each]
        ),
        explained_KSS=explained_KSS,
        explained_N=explained_N,
        explained_KB=explained_KB,
        variance_KB=variance_KB,
        low_BN=np.stack([_ranks(r_bands[..., bands <= b], i_bands[..., bands <= b]) for b in each]),
        high_BN=np.stack([_ranks(r_bands[..., bands >= b], i_bands[..., bands >= b]) for b in each]),
        band_BN=np.stack([_ranks(r_bands[..., bands == b], i_bands[..., bands == b]) for b in each]),
        neuron_drop_C=drop_C,
        neuron_drop_CSS=drop_CSS,
        pair_PP=_pairs(model, x_NC, i_NDSS, drop_C, order[:PAIRED]),
        kept=_by_order(model, x_NC, i_NDSS, order, keep=True),
        dropped=_by_order(model, x_NC, i_NDSS, order, keep=False),
    )


def band_numbers(side: int) -> np.ndarray:
    """The band of each DCT coefficient of a map, (S, S): half-cycles across the map in the finer direction."""
    down_SS, across_SS = np.indices((side, side))
    return np.maximum(down_SS, across_SS)


def _ranks(r_N: np.ndarray, i_N: np.ndarray) -> np.ndarray:
    n = len(r_N)
    return retrieval.ranks(retrieval.similarity(r_N.reshape(n, -1), i_N.reshape(n, -1)))


def _explained(model: Dina, r_NDSS: Tensor, maps: Mapping[str, Tensor]) -> tuple[np.ndarray, ...]:
    """Share of variance given back (K, S, S), (N) and (K, B), and the share of variance in each band (K, B)."""
    drawn = model.reconstruct(r_NDSS).split([maps[spec].shape[1] for spec in model.image.specs], dim=1)
    bands = band_numbers(model.side)
    places, images, scales, shares = [], [], [], []
    for spec, g_NPSS in zip(model.image.specs, drawn, strict=True):
        target, error = maps[spec].cpu().numpy(), (g_NPSS - maps[spec]).cpu().numpy()
        gain_NSS = (np.square(target) - np.square(error)).sum(1)
        images.append((gain_NSS / np.square(target).sum(1).mean(0)).mean((1, 2)))
        places.append(1 - np.square(error).sum((0, 1)) / np.square(target).sum((0, 1)))
        waves = [np.asarray(dctn(m, axes=(2, 3), norm="ortho")) for m in (target, error)]
        power, left = (np.square(wave).sum((0, 1)) for wave in waves)
        power_B, left_B = (np.array([m[bands == b].sum() for b in range(model.side)]) for m in (power, left))
        scales.append(1 - left_B / power_B)
        shares.append(power_B / power_B.sum())
    return np.stack(places), np.mean(images, axis=0), np.stack(scales), np.stack(shares)


def _agreement(r_NDSS: Tensor, i_NDSS: Tensor) -> Tensor:
    """The mean cosine of two maps, as what each place adds to it, (S, S)."""
    length_N = r_NDSS.flatten(1).norm(dim=1) * i_NDSS.flatten(1).norm(dim=1)
    return ((r_NDSS * i_NDSS).sum(1) / length_N[:, None, None].clamp_min(1e-12)).mean(0)


def _without(x_NC: Tensor, neurons: Sequence[int]) -> Tensor:
    x_NC = x_NC.clone()
    x_NC[:, list(neurons)] = 0
    return x_NC


@torch.no_grad()
def silenced(model: Dina, x_NC: Tensor, i_NDSS: Tensor) -> np.ndarray:
    """What each place adds less to the mean cosine when one neuron is silenced, (C, S, S)."""
    whole = _agreement(model.response(x_NC), i_NDSS)
    each = [whole - _agreement(model.response(_without(x_NC, [c])), i_NDSS) for c in range(x_NC.shape[1])]
    return torch.stack(each).cpu().numpy()


def _pairs(model: Dina, x_NC: Tensor, i_NDSS: Tensor, drop_C: np.ndarray, first: Sequence[int]) -> np.ndarray:
    """(P, P); symmetric."""
    whole = float(_agreement(model.response(x_NC), i_NDSS).sum())
    pair_PP = np.zeros((len(first), len(first)))
    for a, one in enumerate(first):
        for b, other in enumerate(first[:a]):
            both = whole - float(_agreement(model.response(_without(x_NC, [one, other])), i_NDSS).sum())
            pair_PP[a, b] = pair_PP[b, a] = both - drop_C[one] - drop_C[other]
    return pair_PP


def _by_order(model: Dina, x_NC: Tensor, i_NDSS: Tensor, order: Sequence[int], keep: bool) -> dict[int, np.ndarray]:
    """Ranks by how many of the first neurons of the order are kept, or silenced: 1, 2, 4, ... and all."""
    counts = [k for k in (2**e for e in range(20)) if k < len(order)] + ([len(order)] if keep and order else [])
    ranks = {}
    for k in counts:
        silent = order[k:] if keep else order[:k]
        r_NDSS = model.response(_without(x_NC, silent))
        ranks[k] = _ranks(r_NDSS.cpu().numpy(), i_NDSS.cpu().numpy())
    return ranks
