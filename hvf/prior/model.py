"""The Fusion Prior: fused features condition a frozen SDXL UNet as image tokens.

z_f = HVF(features);  z_c = z_f + φ_c(z_f);  tokens = ImageProjection(z_c);  image attention in every cross-attention.
Shape suffixes: N items, D embedding, K encoders. Source: arXiv 2602.07495 (HVF), section 3, and IP-Adapter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from hvf.config import HvfError
from hvf.data import html
from hvf.files.checksums import known_sha256, sha256_of
from hvf.models.fusions.hvf import HVF
from hvf.models.residual import ResidualMLP
from hvf.prior import adapter
from hvf.prior.card import prior_card
from hvf.prior.embedding_noise import EmbeddingNoise
from hvf.prior.hub_weights import push_folder
from hvf.registry import listed
from hvf.runs import settle, write_json
from hvf.schema.reading import read_as

CHECKSUMS = "checksums.json"  # {file of weights: its sha256}
CARD = "README.md"


def check_weights(folder: Path) -> None:
    """Hold the weights in a folder to the checksums beside them. HvfError if a file is missing or differs."""
    if not (folder / CHECKSUMS).is_file():
        return  # of an earlier version, or somebody else's
    for name, expected in read_as(dict[str, str], folder / CHECKSUMS, "copy the folder again").items():
        path = folder / Path(name).name
        if not path.is_file():
            raise HvfError(f"{folder} is not a whole Fusion Prior: {path.name} is missing; copy it again")
        if known_sha256(path) != expected:
            raise HvfError(f"{path} is damaged: its sha256 is not the one in {CHECKSUMS}; copy the folder again")


class TextConditions(NamedTuple):
    """A prompt as SDXL's UNet takes it, for one image or for each of N; expanded over a batch."""

    prompt_embeds: Tensor  # (1 or N, L, Dc)
    pooled: Tensor  # (1 or N, P)
    time_ids: Tensor  # (1 or N, 6): original height, width, crop top, left, target height, width


