"""Contrastive training of one brain encoder and fusion: the prepared data, a step, and the best epoch's weights.

Letters: N trials, M images, C channels, T samples, D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hvf.alignment import encoding
from hvf.alignment.checkpoint import Alignment, RecordingInfo
from hvf.alignment.distribution import with_mmd
from hvf.alignment.epochs import MAX_LOG_SCALE, Epochs, adamw, info_nce
from hvf.alignment.image_views import CaptionTargets, ImageViews
from hvf.alignment.inputs import augmented, channels_to_smooth, move, new_brain, normal_weights
from hvf.alignment.pretrained import start_from_weights
from hvf.alignment.rows import Rows
from hvf.alignment.training_set import TrainingSet
from hvf.config import SOLVED, Config
from hvf.models.brain import BrainEncoder
from hvf.models.brain.person_layer import PeopleLayers, PersonLayer
from hvf.models.fusions.base import Fusion
from hvf.models.fusions.routed import Routed
from hvf.models.posterior_mean import PosteriorMean
from hvf.registry import FUSIONS
from hvf.training.cuda_graphs import Replayed, fast_products


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

    def start(self) -> Training:
        """A training of new weights, drawn from torch's global generator."""
        config, device, data = self.config, self.x_NCT.device, self.training_set
        trained_M = np.unique(data.image_N[self.train_N])
        dims = {spec: x_Md.shape[1] for spec, x_Md in self.features.items()}
        kind = FUSIONS[config.fusion.kind]
        width = data.prior_fusion.width if data.prior_fusion else kind.width_of(dims, config.fusion.width)
        if config.brain.encoder == "encoding":  # as wide as the responses have components, and one more
            width = min(encoding.COMPONENTS, len(trained_M), math.prod(self.x_NCT.shape[1:])) + 1
        brain = new_brain(config, width, *self.x_NCT.shape[1:], self.recording)
        people = len(data.people_trained_on()[0])
        brain = (PeopleLayers(brain, people) if config.brain.person_layer else brain).to(device)
        if data.prior_fusion is None:
            fusion: Fusion = kind(dims, width, config.fusion.intermediate, config.fusion.dropout)
        else:
            fusion = data.prior_fusion.eval()
        if config.align.normal_weights:
            for module in (brain, fusion) if data.prior_fusion is None else (brain,):
                normal_weights(module)
        if isinstance(fusion, Routed):
            fusion.for_people(people)
        start_from_weights(brain, config.brain.weights)  # after all that is drawn
        move(fusion, device)
        training = Training(brain, fusion, self)
        if config.targets.views:
            training.views = ImageViews(config, data.features, len(data.image_N), device)
        if config.targets.text:
            training.captions = CaptionTargets(data.features[config.targets.text], trained_M, device)
            training.captions.check(brain.width)
        return training


