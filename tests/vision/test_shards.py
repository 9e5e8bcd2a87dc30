"""Shards of latents and features: whole or absent, the same after a resume, and damage is named."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from hvf.config import HvfError
from hvf.vision import shards
from hvf.vision.shards import Settings, open_shards
from tests.leftovers import left_by_a_dead_process

N, SIZE = 23, 8
ENCODERS = {"vae:mini": {"dim": 6, "weights_hash": "aa"}, "openclip:mini-vit": {"dim": 3, "weights_hash": "bb"}}
SETTINGS = Settings("pictures", "f00d", N, "vae:mini", ENCODERS, SIZE)


def content() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {spec: rng.normal(size=(N, one["dim"])).astype(np.float32) for spec, one in ENCODERS.items()}


def write(folder, number: int, settings: Settings = SETTINGS, times: float = 1) -> None:
    rows = settings.rows(number)
    features = {spec: times * x[rows.start : rows.stop] for spec, x in content().items()}
    shards.write_shard(folder, settings, number, [f"id{i}" for i in rows], [f"c{i % 4}" for i in rows], features)


@pytest.fixture
def folder(tmp_path):
    shards.start(tmp_path / "it", SETTINGS)
    for number in range(SETTINGS.shards):
        write(tmp_path / "it", number)
    shards.finish(tmp_path / "it", SETTINGS)
    return tmp_path / "it"


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_what_was_written_is_read_in_any_order(folder):
    read = open_shards(folder)
    assert (len(read), read.settings.latents, read.specs) == (N, "vae:mini", tuple(ENCODERS))
    assert read.ids == [f"id{i}" for i in range(N)]
    assert read.concepts == [f"c{i % 4}" for i in range(N)]
    rows = np.array([22, 0, 9, 8, 7, 0, 15])
    batch = read.batch(rows)
    for spec, x in content().items():
        assert batch[spec].dtype == np.float32
        np.testing.assert_array_equal(batch[spec], x[rows].astype(np.float16).astype(np.float32))
    assert read.batch(np.array([], int))["vae:mini"].shape == (0, 6)
    for wrong in (-1, N):
        with pytest.raises(IndexError):
            read.batch(np.array([0, wrong]))
    read.check()


def test_the_digest_is_that_of_what_is_in_the_shards_wherever_they_lie(folder, tmp_path):
    before = open_shards(folder).digest
    assert open_shards(folder.rename(tmp_path / "elsewhere")).digest == before
    shards.start(folder, SETTINGS)
    for number in range(SETTINGS.shards):
        write(folder, number, times=2 if number == 1 else 1)
    shards.finish(folder, SETTINGS)
    assert open_shards(folder).digest != before


def test_a_killed_preparation_goes_on_to_the_same_folder(folder, tmp_path):
    again = tmp_path / "again"
    shards.start(again, SETTINGS)
    write(again, 1)
    left_by_a_dead_process(again / "shard-00000.arrow")
    assert shards.missing(again, SETTINGS) == [0, 2]
    with pytest.raises(HvfError, match="not complete: 2 of 3 shards are to come"):
        open_shards(again)
    with pytest.raises(HvfError, match="lacks 2 of 3 shards"):
        shards.finish(again, SETTINGS)
    shards.start(again, SETTINGS)
    before = (again / "shard-00001.arrow").stat().st_mtime_ns
    for number in shards.missing(again, SETTINGS):
        write(again, number)
    shards.finish(again, SETTINGS)
    assert (again / "shard-00001.arrow").stat().st_mtime_ns == before
    assert files(again) == files(folder)
    shards.start(again, SETTINGS)  # a third time, nothing to do
    shards.finish(again, SETTINGS)
    assert files(again) == files(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fingerprint": "beef"}, "fingerprint = f00d, not beef"),
        ({"shard_size": 4}, "shard_size = 8, not 4"),
        ({"encoders": ENCODERS | {"vae:mini": {"dim": 6, "weights_hash": "cc"}}}, "encoders = vae:mini .*aa.*not.*cc"),
        ({"encoders": {"vae:mini": ENCODERS["vae:mini"]}}, "openclip:mini-vit .*not absent"),
    ],
)
def test_other_settings_are_refused(folder, change, said):
    before = files(folder)
    with pytest.raises(HvfError, match=said):
        shards.start(folder, dataclasses.replace(SETTINGS, **change))
    assert files(folder) == before


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(HvfError, match="holds no prepared images: choose another"):
        shards.start(tmp_path, SETTINGS)
    with pytest.raises(HvfError, match="make them with prior_training/prepare.py"):
        open_shards(tmp_path)
    with pytest.raises(HvfError, match="make them with"):
        open_shards(tmp_path / "nothing")


def test_damage_is_named(folder):
    path = folder / "shard-00001.arrow"
    whole = path.read_bytes()
    at = whole.index(content()["vae:mini"][8].astype(np.float16).tobytes())
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(HvfError, match=r"shard-00001.arrow is damaged: its content"):
        open_shards(folder)
    assert shards.missing(folder, SETTINGS) == [1]  # and is made again
    path.write_bytes(whole[:-20])
    with pytest.raises(HvfError, match=r"shard-00001.arrow is damaged: \d+ bytes, not"):
        open_shards(folder)
    assert shards.missing(folder, SETTINGS) == [1]
    path.write_bytes((folder / "shard-00000.arrow").read_bytes())
    with pytest.raises(HvfError, match="belongs to other settings|bytes"):
        open_shards(folder)
    path.unlink()
    with pytest.raises(HvfError, match="shard-00001.arrow is missing"):
        open_shards(folder)
    path.write_bytes(whole)
    open_shards(folder).check()
    index = folder / "index.json"
    whole_index = json.loads(index.read_text())
    index.write_text(index.read_text()[:-40])
    with pytest.raises(HvfError, match="index.json cannot be read"):
        open_shards(folder)
    index.write_text(json.dumps({**whole_index, "format": "hvf-shards-0"}))
    with pytest.raises(HvfError, match="format 'hvf-shards-0'"):
        open_shards(folder)


def test_numbers_that_float16_cannot_hold_are_refused(tmp_path):
    shards.start(tmp_path / "it", SETTINGS)
    features = {spec: x[:SIZE] for spec, x in content().items()}
    for value in (np.nan, 1e6):
        features["vae:mini"][3, 2] = value
        with pytest.raises(HvfError, match="vae:mini of image 'id3' is not finite, or too large"):
            shards.write_shard(tmp_path / "it", SETTINGS, 0, [f"id{i}" for i in range(8)], ["c"] * 8, features)
    assert [path.name for path in (tmp_path / "it").iterdir()] == ["index.json"]
