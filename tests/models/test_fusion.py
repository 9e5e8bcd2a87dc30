"""HVF: the formula written out again by hand, the order of encoders, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hvf.config import HvfError
from hvf.models.fusions.hvf import HVF

DIMS = {"openclip:ViT-H-14/laion2b_s32b_b79k@11:mean": 6, "openclip:RN50/openai": 3, "vae:mini": 8}


def features(n: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {spec: torch.randn(n, dim, generator=generator) for spec, dim in DIMS.items()}


def test_is_the_papers_formula():
    torch.manual_seed(0)
    hvf = HVF(DIMS, width=10, intermediate=12).eval()
    x = features()
    summed = sum(F.linear(x[spec], p.weight, p.bias) for spec, p in zip(DIMS, hvf.projections, strict=True))
    residual = F.gelu(summed @ hvf.block.up.weight.T) @ hvf.block.down.weight.T
    expected = F.layer_norm(summed + residual, (10,), hvf.norm.weight, hvf.norm.bias, eps=1e-6)
    torch.testing.assert_close(hvf(x), expected)
    assert hvf.block.up.bias is None
    assert hvf.block.down.bias is None


def test_dropout_only_while_training():
    hvf = HVF(DIMS, width=10, intermediate=12, dropout=0.5)
    x = features()
    assert not torch.equal(hvf.train()(x), hvf(x))
    assert torch.equal(hvf.eval()(x), hvf(x))


def test_saved_and_read_back_keeps_the_order_of_encoders(tmp_path):
    hvf = HVF(DIMS, width=10, intermediate=12).eval()
    hvf.save_pretrained(tmp_path)
    again = HVF.from_pretrained(tmp_path)
    assert again.specs == tuple(DIMS)
    assert again.dims == DIMS
    assert torch.equal(again(features()), hvf(features()))


def test_feature_maps_are_flattened_in_their_order():
    hvf = HVF(DIMS, width=10, intermediate=12).eval()
    x = features()
    as_map = {**x, "vae:mini": x["vae:mini"].reshape(5, 2, 2, 2)}
    assert torch.equal(hvf(as_map), hvf(x))


def test_a_missing_or_wrong_encoder_is_named():
    hvf = HVF(DIMS, width=10)
    x = features()
    with pytest.raises(HvfError, match="No features of encoder vae:mini"):
        hvf({spec: x[spec] for spec in list(DIMS)[:2]})
    with pytest.raises(HvfError, match="vae:mini have width 7.*made for 8"):
        hvf({**x, "vae:mini": x["vae:mini"][:, :7]})
    with pytest.raises(HvfError, match="0 encoder names"):
        HVF({})
