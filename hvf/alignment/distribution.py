"""The distance of two distributions of embeddings: maximum mean discrepancy (MMD) with Gaussian kernels.

Sources: Gretton et al. 2012 (JMLR 13, lemma 6, the unbiased estimate); in the first epochs of a decoder of several
people, SAMGA (arXiv 2604.17782).

Letters: N items, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the kernels, over the mean squared distance of all pairs


def mmd(z_b_ND: Tensor, z_f_ND: Tensor, image_N: Tensor | None = None) -> Tensor:
    """Squared MMD between the directions of trials' and of images' embeddings; 0 on average where they have one law.

    E k(b, b') + E k(f, f') - 2 E k(b, f') over pairs of independent items, k the mean of Gaussian kernels of `WIDTHS`.
    An item is not independent of its own image, nor, where `image_N` numbers the images, of other trials of that image:
    these pairs are left out. The estimate is unbiased, so it can be negative. A scalar.
    """
    b_ND, f_ND = functional.normalize(z_b_ND, dim=1), functional.normalize(z_f_ND, dim=1)
    if image_N is None:
        image_N = torch.arange(len(b_ND), device=b_ND.device)
    apart_NN = image_N[:, None] != image_N[None, :]
    pairs = apart_NN.sum().clamp(min=1)
    distances = [(2 - 2 * x @ y.T).clamp(min=0) for x, y in ((b_ND, b_ND), (f_ND, f_ND), (b_ND, f_ND))]
    mean = sum(torch.where(apart_NN, d_NN.detach(), 0.0).sum() for d_NN in distances) / (3 * pairs)
    scale = mean.clamp(min=torch.finfo(b_ND.dtype).eps)
    bb_NN, ff_NN, bf_NN = (sum(torch.exp(-d_NN / (w * scale)) for w in WIDTHS) / len(WIDTHS) for d_NN in distances)
    return torch.where(apart_NN, bb_NN + ff_NN - 2 * bf_NN, 0.0).sum() / pairs


def with_mmd(
    loss: Tensor, z_b_ND: Tensor, targets: Sequence[tuple[Tensor, Tensor]], image_N: Tensor | None, share: float
) -> Tensor:
    """(1 - share) · loss + share · the MMD of z_b and each target [(weight, z (N, D))], by their mean weights."""
    distance = torch.stack([weight.mean() * mmd(z_b_ND, z_ND, image_N) for weight, z_ND in targets]).sum()
    return (1 - share) * loss + share * distance
