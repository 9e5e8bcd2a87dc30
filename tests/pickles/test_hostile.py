"""Code and bombs do not come through the door."""

from __future__ import annotations

import contextlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from hvf.config import HvfError
from hvf.pickles import loading
from tests.pickles.written import code, zero_d

RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\n"


EMPTY_ARRAY = RECONSTRUCT + b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R"


def test_code_is_refused_and_never_runs(tmp_path):
    mark, calls = code(tmp_path)
    path = tmp_path / "evil.npy"
    for name, call in calls.items():
        for protocol in range(6):
            for payload in ({"x": call}, [np.ones(2), call]):
                path.write_bytes(pickle.dumps(payload, protocol))
                with pytest.raises(HvfError, match="nothing was run") as error:
                    loading.load(path)
                assert str(path) in str(error.value), name
        np.save(path, zero_d({"x": call}))
        with pytest.raises(HvfError, match="nothing was run"):
            loading.load(path)
        torch.save({"x": torch.ones(2), "y": call}, path)
        with pytest.raises(HvfError, match="nothing was run"):
            loading.load(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(calls["os.system"]))  # the control: it would have run
    assert mark.exists()


ALLOWED_NAMES_WRONG_ARGUMENTS = {
    "array of another class": RECONSTRUCT + b"cbuiltins\nlist\nK\x00\x85C\x01b\x87R.",
    "array with a giant shape": RECONSTRUCT + b"cnumpy\nndarray\n\x8a\x05\x00\x00\x00\x00\x10\x85C\x01b\x87R.",
    "array of objects": RECONSTRUCT + b"cnumpy\nndarray\nK\x09\x85C\x01O\x87R.",
    "dtype of a dict": b"cnumpy\ndtype\n}\x85R.",
    "dtype with code-like text": b"cnumpy\ndtype\n\x8c\x0a__import__\x89\x88\x87R.",
    "dtype of many fields": b"cnumpy\ndtype\n\x8c\x0bi4,i4,i4,i4\x89\x88\x87R.",
    "dtype with subarrays": b"cnumpy\ndtype\n\x8c\x0f(1000000000,)i8\x89\x88\x87R.",
    "dtype of giant strings": b"cnumpy\ndtype\n\x8c\x0bU2000000000\x89\x88\x87R.",
    "dtype of nothing": b"cnumpy\ndtype\n\x8c\x02U0\x89\x88\x87R.",
    "encode with another codec": b"c_codecs\nencode\n\x8c\x01ax\x05\x00\x00\x00rot13\x86R.".replace(b"x\x05", b"X\x05"),
    "encode to zip": b"c_codecs\nencode\n\x8c\x01aX\x03\x00\x00\x00zip\x86R.",
    "encode with an error handler": b"c_codecs\nencode\n\x8c\x01a\x8c\x06latin1\x8c\x06ignore\x87R.",
    "decode instead": b"c_codecs\ndecode\nC\x01a\x85R.",
    "scalar of objects": b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\n\x8c\x02O8\x89\x88\x87RC\x0812345678\x86R.",
    "names nested in names": b"\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
    "a name that is no text": b"K\x01K\x02\x93.",
    "an instance by INST": b"(ios\nsystem\n.",
    "an instance by OBJ": b"(cnumpy\nndarray\no.",
    "an instance by NEWOBJ": b"cnumpy\nndarray\n)\x81.",
    "an extension code": b"\x82\x01.",
    "a persistent id outside of an archive": b"X\x07\x00\x00\x00storageQ.",
    "a state for a dict": b"}}b.",
    "a state for an array that has one": EMPTY_ARRAY + b"N}b.",
    "a callable that is data": b"K\x01)R.",
    "an argument that is an array": b"c_codecs\nencode\n\x8c\x01a" + EMPTY_ARRAY + b"\x86R.",
    "an out-of-band buffer": b"\x97.",
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED_NAMES_WRONG_ARGUMENTS)
def test_allowed_names_with_other_arguments(tmp_path, name):
    path = tmp_path / "evil.pkl"
    path.write_bytes(ALLOWED_NAMES_WRONG_ARGUMENTS[name])
    with pytest.raises(HvfError, match="nothing was run|broken"):
        loading.load(path)


def frombuffer(shape, data=b"12345678", dtype=b"f8"):
    return (
        b"cnumpy._core.numeric\n_frombuffer\n(\x96" + struct.pack("<Q", len(data)) + data + b"cnumpy\ndtype\n\x8c"
        + bytes([len(dtype)]) + dtype + b"\x89\x88\x87R" + pickle.dumps(shape, 2)[2:-1].replace(b"q\x00", b"")
        + b"\x8c\x01CtR."
    )  # fmt: skip


def array_state(shape, data, dtype=b"f8"):
    return (
        EMPTY_ARRAY + b"(K\x01" + pickle.dumps(shape, 2)[2:-1].replace(b"q\x00", b"") + b"cnumpy\ndtype\n\x8c"
        + bytes([len(dtype)]) + dtype + b"\x89\x88\x87R\x89" + data + b"tb."
    )  # fmt: skip


