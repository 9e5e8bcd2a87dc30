"""The interface of a fusion: {encoder: features (N, d_k)} -> z_f (N, D).

Shape suffixes: N items, D embedding, d_k width of encoder k, K encoders, S people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from hvf.config import HvfError


class Fusion(ModelMixin, ConfigMixin):
    """Base of all fusions: `build` makes what is learnt, `forward` computes z_f (N, D) from {spec: (N, d_k)}.

    Parameters
    ----------
    dims : mapping of str to int, or sequence of int
        Width d_k of each encoder by its FeatureSpec; the order is kept. A model read back from its config gets two
        lists, `specs` and `dims`, because diffusers sorts the keys of a stored mapping.
    width : int
        D.
    intermediate : int
        Hidden width of the residual block, where there is one.
    dropout : float
        Dropout of the residual block.
    specs : sequence of str, optional
        The encoders' FeatureSpecs, if `dims` is a sequence.
    """

    weighs_targets: ClassVar[bool] = False  # whether `weigh` follows the validation losses of `targets`
    weighs_people: ClassVar[bool] = False  # whether it does so for each person who is trained on

    def __init__(
        self,
        dims: Mapping[str, int] | Sequence[int],
        width: int = 1024,
        intermediate: int = 1024,
        dropout: float = 0.1,
        specs: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if specs is None:
            if not isinstance(dims, Mapping):
                raise HvfError("A fusion needs a mapping of encoder name to width, or the names in `specs`.")
            specs, dims = list(dims), list(dims.values())
        widths = [int(dim) for dim in dims]
        if not specs or len(specs) != len(widths):
            raise HvfError(f"{len(specs)} encoder names and {len(widths)} widths were given; a fusion needs one each.")
        self.register_to_config(specs=list(specs), dims=widths, width=width, intermediate=intermediate, dropout=dropout)
        self.build()

    def build(self) -> None:
        """Make the layers, from `self.config`."""

    @property
    def specs(self) -> tuple[str, ...]:
        """The encoders' FeatureSpecs, in the order of their projections."""
        return tuple(self.config["specs"])

    @property
    def dims(self) -> dict[str, int]:
        """FeatureSpec -> width d_k."""
        return dict(zip(self.config["specs"], self.config["dims"], strict=True))

    @property
    def width(self) -> int:
        """D."""
        return self.config["width"]

    @classmethod
    def width_of(cls, dims: Mapping[str, int], width: int) -> int:
        """D of a new fusion of encoders of these widths; by default the setting `fusion.width`."""
        return width

    def weigh(self, losses_SK: Tensor) -> None:
        """After each epoch, if `weighs_targets`: take each target's contrastive loss on validation trials.

        (S, K), of each person apart if `weighs_people`, otherwise of all together in one row.
        """

    def targets(self, features: Mapping[str, Tensor], person_N: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """[(weight, z (N, D))]: the targets of the contrastive loss, and their weights, of each item or of all.

        `person_N` numbers the person whose trial contrasts with each item. By default there is z_f alone.
        """
        return [(torch.ones(()), self(features))]

    def parts(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Each encoder's features (N, d_k), in order; features of other encoders are ignored.

        A feature map (N, C, H, W) is flattened in that order. Raises HvfError naming the encoder that is missing or
        whose features have another width.
        """
        parts: list[Tensor] = []
        for spec, dim in self.dims.items():
            if spec not in features:
                raise HvfError(f"No features of encoder {spec}: compute them with `hvf embed --targets {spec}`.")
            x_Nd = features[spec].flatten(1)
            if x_Nd.shape[1] != dim:
                raise HvfError(
                    f"Features of encoder {spec} have width {x_Nd.shape[1]}; this fusion was made for {dim}."
                )
            parts.append(x_Nd)
        return parts
