"""Alignment: a brain encoder learns to meet the fused embedding of the image that was seen. The one training loop.

Only training material comes in: `fit` has no argument for test data, and takes its validation concepts from what it
gets. Letters: N items, C channels, T samples, D embedding, d_k width of encoder k. Source: arXiv 2602.07495 (HVF).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from hvf import retrieval
from hvf.config import Config, HvfError, from_dict, to_dict
from hvf.data.trials import Trials, concept_split
from hvf.models.brain import BrainEncoder, build_brain
from hvf.models.fusion import HVF
from hvf.runs import code_version, track, write_atomic

FILE = "alignment.safetensors"
MAX_LOG_SCALE = math.log(100)  # 1/τ ≤ 100, as CLIP clamps it; the official code does not
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


@dataclass(frozen=True)
class Recording:
    """What trials must have in common with those a brain encoder was trained on, and which images those answered."""

    kind: str
    ch_names: tuple[str, ...]
    sfreq: float
    tmin: float
    n_times: int
    images: str  # digest of the training images
    code: str  # version that trained it; told, not compared

    @classmethod
    def of(cls, trials: Trials, images: str) -> Recording:
        n_times = trials.shape[2]
        return cls(trials.kind, trials.ch_names, trials.sfreq, trials.tmin, n_times, images, code_version())

    def check(self, trials: Trials, images: str | None = None) -> None:
        """Raise HvfError naming the first field in which `trials` (or the digest of training images) differ."""
        other = Recording.of(trials, self.images if images is None else images)
        if self.ch_names != other.ch_names:
            raise HvfError(f"the checkpoint was made for other channels (ch_names): {_difference(self, other)}")
        for field, unit in (("kind", ""), ("sfreq", " Hz"), ("tmin", " s"), ("n_times", " samples"), ("images", "")):
            mine, theirs = getattr(self, field), getattr(other, field)
            same = math.isclose(mine, theirs, abs_tol=1e-6) if isinstance(mine, float) else mine == theirs
            if not same:
                what = "training material (images)" if field == "images" else field
                raise HvfError(f"the checkpoint was made for {what} {mine}{unit}, the data have {theirs}{unit}")


class Alignment:
    """A trained pair: brain encoder and fusion, with the standardisation that belongs to them. Made by `fit` or `load`.

    Attributes
    ----------
    brain, hvf : modules in eval mode
    log_scale : float, log 1/τ
    history : list of dict, one per epoch: loss, validation_mrr, validation_top1, validation_n, temperature, best
    recording : Recording
    config : Config
    normalisation : {"x" | spec: (mean, sd)}, from training rows only; "x" is (1, C, 1) both, a spec (1, d_k) and (1, 1)
    """

    def __init__(
        self,
        brain: BrainEncoder,
        hvf: HVF,
        log_scale: float,
        history: list[dict],
        normalisation: dict[str, tuple[Tensor, Tensor]],
        recording: Recording,
        config: Config,
    ) -> None:
        self.brain, self.hvf, self.log_scale, self.history = brain.eval(), hvf.eval(), log_scale, history
        self.normalisation, self.recording, self.config = normalisation, recording, config

    @property
    def best(self) -> dict:
        """The epoch whose weights these are."""
        return next(entry for entry in self.history if entry["best"])

    @property
    def device(self) -> torch.device:
        return next(self.brain.parameters()).device

    @torch.no_grad()
    def embed_brain(self, trials: Trials, batch: int = 4096) -> np.ndarray:
        """z_b (N, D) float32, one row per trial. Raises HvfError for trials of another recording (naming the field)."""
        self.recording.check(trials)
        z_ND = np.empty((len(trials), self.config.brain.width), np.float32)
        for start in range(0, len(trials), batch):
            rows = slice(start, start + batch)
            x_NCT = trials.batch(rows)
            if not np.isfinite(x_NCT).all():
                trials.check()  # names the channels; a channel that is constant in a few trials is no fault
            z_ND[rows] = self.brain(_standardised(x_NCT, self.normalisation["x"], self.device)).cpu().numpy()
        return z_ND

    @torch.no_grad()
    def embed_images(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """z_f (N, D) float32 of images given {spec: (N, d_k)}. Raises HvfError naming a missing or misshapen one."""
        return self.hvf(_visual(features, self.hvf.specs, self.normalisation, self.device)).cpu().numpy()

    def save(self, folder: str | Path) -> Path:
        """Write everything into one file of the folder, atomically: weights and settings cannot be parted."""
        state = {f"brain.{k}": v for k, v in self.brain.state_dict().items()}
        state |= {f"hvf.{k}": v for k, v in self.hvf.state_dict().items()}
        for name, (mean, sd) in self.normalisation.items():
            state |= {f"mean.{name}": mean, f"sd.{name}": sd}
        told = {
            "recording": asdict(self.recording),
            "config": to_dict(self.config),
            "hvf": {k: self.hvf.config[k] for k in ("dims", "width", "intermediate", "dropout", "specs")},
            "log_scale": self.log_scale,
            "history": self.history,
        }
        whole = {k: v.detach().cpu().contiguous() for k, v in state.items()}
        path = Path(folder) / FILE
        write_atomic(path, lambda tmp: save_file(whole, str(tmp), {"alignment": json.dumps(told)}))
        return path

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> Alignment:
        """Read what `save` wrote. Raises HvfError if it is missing, damaged or something else."""
        path = Path(folder) / FILE
        try:
            with safe_open(str(path), framework="pt") as file:
                told = json.loads((file.metadata() or {})["alignment"])
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            recording = Recording(**{**told["recording"], "ch_names": tuple(told["recording"]["ch_names"])})
            config = from_dict(Config, told["config"])
            brain = build_brain(config.brain, len(recording.ch_names), recording.n_times)
            hvf = HVF(**told["hvf"])
            brain.load_state_dict(_part(state, "brain."))
            hvf.load_state_dict(_part(state, "hvf."))
            mean, sd = _part(state, "mean."), _part(state, "sd.")
            normalisation = {name: (mean[name].to(device), sd[name].to(device)) for name in mean}
            log_scale, history = told["log_scale"], told["history"]
        except FileNotFoundError:
            raise HvfError(f"{path} is missing: train first, with hvf train") from None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise HvfError(f"{path} is not an alignment written by hvf: {error}") from error
        _move(hvf, device)
        return cls(brain.to(device), hvf, log_scale, history, normalisation, recording, config)


def fit(
    study_train: Trials,
    features: Mapping[str, np.ndarray],
    config: Config,
    concepts: Sequence[str],
    hvf: HVF | None = None,
    device: str | torch.device = "cpu",
    *,
    images_digest: str | None = None,
) -> Alignment:
    """Train on trials (N, C, T) whose row i answers the image of `features` row i and of concept i.

    `config.align.mode` "retrieval" trains the brain encoder and a new HVF over `features` together; "reconstruction"
    trains the brain encoder against `hvf`, the prior's, frozen and in eval mode, on features as they are. A share of
    the concepts is kept from training; the epoch that finds those images best (mean reciprocal rank among them) is the
    one returned. The same seed gives the same numbers. `images_digest` names the training images (`ImageSet.digest`;
    by default a hash of their ids) and goes into the checkpoint. Rows that repeat an image (single trials, several
    subjects) are not contrasted with each other.

    Raises HvfError if rows do not pair, values are not finite, or `hvf` is missing, unwanted or of another width.
    """
    study_train = study_train.in_memory(RESIDENT_BYTES)
    _check_inputs(study_train, features, config, concepts, hvf)
    train_N, val_N = concept_split(concepts, config.align.validation_fraction, config.align.seed, at_least=2)
    specs = tuple(config.targets.specs) if hvf is None else hvf.specs
    normalisation = {"x": _standard(study_train.select(train_N), device)}
    if hvf is None:  # the prior's HVF was trained on raw features; to a new one all encoders should be equals
        normalisation |= {spec: _centred(features[spec][train_N], device) for spec in specs}
    x_NCT = _Rows(study_train, normalisation["x"])
    seen = _visual(features, specs, normalisation, device)
    device = x_NCT.device
    with torch.random.fork_rng(devices=[device.index] if device.type == "cuda" else []):
        torch.manual_seed(config.align.seed)
        brain = build_brain(config.brain, *x_NCT.shape[1:]).to(device)
        fusion = _new_hvf(seen, config) if hvf is None else hvf.eval()
        _move(fusion, device)
        images = study_train.image_ids
        training = _Training(brain, fusion, hvf is None, config, x_NCT, seen, images, train_N, val_N)
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
                self.kept_NCT[rows] = _standardised(x_NCT, statistics, self.device)

    def __getitem__(self, rows: Tensor) -> Tensor:
        if self.kept_NCT is not None:
            return self.kept_NCT[rows]
        return _standardised(self.trials.batch(rows.cpu().numpy()), self.statistics, self.device)


class _Training:
    """Data on the device, the optimiser, and the best epoch so far."""

    def __init__(
        self, brain, fusion, fusion_learns: bool, config: Config, x_NCT: _Rows, seen, image_ids, train_N, val_N
    ) -> None:
        self.brain, self.fusion, self.fusion_learns, self.config = brain, fusion, fusion_learns, config
        device, align = x_NCT.device, config.align
        _, first, self.target_N = np.unique(image_ids[val_N], return_index=True, return_inverse=True)
        rows = (train_N, val_N, val_N[first])
        self.train_N, self.val_N, self.gallery_M = (torch.as_tensor(r, device=device) for r in rows)
        names, image_N = np.unique(image_ids, return_inverse=True)
        self.image_N = torch.as_tensor(image_N, device=device) if len(names) < len(image_ids) else None
        self.x_NCT, self.seen = x_NCT, seen
        with torch.no_grad():
            self.frozen_z_f_ND = None if fusion_learns else fusion(seen)
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
            self.kept = [{k: v.clone() for k, v in module.state_dict().items()} for module in self.learners]
            self.kept_log_scale = self.log_scale.item()
        self.history.append(entry)

    def step(self, rows: Tensor) -> Tensor:
        x_NCT, noise = self.x_NCT[rows], self.config.brain.input_noise
        if noise:
            x_NCT = x_NCT + noise * torch.randn_like(x_NCT)
        image_N = None if self.image_N is None else self.image_N[rows]
        loss = info_nce(self.brain(x_NCT), self.images(rows), self.log_scale, image_N)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.config.align.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        with torch.no_grad():
            self.log_scale.clamp_(max=MAX_LOG_SCALE)
        return loss.detach()

    def images(self, rows: Tensor) -> Tensor:
        if self.frozen_z_f_ND is not None:
            return self.frozen_z_f_ND[rows]
        return self.fusion({spec: x_Nd[rows] for spec, x_Nd in self.seen.items()})

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        self.brain.eval()
        self.fusion.eval()
        """How well the validation images are found among themselves."""
        parts = self.val_N.split(self.config.align.batch_size)
        z_b_ND = torch.cat([self.brain(self.x_NCT[rows]) for rows in parts])
        ranks_N = retrieval.ranks(retrieval.similarity(z_b_ND, self.images(self.gallery_M)), self.target_N)
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


def _new_hvf(seen: Mapping[str, Tensor], config: Config) -> HVF:
    dims = {spec: x_Nd.shape[1] for spec, x_Nd in seen.items()}
    return HVF(dims, config.fusion.width, config.fusion.intermediate, config.fusion.dropout)


def _move(module: nn.Module, device) -> None:
    """`module.to(device)`, in place; taken from torch, because diffusers' own `to` has lost its types."""
    nn.Module.to(module, device)


