"""The one training loop: contrast, or ridge regression, and the epoch or penalty that validation images choose.

Letters: N trials, M images, C channels, T samples, D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from hvf.alignment import encoding
from hvf.alignment.checkpoint import Alignment, RecordingInfo
from hvf.alignment.closed_form import solve
from hvf.alignment.image_views import Captions, Views
from hvf.alignment.inputs import augmented, centred, image_tensors, move, new_brain, standard
from hvf.alignment.rows import Rows
from hvf.alignment.training_set import TrainingSet
from hvf.config import SOLVED, AlignConfig, Config, HvfError
from hvf.evaluation import retrieval
from hvf.models.brain import BrainEncoder
from hvf.models.fusions.base import Fusion
from hvf.models.fusions.gated import Gated
from hvf.registry import FUSIONS
from hvf.runs import track
from hvf.training.cuda_graphs import Replayed, fast_products

MAX_LOG_SCALE = math.log(100)  # 1/τ ≤ 100, as CLIP clamps it; the official code does not
RESIDENT_BYTES = 2**31  # trials that take more, as float32, are not held in memory but read batch by batch


def info_nce(
    z_b_ND: Tensor, z_f_ND: Tensor, log_scale: Tensor | float, image_N: Tensor | None = None, loss: str = "both"
) -> Tensor:
    """Symmetric InfoNCE: cross-entropy of cosine · exp(log_scale) over rows and over columns, averaged. A scalar.

    Where trials of one image share a batch, `image_N` numbers the images: such pairs are not contrasted. `loss`
    "brain-to-image" is the rows' part alone (each trial among the images), "image-to-brain" the columns'.
    """
    scale = torch.as_tensor(log_scale).exp()
    logits_NN = scale * functional.normalize(z_b_ND, dim=1) @ functional.normalize(z_f_ND, dim=1).T
    own_N = torch.arange(len(logits_NN), device=logits_NN.device)
    if image_N is not None:
        twin_NN = (image_N[:, None] == image_N[None, :]) & (own_N[:, None] != own_N[None, :])
        logits_NN = logits_NN.masked_fill(twin_NN, -torch.inf)
    if loss == "brain-to-image":
        return functional.cross_entropy(logits_NN, own_N)
    if loss == "image-to-brain":
        return functional.cross_entropy(logits_NN.T, own_N)
    return (functional.cross_entropy(logits_NN, own_N) + functional.cross_entropy(logits_NN.T, own_N)) / 2


def fit(training_set: TrainingSet, config: Config, device: str | torch.device = "cpu") -> Alignment:
    """Fit a brain encoder, and in retrieval mode a fusion, to a training set.

    `config.align.mode` "retrieval" trains the brain encoder and a new fusion of the features together;
    "reconstruction" trains the brain encoder against the prior's fusion, frozen, on features as they are. A share of
    the concepts is kept from training; the epoch with the best mean reciprocal rank among their images is returned.
    Trials of one image are not contrasted with each other. The same seed gives the same numbers.

    Parameters
    ----------
    training_set : TrainingSet
        Trials (N, C, T), features {name: (M, d)} and concepts of M images, and for reconstruction the prior's fusion.
    config : Config
        `targets` names the encoders, and may name views, of which a step takes one instead of the image, and a text
        encoder, whose features of the captions take part in the loss; `brain`, `fusion` and `align` say what is fitted.
    device : str or torch.device

    Raises
    ------
    HvfError
        If a channel is constant or not finite, features are missing, or the prior's fusion is missing, unwanted or of
        another width; if the loss is not finite.
    """
    with seeded(config.align.seed, device):
        training = prepare(training_set, config, device).start()
        if config.brain.encoder in SOLVED:
            solve(training)
        else:
            for epoch in track(range(config.align.epochs), "training the brain encoder"):
                training.run(epoch)
    return training.finish()


@contextmanager
def seeded(seed: int, device: str | torch.device) -> Iterator[None]:
    """torch's global generators start from `seed` within, and go on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Prepared:
    """A training set standardised and on its device, split into rows to train on and to validate on.

    Nothing in it is drawn at random.
    """

    config: Config
    training_set: TrainingSet
    x_NCT: Rows
    features: dict[str, Tensor]  # of the fused encoders, as they are
    normalisation: dict[str, tuple[Tensor, Tensor]]
    recording: RecordingInfo
    train_N: np.ndarray
    val_N: np.ndarray

    def start(self) -> _Training:
        """A training of new weights, drawn from torch's global generator."""
        config, device, data = self.config, self.x_NCT.device, self.training_set
        trained_M = np.unique(data.image_N[self.train_N])
        dims = {spec: x_Md.shape[1] for spec, x_Md in self.features.items()}
        width = _width(config, dims, data.prior_fusion, self.x_NCT.shape, len(trained_M))
        brain = new_brain(config, width, *self.x_NCT.shape[1:]).to(device)
        if data.prior_fusion is None:
            kind = FUSIONS[config.fusion.kind]
            fusion: Fusion = kind(dims, width, config.fusion.intermediate, config.fusion.dropout)
        else:
            fusion = data.prior_fusion.eval()
        move(fusion, device)
        training = _Training(brain, fusion, self)
        if config.targets.views:
            training.views = Views(config, data.features, len(data.image_N), device)
        if config.targets.text:
            training.captions = Captions(data.features[config.targets.text], trained_M, device)
            training.captions.check(brain.width)
        return training


