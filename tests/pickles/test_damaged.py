"""Headers and archives that lie, truncated and damaged files: refused in one line, or read as they are."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from hvf.config import HvfError
from hvf.pickles import loading
from tests.pickles.written import assert_same, everything, zero_d


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
from hvf.pickles import loading
try:
    loading.load({str(path)!r})
except loading.HvfError as error:
    print("antigravity" in sys.modules, "torch" in sys.modules, error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False False")
    assert "antigravity.fly" in done.stdout