def _standard(trials: Trials, device) -> tuple[Tensor, Tensor]:
    """Mean and sd of each channel, (1, C, 1), read part by part; a channel that never changes gets sd 1."""
    n, shift, sum_C, square_C = 0, np.zeros((1, 1, 1)), np.zeros(1), np.zeros(1)
    for rows, x_NCT in trials.batches():
        if rows.start == 0:  # near the mean, so that the difference of squares below is exact
            shift = x_NCT.mean(axis=(0, 2), keepdims=True, dtype=np.float64)
        x_NCT = x_NCT - shift
        n += x_NCT.shape[0] * x_NCT.shape[2]
        sum_C = sum_C + x_NCT.sum(axis=(0, 2))
        square_C = square_C + np.square(x_NCT).sum(axis=(0, 2))
    mean = shift + (sum_C / n)[None, :, None]
    sd = np.sqrt(np.maximum(square_C / n - (sum_C / n) ** 2, 0.0))[None, :, None]
    sd = np.where(sd > 1e-6 * np.abs(mean) + np.finfo(np.float32).tiny, sd, 1.0)
    return _tensor(mean, device), _tensor(sd, device)


def _centred(x: np.ndarray, device) -> tuple[Tensor, Tensor]:
    """Mean of each feature and one sd for the encoder: an sd each would blow up the features that hardly vary."""
    x_Nd = x.reshape(len(x), -1)
    mean_1d = x_Nd.mean(axis=0, keepdims=True, dtype=np.float64)
    sd_11 = np.sqrt(x_Nd.var(axis=0, dtype=np.float64).mean()).reshape(1, 1)
    sd_11 = np.where(sd_11 > 0, sd_11, 1.0)
    return _tensor(mean_1d, device), _tensor(sd_11, device)


