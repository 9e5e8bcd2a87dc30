"""Hierarchical visual fusion: several frozen encoders' features of one image become one embedding z_f.

Shape suffixes: N items, D embedding, d_k width of encoder k, K encoders.
Source: arXiv 2602.07495 (HVF), section 3; official code for biases and the normalisation's epsilon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

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


class HVF(ModelMixin, ConfigMixin):
    """z̄_v = Σ_k z_v^(k) W^(k) + b^(k);  z_f = LayerNorm(z̄_v + φ_v(z̄_v)).

    ``dims`` maps each encoder's FeatureSpec to its width d_k; their order is kept. ``width`` is D, ``intermediate``
    the hidden width of φ_v (paper: 1024 for retrieval, 4096 in the published prior). A model read back from its
    config gets the same as two lists, ``specs`` and ``dims``, because diffusers sorts the keys of a stored mapping.
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
        self.projections = nn.ModuleList(nn.Linear(dim, width) for dim in widths)
        self.block = ResidualMLP(width, intermediate, dropout)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    @property
    def specs(self) -> tuple[str, ...]:
        """The encoders' FeatureSpecs, in the order of their projections."""
        return tuple(self.config["specs"])

    @property
    def dims(self) -> dict[str, int]:
        """FeatureSpec -> width d_k."""
        return dict(zip(self.config["specs"], self.config["dims"], strict=True))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """{spec: (N, d_k)} -> z_f (N, D), not L2-normalised. Features of other encoders are ignored.

        A feature map (N, C, H, W) is flattened in that order. Raises HvfError naming the encoder that is missing or
        whose features have another width.
        """
        z_ND: Tensor | None = None
        for (spec, dim), projection in zip(self.dims.items(), self.projections, strict=True):
            if spec not in features:
                raise HvfError(f"No features of encoder {spec}: compute them with `hvf embed --targets {spec}`.")
            x_Nd = features[spec].flatten(1)
            if x_Nd.shape[1] != dim:
                raise HvfError(f"Features of encoder {spec} have width {x_Nd.shape[1]}; this HVF was made for {dim}.")
            projected_ND = projection(x_Nd)
            z_ND = projected_ND if z_ND is None else z_ND + projected_ND
        return self.norm(self.block(z_ND))