class FusionPrior(ModelMixin, ConfigMixin):
    """HVF, projector φ_c, image projection (4 tokens) and the adapter's to_k_ip/to_v_ip: all that is learnt.

    ``save_pretrained``/``from_pretrained`` carry the whole of it; the UNet stays outside. The config names the
    encoders (``specs``, ``dims``), the widths, and the UNet's layers that the adapter belongs to. Make a new one with
    ``FusionPrior.for_unet``.
    """

    card: str = ""  # of the folder it was read from

    def save_pretrained(self, save_directory: str | Path, *args: Any, **more: Any) -> None:
        """Write the weights and the config as diffusers does, and a checksum of every file of weights beside them."""
        folder = Path(save_directory)
        (folder / CHECKSUMS).unlink(missing_ok=True)  # they would be of other weights
        super().save_pretrained(folder, *args, **more)
        files = sorted(folder.glob("*.safetensors"))
        for file in files:
            settle(file)
        write_json(folder / CHECKSUMS, {file.name: sha256_of(file) for file in files})

    @classmethod
    def from_pretrained(cls, name: str | Path, **more: Any) -> Any:
        """Read a prior as diffusers does; of a folder, held to its checksums where it has any.

        Raises HvfError if a file of weights differs from its checksum, or a tensor is missing.
        """
        check_weights(Path(name))
        asked = more.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(name, output_loading_info=True, **more)
        prior, info = loaded
        if missing := [*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])]:
            raise HvfError(f"the Fusion Prior in {name} lacks {listed(missing)}: copy it again")
        card = Path(name) / CARD
        prior.card = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        return (prior, info) if asked else prior

    def push_to_hub(
        self,
        repo_id: str,
        card: str | None = None,
        *,
        private: bool = False,
        token: str | None = None,
        **more: Any,
    ) -> str:
        """Upload the prior with its model card to the Hub, and return the commit's address.

        Parameters
        ----------
        repo_id : str
            owner/name; made if it is not there.
        card : str, optional
            The card, in Markdown. Default: that of the folder it was read from, else one of its settings.
        private : bool
            Whether a new repository is.
        token : str, optional
            Of the Hub. Default: the one that `hf auth login` keeps.
        **more
            As of `save_pretrained`.

        Raises
        ------
        HvfError
            The Hub refuses or cannot be reached.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, **more)
            parameters = sum(p.numel() for p in self.parameters())
            plain = prior_card(self.dims, self.config["width"], len(self.config["adapter_names"]), parameters)
            Path(folder, CARD).write_text(card or self.card or plain, encoding="utf-8")
            return push_folder(folder, repo_id, "Fusion Prior", private=private, token=token)

    @register_to_config
    def __init__(
        self,
        specs: Sequence[str],
        dims: Sequence[int],
        adapter_names: Sequence[str],
        adapter_widths: Sequence[int],
        width: int = 1024,
        intermediate: int = 4096,
        projector_intermediate: int = 4096,
        dropout: float = 0.1,
        cross_attention_dim: int = 2048,
    ) -> None:
        super().__init__()
        self.hvf = HVF(dims, width, intermediate, dropout, specs=specs)
        self.projector = ResidualMLP(width, projector_intermediate, dropout)
        self.image_projection = ImageProjection(width, cross_attention_dim, adapter.TOKENS)
        self.adapter = nn.ModuleList(
            IPAdapterAttnProcessor2_0(adapter_width, cross_attention_dim, num_tokens=(adapter.TOKENS,))
            for adapter_width in adapter_widths
        )

    @classmethod
    def for_unet(
        cls,
        unet: UNet2DConditionModel,
        dims: Mapping[str, int],
        width: int = 1024,
        intermediate: int = 4096,
        projector_intermediate: int = 4096,
        dropout: float = 0.1,
    ) -> FusionPrior:
        """A new prior for a UNet.

        The adapter starts from each layer's own to_k and to_v (float32 copies), the rest from torch's global generator.

        Parameters
        ----------
        unet : UNet2DConditionModel
            The UNet whose cross-attentions it is to condition.
        dims : mapping of str to int
            Width of each encoder by its FeatureSpec, in order.
        width : int
            D.
        intermediate, projector_intermediate : int
            Hidden widths of HVF's block and of the projector φ_c.
        dropout : float
            Of both.
        """
        layers = adapter.adapter_layers(unet)
        prior = cls(
            specs=list(dims),
            dims=[int(dim) for dim in dims.values()],
            adapter_names=[layer.name for layer in layers],
            adapter_widths=[layer.width for layer in layers],
            width=width,
            intermediate=intermediate,
            projector_intermediate=projector_intermediate,
            dropout=dropout,
            cross_attention_dim=unet.config["cross_attention_dim"],
        )
        with torch.no_grad():
            processor: Any
            for layer, processor in zip(layers, prior.adapter, strict=True):
                attention: Any = unet.get_submodule(layer.name.removesuffix(".processor"))
                processor.to_k_ip[0].weight.copy_(attention.to_k.weight)
                processor.to_v_ip[0].weight.copy_(attention.to_v.weight)
        return prior

    @property
    def specs(self) -> tuple[str, ...]:
        """The encoders' FeatureSpecs, in order."""
        return self.hvf.specs

    @property
    def dims(self) -> dict[str, int]:
        """FeatureSpec -> width d_k."""
        return self.hvf.dims

    @property
    def fusion_hash(self) -> str:
        """A hash of all weights of the fusion, which brain encoders are trained towards."""
        arrays = (np.ascontiguousarray(tensor.cpu().float().numpy()) for tensor in self.hvf.state_dict().values())
        hashes = [hashlib.sha256(array.tobytes()).hexdigest()[:16] for array in arrays]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]

    def encode(self, features: Mapping[str, Tensor]) -> Tensor:
        """{spec: (N, d_k)} -> z_f (N, D), the space that brain embeddings are aligned to."""
        return self.hvf(features)

    def project(self, z_ND: Tensor) -> Tensor:
        """z_f or z_b (N, D) -> z_c (N, D) = z + φ_c(z). Training and sampling both take this step."""
        return self.projector(z_ND)

    def attach(self, unet: UNet2DConditionModel) -> None:
        """Put this prior's adapter into ``unet``, sharing parameters; see ``adapter.attach``."""
        adapter.attach(unet, self)

    def noise_prediction(
        self, unet: UNet2DConditionModel, x_t_NCHW: Tensor, t_N: Tensor, text: TextConditions, z_c_ND: Tensor
    ) -> Tensor:
        """δ(x_t, t, z_c), the UNet's prediction for noisy latents, (N, C, H, W). This prior is attached to the UNet.

        Parameters
        ----------
        unet : UNet2DConditionModel
            The frozen UNet.
        x_t_NCHW, t_N : Tensor
            Noisy latents and their timesteps.
        text : TextConditions
            The prompt.
        z_c_ND : Tensor
            Projected embeddings.
        """
        n = len(x_t_NCHW)
        added: dict[str, Any] = {"text_embeds": text.pooled.expand(n, -1), "time_ids": text.time_ids.expand(n, -1)}
        added["image_embeds"] = [z_c_ND[:, None]]
        return unet(x_t_NCHW, t_N, text.prompt_embeds.expand(n, -1, -1), added_cond_kwargs=added).sample

    def forward(
        self,
        unet: UNet2DConditionModel,
        x_t_NCHW: Tensor,
        t_N: Tensor,
        text: TextConditions,
        features: Mapping[str, Tensor],
        dropped_N: Tensor | None = None,
        noise: tuple[EmbeddingNoise, Tensor, Tensor] | None = None,
    ) -> Tensor:
        """One training forward: features to noise prediction (N, C, H, W).

        A UNet in half precision is run in it, and this prior, whose weights stay float32, by autocast.

        Parameters
        ----------
        unet, x_t_NCHW, t_N, text
            As for `noise_prediction`.
        features : mapping
            {spec: (N, d_k)}.
        dropped_N : Tensor, optional
            Where z_c is zeroed, for classifier-free guidance.
        noise : tuple, optional
            Embedding noise, white noise (N, D) and its levels (N, 2): z_f is corrupted as a brain's estimate is.
        """
        precision = unet.dtype
        with torch.autocast(x_t_NCHW.device.type, dtype=precision, enabled=precision != torch.float32):
            z_f_ND = self.encode(features)
            if noise is not None:
                corrupt, noise_ND, level_N2 = noise
                z_f_ND = corrupt(z_f_ND, noise_ND, level_N2)
            z_c_ND = self.project(z_f_ND)
            if dropped_N is not None:
                z_c_ND = z_c_ND.masked_fill(dropped_N[:, None], 0.0)
            return self.noise_prediction(unet, x_t_NCHW.to(precision), t_N, text, z_c_ND)

    def with_weights(self, state: Mapping[str, Tensor]) -> FusionPrior:
        """A prior like this one that holds these tensors; no random number is drawn."""
        with torch.device("meta"):
            copy = cast(FusionPrior, FusionPrior.from_config(self.config))  # typed as if it returned more
        copy.load_state_dict(state, assign=True)
        return copy

    def start_from(self, other: FusionPrior) -> None:
        """Copy the weights of another prior. Raises HvfError unless encoders, widths and UNet layers agree."""
        for name in ("specs", "dims", "width", "cross_attention_dim", "adapter_names", "adapter_widths"):
            ours, theirs = (json.dumps(one.config[name]) for one in (self, other))  # which knows no tuples
            if ours != theirs:
                raise HvfError(f"the prior to begin with has {name} {theirs}, not {ours}")
        try:
            self.load_state_dict(other.state_dict())
        except RuntimeError as error:
            raise HvfError(f"the prior to begin with does not fit: {' '.join(str(error).split())[:200]}") from error

    def _repr_html_(self) -> str:
        known = {
            "encoders": ", ".join(f"{spec} ({dim})" for spec, dim in self.dims.items()),
            "width of z_f and z_c": self.config["width"],
            "image tokens": f"{adapter.TOKENS} of {self.config['cross_attention_dim']}",
            "cross-attentions of the UNet": len(self.adapter),
            "parameters": f"{sum(tensor.numel() for tensor in self.parameters()):,}",
        }
        return html.facts("FusionPrior", known)

    def export_ip_adapter(self, path: str | Path) -> Path:
        """Write the adapter for stock ``pipe.load_ip_adapter``, which is to be given z_c. See ``adapter``."""
        return adapter.export_ip_adapter(self, path)
