"""Gated fusion: a weighted sum of the encoders' embeddings, weights learnt online from the validation loss of each."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from hvf.models.fusions.linear import Linear
from hvf.registry import FUSIONS


@FUSIONS.register("gated")
class Gated(Linear):
    """z_f = Σ_k g_k z_k, z_k = LayerNorm(z_v^(k) W^(k) + b^(k)); the gate g finds which layer counts.

    The contrastive loss takes each z_k by itself, weighted by g_k (`targets`), so that the z_k do not complete each
    other. After each epoch the gate is updated with the loss of each on validation images (`weigh`):
    g ∝ exp(-η Σ loss), the Hedge algorithm (Freund and Schapire, 1997). A gate learnt from the training loss of the
    sum ended at the last layer: the easiest to fit, and not the best to find images by (docs/LOG.md).
    """

    weighs_targets = True
    ETA = 0.5
    regret_K: Tensor  # a buffer

    def build(self) -> None:
        super().build()
        self.register_buffer("regret_K", torch.zeros(len(self.config["dims"])))

    @property
    def gate(self) -> Tensor:
        """g (K,), positive, of sum 1, in the order of ``specs``."""
        return (-self.ETA * self.regret_K).softmax(0)

    def embedded(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """[z_k (N, D)] of each encoder."""
        pairs = zip(self.projections, self.parts(features), strict=True)
        return [functional.layer_norm(projection(x_Nd), (self.width,)) for projection, x_Nd in pairs]

    def targets(self, features: Mapping[str, Tensor], person_N: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """[(g_k, z_k (N, D))]."""
        return list(zip(self.gate, self.embedded(features), strict=True))

    def weigh(self, losses_SK: Tensor) -> None:
        """Update the gate with each z_k's contrastive loss (1, K) on validation images."""
        self.regret_K += losses_SK.detach().mean(0)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """{spec: (N, d_k)} -> z_f (N, D), not L2-normalised."""
        return sum((weight * z_ND for weight, z_ND in self.targets(features)), start=torch.zeros(()))
