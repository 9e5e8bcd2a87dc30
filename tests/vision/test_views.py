"""Coarsened and noisy views, their mean, gLocal's transform and DreamSim's folder: exact values, one-line refusals."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from hvf.config import HvfError
from hvf.vision import parse_spec
from hvf.vision.backbones.dreamsim import DREAMSIM
from hvf.vision.loading import load_encoder
from hvf.vision.specs import versions
from hvf.vision.views import apply_view


def test_a_mosaic_has_squares_and_a_coarse_image_none():
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    mosaic = apply_view(images, "mosaic56")  # squares of 4 pixels
    squares = mosaic.unfold(2, 4, 4).unfold(3, 4, 4).flatten(-2)
    assert (squares == squares[..., :1]).all()
    middle = images.unfold(2, 4, 4).unfold(3, 4, 4)[..., 1:3, 1:3].mean(dim=(-1, -2))  # of each square, not smoothed
    torch.testing.assert_close(squares[..., 0], middle, atol=1e-5, rtol=0)
    coarse = apply_view(images, "coarse22")
    assert coarse.shape == images.shape
    assert coarse.std() < 0.5 * images.std()
    assert len(coarse[0, 0, 0].unique()) > 100


def test_noise_hangs_on_the_image_alone():
    images = torch.full((3, 3, 224, 224), 0.5)
    images[1] = 0.25
    seen = apply_view(images, "noise25")
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0] - 0.5, seen[1] - 0.25)
    assert (seen[0] - 0.5).std().item() == pytest.approx(25 / 255, rel=0.02)
    assert torch.equal(apply_view(images[1:2], "noise25")[0], seen[1])  # alone as in a batch


def test_several_views_are_averaged(packaged, images_N3HW):
    mean = load_encoder("openclip:mini-vit~blur15+noise25+mosaic44")
    parts = [load_encoder(f"openclip:mini-vit~{view}") for view in ("blur15", "noise25", "mosaic44")]
    expected = torch.stack([part(images_N3HW) for part in parts]).mean(0)
    torch.testing.assert_close(mean(images_N3HW), expected)
    assert mean.dim == parts[0].dim
    assert len({mean.weights_hash, *(part.weights_hash for part in parts)}) == 4
    layers = [parse_spec(f"openclip:mini-vit{layer}~blur15+noise25+mosaic44") for layer in ("", "@1:mean")]
    assert [tuple(x.shape) for x in mean.encode_layers(images_N3HW, layers)] == [(3, 12), (3, 24)]
    mixed = [torch.randint(0, 256, (3, side, 40), dtype=torch.uint8) for side in (30, 50)]
    alone = torch.cat([mean(image[None].float() / 255) for image in mixed])
    torch.testing.assert_close(mean.encode_mixed(mixed), alone)


def test_versions_replace_a_specs_own_view():
    assert versions(("openclip:RN50/openai~fovea51", "vae:mini"), ("fovea45", "blur9")) == {
        "openclip:RN50/openai~fovea51": ("openclip:RN50/openai~fovea45", "openclip:RN50/openai~blur9"),
        "vae:mini": ("vae:mini~fovea45", "vae:mini~blur9"),
    }
    for wrong in ("fog3", "blur8", "noise0", "blur9+", "+blur9"):
        with pytest.raises(HvfError, match="unknown view"):
            versions(("vae:mini",), (wrong,))


def test_glocal_is_clip_under_its_transform(packaged, images_N3HW, tmp_path):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(12, 12)).astype(np.float32)
    np.savez(tmp_path / "t.npz", weights=matrix, mean=np.float64(0.3), std=np.float64(0.7))
    plain = load_encoder("openclip:mini-vit")(images_N3HW).numpy().astype(np.float64)
    spec = f"glocal:mini-vit/{tmp_path}/t.npz"
    aligned = load_encoder(spec)
    np.testing.assert_allclose(aligned(images_N3HW), (plain - 0.3) / 0.7 @ matrix, atol=1e-4, rtol=1e-4)
    assert aligned.weights_hash != load_encoder("openclip:mini-vit").weights_hash
    load_encoder(f"{spec}~blur9")
    np.savez(tmp_path / "wide.npz", weights=np.eye(13, dtype=np.float32), mean=0.0, std=1.0)
    np.savez(tmp_path / "other.npz", matrix=matrix)
    for wrong, said in (
        ("glocal:mini-vit", "name the transform's file"),
        (f"{spec}@2:mean", "glocal gives one vector"),
        ("glocal:mini-vit//nowhere.npz", "there is no file /nowhere.npz"),
        (f"glocal:mini-vit/{tmp_path}/wide.npz", "transforms 13 features; mini-vit gives 12"),
        (f"glocal:mini-vit/{tmp_path}/other.npz", "does not hold a gLocal transform"),
    ):
        with pytest.raises(HvfError, match=said) as refusal:
            load_encoder(wrong)
        assert "\n" not in str(refusal.value)


def test_dreamsim_reads_a_local_folder_and_never_fetches(monkeypatch, tmp_path):
    class Model(torch.nn.Module):
        def embed(self, x):
            return x.mean(dim=(2, 3)).squeeze()  # a batch of one loses its first axis, as there

    told = []
    package = ModuleType("dreamsim")
    package.__spec__ = SimpleNamespace(name="dreamsim")  # what find_spec looks at
    package.dreamsim = lambda **options: (told.append(options), (Model(), None))[1]
    monkeypatch.setitem(sys.modules, "dreamsim", package)
    spec = f"dreamsim:synclr_vitb16/{tmp_path}"
    with pytest.raises(HvfError, match=r"synclr_vit_b_16\.pth is missing"):
        load_encoder(spec)
    assert not told
    for name in DREAMSIM["synclr_vitb16"]:
        (tmp_path / name).touch()
    encoder = load_encoder(spec)
    assert told[0]["cache_dir"] == str(tmp_path)
    assert told[0]["dreamsim_type"] == "synclr_vitb16"
    images = torch.rand(2, 3, 224, 224)
    torch.testing.assert_close(encoder(images), images.mean(dim=(2, 3)))
    assert encoder(images[:1]).shape == (1, 3)
    with pytest.raises(HvfError, match="did you mean 'synclr_vitb16'"):
        load_encoder("dreamsim:synclr_vitb14")
