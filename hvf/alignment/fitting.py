"""The one training loop: contrast, or ridge regression, and the epoch or penalty that validation images choose.

Letters: N trials, M images, C channels, T samples, D embedding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hvf import retrieval
from hvf.alignment.inputs import centred, check_inputs, image_rows, move, new_brain, standard, standardised, visual
from hvf.alignment.trained import Alignment, Recording
from hvf.config import Config, HvfError
from hvf.data.trials import Trials, concept_split
from hvf.models.fusion import FUSIONS, HVF, Fusion
from hvf.runs import track

MAX_LOG_SCALE = math.log(100)  # 1/τ ≤ 100, as CLIP clamps it; the official code does not
PENALTIES = tuple(10.0**e for e in range(7))  # ridge, for standardised trials
RESIDENT_BYTES = 2**31  # trials that take more, as float32, are not held in memory but read batch by batch


def info_nce(z_b_ND: Tensor, z_f_ND: Tensor, log_scale: Tensor | float, image_N: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE: cross-entropy of cosine · exp(log_scale) over rows and over columns, averaged. A scalar.

    Where trials of one image share a batch, `image_N` numbers the images: such pairs are not contrasted.
    """
    scale = torch.as_tensor(log_scale).exp()
    logits_NN = scale * functional.normalize(z_b_ND, dim=1) @ functional.normalize(z_f_ND, dim=1).T
    own_N = torch.arange(len(logits_NN), device=logits_NN.device)
    if image_N is not None:
        twin_NN = (image_N[:, None] == image_N[None, :]).fill_diagonal_(False)
        logits_NN = logits_NN.masked_fill(twin_NN, -torch.inf)
    return (functional.cross_entropy(logits_NN, own_N) + functional.cross_entropy(logits_NN.T, own_N)) / 2


def fit(
    study_train: Trials,
    features: Mapping[str, np.ndarray],
    config: Config,
    concepts: Sequence[str],
    hvf: HVF | None = None,
    device: str | torch.device = "cpu",
    *,
    image_N: Sequence[int] | np.ndarray | None = None,
    images_digest: str | None = None,
) -> Alignment:
    """Train on trials (N, C, T); trial i answers image `image_N[i]` of `features` and `concepts`, which have M images.

    Features are kept once for each image, however many trials answer it (single trials, several subjects); such trials
    are not contrasted with each other. Without `image_N`, trial i answers image i, and equal `image_ids` are one image.

    `config.align.mode` "retrieval" trains the brain encoder and a new HVF over `features` together; "reconstruction"
    trains the brain encoder against `hvf`, the prior's, frozen and in eval mode, on features as they are. A share of
    the concepts is kept from training; the epoch that finds those images best (mean reciprocal rank among them) is the
    one returned. The same seed gives the same numbers. `images_digest` names the training images (`ImageSet.digest`;
    by default a hash of the trials' image ids) and goes into the checkpoint.

    Raises HvfError if trials and images do not pair, values are not finite, or `hvf` is missing, unwanted or of another
    width.
    """
    study_train = study_train.in_memory(RESIDENT_BYTES)
    same_N = np.unique(study_train.image_ids, return_inverse=True)[1] if image_N is None else np.asarray(image_N)
    image_N = image_rows(study_train, concepts, image_N)
    check_inputs(study_train, features, config, concepts, hvf)
    concept_N = np.asarray(concepts, dtype=str)[image_N].tolist()
    train_N, val_N = concept_split(concept_N, config.align.validation_fraction, config.align.seed, at_least=2)
    specs = tuple(config.targets.specs) if hvf is None else hvf.specs
    normalisation = {"x": standard(study_train.select(train_N), device)}
    if hvf is None:  # the prior's HVF was trained on raw features; to a new one all encoders should be equals
        normalisation |= {spec: centred(features[spec], np.unique(image_N[train_N]), device) for spec in specs}
    x_NCT = _Rows(study_train, normalisation["x"])
    seen = visual(features, specs, {}, device)  # standardised as they are used: on the CPU this is no copy of them
    device = x_NCT.device
    with torch.random.fork_rng(devices=[device.index] if device.type == "cuda" else []):
        torch.manual_seed(config.align.seed)
        brain = new_brain(config, _width(config, seen, hvf), *x_NCT.shape[1:]).to(device)
        fusion = _new_fusion(seen, config) if hvf is None else hvf.eval()
        move(fusion, device)
        training = _Training(
            brain, fusion, hvf is None, config, x_NCT, seen, normalisation, image_N, same_N, train_N, val_N
        )
        if config.brain.encoder == "ridge":
            training.solve()
        else:
            for epoch in track(range(config.align.epochs), "training the brain encoder"):
                training.run(epoch)
    log_scale, history = training.finish()
    digest = images_digest or hashlib.sha256("\n".join(study_train.image_ids).encode()).hexdigest()
    return Alignment(brain, fusion, log_scale, history, normalisation, Recording.of(study_train, digest), config)


