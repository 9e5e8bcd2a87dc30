"""Alignment: a brain encoder learns to meet the fused embedding of the image that was seen. The one training loop.

Only training material comes in: `fit` has no argument for test data, and takes its validation concepts from what it
gets. Letters: N trials, M images, C channels, T samples, D embedding, d_k width of encoder k.
Source: arXiv 2602.07495 (HVF).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from hvf.models.fusion import FUSIONS, HVF, Fusion
from hvf.runs import code_version, track, write_atomic

FILE = "alignment.safetensors"
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
        hvf: Fusion,
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
        z_ND = np.empty((len(trials), self.brain.width), np.float32)
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
            hvf = FUSIONS[config.fusion.kind if config.align.mode == "retrieval" else "hvf"](**told["hvf"])
            brain = _new_brain(config, hvf.width, len(recording.ch_names), recording.n_times)
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
    image_N = _image_rows(study_train, concepts, image_N)
    _check_inputs(study_train, features, config, concepts, hvf)
    concept_N = np.asarray(concepts, dtype=str)[image_N].tolist()
    train_N, val_N = concept_split(concept_N, config.align.validation_fraction, config.align.seed, at_least=2)
    specs = tuple(config.targets.specs) if hvf is None else hvf.specs
    normalisation = {"x": _standard(study_train.select(train_N), device)}
    if hvf is None:  # the prior's HVF was trained on raw features; to a new one all encoders should be equals
        normalisation |= {spec: _centred(features[spec], np.unique(image_N[train_N]), device) for spec in specs}
    x_NCT = _Rows(study_train, normalisation["x"])
    seen = _visual(features, specs, {}, device)  # standardised as they are used: on the CPU this is no copy of them
    device = x_NCT.device
    with torch.random.fork_rng(devices=[device.index] if device.type == "cuda" else []):
        torch.manual_seed(config.align.seed)
        brain = _new_brain(config, _width(config, seen, hvf), *x_NCT.shape[1:]).to(device)
        fusion = _new_fusion(seen, config) if hvf is None else hvf.eval()
        _move(fusion, device)
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
                self.kept_NCT[rows] = _standardised(x_NCT, statistics, self.device)

    def __getitem__(self, rows: Tensor) -> Tensor:
        if self.kept_NCT is not None:
            return self.kept_NCT[rows]
        return _standardised(self.trials.batch(rows.cpu().numpy()), self.statistics, self.device)


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


def _new_brain(config: Config, width: int, n_chans: int, n_times: int) -> BrainEncoder:
    """As wide as the fusion; ridge, once fitted, is the linear encoder."""
    encoder = "linear" if config.brain.encoder == "ridge" else config.brain.encoder
    return build_brain(replace(config.brain, encoder=encoder, width=width), n_chans, n_times)


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


def _centred(x: np.ndarray, images: np.ndarray, device) -> tuple[Tensor, Tensor]:
    """Mean of each feature over `images` and one sd for the encoder, read part by part.

    An sd for each feature would blow up those that hardly vary.
    """
    x_Md = x.reshape(len(x), -1)
    parts = np.array_split(images, math.ceil(len(images) / 1024))
    mean_1d = sum(x_Md[part].sum(axis=0, keepdims=True, dtype=np.float64) for part in parts) / len(images)
    variance = sum(np.square(x_Md[part] - mean_1d).sum() for part in parts) / (len(images) * x_Md.shape[1])
    sd_11 = np.full((1, 1), math.sqrt(variance) if variance > 0 else 1.0)
    return _tensor(np.asarray(mean_1d), device), _tensor(sd_11, device)


def _tensor(x: np.ndarray, device) -> Tensor:
    return torch.from_numpy(x.astype(np.float32)).to(device)


def _standardised(x: np.ndarray, statistics: tuple[Tensor, Tensor], device) -> Tensor:
    mean, sd = statistics
    return (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(device) - mean).div_(sd)


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


def _image_rows(trials: Trials, concepts: Sequence[str], image_N: Sequence[int] | np.ndarray | None) -> np.ndarray:
    """Which image each trial answers, (N,). Raises HvfError if there is no such image."""
    if image_N is None:
        if len(concepts) != len(trials):
            raise HvfError(f"{len(trials)} trials but {len(concepts)} concepts: image_N must tell what each shows")
        image_N = np.arange(len(trials))
    image_N = np.asarray(image_N)
    if image_N.shape != (len(trials),) or image_N.dtype.kind not in "iu":
        raise HvfError(f"image_N must give the image of each of {len(trials)} trials, a whole number")
    if len(image_N) and not (image_N.min() >= 0 and image_N.max() < len(concepts)):
        raise HvfError(f"image_N names image {image_N.max()} (from 0), but there are {len(concepts)} images")
    return image_N


def _check_inputs(trials: Trials, features, config: Config, concepts: Sequence[str], hvf: HVF | None) -> None:
    if (config.align.mode == "reconstruction") != (hvf is not None):
        need = "needs the prior's frozen HVF" if hvf is None else "trains its own HVF and takes none"
        raise HvfError(f"align.mode {config.align.mode!r} {need}")
    if config.brain.encoder == "ridge" and hvf is None and config.fusion.kind != "concatenated":
        raise HvfError(f"ridge learns no fusion: set fusion.kind to 'concatenated', not {config.fusion.kind!r}")
    if hvf is not None and hvf.config["width"] != config.brain.width:
        raise HvfError(f"the prior's embedding is {hvf.config['width']} wide, brain.width is {config.brain.width}")
    for spec in config.targets.specs if hvf is None else hvf.specs:
        if spec not in features:
            raise HvfError(f"no features of {spec} were given: compute them with hvf embed --targets {spec}")
        if len(features[spec]) != len(concepts):
            raise HvfError(f"concepts of {len(concepts)} images but features of {len(features[spec])} by {spec}")
        if not np.isfinite(features[spec]).all():
            raise HvfError(f"features by {spec} hold NaN or infinite values")
    if trials.splits is not None and (trials.splits == "test").any():
        raise HvfError(f"{(trials.splits == 'test').sum()} of the trials to be trained on are test trials")
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
