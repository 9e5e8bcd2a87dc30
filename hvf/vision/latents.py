"""Latents of a VAE back to pictures, by the decoder that belongs to the encoder which a feature spec names.

Letters: N images, L latents of an image flattened, C channels, H and W pixels, h and w latent pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hvf.config import HvfError
from hvf.files.tensors import digest_of
from hvf.runs import track
from hvf.vision.backbones.vae import load_vae, unscaled
from hvf.vision.specs import parse_spec


class LatentDecoder:
    """The decoder of the VAE that `spec` names, as ``vae:mini`` or ``vae:FOLDER@128``.

    Raises HvfError for a spec of something else, of pooled latents or of a view, or of a VAE without a decoder.
    """

    def __init__(self, spec: str, device: str | torch.device = "cpu") -> None:
        parsed = parse_spec(spec)
        if parsed.kind != "vae" or parsed.pool or parsed.view:
            raise HvfError(f"a picture is decoded from all latents of a VAE, as vae:FOLDER@128, not from {spec}")
        self.spec, self.vae = spec, load_vae(parsed)
        if getattr(self.vae, "decoder", None) is None:
            raise HvfError(f"{spec} has no decoder: put the *_decoder.safetensors beside its encoder")
        self.vae.to(device)

    @property
    def fingerprint(self) -> str:
        """A hash of the weights: other ones make other pictures."""
        return digest_of(self.vae.state_dict(), self.spec)

    @torch.no_grad()
    def decode(self, latents_NL: np.ndarray, batch: int = 16) -> np.ndarray:
        """Pictures uint8 (N, H, W, 3) of latents that were scaled as the spec's features are, and flattened (C, h, w).

        Raises HvfError for another number of latents than a square of pixels has, or for values that are not finite.
        """
        vae: Any = self.vae
        channels, pixels = vae.config.latent_channels, latents_NL.shape[1] / vae.config.latent_channels
        side = round(pixels**0.5)
        if side * side != pixels:
            raise HvfError(f"{latents_NL.shape[1]} latents are no square of {channels} channels, as {self.spec} makes")
        if not np.isfinite(latents_NL).all():
            raise HvfError("latents hold NaN or infinity, of which no picture can be made")
        latents_NChw = latents_NL.reshape(-1, channels, side, side)
        device, pictures = next(vae.parameters()).device, []
        for start in track(range(0, len(latents_NChw), batch), f"decoding {len(latents_NChw)} pictures"):
            x_NChw = torch.from_numpy(latents_NChw[start : start + batch]).to(device, torch.float32)
            pictures.append(pictures_of(vae.decode(unscaled(vae, x_NChw)).sample))
        return np.concatenate(pictures)


def pictures_of(decoded_N3HW: torch.Tensor) -> np.ndarray:
    """Pictures uint8 (N, H, W, 3) of what a VAE's decoder gives, float32 from -1 to 1; HvfError if not finite."""
    check_finite(decoded_N3HW)
    return ((decoded_N3HW / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def check_finite(drawn_N: torch.Tensor) -> None:
    """Raise HvfError if what a model has drawn holds NaN or infinity: as 8 bits it would be black, without a word."""
    if not (bad := ~torch.isfinite(drawn_N).flatten(1).all(dim=1)).any():
        return
    raise HvfError(
        f"{int(bad.sum())} of {len(bad)} pictures came out as NaN or infinity: the weights that draw are damaged, or "
        "overflow in this number type"
    )
