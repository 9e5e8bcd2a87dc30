"""Cached features: equal to computed ones, made again when anything they depend on or their own bytes change."""

from __future__ import annotations

import hashlib
import logging
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet
from hvf.vision import cache as caching
from hvf.vision.cache import embed, embed_all, weights_hashes
from hvf.vision.loading import load_encoder


class Pictures:
    """A list of PIL images with ids and a digest: the little that ``embed`` asks of an image set."""

    def __init__(self, count=5, seed=0, sizes=((64, 64),)):
        rng = np.random.default_rng(seed)
        sizes = [sizes[i % len(sizes)] for i in range(count)]
        self.pictures = [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
        self.ids = tuple(f"image{i}" for i in range(count))

    @property
    def digest(self):
        return hashlib.sha256(b"".join(picture.tobytes() for picture in self.pictures)).hexdigest()

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return self.pictures[index]


@pytest.fixture
def computed(monkeypatch):
    """Counts how often features are really computed."""
    calls, compute = [], caching._compute
    monkeypatch.setattr(caching, "_compute", lambda *args: calls.append(1) or compute(*args))
    return calls


def only(folder):
    (entry,) = folder.iterdir()
    return entry


def test_features_are_the_encoders_and_are_kept(packaged, tmp_path, computed):
    images = Pictures(70)  # more than two batches
    first = embed(images, "vae:mini", cache=tmp_path / "c")
    pixels = torch.stack([torch.from_numpy(np.array(p)) for p in images.pictures]).permute(0, 3, 1, 2) / 255
    np.testing.assert_allclose(first, load_encoder("vae:mini")(pixels).numpy(), rtol=1e-4, atol=1e-5)
    assert first.dtype == np.float32
    assert first.shape == (70, 256)
    assert np.array_equal(first, embed(images, "vae:mini:flat", cache=tmp_path / "c"))
    assert len(computed) == 1
    only(tmp_path / "c")


def test_images_of_different_sizes_keep_their_rows(packaged, tmp_path):
    images = Pictures(5, sizes=((64, 64), (80, 96)))
    together = embed(images, "openclip:mini-vit", cache=tmp_path)
    for row, picture in zip(together, images.pictures, strict=True):
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
        np.testing.assert_allclose(row, load_encoder("openclip:mini-vit")(x)[0].numpy(), rtol=1e-4, atol=1e-5)


def test_other_images_specs_and_weights_are_other_entries(packaged, models, tmp_path, computed, monkeypatch):
    for images, spec in ((Pictures(), "vae:mini"), (Pictures(seed=1), "vae:mini"), (Pictures(), "vae:mini:grid2")):
        embed(images, spec, cache=tmp_path)
    assert len(computed) == len(list(tmp_path.iterdir())) == 3
    with torch.no_grad():
        packaged["vae"].encoder.conv_in.bias.add_(1)
    packaged["vae"].save_pretrained(tmp_path.parent / "changed" / "sdxl" / "vae")
    with torch.no_grad():
        packaged["vae"].encoder.conv_in.bias.sub_(1)
    monkeypatch.setattr("hvf.vision.weights.MINI_WEIGHTS", tmp_path.parent / "changed")
    embed(Pictures(), "vae:mini", cache=tmp_path)
    assert len(computed) == 4


def flip_a_bit(data):
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


@pytest.mark.parametrize("damage", [lambda b: b[:-7], lambda b: b[:20], lambda b: b"", flip_a_bit, lambda b: b"x" * 99])
def test_a_damaged_entry_is_made_again(damage, packaged, tmp_path, computed, caplog):
    images = Pictures()
    first = embed(images, "vae:mini", cache=tmp_path)
    entry = only(tmp_path)
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(first, embed(images, "vae:mini", cache=tmp_path))
    assert str(entry) in caplog.text
    assert len(computed) == 2
    assert only(tmp_path).read_bytes() == whole


def test_an_entry_of_other_images_under_this_name_is_made_again(packaged, tmp_path, computed):
    embed(Pictures(), "vae:mini", cache=tmp_path / "a")
    embed(Pictures(seed=1), "vae:mini", cache=tmp_path / "b")
    only(tmp_path / "a").write_bytes(only(tmp_path / "b").read_bytes())
    embed(Pictures(), "vae:mini", cache=tmp_path / "a")
    assert len(computed) == 3


def test_many_writers_leave_one_whole_entry(packaged, tmp_path):
    results = []
    work = lambda: results.append(embed(Pictures(), "vae:mini", cache=tmp_path))  # noqa: E731
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(np.array_equal(results[0], other) for other in results)
    only(tmp_path)


def test_an_image_that_cannot_be_decoded_is_named_and_nothing_is_kept(packaged, tmp_path):
    class Truncated(Pictures):
        def __getitem__(self, index):
            if index == 3:
                raise OSError("image file is truncated")
            return super().__getitem__(index)

    with pytest.raises(HvfError, match="'image3' cannot be decoded: image file is truncated"):
        embed(Truncated(), "vae:mini", cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_grey_image_is_named(packaged, tmp_path):
    images = Pictures()
    images.pictures[2] = images.pictures[2].convert("L")
    with pytest.raises(HvfError, match="'image2' is not RGB"):
        embed(images, "vae:mini", cache=tmp_path)


def test_the_users_cache_folder_is_the_default(packaged, tmp_path, monkeypatch):
    monkeypatch.setenv("HVF_CACHE", str(tmp_path / "mine"))
    embed(Pictures(), "vae:mini")
    only(tmp_path / "mine" / "features")


def test_a_cache_that_cannot_be_written_costs_a_warning(packaged, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert embed(Pictures(), "vae:mini", cache=tmp_path / "file" / "cache").shape == (5, 256)
    assert "not cached" in caplog.text


def test_a_part_of_a_set_takes_its_rows_from_the_whole(packaged, tmp_path, computed):
    x_NHWC = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    images = ImageSet.from_arrays(x_NHWC, "abcdef", "abcdef")
    whole = embed(images, "vae:mini", cache=tmp_path)
    np.testing.assert_array_equal(embed(images.select([4, 1]), "vae:mini", cache=tmp_path), whole[[4, 1]])
    renamed = ImageSet.from_arrays(x_NHWC[::-1].copy(), "uvwxyz", "uvwxyz")
    np.testing.assert_array_equal(embed(renamed, "vae:mini", cache=tmp_path), whole[::-1])
    assert len(computed) == len(list(tmp_path.iterdir())) == 1
    x_NHWC[0] += 1
    embed(ImageSet.from_arrays(x_NHWC, "abcdef", "abcdef"), "vae:mini", cache=tmp_path)
    embed(images.select([0]), "vae:mini:grid2", cache=tmp_path)
    assert len(computed) == 3


@pytest.mark.parametrize("spec", ["vae:mini", "vae:mini:flat", "openclip:mini-vit@1:mean"])
def test_features_of_other_weights_are_refused_however_the_spec_is_spelt(spec, packaged, tmp_path):
    images = Pictures(2)
    own = weights_hashes([spec])
    assert list(embed_all(images, [spec], cache=tmp_path, weights=own)) == [spec]
    with pytest.raises(HvfError, match="has other weights than the one that the decoder was trained with"):
        embed_all(images, [spec], cache=tmp_path, weights={spec: "0" * 16})
    with pytest.raises(HvfError, match="has other weights"):  # where another layer of the network stands first
        embed_all(images, ["openclip:mini-vit@0", spec, "vae:mini@32"], cache=tmp_path, weights={spec: "0" * 16})
