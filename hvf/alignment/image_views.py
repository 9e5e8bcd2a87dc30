"""Auxiliary targets of a training step: image views and captions.

Letters: N trials, n of them in a step, V views, M images, d width of an encoder, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hvf.alignment.inputs import centred, image_tensors, standardised
from hvf.config import Config, HvfError
from hvf.vision.specs import versions


class ImageViews:
    """Several versions (views) of each image's features; each training step takes one of them per trial.

    "drawn": any, at random. "confidence" (UBP): the second of three, but the first where the trial's cosine to its
    image lies above the central 95 % of the batch's running cosines, and the third where it lies below; the choice
    takes effect the next time the trial is in a batch.
    Source: HaitaoWuTJU/Uncertainty-aware-Blur-Prior (running means from 1, weight 0.3; logits there, cosines here).
    """

    WEIGHT, WITHIN = 0.3, 1.96

    def __init__(self, config: Config, features: Mapping[str, np.ndarray], n: int, device: torch.device) -> None:
        self.by_confidence, self.count = config.targets.view_choice == "confidence", len(config.targets.views)
        groups = versions(config.targets.specs, config.targets.views)
        parts = {s: image_tensors(features, group, {}, device).values() for s, group in groups.items()}
        self.x_VMd = {spec: torch.stack(list(group)) for spec, group in parts.items()}
        self.version_N = torch.ones(n, dtype=torch.long, device=device)
        self.running_N = torch.ones(n, device=device)

    def gather(self, rows: Tensor, image_N: Tensor) -> dict[str, Tensor]:
        """{spec: (n, d)} of the images of these trials, each in the version chosen for the trial."""
        chosen_N = self.version_N[rows]
        if not self.by_confidence:
            chosen_N = torch.randint(self.count, rows.shape, device=rows.device)
        return {spec: x_VMd[chosen_N, image_N] for spec, x_VMd in self.x_VMd.items()}

    @torch.no_grad()
    def choose_next(self, rows: Tensor, z_b_ND: Tensor, z_f_ND: Tensor) -> None:
        """Choose the version of each trial's next step from the cosine of its z_b and z_f."""
        now_N = functional.cosine_similarity(z_b_ND, z_f_ND)
        running_N = self.WEIGHT * now_N + (1 - self.WEIGHT) * self.running_N[rows]
        margin = self.WITHIN * running_N.std()
        easy_N, hard_N = now_N > running_N.mean() + margin, now_N < running_N.mean() - margin
        self.running_N[rows], self.version_N[rows] = running_N, 1 - easy_N.long() + hard_N.long()


class CaptionTargets:
    """Standardised text features (M, D) of the images' captions; images of one caption are not contrasted."""

    def __init__(self, features_MD: np.ndarray, images: np.ndarray, device: torch.device) -> None:
        self.z_MD = standardised(features_MD, centred(features_MD, images, device), device)
        same_M = np.unique(features_MD, axis=0, return_inverse=True)[1]
        self.same_M = torch.as_tensor(same_M.reshape(-1), device=device)

    def check(self, width: int) -> None:
        if self.z_MD.shape[1] != width:
            raise HvfError(
                f"captions have {self.z_MD.shape[1]} features, the embedding {width}: targets.text must be the text "
                "side of the one encoder in targets.specs, with fusion.kind 'concatenated'"
            )
