"""Checksums: taken once of large files, anew when a file changes; arrays and words that vouch for themselves."""

from __future__ import annotations

import hashlib
import os
import time
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from hvf.config import HvfError
from hvf.files import checksums
from hvf.files.checksums import LARGE, check_zip, known_sha256, sha256_of
from hvf.files.npy import PickledObjects, npy_header, read_npy
from hvf.files.tensors import read_tensors, write_tensors


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HVF_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def read(monkeypatch):
    """The files that were read for their checksum."""
    real, files = checksums.sha256_of, []
    monkeypatch.setattr(checksums, "sha256_of", lambda path, begin=0: (files.append(path.name), real(path, begin))[1])
    return files


def test_a_large_file_is_read_once_and_again_when_it_changes(tmp_path, read):
    path, data = tmp_path / "x.bin", bytes(range(256)) * (LARGE // 256 + 1)
    path.write_bytes(data)
    time.sleep(0.15)  # just written, it could be written again within a tick of the clock
    assert {known_sha256(path) for _ in range(3)} == {hashlib.sha256(data).hexdigest()}
    assert read == ["x.bin"]
    assert known_sha256(path, 100) == hashlib.sha256(data[100:]).hexdigest()
    before = path.stat()
    path.write_bytes(b"other" + data[5:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as copying programs do
    assert known_sha256(path) == hashlib.sha256(b"other" + data[5:]).hexdigest()


def test_of_a_file_that_was_written_just_now_nothing_is_kept(tmp_path, read):
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(LARGE))
    known_sha256(path)
    known_sha256(path)
    assert read == ["x.bin", "x.bin"]


@pytest.mark.parametrize("of", [np.array, torch.tensor])
def test_tensors_vouch_for_names_numbers_and_words(tmp_path, of):
    path = tmp_path / "x.safetensors"
    tensors = {"a": of([[1.0, 2.0]]), "b": of([[3.0, 4.0]]), "n": of(7), "empty": of([])}
    write_tensors(path, tensors, {"said": {"by": "Ann"}, "nan": float("nan")})
    framework = "np" if of is np.array else "pt"
    found, about = read_tensors(path, framework)
    assert {name: x.tolist() for name, x in found.items()} == {name: x.tolist() for name, x in tensors.items()}
    assert about["said"] == {"by": "Ann"}
    whole = path.read_bytes()
    exchanged = whole.replace(b'"a":', b'"q":').replace(b'"b":', b'"a":').replace(b'"q":', b'"b":')
    for other in (exchanged, whole.replace(b"Ann", b"Bob"), whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]):
        assert other != whole
        path.write_bytes(other)
        with pytest.raises(HvfError, match="changed or damaged"):
            read_tensors(path, framework)


def test_tensors_of_other_programs_are_read(tmp_path):
    save_file({"a": np.ones(2)}, tmp_path / "x.safetensors", {"format": "np"})
    found, about = read_tensors(tmp_path / "x.safetensors")
    assert (found["a"].tolist(), about) == ([1.0, 1.0], {"format": "np"})
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "absent.safetensors")


def test_torch_does_not_look_at_checksums_and_we_do(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"x": torch.arange(1000.0)}, path)
    check_zip(path)
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(500).tobytes()) + 1] ^= 1
    path.write_bytes(data)
    torch.load(path, weights_only=True)
    with pytest.raises(HvfError, match="the checksum of .* is wrong"):
        check_zip(path)
    path.write_bytes(data[:500])
    with pytest.raises(HvfError, match="is damaged"):
        check_zip(path)
    assert zipfile.is_zipfile(path) is False


def header(shape: str) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "shape",
    [
        "(3, 99999999999)",
        "(0, 10000000000000000000000)",
        "(-1,)",
        "(True,)",
        "(1.5,)",
        "5",
        "(" * 50,
        "(2**9,)",
        "(99,",
    ],
)
def test_shapes_that_cannot_be(tmp_path, shape):
    path = tmp_path / "x.npy"
    path.write_bytes(header(shape) + bytes(80))
    with pytest.raises(HvfError, match="header is broken|no shape that can be|cut off") as error:
        read_npy(path)
    assert "\n" not in str(error.value)


def test_arrays_are_read_as_numpy_reads_them(tmp_path):
    path, x = tmp_path / "x.npy", np.arange(6.0).reshape(2, 3)
    for array in (x, x.T, x.astype(">f4"), np.zeros((0, 4)), np.array(3)):
        np.save(path, array)
        for mmap in (False, True):
            np.testing.assert_array_equal(read_npy(path, mmap), array)
        assert npy_header(path).shape == array.shape
    np.save(path, np.array([None]))
    with pytest.raises(PickledObjects, match="can run code"):
        read_npy(path)
    np.savez(tmp_path / "y.npz", x=x)
    os.replace(tmp_path / "y.npz", path)
    with pytest.raises(HvfError, match="several arrays"):
        read_npy(path)
    assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()
