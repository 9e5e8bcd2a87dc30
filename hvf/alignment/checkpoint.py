"""The checkpoint: a trained brain encoder and its fusion, and the recording that they were trained on."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hvf.alignment.inputs import image_tensors, move, new_brain, standardised
from hvf.config import Config, HvfError, from_dict, to_dict
from hvf.data.trials.trials import Trials
from hvf.evaluation import retrieval
from hvf.files.tensors import read_tensors, write_tensors
from hvf.models.brain import BrainEncoder
from hvf.models.brain.person_layer import PeopleLayers, PersonLayer
from hvf.models.fusions.base import Fusion
from hvf.models.fusions.routed import Routed
from hvf.models.posterior_mean import PosteriorMean
from hvf.models.together import BrainsTogether, FusionsTogether
from hvf.registry import FUSIONS
from hvf.runs import code_version

FILE, KEY = "alignment.safetensors", "alignment"  # KEY: of its metadata
VERSION = 1  # of the file's content; a file of another version is refused


@dataclass(frozen=True)
class RecordingInfo:
    """The recording that a brain encoder was trained on: trials to decode must match it."""

    kind: str
    ch_names: tuple[str, ...]
    sfreq: float
    tmin: float
    n_times: int
    images: str  # digest of the training images
    code: str  # version that trained it; kept, not compared

    @classmethod
    def of(cls, trials: Trials, images: str) -> RecordingInfo:
        n_times = trials.shape[2]
        return cls(trials.kind, trials.ch_names, trials.sfreq, trials.tmin, n_times, images, code_version())

    def check(self, trials: Trials, images: str | None = None) -> None:
        """Raise HvfError naming the first field in which `trials` (or the digest of training images) differ."""
        other = RecordingInfo.of(trials, self.images if images is None else images)
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
    history : list of dict, one per epoch: loss, validation_{loss, mrr, top1, n}, temperature, best
    recording : RecordingInfo
    config : Config
    normalisation : {"x" | spec: (mean, sd)}, from training rows only; "x" is (1, C, 1) both, a spec (1, d_k) and (1, 1)
    needs_person : bool, trained on several people made alike (`brain.people`): to decode, it is moved to one (`adapt`)
    people : names of the people trained on, if several: in this order a routed fusion has gates, and the brain layers
    person : name of the one whose gate and layer it was given (`on_person`); None: what people have on average
    average_CC : covariance that people have on average, which a new person's trials get ("euclidean"); else None
    members : settings of each, where several answer as one (`hvf.alignment.members`)
    learnt_mean : E[z_f | z_b] as `align.mean_weight` had it learnt, for sampling.posterior_mean; else None
    train_embeddings_MD : z_f of the training images, float32, for the same where nothing was learnt; else None
    """

    def __init__(
        self,
        brain: BrainEncoder,
        hvf: Fusion,
        log_scale: float,
        history: list[dict[str, Any]],
        normalisation: dict[str, tuple[Tensor, Tensor]],
        recording: RecordingInfo,
        config: Config,
        needs_person: bool = False,
        people: Sequence[str] = (),
    ) -> None:
        self.needs_person, self.people = needs_person, tuple(people)
        self.person: str | None = None
        self.brain, self.hvf, self.log_scale, self.history = brain.eval(), hvf.eval(), log_scale, history
        self.normalisation, self.recording, self.config = normalisation, recording, config
        self.learnt_mean: PosteriorMean | None = None
        self.train_embeddings_MD: np.ndarray | None = None
        self.average_CC: np.ndarray | None = None
        self.members: tuple[Config, ...] = ()

    @property
    def best(self) -> dict:
        """The epoch whose weights these are."""
        return next(entry for entry in self.history if entry["best"])

    @property
    def device(self) -> torch.device:
        return next(self.brain.parameters()).device

    def on(self, device: torch.device) -> Alignment:
        """The same on a device: itself where it is there already, else a copy."""
        here = self.device
        if here.type == device.type and device.index in (None, here.index):
            return self
        moved = copy.copy(self)
        moved.brain, moved.hvf = copy.deepcopy(self.brain).to(device), copy.deepcopy(self.hvf)
        move(moved.hvf, device)
        moved.learnt_mean = copy.deepcopy(self.learnt_mean)
        if moved.learnt_mean is not None:
            move(moved.learnt_mean, device)
        moved.normalisation = {
            name: (mean.to(device), sd.to(device)) for name, (mean, sd) in self.normalisation.items()
        }
        return moved

    @torch.no_grad()
    def embed_brain(self, trials: Trials, batch: int = 4096) -> np.ndarray:
        """z_b (N, D) float32, one row per trial. Raises HvfError for trials of another recording (naming the field)."""
        self.recording.check(trials)
        if self.needs_person:
            raise HvfError(
                f"this decoder was trained on several people, each made alike ({self.config.brain.people}): move it to "
                "the person whose trials these are, with hvf adapt"
            )
        z_ND = np.empty((len(trials), self.brain.width), np.float32)
        for start in range(0, len(trials), batch):
            rows = slice(start, start + batch)
            x_NCT = trials.batch(rows)
            if not np.isfinite(x_NCT).all():
                trials.check()  # names the channels; a channel that is constant in a few trials is no fault
            z_ND[rows] = self.brain(standardised(x_NCT, self.normalisation["x"], self.device)).cpu().numpy()
        return z_ND

    @torch.no_grad()
    def embed_images(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """z_f (N, D) float32 of images given {spec: (N, d_k)}. Raises HvfError naming a missing or misshapen one."""
        return self.hvf(image_tensors(features, self.hvf.specs, self.normalisation, self.device)).cpu().numpy()

    @property
    def knows_mean(self) -> bool:
        """Whether `expected` can say anything."""
        return self.learnt_mean is not None or self.train_embeddings_MD is not None

    @torch.no_grad()
    def expected(self, z_b_ND: np.ndarray) -> np.ndarray:
        """E[z_f | z_b], (N, D) float32: as it was learnt, else over the training images (`posterior_mean`).

        Raises HvfError where neither is there.
        """
        if self.learnt_mean is not None:
            return self.learnt_mean(torch.as_tensor(z_b_ND, device=self.device)).cpu().numpy()
        if self.train_embeddings_MD is None:
            raise HvfError("sampling.posterior_mean needs the training images' embeddings: call fit_drawing first")
        return self.posterior_mean(z_b_ND, self.train_embeddings_MD)

    def posterior_mean(self, z_b_ND: np.ndarray, z_f_MD: np.ndarray) -> np.ndarray:
        """Posterior mean E[z_f | z_b], (N, D), with a uniform prior over the M images of `z_f_MD`.

        InfoNCE makes exp(cos(z_b, z_f) / τ) proportional to p(z_f | z_b) / p(z_f) (arXiv 1807.03748, section 2.3).
        Images of the training stand for p(z_f).
        """
        logits_NM = math.exp(self.log_scale) * torch.from_numpy(retrieval.similarity(z_b_ND, z_f_MD))
        return (logits_NM.softmax(dim=1) @ torch.from_numpy(z_f_MD)).numpy()

    def save(self, folder: str | Path) -> Path:
        """Write everything into one file of the folder, atomically: weights and settings cannot be parted."""
        state = {f"brain.{k}": v for k, v in self.brain.state_dict().items()}
        state |= {f"hvf.{k}": v for k, v in self.hvf.state_dict().items()}
        for name, (mean, sd) in self.normalisation.items():
            state |= {f"mean.{name}": mean, f"sd.{name}": sd}
        if self.learnt_mean is not None:
            state |= {f"posterior_mean.{k}": v for k, v in self.learnt_mean.state_dict().items()}
        if self.train_embeddings_MD is not None:  # in full precision: pictures drawn after loading are the very same
            state["train_embeddings"] = torch.from_numpy(self.train_embeddings_MD)
        if self.average_CC is not None:
            state["average"] = torch.from_numpy(self.average_CC)
        metadata = {
            "version": VERSION,
            "recording": asdict(self.recording),
            "config": to_dict(self.config),
            "hvf": [_described(hvf) for hvf in getattr(self.hvf, "members", [])] or _described(self.hvf),
            "members": [to_dict(member) for member in self.members],
            "log_scale": self.log_scale,
            "history": self.history,
            "needs_person": self.needs_person,
            "people": self.people,
            "person": self.person,
        }
        path = Path(folder) / FILE
        write_tensors(path, {k: v.detach().cpu().contiguous() for k, v in state.items()}, metadata, KEY)
        return path

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> Alignment:
        """Read what `save` wrote. Raises HvfError if it is missing, damaged or something else."""
        path = Path(folder) / FILE
        try:
            state, metadata = read_tensors(path, "pt", KEY, partial(_accept, path))
            recording = RecordingInfo(**{**metadata["recording"], "ch_names": tuple(metadata["recording"]["ch_names"])})
            config = from_dict(Config, metadata["config"])
            members = tuple(from_dict(Config, member) for member in metadata.get("members", ()))
            brain, hvf = _modules(config, members, metadata["hvf"], recording)
            if "brain.start_CC" in state:
                brain = PersonLayer(brain)
            if "brain.change_SCC" in state:
                brain = PeopleLayers(brain, len(state["brain.change_SCC"]))
            if isinstance(hvf, Routed):
                hvf.for_people(len(state["hvf.offset_SK"]))
            brain.load_state_dict(_part(state, "brain."))
            hvf.load_state_dict(_part(state, "hvf."))
            mean, sd = _part(state, "mean."), _part(state, "sd.")
            normalisation = {name: (mean[name].to(device), sd[name].to(device)) for name in mean}
            learnt_mean, of_mean = None, _part(state, "posterior_mean.")
            if of_mean:
                learnt_mean = PosteriorMean(hvf.width)
                learnt_mean.load_state_dict(of_mean)
            log_scale, history, people = metadata["log_scale"], metadata["history"], metadata.get("people", ())
        except FileNotFoundError:
            raise HvfError(f"{path} is missing: train first, with hvf train") from None
        except (OSError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            words = " ".join(str(error).split())[:200]
            raise HvfError(f"{path} is not an alignment written by hvf: {words}") from error
        move(hvf, device)
        needs_person = bool(metadata.get("needs_person", False))
        trained = cls(brain.to(device), hvf, log_scale, history, normalisation, recording, config, needs_person, people)
        trained.person = metadata.get("person")
        if learnt_mean is not None:
            trained.learnt_mean = learnt_mean.to(device).eval()
        trained.train_embeddings_MD = state["train_embeddings"].numpy() if "train_embeddings" in state else None
        trained.average_CC = state["average"].numpy() if "average" in state else None
        trained.members = members
        return trained


def _accept(path: Path, metadata: Mapping[str, Any]) -> None:
    version = metadata.get("version")
    if version != VERSION:
        raise HvfError(f"{path} is of version {version}; this hvf reads version {VERSION}: train again")


def _described(hvf: Fusion) -> dict[str, Any]:
    return {k: hvf.config[k] for k in ("dims", "width", "intermediate", "dropout", "specs")}


def _modules(
    config: Config, members: tuple[Config, ...], described: Any, recording: RecordingInfo
) -> tuple[BrainEncoder, Any]:
    """A brain encoder and a fusion, or those of several members side by side, whose weights are still to be read."""
    one_space = isinstance(described, dict)  # one fusion, however many brain encoders
    fusions = [
        FUSIONS[one.fusion.kind if one.align.mode != "reconstruction" else "hvf"](**each)
        for one, each in zip(members or (config,), [described] if one_space else described, strict=not one_space)
    ]
    shape = len(recording.ch_names), recording.n_times
    brains = [
        new_brain(one, fusions[0 if one_space else k].width, *shape, recording)
        for k, one in enumerate(members or (config,))
    ]
    if not members:
        return brains[0], fusions[0]
    weight_K = torch.ones(len(members))
    hvf = fusions[0] if one_space else FusionsTogether(fusions, weight_K)
    return BrainsTogether(brains, weight_K, one_space=one_space), hvf


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _difference(mine: RecordingInfo, theirs: RecordingInfo) -> str:
    a, b = mine.ch_names, theirs.ch_names
    missing, unknown = [c for c in a if c not in b], [c for c in b if c not in a]
    for words, names in (("missing here", missing), ("unknown to it", unknown)):
        if names:
            return f"{len(names)} {words}: {', '.join(names[:6])}"
    return "the same names in another order"
