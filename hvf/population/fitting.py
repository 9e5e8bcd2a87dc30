"""DINA's fit: both towers trained until validation images are found best among each other.

Source: arXiv 2605.04309. Of its losses the text at hand says: contrastive, between intermediate feature maps; its
referee asks what a loss on semantic labels and one on reconstruction would align in its place. Those are here, each
with a weight, and a `local` contrast at every place of the map. Letters: as in hvf/population/towers.py; M images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hvf.alignment.checkpoint import RecordingInfo
from hvf.alignment.fitting import MAX_LOG_SCALE, Epochs, adamw, info_nce, seeded
from hvf.alignment.inputs import standard, standardised
from hvf.alignment.training_set import TrainingSet
from hvf.config import Config, HvfError
from hvf.data.trials.trials import Trials
from hvf.population.feature_maps import FeatureMapAnalysis, analyse_feature_maps, silenced
from hvf.population.towers import Dina
from hvf.runs import track
from hvf.vision.specs import parse_spec

PCA_IMAGES = 250


@dataclass(frozen=True)
class Losses:
    """How much each loss counts; 0 leaves it out."""

    contrast: float = 1.0  # InfoNCE between whole maps: which image of the batch was seen
    local: float = 1.0  # the same at every place of the map, averaged over places
    reconstruction: float = 1.0  # squared error of the frozen maps, drawn from either tower's map
    category: float = 0.0  # cross-entropy of the image's category, read from either tower's map

    def but(self, **weights: float) -> Losses:
        """The same, some of them with another weight."""
        return Losses(**{f.name: getattr(self, f.name) for f in fields(self)} | weights)


@dataclass(frozen=True)
class Maps:
    """The shared map, and what becomes of the frozen ones before they enter a tower."""

    side: int = 6  # S: the shared map has S x S places
    channels: int = 32  # D at each place
    components: int = 32  # most principal components kept of a frozen map's channels
    categories: int = 20  # clusters of the semantic features, which stand for labels where images have none
    semantic: str | None = None  # the FeatureSpec that is clustered; needed by the category loss alone


def map_shape(spec: str, width: int) -> tuple[int, int, int]:
    """(channels, rows, columns) of the features (M, width) of a spec: one with a grid, or whole latents.

    Raises HvfError where the spec does not tell.
    """
    parsed = parse_spec(spec)
    if parsed.grid and width % parsed.grid**2 == 0:
        return width // parsed.grid**2, parsed.grid, parsed.grid
    side = math.isqrt(width // 4)
    if parsed.kind == "vae" and parsed.pool is None and 4 * side * side == width:
        return 4, side, side
    raise HvfError(f"{spec}: no places can be told apart in these features; name a grid, as {parsed.kind}:...@9:grid6")


class FrozenMaps:
    """Frozen features as maps of the shared side: centred at each place, few components, of unit mean variance.

    Everything is learnt from the training images that ``rows`` names. {spec: (M, d)} -> {spec: (M, P_k, S, S)}.
    """

    def __init__(
        self, features: Mapping[str, np.ndarray], specs: Sequence[str], rows: np.ndarray, maps: Maps, device
    ) -> None:
        self.specs, self.side, self.device = tuple(specs), maps.side, torch.device(device)
        self.fixed: dict[str, tuple[Tensor, Tensor]] = {}
        for spec in specs:
            f_MPSS = self._pooled(spec, features[spec][rows])
            mean = f_MPSS.mean(0, keepdim=True)
            some = f_MPSS[:: -(-len(rows) // PCA_IMAGES)]  # a channel's components need no more: all places count
            flat = (some - mean).transpose(0, 1).flatten(1)  # (channels, M S S)
            values, vectors = torch.linalg.eigh((flat @ flat.T / flat.shape[1]).double())
            kept = slice(max(0, len(values) - maps.components), None)
            scale = values[kept].clamp_min(0).mean().sqrt().clamp_min(1e-12)
            self.fixed[spec] = mean, (vectors[:, kept].flip(1).T / scale).float()

    @property
    def components(self) -> dict[str, int]:
        """{spec: P_k}."""
        return {spec: len(basis) for spec, (_, basis) in self.fixed.items()}

    def __call__(self, features: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        out = {}
        for spec, (mean, basis) in self.fixed.items():
            if spec not in features:
                raise HvfError(f"no features of {spec} were given: compute them with hvf embed --targets {spec}")
            out[spec] = torch.einsum("pc,mcij->mpij", basis, self._pooled(spec, features[spec]) - mean)
        return out

    def _pooled(self, spec: str, x_Md: np.ndarray) -> Tensor:
        x_Md = np.asarray(x_Md, dtype=np.float32).reshape(len(x_Md), -1)
        shape = map_shape(spec, x_Md.shape[1])
        if self.side > shape[1]:
            raise HvfError(f"{spec} has {shape[1]} x {shape[2]} places, the shared map {self.side} x {self.side}")
        f_MPHW = torch.from_numpy(np.ascontiguousarray(x_Md)).to(self.device).unflatten(1, shape)
        return functional.adaptive_avg_pool2d(f_MPHW, self.side)


class DinaAlignment:
    """Trained towers, with the standardisation that belongs to them. Made by `fit`.

    Attributes: ``model`` in eval mode; ``history``, one dict per epoch as `Alignment` has it; ``config``, ``losses``,
    ``recording``; ``order``, the neurons from the one that contributes most, told from validation images.
    """

    def __init__(
        self, model: Dina, frozen: FrozenMaps, statistics, history: list[dict], config: Config, losses: Losses,
        recording: RecordingInfo,
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
    """Raise HvfError for views and captions, which nothing here would learn from."""
    if config.targets.views or config.targets.text:
        raise HvfError("DINA learns from the images as they are: leave targets.views and targets.text out")


def _categories(features: Mapping[str, np.ndarray], rows: np.ndarray, maps: Maps, seed: int) -> np.ndarray:
    """The cluster of every image's semantic features (M,), clusters found among the training images."""
    from sklearn.cluster import KMeans

    if maps.semantic is None or maps.semantic not in features:
        raise HvfError("the category loss needs semantic features: name their spec in Maps.semantic and compute them")
    x_Md = np.asarray(features[maps.semantic], dtype=np.float32).reshape(len(features[maps.semantic]), -1)
    among = min(maps.categories, len(rows))
    clusters = KMeans(among, n_init=4, random_state=seed).fit(x_Md[rows])  # pyright: ignore[reportArgumentType]
    return np.asarray(clusters.predict(x_Md), dtype=np.int64)


class _Training(Epochs):
    """Data, optimiser, and the best epoch so far."""

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
        """One pass over the training rows in a new order, then a look at the validation rows."""
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
