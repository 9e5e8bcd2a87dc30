"""Fusion: several frozen encoders' features of one image become one embedding z_f. HVF, and simpler ways beside it.

Shape suffixes: N items, D embedding, d_k width of encoder k, K encoders.
Source: arXiv 2602.07495 (HVF), section 3; official code for biases and the normalisation's epsilon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from hvf.config import HvfError


class ResidualMLP(nn.Module):
    """x + φ(x), φ = Linear → GELU → Dropout → Linear, both without bias: the block that HVF, MBP and projector share.

    (N, D) -> (N, D); the GELU is the exact one.
    """

    def __init__(self, width: int, intermediate: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.up = nn.Linear(width, intermediate, bias=False)
        self.down = nn.Linear(intermediate, width, bias=False)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_ND: Tensor) -> Tensor:
        return x_ND + self.down(self.dropout(self.activation(self.up(x_ND))))


class Fusion(ModelMixin, ConfigMixin):
    """{spec: (N, d_k)} -> z_f (N, D): what all kinds share.

    ``dims`` maps each encoder's FeatureSpec to its width d_k; their order is kept. ``width`` is D. A model read back
    from its config gets the same as two lists, ``specs`` and ``dims``, because diffusers sorts the keys of a stored
    mapping. ``intermediate`` and ``dropout`` are for the kinds that have a residual block.
    """

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
                raise HvfError("HVF needs a mapping of encoder name to width, or the names in `specs`.")
            specs, dims = list(dims), list(dims.values())
        widths = [int(dim) for dim in dims]
        if not specs or len(specs) != len(widths):
            raise HvfError(f"HVF was given {len(specs)} encoder names and {len(widths)} widths; it needs one each.")
        self.register_to_config(specs=list(specs), dims=widths, width=width, intermediate=intermediate, dropout=dropout)
        self.build()

    def build(self) -> None:
        """Make what is learnt, from the configuration."""

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

    def targets(self, features: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """[(weight, z (N, D))], what a brain's embedding is contrasted with: z_f alone, unless a kind says more."""
        return [(torch.ones(()), self(features))]

    def parts(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Each encoder's features (N, d_k), in order; features of other encoders are ignored.

        A feature map (N, C, H, W) is flattened in that order. Raises HvfError naming the encoder that is missing or
        whose features have another width.
        """
        parts = []
        for spec, dim in self.dims.items():
            if spec not in features:
                raise HvfError(f"No features of encoder {spec}: compute them with `hvf embed --targets {spec}`.")
            x_Nd = features[spec].flatten(1)
            if x_Nd.shape[1] != dim:
                raise HvfError(f"Features of encoder {spec} have width {x_Nd.shape[1]}; this HVF was made for {dim}.")
            parts.append(x_Nd)
        return parts


class Linear(Fusion):
    """z_f = Σ_k z_v^(k) W^(k) + b^(k): one linear map of all features together; for one encoder, Shallow Alignment's.

    Source: arXiv 2601.21948, equation 2.
    """

    def build(self) -> None:
        self.projections = nn.ModuleList(nn.Linear(dim, self.width) for dim in self.config["dims"])

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """{spec: (N, d_k)} -> z_f (N, D), not L2-normalised."""
        pairs = zip(self.projections, self.parts(features), strict=True)
        return sum((projection(x_Nd) for projection, x_Nd in pairs), start=torch.zeros(()))


class HVF(Linear):
    """z̄_v = Σ_k z_v^(k) W^(k) + b^(k);  z_f = LayerNorm(z̄_v + φ_v(z̄_v)).

    ``intermediate`` is the hidden width of φ_v (paper: 1024 for retrieval, 4096 in the published prior).
    """

    def build(self) -> None:
        super().build()
        self.block = ResidualMLP(self.width, self.config["intermediate"], self.config["dropout"])
        self.norm = nn.LayerNorm(self.width, eps=1e-6)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """{spec: (N, d_k)} -> z_f (N, D), not L2-normalised."""
        return self.norm(self.block(super().forward(features)))


class Gated(Linear):
    """z_f = Σ_k g_k z_k, z_k = LayerNorm(z_v^(k) W^(k) + b^(k)): a gate finds which layer counts.

    The brain is contrasted with each z_k by itself, weighed by g_k (`targets`), so that the z_k do not complete each
    other. After each epoch the gate hears the loss of each on validation images (`weigh`): g ∝ exp(-η Σ loss), the
    Hedge algorithm (Freund and Schapire, 1997). Learnt from the training loss, of the sum, it ended at the last layer:
    the easiest to fit, and not the best to find images by (docs/LOG.md).
    """

    ETA = 0.5
    regret_K: Tensor  # a buffer

    def build(self) -> None:
        super().build()
        self.register_buffer("regret_K", torch.zeros(len(self.config["dims"])))

    @property
    def gate(self) -> Tensor:
        """g (K,), positive, of sum 1, in the order of ``specs``."""
        return (-self.ETA * self.regret_K).softmax(0)

    def targets(self, features: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """[(g_k, z_k (N, D))]."""
        pairs = zip(self.projections, self.parts(features), strict=True)
        normed = [functional.layer_norm(projection(x_Nd), (self.width,)) for projection, x_Nd in pairs]
        return list(zip(self.gate, normed, strict=True))

    def weigh(self, losses_K: Tensor) -> None:
        """Hear what each z_k's contrastive loss on validation images is."""
        self.regret_K += losses_K.detach()

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """{spec: (N, d_k)} -> z_f (N, D), not L2-normalised."""
        return sum((weight * z_ND for weight, z_ND in self.targets(features)), start=torch.zeros(()))


class Concatenated(Fusion):
    """z_f = [z_v^(1)/‖z_v^(1)‖, ..., z_v^(K)/‖z_v^(K)‖]: nothing is learnt, each encoder has one vote; D = Σ_k d_k.

    For one encoder this is the plain target of NICE, ATM and UBP; of ridge, too. ``width`` is not read.
    """

    def build(self) -> None:
        self.register_to_config(width=sum(self.config["dims"]))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """{spec: (N, d_k)} -> z_f (N, Σ_k d_k), of length √K."""
        return torch.cat([functional.normalize(x_Nd, dim=1) for x_Nd in self.parts(features)], dim=1)


FUSIONS: dict[str, type[Fusion]] = {"hvf": HVF, "linear": Linear, "concatenated": Concatenated, "gated": Gated}
