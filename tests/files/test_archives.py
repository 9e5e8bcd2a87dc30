"""Zips and budgets: members are counted, must lie apart and unpack to what their budget allows."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from hvf.data.images.image_set import open_images
from hvf.data.images.sources import open_image_source
from hvf.files.archives import check_arrays, open_zip, read_member
from hvf.files.budgets import BUDGETS, PICTURE, PIXELS
from hvf.pickles.loading import load
from hvf.registry import HvfError
from hvf.vision.embedding_files import read_content
from hvf.vision.weights import read_state


def zipped(path: Path, members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def changed(path: Path, at: int, new: bytes) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[:at] + new + data[at + len(new) :])
    return path


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_right_members_are_read(tmp_path, how):
    path = zipped(tmp_path / "a.zip", {"a": b"x" * 1000, "b": b"", "c/": b""}, how)
    with open_zip(path) as archive:
        assert read_member(archive, "a", PICTURE) == b"x" * 1000
        assert read_member(archive, "b", PICTURE) == b""


def test_a_zip_behind_other_data_is_read(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a": b"x", "b": b"y"})
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    with open_zip(path) as archive:
        assert read_member(archive, "b", PICTURE) == b"y"


def test_a_zip_of_a_later_version_is_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a.png": b"x"})
    changed(path, path.read_bytes().index(b"PK\x01\x02") + 6, b"\xff")
    with pytest.raises(zipfile.BadZipFile, match="version"):
        open_zip(path)
    for read in (open_images, lambda p: open_image_source(p)):
        with pytest.raises(HvfError, match="version"):
            read(path)


def test_members_at_one_place_are_refused(tmp_path):
    """Many entries of the directory name one local member."""
    path = zipped(tmp_path / "a.zip", {"a": b"x" * 100, "b": b"y" * 100}, zipfile.ZIP_STORED)
    data = path.read_bytes()
    second = data.rindex(b"PK\x01\x02")
    changed(path, second + 42, struct.pack("<I", 0))
    with pytest.raises(zipfile.BadZipFile, match="reaches into"):
        open_zip(path)


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    path = zipped(tmp_path / "a.zip", {f"{i}": b"" for i in range(50)})
    monkeypatch.setenv("HVF_MAX_MEMBERS", "50")
    open_zip(path).close()
    monkeypatch.setenv("HVF_MAX_MEMBERS", "49")
    with pytest.raises(zipfile.BadZipFile, match="50 files, more than 49; .*HVF_MAX_MEMBERS"):
        open_zip(path)


def test_a_member_above_its_budget_is_refused_by_what_it_says_and_holds(tmp_path, monkeypatch):
    path = zipped(tmp_path / "a.zip", {"a": bytes(5000)})
    monkeypatch.setenv("HVF_MAX_PICTURE_BYTES", "4999")
    with open_zip(path) as archive, pytest.raises(zipfile.BadZipFile, match=r"0\.005 MB.*HVF_MAX_PICTURE_BYTES"):
        read_member(archive, "a", PICTURE)
    changed(path, path.read_bytes().index(b"PK\x01\x02") + 24, struct.pack("<I", 10))  # it says 10 bytes
    with open_zip(path) as archive, pytest.raises(zipfile.BadZipFile, match="CRC"):
        read_member(archive, "a", PICTURE)


def test_arrays_that_unpack_to_far_more_are_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(10**6))
    check_arrays(tmp_path / "a.npz")  # below 256 MB nothing is said
    monkeypatch.setattr("hvf.files.budgets.FREE", 2**20)
    for read in (check_arrays, read_state, lambda p: read_content(p, None)):
        with pytest.raises(HvfError, match=r"unpacks from 0\.\d+ MB to 8 MB; .*HVF_MAX_RATIO"):
            read(tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "b.npz", x=np.random.default_rng(0).standard_normal(10**6))
    check_arrays(tmp_path / "b.npz")
    torch.save(torch.zeros(10**6), buffer := io.BytesIO())
    with zipfile.ZipFile(buffer) as whole:  # packed, which torch unpacks without asking
        zipped(tmp_path / "a.pt", {name: whole.read(name) for name in whole.namelist()})
    for read in (read_state, lambda p: read_content(p, None)):
        with pytest.raises(HvfError, match="unpacks from"):
            read(tmp_path / "a.pt")


@pytest.mark.parametrize("collide", [False, True])
def test_pickles_whose_keys_share_a_hash_are_refused(tmp_path, collide):
    """5,000 complex numbers: re + 1000003 im is one number for all, or not."""
    keys = [complex(float(-1000003 * i) if collide else float(i), float(i)) for i in range(1, 5_001)]
    assert (len({hash(key) for key in keys}) == 1) == collide
    scalars = [np.complex128(key) for key in keys]
    np.save(tmp_path / "a.npy", np.array(dict.fromkeys(scalars[: 100 if collide else None]), dtype=object))
    assert len(load(tmp_path / "a.npy")) == (100 if collide else 5_000)
    if collide:
        data = bytearray(b"\x80\x02cnumpy.core.multiarray\nscalar\nq\x000")
        data += b"cnumpy\ndtype\nX\x03\x00\x00\x00c16K\x00K\x01\x87R"
        data += b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbq\x010}("
        for key in keys:
            data += b"h\x00h\x01C\x10" + struct.pack("<dd", key.real, key.imag) + b"\x86RN"
        (tmp_path / "b.pkl").write_bytes(bytes(data) + b"u.")
        with pytest.raises(HvfError, match="keys of one hash"):
            load(tmp_path / "b.pkl")


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: budget.variable)
@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "many"])
def test_a_budget_is_a_number_above_zero(budget, text, monkeypatch):
    assert budget() == budget.usual
    monkeypatch.setenv(budget.variable, "12.5")
    assert budget() == 12.5
    monkeypatch.setenv(budget.variable, text)
    with pytest.raises(HvfError, match=budget.variable):
        budget()


def test_every_budget_is_described():
    text = (Path(__file__).resolve().parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
    for budget in BUDGETS:
        assert f"`{budget.variable}`" in text
    assert f"{PIXELS.usual:,.0f}" in text
