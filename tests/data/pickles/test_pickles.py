"""Data comes through the door whatever wrote it; code, bombs and broken files do not."""

from __future__ import annotations

import collections
import contextlib
import datetime
import io
import math
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from hvf.config import HvfError
from hvf.data.pickles import loading

RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\n"
EMPTY_ARRAY = RECONSTRUCT + b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R"


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, np.ndarray) and a.dtype == object:
        assert a.shape == b.shape
        assert_same(a.ravel().tolist(), b.ravel().tolist())
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b or (math.isnan(a) and math.isnan(b))


def zero_d(obj):
    array = np.empty((), object)
    array[()] = obj
    return array


def recording():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 2000)).astype(np.float32)
    return {"raw_eeg_data": x, "ch_names": ["Fp1", "Pz", "stim"], "sfreq": 1000, "highpass": 0.01, "lowpass": None}


def everything():
    """All that may be in a file."""
    x = np.arange(24.0).reshape(2, 3, 4)
    return {
        "arrays": [x, x.astype(">f4"), np.asfortranarray(x), x.transpose(1, 0, 2), x[:, :0], np.float16(x)],
        "kinds": [np.array([True, False]), np.array([1 + 2j]), np.array(["ä", "img"]), np.array([b"ab", b"c"]), x > 3],
        "objects": np.array([[1, "a", None], [x, {"k": 1.5}, [2]]], object),
        "scalars": (np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("s"), x.dtype, np.dtype(">i2")),
        "plain": [0, -1, 255, 65536, 2**40, -(2**63), 2**64 - 1, 1.5, -1e300, math.inf, math.nan, True, False, None],
        "text": ["", "Oz", "ä€😀", "\ud800", "line\nbreak\\u", "x" * 70_000, b"", b"\xff\x00", b"y" * 70_000],
        "nested": ({}, [], (), ((1,), [{"k": (2,)}])),
        3: "three",
        (1, "pair"): 2,
        None: 0,
        np.int64(7): 1,
        "twice": [x, x],
    }


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


class Runs:
    def __init__(self, call, *args):
        self.call = (call, args)

    def __reduce__(self):
        return self.call


def code(tmp_path):
    """Pickles that run something; each leaves a file where it could."""
    mark = tmp_path / "ran"
    command = f"open({str(mark)!r}, 'w').close()"
    calls = {
        "os.system": Runs(os.system, f"touch {mark}"),
        "eval": Runs(eval, command),
        "exec": Runs(exec, command),
        "subprocess": Runs(subprocess.getoutput, f"touch {mark}"),
        "getattr": Runs(getattr, "text", "upper"),
        "open": Runs(open, str(mark), "w"),
        "fromfile": Runs(np.fromfile, str(tmp_path / "x")),
        "np.load": Runs(np.load, str(tmp_path / "x")),
        "torch.load": Runs(torch.load, str(tmp_path / "x")),
        "bytearray": Runs(bytearray, 10**12),
        "bytes": Runs(bytes, 10**12),
        "range": Runs(range, 10**12),
        "class": Runs.__new__(Runs),
        "function": os.system,
        "builtin type": int,
        "array type": np.ndarray,
        "set": {1, 2},
        "date": datetime.date(2020, 1, 1),
        "subclass": np.ma.masked_array([1]),
    }
    calls["class"].call = (Runs, (print,))
    return mark, calls


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


def header(text, version=1):
    width = "<H" if version == 1 else "<I"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack(width, len(text)) + text