def prepare(training_set: TrainingSet, config: Config, device: str | torch.device = "cpu") -> Prepared:
    """Check, split and standardise a training set, and put it on the device; several threads may do so at once."""
    training_set.check(config)
    trials, image_N, fusion = training_set.trials, training_set.image_N, training_set.prior_fusion
    resident = 4 * math.prod(trials.shape) <= RESIDENT_BYTES
    if resident:  # a copy, read once, that is standardised in its place
        trials = trials.replace(x_NCT=trials.batch(slice(None)))
    trials.check()
    train_N, val_N = training_set.validation_split(config.align)
    specs = tuple(config.targets.specs) if fusion is None else fusion.specs
    normalisation = {"x": standard(trials.select(train_N), device)}
    if fusion is None:  # the prior's HVF was trained on raw features; to a new one all encoders should be equals
        trained_M = np.unique(image_N[train_N])
        normalisation |= {spec: centred(training_set.features[spec], trained_M, device) for spec in specs}
    recording = RecordingInfo.of(trials, training_set.digest)
    x_NCT = Rows(trials, normalisation["x"], resident)
    features = image_tensors(training_set.features, specs, {}, device)  # standardised when used: on a CPU no copy
    return Prepared(config, training_set, x_NCT, features, normalisation, recording, train_N, val_N)


def adamw(
    parameters: Sequence[Tensor], align: AlignConfig, batches: int, stacked: bool = False
) -> tuple[AdamW, CosineAnnealingLR]:
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
    return optimizer, CosineAnnealingLR(optimizer, batches * align.epochs)