class _Rows:
    """Standardised trials, by row: kept on the device where they fit, else read anew for each batch."""

    def __init__(self, trials: Trials, statistics: tuple[Tensor, Tensor]) -> None:
        self.trials, self.statistics, self.shape = trials, statistics, trials.shape
        self.device = statistics[0].device
        self.kept_NCT = None
        if 4 * math.prod(self.shape) <= RESIDENT_BYTES:
            self.kept_NCT = torch.empty(self.shape, device=self.device)
            for rows, x_NCT in trials.batches():
                self.kept_NCT[rows] = standardised(x_NCT, statistics, self.device)

    def __getitem__(self, rows: Tensor) -> Tensor:
        if self.kept_NCT is not None:
            return self.kept_NCT[rows]
        return standardised(self.trials.batch(rows.cpu().numpy()), self.statistics, self.device)


class _Training:
    """Data on the device, the optimiser, and the best epoch so far."""

    def __init__(
        self,
        brain,
        fusion,
        fusion_learns: bool,
        config: Config,
        x_NCT: _Rows,
        seen: Mapping[str, Tensor],
        standard: Mapping[str, tuple[Tensor, Tensor]],
        image_N: np.ndarray,
        same_N: np.ndarray,
        train_N: np.ndarray,
        val_N: np.ndarray,
    ) -> None:
        self.brain, self.fusion, self.fusion_learns, self.config = brain, fusion, fusion_learns, config
        device, align = x_NCT.device, config.align
        _, first, self.target_N = np.unique(same_N[val_N], return_index=True, return_inverse=True)
        rows = (train_N, val_N, image_N, image_N[val_N[first]])
        self.train_N, self.val_N, self.image_N, self.gallery = (torch.as_tensor(r, device=device) for r in rows)
        self.same_N = torch.as_tensor(same_N, device=device) if len(np.unique(same_N)) < len(same_N) else None
        self.x_NCT, self.seen, self.standard = x_NCT, seen, standard
        with torch.no_grad():
            self.frozen_z_f_MD = None if fusion_learns else fusion(seen)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / align.temperature), device=device))
        self.learners = [brain, fusion] if fusion_learns else [brain]
        self.parameters = [p for module in self.learners for p in module.parameters()] + [self.log_scale]
        self.batches = math.ceil(len(train_N) / align.batch_size)
        matrices = [p for p in self.parameters if p.ndim > 1]  # decay would pull gains to 0 and τ to 1
        others = [p for p in self.parameters if p.ndim <= 1]
        groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups, align.learning_rate, align.betas, weight_decay=align.weight_decay, fused=device.type == "cuda"
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, self.batches * align.epochs)
        self.history: list[dict] = []
        self.kept: list[dict[str, Tensor]] = []

    def run(self, epoch: int) -> None:
        """One pass over the training rows in a new order, then a look at the validation rows."""
        self.brain.train()
        self.fusion.train(self.fusion_learns)
        order_N = self.train_N[torch.randperm(len(self.train_N)).to(self.train_N.device)]
        # Parts of equal size: a short last batch would have fewer negatives, hence another loss.
        losses = [self.step(rows) for rows in order_N.tensor_split(self.batches)]
        loss, rate = float(torch.stack(losses).mean()), self.config.align.learning_rate
        if not math.isfinite(loss):
            raise HvfError(f"the loss is not finite after epoch {epoch}: lower align.learning_rate, {rate}")
        entry = {"epoch": epoch, "loss": loss, **self.validate(), "best": False}
        if not self.history or entry["validation_mrr"] > max(e["validation_mrr"] for e in self.history):
            self.history = [{**e, "best": False} for e in self.history]
            entry["best"] = True
            self.keep()
        self.history.append(entry)

    def solve(self) -> None:
        """Ridge regression from flat trials to the images' features: no steps, a penalty chosen on validation rows.

        The one that finds those best is then fitted to all rows. In the history a penalty stands where an epoch would.
        """
        self.fusion.eval()
        rows_N = torch.cat([self.train_N, self.val_N])
        x_NP, y_ND = (x.flatten(1).cpu().numpy() for x in (self.x_NCT[rows_N], self.images(self.image_N[rows_N])))
        n = len(self.train_N)
        for epoch, penalty in enumerate(PENALTIES):
            loss = self.take_ridge(x_NP[:n], y_ND[:n], penalty)
            self.history.append({"epoch": epoch, "loss": loss, "penalty": penalty, **self.validate()})
        best = max(self.history, key=lambda entry: entry["validation_mrr"])
        self.history = [{**entry, "best": entry is best} for entry in self.history]
        self.take_ridge(x_NP, y_ND, best["penalty"])
        self.keep()

    def take_ridge(self, x_NP: np.ndarray, y_ND: np.ndarray, penalty: float) -> float:
        """Put the solution into the linear encoder; returns the mean squared residual."""
        from sklearn.linear_model import Ridge

        ridge = Ridge(alpha=penalty).fit(x_NP, y_ND)
        project = self.brain.project
        for ours, theirs in ((project.weight, ridge.coef_), (project.bias, ridge.intercept_)):
            ours.data.copy_(torch.from_numpy(np.asarray(theirs, dtype=np.float32)))
        return float(np.square(ridge.predict(x_NP) - y_ND).mean())

    def keep(self) -> None:
        """Remember the weights as they are now."""
        self.kept = [{k: v.clone() for k, v in module.state_dict().items()} for module in self.learners]
        self.kept_log_scale = self.log_scale.item()

    def step(self, rows: Tensor) -> Tensor:
        x_NCT, noise = self.x_NCT[rows], self.config.brain.input_noise
        if noise:
            x_NCT = x_NCT + noise * torch.randn_like(x_NCT)
        same_N = None if self.same_N is None else self.same_N[rows]
        loss = info_nce(self.brain(x_NCT), self.images(self.image_N[rows]), self.log_scale, same_N)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.config.align.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        with torch.no_grad():
            self.log_scale.clamp_(max=MAX_LOG_SCALE)
        return loss.detach()

    def images(self, image_N: Tensor) -> Tensor:
        """z_f (N, D) of these images."""
        if self.frozen_z_f_MD is not None:
            return self.frozen_z_f_MD[image_N]
        gathered = {spec: x_Md[image_N] for spec, x_Md in self.seen.items()}
        for spec in gathered.keys() & self.standard.keys():
            mean, sd = self.standard[spec]
            gathered[spec] = (gathered[spec] - mean) / sd
        return self.fusion(gathered)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        self.brain.eval()
        self.fusion.eval()
        """How well the validation images are found among themselves."""
        parts = self.val_N.split(self.config.align.batch_size)
        z_b_ND = torch.cat([self.brain(self.x_NCT[rows]) for rows in parts])
        ranks_N = retrieval.ranks(retrieval.similarity(z_b_ND, self.images(self.gallery)), self.target_N)
        return {
            "validation_mrr": retrieval.mean_reciprocal_rank(ranks_N),
            "validation_top1": retrieval.topk(ranks_N, 1),
            "validation_n": len(ranks_N),
            "temperature": math.exp(-self.log_scale.item()),
        }

    def finish(self) -> tuple[float, list[dict]]:
        for module, state in zip(self.learners, self.kept, strict=True):
            module.load_state_dict(state)
        return self.kept_log_scale, self.history


def _width(config: Config, seen: Mapping[str, Tensor], hvf: Fusion | None) -> int:
    """D: the prior's, or that of the fusion to be learnt; a concatenated one is as wide as its features together."""
    if hvf is not None:
        return hvf.width
    return sum(x_Nd.shape[1] for x_Nd in seen.values()) if config.fusion.kind == "concatenated" else config.fusion.width


def _new_fusion(seen: Mapping[str, Tensor], config: Config) -> Fusion:
    dims = {spec: x_Nd.shape[1] for spec, x_Nd in seen.items()}
    kind = FUSIONS[config.fusion.kind]
    return kind(dims, config.fusion.width, config.fusion.intermediate, config.fusion.dropout)
