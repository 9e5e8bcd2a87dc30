"""DINA's fit: both towers are trained together, and the epoch with the best retrieval of validation images is kept.

Source: arXiv 2605.04309. Its loss is contrastive, between intermediate feature maps. A reconstruction loss, a loss
on semantic categories and a `local` contrast at every place of the map can be added, each with a weight.
Letters: as in hvf/population/towers.py; M images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hvf.alignment.checkpoint import RecordingInfo
from hvf.alignment.epochs import MAX_LOG_SCALE, Epochs, adamw, info_nce, seeded
from hvf.alignment.inputs import standard, standardised
from hvf.alignment.training_set import TrainingSet
from hvf.config import Config, HvfError
from hvf.data.trials.trials import Trials
from hvf.population.feature_maps import FeatureMapAnalysis, analyse_feature_maps, silenced
from hvf.population.frozen_maps import FrozenMaps, Maps
from hvf.population.towers import Dina
from hvf.runs import track
from hvf.schema.bounds import NotNegative


@dataclass(frozen=True)
class Losses:
    """Weight of each loss; 0 leaves it out."""

    contrast: NotNegative = 1.0  # InfoNCE between whole maps: which image of the batch was seen
    local: NotNegative = 1.0  # the same at every place of the map, averaged over places
    reconstruction: NotNegative = 1.0  # squared error of the frozen maps, drawn from either tower's map
    category: NotNegative = 0.0  # cross-entropy of the image's category, read from either tower's map


class DinaAlignment:
    """Trained towers, with the standardisation that belongs to them. Made by `fit`.

    Attributes: ``model`` in eval mode; ``history``, one dict per epoch as `Alignment` has it; ``config``, ``losses``,
    ``recording``; ``order``, the neurons, most contributing first, by validation images.
    """

    def __init__(
        self, model: Dina, frozen: FrozenMaps, statistics: tuple[Tensor, Tensor], history: list[dict[str, Any]],
        config: Config, losses: Losses, recording: RecordingInfo,
    ) -> None:  # fmt: skip
        self.model, self.frozen, self.history, self.config = model.eval(), frozen, history, config
        self.losses, self.recording, self._statistics = losses, recording, statistics
        self.order: tuple[int, ...] = ()

    @property
    def best(self) -> dict:
        """The epoch whose weights these are."""
        return next(entry for entry in self.history if entry["best"])

    @torch.no_grad()
    def response_maps(self, trials: Trials) -> Tensor:
        """Maps (N, D, S, S) that the responses draw. Raises HvfError for trials of another recording."""
        return self.model.response(self.responses(trials))

    @torch.no_grad()
    def image_maps(self, features: Mapping[str, np.ndarray]) -> Tensor:
        """Maps (M, D, S, S) of images, given {spec: (M, d_k)}."""
        return self.model.image(self.frozen(features))

    def responses(self, trials: Trials) -> Tensor:
        """Standardised responses (N, C)."""
        self.recording.check(trials)
        return standardised(trials.load_array(), self._statistics, self.frozen.device)[..., 0]

    def embed_brain(self, trials: Trials) -> np.ndarray:
        """The maps of responses as vectors (N, D·S·S)."""
        return self.response_maps(trials).flatten(1).cpu().numpy()

    def embed_images(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """The maps of images as vectors (M, D·S·S)."""
        return self.image_maps(features).flatten(1).cpu().numpy()

    def analyse_feature_maps(self, trials: Trials, features: Mapping[str, np.ndarray]) -> FeatureMapAnalysis:
        """Agreement of the maps of trials (N) and of their images (N) by place, band and neuron."""
        return analyse_feature_maps(self.model, self.responses(trials), self.frozen(features), self.order)


def fit(
    training_set: TrainingSet,
    config: Config,
    device: str | torch.device = "cpu",
    *,
    losses: Losses | None = None,
    maps: Maps | None = None,
) -> DinaAlignment:
    """Train both towers on responses (N, C, 1) and the frozen maps of the images.

    Parameters
    ----------
    training_set : TrainingSet
        One number per neuron and trial; features of M images that have places.
    config : Config
        Frozen maps are those of `targets.specs`. Validation concepts, optimiser, noise, schedule and the choice of the
        epoch are those of `hvf.alignment.fit`.
    device : str or torch.device
    losses, maps : Losses, Maps, optional
        Weights of the losses; size of the maps.

    Raises
    ------
    HvfError
        As `hvf.alignment.fit` does, and for responses over time.
    """
    losses, maps = losses or Losses(), maps or Maps()
    trials, image_N, features = training_set.trials, training_set.image_N, training_set.features
    check_targets(config)
    training_set.check(config)
    if trials.shape[2] != 1:
        raise HvfError(f"DINA takes one number per neuron and trial, not {trials.shape[2]} samples: crop them")
    if config.align.refit:
        raise HvfError("align.refit is for a decoder of brain encoder and fusion; DINA's towers are not refitted")
    if config.align.mmd_weight or config.brain.person_layer:
        raise HvfError("align.mmd_weight and brain.person_layer are for brain encoders: DINA's towers have neither")
    if not any(vars(losses).values()):
        raise HvfError("every loss has weight 0: DINA needs at least one")
    trials.check()
    train_N, val_N = training_set.validation_split(config.align)
    trained_M = np.unique(image_N[train_N])
    statistics = standard(trials.select(train_N), device)
    frozen = FrozenMaps(features, config.targets.specs, trained_M, maps, device)
    seed = config.align.seed
    category_M = np.zeros(len(training_set.concepts), int)
    if losses.category:
        category_M = _categories(features, trained_M, maps, seed)
    brain, device = config.brain, statistics[0].device
    with seeded(seed, device):
        model = Dina(
            trials.shape[1], frozen.components, maps.channels, maps.side, maps.categories, brain.width,
            brain.intermediate, brain.dropout, math.log(1 / config.align.temperature),
        ).to(device)  # fmt: skip
        x_NC = standardised(trials.load_array(), statistics, frozen.device)[..., 0]
        training = _Training(model, config, losses, x_NC, frozen(features), image_N, category_M, train_N, val_N)
        for epoch in track(range(config.align.epochs), "training the towers"):
            training.run(epoch)
    model.load_state_dict(training.kept)
    recording = RecordingInfo.of(trials, "")
    made = DinaAlignment(model, frozen, statistics, training.history, config, losses, recording)
    shown = {spec: f_MPSS[image_N[val_N]] for spec, f_MPSS in training.maps.items()}
    with torch.no_grad():
        drop_C = silenced(made.model, x_NC[val_N], made.model.image(shown)).sum(axis=(1, 2))
    made.order = tuple(np.argsort(-drop_C, kind="stable").tolist())
    return made


def check_targets(config: Config) -> None:
    """Raise HvfError for views and captions, which DINA does not use."""
    if config.targets.views or config.targets.text:
        raise HvfError("DINA learns from the images as they are: leave targets.views and targets.text out")


def _categories(features: Mapping[str, np.ndarray], rows: np.ndarray, maps: Maps, seed: int) -> np.ndarray:
    """The k-means cluster of every image's semantic features (M,), fitted on the training images."""
    from sklearn.cluster import KMeans

    if maps.semantic is None or maps.semantic not in features:
        raise HvfError("the category loss needs semantic features: name their spec in Maps.semantic and compute them")
    x_Md = np.asarray(features[maps.semantic], dtype=np.float32).reshape(len(features[maps.semantic]), -1)
    among = min(maps.categories, len(rows))
    clusters = KMeans(among, n_init=4, random_state=seed).fit(x_Md[rows])  # pyright: ignore[reportArgumentType]
    return np.asarray(clusters.predict(x_Md), dtype=np.int64)


