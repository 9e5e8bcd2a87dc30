"""The mini models, untrained: the real architectures at a size that a laptop runs.

`prior_training/train_mini.py` trains them: a small SDXL (VAE to an eighth, UNet with text-and-time conditioning, two
text encoders) and two small CLIPs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SIZE = 64  # pixels
CONTEXT_LENGTH = 16  # tokens; the longest caption has 10
TEXT_WIDTH = 64  # of each of the two text encoders
# Half of the ViT's patches are hidden while it learns, which halves a step's cost (FLIP, arXiv 2212.00794).
VIT = {"image_size": SIZE, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8, "patch_dropout": 0.5}
TOWERS: dict[str, dict[str, Any]] = {
    "clip-resnet": {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 24, "head_width": 32},
    "clip-vit": VIT,
}


def small_vae() -> AutoencoderKL:
    """An untrained AutoencoderKL of 2.7 million parameters, from 64 x 64 pixels to 8 x 8 x 4 latents."""
    sizes: Any = {  # which diffusers annotates as tuples of one
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (16, 32, 64, 128),
    }
    return AutoencoderKL(
        **sizes, layers_per_block=1, latent_channels=4, norm_num_groups=8, sample_size=SIZE, force_upcast=False
    )


def small_sdxl(vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionXLPipeline:
    """An untrained StableDiffusionXLPipeline of 7 million parameters around ``vae``."""
    torch.manual_seed(0)
    ends: Any = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)  # one number each
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=ends[0],
        eos_token_id=ends[1],
        pad_token_id=ends[2],
    )
    unet = UNet2DConditionModel(
        sample_size=SIZE // 8,
        block_out_channels=(64, 128),
        layers_per_block=2,
        attention_head_dim=8,  # heads: each mixes the few image tokens in its own way at every place
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        transformer_layers_per_block=1,
        cross_attention_dim=2 * TEXT_WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=TEXT_WIDTH + 6 * 8,
    )
    scheduler: Any = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=scheduler,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


def read_prompts(pipeline: StableDiffusionXLPipeline, tokens_NL: Tensor) -> tuple[Tensor, Tensor]:
    """What the pipeline's ``encode_prompt`` makes of tokens (N, L): embeddings (N, L, 2 x TEXT_WIDTH), pooled (N, P).

    Without its way through Python's strings, so that a training step can be captured as a CUDA graph.
    """
    first, second = (
        encoder(tokens_NL, output_hidden_states=True) for encoder in (pipeline.text_encoder, pipeline.text_encoder_2)
    )
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds


def small_clip(name: str, vocabulary: int) -> tuple[open_clip.CLIP, dict]:
    """An untrained open_clip model whose image tower is ``TOWERS[name]``, and its configuration."""
    text = {"context_length": CONTEXT_LENGTH, "vocab_size": vocabulary, "width": 96, "heads": 3, "layers": 2}
    config = {"embed_dim": 128, "vision_cfg": TOWERS[name], "text_cfg": text}
    torch.manual_seed(0)
    return open_clip.CLIP(**config, output_dict=True), config


def learn_tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """CLIP's byte-pair encoding with merges learnt from the captions: a word they hold is one token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    learner.train_from_iterator(
        sorted(set(captions)), trainers.BpeTrainer(end_of_word_suffix="</w>", show_progress=False)
    )
    merges: Any = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    pieces = dict.fromkeys(letters + [f"{letter}</w>" for letter in letters] + ["".join(pair) for pair in merges])
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT_LENGTH)
