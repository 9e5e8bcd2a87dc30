"""What the tests of pickles share."""

from __future__ import annotations

import datetime
import math
import os
import subprocess

import numpy as np
import torch


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