@contextlib.contextmanager
def limited(n):
    """More than `n` bytes beyond what is in use cannot be had."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + n, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_the_limit_of_the_next_test_holds(tmp_path):
    with limited(2**26), pytest.raises(MemoryError):
        bytes(2**27)


LAUGHS = b"]q\x00(K\x01K\x01e" + b"".join(
    b"]q" + bytes([i]) + b"(" + (b"h" + bytes([i - 1])) * 10 + b"e" for i in range(1, 40)
)


BOMBS = {
    "lists of the same list": LAUGHS + b".",
    "tuples of the same tuple": b"K\x01" + b"22\x87" * 40 + b".",
    "a long text, many times": b"X" + struct.pack("<I", 2**20) + b"a" * 2**20 + b"q\x00](" + b"h\x00" * 10**4 + b"e.",
    "an array, many times": frombuffer((2**17,), bytes(2**20))[:-1] + b"q\x00](" + b"h\x00" * 10**4 + b"e.",
    "many arrays of one payload": b"C\x08" + bytes(8) + b"q\x00" + b"B" + struct.pack("<I", 2**20) + bytes(2**20)
    + b"q\x01]" + (EMPTY_ARRAY + b"(K\x01M\x00\x40M\x00\x00\x86\x30M\x00\x01\x85cnumpy\ndtype\n\x8c\x02S1\x89\x88\x87R"
    b"\x89h\x01tba") * 2000 + b".",
    "a giant memo index": b"Nr\xff\xff\xff\x7f.",
    "a giant memo index as text": b"Np999999999999\n.",
    "many empty lists": b"](" + b"]" * 100_000 + b"e.",
    "many empty dicts": b"](" + b"}" * 100_000 + b"e.",
    "many memo entries": b"N" + b"\x94" * 600_000 + b".",
    "a long of 2 GB": b"\x8b\xff\xff\xff\x7f" + bytes(100) + b".",
    "a long of 200 digits": b"\x8a\x55" + b"\x01" * 0x55 + b".",
    "a long of negative length": b"\x8b\xff\xff\xff\xff.",
    "a text of 10**6 digits": b"L" + b"9" * 10**6 + b"L\n.",
    "bytes beyond the file": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f12.",
    "bytes of 2**64": b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff12.",
    "a bytearray beyond the file": b"\x96\x00\x00\x00\x00\x10\x00\x00\x0012.",
    "text beyond the file": b"\x8d\x00\x00\x00\x00\x10\x00\x00\x0012.",
    "a frame beyond the file": b"\x80\x04\x95\x00\x00\x00\x00\x10\x00\x00\x00N.",
    "a giant shape": frombuffer((2**40, 2**40)),
    "a shape beyond its bytes": frombuffer((2**30,)),
    "a negative shape": frombuffer((-1,)),
    "an empty array of giant axes": frombuffer((0, 2**46), b""),
    "an array of 2**46 empty strings": frombuffer((2**46,), b"", b"U0"),
    "an array state beyond its bytes": array_state((2**40,), b"C\x0812345678"),
    "an array of objects beyond its list": array_state((2**40,), b"]", b"O8"),
    "array items of 20 MB": frombuffer((1,), b"12345678", b"U5000000"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_allocation_without_end(tmp_path, name):
    path = tmp_path / "bomb.pkl"
    path.write_bytes(BOMBS[name])
    with limited(2**26), pytest.raises(HvfError, match="far more memory|broken|whole number|dtype"):
        loading.load(path, max_bytes=2**22)


NESTED = {
    "lists": b"]" * 50_000 + b"a" * 49_999 + b".",
    "tuples": b")" + b"\x85" * 50_000 + b".",
    "tuples as keys": b"})" + b"\x85" * 50_000 + b"Ns.",
    "dicts": b"}" + b"K\x01}" * 50_000 + b"s" * 50_000 + b".",
    "marks": b"(" * 50_000 + b"N" + b"t" * 50_000 + b".",
    "a list in itself": b"]q\x00h\x00a.",
    "a dict in itself": b"}q\x00K\x01h\x00s.",
    "a list in itself, often": b"]q\x00(" + b"h\x00" * 1000 + b"e.",
    "an array in itself": EMPTY_ARRAY + b"q\x00(K\x01K\x01\x85cnumpy\ndtype\n\x8c\x02O8\x89\x88\x87R\x89]h\x00atb.",
    "deep by sharing": b"]q\x00" + b"]q\x01h\x00a" + b"".join(
        b"]q" + bytes([i]) + b"h" + bytes([i - 1]) + b"a" for i in range(2, 70)
    ) + b".",
}  # fmt: skip


@pytest.mark.parametrize("name", NESTED)
def test_nesting_without_end(tmp_path, name):
    path = tmp_path / "nested.pkl"
    path.write_bytes(NESTED[name])
    with pytest.raises(HvfError, match="levels deep|neither a string nor a number"):
        loading.load(path)


def test_modest_nesting_passes(tmp_path):
    path = tmp_path / "nested.pkl"
    path.write_bytes(b"]" * 60 + b"a" * 59 + b".")
    assert isinstance(loading.load(path), list)
