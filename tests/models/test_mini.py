"""The mini architectures, untrained and shipped."""

from __future__ import annotations

import torch

from hvf.models.mini import CONTEXT_LENGTH, learn_tokenizer, read_prompts, small_sdxl, small_vae
from hvf.prior.loading import load_pipeline


def test_prompts_are_read_as_the_pipeline_reads_them():
    pipeline = load_pipeline("mini")
    texts = ["a dotted blue drum in the snow", ""]
    ids = pipeline.tokenizer(texts, padding="max_length", max_length=CONTEXT_LENGTH, return_tensors="pt").input_ids
    with torch.no_grad():
        ours, pooled = read_prompts(pipeline, ids)
        theirs, _, theirs_pooled, _ = pipeline.encode_prompt(texts, device="cpu", do_classifier_free_guidance=False)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(pooled, theirs_pooled)


def test_what_ships_has_these_architectures():
    shipped = load_pipeline("mini")
    tokenizer = learn_tokenizer(["a blue drum", "a dotted drum in the snow"])
    assert tokenizer.tokenize("a blue drum") == ["a</w>", "blue</w>", "drum</w>"]
    new = small_sdxl(small_vae(), shipped.tokenizer)
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        ours, theirs = (getattr(pipeline, name).state_dict() for pipeline in (new, shipped))
        assert {key: x.shape for key, x in ours.items()} == {key: x.shape for key, x in theirs.items()}
