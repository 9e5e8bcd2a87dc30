"""Data comes through the door whatever wrote it."""

from __future__ import annotations

import collections
import pickle
import tracemalloc

import numpy as np
import pytest
import torch

from hvf.pickles import loading
from tests.pickles.written import assert_same, everything, zero_d


def recording():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 2000)).astype(np.float32)
    return {"raw_eeg_data": x, "ch_names": ["Fp1", "Pz", "stim"], "sfreq": 1000, "highpass": 0.01, "lowpass": None}


@pytest.mark.parametrize("protocol", range(6))
def test_bare_pickles(tmp_path, protocol):
    path = tmp_path / "preprocessed.npy"  # NICE writes them under this name
    path.write_bytes(pickle.dumps(everything(), protocol))
    assert_same(loading.load(path), everything())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_large_payloads_of_each_protocol(tmp_path, protocol):
    path = tmp_path / "raw.pkl"
    path.write_bytes(pickle.dumps(recording(), protocol))
    assert_same(loading.load(path), recording())


def test_npy_files(tmp_path):
    path = tmp_path / "x.npy"
    for x in [np.arange(6).reshape(2, 3), np.asfortranarray(np.ones((3, 4), ">f4")), np.array("s"), np.zeros((0, 5))]:
        np.save(path, x)
        assert_same(loading.load(path), x)
        assert loading.load(path).flags.writeable
    np.save(path, zero_d(recording()))
    assert_same(loading.load(path), recording())
    objects = np.array([["a", 1], [None, 2.5]], object)
    np.save(path, objects)
    assert_same(loading.load(path), objects)


def test_torch_files(tmp_path):
    path = tmp_path / "test.pt"
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "plain": base,
        "view": base[1:, ::2].T,
        "double": base.double(),
        "ints": base.long(),
        "flags": base > 3,
        "complex": torch.tensor([1 + 2j]),
        "half": base.half(),
        "none": torch.zeros(0, 3),
        "single": torch.tensor(2.5),
        "tied": [base, torch.nn.Parameter(base)],
    }
    torch.save(tensors, path)
    expected = torch.utils._pytree.tree_map(lambda t: t.detach().numpy(), torch.load(path, weights_only=True))
    assert_same(loading.load(path), expected)

    torch.save({"b": base.bfloat16() / 3}, path)
    np.testing.assert_array_equal(loading.load(path)["b"], (base.bfloat16() / 3).float().numpy())

    torch.save(torch.nn.Linear(2, 3).state_dict(), path)
    assert list(loading.load(path)) == ["weight", "bias"]


@pytest.mark.parametrize("protocol", [2, 5])
def test_torch_files_of_numpy_arrays(tmp_path, protocol):
    """UBP's layout, which weights_only refuses."""
    path = tmp_path / "train.pt"
    data = {"eeg": np.ones((3, 4, 50, 100), np.float16), "img": np.array([["a", "b"]]), "times": torch.arange(3)}
    torch.save(data, path, pickle_protocol=protocol)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert_same(loading.load(path), {**data, "times": np.arange(3)})


def test_python_types_of_old_files(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(collections.OrderedDict(a=1, b=[2])))
    assert_same(loading.load(path), {"a": 1, "b": [2]})
    old = pickle.dumps(np.arange(3), 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path.write_bytes(old)
    assert_same(loading.load(path), np.arange(3))


def test_mapped_arrays(tmp_path):
    path = tmp_path / "raw.npy"
    data = {"x": np.random.default_rng(0).standard_normal((8, 50_000)), "ch_names": ["a"]}
    np.save(path, zero_d(data))
    before = path.read_bytes()
    tracemalloc.start()
    mapped = loading.load(path, mmap=True)
    assert tracemalloc.get_traced_memory()[1] < data["x"].nbytes / 10
    tracemalloc.stop()
    assert_same(mapped, data)
    mapped["x"] *= 2  # a private copy
    assert path.read_bytes() == before


def test_one_copy_in_memory(tmp_path):
    path = tmp_path / "raw.npy"
    x = np.zeros((64, 200_000))
    for data, name in [({"x": x}, "object"), (x, "plain")]:
        np.save(path, zero_d(data) if name == "object" else data)
        tracemalloc.start()
        loading.load(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1.02 * x.nbytes, name
    torch.save({"x": torch.from_numpy(x)}, path)
    tracemalloc.start()
    loading.load(path)
    assert tracemalloc.get_traced_memory()[1] < 1.05 * x.nbytes
    tracemalloc.stop()
