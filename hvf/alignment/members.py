"""Several members that answer as one: trainings by other seeds, each encoder alone, the encoding model.

The similarity of a trial and an image is a weighted sum of the members' cosines (`hvf.models.together`). The weights,
and with them the temperature, are those under which the validation trials find their images most surely: the sum of
cosines is the logit, and the cross-entropy is convex in its weights. A softmax of such a sum is the members'
probabilities averaged geometrically. All members share the validation images, on which none of them is fitted.

Letters: N validation trials, M their images, K kinds of members.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp

from hvf.alignment.checkpoint import Alignment
from hvf.alignment.fitting import fit as fit_one
from hvf.alignment.training_set import TrainingSet
from hvf.config import SOLVED, Config, HvfError, with_settings
from hvf.evaluation import retrieval
from hvf.models.together import BrainsTogether, FusionsTogether

ALONE = {"members.trainings": 1, "members.encoders": False, "members.encoding": False}
LINEAR = ALONE | {  # settings of ridge, over any configuration; a closed form, which takes no views or captions
    "brain.encoder": "ridge",
    "brain.weights": None,
    "brain.frozen": False,
    "fusion.kind": "concatenated",
    "targets.views": (),
    "targets.text": None,
    "align.text_weight": 0.0,
    "align.mmd_weight": 0.0,
    "brain.person_layer": False,
}
ENCODING = LINEAR | {"brain.encoder": "encoding", "fusion.kind": "linear"}  # ridge from images to responses
APART = 1000  # seeds of members, so that no member is another run's
LEAST = 1e-3  # share below which a kind of member is left out


def fit(training_set: TrainingSet, config: Config, device: str | torch.device = "cpu") -> Alignment:
    """`hvf.alignment.fitting.fit`; where `config.members` asks for several, all of them as one.

    Raises HvfError as it does, and for members that cannot answer together.
    """
    kinds = kinds_of(config)
    if sum(map(len, kinds.values())) == 1:
        return fit_one(training_set, with_settings(config, ALONE), device)
    for name, own in (("people", config.brain.people != "alike"), ("person_layer", config.brain.person_layer)):
        if own:
            raise HvfError(f"members take people alike, which brain.{name} does not: leave out one of the two")
    if config.fusion.kind == "routed":
        raise HvfError("members take people alike, and fusion.kind 'routed' has a gate of each: leave out one of them")
    if config.align.refit:
        raise HvfError(
            "align.refit trains on the validation images, by which members are weighed: leave out one of them"
        )
    fitted = {
        kind: [fit_one(training_set, one, device, seed=seed, validation_apart=True) for one, seed in members]
        for kind, members in kinds.items()
    }
    return together(training_set, config, fitted)


def kinds_of(config: Config) -> dict[str, list[tuple[Config, int]]]:
    """{kind: its members' settings and seeds}. What is solved at once is the same for every seed."""
    alone, members = with_settings(config, ALONE), config.members
    kinds: dict[str, dict[str, Any]] = {config.brain.encoder: {}}
    if members.encoders and len(config.targets.specs) > 1:
        kinds |= {spec: {"targets.specs": (spec,)} for spec in config.targets.specs}
    if members.encoding and config.brain.encoder != "encoding":
        kinds["encoding"] = ENCODING
    made = {kind: with_settings(alone, settings) for kind, settings in kinds.items()}
    return {
        kind: [
            (one, config.align.seed + APART * k) for k in range(1 if one.brain.encoder in SOLVED else members.trainings)
        ]
        for kind, one in made.items()
    }


def together(training_set: TrainingSet, config: Config, fitted: dict[str, list[Alignment]]) -> Alignment:
    """Members of several kinds, fitted without the validation images, as one; weighed on these."""
    _, val_N = training_set.validation_split(config.align)
    images, target_N = np.unique(training_set.image_N[val_N], return_inverse=True)
    trials = training_set.trials.select(val_N)
    one_space = training_set.prior_fusion is not None
    kinds = {kind: _joined(members, np.ones(len(members)), one_space) for kind, members in fitted.items()}
    shown = {spec: x_Md[images] for spec, x_Md in training_set.features.items()}
    scores_KNM = [retrieval.similarity(one.embed_brain(trials), one.embed_images(shown)) for one in kinds.values()]
    scale_K = weigh(np.array(scores_KNM, dtype=np.float64), target_N)
    share_K = scale_K / scale_K.sum()
    kept = {kind: share for kind, share in zip(kinds, share_K.tolist(), strict=True) if share > LEAST}
    members = [member for kind in kept for member in fitted[kind]]
    weights = [share / len(fitted[kind]) for kind, share in kept.items() for _ in fitted[kind]]
    joined = _joined(members, np.array(weights), one_space)
    scores_NM = np.tensordot(share_K, scores_KNM, 1)
    ranks_N, loss = retrieval.ranks(scores_NM, target_N), _loss(scale_K, np.array(scores_KNM), target_N)[0]
    joined.config, joined.log_scale = config, math.log(scale_K.sum())
    joined.history = [
        {
            "epoch": 0,
            "loss": loss,
            "validation_loss": loss,
            "validation_mrr": retrieval.mean_reciprocal_rank(ranks_N),
            "validation_top1": retrieval.topk(ranks_N, 1),
            "validation_n": len(ranks_N),
            "temperature": 1 / float(scale_K.sum()),
            "members": {kind: [len(fitted[kind]), round(share, 3)] for kind, share in kept.items()},
            "best": True,
        }
    ]
    return joined


def _joined(members: Sequence[Alignment], weights: np.ndarray, one_space: bool) -> Alignment:
    """Members of one split, which share what their inputs are standardised by, side by side."""
    first, weight_K = members[0], torch.from_numpy(weights).float().to(members[0].device)
    brain = BrainsTogether([member.brain for member in members], weight_K, one_space=one_space)
    fusion: Any = first.hvf if one_space else FusionsTogether([member.hvf for member in members], weight_K)
    normalisation = {name: both for member in members for name, both in member.normalisation.items()}
    joined = Alignment(brain, fusion, first.log_scale, first.history, normalisation, first.recording, first.config)
    joined.members = tuple(member.config for member in members)
    return joined


def weigh(scores_KNM: np.ndarray, target_N: np.ndarray) -> np.ndarray:
    """Factors (K,), none below 0, of several scores whose sum has the least cross-entropy."""
    start_K = np.full(len(scores_KNM), 10.0 / len(scores_KNM))
    found = minimize(
        _loss, start_K, (scores_KNM, target_N), jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start_K)
    )
    return found.x if found.x.sum() > LEAST else start_K  # what finds nothing has no best temperature


def _loss(scale_K: np.ndarray, scores_KNM: np.ndarray, target_N: np.ndarray) -> tuple[float, np.ndarray]:
    """Cross-entropy of the weighted sum of scores, and its gradient."""
    logits_NM = np.tensordot(scale_K, scores_KNM, 1)
    rows_N = np.arange(len(target_N))
    log_NM = logits_NM - logsumexp(logits_NM, axis=1, keepdims=True)
    error_NM = np.exp(log_NM)
    error_NM[rows_N, target_N] -= 1
    return -float(log_NM[rows_N, target_N].mean()), np.tensordot(scores_KNM, error_NM, 2) / len(target_N)
