"""Routed fusion: a gate over the encoders' embeddings that people share, and each person's offset to it.

Letters: N items, K encoders or layers, S people, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hvf.models.fusions.gated import Gated
from hvf.registry import FUSIONS


@FUSIONS.register("routed")
class Routed(Gated):
    """z_f = Σ_k g_sk z_k, with z_k as in `Gated` and g_s ∝ exp(-η (shared loss + offset of person s)).

    The shared part sums each layer's validation loss, averaged over people; a person's offset sums how far the losses
    of their own validation trials are from that average, so that offsets are 0 on average. A person who was not trained
    on is given the shared gate, as is every gallery unless `of_person` says whose it is. With one person it is `Gated`.

    Source: the subject-aware router of SAMGA (arXiv 2604.17782), softmax of a shared prior over layers and a person's
    offset; there both are learnt from the training loss.
    """

    weighs_people = True
    regret_K: Tensor  # buffers
    offset_SK: Tensor

    def build(self) -> None:
        super().build()
        self.for_people(1)

    def for_people(self, people: int) -> None:
        """Take offsets of so many people, all 0."""
        self.register_buffer("offset_SK", torch.zeros(people, len(self.config["dims"]), device=self.regret_K.device))

    @property
    def gates_SK(self) -> Tensor:
        """The gate of each person, rows of sum 1."""
        return (-self.ETA * (self.regret_K + self.offset_SK)).softmax(1)

    def targets(self, features: Mapping[str, Tensor], person_N: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """[(g_k of each item's person (N,), z_k (N, D))]; of nobody in particular, the shared gate."""
        if person_N is None or len(self.offset_SK) == 1:
            return super().targets(features)
        return list(zip(self.gates_SK[person_N].T, self.embedded(features), strict=True))

    def weigh(self, losses_SK: Tensor) -> None:
        """Update the gates with each z_k's contrastive loss on each person's validation trials.

        A person who has none to contrast, whose losses are NaN, keeps the offset.
        """
        losses_SK = losses_SK.detach()
        known_S = losses_SK.isfinite().all(1)
        if not known_S.any():
            return
        mean_K = losses_SK[known_S].mean(0)
        self.regret_K += mean_K
        self.offset_SK += torch.where(known_S[:, None], losses_SK - mean_K, 0.0)

    def of_person(self, person: int | None) -> None:
        """Keep the gate of this person alone (None: the shared gate), which is then everybody's."""
        if person is not None:
            self.regret_K += self.offset_SK[person]
        self.for_people(1)