class Epochs:
    """Of every training: the order of an epoch's batches, and the look at the validation rows that keeps the best.

    What is trained says how: ``embedded``, ``keep``, and its ``log_scale``.
    """

    log_scale: Tensor

    def __init__(self, config: Config, train_N: Tensor, target_N: np.ndarray) -> None:
        self.config, self.train_N, self.target_N = config, train_N, target_N
        self.batches = math.ceil(len(train_N) / config.align.batch_size)
        self.history: list[dict] = []

    def order(self, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """The rows of an epoch's batches, of equal size: a short one would have fewer negatives, hence another loss."""
        order_N = torch.randperm(len(self.train_N), generator=generator).to(self.train_N.device)
        return self.train_N[order_N].tensor_split(self.batches)

    def judge(self, epoch: int, loss: float) -> None:
        """Look at the validation rows after an epoch, and keep the weights if these were never found better."""
        rate = self.config.align.learning_rate
        if not math.isfinite(loss):
            raise HvfError(f"the loss is not finite after epoch {epoch}: lower align.learning_rate, {rate}")
        entry = {"epoch": epoch, "loss": loss, **self.validate(), "best": False}
        if not self.history or entry["validation_mrr"] > max(e["validation_mrr"] for e in self.history):
            self.history = [{**e, "best": False} for e in self.history]
            entry["best"] = True
            self.keep()
        self.history.append(entry)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """How well the validation images are found among themselves."""
        ranks_N = retrieval.ranks(retrieval.similarity(*self.embedded()), self.target_N)
        return {
            "validation_mrr": retrieval.mean_reciprocal_rank(ranks_N),
            "validation_top1": retrieval.topk(ranks_N, 1),
            "validation_n": len(ranks_N),
            "temperature": math.exp(-self.log_scale.item()),
        }

    def embedded(self) -> tuple[Tensor, Tensor]:
        """Validation trials (N, D) and the images they answer (M, D), modules in eval mode."""
        raise NotImplementedError

    def keep(self) -> None:
        """Remember the weights as they are now."""
        raise NotImplementedError


class _Training(Epochs):
    """Data on the device, the optimiser, and the best epoch so far."""

    def __init__(self, brain: BrainEncoder, fusion: Fusion, data: Prepared) -> None:
        config, device, align, image_N = data.config, data.x_NCT.device, data.config.align, data.training_set.image_N
        gallery, target_N = np.unique(image_N[data.val_N], return_inverse=True)
        super().__init__(config, torch.as_tensor(data.train_N, device=device), target_N)
        self.brain, self.fusion = brain, fusion
        self.fusion_learns = data.training_set.prior_fusion is None
        rows = (data.val_N, image_N, gallery)
        self.val_N, self.image_N, self.gallery = (torch.as_tensor(r, device=device) for r in rows)
        repeated = len(np.unique(image_N)) < len(image_N)
        self.same_N = self.image_N if repeated else None
        self.x_NCT, self.image_features, self.normalisation = data.x_NCT, data.features, data.normalisation
        self.recording = data.recording
        self.frozen_z_f_MD = None if self.fusion_learns else _fused_once(fusion, data.features)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / align.temperature), device=device))
        self.learners = [brain, fusion] if self.fusion_learns else [brain]
        self.parameters = [p for module in self.learners for p in module.parameters()]
        self.parameters += [self.log_scale] if align.learn_temperature else []
        self.views: Views | None = None
        self.captions: Captions | None = None
        self.optimizer, self.schedule = adamw(self.parameters, align, self.batches)
        self.kept: list[dict[str, Tensor]] = []
        self.replayed = Replayed(self.update, device)

    def run(self, epoch: int) -> None:
        """One pass over the training rows in a new order, then a look at the validation rows."""
        self.brain.train()
        self.fusion.train(self.fusion_learns)
        losses = [self.step(rows) for rows in self.order()]
        if isinstance(self.fusion, Gated):
            self.fusion.weigh(self.validation_losses())
        self.judge(epoch, float(torch.stack(losses).mean()))

    def keep(self) -> None:
        """Remember the weights as they are now."""
        self.kept = [{k: v.clone() for k, v in module.state_dict().items()} for module in self.learners]
        self.kept_log_scale = self.log_scale.item()

    def step(self, rows: Tensor) -> Tensor:
        """One update by the trials of these rows; the loss before it."""
        # On a GPU replayed: but not what reads trials from disk, or looks at values, as the choice of views does.
        plain = self.views is not None or not self.x_NCT.resident
        loss = self.update(rows) if plain else self.replayed(rows)
        self.schedule.step()
        return loss

    def update(self, rows: Tensor) -> Tensor:
        with fast_products(rows.device):
            return self._update(rows)

    def _update(self, rows: Tensor) -> Tensor:
        align, image_N = self.config.align, self.image_N[rows]
        z_b_ND = self.brain(augmented(self.x_NCT[rows], self.config.brain))
        targets = self.targets(image_N, None if self.views is None else self.views.gather(rows, image_N))
        same_N = None if self.same_N is None else self.same_N[rows]
        loss = self.contrast(z_b_ND, targets, same_N)
        if self.captions is not None:
            z_t_ND, same_N = self.captions.z_MD[image_N], self.captions.same_M[image_N]
            in_words = info_nce(z_b_ND, z_t_ND, self.log_scale, same_N, align.loss)
            loss = (1 - align.text_weight) * loss + align.text_weight * in_words
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, align.clip_norm)
        self.optimizer.step()
        if align.learn_temperature:
            with torch.no_grad():
                self.log_scale.clamp_(max=MAX_LOG_SCALE)
        if self.views is not None and self.views.by_confidence:
            self.views.look(rows, z_b_ND, sum((w * z for w, z in targets), start=torch.zeros(())))
        return loss.detach()

    def targets(self, image_N: Tensor, gathered: dict[str, Tensor] | None = None) -> list[tuple[Tensor, Tensor]]:
        """[(weight, z (N, D))] that z_b of these images is contrasted with; `gathered` are their features, if known."""
        if self.frozen_z_f_MD is not None:
            return [(torch.ones(()), self.frozen_z_f_MD.index_select(0, image_N))]
        gathered = self.features(image_N) if gathered is None else gathered
        return self.fusion.targets(self.standardised(gathered))

    def contrast(self, z_b_ND: Tensor, targets: list[tuple[Tensor, Tensor]], same_N: Tensor | None) -> Tensor:
        """The weighted sum of InfoNCE with every target."""
        parts = [w * info_nce(z_b_ND, z, self.log_scale, same_N, self.config.align.loss) for w, z in targets]
        return torch.stack(parts).sum()

    @torch.no_grad()
    def validation_losses(self) -> Tensor:
        """The contrastive loss of each of a fusion's targets on the validation rows, (K,)."""
        self.brain.eval()
        self.fusion.eval()
        parts = self.val_N.tensor_split(math.ceil(len(self.val_N) / self.config.align.batch_size))
        losses = []
        for rows in parts:
            z_b_ND, image_N = self.brain(self.x_NCT[rows]), self.image_N[rows]
            same_N = None if self.same_N is None else self.same_N[rows]
            targets = self.targets(image_N)
            losses.append(torch.stack([info_nce(z_b_ND, z, self.log_scale, same_N) for _, z in targets]))
        return torch.stack(losses).mean(0)

    def images(self, image_N: Tensor) -> Tensor:
        """z_f (N, D) of these images."""
        if self.frozen_z_f_MD is not None:
            return self.frozen_z_f_MD.index_select(0, image_N)
        return self.fusion(self.standardised(self.features(image_N)))

    def features(self, image_N: Tensor) -> dict[str, Tensor]:
        """{spec: (N, d)} of these images, as they are."""
        return {spec: x_Md.index_select(0, image_N) for spec, x_Md in self.image_features.items()}

    def standardised(self, gathered: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features (N, d) in their own place, as a fusion that learns takes them."""
        for spec, x_Nd in gathered.items():
            mean, sd = self.normalisation[spec]
            x_Nd.sub_(mean).div_(sd)
        return gathered

    def embedded(self) -> tuple[Tensor, Tensor]:
        self.brain.eval()
        self.fusion.eval()
        parts = self.val_N.split(self.config.align.batch_size)
        return torch.cat([self.brain(self.x_NCT[rows]) for rows in parts]), self.images(self.gallery)

    def finish(self) -> Alignment:
        """The best epoch's weights, and all that belongs to them."""
        for module, state in zip(self.learners, self.kept, strict=True):
            module.load_state_dict(state)
        belongings = self.history, self.normalisation, self.recording, self.config
        return Alignment(self.brain, self.fusion, self.kept_log_scale, *belongings)


@torch.no_grad()
def _fused_once(fusion: Fusion, features: Mapping[str, Tensor], batch: int = 1024) -> Tensor:
    """z_f (M, D) of all images, some at a time: a fusion's hidden layer is wider than its output."""
    parts = zip(*(x_Md.split(batch) for x_Md in features.values()), strict=True)
    return torch.cat([fusion(dict(zip(features, part, strict=True))) for part in parts])


def _width(config: Config, dims: Mapping[str, int], prior: Fusion | None, shape: tuple[int, ...], images: int) -> int:
    """D: the prior's, or that of a new fusion of features of these widths.

    A concatenated one is as wide as its features together, encoding's as the responses have components.
    """
    if prior is not None:
        return prior.width
    if config.brain.encoder == "encoding":
        return min(encoding.COMPONENTS, images, shape[1] * shape[2])
    return sum(dims.values()) if config.fusion.kind == "concatenated" else config.fusion.width