def described(descr="'<f8'", shape="(1,)", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()


HEADERS = {
    "code": header(b"__import__('os').system('true')"),
    "deep parentheses": header(b"(" * 9000),
    "deep minus signs": header(b"-" * 9000 + b"1"),
    "deep lists": header(b"[" * 60_000),
    "announced beyond the file": header(b"{}", 2)[:8] + b"\xff\xff\xff\x7f{}",
    "a giant shape": header(described(shape="(10**9,)".replace("10**9", "1000000000"))) + bytes(8),
    "a shape of a thousand digits": header(described(shape="(" + "9" * 1000 + ",)")),
    "a shape of ten thousand bits": header(described(shape="(0x" + "f" * 2500 + ",)")),
    "a negative shape": header(described(shape="(-1,)")) + bytes(8),
    "no shape": header(described(shape="None")) + bytes(8),
    "a flag as shape": header(described(shape="(True,)")) + bytes(8),
    "a truncated array": header(described(shape="(4,)")) + bytes(24),
    "more than the array": header(described()) + bytes(24),
    "fields": header(described("[('a', '<f8')]")) + bytes(8),
    "giant strings": header(described("'<U2000000000'")) + bytes(8),
    "empty strings": header(described("'<U0'", "(1000000000,)")),
    "bytes as dtype": header(described("b'<f8'")) + bytes(8),
    "dates": header(described("'<M8[s]'")) + bytes(8),
    "missing keys": header(b"{'descr': '<f8'}") + bytes(8),
    "no dict": header(b"[1, 2]") + bytes(8),
    "version 9": header(described(), 9) + bytes(8),
    "characters that are none": header(described("'<U1'")) + b"\xff\xff\xff\xff",
    "booleans that are none": header(described("'|b1'")) + b"\x07",
    "another shape than the pickle's": header(described("'|O'", "(3,)")) + pickle.dumps(zero_d({})),
    "magic alone": b"\x93NUMPY",
}


@pytest.mark.parametrize("name", HEADERS)
def test_npy_headers(tmp_path, name):
    path = tmp_path / "x.npy"
    path.write_bytes(HEADERS[name])
    with pytest.raises(HvfError, match="broken|dtype"):
        loading.load(path)


def rezip(source, change=lambda name, data: data, compression=zipfile.ZIP_STORED):
    """The archive `source` again, with each member through `change`."""
    target = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for info in old.infolist():
            data = change(info.filename, old.read(info))
            if data is not None:
                new.writestr(info.filename, data)
    return target.getvalue()


def test_torch_archives_that_lie(tmp_path):
    good, path = tmp_path / "good.pt", tmp_path / "evil.pt"
    torch.save({"x": torch.arange(6, dtype=torch.float32)}, good)

    def in_pickle(old, new):
        return rezip(good, lambda name, data: data.replace(old, new) if name.endswith("data.pkl") else data)

    path.write_bytes(rezip(good))
    assert_same(loading.load(path), {"x": np.arange(6, dtype=np.float32)})
    size, strides = b"K\x06\x85q\x08", b"K\x01\x85q\x09"
    assert size in good.read_bytes()
    assert strides in good.read_bytes()
    evil = {
        "a bomb": rezip(good, lambda name, data: bytes(10**7) if "data/" in name else data, zipfile.ZIP_DEFLATED),
        "more items than stored": in_pickle(size, b"\x8a\x05\x00\x00\x00\x00\x10\x85q\x08"),
        "expanded by stride 0": in_pickle(size + strides, b"J\x00\x00\x00\x40\x85q\x08K\x00\x85q\x09"),
        "strides beyond": in_pickle(strides, b"M\x00\x10\x85q\x09"),
        "negative strides": in_pickle(strides, b"J\xff\xff\xff\xff\x85q\x09"),
        "giant strides": in_pickle(strides, b"\x8a\x09" + b"\x7f" * 9 + b"\x85q\x09"),
        "fewer dimensions": in_pickle(strides, b")q\x09"),
        "another storage": in_pickle(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x007"),
        "a path for a storage": in_pickle(b"X\x01\x00\x00\x000", b"X\x0b\x00\x00\x00/etc/passwd"),
        "another dtype": in_pickle(b"FloatStorage", b"DoubleStorage"),
        "an unknown storage": in_pickle(b"FloatStorage", b"QUInt8Storage"),
        "a storage that is missing": rezip(good, lambda name, data: None if "data/" in name else data),
        "a short storage": rezip(good, lambda name, data: data[:-4] if name.endswith("data/0") else data),
        "no pickle": rezip(good, lambda name, data: None if name.endswith(".pkl") else data),
        "a changed value": good.read_bytes().replace(struct.pack("<f", 5.0), struct.pack("<f", 7.0)),
        "a truncated archive": good.read_bytes()[:-30],
        "half an archive": good.read_bytes()[: good.stat().st_size // 2],
    }
    for name, data in evil.items():
        path.write_bytes(data)
        tracemalloc.start()
        with pytest.raises(HvfError) as error:
            loading.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22, name
        tracemalloc.stop()
        assert "\n" not in str(error.value), name


def test_other_files(tmp_path):
    path = tmp_path / "x"
    np.savez(tmp_path / "x.npz", a=np.ones(2))
    torch.save(torch.ones(2), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name, words in {"x.npz": "not one that torch.save wrote", "old.pt": "before 1.6"}.items():
        with pytest.raises(HvfError, match=words):
            loading.load(tmp_path / name)
    for data in (b"", b"\x00", b"hello, world", b"\x89PNG\r\n", b"PK\x03\x04", b"\x80", b"\x80\x09N.", b"N.N.", b"(."):
        path.write_bytes(data)
        with pytest.raises(HvfError, match="broken|no pickle"):
            loading.load(path)
    with pytest.raises(HvfError, match="cannot read"):
        loading.load(tmp_path / "absent.npy")
    with pytest.raises(HvfError, match="cannot read"):
        loading.load(tmp_path)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, zero_d({"x": np.arange(5.0), "names": ["a", "b"]}))
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(HvfError):
            loading.load(path)


def test_random_damage_is_refused_or_read(tmp_path):
    """Nothing but HvfError comes out, whatever the bytes are."""
    rng = np.random.default_rng(0)
    path = tmp_path / "x"
    sources = [pickle.dumps(everything()["objects"], protocol) for protocol in (0, 2, 5)]
    for write in (lambda f: np.save(f, zero_d({"x": np.ones(3)})), lambda f: torch.save({"x": torch.ones(3)}, f)):
        buffer = io.BytesIO()
        write(buffer)
        sources.append(buffer.getvalue())
    read = 0
    for _ in range(400):
        data = bytearray(sources[rng.integers(len(sources))])
        for _ in range(rng.integers(1, 5)):
            data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(HvfError):
            loading.load(path)
            read += 1
    assert 0 < read < 150


def test_budget_can_be_set(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros(1000))
    with pytest.raises(HvfError, match="max_bytes"):
        loading.load(path, max_bytes=7000)
    assert len(loading.load(path, max_bytes=8000)) == 1000


def test_nothing_of_the_file_is_imported(tmp_path):
    """A name in a file does not even load its module."""
    path = tmp_path / "x.pkl"
    path.write_bytes(b"cantigravity\nfly\n)R.")
    script = f"""
import sys
from hvf.data.pickles import loading
try:
    loading.load({str(path)!r})
except loading.HvfError as error:
    print("antigravity" in sys.modules, "torch" in sys.modules, error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False False")
    assert "antigravity.fly" in done.stdout