class Training(Epochs):
    """Contrastive training of a brain encoder, and of a fusion unless it is the prior's."""

    def __init__(self, brain: BrainEncoder, fusion: Fusion, data: Prepared) -> None:
        config, device, align, image_N = data.config, data.x_NCT.device, data.config.align, data.training_set.image_N
        gallery, target_N = np.unique(image_N[data.val_N], return_inverse=True)
        super().__init__(config, torch.as_tensor(data.train_N, device=device), target_N)
        self.brain, self.fusion = brain, fusion
        self.fusion_learns = data.training_set.prior_fusion is None
        rows = (data.val_N, image_N, gallery)
        self.val_N, self.image_N, self.gallery = (torch.as_tensor(r, device=device) for r in rows)
        self.people, place_N = data.training_set.people_trained_on()
        self.person_N = torch.as_tensor(place_N, device=device) if len(self.people) > 1 else None
        repeated = len(np.unique(image_N)) < len(image_N)
        self.same_N = self.image_N if repeated else None
        self.x_NCT, self.image_features, self.normalisation = data.x_NCT, data.features, data.normalisation
        self.recording, self.shown_M = data.recording, np.unique(data.training_set.concepts, return_inverse=True)[1]
        self.frozen_z_f_MD = None if self.fusion_learns else _fused_once(fusion, data.features)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / align.temperature), device=device))
        self.learners: Sequence[nn.Module] = [brain, fusion] if self.fusion_learns else [brain]
        self.posterior_mean: PosteriorMean | None = None
        if self.frozen_z_f_MD is not None and align.mean_weight and config.brain.encoder not in SOLVED:
            self.posterior_mean = PosteriorMean(fusion.width).to(device)
            self.posterior_mean.fit_scale(self.frozen_z_f_MD[np.unique(image_N[data.train_N])])
            self.learners = [*self.learners, self.posterior_mean]
        self.parameters = [p for module in self.learners for p in module.parameters() if p.requires_grad]
        self.parameters += [self.log_scale] if align.learn_temperature else []
        self.views: ImageViews | None = None
        self.captions: CaptionTargets | None = None
        self.smoothed_NC: Tensor | None = None
        if config.brain.smooth_once and config.brain.input_smooth:
            self.smoothed_NC = channels_to_smooth(*self.x_NCT.shape[:2], config.brain.input_smooth, device)
        self.optimizer, self.schedule = adamw(self.parameters, align, self.batches)
        self.kept: list[dict[str, Tensor]] = []
        self.mmd_share = 0.0
        self.replayed = Replayed(self.update, device)

    def run(self, epoch: int) -> None:
        """One epoch over the training rows, and its validation."""
        loss = self.train_epoch(epoch)
        if self.fusion_learns and self.fusion.weighs_targets:
            self.fusion.weigh(self.validation_losses())
        self.judge(epoch, loss)

    def train_epoch(self, epoch: int) -> float:
        """One epoch over the training rows; its mean loss."""
        share = self.mmd_share_of(epoch)
        if share != self.mmd_share:  # another loss: a graph of its own
            self.mmd_share, self.replayed = share, Replayed(self.update, self.x_NCT.device)
        self.brain.train()
        self.fusion.train(self.fusion_learns)
        if self.posterior_mean is not None:
            self.posterior_mean.train()
        return float(torch.stack([self.step(rows) for rows in self.order()]).mean())

    def mmd_share_of(self, epoch: int) -> float:
        """The share of the loss that is MMD in this epoch."""
        align = self.config.align
        return align.mmd_weight if epoch < align.mmd_epochs else 0.0

    def keep(self) -> None:
        self.kept = [{k: v.clone() for k, v in module.state_dict().items()} for module in self.learners]
        self.kept_log_scale = self.cosine_log_scale

    def step(self, rows: Tensor) -> Tensor:
        """One update by the trials of these rows; the loss before it."""
        # On a GPU replayed: but not what reads trials from disk, or chooses by values, as image views do.
        plain = self.views is not None or not self.x_NCT.resident or not self.brain.replayable
        loss = self.update(rows) if plain else self.replayed(rows)
        self.schedule.step()
        return loss

    def update(self, rows: Tensor) -> Tensor:
        with fast_products(rows.device):
            return self._update(rows)

    def _update(self, rows: Tensor) -> Tensor:
        align, image_N = self.config.align, self.image_N[rows]
        z_b_ND = self.embed(self.inputs(rows), rows)
        targets = self.targets(image_N, None if self.views is None else self.views.gather(rows, image_N), rows)
        same_N = None if self.same_N is None else self.same_N[rows]
        loss = self.contrast(z_b_ND, targets, same_N)
        if self.mmd_share:
            loss = with_mmd(loss, z_b_ND, targets, same_N, self.mmd_share)
        if self.posterior_mean is not None:
            loss = loss + align.mean_weight * self.posterior_mean.loss(z_b_ND, self.images(image_N))
        if self.captions is not None:
            z_t_ND, same_N = self.captions.z_MD[image_N], self.captions.same_M[image_N]
            in_words = info_nce(z_b_ND, z_t_ND, self.log_scale, same_N, align.loss, align.unit_length)
            loss = (1 - align.text_weight) * loss + align.text_weight * in_words
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, align.clip_norm)
        self.optimizer.step()
        if align.learn_temperature:
            with torch.no_grad():
                self.log_scale.clamp_(max=MAX_LOG_SCALE)
        if self.views is not None and self.views.by_confidence:
            self.views.choose_next(rows, z_b_ND, sum((w.reshape(-1, 1) * z for w, z in targets), start=torch.zeros(())))
        return loss.detach()

    def inputs(self, rows: Tensor) -> Tensor:
        """Standardised trials of these rows as a training step sees them."""
        smoothed_NC = None if self.smoothed_NC is None else self.smoothed_NC[rows]
        return augmented(self.x_NCT[rows], self.config.brain, smoothed_NC)

    def embed(self, x_NCT: Tensor, rows: Tensor) -> Tensor:
        """z_b (N, D) of these rows' standardised trials, through the layers of the people whose they are."""
        if isinstance(self.brain, PeopleLayers) and self.person_N is not None:
            return self.brain(x_NCT, self.person_N[rows])
        return self.brain(x_NCT)

    def targets(
        self, image_N: Tensor, gathered: dict[str, Tensor] | None = None, rows: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """[(weight, z (N, D))] that z_b of these images is contrasted with, weighed as for the people of these rows.

        `gathered` are the images' features, if known.
        """
        if self.frozen_z_f_MD is not None:
            return [(torch.ones(()), self.frozen_z_f_MD.index_select(0, image_N))]
        gathered = self.features(image_N) if gathered is None else gathered
        person_N = None if self.person_N is None or rows is None else self.person_N[rows]
        return self.fusion.targets(self.standardised(gathered), person_N)

    def contrast(self, z_b_ND: Tensor, targets: list[tuple[Tensor, Tensor]], same_N: Tensor | None) -> Tensor:
        """The weighted sum of InfoNCE with every target."""
        how = self.log_scale, same_N, self.config.align.loss, self.config.align.unit_length
        parts = [info_nce(z_b_ND, z, *how, w) if w.ndim else w * info_nce(z_b_ND, z, *how) for w, z in targets]
        return torch.stack(parts).sum()

    @torch.no_grad()
    def validation_losses(self) -> Tensor:
        """The contrastive loss of each of a fusion's targets on the validation rows, (S, K): see `Fusion.weigh`."""
        self.brain.eval()
        self.fusion.eval()
        if self.person_N is None or not self.fusion.weighs_people:
            return self._losses(self.val_N)[None]
        person_N = self.person_N[self.val_N]
        each = [self.val_N[person_N == i] for i in range(len(self.people))]
        nothing_K = torch.full((len(self.fusion.specs),), torch.nan, device=person_N.device)
        return torch.stack([self._losses(r) if len(self.image_N[r].unique()) > 1 else nothing_K for r in each])

    def _losses(self, rows: Tensor) -> Tensor:
        """The contrastive loss of each target on these rows, (K,)."""
        losses = []
        how = "both", self.config.align.unit_length
        for part in rows.tensor_split(math.ceil(len(rows) / self.config.align.batch_size)):
            z_b_ND, same_N = self.embed(self.x_NCT[part], part), None if self.same_N is None else self.same_N[part]
            targets = self.targets(self.image_N[part])
            losses.append(torch.stack([info_nce(z_b_ND, z, self.log_scale, same_N, *how) for _, z in targets]))
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
        return torch.cat([self.embed(self.x_NCT[rows], rows) for rows in parts]), self.images(self.gallery)

    def finish(self) -> Alignment:
        """The alignment with the best epoch's weights."""
        for module, state in zip(self.learners, self.kept, strict=True):
            module.load_state_dict(state)
        belongings = self.history, self.normalisation, self.recording, self.config
        people, brain, names = self.x_NCT.people, self.brain, self.people if len(self.people) > 1 else ()
        one = people is None or len(people.inputs) == 1
        if people is not None and one and (map_CC := next(iter(people.inputs.values())).map_CC) is not None:
            brain = PersonLayer(brain, map_CC)
        fitted = Alignment(brain, self.fusion, self.kept_log_scale, *belongings, needs_person=not one, people=names)
        fitted.average_CC = None if people is None else people.average_CC
        fitted.learnt_mean = None if self.posterior_mean is None else self.posterior_mean.eval()
        return fitted


@torch.no_grad()
def _fused_once(fusion: Fusion, features: Mapping[str, Tensor], batch: int = 1024) -> Tensor:
    """z_f (M, D) of all images, some at a time: a fusion's hidden layer is wider than its output."""
    parts = zip(*(x_Md.split(batch) for x_Md in features.values()), strict=True)
    return torch.cat([fusion(dict(zip(features, part, strict=True))) for part in parts])