class _Training(Epochs):
    """Training of both towers."""

    def __init__(
        self, model: Dina, config: Config, losses: Losses, x_NC: Tensor, maps: Mapping[str, Tensor],
        image_N: np.ndarray, category_M: np.ndarray, train_N: np.ndarray, val_N: np.ndarray,
    ) -> None:  # fmt: skip
        # Several trials of one image share a target in validation, and are not contrasted in training.
        gallery, target_N = np.unique(image_N[val_N], return_inverse=True)
        super().__init__(config, torch.as_tensor(train_N, device=x_NC.device), target_N)
        self.model, self.losses, self.x_NC, self.maps, self.log_scale = model, losses, x_NC, maps, model.log_scale
        rows = (val_N, image_N, category_M, gallery)
        self.val_N, self.image_N, self.category_M, self.gallery = (torch.as_tensor(r, device=x_NC.device) for r in rows)
        self.repeats = len(np.unique(image_N)) < len(image_N)
        self.optimizer, self.schedule = adamw(list(model.parameters()), config.align, self.batches)
        self.kept: dict[str, Tensor] = {}

    def run(self, epoch: int) -> None:
        """One epoch over the training rows, and its validation."""
        self.model.train()
        self.judge(epoch, float(torch.stack([self.step(rows) for rows in self.order()]).mean()))

    def keep(self) -> None:
        self.kept = {name: x.clone() for name, x in self.model.state_dict().items()}

    def step(self, rows: Tensor) -> Tensor:
        x_NC, noise = self.x_NC[rows], self.config.brain.input_noise
        if noise:
            x_NC = x_NC + noise * torch.randn_like(x_NC)
        loss = self.loss(x_NC, self.image_N[rows])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.align.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        with torch.no_grad():
            self.model.log_scale.clamp_(max=MAX_LOG_SCALE)
            self.model.local_log_scale.clamp_(max=MAX_LOG_SCALE)
        return loss.detach()

    def loss(self, x_NC: Tensor, image_N: Tensor) -> Tensor:
        """The weighted sum of losses of a batch."""
        model, weights = self.model, self.losses
        shown = {spec: f_MPSS[image_N] for spec, f_MPSS in self.maps.items()}
        r_NDSS, i_NDSS = model.response(x_NC), model.image(shown)
        same_N = image_N if self.repeats else None
        parts = []
        if weights.contrast:
            parts.append(weights.contrast * info_nce(r_NDSS.flatten(1), i_NDSS.flatten(1), model.log_scale, same_N))
        if weights.local:
            parts.append(weights.local * local_info_nce(r_NDSS, i_NDSS, model.local_log_scale, same_N))
        if weights.reconstruction:
            target = torch.cat([shown[spec] for spec in model.image.specs], dim=1)
            errors = [functional.mse_loss(model.reconstruct(m_NDSS), target) for m_NDSS in (r_NDSS, i_NDSS)]
            parts.append(weights.reconstruction * (errors[0] + errors[1]) / 2)
        if weights.category:
            target = self.category_M[image_N]
            errors = [functional.cross_entropy(model.categorise(m_NDSS), target) for m_NDSS in (r_NDSS, i_NDSS)]
            parts.append(weights.category * (errors[0] + errors[1]) / 2)
        return torch.stack(parts).sum()

    def embedded(self) -> tuple[Tensor, Tensor]:
        self.model.eval()
        i_MDSS = self.model.image({spec: f_MPSS[self.gallery] for spec, f_MPSS in self.maps.items()})
        return self.model.response(self.x_NC[self.val_N]).flatten(1), i_MDSS.flatten(1)


def local_info_nce(r_NDSS: Tensor, i_NDSS: Tensor, log_scale: Tensor, image_N: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE at each place of two maps (N, D, S, S), averaged over places. A scalar.

    Trials of one image are not contrasted, as in `info_nce`.
    """
    r_LND, i_LND = (functional.normalize(m.flatten(2).permute(2, 0, 1), dim=2) for m in (r_NDSS, i_NDSS))
    logits_LNN = (log_scale.exp() * r_LND) @ i_LND.transpose(1, 2)
    if image_N is not None:
        twin_NN = (image_N[:, None] == image_N[None, :]).fill_diagonal_(False)
        logits_LNN = logits_LNN.masked_fill(twin_NN, -torch.inf)
    own_LN = logits_LNN.diagonal(dim1=1, dim2=2)
    return ((logits_LNN.logsumexp(2) + logits_LNN.logsumexp(1)) / 2 - own_LN).mean()
