"""Text features of images' captions by the text side of an open_clip model, computed once and kept on disk.

A text encoder is named like an image encoder: ``text:mini-vit``, ``text:ViT-H-14/laion2b_s32b_b79k``.
"""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import numpy as np
import torch

from hvf.config import HvfError
from hvf.files.tensors import read_tensors, write_tensors
from hvf.runs import cache_dir, track
from hvf.vision.backbones.openclip import clip_model, clip_tokenizer
from hvf.vision.encoder import weights_hash
from hvf.vision.specs import parse_text

BATCH = 64
PHRASE = "This picture is {}"  # stands for the caption of an image that has none, as in ATM


class Captioned(Protocol):
    """An image set with concepts, and perhaps captions."""

    ids: tuple[str, ...]
    concepts: tuple[str, ...]
    captions: tuple[str, ...] | None


def captions_of(images: Captioned) -> list[str]:
    """Each image's caption, or else a phrase with its concept. Raises HvfError where a concept is but a file's name."""
    if images.captions is not None:
        return list(images.captions)
    if set(images.ids) <= set(images.concepts):
        raise HvfError(
            f"targets.text needs captions, and the images have neither these nor concepts ({images.ids[0]} is the name "
            "of one): put the images of a concept in a folder of its name, or set no targets.text and align.text_weight"
        )
    return [PHRASE.format(concept.replace("_", " ")) for concept in images.concepts]


def embed_captions(images: Captioned, text: str, device: str | torch.device = "cpu") -> np.ndarray:
    """Text features (N, D) float32, not normalised, of the images' captions (`captions_of`).

    Raises HvfError for a text encoder that does not exist or has no text side, and for images without captions.
    """
    lines, rows = np.unique(np.array(captions_of(images), dtype=str), return_inverse=True)
    spec = parse_text(text)
    model: Any = clip_model(spec)
    if not hasattr(model, "encode_text"):
        raise HvfError(f"{text}: {spec.name} has no text side")
    state = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("visual.")}
    key = hashlib.sha256("\n".join([weights_hash(state, text), *lines.tolist()]).encode()).hexdigest()[:32]
    path = cache_dir() / "features" / f"text-{key}.safetensors"
    try:
        return read_tensors(path)[0]["features"][rows]
    except (OSError, HvfError, KeyError, IndexError):  # absent, or damaged: made anew
        pass
    tokens = clip_tokenizer(spec)
    del model.visual
    model = model.to(device, torch.float32)
    parts = []
    with torch.no_grad():
        for start in track(range(0, len(lines), BATCH), f"features {text}"):
            ids = tokens(lines[start : start + BATCH].tolist()).to(device)
            parts.append(model.encode_text(ids).float().cpu().numpy())
    features_ND = np.concatenate(parts)
    write_tensors(path, {"features": features_ND}, {})
    return features_ND[rows]
