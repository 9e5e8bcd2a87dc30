"""Embeddings from files: what is read, and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.numpy import save_file

from hvf.config import HvfError
from hvf.evaluation.embeddings import load_embeddings


@pytest.mark.parametrize("suffix", [".npy", ".pt", ".safetensors"])
def test_embedding_files(tmp_path, suffix):
    z_ND = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    path = tmp_path / f"z{suffix}"
    if suffix == ".npy":
        np.save(path, z_ND)
    elif suffix == ".pt":
        torch.save(torch.from_numpy(z_ND), path)
    else:
        save_file({"z": z_ND}, path)
    np.testing.assert_array_equal(load_embeddings(path), z_ND)


def test_a_file_of_several_embeddings_needs_a_key(tmp_path):
    path = tmp_path / "features.pt"
    torch.save({"text": torch.zeros(3, 2), "image": torch.ones(3, 2)}, path)
    with pytest.raises(HvfError, match="holds text, image: say which, as features.pt#KEY"):
        load_embeddings(path)
    with pytest.raises(HvfError, match="holds text, image, not imge"):
        load_embeddings(path, "imge")
    assert load_embeddings(f"{path}#image").tolist() == np.ones((3, 2)).tolist()


class Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('the file was executed')",)


def test_embedding_files_are_never_executed(tmp_path):
    for suffix in (".pt", ".npy"):
        path = tmp_path / f"bad{suffix}"
        path.write_bytes(pickle.dumps(Malicious()))
        with pytest.raises(HvfError, match="cannot be read as plain numbers"):
            load_embeddings(path)
    torch.save(Malicious(), tmp_path / "zipped.pt")
    with pytest.raises(HvfError, match="cannot be read as plain numbers"):
        load_embeddings(tmp_path / "zipped.pt")


@pytest.mark.parametrize("name", ["absent.pt", "z.csv", "empty.npy", "damaged.safetensors"])
def test_files_that_are_no_embeddings(tmp_path, name):
    if name != "absent.pt":
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(HvfError, match=name):
        load_embeddings(tmp_path / name)


def test_bfloat16_and_axes_of_one(tmp_path):
    z_ND = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    safetensors.torch.save_file({"x": z_ND}, tmp_path / "z.safetensors")
    torch.save(z_ND[:, None], tmp_path / "z.PT")
    torch.save(z_ND[:, :, None, None], tmp_path / "maps.pt")
    for name in ("z.safetensors", "z.PT", "maps.pt"):
        np.testing.assert_array_equal(load_embeddings(tmp_path / name), z_ND.float().numpy())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
def test_arrays_of_numpy_inside_a_file_of_torch(tmp_path, dtype):
    z_ND = np.arange(12).reshape(3, 4).astype(dtype)
    torch.save({"features": z_ND}, tmp_path / "z.pt")
    np.testing.assert_array_equal(load_embeddings(tmp_path / "z.pt"), z_ND)