def _tensor(x: np.ndarray, device) -> Tensor:
    return torch.from_numpy(x.astype(np.float32)).to(device)


def _standardised(x: np.ndarray, statistics: tuple[Tensor, Tensor], device) -> Tensor:
    mean, sd = statistics
    return (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(device) - mean) / sd


def _visual(features: Mapping[str, np.ndarray], specs: Sequence[str], normalisation, device) -> dict[str, Tensor]:
    missing = [spec for spec in specs if spec not in features]
    if missing:
        raise HvfError(f"no features of {missing[0]} were given: compute them with hvf embed --targets {missing[0]}")
    out = {}
    for spec in specs:
        x_Nd = np.asarray(features[spec], dtype=np.float32).reshape(len(features[spec]), -1)
        if spec in normalisation and x_Nd.shape[1] != normalisation[spec][0].shape[1]:
            raise HvfError(f"features of {spec} have width {x_Nd.shape[1]}, not {normalisation[spec][0].shape[1]}")
        standard = normalisation.get(spec)
        out[spec] = torch.from_numpy(x_Nd).to(device) if standard is None else _standardised(x_Nd, standard, device)
    return out


def _check_inputs(trials: Trials, features, config: Config, concepts: Sequence[str], hvf: HVF | None) -> None:
    if (config.align.mode == "reconstruction") != (hvf is not None):
        need = "needs the prior's frozen HVF" if hvf is None else "trains its own HVF and takes none"
        raise HvfError(f"align.mode {config.align.mode!r} {need}")
    if hvf is not None and hvf.config["width"] != config.brain.width:
        raise HvfError(f"the prior's embedding is {hvf.config['width']} wide, brain.width is {config.brain.width}")
    for spec in config.targets.specs if hvf is None else hvf.specs:
        if spec not in features:
            raise HvfError(f"no features of {spec} were given: compute them with hvf embed --targets {spec}")
        if len(features[spec]) != len(trials):
            raise HvfError(f"{len(trials)} trials but features of {len(features[spec])} images by {spec}")
        if not np.isfinite(features[spec]).all():
            raise HvfError(f"features by {spec} hold NaN or infinite values")
    if len(concepts) != len(trials):
        raise HvfError(f"{len(trials)} trials but {len(concepts)} concepts; give one per trial")
    trials.check()


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _difference(mine: Recording, theirs: Recording) -> str:
    a, b = mine.ch_names, theirs.ch_names
    missing, unknown = [c for c in a if c not in b], [c for c in b if c not in a]
    for words, names in (("missing here", missing), ("unknown to it", unknown)):
        if names:
            return f"{len(names)} {words}: {', '.join(names[:6])}"
    return "the same names in another order"
