"""What all training loops share: InfoNCE, the optimiser, the order of batches, and the epoch that validation chooses.

Letters: N trials, M images, D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler

from hvf.config import AlignConfig, Config, HvfError
from hvf.evaluation import retrieval

MAX_LOG_SCALE = math.log(100)  # 1/τ ≤ 100, as CLIP clamps it; the official code does not


def info_nce(
    z_b_ND: Tensor,
    z_f_ND: Tensor,
    log_scale: Tensor | float,
    image_N: Tensor | None = None,
    loss: str = "both",
    unit_length: str = "both",
    weight_N: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE: cross-entropy of cosine · exp(log_scale) over rows and over columns, averaged. A scalar.

    Parameters
    ----------
    z_b_ND, z_f_ND : Tensor
        Embeddings of trials and of their images.
    log_scale : Tensor or float
        Of the logits.
    image_N : Tensor, optional
        The image of each trial, where trials of one image share a batch: such pairs are not contrasted.
    loss : str
        "both"; "brain-to-image" is the rows' part alone (each trial among the images), "image-to-brain" the columns'.
    unit_length : str
        "both"; with "images" z_b keeps its length, by which the scale of its row is multiplied.
    weight_N : Tensor, optional
        Of each item's part of the mean.
    """
    z_b_ND = functional.normalize(z_b_ND, dim=1) if unit_length == "both" else z_b_ND
    logits_NN = torch.as_tensor(log_scale).exp() * z_b_ND @ functional.normalize(z_f_ND, dim=1).T
    own_N = torch.arange(len(logits_NN), device=logits_NN.device)
    if image_N is not None:
        twin_NN = (image_N[:, None] == image_N[None, :]) & (own_N[:, None] != own_N[None, :])
        logits_NN = logits_NN.masked_fill(twin_NN, -torch.inf)
    directions = {"brain-to-image": (logits_NN,), "image-to-brain": (logits_NN.T,)}.get(loss, (logits_NN, logits_NN.T))
    if weight_N is None:
        entropies = [functional.cross_entropy(each_NN, own_N) for each_NN in directions]
    else:
        each = [functional.cross_entropy(each_NN, own_N, reduction="none") for each_NN in directions]
        entropies = [(weight_N * entropy_N).mean() for entropy_N in each]
    return torch.stack(entropies).mean()


@contextmanager
def seeded(seed: int, device: str | torch.device) -> Iterator[None]:
    """Seed torch's global generators within the block, and restore their state after it."""
    with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def adamw(
    parameters: Sequence[Tensor], align: AlignConfig, batches: int, stacked: bool = False
) -> tuple[AdamW, LRScheduler]:
    """The optimiser, and its rate's schedule over all steps; `stacked`: of parameters of several runs, (R, ...)."""
    ranks = [p.ndim - stacked for p in parameters]
    # Decay is for matrices: it would pull gains to 0 and τ to 1.
    matrices = [p for p, rank in zip(parameters, ranks, strict=True) if rank > 1]
    others = [p for p, rank in zip(parameters, ranks, strict=True) if rank <= 1]
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    # A recorded step reads its rate from a tensor. AdamW would take one on a CPU, too, but in float32.
    on_gpu = parameters[0].is_cuda
    rate: Any = torch.tensor(align.learning_rate, device=parameters[0].device) if on_gpu else align.learning_rate
    optimizer = AdamW(groups, rate, align.betas, weight_decay=align.weight_decay, fused=True, capturable=on_gpu)
    if align.schedule == "constant":
        return optimizer, ConstantLR(optimizer, factor=1.0, total_iters=0)
    return optimizer, CosineAnnealingLR(optimizer, batches * align.epochs)


def retrieves_better(entry: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether validation images are retrieved better: a higher mean reciprocal rank or, with equal ones, a lower loss.

    Few validation images often have the same ranks in many epochs: then the loss tells these apart. Ranks of the same
    numbers in another order are equal, though their mean may differ in its last digit.
    """
    mine, its = (round(e["validation_mrr"], 9) for e in (entry, other))
    return mine > its or (mine == its and entry["validation_loss"] < other["validation_loss"])


def best_of(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The entry that `retrieves_better` than all others; the first of equal ones."""
    best = history[0]
    for entry in history:
        best = entry if retrieves_better(entry, best) else best
    return best


class Epochs:
    """Base of a training: batches in random order, validation after each epoch, and the best epoch's weights kept.

    A subclass defines `embedded` and `keep`, and sets `log_scale`.
    """

    log_scale: Tensor
    cosine_log_scale: float  # log 1/τ of cosines at the last validation: log_scale, plus log mean length of z_b if kept

    def __init__(self, config: Config, train_N: Tensor, target_N: np.ndarray) -> None:
        self.config, self.train_N, self.target_N = config, train_N, target_N
        self.batches = math.ceil(len(train_N) / config.align.batch_size)
        self.history: list[dict[str, Any]] = []

    def order(self, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """The rows of an epoch's batches, of equal size: a short one would have fewer negatives, hence another loss."""
        order_N = torch.randperm(len(self.train_N), generator=generator).to(self.train_N.device)
        return self.train_N[order_N].tensor_split(self.batches)

    def judge(self, epoch: int, loss: float) -> None:
        """Validate after an epoch, and keep the weights if it `retrieves_better` than every epoch so far."""
        self.check_loss(epoch, loss)
        entry = {"epoch": epoch, "loss": loss, **self.validate(), "best": False}
        if not self.history or retrieves_better(entry, best_of(self.history)):
            self.history = [{**e, "best": False} for e in self.history]
            entry["best"] = True
            self.keep()
        self.history.append(entry)

    def check_loss(self, epoch: int, loss: float) -> None:
        """Raise HvfError if an epoch's loss is not finite."""
        rate = self.config.align.learning_rate
        if not math.isfinite(loss):
            raise HvfError(f"the loss is not finite after epoch {epoch}: lower align.learning_rate, {rate}")

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Retrieval of the validation images among themselves, and its cross-entropy: each trial among the images."""
        z_b_ND, z_f_MD = self.embedded()
        scores_NM = retrieval.similarity(z_b_ND, z_f_MD)
        ranks_N = retrieval.ranks(scores_NM, self.target_N)
        self.cosine_log_scale = self.log_scale.item()
        logits_NM = torch.from_numpy(scores_NM) * math.exp(self.cosine_log_scale)
        if self.config.align.unit_length == "images":
            length_N = z_b_ND.norm(dim=1).cpu()
            logits_NM *= length_N[:, None]
            self.cosine_log_scale += math.log(length_N.mean().item())
        return {
            "validation_loss": float(functional.cross_entropy(logits_NM, torch.from_numpy(self.target_N))),
            "validation_mrr": retrieval.mean_reciprocal_rank(ranks_N),
            "validation_top1": retrieval.topk(ranks_N, 1),
            "validation_n": len(ranks_N),
            "temperature": math.exp(-self.cosine_log_scale),
        }

    def embedded(self) -> tuple[Tensor, Tensor]:
        """Embeddings of validation trials (N, D) and of their images (M, D), modules in eval mode."""
        raise NotImplementedError

    def keep(self) -> None:
        """Remember the weights as they are now."""
        raise NotImplementedError
